//! A connection to a relay: TLS, HTTP/2, and one call with a stream in each direction.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rulec_compiler::name::NodeName;
use rulec_relay::discovery::{
    DeltaRequest, DeltaResponse, METHOD, Node, POSITION, Status, Struct, Value,
};
use rulec_relay::{Known, Position, Standing, Topic};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::metadata::AsciiMetadataValue;

use super::codec::RelayCodec;
use super::fault::Fault;
use super::{RELAY_PORT, RelayAccess, RelayStatus, RelayTiming};
use crate::error::printable;

/// How long an address may take to accept a connection, if it has nothing to do but that.
const CONNECT: Duration = Duration::from_secs(3);

/// The longest response. A relay cuts them far below that, but cannot cut a resource.
const LONGEST_RESPONSE: usize = 16 << 20;

/// How many bytes may be on their way.
const WINDOW: u32 = 1 << 20;

/// The code of gRPC for a request that cannot be used.
const INVALID_ARGUMENT: i32 = 3;

/// The most bytes of the reasons for which resources are refused.
const LONGEST_REASON: usize = 4 << 10;

/// A call that is being answered.
pub(super) struct Session {
    requests: mpsc::Sender<DeltaRequest>,
    responses: Streaming<DeltaResponse>,
    /// Moves the bytes.
    _connection: JoinSet<()>,
}

/// What this node has from before.
pub(super) struct First {
    /// The resources that need not be sent again.
    pub(super) known: Known,
    /// What the relay must know before it sends others.
    pub(super) floor: Position,
}

/// Connects, and asks for all resources but those that are known.
pub(super) async fn open(
    access: RelayAccess,
    node: NodeName,
    timing: RelayTiming,
    first: First,
    turn: usize,
    status: Arc<RelayStatus>,
) -> Result<Session, Fault> {
    let opening = async {
        let session = match tls(&access)? {
            Some(connector) => {
                let host = access.url.host().unwrap_or_default();
                let bare = host.trim_matches(['[', ']']).to_owned();
                let name = ServerName::try_from(bare).map_err(|_| Fault::Host(host.to_owned()))?;
                let socket = connect(&access.url, turn).await?;
                let socket = connector.connect(name, socket).await.map_err(Fault::Tls)?;
                let token = access.token.as_deref().map(read_token).transpose()?;
                call(socket, &access.url, &node, timing.ping, (first, token)).await?
            }
            None => {
                let socket = connect(&access.url, turn).await?;
                call(socket, &access.url, &node, timing.ping, (first, None)).await?
            }
        };
        status.opened();
        Ok(session)
    };
    timeout(timing.answer, opening).await.unwrap_or(Err(Fault::Silence(timing.answer)))
}

/// Returns how the connection is made secure; `None` if it is not.
fn tls(access: &RelayAccess) -> Result<Option<TlsConnector>, Fault> {
    if access.url.scheme_str() != Some("https") {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    if let Some(path) = &access.certificate_authority {
        let fault = |reason: String| Fault::File { path: path.clone(), reason };
        let all = CertificateDer::pem_file_iter(path).map_err(|it| fault(it.to_string()))?;
        for certificate in all {
            let certificate = certificate.map_err(|it| fault(it.to_string()))?;
            roots.add(certificate).map_err(|it| fault(it.to_string()))?;
        }
        if roots.is_empty() {
            return Err(fault("it has no certificate".to_owned()));
        }
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(Fault::Settings)?
        .with_root_certificates(roots);
    let mut config = match (&access.client_certificate, &access.client_key) {
        (Some(certificate), Some(key)) => {
            let fault = |path: &Path, reason: String| Fault::File { path: path.to_owned(), reason };
            let chain = CertificateDer::pem_file_iter(certificate)
                .and_then(Iterator::collect)
                .map_err(|error| fault(certificate, error.to_string()))?;
            let secret =
                PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, error.to_string()))?;
            let config = config.with_client_auth_cert(chain, secret);
            config.map_err(|error| fault(certificate, error.to_string()))?
        }
        (_, _) => config.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Some(TlsConnector::from(Arc::new(config))))
}

/// Reads the token that we show. It is read for each connection, because it is replaced before it
/// expires.
fn read_token(path: &Path) -> Result<AsciiMetadataValue, Fault> {
    let fault = |reason: String| Fault::File { path: path.to_owned(), reason };
    let text = fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let value = AsciiMetadataValue::try_from(format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| fault("it is not a token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Connects to one of the addresses: to that of our turn, and to the next ones if it does not answer.
/// So the nodes spread over several relays, and a node tries another one each time.
async fn connect(url: &Uri, turn: usize) -> Result<TcpStream, Fault> {
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(RELAY_PORT);
    let name = format!("{host}:{port}");
    let fault = |error| Fault::Connect(name.clone(), error);
    let addresses = lookup_host(&name).await.map_err(fault)?.collect();
    let mut last = io::ErrorKind::NotFound.into();
    for address in in_turn(addresses, turn) {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(socket)) => {
                // Answers are small and must not wait.
                let _ = socket.set_nodelay(true);
                return Ok(socket);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(fault(last))
}

/// Returns each address once, whatever order the resolver prefers, beginning with that of a turn.
fn in_turn(mut addresses: Vec<SocketAddr>, turn: usize) -> Vec<SocketAddr> {
    addresses.sort_unstable();
    addresses.dedup();
    let turn = turn.checked_rem(addresses.len()).unwrap_or_default();
    addresses.rotate_left(turn);
    addresses
}

async fn call(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    url: &Uri,
    node: &NodeName,
    ping: Duration,
    (first, token): (First, Option<AsciiMetadataValue>),
) -> Result<Session, Fault> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(ping)
        .keep_alive_timeout(ping)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Body>(TokioIo::new(socket))
        .await
        .map_err(Fault::Connection)?;
    let mut task = JoinSet::new();
    // Its failure reaches the call as well.
    task.spawn(async move { drop(connection.await) });
    let service = tower::service_fn(move |request| {
        let mut sender = sender.clone();
        async move { sender.send_request(request).await }
    });
    let (requests, sent) = mpsc::channel(2 * Topic::ALL.len());
    for (topic, versions) in Topic::ALL.into_iter().zip(first.known) {
        let node = (topic == Topic::ALL[0]).then(|| self_description(node, &first.floor));
        let request = DeltaRequest {
            node,
            type_url: topic.url().to_owned(),
            initial_versions: versions,
            ..DeltaRequest::default()
        };
        // There is room for all of them.
        let _ = requests.try_send(request);
    }
    let mut grpc =
        Grpc::with_origin(service, url.clone()).max_decoding_message_size(LONGEST_RESPONSE);
    grpc.ready().await.map_err(Fault::Connection)?;
    let mut stream = tonic::Request::new(ReceiverStream::new(sent));
    if let Some(token) = token {
        stream.metadata_mut().insert("authorization", token);
    }
    let path = PathAndQuery::from_static(METHOD);
    let answer = grpc.streaming(stream, path, RelayCodec).await.map_err(refused)?;
    Ok(Session { requests, responses: answer.into_inner(), _connection: task })
}

fn self_description(node: &NodeName, floor: &Position) -> Node {
    let standing = Standing { position: floor.clone(), ..Standing::default() };
    let position = (POSITION.to_owned(), Value { string: standing.to_string() });
    Node {
        id: node.to_string(),
        metadata: Some(Struct { fields: [position].into() }),
        user_agent: concat!("rulec/", env!("CARGO_PKG_VERSION")).to_owned(),
    }
}

fn refused(status: tonic::Status) -> Fault {
    Fault::Status { code: status.code().into(), message: printable(status.message()) }
}

impl Session {
    /// Returns the next response. Nothing is lost if this future is dropped.
    pub(super) async fn next(&mut self) -> Result<DeltaResponse, Fault> {
        self.responses.message().await.map_err(refused)?.ok_or(Fault::Ended)
    }

    /// Answers a response: with the reasons why resources cannot be used, if there are any. A
    /// connection that is gone is noticed by `next`.
    pub(super) async fn answer(&mut self, type_url: String, nonce: String, refused: &[String]) {
        let error = (!refused.is_empty()).then(|| {
            let mut message = refused.join("; ");
            message.truncate(message.floor_char_boundary(LONGEST_REASON));
            Status { code: INVALID_ARGUMENT, message }
        });
        let _ = self
            .requests
            .send(DeltaRequest { type_url, nonce, error, ..DeltaRequest::default() })
            .await;
    }

    /// Reports what this node does not program; an empty report if there is nothing.
    pub(super) async fn report(&mut self, report: Option<String>) {
        let type_url = Topic::Services.url().to_owned();
        let error = report.map(|message| Status { code: INVALID_ARGUMENT, message });
        let _ =
            self.requests.send(DeltaRequest { type_url, error, ..DeltaRequest::default() }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_begins_with_another_address() {
        let all = |numbers: &[u8]| -> Vec<SocketAddr> {
            numbers.iter().map(|it| SocketAddr::from(([192, 0, 2, *it], 18000))).collect()
        };
        let given = all(&[3, 1, 3, 2]);
        for (turn, expected) in [(0, [1, 2, 3]), (1, [2, 3, 1]), (5, [3, 1, 2])] {
            assert_eq!(in_turn(given.clone(), turn), all(&expected));
        }
        assert_eq!(in_turn(Vec::new(), 7), []);
    }
}
