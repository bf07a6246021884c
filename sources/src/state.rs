//! State on disk: what sources last said, for the next start.
//!
//! ```text
//!  source ──save(snapshot)──▶ Saver's thread ──encode──▶ name.state.new ──fsync, rename──▶ name.state
//!  source ◀──────load────── (once, at a start) ◀─────────────────────────────────────────────┘
//! ```
//!
//! A directory with one file for each source. Nothing of it is ever needed: a file that is missing,
//! damaged, or of a program we do not know means that the source starts as without, and says so.
//! Writing stands beside the road of changes. A source hands over a snapshot that costs nothing to make, and a
//! thread turns the newest one into a file, no faster than its [`Pace`].

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

pub use file::StateError;
use saver::Finish;
pub(crate) use saver::Saver;

/// How often a file is written: the bytes that a disk takes in are bounded, whatever changes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// The shortest time between two writes of a file.
    pub least: Duration,
    /// How many bytes a second a file may take over time. The pause after a write is in proportion to
    /// what it took.
    pub bytes_per_second: u64,
    /// The longest pause after a write that failed; it doubles up to here, from `least`.
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
    /// How long to rest after a write.
    fn rest(&self, written: u64) -> Duration {
        let millis = written.saturating_mul(1000) / self.bytes_per_second.max(1);
        Duration::from_millis(millis).max(self.least)
    }

    /// How long to rest after so many failures in a row.
    fn retry(&self, failures: u32) -> Duration {
        let doubled = self.least.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(self.longest_retry)
    }
}

/// The directory in which sources keep their state. A clone is the same one.
#[derive(Clone)]
pub struct StateDir {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    pace: Pace,
    counts: Arc<Counts>,
    savers: Mutex<Vec<Arc<dyn Finish + Send + Sync>>>,
}

/// What has been written since the start.
#[derive(Debug, Default)]
struct Counts {
    writes: AtomicU64,
    bytes: AtomicU64,
    failures: AtomicU64,
}

impl StateDir {
    /// Touches nothing yet: the directory is made when there is something to write.
    pub fn new(path: PathBuf) -> Self {
        Self::with_pace(path, Pace::default())
    }

    /// One that is written at another pace.
    pub fn with_pace(path: PathBuf, pace: Pace) -> Self {
        let (counts, savers) = (Arc::default(), Mutex::default());
        Self { shared: Arc::new(Shared { path, pace, counts, savers }) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Files written.
    pub fn writes(&self) -> u64 {
        self.shared.counts.writes.load(Relaxed)
    }

    /// Bytes in them.
    pub fn bytes(&self) -> u64 {
        self.shared.counts.bytes.load(Relaxed)
    }

    /// Attempts to write one that failed.
    pub fn failures(&self) -> u64 {
        self.shared.counts.failures.load(Relaxed)
    }

    /// What a file holds; nothing if there is none.
    ///
    /// # Errors
    ///
    /// If it cannot be used. The error names the file and the reason.
    pub(crate) fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        file::read(&self.file(name))
    }

    /// Whoever keeps a file up to date. It writes what is left when it is dropped, or when
    /// [`finish`](Self::finish) is called.
    ///
    /// # Errors
    ///
    /// If its thread cannot be started.
    pub(crate) fn saver<T: Serialize + Send + 'static>(
        &self,
        name: &str,
    ) -> std::io::Result<Saver<T>> {
        let counts = self.shared.counts.clone();
        let saver = Saver::start(self.file(name), self.shared.pace, counts)?;
        let mut savers = self.shared.savers.lock().unwrap_or_else(PoisonError::into_inner);
        savers.push(saver.end());
        Ok(saver)
    }

    /// Writes what is left to write, now, and lets nobody write any more. Says whether that was done in
    /// time.
    pub fn finish(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        let savers =
            std::mem::take(&mut *self.shared.savers.lock().unwrap_or_else(PoisonError::into_inner));
        // All of them begin before any is waited for.
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

/// Makes a directory that is nobody else's business: it says which Services a cluster has.
fn make(directory: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}
