//! The options that configure the daemon, as typed.

use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::ipvs::SchedulerFlags;
use rulec_compiler::settings::IpvsSettings;

use super::{KubeProxyFlags, Log, go_bool};

/// How to log
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The format of log lines: text, or one JSON object per line [default: text]
    #[arg(long, global = true, value_enum)]
    pub log_format: Option<LogFormat>,
    /// The level of logging: error, warn, info, debug, trace, or directives such as
    /// `info,rulec_sources=debug` [default: info]
    #[arg(long, global = true, value_name = "FILTER", env = "RULEC_LOG")]
    pub log_level: Option<String>,
}

impl LogArgs {
    /// Returns how to log where no configuration file says otherwise.
    pub fn log(&self) -> Log {
        Log {
            format: self.log_format.unwrap_or(LogFormat::Text),
            level: self.log_level.clone().unwrap_or_else(|| "info".to_owned()),
        }
    }
}

/// The format of log lines
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines of text
    Text,
    /// One JSON object per line
    Json,
}

/// Settings of the compiler
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// The name of this node; endpoints that name it are local [default: the host's name]
    #[arg(long, value_name = "NAME", alias = "hostname-override")]
    pub node_name: Option<String>,
    /// The addresses of Pods, at most one network per IP family
    ///
    /// Traffic to a cluster address from other sources is masqueraded. Without this option, none
    /// is.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,
    /// Masquerade all traffic to cluster addresses, including that of Pods
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub masquerade_all: Option<bool>,
    /// The bit of the packet mark that requests masquerading; nothing else may use it [default: 14]
    #[arg(long, value_name = "BIT", alias = "iptables-masquerade-bit", value_parser = clap::value_parser!(u8).range(0..32))]
    pub masquerade_bit: Option<u8>,
    /// Do not forward TCP, UDP and SCTP packets that conntrack considers invalid [default: true
    /// with --proxy-mode iptables, as in kube-proxy, unless conntrack is liberal; otherwise false]
    ///
    /// An endpoint's TCP segment that is outside the window would reach the client untranslated,
    /// and the client would answer with a reset.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub drop_invalid: Option<bool>,
    /// Options of IPVS mode that kube-proxy does not have
    #[command(flatten)]
    pub ipvs: IpvsArgs,
}

/// Options of IPVS mode that kube-proxy does not have
#[derive(Debug, Args)]
pub struct IpvsArgs {
    /// The longest time that a removed endpoint keeps its TCP connections; used only in IPVS mode
    /// [default: 600]
    ///
    /// 0 ends them at once. The annotation rulec.io/ipvs-drain-seconds of a Service takes
    /// precedence.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(IpvsSettings::LONGEST_DRAIN)))]
    pub ipvs_drain_seconds: Option<u32>,
    /// The flags of --ipvs-scheduler, separated by commas; used only in IPVS mode [default: mh-port
    /// for mh, none for others]
    ///
    /// flag-1, flag-2 and flag-3, or their names sh-fallback, sh-port, mh-fallback and mh-port; an
    /// empty list means none. sh and mh always fall back. The annotation
    /// rulec.io/ipvs-scheduler-flags of a Service takes precedence.
    #[arg(long, value_name = "FLAG,...")]
    pub ipvs_scheduler_flags: Option<SchedulerFlags>,
    /// How the addresses of Services become local to the node; used only in IPVS mode [default:
    /// dummy]
    #[arg(long, value_name = "HOW", value_enum)]
    pub ipvs_addresses: Option<IpvsAddresses>,
    /// The dummy device that holds the addresses; used only in IPVS mode [default: kube-ipvs0]
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub ipvs_device: Option<String>,
}

impl IpvsArgs {
    /// The default name of the dummy device. It is kube-proxy's: other programs know the name, and
    /// skip the device when they look for the node's addresses.
    pub const DEVICE: &str = "kube-ipvs0";

    /// Returns how the addresses of Services become local to the node.
    pub fn addresses(&self) -> IpvsAddresses {
        self.ipvs_addresses.unwrap_or_default()
    }

    /// Returns the name of the dummy device, even if the mode uses none.
    pub fn device(&self) -> &str {
        self.ipvs_device.as_deref().unwrap_or(Self::DEVICE)
    }
}

/// How the addresses of Services become local to the node
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IpvsAddresses {
    /// The addresses are assigned to a dummy device
    #[default]
    Dummy,
    /// The addresses have local routes, and are assigned to no device
    LocalRoutes,
}

/// Accepts the name of a device that can be created.
pub(crate) fn device(name: &str) -> Result<String, String> {
    InterfacePattern::named(name)?;
    // The kernel replaces `%d` with a number that it chooses.
    if matches!(name, "." | "..") || name.contains('%') {
        return Err(format!("{name:?} cannot be the name of an interface"));
    }
    Ok(name.to_owned())
}

/// `rulec run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A directory of Kubernetes manifests, or a single file
    ///
    /// Services, EndpointSlices, Pods, Nodes and ServiceCIDRs are read, from YAML and JSON; other
    /// kinds are ignored.
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// A file with a KubeProxyConfiguration
    ///
    /// It replaces the options of kube-proxy, except --master, those of logging, and the node's
    /// name.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address of the API server; overrides the kubeconfig
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Read Services from the API server of the cluster that this Pod runs in
    ///
    /// Needed only together with --manifests: a Pod without another source does so by default.
    #[arg(long)]
    pub in_cluster: bool,
    /// Write the effective configuration to FILE, as a KubeProxyConfiguration, and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Do only the setup that needs more privileges than CAP_NET_ADMIN, and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = go_bool, action = ArgAction::Set)]
    pub init_only: bool,
    /// Remove everything that rulec has put into this node's kernel, and exit, as `rulec cleanup`
    /// does
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = go_bool, action = ArgAction::Set)]
    pub cleanup: bool,
    /// Settings of the compiler
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Let other processes change the tables, and repair what they change
    ///
    /// By default, the tables belong to this process alone if the kernel can enforce that (Linux
    /// 6.9 and newer).
    #[arg(long)]
    pub shared_tables: bool,
    /// How often to read all files again, in case a change went unnoticed
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub rescan_seconds: u64,
    /// How often to compare the kernel's content with what it should hold [default: 60 if others
    /// can change the tables, otherwise 3600]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub verify_seconds: Option<u64>,
    /// A directory that keeps the last state of the sources for the next start
    ///
    /// With it, Services are served after a reboot even if the API server does not answer yet, and
    /// a start requests only what has changed. The directory is created if it does not exist.
    #[arg(long, value_name = "DIRECTORY", env = "STATE_DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// How long to wait for the API server at a start before its saved state is used instead
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub state_grace_seconds: u64,
    /// Save what is programmed to FILE, on SIGUSR1 and at exit
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// The options that are kube-proxy's
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
}
