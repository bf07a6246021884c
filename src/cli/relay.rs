//! The command line of `rulec relay`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use rulec_compiler::name::NamespacedName;

use crate::config::options::heading;

/// `rulec relay`
#[derive(Debug, Args)]
pub struct RelayServerArgs {
    /// Where nodes connect
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:18000")]
    pub listen: SocketAddr,
    /// The certificate of the relay
    #[arg(long, value_name = "FILE", required_unless_present = "insecure", requires = "key")]
    pub certificate: Option<PathBuf>,
    /// The key of --certificate
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "insecure",
        requires = "certificate"
    )]
    pub key: Option<PathBuf>,
    /// The certificates that verify those of nodes
    ///
    /// A node shows a certificate like that of its kubelet: the common name system:node:NAME in the
    /// organization system:nodes. It gets what node NAME may know, and nothing else.
    #[arg(long, value_name = "FILE", required_unless_present_any = ["insecure", "token_audience"])]
    pub client_certificate_authority: Option<PathBuf>,
    /// Accept tokens of service accounts for this audience as well as certificates
    ///
    /// The API server reviews them, for which the relay needs the role system:auth-delegator. A
    /// token is that of the node of its Pod, which is in the token since Kubernetes 1.32.
    #[arg(long, value_name = "AUDIENCE", value_parser = NonEmptyStringValueParser::new())]
    pub token_audience: Option<String>,
    /// Whose tokens are accepted; may be given several times
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "kube-system/rulec", value_parser = account)]
    pub token_service_account: Vec<NamespacedName>,
    /// Serve without TLS, whoever asks: anybody who can connect may read what any node may
    #[arg(long, conflicts_with_all = ["certificate", "key", "client_certificate_authority", "token_audience"])]
    pub insecure: bool,
    /// Where to serve /readyz and /livez, for the probes of a kubelet; empty for nowhere
    ///
    /// /readyz fails until the sources have delivered, so that nodes are served.
    #[arg(long, help_heading = heading::OBSERVABILITY, value_name = "ADDRESS", default_value = "[::]:18002")]
    pub healthz_bind_address: String,
    /// Where to serve /metrics; empty for nowhere
    #[arg(long, help_heading = heading::OBSERVABILITY, value_name = "ADDRESS", default_value = "127.0.0.1:18001")]
    pub metrics_bind_address: String,
    /// A file with the API server's address and credentials [default: the service account of a Pod]
    #[arg(long, help_heading = heading::SOURCES, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the API server; overrides the kubeconfig
    #[arg(long, help_heading = heading::SOURCES, value_name = "URL")]
    pub master: Option<String>,
    /// A directory of Kubernetes manifests, or a single file; may be given several times
    ///
    /// They take precedence over the API server, on all nodes. Services must write their addresses:
    /// a relay gives none out. Pods are not sent to nodes.
    #[arg(long, help_heading = heading::SOURCES, value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
}

fn account(text: &str) -> Result<NamespacedName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
            Ok(NamespacedName::new(namespace, name))
        }
        Some(_) | None => Err("it must be NAMESPACE/NAME".to_owned()),
    }
}
