//! Tests with options and files as input, and configurations and messages as output.

mod docs;
mod durations;
mod every_field;
mod files;
mod ipvs;
mod manifests;
mod precedence;
mod rules;
mod sources;
mod static_pods;

use std::io;
use std::path::Path;
use std::time::Duration;

use clap::Parser;

use rulec_compiler::settings::{DetectLocal, NodePortAddresses};

use super::{Config, File, Invalid, Loaded, Mode, Surroundings};
use crate::cli::{Cli, Command, LogFormat};

const FILE: &str = "proxy.conf";

/// The head of every file here; the body starts in line 3.
const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// Loads what `rulec run` makes of these options, with or without a file, in a Pod.
fn load(options: &[&str], file: Option<&str>) -> Result<Loaded, Invalid> {
    load_in(options, file, true)
}

fn load_in(options: &[&str], file: Option<&str>, in_cluster: bool) -> Result<Loaded, Invalid> {
    load_among(|_| Ok(false), options, file, in_cluster)
}

/// Loads them on a node with these directories.
fn load_among(
    has_directory: fn(&Path) -> io::Result<bool>,
    options: &[&str],
    file: Option<&str>,
    in_cluster: bool,
) -> Result<Loaded, Invalid> {
    let cli = Cli::try_parse_from(["rulec", "run"].iter().chain(options)).unwrap();
    let Command::Run(run) = cli.command else { unreachable!("it says run") };
    let file = file.map(|text| File { name: FILE, bytes: text.as_bytes() });
    let has_pods_api = |root: &Path| match root.to_str() {
        Some("/closed") => Err(io::ErrorKind::PermissionDenied.into()),
        root => Ok(root == Some("/with-pods-api")),
    };
    let has_podman = |socket: &Path| match socket.to_str() {
        Some("/closed/podman.sock") => Err(io::ErrorKind::PermissionDenied.into()),
        socket => Ok(socket == Some("/there/podman.sock")),
    };
    let hostname = "Node-A".to_owned();
    let surroundings =
        Surroundings { hostname, in_cluster, has_pods_api, has_podman, has_directory };
    Config::load(&run, &cli.log, file, &surroundings)
}

/// Loads a file with this body.
fn load_file(body: &str) -> Result<Loaded, Invalid> {
    load(&[], Some(&format!("{HEAD}{body}")))
}

fn printed(problems: &[super::Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}

/// Returns the errors, as printed.
#[track_caller]
fn errors(loaded: Result<Loaded, Invalid>) -> Vec<String> {
    printed(&loaded.expect_err("something is wrong").0)
}

#[test]
fn the_defaults_are_those_of_kube_proxy_in_nftables_mode() {
    let Loaded { config, warnings, .. } = load(&[], None).unwrap();
    assert_eq!(printed(&warnings), [""; 0]);
    assert_eq!(config.settings.node_name.as_str(), "node-a");
    assert!(config.settings.node_addresses.is_empty());
    assert_eq!(config.mode, Mode::Nftables);
    assert!(!config.settings.masquerade_all);
    assert_eq!(config.settings.masquerade_bit.mark(), 0x4000);
    assert_eq!(config.settings.detect_local, DetectLocal::ClusterCidr(Vec::new()));
    assert_eq!(config.settings.node_port_addresses, NodePortAddresses::Primary);
    assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
    assert_eq!(config.metrics, Some("127.0.0.1:10249".parse().unwrap()));
    assert!(!config.bind_address_hard_fail);
    assert_eq!(config.conntrack.max_per_core, 32 * 1024);
    assert_eq!(config.conntrack.min, 128 * 1024);
    assert_eq!(config.conntrack.tcp_established_timeout, Some(Duration::from_secs(24 * 3600)));
    assert_eq!(config.conntrack.tcp_close_wait_timeout, Some(Duration::from_secs(3600)));
    assert!(!config.conntrack.tcp_be_liberal);
    assert_eq!(config.conntrack.udp_timeout, None);
    assert_eq!(config.conntrack.udp_stream_timeout, None);
    assert_eq!(config.sync_period, Duration::from_secs(30));
    assert_eq!(config.oom_score_adj, -999);
    assert_eq!(config.log.format, LogFormat::Text);
    assert_eq!(config.log.level, "info");
}
