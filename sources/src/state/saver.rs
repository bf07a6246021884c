//! The thread that keeps one file up to date.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::{debug, info, warn};

use super::{Counts, Pace, file};

/// Keeps a file up to date. A new value replaces one that still waits, so that callers never wait
/// for the disk. The thread serializes the value, so the value should be cheap to make and to drop:
/// a pointer to a snapshot. Dropping the saver lets the thread write what is left, and does not
/// wait for it.
#[derive(Debug)]
pub(crate) struct Saver<T> {
    slot: Arc<Slot<T>>,
    /// What the thread would do, if there is none.
    writer: Option<Mutex<Writer<T>>>,
}

/// The value that waits to be written.
#[derive(Debug)]
struct Slot<T> {
    held: Mutex<Held<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Held<T> {
    newest: Option<T>,
    /// Whether `newest`, which is set then, is written as soon as the pace allows. Otherwise it is
    /// written only along with a value that is due, or at the end.
    due: bool,
    ending: bool,
    ended: bool,
}

/// Ends a saver of any type.
pub(super) trait Finish {
    /// Tells it to write what is left and then end.
    fn order(&self);

    /// Waits until it has ended; returns whether it has.
    fn wait(&self, until: Instant) -> bool;
}

impl<T: Serialize + Send + 'static> Saver<T> {
    pub(super) fn start(path: PathBuf, pace: Pace, counts: Arc<Counts>) -> std::io::Result<Self> {
        let writer = Writer::new(path, pace, counts);
        let slot = writer.slot.clone();
        thread::Builder::new().name("rulec-state".to_owned()).spawn(move || writer.run())?;
        Ok(Self { slot, writer: None })
    }

    /// Creates one without a thread: `save` writes, and `keep` does nothing.
    pub(super) fn at_once(path: PathBuf, pace: Pace, counts: Arc<Counts>) -> Self {
        let writer = Writer::new(path, pace, counts);
        Self { slot: writer.slot.clone(), writer: Some(Mutex::new(writer)) }
    }

    /// Returns a handle to end it from elsewhere.
    pub(super) fn end(&self) -> Arc<dyn Finish + Send + Sync> {
        self.slot.clone()
    }

    /// Writes this value as soon as the pace allows.
    pub(crate) fn save(&self, value: T) {
        if let Some(writer) = &self.writer {
            writer.lock().unwrap_or_else(PoisonError::into_inner).write(&value);
            return;
        }
        let replaced = {
            let mut held = self.slot.lock();
            held.due = true;
            held.newest.replace(value)
        };
        self.slot.changed.notify_all();
        // Drop outside of the lock: it may be the last reference to much data.
        drop(replaced);
    }

    /// Writes this value in place of one that is due, or else at the end: it is newer than the
    /// file, but nothing is lost without it.
    pub(crate) fn keep(&self, value: T) {
        if self.writer.is_some() {
            return;
        }
        let replaced = self.slot.lock().newest.replace(value);
        drop(replaced);
    }
}

impl<T> Drop for Saver<T> {
    fn drop(&mut self) {
        self.slot.end();
    }
}

impl<T> Slot<T> {
    fn lock(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.lock().ending = true;
        self.changed.notify_all();
    }
}

impl<T: Send> Finish for Slot<T> {
    fn order(&self) {
        self.end();
    }

    fn wait(&self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        let waited = self.changed.wait_timeout_while(self.lock(), left, |held| !held.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

#[derive(Debug)]
struct Writer<T> {
    slot: Arc<Slot<T>>,
    path: PathBuf,
    pace: Pace,
    counts: Arc<Counts>,
    failures: u32,
}

impl<T: Serialize + Send> Writer<T> {
    fn new(path: PathBuf, pace: Pace, counts: Arc<Counts>) -> Self {
        let held = Held { newest: None, due: false, ending: false, ended: false };
        let slot = Arc::new(Slot { held: Mutex::new(held), changed: Condvar::new() });
        Self { slot, path, pace, counts, failures: 0 }
    }

    fn run(mut self) {
        let mut not_before = Instant::now();
        while let Some(value) = self.next(not_before) {
            let rest = self.write(&value).unwrap_or_else(|| {
                let mut held = self.slot.lock();
                // At the end there is only one attempt.
                if !held.ending {
                    held.newest.get_or_insert(value);
                    held.due = true;
                }
                self.pace.retry(self.failures)
            });
            not_before = Instant::now() + rest;
        }
    }

    /// Writes a value, and returns how long to rest; `None` if it cannot be written.
    fn write(&mut self, value: &T) -> Option<Duration> {
        match file::write(&self.path, value) {
            Ok(bytes) => Some(self.wrote(bytes)),
            Err(error) => {
                self.failed(&error);
                None
            }
        }
    }

    /// Waits for the next value to write; `None` at the end.
    fn next(&self, not_before: Instant) -> Option<T> {
        let mut held = self.slot.lock();
        loop {
            let now = Instant::now();
            if held.ending || (held.due && now >= not_before) {
                held.due = false;
                return held.newest.take();
            }
            let changed = &self.slot.changed;
            held = if held.due {
                let waited = changed.wait_timeout(held, not_before - now);
                waited.unwrap_or_else(PoisonError::into_inner).0
            } else {
                changed.wait(held).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }

    fn wrote(&mut self, bytes: u64) -> Duration {
        self.counts.wrote(bytes);
        if std::mem::take(&mut self.failures) > 0 {
            info!(path = %self.path.display(), "state can be written again");
        }
        debug!(path = %self.path.display(), bytes, "wrote the state");
        self.pace.rest(bytes)
    }

    fn failed(&mut self, error: &std::io::Error) {
        self.counts.failed();
        self.failures = self.failures.saturating_add(1);
        let path = self.path.display();
        if self.failures == 1 {
            warn!(%path, %error, "cannot write state, will keep retrying");
        } else {
            debug!(%path, %error, failures = self.failures, "still cannot write state");
        }
    }
}

impl<T> Drop for Writer<T> {
    fn drop(&mut self) {
        // This runs also after a panic, so that no caller waits for ever.
        self.slot.lock().ended = true;
        self.slot.changed.notify_all();
    }
}
