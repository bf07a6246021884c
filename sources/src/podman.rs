//! podman as a source: the Pods and containers that it runs on this node.
//!
//! ```text
//!  events ──▶ follow ──▶ look (list) ──▶ pod ─Event─▶ pods ─▶ Update { changes, problems }
//! ```
//!
//! Events only say when to look. What there is comes from podman's list of Pods and containers, and
//! the address of a container from its own description, which is asked for only if the list or an
//! event says that it may have changed.
//!
//! A Pod of podman is a Pod, and so is a container outside of any Pod. `pod` says what they mean,
//! as a document like one of the API server.

mod client;
mod events;
mod fault;
mod follow;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod list;
mod look;
mod pod;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rulec_compiler::Origin;
use tokio::sync::mpsc;

use crate::error::SourceError;
use crate::pods::{self, Patience, Runner};
use crate::state::StateDir;
use crate::update::Update;
use follow::Connection;

const PODMAN: Runner = Runner { origin: Origin::Podman, name: "podman", called: "podman" };

/// How long to wait for podman.
#[derive(Clone, Copy, Debug)]
pub struct PodmanTiming {
    /// How long an answer may take.
    pub answer: Duration,
    /// How often to look without an event: one may be lost, and a podman that hangs is noticed.
    pub period: Duration,
    /// The shortest wait after a failure.
    pub first_retry: Duration,
    /// The longest wait after a failure.
    pub longest_retry: Duration,
    /// How long the first list is waited for at a start.
    pub grace: Duration,
}

impl Default for PodmanTiming {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            period: Duration::from_secs(60),
            first_retry: Duration::from_millis(100),
            longest_retry: Duration::from_secs(5),
            grace: Duration::from_secs(5),
        }
    }
}

/// Follows the Pods and containers of podman.
#[derive(Debug)]
pub struct PodmanSource {
    socket: PathBuf,
    timing: PodmanTiming,
    state: Option<StateDir>,
}

impl PodmanSource {
    /// Returns whether this is a socket, as that of podman.
    ///
    /// # Errors
    ///
    /// If that cannot be seen, because its directory is closed to this process.
    pub fn is_at(path: &Path) -> io::Result<bool> {
        use io::ErrorKind::{NotADirectory, NotFound};
        match fs::metadata(path) {
            Ok(found) => Ok(found.file_type().is_socket()),
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Opens no connection yet. podman need not run.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), timing: PodmanTiming::default(), state: None }
    }

    /// Sets how long to wait for podman.
    #[must_use]
    pub fn with_timing(self, timing: PodmanTiming) -> Self {
        Self { timing, ..self }
    }

    /// Sets where the state is saved for the next start.
    #[must_use]
    pub fn with_state(self, state: Option<StateDir>) -> Self {
        Self { state, ..self }
    }

    /// Sends the Pods of podman and then their changes, until the receiver is dropped.
    ///
    /// The first change is a `Replace`. No Pod is removed because podman cannot be reached: the
    /// last known state stays, and [`Update::problems`] has the reason. At a start, podman is
    /// waited for only for a while, so that everything else is served.
    ///
    /// # Errors
    ///
    /// None: a podman that is away, hangs, or sends garbage is tried again.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let Self { socket, timing, state } = self;
        let PodmanTiming { first_retry, longest_retry, grace, .. } = timing;
        // podman keeps its containers on disk: its first list has all of them.
        let patience = Patience { first_retry, longest_retry, grace, settle: Duration::ZERO };
        let from = socket.display().to_string();
        pods::run(PODMAN, &from, patience, state, out, Connection::new(socket, timing)).await;
        Ok(())
    }
}
