//! Connections of nodes.

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rulec_compiler::name::NodeName;
use rulec_relay::discovery::METHOD;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use crate::Relay;
use crate::call::{FAREWELL, attend};
use crate::certificate::node_of_certificate;
use crate::door::{Crowd, Guest};
use crate::grpc::Responses;
use crate::peer::{Peer, Proof};
use crate::tls::{Clients, TlsFiles};
use crate::tokens::Tokens;

/// How often a silent node is asked whether it is there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);

/// How many bytes of a request may come before it is that node's turn.
const WINDOW: u32 = 64 << 10;

/// How many bytes of a stream may wait for the network.
const SEND_BUFFER: usize = 64 << 10;

/// How often the files of TLS are read again: certificates are renewed.
const RELOAD: Duration = Duration::from_secs(60);

/// The pause after a connection could not be accepted because file descriptors or memory ran out.
const EXHAUSTED: Duration = Duration::from_secs(1);

/// How nodes prove who they are.
#[derive(Clone, Debug)]
pub enum Security {
    /// By certificates, over TLS; or by tokens, if there is somebody who reviews them.
    Tls(TlsFiles, Option<Arc<Tokens>>),
    /// Not at all: anybody may read what any node may.
    None,
}

/// Serves the nodes that connect, until it is dropped.
///
/// # Errors
///
/// If the files of TLS cannot be used at the start. Later on, the last ones that could be used stay.
pub async fn serve(
    listener: TcpListener,
    security: Security,
    relay: Relay,
) -> Result<Infallible, crate::TlsError> {
    let (mut keys, tokens) = match security {
        Security::Tls(files, tokens) => {
            let clients = match &tokens {
                Some(_) => Clients::WithOrWithoutCertificate,
                None => Clients::WithCertificate,
            };
            (Some(Keys::load(files, clients)?), tokens)
        }
        Security::None => (None, None),
    };
    loop {
        relay.door.has_room().await;
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!("cannot accept a connection: {error}");
                sleep(EXHAUSTED).await;
                continue;
            }
        };
        let Some(guest) = let_in(&relay, peer) else { continue };
        // Small messages must not wait for more.
        let _ = socket.set_nodelay(true);
        let host = Host { relay: relay.clone(), tokens: tokens.clone(), guest: Arc::new(guest) };
        match &mut keys {
            Some(keys) => {
                let acceptor = TlsAcceptor::from(keys.current());
                tokio::spawn(secure(socket, peer, acceptor, host));
            }
            None => {
                host.guest.welcome(None);
                tokio::spawn(converse(socket, peer, Peer::Anybody, host));
            }
        }
    }
}

/// What a connection needs.
#[derive(Clone)]
struct Host {
    relay: Relay,
    tokens: Option<Arc<Tokens>>,
    guest: Arc<Guest>,
}

/// Returns the connection as one of those that there are, if there is room for it.
fn let_in(relay: &Relay, peer: SocketAddr) -> Option<Guest> {
    let (guest, crowd) = relay.door.enter();
    if let Some(crowd) = crowd {
        relay.stats().crowd_out();
        // Without the port, so that many lines are one for the limits of the log.
        let peer = peer.ip();
        match crowd {
            Crowd::All => warn!(%peer, "there are too many connections, the newest is closed"),
            Crowd::Strangers => warn!(
                %peer,
                "too many connections do not show whose they are, the oldest of them is closed"
            ),
        }
    }
    guest
}

/// The files of TLS and what they were when they could be used.
struct Keys {
    files: TlsFiles,
    clients: Clients,
    config: Arc<ServerConfig>,
    read: Instant,
}

impl Keys {
    fn load(files: TlsFiles, clients: Clients) -> Result<Self, crate::TlsError> {
        let config = files.load(clients)?;
        Ok(Self { files, clients, config, read: Instant::now() })
    }

    fn current(&mut self) -> Arc<ServerConfig> {
        if self.read.elapsed() >= RELOAD {
            self.read = Instant::now();
            match self.files.load(self.clients) {
                Ok(config) => self.config = config,
                Err(error) => warn!("the certificates are not read again: {error}"),
            }
        }
        self.config.clone()
    }
}

async fn secure(socket: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, host: Host) {
    let Host { relay, tokens, guest } = &host;
    let handshake = timeout(relay.bounds.proof, acceptor.accept(socket));
    let handshake = tokio::select! {
        handshake = handshake => handshake,
        () = guest.dismissed() => return,
    };
    let socket = match handshake {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            relay.stats().turn_away();
            debug!(%peer, "no TLS: {error}");
            return;
        }
        Err(_) => {
            debug!(%peer, "the handshake has taken too long");
            return;
        }
    };
    let certificate = socket.get_ref().1.peer_certificates().and_then(|all| all.first());
    if certificate.is_none() && tokens.is_some() {
        converse(socket, peer, Peer::Stranger, host).await;
        return;
    }
    let Some(node) = certificate.and_then(|it| node_of_certificate(it)) else {
        relay.stats().turn_away();
        info!(peer = %peer.ip(), "refused: its certificate is not that of a node");
        return;
    };
    guest.welcome(Some(&node));
    converse(socket, peer, Peer::Node(node, Proof::Certificate), host).await;
}

/// Serves a connection: one call, and then it ends.
async fn converse(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    peer: Peer,
    host: Host,
) {
    let has_call = Arc::new(AtomicBool::new(false));
    let over = Arc::new(Notify::new());
    let quiet = host.relay.bounds.proof;
    let guest = host.guest.clone();
    let answer = {
        let (has_call, over) = (has_call.clone(), over.clone());
        move |request: Request<Incoming>| {
            has_call.store(true, Relaxed);
            let ads = Ads { host: host.clone(), peer: peer.clone(), over: over.clone() };
            async move { Ok::<_, Infallible>(ads.answer(request).await) }
        }
    };
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(1)
        .max_header_list_size(16 << 10)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(socket), service_fn(answer));
    let mut connection = pin!(connection);
    let idle = async {
        sleep(quiet).await;
        if has_call.load(Relaxed) {
            pending::<()>().await;
        }
    };
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = async { tokio::select! {
            () = guest.dismissed() => {}
            () = over.notified() => {}
            () = idle => {}
        } } => {
            connection.as_mut().graceful_shutdown();
            // Whoever reads nothing must not keep it.
            timeout(FAREWELL, connection.as_mut()).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = served {
        debug!(peer = %address, "the connection has ended: {error}");
    }
}

/// The service of one connection.
struct Ads {
    host: Host,
    peer: Peer,
    /// Told when the call is over.
    over: Arc<Notify>,
}

impl Ads {
    async fn answer(mut self, request: Request<Incoming>) -> Response<Body> {
        if let Err(status) = self.admit(&request).await {
            self.over.notify_one();
            return status.into_http();
        }
        // One response is on its way to the network, and at most one more waits.
        let (out, responses) = mpsc::channel(1);
        let Self { host: Host { relay, .. }, peer, over } = self;
        // The requests are read once it is the node's turn.
        tokio::spawn(attend(request.into_body(), out, peer, relay, over));
        Responses::answer(responses)
    }

    /// Decides whether a call may begin, and whose it is.
    async fn admit(&mut self, request: &Request<Incoming>) -> Result<(), Status> {
        if request.uri().path() != METHOD {
            return Err(Status::unimplemented("only delta ADS is served"));
        }
        if let (Peer::Stranger, Some(tokens)) = (&self.peer, &self.host.tokens) {
            let node = node_of_call(request.headers(), tokens).await.inspect_err(|status| {
                if status.code() == Code::Unauthenticated {
                    self.host.relay.stats().turn_away();
                    info!("refused: {}", status.message());
                }
            })?;
            self.host.guest.welcome(Some(&node));
            self.peer = Peer::Node(node, Proof::Token);
        }
        if self.host.relay.state.borrow().is_none() {
            // The node can ask another relay.
            return Err(Status::unavailable("the sources of the relay have not delivered"));
        }
        Ok(())
    }
}

/// Returns the node whose token comes with a call.
async fn node_of_call(headers: &HeaderMap, tokens: &Tokens) -> Result<NodeName, Status> {
    let shown = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(token) = shown.and_then(|text| text.strip_prefix("Bearer ")) else {
        return Err(Status::unauthenticated("there is neither a certificate nor a token"));
    };
    tokens.check(token).await
}
