//! Asks the running daemon, by its socket.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

/// How long an answer may take. That of a large cluster takes seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The reason why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nothing listens there.
    #[error("no daemon listens at {path}: {source}")]
    NoDaemon {
        /// The path of the socket.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// There is a daemon, but it cannot be asked.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// Asks the daemon for a document.
pub(crate) fn ask<T: DeserializeOwned>(socket: &Path, path: &str) -> Result<T, Unanswered> {
    ask_within(socket, path, PATIENCE)
}

/// Asks the daemon for a document that shall not take longer.
pub(crate) fn ask_within<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
    patience: Duration,
) -> Result<T, Unanswered> {
    runtime()?.block_on(async {
        let stream = connect(socket).await?;
        let answer = tokio::time::timeout(patience, get(stream, path)).await;
        let answer = answer.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer for {patience:?}")));
        let answer = answer.and_then(|body| Ok(serde_json::from_slice(&body)?));
        answer.with_context(|| place(socket)).map_err(Unanswered::Failed)
    })
}

/// Follows lines of the daemon until it ends, or `each` returns an error. The daemon says something
/// now and then; if it does not, it hangs.
pub(crate) fn follow(
    socket: &Path,
    path: &str,
    silence: Duration,
    mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> Result<(), Unanswered> {
    runtime()?.block_on(async {
        let stream = connect(socket).await?;
        let lines = async {
            let patient = |_| anyhow::anyhow!("it has said nothing for {silence:?}");
            let response = tokio::time::timeout(silence, request(stream, path)).await;
            let response = response.map_err(patient)??;
            let status = response.status();
            let mut body = response.into_body();
            if status != StatusCode::OK {
                let text = body.collect().await?.to_bytes();
                return Err(refusal(status, path, &text));
            }
            let mut rest = Vec::new();
            loop {
                let frame = tokio::time::timeout(silence, body.frame()).await.map_err(patient)?;
                // The daemon has ended, however abruptly.
                let Some(Ok(frame)) = frame else { return Ok(()) };
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    each(&line)?;
                }
            }
        };
        lines.await.with_context(|| place(socket)).map_err(Unanswered::Failed)
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, Unanswered> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Unanswered::Failed(error.into()))
}

fn place(socket: &Path) -> String {
    format!("the daemon at {}", socket.display())
}

async fn connect(socket: &Path) -> Result<UnixStream, Unanswered> {
    let is_absence = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
    };
    UnixStream::connect(socket).await.map_err(|source| {
        if is_absence(&source) {
            return Unanswered::NoDaemon { path: socket.display().to_string(), source };
        }
        Unanswered::Failed(anyhow::Error::new(source).context(place(socket)))
    })
}

async fn get(stream: UnixStream, path: &str) -> anyhow::Result<Bytes> {
    let response = request(stream, path).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status == StatusCode::OK { Ok(body) } else { Err(refusal(status, path, &body)) }
}

async fn request(stream: UnixStream, path: &str) -> anyhow::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its failure reaches the request as well.
    tokio::spawn(async move { drop(connection.await) });
    let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new())?;
    Ok(sender.send_request(request).await?)
}

/// Returns what an answer without a document means.
fn refusal(status: StatusCode, path: &str, body: &[u8]) -> anyhow::Error {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end();
    match status {
        StatusCode::NOT_FOUND => {
            let own = env!("CARGO_PKG_VERSION");
            anyhow::anyhow!(
                "it does not know {path}: it is of another version than this one, {own}"
            )
        }
        // It is there, and says what it does not have.
        StatusCode::GONE => anyhow::anyhow!("{text}"),
        status => anyhow::anyhow!("{status}: {text}"),
    }
}
