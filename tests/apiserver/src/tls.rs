//! Certificates: generated at start, and again when the test asks for it.

use std::net::IpAddr;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

type Authority = CertifiedIssuer<'static, KeyPair>;

/// The authorities and the server's certificate.
#[derive(Debug)]
pub(crate) struct Tls {
    names: Vec<String>,
    authority: Authority,
    /// Signs clients' certificates. Separate, so that a new authority of the server leaves them
    /// valid.
    clients: Authority,
    own: Own,
    config: Arc<ServerConfig>,
}

/// The server's own certificate and key.
#[derive(Debug)]
struct Own {
    certificate: Certificate,
    key: KeyPair,
}

impl Tls {
    /// Generates certificates for a server with this address, and with these names or addresses,
    /// too.
    pub(crate) fn of(address: IpAddr, mut names: Vec<String>) -> Self {
        names.push(address.to_string());
        names.extend(["localhost", "kubernetes.default.svc"].map(str::to_owned));
        let authority = authority("kubernetes");
        let clients = authority_of_clients();
        let own = own(&names, &authority);
        let config = config(&own, &clients);
        Self { names, authority, clients, own, config }
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.config)
    }

    pub(crate) fn authority_pem(&self) -> String {
        self.authority.pem()
    }

    /// Replaces the server's certificate by a new one of the same authority.
    pub(crate) fn rotate_certificate(&mut self) {
        self.own = own(&self.names, &self.authority);
        self.config = config(&self.own, &self.clients);
    }

    /// Replaces the authority by a new one that no client trusts yet, and the server's certificate.
    pub(crate) fn rotate_authority(&mut self) {
        self.authority = authority("kubernetes");
        self.rotate_certificate();
    }

    /// Returns the certificate of the authority that signs clients, in PEM.
    pub(crate) fn clients_pem(&self) -> String {
        self.clients.pem()
    }

    /// Returns the server's certificate and key, in PEM.
    pub(crate) fn own_pem(&self) -> (String, String) {
        (self.own.certificate.pem(), self.own.key.serialize_pem())
    }

    /// Returns a client's certificate and key, in PEM.
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

fn own(names: &[String], authority: &Authority) -> Own {
    let mut params = params("kube-apiserver", names);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate().expect("a key is made");
    let certificate = params.signed_by(&key, authority).expect("the authority signs");
    Own { certificate, key }
}

fn config(own: &Own, clients: &Authority) -> Arc<ServerConfig> {
    let provider = Arc::new(ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(clients.der().clone()).expect("an authority's certificate is valid");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()
            .expect("there is a root");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring knows TLS 1.2 and 1.3")
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![own.certificate.der().clone()], key)
        .expect("certificate and key belong together");
    Arc::new(config)
}
