//! Why a URL cannot be read at the moment. All failures are retried.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http::StatusCode;
use hyper_util::client::legacy;
use tower::BoxError;

use crate::manifests::file::LARGEST;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{}: cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A line of the file of headers. It is not quoted.
    #[error("{}:{line}: {reason}", path.display())]
    Header { path: PathBuf, line: usize, reason: String },
    #[error("TLS cannot be used")]
    Tls(#[source] Box<kube::Error>),
    #[error("the request cannot be made")]
    Call(#[source] http::Error),
    #[error("the request failed")]
    Request(#[source] legacy::Error),
    #[error("it has not answered in {} s", .0.as_secs_f64())]
    Silence(Duration),
    #[error("it redirects (HTTP status {0}), which is not followed")]
    Redirect(StatusCode),
    #[error("it answers with HTTP status {0}")]
    Status(StatusCode),
    #[error("its answer is encoded ({0:?}), which was not asked for")]
    Encoded(String),
    /// It ends where the connection ends, and so would half of it.
    #[error("its answer does not say how long it is")]
    Endless,
    #[error("its answer is larger than {} MiB", LARGEST >> 20)]
    TooLarge,
    #[error("its answer breaks off")]
    Half(#[source] BoxError),
    #[error("its answer is empty")]
    Empty,
}
