//! Requests to podman's API: HTTP on a Unix socket.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::fault::Fault;
use crate::error::printable;

/// The version of the API that is asked for: podman 4 and 5 have it.
const VERSION: &str = "/v4.0.0/libpod";

/// The longest answer. A node runs some hundred containers.
const LONGEST_BODY: usize = 256 << 20;

/// An answer whose content may still be on its way.
pub(super) struct Answer {
    pub(super) body: Incoming,
    /// Moves the bytes; ends with this value.
    pub(super) connection: JoinSet<()>,
}

/// What podman says of an error.
#[derive(Deserialize)]
struct Said {
    message: String,
}

/// Asks for something, and waits for the answer to begin; `None` if there is no such thing. podman
/// closes a connection that is idle, so each request has its own.
pub(super) async fn open(socket: &Path, path: &str) -> Result<Option<Answer>, Fault> {
    let connected = UnixStream::connect(socket).await;
    let stream = connected.map_err(|source| Fault::Connect { path: socket.to_owned(), source })?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(Fault::Connection)?;
    let mut task = JoinSet::new();
    // Its failure reaches the request as well.
    task.spawn(async move { drop(connection.await) });
    let request = Request::get(format!("{VERSION}{path}"))
        .header("host", "localhost")
        .header("user-agent", concat!("rulec/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(Fault::Call)?;
    let response = sender.send_request(request).await.map_err(Fault::Connection)?;
    let answer =
        |response: Response<Incoming>| Answer { body: response.into_body(), connection: task };
    match response.status() {
        StatusCode::OK => Ok(Some(answer(response))),
        StatusCode::NOT_FOUND => Ok(None),
        status => {
            let body = read(path, answer(response)).await?;
            let said: Option<Said> = serde_json::from_slice(&body).ok();
            let text = said.map_or_else(|| String::from_utf8_lossy(&body).into(), |it| it.message);
            let message = printable(&text);
            Err(Fault::Http { path: path.to_owned(), status, message })
        }
    }
}

/// Asks for something, and reads the answer; `None` if there is no such thing.
pub(super) async fn get<T: DeserializeOwned>(
    socket: &Path,
    path: &str,
) -> Result<Option<T>, Fault> {
    let Some(answer) = open(socket, path).await? else { return Ok(None) };
    let body = read(path, answer).await?;
    let decoded = serde_json::from_slice(&body);
    decoded.map(Some).map_err(|source| Fault::Garbled { path: path.to_owned(), source })
}

async fn read(path: &str, answer: Answer) -> Result<Bytes, Fault> {
    let Answer { body, connection: _connection } = answer;
    let body = Limited::new(body, LONGEST_BODY).collect().await;
    body.map(Collected::to_bytes).map_err(|error| Fault::Body(path.to_owned(), error))
}

/// Waits for an answer, for a limited time.
pub(super) async fn answered<T>(
    most: Duration,
    asked: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout(most, asked).await.unwrap_or(Err(Fault::Silence(most)))
}
