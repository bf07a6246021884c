//! Connections of nodes.

use std::convert::Infallible;
use std::future::{Ready, pending, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rulec_relay::discovery::{DeltaRequest, METHOD};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::Relay;
use crate::call::{FAREWELL, attend};
use crate::certificate::node_of_certificate;
use crate::codec::RelayCodec;
use crate::door::{Crowd, Guest};
use crate::peer::Peer;
use crate::tls::TlsFiles;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Security {
    /// By certificates, over TLS.
    Tls(TlsFiles),
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
    let mut keys = match security {
        Security::Tls(files) => Some(Keys::load(files)?),
        Security::None => None,
    };
    loop {
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
        let relay = relay.clone();
        match &mut keys {
            Some(keys) => {
                let acceptor = TlsAcceptor::from(keys.current());
                tokio::spawn(secure(socket, peer, acceptor, guest, relay));
            }
            None => {
                guest.welcome(None);
                tokio::spawn(converse(socket, peer, Peer::Anybody, guest, relay));
            }
        }
    }
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
    config: Arc<ServerConfig>,
    read: Instant,
}

impl Keys {
    fn load(files: TlsFiles) -> Result<Self, crate::TlsError> {
        let config = files.load()?;
        Ok(Self { files, config, read: Instant::now() })
    }

    fn current(&mut self) -> Arc<ServerConfig> {
        if self.read.elapsed() >= RELOAD {
            self.read = Instant::now();
            match self.files.load() {
                Ok(config) => self.config = config,
                Err(error) => warn!("the certificates are not read again: {error}"),
            }
        }
        self.config.clone()
    }
}

async fn secure(
    socket: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    guest: Guest,
    relay: Relay,
) {
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
    let certificates = socket.get_ref().1.peer_certificates();
    let node = certificates.and_then(|all| node_of_certificate(all.first()?));
    let Some(node) = node else {
        relay.stats().turn_away();
        info!(peer = %peer.ip(), "refused: its certificate is not that of a node");
        return;
    };
    guest.welcome(Some(&node));
    converse(socket, peer, Peer::Node(node), guest, relay).await;
}

/// Serves a connection: one call, and then it ends.
async fn converse(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    peer: Peer,
    guest: Guest,
    relay: Relay,
) {
    let has_call = Arc::new(AtomicBool::new(false));
    let over = Arc::new(Notify::new());
    let quiet = relay.bounds.proof;
    let answer = {
        let (has_call, over) = (has_call.clone(), over.clone());
        move |request: Request<Incoming>| {
            has_call.store(true, Relaxed);
            let ads = Ads { relay: relay.clone(), peer: peer.clone(), over: over.clone() };
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
    relay: Relay,
    peer: Peer,
    /// Told when the call is over.
    over: Arc<Notify>,
}

impl Ads {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        let refused = if request.uri().path() != METHOD {
            Some(Status::unimplemented("only delta ADS is served"))
        } else if self.relay.state.borrow().is_none() {
            // The node can ask another relay.
            Some(Status::unavailable("the sources of the relay have not delivered"))
        } else {
            None
        };
        if let Some(status) = refused {
            self.over.notify_one();
            return status.into_http();
        }
        let (head, body) = request.into_parts();
        // The requests are read elsewhere, once it is the node's turn.
        let head = Request::from_parts(head, Empty::<Bytes>::new());
        Grpc::new(RelayCodec).streaming(Call { ads: self, body: Some(body) }, head).await
    }
}

/// A call that is about to begin.
struct Call {
    ads: Ads,
    body: Option<Incoming>,
}

impl StreamingService<DeltaRequest> for Call {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: tonic::Request<Streaming<DeltaRequest>>) -> Self::Future {
        // One response is on its way to the network, and at most one more waits.
        let (out, responses) = mpsc::channel(1);
        let Ads { relay, peer, over } = &self.ads;
        if let Some(body) = self.body.take() {
            tokio::spawn(attend(body, out, peer.clone(), relay.clone(), over.clone()));
        }
        ready(Ok(tonic::Response::new(ReceiverStream::new(responses))))
    }
}
