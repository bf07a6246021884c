//! A client that shows each byte: handwritten HTTP/1.1 over TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use rulec_apiserver::ApiServer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::now;

/// The bytes received before the connection ended, and how it ended.
pub(crate) struct Answer {
    /// The status line and headers.
    pub(crate) head: String,
    /// The body, with its chunks joined.
    pub(crate) body: Vec<u8>,
    /// Whether the last chunk was received.
    pub(crate) complete: bool,
}

pub(crate) async fn get(server: &ApiServer, path: &str) -> Answer {
    let mut stream = connect(server.address(), &server.authority_pem()).await;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer token\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A close without close_notify is an error, but the bytes received before it are in the buffer.
    let _end = now(stream.read_to_end(&mut bytes)).await;
    let split = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let (body, complete) = unchunk(&bytes[split + 4..]);
    Answer { head: String::from_utf8(bytes[..split].to_vec()).unwrap(), body, complete }
}

async fn connect(address: SocketAddr, authority: &str) -> TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

fn unchunk(mut bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = std::str::from_utf8(&bytes[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            return (body, true);
        }
        let rest = &bytes[end + 2..];
        body.extend_from_slice(&rest[..size.min(rest.len())]);
        bytes = rest.get(size + 2..).unwrap_or_default();
    }
    (body, false)
}
