//! The configuration of the daemon: the options of `rulec run` and kube-proxy's
//! `KubeProxyConfiguration`, as one value.
//!
//! ```text
//!  file ───▶ document ─┐
//!                      ├─▶ values (by field, with their places) ─▶ check ─▶ Config
//!  options ─▶ flags ───┘        fields: all fields with type, default and role
//! ```
//!
//! As in kube-proxy, a file replaces the equivalent flags; unlike kube-proxy, rulec names those
//! flags in a warning. Everything else that has no effect is named, too: unknown fields, settings
//! of other modes or other operating systems. Anything wrong is an error, and all errors are
//! reported at once.

mod check;
mod document;
mod duration;
mod fields;
mod flags;
pub mod options;
mod problem;
mod value;
mod values;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rulec_compiler::Settings;
use rulec_sources::recording::ReplayOptions;
use rulec_sources::{CniCache, KubeletAccess, ManifestUrls, Ranges, RelayAccess};

use self::options::{IpvsAddresses, LogArgs, LogFormat, RangeArgs, RunArgs, SettingsArgs};
pub(crate) use duration::GoDuration;
pub use flags::KubeProxyFlags;
pub use problem::{Invalid, Problem};
pub(crate) use value::go_bool;
use values::Values;

/// The complete configuration of a daemon, with defaults filled in. Two configurations are equal if
/// the daemon would behave the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The directories and files of manifests, if they are a source. The last that defines an
    /// object takes precedence.
    pub manifests: Vec<PathBuf>,
    /// The URLs of manifests, if they are a source. What is in `manifests` takes precedence.
    pub manifest_urls: Option<ManifestUrls>,
    /// Where addresses of Pods are found if nothing else has them.
    pub cni_cache: Option<CniCache>,
    /// What Services of manifests are given; `None` if an API server gives it.
    pub ranges: Option<Ranges>,
    /// Whether the node's own connections to Services get a route.
    pub service_route: bool,
    /// Where the names of Services are written, if anywhere.
    pub hosts: Option<HostsFile>,
    /// How to reach the API server, if it is a source.
    pub api: Option<ApiAccess>,
    /// How to reach the relay, if it is a source: in the place of the API server.
    pub relay: Option<RelayAccess>,
    /// How to reach the kubelet, if it is a source.
    pub kubelet: Option<KubeletAccess>,
    /// The socket of podman, if it is a source.
    pub podman: Option<PathBuf>,
    /// The file of manifests that is the whole source, if there is one.
    pub state_file: Option<PathBuf>,
    /// Where to record what the sources send, if anywhere.
    pub recording: Option<Recording>,
    /// The recording that is the only source, if there is one.
    pub replay: Option<ReplayOptions>,
    /// Settings of the compiler. The primary address of the node is kube-proxy's bindAddress,
    /// unless it is unspecified: nothing is bound to it.
    pub settings: Settings,
    /// The proxy mode.
    pub mode: Mode,
    /// The settings of IPVS mode, in that mode.
    pub ipvs: Option<Ipvs>,
    /// Where `/healthz` and `/livez` are served, if anywhere.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` is served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Whether the page for people is served with `/metrics`.
    pub page: bool,
    /// Whether it is fatal if one of these two addresses cannot be bound.
    pub bind_address_hard_fail: bool,
    /// The settings of connection tracking.
    pub conntrack: Conntrack,
    /// A node is unhealthy when changes have waited for twice this time. Greater than zero.
    pub sync_period: Duration,
    /// How readily the kernel kills this process when memory is short, -1000 to 1000.
    pub oom_score_adj: i32,
    /// How to log.
    pub log: Log,
}

/// The file of the names of Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsFile {
    /// Its path.
    pub path: PathBuf,
    /// The domain of the names, in lower case and without a final dot.
    pub domain: String,
}

impl HostsFile {
    /// The default domain, as in Kubernetes.
    pub const DOMAIN: &str = "cluster.local";
}

/// Where to record what the sources send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The file.
    pub path: PathBuf,
    /// How many bytes it may have.
    pub most: u64,
    /// Whether names and addresses are replaced.
    pub is_masked: bool,
}

/// How to reach the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAccess {
    /// The file with the server's address and our credentials. Without one, the service account
    /// that is mounted in a Pod is used.
    pub kubeconfig: Option<PathBuf>,
    /// The address of the server, as typed; overrides the kubeconfig.
    pub master: Option<String>,
}

/// The proxy mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nftables; also used if iptables is configured.
    Nftables,
    /// IPVS, with nftables for what IPVS cannot do.
    Ipvs,
}

impl Mode {
    /// Returns kube-proxy's name of the mode.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
        }
    }
}

/// The settings of IPVS mode for the node; those that concern Services are among the compiler's
/// settings. A timeout of `None` keeps the kernel's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipvs {
    /// Whether an interface answers ARP only for its own addresses.
    pub strict_arp: bool,
    /// The timeout of idle TCP connections.
    pub tcp_timeout: Option<Duration>,
    /// The timeout of TCP connections after a FIN.
    pub tcp_fin_timeout: Option<Duration>,
    /// The timeout of UDP flows.
    pub udp_timeout: Option<Duration>,
    /// How the addresses of Services become local to the node.
    pub addresses: IpvsAddresses,
    /// The dummy device for the addresses, if the mode uses one.
    pub device: String,
}

/// The settings of connection tracking. `None` keeps the kernel's setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// The maximum of entries per processor; 0 keeps the kernel's limit, whatever `min` says.
    pub max_per_core: u32,
    /// The minimum of the limit.
    pub min: u32,
    /// The timeout of idle TCP connections.
    pub tcp_established_timeout: Option<Duration>,
    /// The timeout of half-closed TCP connections.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// Whether packets outside of the window are treated as valid.
    pub tcp_be_liberal: bool,
    /// The timeout of UDP flows without an answer.
    pub udp_timeout: Option<Duration>,
    /// The timeout of UDP flows in both directions.
    pub udp_stream_timeout: Option<Duration>,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Text lines or JSON objects.
    pub format: LogFormat,
    /// The level, or directives as `--log-level` takes them.
    pub level: String,
}

/// A configuration file, as it was read.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name, as given, for messages.
    pub name: &'a str,
    /// Its content.
    pub bytes: &'a [u8],
}

/// The environment that the process was started in.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The name of the host.
    pub hostname: String,
    /// Whether this is a Pod that knows the API server (KUBERNETES_SERVICE_HOST is set).
    pub in_cluster: bool,
    /// Returns whether the kubelet with this root directory has a pods API.
    pub has_pods_api: fn(&Path) -> io::Result<bool>,
    /// Returns whether this is the socket of podman.
    pub has_podman: fn(&Path) -> io::Result<bool>,
    /// Returns whether this is a directory.
    pub has_directory: fn(&Path) -> io::Result<bool>,
}

/// A configuration, and the warnings about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// Settings that have no effect, or another effect than in kube-proxy. For the log.
    pub warnings: Vec<Problem>,
    values: Values,
}

impl Loaded {
    /// Returns all settings as a `KubeProxyConfiguration`, for `--write-config-to`. Reading it
    /// gives the same configuration, except for what only options can set.
    ///
    /// # Errors
    ///
    /// None are known.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(&self.json())?)
    }

    /// Returns the same as JSON, for `/configz`.
    pub fn json(&self) -> serde_json::Value {
        let mut file = self.values.effective();
        // The defaults of these depend on the bind address.
        let servers = [("healthz", self.config.healthz), ("metrics", self.config.metrics)];
        for (name, address) in servers {
            let text = address.map_or_else(String::new, |address| address.to_string());
            file[format!("{name}BindAddress")] = text.into();
        }
        file
    }
}

impl Config {
    /// Combines options and file.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with either.
    pub fn load(
        run: &RunArgs,
        log: &LogArgs,
        file: Option<File<'_>>,
        surroundings: &Surroundings,
    ) -> Result<Loaded, Invalid> {
        check::load(run, log, file, surroundings)
    }
}

/// Returns the compiler's settings from options and file, as in `Config::load`, for commands that
/// use nothing else of the configuration. The problems are options that have no effect because of
/// the file.
///
/// # Errors
///
/// Everything that is wrong with either, as far as it matters here.
pub fn settings(
    own: &SettingsArgs,
    flags: &KubeProxyFlags,
    file: Option<File<'_>>,
    surroundings: &Surroundings,
) -> Result<(Settings, Vec<Problem>), Invalid> {
    check::settings(own, flags, file, surroundings)
}

/// Returns what Services of manifests are given.
///
/// # Errors
///
/// Everything that is wrong with the options.
pub fn ranges(args: &RangeArgs) -> Result<Ranges, Invalid> {
    check::ranges(args)
}
