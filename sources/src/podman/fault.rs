//! Why podman cannot be followed at the moment. All failures are retried.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("{}: cannot connect", path.display())]
    Connect {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the request cannot be made")]
    Call(#[source] http::Error),
    #[error("the connection broke")]
    Connection(#[source] hyper::Error),
    #[error("the answer to {0} cannot be read")]
    Body(String, #[source] tower::BoxError),
    #[error("it has not answered for {} s", .0.as_secs_f64())]
    Silence(Duration),
    #[error("it answers {path} with HTTP status {status}: {message}")]
    Http { path: String, status: http::StatusCode, message: String },
    #[error("the answer to {path} cannot be decoded")]
    Garbled {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("it has ended the stream of events")]
    Ended,
    #[error("it has no events: {0}")]
    NoEvents(String),
    #[error("an event of more than {0} bytes")]
    TooLong(usize),
    #[error("its list of Pods lacks the Pod of a container in its list of containers")]
    Torn,
    #[error(
        "it runs without root: the addresses of its containers cannot be reached from the node"
    )]
    Rootless,
}
