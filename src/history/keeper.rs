//! The thread that bounds the memory of changes, reads the file of earlier ones, and writes what they
//! meant to it.
//!
//! Neither delays a commit. What it writes, it has to find out first, so it rests after each round for
//! many times as long as the round took, and longer if it has written much: a node with many changes
//! has a part of them in the file.

use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use rulec_sources::{Pace, StateDir};

use super::History;
use super::change::Change;
use super::disk::{Disk, Found};
use crate::newest;
use crate::threads::Vital;

/// How many times as long as a round the pause after it is.
const REST: u32 = 20;

/// How many changes are written in one round.
const ROUND: usize = 64;

/// A handle of the thread. Dropping it ends the thread after a last round.
#[derive(Debug)]
pub struct Keeper {
    changes: newest::Sender<()>,
    thread: Vital,
}

impl Keeper {
    pub(super) fn start(history: History, directory: Option<StateDir>) -> anyhow::Result<Self> {
        let limits = history.lock().limits();
        let file = directory.map(|directory| {
            let disk = Disk::new(directory.path(), limits.changes);
            File { disk, directory, written: 0, failures: 0 }
        });
        if file.is_some() {
            history.lock().wait();
        }
        let (changes, noted) = newest::channel();
        let worker = Worker { history, file };
        let thread = Vital::start("rulec-history", move || worker.run(&noted))?;
        Ok(Self { changes, thread })
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

    /// Ends the thread after a last round, for which it waits no longer than this.
    pub fn finish(self, patience: Duration) {
        let Self { changes, mut thread } = self;
        drop(changes);
        thread.wait(patience);
    }
}

struct Worker {
    history: History,
    file: Option<File>,
}

impl Worker {
    fn run(mut self, noted: &newest::Receiver<()>) {
        if let Some(file) = &mut self.file {
            file.read(&self.history);
        }
        let mut is_due = false;
        let mut earliest = Instant::now();
        loop {
            let pause = is_due.then(|| earliest.saturating_duration_since(Instant::now()));
            match noted.recv(pause) {
                Ok(()) => is_due = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
            // At once, so that bursts of large changes do not take more memory than they may.
            self.history.tidy();
            let start = Instant::now();
            if start >= earliest {
                let pause;
                (is_due, pause) = self.round();
                earliest = Instant::now() + pause.max(start.elapsed() * REST);
            }
        }
    }

    /// Writes the rest, as far as that is possible.
    fn end(mut self) {
        while self.round().0 && self.file.as_ref().is_some_and(|file| file.failures == 0) {}
    }

    /// Writes changes; returns whether there are more to write, and the pause before that.
    fn round(&mut self) -> (bool, Duration) {
        match &mut self.file {
            Some(file) => file.round(&self.history),
            None => (false, Duration::ZERO),
        }
    }
}

/// The file, with how far it is.
struct File {
    disk: Disk,
    /// Counts writes and failures.
    directory: StateDir,
    /// The number of the newest change that is in the file.
    written: u64,
    /// How many writes have failed in a row.
    failures: u32,
}

impl File {
    /// Takes over what is in the file.
    fn read(&mut self, history: &History) {
        let Found { changes, since, complaints } = self.disk.read();
        let path = self.disk.path().display();
        if let Some(first) = complaints.first() {
            let more = complaints.len() - 1;
            tracing::warn!(%path, more, "a part of the history cannot be read and is ignored: {first}");
        }
        let newest = changes.last().map_or(0, |(change, _)| change.id);
        if history.recall(changes, since) {
            self.written = newest;
        } else {
            tracing::warn!(%path, "reading the history took too long; it begins anew");
            self.disk.begin_anew();
        }
    }

    /// See [`Worker::round`].
    fn round(&mut self, history: &History) -> (bool, Duration) {
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
}
