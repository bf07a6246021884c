//! Keys and certificates of the server, read from files.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The files of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Its certificate, and those that lead from it to an authority.
    pub certificate: PathBuf,
    /// The key of the certificate.
    pub key: PathBuf,
    /// The authority of the certificates of nodes, if they can show one.
    pub client_authority: Option<PathBuf>,
}

/// Who may finish the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Those with a certificate of the authority.
    WithCertificate,
    /// Also those who show none. A certificate that is shown has to be good.
    WithOrWithoutCertificate,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct TlsError {
    path: PathBuf,
    reason: String,
}

impl TlsError {
    fn new(path: &Path, reason: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), reason: reason.to_string() }
    }
}

impl TlsFiles {
    /// Reads the files. Nodes must show a certificate, unless they can show something else later.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or does not have what it must have.
    pub fn load(&self, clients: Clients) -> Result<Arc<ServerConfig>, TlsError> {
        let Self { certificate, key, client_authority } = self;
        let own = certificates(certificate)?;
        let own_key =
            PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::new(key, error))?;
        let provider = Arc::new(ring::default_provider());
        let verifier = match (client_authority, clients) {
            (Some(path), clients) => verifier(path, clients, &provider)?,
            (None, Clients::WithOrWithoutCertificate) => WebPkiClientVerifier::no_client_auth(),
            (None, Clients::WithCertificate) => {
                return Err(TlsError::new(certificate, "there is no authority for those of nodes"));
            }
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::new(certificate, error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own, own_key)
            .map_err(|error| TlsError::new(certificate, error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Returns what verifies the certificates of nodes.
fn verifier(
    authority: &Path,
    clients: Clients,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(authority)? {
        roots.add(root).map_err(|error| TlsError::new(authority, error))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let builder = match clients {
        Clients::WithCertificate => builder,
        Clients::WithOrWithoutCertificate => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError::new(authority, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).map_err(|error| TlsError::new(path, error))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|error| TlsError::new(path, error))?;
    if all.is_empty() {
        return Err(TlsError::new(path, "it has no certificate"));
    }
    Ok(all)
}
