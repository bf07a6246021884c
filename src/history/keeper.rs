//! The thread that bounds the memory of changes, reads the file of earlier ones, and writes what they
//! meant to it, and their states to others.
//!
//! Neither delays a commit. What it writes, it has to find out first, so it rests after each round for
//! many times as long as the round took, and longer if it has written much: a node with many changes
//! has a part of them in the file.

mod files;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rulec_sources::StateDir;

use super::History;
use super::disk::Disk;
use crate::newest;
use crate::threads::Vital;
use files::Files;
pub(super) use files::OnDisk;

/// How many times as long as a round the pause after it is.
const REST: u32 = 20;

/// How long changes wait for those of earlier processes. Longer, and the disk hangs.
const PATIENCE: Duration = Duration::from_secs(15);

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
        let files = directory.map(|directory| {
            let disk = Disk::new(directory.path(), limits.changes);
            // A history has one keeper.
            let _ = history.states.set(directory.path().to_owned());
            Files::new(disk, directory)
        });
        if files.is_some() {
            history.lock().wait();
        }
        let (changes, noted) = newest::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let worker = Worker { history, files, is_over: Arc::clone(&is_over) };
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
    files: Option<Files>,
    is_over: Arc<AtomicBool>,
}

impl Worker {
    fn run(
        mut self,
        noted: &newest::Receiver<()>,
        patience: Duration,
        read: impl FnOnce(Disk, &StateDir) -> OnDisk + Send + 'static,
    ) {
        if let Some(files) = &mut self.files {
            files.read(&self.history, patience, read);
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
        let Some(files) = &mut self.files else { return };
        while files.tell(&self.history).0 && files.failures == 0 {}
        if self.is_over.load(Relaxed) {
            files.mark(&self.history);
        }
        // Each state has its change.
        while files.failures == 0 && files.state(&self.history).0 && files.unstated == 0 {}
    }

    /// Writes what is due.
    fn round(&mut self, turns: &mut Turns) {
        let Turns { tell, state } = turns;
        let Some(files) = &mut self.files else {
            (tell.is_due, state.is_due) = (false, false);
            return;
        };
        if tell.take(|| files.tell(&self.history)) {
            // Each state has its change.
            state.is_due = files.failures == 0;
        }
        state.take(|| files.state(&self.history));
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
