//! Small HTTP servers, on the daemon's own thread.
//!
//! A server answers one request per connection and closes it, so that idle clients hold no
//! connection open. Slow or silent clients are cut off; if there are too many connections, the
//! oldest is closed. A port that is taken is retried for as long as necessary: Services must not
//! wait for a health check.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
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
const RETRY: Duration = Duration::from_secs(5);

const FIRST_RETRY: Duration = Duration::from_millis(50);

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
    /// The body.
    pub body: Bytes,
}

impl HttpAnswer {
    /// An answer in plain text.
    pub fn text(code: StatusCode, body: impl Into<Bytes>) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { code, content_type, weight: None, body: body.into() }
    }

    /// An answer with an object as JSON.
    pub fn json(code: StatusCode, body: &impl Serialize) -> Self {
        match serde_json::to_vec(body) {
            Ok(body) => {
                Self { code, content_type: "application/json", weight: None, body: body.into() }
            }
            Err(error) => Self::text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    /// The answer for an unknown path.
    pub fn not_found() -> Self {
        Self::text(StatusCode::NOT_FOUND, "404 page not found\n")
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(weight) = self.weight {
            // The header that load balancers know from kube-proxy.
            headers.insert("x-load-balancing-endpoint-weight", HeaderValue::from(weight));
        }
        response
    }
}

/// The content of a server.
pub trait Site: Clone + Send + Sync + 'static {
    /// Returns the answer for a path, whatever the method.
    fn answer(&self, path: &str) -> impl Future<Output = HttpAnswer> + Send;

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
    let mut open: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_of_the_client(&error) => continue,
            Err(error) => {
                tracing::warn!(server = %what, %error, "cannot accept a connection");
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= CONNECTIONS
            && let Some(oldest) = open.pop_front()
        {
            oldest.abort();
        }
        open.push_back(tokio::spawn(converse(stream, site.clone())).abort_handle());
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

/// Answers the one request of a connection.
async fn converse(stream: TcpStream, site: impl Site) {
    let service = service_fn(move |request: Request<Incoming>| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(request.uri().path()).await.response()) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Failures here are the client's problem.
    match tokio::time::timeout(CONNECTION, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::trace!(%error, "a connection failed"),
        Err(_) => tracing::trace!("a client was too slow"),
    }
}
