//! Kubeconfig files for clients of the server.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::tls::Tls;

/// How a client authenticates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A certificate with this common name, made for the file.
    ClientCertificate(String),
    /// No credentials.
    None,
    /// A bearer token, in the kubeconfig itself.
    Token(String),
    /// A bearer token in a file, which clients read again from time to time.
    TokenFile(PathBuf),
}

impl Credential {
    fn user(&self, tls: &Tls) -> Value {
        match self {
            Self::ClientCertificate(name) => {
                let (certificate, key) = tls.client(name);
                json!({
                    "client-certificate-data": STANDARD.encode(certificate),
                    "client-key-data": STANDARD.encode(key),
                })
            }
            Self::None => json!({}),
            Self::Token(token) => json!({ "token": token }),
            Self::TokenFile(path) => json!({ "tokenFile": path }),
        }
    }
}

/// Returns a kubeconfig in JSON, which is also YAML.
pub(crate) fn kubeconfig(url: &str, tls: &Tls, credential: &Credential) -> String {
    let cluster = json!({
        "server": url,
        "certificate-authority-data": STANDARD.encode(tls.authority_pem()),
    });
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "test", "cluster": cluster }],
        "users": [{ "name": "test", "user": credential.user(tls) }],
        "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        "current-context": "test",
    });
    format!("{config:#}\n")
}
