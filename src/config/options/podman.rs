//! The options that name podman.

use std::path::PathBuf;

use clap::Args;

use crate::config::go_bool;
use crate::config::options::heading;

/// podman on this node as a source of Pods
#[derive(Debug, Args)]
pub struct PodmanArgs {
    /// Follow the Pods and containers of this node's podman [default: true if its socket exists,
    /// no API server is configured, and the kubelet is not followed]
    ///
    /// A container is a Pod of the namespace default, with its labels and the address that podman
    /// has given it.
    #[arg(long, help_heading = heading::PODMAN, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub podman: Option<bool>,
    /// The socket of podman's API [default: /run/podman/podman.sock]
    #[arg(long, help_heading = heading::PODMAN, value_name = "FILE")]
    pub podman_socket: Option<PathBuf>,
}
