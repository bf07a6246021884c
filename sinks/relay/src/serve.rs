//! Connections of nodes.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rulec_relay::discovery::{DeltaRequest, METHOD};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, StreamingService};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::Relay;
use crate::certificate::node_of_certificate;
use crate::codec::RelayCodec;
use crate::peer::Peer;
use crate::stream;
use crate::tls::TlsFiles;

/// How long the handshake of TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How often a silent node is asked whether it is there, and how long it may take to answer.
const PING: Duration = Duration::from_secs(20);

/// The longest request: a node names each resource that it has.
const LONGEST_REQUEST: usize = 64 << 20;

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
        // Small messages must not wait for more.
        let _ = socket.set_nodelay(true);
        let relay = relay.clone();
        match &mut keys {
            Some(keys) => {
                let acceptor = TlsAcceptor::from(keys.current());
                tokio::spawn(secure(socket, peer, acceptor, relay));
            }
            None => {
                tokio::spawn(converse(socket, peer, Peer::Anybody, relay));
            }
        }
    }
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

async fn secure(socket: TcpStream, peer: SocketAddr, acceptor: TlsAcceptor, relay: Relay) {
    let socket = match timeout(HANDSHAKE, acceptor.accept(socket)).await {
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
        info!(%peer, "refused: its certificate is not that of a node");
        return;
    };
    converse(socket, peer, Peer::Node(node), relay).await;
}

async fn converse(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    address: SocketAddr,
    peer: Peer,
    relay: Relay,
) {
    let answer = move |request: Request<Incoming>| {
        let ads = Ads { relay: relay.clone(), peer: peer.clone() };
        async move { Ok::<_, Infallible>(ads.answer(request).await) }
    };
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .max_concurrent_streams(4)
        .max_header_list_size(16 << 10)
        .max_send_buf_size(SEND_BUFFER)
        .serve_connection(TokioIo::new(socket), service_fn(answer))
        .await;
    if let Err(error) = served {
        debug!(peer = %address, "the connection has ended: {error}");
    }
}

/// The service of one connection.
struct Ads {
    relay: Relay,
    peer: Peer,
}

impl Ads {
    async fn answer(self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() != METHOD {
            return Status::unimplemented("only delta ADS is served").into_http();
        }
        let mut grpc = Grpc::new(RelayCodec).max_decoding_message_size(LONGEST_REQUEST);
        grpc.streaming(self, request).await
    }
}

impl StreamingService<DeltaRequest> for Ads {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = Ready<Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, request: tonic::Request<Streaming<DeltaRequest>>) -> Self::Future {
        // One response is on its way to the network, and at most one more waits.
        let (out, responses) = mpsc::channel(1);
        let (relay, peer) = (self.relay.clone(), self.peer.clone());
        tokio::spawn(stream::follow(request.into_inner(), out, peer, relay));
        ready(Ok(tonic::Response::new(ReceiverStream::new(responses))))
    }
}
