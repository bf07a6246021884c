//! Why the relay cannot be followed at the moment. All failures are retried.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio_rustls::rustls;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    #[error("its certificate cannot be verified with these settings")]
    Settings(#[source] rustls::Error),
    #[error("{0:?} is not the name of a host")]
    Host(String),
    #[error("cannot connect to {0}")]
    Connect(String, #[source] io::Error),
    #[error("the connection is not secure")]
    Tls(#[source] io::Error),
    #[error("the connection broke")]
    Connection(#[source] hyper::Error),
    #[error("it has not answered for {} s", .0.as_secs_f64())]
    Silence(Duration),
    #[error("it answers with gRPC status {code}: {message}")]
    Status { code: i32, message: String },
    #[error("it has ended the stream")]
    Ended,
    #[error("it sends resources of type {0:?}, which were not asked for")]
    Type(String),
}

/// `RESOURCE_EXHAUSTED` of gRPC.
const EXHAUSTED: i32 = 8;

impl Fault {
    /// Returns whether the relay does not want to read all that we have.
    pub(super) fn is_about_length(&self) -> bool {
        matches!(self, Self::Status { code: EXHAUSTED, .. })
    }
}
