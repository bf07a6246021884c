//! The options that name a relay.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::options::heading;

/// How long a relay may be away: it takes less to start another one.
const FALLBACK: Duration = Duration::from_secs(30);

/// A relay as the source of Services, in the place of the API server
#[derive(Debug, Args)]
pub struct RelayArgs {
    /// The address of a relay (`rulec relay`) to follow instead of the API server: HOST, HOST:PORT
    /// or a URL [default port: 18000]
    ///
    /// Many nodes that follow a relay cost the API server one watch. What is read has the place of
    /// the API server's among the sources. If access to the API server is given as well (in a Pod or
    /// by --kubeconfig), it takes the place of the relay while that is away. A URL with http:// is for
    /// a relay that was started with --insecure.
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
    /// A token that shows the relay which node this is, instead of a certificate: of a service
    /// account, for the audience that the relay asks for
    ///
    /// A projected volume of a Pod has such a token. The file is read for each connection.
    #[arg(long, help_heading = heading::RELAY, value_name = "FILE", requires = "relay")]
    pub relay_token: Option<PathBuf>,
    /// How long the relay must be away before the API server is asked, if access to it is given; 0
    /// for never [default: 30]
    ///
    /// Up to a quarter of it is added, differently on each node. The relay is followed again once it
    /// knows as much as the server has sent.
    #[arg(long, help_heading = heading::RELAY, value_name = "SECONDS", requires = "relay", value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub relay_fallback_seconds: Option<u64>,
}

impl RelayArgs {
    /// Returns how long the relay must be away before the API server is asked; zero for never.
    pub fn fallback(&self) -> Duration {
        self.relay_fallback_seconds.map_or(FALLBACK, Duration::from_secs)
    }
}
