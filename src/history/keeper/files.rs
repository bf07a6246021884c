//! The files of a history, with how far they are: read once at a start, and written round by round.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rulec_sources::{Pace, StateDir};

use crate::history::History;
use crate::history::change::Change;
use crate::history::disk::{Disk, Found, Wrote};
use crate::history::entry::Entry;
use crate::history::states::{After, Bounds, States, Written};

/// How many changes are written in one round.
const ROUND: usize = 64;

/// What earlier processes have left.
#[derive(Debug)]
pub(in crate::history) struct OnDisk {
    disk: Disk,
    found: Found,
    /// The states, if it could be found out which there are.
    states: Option<States>,
}

impl OnDisk {
    pub(in crate::history) fn read(mut disk: Disk, directory: &StateDir) -> Self {
        let mut found = disk.read();
        let states = match States::find(directory.path(), Bounds::default()) {
            Ok((states, complaints)) => {
                found.complaints.extend(complaints);
                Some(states)
            }
            Err(error) => {
                found.complaints.push(error.to_string());
                None
            }
        };
        Self { disk, found, states }
    }
}

/// Says what cannot be used of the files.
fn complain(path: &str, complaints: &[String]) {
    if let Some(first) = complaints.first() {
        let more = complaints.len() - 1;
        tracing::warn!(path, more, "a part of the history cannot be read and is ignored: {first}");
    }
}

/// The files, with how far they are.
pub(super) struct Files {
    disk: Disk,
    /// The states, once it is known which are there.
    states: Option<States>,
    /// Counts writes and failures.
    directory: StateDir,
    /// The number of the newest change that is in the file, and of that whose state is in another.
    written: u64,
    stated: u64,
    /// How many writes of either have failed in a row.
    pub(super) failures: u32,
    pub(super) unstated: u32,
}

impl Files {
    pub(super) fn new(disk: Disk, directory: StateDir) -> Self {
        let (written, stated, failures, unstated) = Default::default();
        Self { disk, states: None, directory, written, stated, failures, unstated }
    }

    /// Takes over what is in the files. A thread of its own reads them, because a disk that hangs
    /// cannot be waited for with a limit.
    pub(super) fn read(
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
            complain(&path, &found.complaints);
            let newest = found.changes.last().map_or(0, |(change, _)| change.id);
            let newest = newest + u64::from(!found.is_whole());
            let is_in_time = history.recall(found);
            if is_in_time {
                self.disk = disk;
                (self.written, self.stated) = (newest, newest);
            }
            self.states = states;
            is_in_time
        });
        if !recalled {
            history.give_up();
            tracing::warn!(path, "reading the history took too long; it begins anew");
        }
    }

    /// Writes what changes meant. Returns whether there is more to write, and the pause before that.
    pub(super) fn tell(&mut self, history: &History) -> (bool, Duration) {
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
            Ok(Wrote { bytes, aside }) => {
                self.written = written;
                self.directory.count_write(bytes);
                if let Some(aside) = aside {
                    let aside = aside.display().to_string();
                    let what = "the history that was there could not be read, and was put aside";
                    tracing::warn!(path = aside, "{what}");
                }
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
    pub(super) fn mark(&self, history: &History) {
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
    pub(super) fn state(&mut self, history: &History) -> (bool, Duration) {
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
        let limit = history.lock().limits().changes;
        // A fault there must not end the daemon.
        let written = catch_unwind(AssertUnwindSafe(|| {
            let states = match &mut self.states {
                Some(states) => states,
                none => {
                    let (states, complaints) = States::find(directory, Bounds::default())?;
                    complain(&path, &complaints);
                    none.insert(states)
                }
            };
            let (written, complaints) = states.write(&entries, limit);
            for complaint in complaints {
                let what = "an old file of the history cannot be removed, will keep retrying";
                tracing::warn!("{what}: {complaint}");
            }
            written
        }));
        let Ok(written) = written else {
            tracing::error!(path, "it cannot be found what leads to a state; it is not on disk");
            // The next one begins a file.
            (self.stated, self.states) = (stated, None);
            return (true, pace.least);
        };
        match written {
            Ok(Written { stored, steps, wholes, too_large }) => {
                self.stated = stated;
                history.lock().store(&stored);
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
    use std::fs;
    use std::io::{self, Write};
    use std::sync::Mutex;

    use super::*;
    use crate::history::tests::{Source, limits};
    use crate::tool::diff::tell_change;

    /// What was logged.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Also if nobody has read them before, because the disk was too slow.
    #[test]
    fn what_is_wrong_with_files_of_states_is_logged() {
        let log = Log::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        let _log = tracing::subscriber::set_default(subscriber);
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("states-4.jsonl"), "").unwrap();
        let history = History::new(limits(9), tell_change);
        Source::new().note(&history, 2);
        let state = StateDir::new(directory.path().to_owned());
        let mut files = Files::new(Disk::new(directory.path(), 9), state);
        files.written = 2;
        files.state(&history);
        assert_eq!((files.stated, files.unstated), (2, 0));
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        let expected = "a part of the history cannot be read and is ignored: states-4.jsonl: it is";
        assert!(said.contains(expected), "{said}");

        // What is there is not known: nothing is written, but tried again.
        let path = directory.path().join("file");
        fs::write(&path, "no directory").unwrap();
        let mut files = Files::new(Disk::new(&path, 9), StateDir::new(path));
        files.written = 2;
        assert!(files.state(&history).0);
        assert_eq!((files.stated, files.unstated), (0, 1));
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(said.contains("cannot write states of the history, will keep retrying"), "{said}");
    }
}
