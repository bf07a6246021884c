//! The options that name the kubelet.

use std::path::PathBuf;

use clap::Args;

use crate::config::go_bool;
use crate::config::options::{heading, path_or_none};

/// The kubelet of this node as a source of Pods
#[derive(Debug, Args)]
pub struct KubeletArgs {
    /// Follow the Pods of this node's kubelet [default: true if the directory of its pods API
    /// exists and no API server is configured]
    ///
    /// The kubelet knows the addresses of static Pods, whose manifests have none. Its pods API
    /// (feature gate PodsAPI) reports each change; without it, set --kubelet-url.
    #[arg(long, help_heading = heading::KUBELET, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub kubelet: Option<bool>,
    /// The root directory of the kubelet; its pods API is at pods-api/pods-api.sock in it [default:
    /// /var/lib/kubelet]
    #[arg(long, help_heading = heading::KUBELET, value_name = "DIRECTORY")]
    pub kubelet_root_dir: Option<PathBuf>,
    /// The directory of the kubelet's static Pods (staticPodPath), read as by --manifests; empty for
    /// none [default: /etc/kubernetes/manifests if it exists beside other manifests, and no API
    /// server is configured]
    ///
    /// It takes precedence over other manifests. The kubelet's own word on a Pod takes precedence
    /// over both.
    #[arg(long, help_heading = heading::KUBELET, value_name = "DIRECTORY", value_parser = path_or_none())]
    pub pod_manifest_path: Option<PathBuf>,
    /// Ask the kubelet's HTTP server for its Pods instead: http://127.0.0.1:10255, or https and
    /// port 10250
    #[arg(long, help_heading = heading::KUBELET, value_name = "URL")]
    pub kubelet_url: Option<String>,
    /// How often to ask --kubelet-url [default: 2]
    #[arg(long, help_heading = heading::KUBELET, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub kubelet_poll_seconds: Option<u64>,
    /// The certificates that verify the server of --kubelet-url
    #[arg(long, help_heading = heading::KUBELET, value_name = "FILE")]
    pub kubelet_certificate_authority: Option<PathBuf>,
    /// The certificate to show to --kubelet-url
    #[arg(long, help_heading = heading::KUBELET, value_name = "FILE", requires = "kubelet_client_key")]
    pub kubelet_client_certificate: Option<PathBuf>,
    /// The key of --kubelet-client-certificate
    #[arg(long, help_heading = heading::KUBELET, value_name = "FILE", requires = "kubelet_client_certificate")]
    pub kubelet_client_key: Option<PathBuf>,
    /// A token to show to --kubelet-url, instead of a certificate
    #[arg(long, help_heading = heading::KUBELET, value_name = "FILE", conflicts_with = "kubelet_client_certificate")]
    pub kubelet_token_file: Option<PathBuf>,
}
