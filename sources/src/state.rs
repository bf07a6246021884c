//! State on disk: what the sources delivered last, for the next start.
//!
//! ```text
//!  source ─save(snapshot)─▶ Saver's thread ─encode─▶ .name.state.new ──fsync, rename──▶ name.state
//!  source ◀──────load────── (once, at a start) ◀──────────────────────────────────────────┘
//! ```
//!
//! A directory with one file for each source. No file is ever required: if one is missing, damaged,
//! or written by an unknown program, the source starts without it and reports that. Writing is not
//! on the path of changes: a source hands over a snapshot, which is cheap to make, and a thread
//! writes the newest one to the file, no faster than its [`Pace`].

mod file;
mod saver;

#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backoff::retry_pause;
pub use file::StateError;
use saver::Finish;
pub(crate) use saver::Saver;

/// How often a file is written. It bounds the bytes written to disk, no matter how much changes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The shortest time between two writes of a file.
    pub least: Duration,
    /// How many bytes a second are written to a file, averaged over time. The pause after a write
    /// is proportional to the size of the write.
    pub bytes_per_second: u64,
    /// The longest pause after a failed write. The pause starts at `least` and doubles up to this.
    pub longest_retry: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            least: Duration::from_secs(1),
            // 56 MiB an hour.
            bytes_per_second: 16 << 10,
            longest_retry: Duration::from_secs(60),
        }
    }
}

impl Pace {
    /// Returns the pause after a write of this many bytes.
    pub fn rest(&self, written: u64) -> Duration {
        let millis = written.saturating_mul(1000) / self.bytes_per_second.max(1);
        Duration::from_millis(millis).max(self.least)
    }

    /// Returns the pause after this many failures in a row.
    pub fn retry(&self, failures: u32) -> Duration {
        retry_pause(self.least, self.longest_retry, failures)
    }
}

/// The directory in which sources keep their state. Clones share it.
#[derive(Clone)]
pub struct StateDir {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    pace: Pace,
    counts: Arc<Counts>,
    savers: Mutex<Vec<Arc<dyn Finish + Send + Sync>>>,
    /// Whether states are written by those that hand them over, so that a simulation has no threads.
    at_once: bool,
}

impl Shared {
    fn new(path: PathBuf, pace: Pace, at_once: bool) -> Self {
        Self { path, pace, counts: Arc::default(), savers: Mutex::default(), at_once }
    }
}

/// Counters of writes since the start.
#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

impl Counts {
    fn wrote(&self, bytes: u64) {
        self.writes.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn failed(&self) {
        self.failures.fetch_add(1, Relaxed);
    }
}

impl StateDir {
    /// Creates nothing yet: the directory is made when there is something to write.
    pub fn new(path: PathBuf) -> Self {
        Self::with_pace(path, Pace::default())
    }

    /// Like [`new`](Self::new), with another pace.
    pub fn with_pace(path: PathBuf, pace: Pace) -> Self {
        Self { shared: Arc::new(Shared::new(path, pace, false)) }
    }

    /// Like [`new`](Self::new), without threads: a state that is news is on disk when it has been
    /// handed over, and others never are.
    #[cfg(feature = "simulation")]
    pub fn at_once(path: PathBuf) -> Self {
        Self { shared: Arc::new(Shared::new(path, Pace::default(), true)) }
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns the number of files written.
    pub fn writes(&self) -> u64 {
        self.shared.counts.writes.load(Relaxed)
    }

    /// Returns the number of bytes written.
    pub fn bytes(&self) -> u64 {
        self.shared.counts.bytes.load(Relaxed)
    }

    /// Returns the number of failed writes.
    pub fn failures(&self) -> u64 {
        self.shared.counts.failures.load(Relaxed)
    }

    /// Counts a write of a file in the directory that somebody else makes.
    pub fn count_write(&self, bytes: u64) {
        self.shared.counts.wrote(bytes);
    }

    /// Counts one that has failed.
    pub fn count_failure(&self) {
        self.shared.counts.failed();
    }

    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    ///
    /// If the file cannot be used. The error names the file and the reason.
    pub(crate) fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        file::read(&self.file(name))
    }

    /// Writes a file now. It is on disk when this returns.
    ///
    /// # Errors
    ///
    /// If it cannot be written. The file is as it was before.
    pub(crate) fn write<T: Serialize>(&self, name: &str, value: &T) -> std::io::Result<()> {
        let written = file::write(&self.file(name), value);
        written.map(|bytes| self.count_write(bytes)).inspect_err(|_| self.count_failure())
    }

    /// Starts the thread that keeps a file up to date. It writes what is left when the [`Saver`] is
    /// dropped, or when [`finish`](Self::finish) is called.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub(crate) fn saver<T: Serialize + Send + 'static>(
        &self,
        name: &str,
    ) -> std::io::Result<Saver<T>> {
        let counts = self.shared.counts.clone();
        if self.shared.at_once {
            return Ok(Saver::at_once(self.file(name), self.shared.pace, counts));
        }
        let saver = Saver::start(self.file(name), self.shared.pace, counts)?;
        let mut savers = self.shared.savers.lock().unwrap_or_else(PoisonError::into_inner);
        savers.push(saver.end());
        Ok(saver)
    }

    /// Writes what is left to write, and stops all writing. Returns whether that was done in time.
    pub fn finish(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let savers =
            std::mem::take(&mut *self.shared.savers.lock().unwrap_or_else(PoisonError::into_inner));
        // All of them are told to finish before the first is waited for.
        savers.iter().for_each(|saver| saver.order());
        savers.iter().all(|saver| saver.wait(until))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.shared.path.join(name)
    }
}

impl fmt::Debug for StateDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateDir").field(&self.shared.path).finish()
    }
}

/// Decodes the content of a file, compressed or not, for `fuzzing`.
#[cfg(feature = "fuzzing")]
pub(crate) fn decode<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    let text = serde_json::from_slice(payload).ok();
    text.or_else(|| file::decode(Path::new("fuzz"), payload).ok())
}

/// Makes a directory that only we can read: its files say which Services a cluster has.
fn make(directory: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
