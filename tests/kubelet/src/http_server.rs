//! The HTTP server: `GET /pods`, on the read-only port or with credentials.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::pod::Pod;

/// What a client needs for the server with credentials, in PEM.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The certificate of the server's authority.
    pub authority: String,
    /// A client's certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
    /// A token that the server takes in place of a certificate.
    pub token: String,
    /// The server's certificate.
    pub server_certificate: String,
    /// Its key.
    pub server_key: String,
}

impl Credentials {
    /// Makes credentials for a server at 127.0.0.1.
    ///
    /// # Panics
    ///
    /// If the certificates cannot be made.
    #[must_use]
    pub fn make() -> Self {
        tls().1
    }
}

/// A kubelet's HTTP server. It ends when it is dropped.
#[derive(Debug)]
pub struct HttpKubelet {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    status: StatusCode,
    body: Bytes,
    requests: usize,
    token: Option<String>,
}

impl HttpKubelet {
    /// Starts the server without credentials on a port of loopback.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    #[must_use]
    pub fn start(pods: &[Pod]) -> Self {
        Self::with(pods, None, None)
    }

    /// Starts the server that asks for credentials.
    ///
    /// # Panics
    ///
    /// If it cannot listen.
    #[must_use]
    pub fn secured(pods: &[Pod]) -> (Self, Credentials) {
        let (config, credentials) = tls();
        let token = Some(credentials.token.clone());
        (Self::with(pods, Some(config), token), credentials)
    }

    fn with(pods: &[Pod], tls: Option<ServerConfig>, token: Option<String>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("it listens");
        listener.set_nonblocking(true).expect("it does not block");
        let address = listener.local_addr().expect("it has an address");
        let state = State { status: StatusCode::OK, body: list(pods), requests: 0, token };
        let state = Arc::new(Mutex::new(state));
        let (end, ended) = oneshot::channel();
        let thread = thread::spawn({
            let state = Arc::clone(&state);
            move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    tokio::select! {
                        () = accept(listener, tls, state) => {}
                        _ = ended => {}
                    }
                });
            }
        });
        Self { address, state, end: Some(end), thread: Some(thread) }
    }

    /// Returns its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the number of requests so far.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.state().requests
    }

    /// Changes the Pods.
    pub fn set(&self, pods: &[Pod]) {
        self.answer(200, &list(pods));
    }

    /// Changes the answer.
    ///
    /// # Panics
    ///
    /// If this is no status.
    pub fn answer(&self, status: u16, body: &[u8]) {
        let mut state = self.state();
        state.status = StatusCode::from_u16(status).expect("a status");
        state.body = Bytes::copy_from_slice(body);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HttpKubelet {
    fn drop(&mut self) {
        drop(self.end.take());
        let outcome = self.thread.take().map(JoinHandle::join);
        if !thread::panicking() {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()), "the kubelet has panicked");
        }
    }
}

fn list(pods: &[Pod]) -> Bytes {
    let items: Vec<_> = pods.iter().map(Pod::json).collect();
    json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        .to_string()
        .into()
}

async fn accept(
    listener: std::net::TcpListener,
    tls: Option<ServerConfig>,
    state: Arc<Mutex<State>>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    loop {
        let (stream, _) = listener.accept().await.expect("it accepts");
        let (acceptor, state) = (acceptor.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            match acceptor {
                None => {
                    let service = service_fn(|request| answer(request, &state, false));
                    let stream = TokioIo::new(stream);
                    drop(http1::Builder::new().serve_connection(stream, service).await);
                }
                Some(acceptor) => {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let is_known = stream.get_ref().1.peer_certificates().is_some();
                    let service = service_fn(|request| answer(request, &state, is_known));
                    let stream = TokioIo::new(stream);
                    drop(http1::Builder::new().serve_connection(stream, service).await);
                }
            }
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: &Mutex<State>,
    is_known: bool,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.requests += 1;
    let shown = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let is_allowed = is_known
        || state.token.as_ref().is_none_or(|token| shown == Some(&format!("Bearer {token}")));
    let (status, body) = if !is_allowed {
        (StatusCode::UNAUTHORIZED, Bytes::from_static(b"Unauthorized"))
    } else if request.uri().path() == "/pods" {
        (state.status, state.body.clone())
    } else {
        (StatusCode::NOT_FOUND, Bytes::new())
    };
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::new(body)).expect("a response"))
}

fn tls() -> (ServerConfig, Credentials) {
    let key = || KeyPair::generate().expect("a key is made");
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority = CertifiedIssuer::self_signed(params, key()).expect("it signs itself");
    let signed = |usage: ExtendedKeyUsagePurpose, key: &KeyPair| {
        let names = vec!["127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("valid names");
        params.extended_key_usages = vec![usage];
        params.signed_by(key, &authority).expect("the authority signs")
    };
    let (server_key, client_key) = (key(), key());
    let server = signed(ExtendedKeyUsagePurpose::ServerAuth, &server_key);
    let client = signed(ExtendedKeyUsagePurpose::ClientAuth, &client_key);
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("a valid certificate");
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .expect("there is a root");
    let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.der().clone()], der)
        .expect("certificate and key belong together");
    let credentials = Credentials {
        authority: authority.pem(),
        certificate: client.pem(),
        key: client_key.serialize_pem(),
        token: "the-token".to_owned(),
        server_certificate: server.pem(),
        server_key: server_key.serialize_pem(),
    };
    (config, credentials)
}
