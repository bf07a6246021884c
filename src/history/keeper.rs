//! The thread that bounds the memory of changes, reads the file of earlier ones, and writes what they
//! meant to it, and their states to others.
//!
//! Neither delays a commit. What it writes, it has to find out first, so it rests after each round for
//! many times as long as the round took, and longer if it has written much: a node with many changes
//! has a part of them in the file.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rulec_sources::{Pace, StateDir};

use super::History;
use super::change::Change;
use super::disk::{Disk, Found};
use super::entry::Entry;
use super::states::{After, Bounds, States, Written};
use crate::newest;
use crate::threads::Vital;

/// How many times as long as a round the pause after it is.
const REST: u32 = 20;

/// How many changes are written in one round.
const ROUND: usize = 64;

/// How long changes wait for those of earlier processes. Longer, and the disk hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A handle of the thread. Dropping it ends the thread after a last round.
#[derive(Debug)]
pub struct Keeper {
    changes: newest::Sender<()>,
    thread: Vital,
    /// Whether no change comes any more that the kernel has acknowledged.
    is_over: Arc<AtomicBool>,
}

impl Keeper {
    pub(super) fn start(history: History, directory: Option<StateDir>) -> anyhow::Result<Self> {
        Self::start_with(history, directory, PATIENCE, OnDisk::read)
    }

    /// Like `start`, with another patience, and another way to read what is on the disk.
    pub(super) fn start_with(
        history: History,
        directory: Option<StateDir>,
        patience: Duration,
        read: impl FnOnce(Disk, &StateDir) -> OnDisk + Send + 'static,
    ) -> anyhow::Result<Self> {
        let limits = history.lock().limits();
        let file = directory.map(|directory| {
            let disk = Disk::new(directory.path(), limits.changes);
            // A history has one keeper.
            let _ = history.states.set(directory.path().to_owned());
            File::new(disk, directory)
        });
        if file.is_some() {
            history.lock().wait();
        }
        let (changes, noted) = newest::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let worker = Worker { history, file, is_over: Arc::clone(&is_over) };
        let work = move || worker.run(&noted, patience, read);
        let thread = Vital::start("rulec-history", work)?;
        Ok(Self { changes, thread, is_over })
    }

    /// Tells the thread that there may be something to do, without waiting.
    pub fn wake(&self) {
        // If the thread has died, the daemon ends.
        self.changes.send(());
    }

    /// Resolves with an error when the thread has died.
    pub async fn death(&mut self) -> anyhow::Error {
        self.thread.death().await
    }

    /// Ends the thread after a last round, for which it waits no longer than this. All changes were
    /// noted.
    pub fn finish(self, patience: Duration) {
        let Self { changes, mut thread, is_over } = self;
        is_over.store(true, Relaxed);
        drop(changes);
        thread.wait(patience);
    }
}

struct Worker {
    history: History,
    file: Option<File>,
    is_over: Arc<AtomicBool>,
}

impl Worker {
    fn run(
        mut self,
        noted: &newest::Receiver<()>,
        patience: Duration,
        read: impl FnOnce(Disk, &StateDir) -> OnDisk + Send + 'static,
    ) {
        if let Some(file) = &mut self.file {
            file.read(&self.history, patience, read);
        }
        let mut turns = Turns::new();
        loop {
            match noted.recv(turns.pause(Instant::now())) {
                Ok(()) => turns.tell.is_due = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
            // At once, so that bursts of large changes do not take more memory than they may.
            self.history.tidy();
            self.round(&mut turns);
        }
    }

    /// Writes the rest, as far as that is possible.
    fn end(mut self) {
        let Some(file) = &mut self.file else { return };
        while file.tell(&self.history).0 && file.failures == 0 {}
        if self.is_over.load(Relaxed) {
            file.mark(&self.history);
        }
        // Each state has its change.
        while file.failures == 0 && file.state(&self.history).0 && file.unstated == 0 {}
    }

    /// Writes what is due.
    fn round(&mut self, turns: &mut Turns) {
        let Turns { tell, state } = turns;
        let Some(file) = &mut self.file else {
            (tell.is_due, state.is_due) = (false, false);
            return;
        };
        if tell.take(|| file.tell(&self.history)) {
            // Each state has its change.
            state.is_due = file.failures == 0;
        }
        state.take(|| file.state(&self.history));
    }
}

/// When what changes meant is written, and when their states are: a large state delays only the next
/// ones.
#[derive(Debug)]
struct Turns {
    tell: Turn,
    state: Turn,
}

#[derive(Debug)]
struct Turn {
    /// Whether there may be something to write.
    is_due: bool,
    /// When it may be written.
    earliest: Instant,
}

impl Turns {
    fn new() -> Self {
        let turn = || Turn { is_due: false, earliest: Instant::now() };
        Self { tell: turn(), state: turn() }
    }

    /// Returns how long there is nothing to do; `None` if nothing is due.
    fn pause(&self, now: Instant) -> Option<Duration> {
        let due = [&self.tell, &self.state].into_iter().filter(|turn| turn.is_due);
        due.map(|turn| turn.earliest.saturating_duration_since(now)).min()
    }
}

impl Turn {
    /// Writes, if it is time; returns whether it was. `write` returns whether there is more to write,
    /// and the pause before that.
    fn take(&mut self, write: impl FnOnce() -> (bool, Duration)) -> bool {
        let start = Instant::now();
        if !self.is_due || start < self.earliest {
            return false;
        }
        let pause;
        (self.is_due, pause) = write();
        self.earliest = Instant::now() + pause.max(start.elapsed() * REST);
        true
    }
}

/// What earlier processes have left.
#[derive(Debug)]
pub(super) struct OnDisk {
    disk: Disk,
    found: Found,
    states: States,
}

impl OnDisk {
    pub(super) fn read(mut disk: Disk, directory: &StateDir) -> Self {
        let mut found = disk.read();
        let (states, complaints) = States::find(directory.path(), Bounds::default());
        found.complaints.extend(complaints);
        Self { disk, found, states }
    }
}

/// The files, with how far they are.
struct File {
    disk: Disk,
    /// The states, once it is known which are there.
    states: Option<States>,
    /// Counts writes and failures.
    directory: StateDir,
    /// The number of the newest change that is in the file, and of that whose state is in another.
    written: u64,
    stated: u64,
    /// How many writes of either have failed in a row.
    failures: u32,
    unstated: u32,
}

impl File {
    fn new(disk: Disk, directory: StateDir) -> Self {
        let (written, stated, failures, unstated) = Default::default();
        Self { disk, states: None, directory, written, stated, failures, unstated }
    }

    /// Takes over what is in the files. A thread of its own reads them, because a disk that hangs
    /// cannot be waited for with a limit.
    fn read(
        &mut self,
        history: &History,
        patience: Duration,
        read: impl FnOnce(Disk, &StateDir) -> OnDisk + Send + 'static,
    ) {
        let path = self.disk.path().display().to_string();
        let changes = history.lock().limits().changes;
        let (disk, directory) = (Disk::new(self.directory.path(), changes), self.directory.clone());
        let (done, on_disk) = mpsc::channel();
        let body = move || drop(done.send(read(disk, &directory)));
        let started = thread::Builder::new().name("rulec-recall".to_owned()).spawn(body);
        if let Err(error) = started {
            tracing::warn!(path, %error, "cannot read the history, which begins anew");
            history.give_up();
            return;
        }
        let recalled = on_disk.recv_timeout(patience).ok().is_some_and(|on_disk| {
            let OnDisk { disk, found, states } = on_disk;
            if let Some(first) = found.complaints.first() {
                let more = found.complaints.len() - 1;
                tracing::warn!(
                    path,
                    more,
                    "a part of the history cannot be read and is ignored: {first}"
                );
            }
            let newest = found.changes.last().map_or(0, |(change, _)| change.id);
            let newest = newest + u64::from(!found.is_whole());
            let is_in_time = history.recall(found);
            if is_in_time {
                self.disk = disk;
                (self.written, self.stated) = (newest, newest);
            }
            self.states = Some(states);
            is_in_time
        });
        if !recalled {
            history.give_up();
            tracing::warn!(path, "reading the history took too long; it begins anew");
        }
    }

    /// Writes what changes meant. Returns whether there is more to write, and the pause before that.
    fn tell(&mut self, history: &History) -> (bool, Duration) {
        let mut changes: Vec<Arc<Change>> = Vec::new();
        let mut lost = 0;
        let mut written = self.written;
        while let Some(next) = history.next(written).filter(|_| changes.len() < ROUND) {
            lost += next.lost;
            written = next.entry.id;
            changes.push(history.told(&next.entry));
        }
        if lost > 0 {
            tracing::debug!(changes = lost, "too many changes to write all of them to the history");
        }
        let pace = Pace::default();
        if changes.is_empty() {
            return (false, pace.least);
        }
        let is_full = changes.len() == ROUND;
        let kept = || {
            let all = history.all().into_iter().filter(|entry| entry.id <= written);
            all.map(|entry| history.told(&entry)).collect()
        };
        let path = self.disk.path().display().to_string();
        match self.disk.write(&changes, history.since(), kept) {
            Ok(bytes) => {
                self.written = written;
                self.directory.count_write(bytes);
                if std::mem::take(&mut self.failures) > 0 {
                    tracing::info!(path, "the history can be written again");
                }
                (is_full, pace.rest(bytes))
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.directory.count_failure();
                if self.failures == 1 {
                    tracing::warn!(path, %error, "cannot write the history, will keep retrying");
                }
                (true, pace.retry(self.failures))
            }
        }
    }

    /// Notes that all changes are written, if they are.
    fn mark(&self, history: &History) {
        let is_whole = self.failures == 0 && history.next(self.written).is_none();
        // It is not there if changes are missing before it, and none has come since.
        let Some(last) = history.find(self.written).filter(|_| is_whole) else { return };
        if let Err(error) = self.disk.end(After { id: last.id, time: last.time }) {
            let path = self.disk.path().display().to_string();
            tracing::debug!(path, %error, "the next start takes the history for cut");
        }
    }

    /// Writes the states after changes that are written. It rests for the steps alone: a whole state
    /// is not written again before steps have become as large.
    fn state(&mut self, history: &History) -> (bool, Duration) {
        let mut entries: Vec<Arc<Entry>> = Vec::new();
        let mut stated = self.stated;
        while let Some(next) = history.next(stated)
            && next.entry.id <= self.written
            && entries.len() < ROUND
        {
            stated = next.entry.id;
            entries.push(next.entry);
        }
        let pace = Pace::default();
        if entries.is_empty() {
            return (false, pace.least);
        }
        let directory = self.directory.path();
        let path = directory.display().to_string();
        let states =
            self.states.get_or_insert_with(|| States::find(directory, Bounds::default()).0);
        let oldest = history.oldest();
        // A fault there must not end the daemon.
        let written = catch_unwind(AssertUnwindSafe(|| states.write(&entries, oldest)));
        let Ok(written) = written else {
            tracing::error!(path, "it cannot be found what leads to a state; it is not on disk");
            // The next one begins a file.
            (self.stated, self.states) = (stated, None);
            return (true, pace.least);
        };
        match written {
            Ok(Written { steps, wholes, too_large }) => {
                self.stated = stated;
                if steps + wholes > 0 {
                    self.directory.count_write(steps + wholes);
                }
                if let Some(bytes) = too_large {
                    let mib = bytes >> 20;
                    tracing::info!(path, mib, "states are too large to keep them on disk");
                }
                if std::mem::take(&mut self.unstated) > 0 {
                    tracing::info!(path, "states of the history can be written again");
                }
                (entries.len() == ROUND, pace.rest(steps))
            }
            Err(error) => {
                self.unstated = self.unstated.saturating_add(1);
                self.directory.count_failure();
                if self.unstated == 1 {
                    let what = "cannot write states of the history, will keep retrying";
                    tracing::warn!(path, %error, "{what}");
                }
                (true, pace.retry(self.unstated))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_does_not_delay_what_changes_meant() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let turn = |earliest| Turn { is_due: true, earliest };
        let mut turns = Turns { tell: turn(now), state: turn(now + hour) };
        assert_eq!(turns.pause(now), Some(Duration::ZERO));
        assert!(turns.tell.take(|| (false, Duration::ZERO)));
        assert!(!turns.state.take(|| panic!("it rests")));
        assert_eq!(turns.pause(now), Some(hour));
    }
}
