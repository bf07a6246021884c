//! The options that name a relay.

use std::path::PathBuf;

use clap::Args;

use crate::config::options::heading;

/// A relay as the source of Services, in the place of the API server
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// The address of a relay (`rulec relay`) to follow instead of the API server: HOST, HOST:PORT
    /// or a URL [default port: 18000]
    ///
    /// Many nodes that follow a relay cost the API server one watch. What is read has the place of
    /// the API server's among the sources. A URL with http:// is for a relay that was started with
    /// --insecure.
    #[arg(long, help_heading = heading::RELAY, value_name = "ADDRESS")]
    pub relay: Option<String>,
    /// The certificates that verify the relay
    #[arg(long, help_heading = heading::RELAY, value_name = "FILE", requires = "relay")]
    pub relay_certificate_authority: Option<PathBuf>,
    /// The certificate of this node: its subject is that of a kubelet, the common name
    /// system:node:NAME in the organization system:nodes
    #[arg(long, help_heading = heading::RELAY, value_name = "FILE", requires = "relay_client_key", requires = "relay")]
    pub relay_client_certificate: Option<PathBuf>,
    /// The key of --relay-client-certificate
    #[arg(long, help_heading = heading::RELAY, value_name = "FILE", requires = "relay_client_certificate")]
    pub relay_client_key: Option<PathBuf>,
}
