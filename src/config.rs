//! What the operator wants: the options of `rulec run` and kube-proxy's `KubeProxyConfiguration`,
//! as one value.
//!
//! ```text
//!  file ───▶ document ─┐
//!                      ├─▶ values (by field, with their places) ─▶ check ─▶ Config
//!  options ─▶ flags ───┘        fields: what there is, its type, default and role
//! ```
//!
//! As in kube-proxy, a file replaces the flags that say the same; unlike there, those flags are
//! named in a warning. So is everything else that has no effect: unknown fields, settings of other
//! modes or other operating systems. Whatever is wrong is an error, and all errors are told at once.

mod check;
mod document;
mod duration;
mod fields;
mod flags;
mod problem;
mod value;
mod values;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rulec_compiler::Settings;

use crate::cli::{IpvsAddresses, LogArgs, LogFormat, RunArgs, SettingsArgs};
pub use flags::KubeProxyFlags;
pub use problem::{Invalid, Problem};
pub(crate) use value::go_bool;
use values::Values;

/// Everything that a daemon is told before it starts, with defaults in place of what was not said.
/// Two of them compare equal if nothing would be done differently.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The directory or file of manifests, if they are a source.
    pub manifests: Option<PathBuf>,
    /// How to reach the API server, if it is a source.
    pub api: Option<ApiAccess>,
    /// What the compilation depends on. The primary address of the node is kube-proxy's bindAddress, if
    /// that is one: nothing is bound to it.
    pub settings: Settings,
    /// What to program.
    pub mode: Mode,
    /// What IPVS mode asks of the node, in that mode.
    pub ipvs: Option<Ipvs>,
    /// Where `/healthz` and `/livez` are served, if anywhere.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` is served, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Whether it is fatal that one of these two cannot be listened on.
    pub bind_address_hard_fail: bool,
    /// What to ask of connection tracking.
    pub conntrack: Conntrack,
    /// A node is unhealthy when changes have waited for twice this time. More than zero.
    pub sync_period: Duration,
    /// How eager the kernel is to kill this process when memory is short, -1000 to 1000.
    pub oom_score_adj: i32,
    /// How to log.
    pub log: Log,
}

/// How to reach the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiAccess {
    /// The file with its address and our credentials. Without one, as a Pod does: with the service
    /// account that is mounted in it.
    pub kubeconfig: Option<PathBuf>,
    /// The address of the server, in place of what the kubeconfig says. As typed.
    pub master: Option<String>,
}

/// What to program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// nftables; also for those who ask for iptables.
    Nftables,
    /// IPVS, with nftables for what IPVS does not know about.
    Ipvs,
}

impl Mode {
    /// As kube-proxy calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Ipvs => "ipvs",
        }
    }
}

/// What IPVS mode asks of the node; what it makes of Services is among the settings. Of the timeouts,
/// `None` leaves the kernel's alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipvs {
    /// Whether an interface answers ARP only for addresses of its own.
    pub strict_arp: bool,
    /// How long an idle TCP connection is remembered.
    pub tcp_timeout: Option<Duration>,
    /// How long a TCP connection is remembered after a FIN.
    pub tcp_fin_timeout: Option<Duration>,
    /// How long a UDP flow is remembered.
    pub udp_timeout: Option<Duration>,
    /// How the addresses of Services become the node's.
    pub addresses: IpvsAddresses,
    /// The device that has them, if one has.
    pub device: String,
}

/// What to ask of connection tracking. `None` leaves the kernel's setting alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// How many entries for each processor; 0 leaves the limit alone, whatever `min` says.
    pub max_per_core: u32,
    /// The least limit on entries.
    pub min: u32,
    /// How long an idle TCP connection is remembered.
    pub tcp_established_timeout: Option<Duration>,
    /// How long a half-closed TCP connection is remembered.
    pub tcp_close_wait_timeout: Option<Duration>,
    /// Whether packets out of the window are let through as if they were valid.
    pub tcp_be_liberal: bool,
    /// How long a UDP flow without an answer is remembered.
    pub udp_timeout: Option<Duration>,
    /// How long a UDP flow in both directions is remembered.
    pub udp_stream_timeout: Option<Duration>,
}

/// How to log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Lines for people or objects for machines.
    pub format: LogFormat,
    /// How much: a level, or directives as `--log-level` takes them.
    pub level: String,
}

/// A configuration file, as it was named and read.
#[derive(Clone, Copy, Debug)]
pub struct File<'a> {
    /// Its name, for messages.
    pub name: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// What the process was started in.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The name of the host.
    pub hostname: String,
    /// Whether this is a Pod that was told of the API server (KUBERNETES_SERVICE_HOST is set).
    pub in_cluster: bool,
}

/// A configuration, and what else there is to say about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What to do.
    pub config: Config,
    /// What was said and has no effect, or another one than in kube-proxy. For the log.
    pub warnings: Vec<Problem>,
    values: Values,
}

impl Loaded {
    /// All settings as a `KubeProxyConfiguration`, for `--write-config-to`. Reading it gives the
    /// same configuration, apart from what only options can say.
    ///
    /// # Errors
    ///
    /// None that is known of.
    pub fn yaml(&self) -> anyhow::Result<String> {
        Ok(serde_saphyr::to_string(&self.json())?)
    }

    /// The same as JSON, for `/configz`.
    pub fn json(&self) -> serde_json::Value {
        let mut file = self.values.effective();
        // These depend on the bind address if nobody says them.
        let servers = [("healthz", self.config.healthz), ("metrics", self.config.metrics)];
        for (name, address) in servers {
            let text = address.map_or_else(String::new, |address| address.to_string());
            file[format!("{name}BindAddress")] = text.into();
        }
        file
    }
}

impl Config {
    /// What options and file mean together.
    ///
    /// # Errors
    ///
    /// All that is wrong with either.
    pub fn load(
        run: &RunArgs,
        log: &LogArgs,
        file: Option<File<'_>>,
        surroundings: &Surroundings,
    ) -> Result<Loaded, Invalid> {
        check::load(run, log, file, surroundings)
    }
}

/// What the compilation depends on, of what options and file mean together: as `Config::load` has it,
/// for commands that do nothing else with it. With it, the options that do not count because of the
/// file.
///
/// # Errors
///
/// What is wrong with either, as far as it matters here.
pub fn settings(
    own: &SettingsArgs,
    flags: &KubeProxyFlags,
    file: Option<File<'_>>,
    surroundings: &Surroundings,
) -> Result<(Settings, Vec<Problem>), Invalid> {
    check::settings(own, flags, file, surroundings)
}
