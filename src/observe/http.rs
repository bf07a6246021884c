//! Small HTTP servers, on the daemon's own thread.
//!
//! A server answers one request per connection and closes it, so that idle clients hold no
//! connection open. Slow or silent clients are cut off; if there are too many connections, the
//! oldest is closed. Both are spared that follow a stream: the site allows only a few of them. A port that is taken is retried for as long as necessary: Services must not
//! wait for a health check.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// How long a client may take for the head of its request, up to the empty line.
const HEADER: Duration = Duration::from_secs(5);

/// How long a connection may take altogether.
const CONNECTION: Duration = Duration::from_secs(30);

/// How many connections a server has at once.
const CONNECTIONS: usize = 128;

/// How many connections may wait to be accepted.
const ACCEPTED: i32 = 128;

/// The longest pause before a port that is taken is tried again. The first pause is short, for a
/// port whose last holder is just closing it.
pub(super) const RETRY: Duration = Duration::from_secs(5);

pub(super) const FIRST_RETRY: Duration = Duration::from_millis(50);

/// The pause after a connection could not be accepted because file descriptors or memory ran out.
const EXHAUSTED: Duration = Duration::from_secs(1);

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    /// The status.
    pub code: StatusCode,
    /// The type of the body.
    pub content_type: &'static str,
    /// The number of endpoints on this node, in answers to load balancers.
    pub weight: Option<usize>,
    /// Headers of this kind of answer.
    pub headers: &'static [(&'static str, &'static str)],
    /// The body.
    pub body: Bytes,
}

impl HttpAnswer {
    /// An answer in plain text.
    pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { code, content_type, weight: None, headers: &[], body: body.into() }
    }

    /// An answer with an object as JSON.
    pub fn json(code: StatusCode, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => Self { content_type: "application/json", ..Self::text(code, body) },
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// The answer for an unknown path.
    pub fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }

    fn response(self) -> Response<Either<Full<Bytes>, Lines>> {
        let mut response = Response::new(Either::Left(Full::new(self.body)));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        for (name, value) in self.headers {
            headers.insert(*name, HeaderValue::from_static(value));
        }
        if let Some(weight) = self.weight {
            // The header that load balancers know from kube-proxy.
            headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(weight));
        }
        response
    }
}

/// The body of an answer that is followed.
#[derive(Debug)]
struct Lines(mpsc::Receiver<Bytes>);

impl Lines {
    fn response(self) -> Response<Either<Full<Bytes>, Self>> {
        let mut response = Response::new(Either::Right(self));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/jsonl"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// The content of a server.
pub trait Site: Clone + Send + Sync + 'static {
    /// Returns the answer for a path and the query after it, which may be empty.
    fn answer(&self, path: &str, query: &str) -> impl Future<Output = HttpAnswer> + Send;

    /// Returns the lines of a path that is followed instead of answered once: JSON, one by one, until
    /// either end is dropped. `follows` is true meanwhile: the connection may last as long.
    fn follow(
        &self,
        _path: &str,
        _follows: &Arc<AtomicBool>,
    ) -> impl Future<Output = Option<mpsc::Receiver<Bytes>>> + Send {
        std::future::ready(None)
    }

    /// Returns whether a method is answered at a path. Any other gets the status 405.
    fn allows(&self, _: &Method, _path: &str) -> bool {
        true
    }

    /// Called once if an address is not available yet.
    fn waits_for(&self, _: SocketAddr, _: &io::Error) {}
}

/// Where a server listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind {
    /// The address.
    pub address: SocketAddr,
    /// Whether `[::]` means IPv6 only.
    pub v6_only: bool,
    /// Whether it is fatal if the address is not available.
    pub hard_fail: bool,
}

/// Serves a site until it is dropped. `what` names it in the log.
///
/// # Errors
///
/// If the address is not available, and that is fatal.
pub async fn serve(what: String, bind: Bind, site: impl Site) -> io::Result<Infallible> {
    let listener = listen(&what, bind, &site).await?;
    serve_all(&what, &listener, CONNECTIONS, site).await
}

/// Something that connections come from.
pub(super) trait Listen {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listen for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listen for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

/// Serves a site on all connections of a listener, `most` at once, for ever.
pub(super) async fn serve_all(
    what: &str,
    listener: &impl Listen,
    most: usize,
    site: impl Site,
) -> ! {
    let mut open: VecDeque<(AbortHandle, Arc<AtomicBool>)> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                tracing::warn!(server = what, %error, "cannot accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        open.retain(|(connection, _)| !connection.is_finished());
        if open.len() >= most {
            let oldest = open.iter().position(|(_, follows)| !follows.load(Relaxed));
            if let Some((oldest, _)) = open.remove(oldest.unwrap_or(0)) {
                oldest.abort();
            }
        }
        let follows = Arc::new(AtomicBool::new(false));
        let connection = tokio::spawn(converse(stream, site.clone(), Arc::clone(&follows)));
        open.push_back((connection.abort_handle(), follows));
    }
}

/// Returns whether a connection ended before it was accepted.
fn is_of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// Listens as soon as the address is available.
async fn listen(what: &str, bind: Bind, site: &impl Site) -> io::Result<TcpListener> {
    let address = bind.address;
    let mut pause = FIRST_RETRY;
    loop {
        match open(bind) {
            Ok(listener) => {
                tracing::debug!(server = what, %address, "listening");
                return Ok(listener);
            }
            Err(error) if bind.hard_fail => {
                let message = format!("{what}: cannot listen on {address}: {error}");
                return Err(io::Error::new(error.kind(), message));
            }
            Err(error) => {
                // Logged once: success will be logged, too.
                if pause == FIRST_RETRY {
                    tracing::warn!(
                        server = what,
                        %address,
                        %error,
                        "cannot listen; will keep retrying"
                    );
                    site.waits_for(address, &error);
                }
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY);
    }
}

fn open(bind: Bind) -> io::Result<TcpListener> {
    let Bind { address, v6_only, .. } = bind;
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(v6_only)?;
    }
    // Otherwise the connections of the process that this one replaces would keep the port for a
    // minute.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(ACCEPTED)?;
    TcpListener::from_std(socket.into())
}

/// Answers the one request of a connection. Notes whether it follows.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    site: impl Site,
    follows: Arc<AtomicBool>,
) {
    let noted = Arc::clone(&follows);
    let service = service_fn(move |request: Request<Incoming>| {
        let (site, noted) = (site.clone(), Arc::clone(&noted));
        async move {
            let uri = request.uri();
            let path = uri.path();
            let answer = if !site.allows(request.method(), path) {
                HttpAnswer::text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed\n")
            } else if let Some(lines) = site.follow(path, &noted).await {
                return Ok(Lines(lines).response());
            } else {
                site.answer(path, uri.query().unwrap_or_default()).await
            };
            Ok::<_, Infallible>(answer.response())
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Failures here are the client's problem.
    loop {
        match tokio::time::timeout(CONNECTION, connection.as_mut()).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => return tracing::trace!(%error, "a connection failed"),
            Err(_) if follows.load(Relaxed) => {}
            Err(_) => return tracing::trace!("a client was too slow"),
        }
    }
}
