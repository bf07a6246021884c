//! The kubelet of this node as a source: the Pods that it runs.
//!
//! ```text
//!  pods API (Unix socket) ─▶ grpc ─▶ stream ─┐
//!  GET /pods (HTTP) ───────────────▶ poll ───┴─Event─▶ pods ─▶ Update { changes, problems }
//! ```
//!
//! A node without an API server has static Pods, whose manifests have no addresses; the kubelet
//! knows them. Where its pods API is on (feature gate PodsAPI), each change arrives as an event;
//! otherwise, its list of Pods is asked for again and again.
//!
//! `stream` and `poll` know the protocol but not the meaning of Pods; the module `pods` knows what
//! Pods mean but not the connections.

mod fault;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod grpc;
mod poll;
mod stream;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::Uri;
use rulec_compiler::Origin;
use tokio::sync::mpsc;

use crate::error::SourceError;
use crate::pods::{self, Event, Follow, Gone, Patience, Runner};
use crate::state::StateDir;
use crate::update::Update;
use fault::Fault;

/// The place of the socket of the pods API below the kubelet's root directory.
const SOCKET: &str = "pods-api/pods-api.sock";

/// The directory of the socket.
const DIRECTORY: &str = "pods-api";

const KUBELET: Runner = Runner { origin: Origin::Kubelet, name: "kubelet", called: "the kubelet" };

/// How to reach the kubelet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KubeletAccess {
    /// By its pods API, below this root directory.
    Root(PathBuf),
    /// By its HTTP server.
    Url(KubeletUrl),
}

impl KubeletAccess {
    /// Returns whether the kubelet with this root directory has its pods API on, or had it: the
    /// directory of the socket stays while the kubelet is away.
    ///
    /// # Errors
    ///
    /// If that cannot be seen, because the directory is closed to this process.
    pub fn is_below(root: &Path) -> io::Result<bool> {
        use io::ErrorKind::{NotADirectory, NotFound};
        match fs::metadata(root.join(DIRECTORY)) {
            Ok(found) => Ok(found.is_dir()),
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Root(root) => root.join(SOCKET).display().to_string(),
            Self::Url(url) => url.url.to_string(),
        }
    }
}

/// How to reach the HTTP server of the kubelet, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletUrl {
    /// The address of the server.
    pub url: Uri,
    /// The file with the certificates that the server's is verified by.
    pub certificate_authority: Option<PathBuf>,
    /// The file with the certificate that we show.
    pub client_certificate: Option<PathBuf>,
    /// The file with its key.
    pub client_key: Option<PathBuf>,
    /// The file with a token.
    pub token_file: Option<PathBuf>,
    /// How often the Pods are asked for.
    pub period: Duration,
}

/// How long to wait for the kubelet.
#[derive(Clone, Copy, Debug)]
pub struct KubeletTiming {
    /// How long an answer, or the next part of a list, may take.
    pub answer: Duration,
    /// How long a stream may be silent before the kubelet is asked whether it is still there. A
    /// gRPC server ends connections that ask more often than every five minutes.
    pub ping: Duration,
    /// The shortest wait after a failure.
    pub first_retry: Duration,
    /// The longest wait after a failure.
    pub longest_retry: Duration,
    /// How long the first list is waited for at a start.
    pub grace: Duration,
    /// How long Pods stay that a kubelet does not have, or not yet, when it returns. By default,
    /// one period of a readiness probe and the start of the kubelet.
    pub settle: Duration,
}

impl Default for KubeletTiming {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            ping: Duration::from_secs(330),
            first_retry: Duration::from_millis(100),
            longest_retry: Duration::from_secs(5),
            grace: Duration::from_secs(5),
            settle: Duration::from_secs(15),
        }
    }
}

/// Follows the Pods of this node's kubelet.
#[derive(Debug)]
pub struct KubeletSource {
    access: KubeletAccess,
    timing: KubeletTiming,
    state: Option<StateDir>,
}

impl KubeletSource {
    /// Opens no connection yet. The kubelet need not run.
    pub fn new(access: KubeletAccess) -> Self {
        Self { access, timing: KubeletTiming::default(), state: None }
    }

    /// Sets how long to wait for the kubelet.
    #[must_use]
    pub fn with_timing(self, timing: KubeletTiming) -> Self {
        Self { timing, ..self }
    }

    /// Sets where the state is saved for the next start.
    #[must_use]
    pub fn with_state(self, state: Option<StateDir>) -> Self {
        Self { state, ..self }
    }

    /// Sends the Pods of the kubelet and then their changes, until the receiver is dropped.
    ///
    /// The first change is a `Replace`. No Pod is removed because the kubelet cannot be reached:
    /// the last known state stays, and [`Update::problems`] has the reason. At a start, a kubelet
    /// that is away is waited for only for a while, so that everything else is served.
    ///
    /// # Errors
    ///
    /// None: a kubelet that is away, hangs, or sends garbage is tried again.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let Self { access, timing, state } = self;
        let KubeletTiming { first_retry, longest_retry, grace, settle, .. } = timing;
        let patience = Patience { first_retry, longest_retry, grace, settle };
        let from = access.name();
        pods::run(KUBELET, &from, patience, state, out, Connection { access, timing }).await;
        Ok(())
    }
}

/// A kubelet that is followed.
struct Connection {
    access: KubeletAccess,
    timing: KubeletTiming,
}

impl Follow for Connection {
    type Fault = Fault;

    async fn follow(&mut self, out: &mpsc::Sender<Event>) -> Result<Fault, Gone> {
        let Self { access, timing } = self;
        match access {
            KubeletAccess::Root(root) => stream::follow(&root.join(SOCKET), timing, out).await,
            KubeletAccess::Url(url) => poll::follow(url, timing, out).await,
        }
    }
}
