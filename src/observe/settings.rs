//! How the daemon compiles, for tools that compile in the same way.

use std::path::PathBuf;

use rulec_compiler::Settings;
use serde::{Deserialize, Serialize};

use super::status::API_VERSION;
use crate::config::Config;
use crate::config::options::{IpvsAddresses, RangeArgs, RunArgs};

/// The path of a `DaemonSettings`.
pub const SETTINGS: &str = "/v1alpha1/settings";

/// All that decides what a daemon makes of its objects. It is constant while the daemon runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DaemonSettings {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) settings: Settings,
    /// What Services of manifests are given, as options say it.
    pub(crate) ranges: RangeArgs,
    /// Where it keeps what it has given out, if anywhere.
    pub(crate) state_dir: Option<PathBuf>,
    /// Where it finds the addresses of Pods if nothing else has them.
    pub(crate) cni_cache: Option<PathBuf>,
    /// Who tells it of Pods beside manifests, as messages call them.
    #[serde(default)]
    pub(crate) runners: Vec<String>,
    pub(crate) ipvs_addresses: Option<IpvsAddresses>,
    pub(crate) ipvs_device: Option<String>,
}

impl DaemonSettings {
    /// Returns those of a daemon with these options and this configuration.
    pub fn of(args: &RunArgs, config: &Config) -> Self {
        // Beside an API server, nothing is given out.
        let nothing = || RangeArgs {
            service_cidr: vec![String::new()],
            service_node_port_range: Some(String::new()),
        };
        let ranges = config.ranges.as_ref().map_or_else(nothing, |_| args.ranges.clone());
        let state_dir = args.state_dir.clone().filter(|path| !path.as_os_str().is_empty());
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "DaemonSettings".to_owned(),
            settings: config.settings.clone(),
            ranges,
            state_dir,
            cni_cache: config.cni_cache.as_ref().map(|cache| cache.directory.clone()),
            runners: runners(config).map(str::to_owned).collect(),
            ipvs_addresses: args.settings.ipvs.ipvs_addresses,
            ipvs_device: args.settings.ipvs.ipvs_device.clone(),
        }
    }
}

fn runners(config: &Config) -> impl Iterator<Item = &'static str> {
    let kubelet = config.kubelet.as_ref().map(|_| "the kubelet");
    kubelet.into_iter().chain(config.podman.as_ref().map(|_| "podman"))
}
