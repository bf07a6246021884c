//! Why the kubelet cannot be followed at the moment. All failures are retried.

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
    #[error("{}: cannot be read", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the connection broke")]
    Connection(#[source] h2::Error),
    #[error("the request cannot be made")]
    Call(#[source] http::Error),
    #[error("the request failed")]
    Request(#[source] Box<kube::Error>),
    #[error("its answer cannot be read")]
    Body(#[source] tower::BoxError),
    #[error("it has not answered for {} s", .0.as_secs_f64())]
    Silence(Duration),
    #[error("it answers with HTTP status {0}")]
    Http(http::StatusCode),
    /// A gRPC status other than 0.
    #[error("it answers with gRPC status {code}: {message}")]
    Status { code: i32, message: String },
    #[error(
        "it has no pods API of a known version ({}): is the feature gate PodsAPI on?", .0.join(", ")
    )]
    Unimplemented(&'static [&'static str]),
    #[error("its answer is not gRPC: content-type {0:?}")]
    NotGrpc(String),
    #[error("a compressed message, which was not asked for")]
    Compressed,
    #[error("a message of {length} bytes, more than {most}")]
    TooLong { length: usize, most: usize },
    #[error("the connection ended in the middle of a message")]
    Half,
    #[error("it has ended the stream")]
    Ended,
    #[error("a message that cannot be decoded")]
    Garbled(#[from] prost::DecodeError),
    #[error("a message without a type")]
    Untyped,
    #[error("its answer is not a PodList")]
    NotPods(#[source] Option<serde_json::Error>),
}
