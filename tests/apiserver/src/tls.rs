//! Certificates: made at start, and made anew when the test says so.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// The authorities, and what the server shows.
#[derive(Debug)]
pub(crate) struct Tls {
    names: Vec<String>,
    authority: Authority,
    /// Signs clients. Separate, so that a new authority of the server shuts nobody out.
    clients: Authority,
    config: Arc<ServerConfig>,
}

impl Tls {
    /// For a server known under these names or addresses.
    pub(crate) fn new(names: Vec<String>) -> Self {
        let authority = authority("kubernetes");
        let clients = authority_of_clients();
        let config = config(&names, &authority, &clients);
        Self { names, authority, clients, config }
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// A new certificate of the server by the same authority.
    pub(crate) fn rotate_certificate(&mut self) {
        self.config = config(&self.names, &self.authority, &self.clients);
    }

    /// A new authority, whom nobody trusts yet, and a certificate by it.
    pub(crate) fn rotate_authority(&mut self) {
        self.authority = authority("kubernetes");
        self.rotate_certificate();
    }

    /// A client's certificate and key, in PEM.
    pub(crate) fn client(&self, name: &str) -> (String, String) {
        let mut params = params(name, &[]);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key is made");
        let certificate = params.signed_by(&key, &self.clients).expect("the authority signs");
        (certificate.pem(), key.serialize_pem())
    }
}

fn authority_of_clients() -> Authority {
    authority("kubernetes-clients")
}

fn authority(name: &str) -> Authority {
    let mut params = params(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let key = KeyPair::generate().expect("a key is made");
    CertifiedIssuer::self_signed(params, key).expect("an authority signs itself")
}

fn params(common_name: &str, names: &[String]) -> CertificateParams {
    let mut params = CertificateParams::new(names).expect("the test gives valid names");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params
}

fn config(names: &[String], authority: &Authority, clients: &Authority) -> Arc<ServerConfig> {
    let mut params = params("kube-apiserver", names);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key is made");
    let certificate = params.signed_by(&key, authority).expect("the authority signs");

    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(clients.der().clone()).expect("an authority's certificate is valid");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("there is a root");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("certificate and key belong together");
    Arc::new(config)
}
