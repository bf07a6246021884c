//! The options that configure the daemon, as typed.

use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, Args, ValueEnum};
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::ipvs::SchedulerFlags;
use rulec_compiler::load_balancing::LoadBalancing;
use rulec_compiler::nft::maglev::TableSize;
use rulec_compiler::nft::traffic::Traffic;
use rulec_compiler::settings::IpvsSettings;
use serde::{Deserialize, Serialize};

use super::{KubeProxyFlags, Log, go_bool};

pub(crate) mod heading;
mod kubelet;
mod podman;
mod recording;
mod relay;
mod urls;

pub use kubelet::KubeletArgs;
pub use podman::PodmanArgs;
pub use recording::RecordingArgs;
pub use relay::RelayArgs;
pub use urls::UrlArgs;

/// How to log
#[derive(Debug, Args)]
pub struct LogArgs {
    /// The format of log lines: text, or one JSON object per line [default: text]
    #[arg(long, help_heading = heading::LOGGING, global = true, value_enum)]
    pub log_format: Option<LogFormat>,
    /// The level of logging: error, warn, info, debug, trace, or directives such as
    /// `info,rulec_sources=debug` [default: info]
    #[arg(long, help_heading = heading::LOGGING, global = true, value_name = "FILTER", env = "RULEC_LOG")]
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
#[derive(Debug, PartialEq, Args)]
pub struct SettingsArgs {
    /// The name of this node; endpoints that name it are local [default: the host's name]
    #[arg(long, help_heading = heading::NODE, value_name = "NAME", alias = "hostname-override")]
    pub node_name: Option<String>,
    /// The addresses of Pods, at most one network per IP family
    ///
    /// Traffic to a cluster address from other sources is masqueraded. Without this option, none
    /// is.
    #[arg(long, help_heading = heading::NODE, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,
    /// Masquerade all traffic to cluster addresses, including that of Pods
    #[arg(long, help_heading = heading::RULES, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub masquerade_all: Option<bool>,
    /// The bit of the packet mark that requests masquerading; nothing else may use it [default: 14]
    #[arg(long, help_heading = heading::RULES, value_name = "BIT", alias = "iptables-masquerade-bit", value_parser = clap::value_parser!(u8).range(0..32))]
    pub masquerade_bit: Option<u8>,
    /// Do not forward TCP, UDP and SCTP packets that conntrack considers invalid [default: true
    /// with --proxy-mode iptables, as in kube-proxy, unless conntrack is liberal; otherwise false]
    ///
    /// An endpoint's TCP segment that is outside the window would reach the client untranslated,
    /// and the client would answer with a reset.
    #[arg(long, help_heading = heading::RULES, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub drop_invalid: Option<bool>,
    /// How an endpoint is chosen for a new connection: random, round-robin, maglev or
    /// maglev-source; used only in mode nftables [default: random]
    ///
    /// maglev chooses by a consistent hash of the client's address and port, and maglev-source by
    /// one of its address: all nodes choose alike, also after they have lost their records of
    /// connections. The annotation rulec.io/load-balancing of a Service takes precedence.
    #[arg(long, help_heading = heading::BALANCING, value_name = "HOW")]
    pub load_balancing: Option<LoadBalancing>,
    /// The number of slots of a Maglev table: 251, 1021, 4093, 16381 or 65521 [default: 16381]
    ///
    /// Each port of a Service with Maglev has one table, whose slots are elements of a map in the
    /// kernel. An endpoint that goes moves hardly any connection of the others if there are 500
    /// slots for each endpoint.
    #[arg(long, help_heading = heading::BALANCING, value_name = "SLOTS")]
    pub maglev_table_size: Option<TableSize>,
    /// Count new connections in the kernel: off, services (of each Service port) or endpoints (of
    /// each endpoint, too) [default: off]
    ///
    /// rulec top and the metrics show them. A change of this option replaces the elements of the
    /// maps, and interrupts no connection. Without effect in IPVS mode.
    #[arg(long, help_heading = heading::RULES, value_name = "WHAT")]
    pub traffic: Option<Traffic>,
    /// Options of IPVS mode that kube-proxy does not have
    #[command(flatten)]
    pub ipvs: IpvsArgs,
}

/// Options of IPVS mode that kube-proxy does not have
#[derive(Debug, PartialEq, Args)]
pub struct IpvsArgs {
    /// The longest time that a removed endpoint keeps its TCP connections; used only in IPVS mode
    /// [default: 600]
    ///
    /// 0 ends them at once. The annotation rulec.io/ipvs-drain-seconds of a Service takes
    /// precedence.
    #[arg(long, help_heading = heading::IPVS, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(IpvsSettings::LONGEST_DRAIN)))]
    pub ipvs_drain_seconds: Option<u32>,
    /// The flags of --ipvs-scheduler, separated by commas; used only in IPVS mode [default: mh-port
    /// for mh, none for others]
    ///
    /// flag-1, flag-2 and flag-3, or their names sh-fallback, sh-port, mh-fallback and mh-port; an
    /// empty list means none. sh and mh always fall back. The annotation
    /// rulec.io/ipvs-scheduler-flags of a Service takes precedence.
    #[arg(long, help_heading = heading::IPVS, value_name = "FLAG,...")]
    pub ipvs_scheduler_flags: Option<SchedulerFlags>,
    /// How the addresses of Services become local to the node; used only in IPVS mode [default:
    /// dummy]
    #[arg(long, help_heading = heading::IPVS, value_name = "HOW", value_enum)]
    pub ipvs_addresses: Option<IpvsAddresses>,
    /// The dummy device that holds the addresses; used only in IPVS mode [default: kube-ipvs0]
    #[arg(long, help_heading = heading::IPVS, value_name = "NAME", value_parser = device)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

/// Accepts an empty path, too, which means none.
pub(crate) fn path_or_none() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// What Services of manifests are given
#[derive(Clone, Debug, Default, PartialEq, Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RangeArgs {
    /// The addresses that Services of manifests get if they write none, at most one network per IP
    /// family [default: 10.96.0.0/16]
    ///
    /// The first network decides the family of Services without ipFamilies. An empty list means
    /// that none are given out. Used only without an API server, which gives them out itself.
    #[arg(long, help_heading = heading::SERVICES, value_name = "CIDR,...", value_delimiter = ',')]
    pub service_cidr: Vec<String>,
    /// The node ports that Services of manifests get if they write none; empty for none [default:
    /// 30000-32767]
    #[arg(long, help_heading = heading::SERVICES, value_name = "FIRST-LAST")]
    pub service_node_port_range: Option<String>,
}

/// `rulec run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A file with a KubeProxyConfiguration
    ///
    /// It replaces the options of kube-proxy, except --master, those of logging, and the node's
    /// name.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
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
    /// A directory of Kubernetes manifests, or a single file; may be given several times
    ///
    /// Services, EndpointSlices, Pods, Nodes and ServiceCIDRs are read, from YAML and JSON; other
    /// kinds are ignored. If several paths define an object, the last of them takes precedence.
    #[arg(long, help_heading = heading::SOURCES, value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
    /// A file of manifests that is the whole source, and is taken as a whole
    ///
    /// An error anywhere in it refuses all of it, and its last good content stays. Nothing is given out
    /// to its Services, and no other source is followed. Replace it in one step, by a rename.
    #[arg(long, help_heading = heading::SOURCES, value_name = "FILE")]
    pub state_file: Option<PathBuf>,
    /// The address of the API server; overrides the kubeconfig
    #[arg(long, help_heading = heading::SOURCES, value_name = "URL")]
    pub master: Option<String>,
    /// Read Services from the API server of the cluster that this Pod runs in
    ///
    /// Needed only together with --manifests: a Pod without another source does so by default.
    #[arg(long, help_heading = heading::SOURCES)]
    pub in_cluster: bool,
    /// How often to read all files again, in case a change went unnoticed [default: 20]
    #[arg(long, help_heading = heading::SOURCES, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub rescan_seconds: Option<u64>,
    /// A directory of results of CNI plugins: the addresses of Pods whose manifests have none; empty
    /// for none [default: /var/lib/cni/results if it exists beside manifests, and no API server is
    /// configured]
    ///
    /// It is the last resort: a Pod of the kubelet takes precedence over its manifest. Such a Pod
    /// counts as ready unless its manifest says otherwise.
    #[arg(long, help_heading = heading::SOURCES, value_name = "DIRECTORY", value_parser = path_or_none())]
    pub cni_cache: Option<PathBuf>,
    /// A directory that keeps the last state of the sources for the next start
    ///
    /// With it, Services are served after a reboot even if the API server does not answer yet, and
    /// a start requests only what has changed. The directory is created if it does not exist.
    #[arg(long, help_heading = heading::SOURCES, value_name = "DIRECTORY", env = "STATE_DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// How long to wait for the API server at a start before its saved state is used instead
    /// [default: 1]
    #[arg(long, help_heading = heading::SOURCES, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub state_grace_seconds: Option<u64>,
    /// A relay in the place of the API server
    #[command(flatten)]
    pub relay: RelayArgs,
    /// Manifests by URL
    #[command(flatten)]
    pub urls: UrlArgs,
    /// The kubelet as a source of Pods
    #[command(flatten)]
    pub kubelet: KubeletArgs,
    /// podman as a source of Pods
    #[command(flatten)]
    pub podman: PodmanArgs,
    /// Recording, and replaying
    #[command(flatten)]
    pub recording: RecordingArgs,
    /// What Services of manifests are given
    #[command(flatten)]
    pub ranges: RangeArgs,
    /// Give connections of this node to Services a route, if it has no other
    ///
    /// A node without a default route needs it: such a connection fails before any rule sees it.
    /// The route leads to the networks of --service-cidr and of ServiceCIDRs, and is used only after
    /// all others. It is removed by a start without the option, and by `rulec cleanup`.
    #[arg(long, help_heading = heading::SERVICES, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = go_bool, action = ArgAction::Set)]
    pub service_route: bool,
    /// Write the names of Services with their addresses to PATH, for name servers that read such
    /// files
    ///
    /// A line is `ADDRESS NAME.NAMESPACE.svc.DOMAIN NAME.NAMESPACE.svc NAME.NAMESPACE`. A name is
    /// there once the kernel has the rules of its Service. Pods with `hostname` and `subdomain` have
    /// names in headless Services.
    #[arg(long, help_heading = heading::SERVICES, value_name = "PATH")]
    pub hosts_file: Option<PathBuf>,
    /// The domain of the names in --hosts-file [default: cluster.local]
    #[arg(long, help_heading = heading::SERVICES, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// Settings of the compiler
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Let other processes change the tables, and repair what they change
    ///
    /// By default, the tables belong to this process alone if the kernel can enforce that (Linux
    /// 6.9 and newer).
    #[arg(long, help_heading = heading::RULES)]
    pub shared_tables: bool,
    /// How often to compare the kernel's content with what it should hold [default: 60 if others
    /// can change the tables, or in mode ipvs; otherwise 3600]
    #[arg(long, help_heading = heading::RULES, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub verify_seconds: Option<u64>,
    /// Serve a page for people with the metrics, at /page: the node, its sources, Services with their
    /// endpoints, the last changes, and how long changes take
    ///
    /// It shows names and addresses to whoever can reach the server of the metrics, without
    /// authentication, and changes nothing.
    #[arg(long, help_heading = heading::OBSERVABILITY, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = go_bool, action = ArgAction::Set)]
    pub page: bool,
    /// Save what is programmed to FILE, on SIGUSR1 and at exit
    #[arg(long, help_heading = heading::OBSERVABILITY, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// What is kept of past changes
    #[command(flatten, next_help_heading = heading::OBSERVABILITY)]
    pub history: HistoryArgs,
    /// Where to listen for `rulec show`, `rulec status`, `rulec watch` and `rulec history`
    #[command(flatten, next_help_heading = heading::OBSERVABILITY)]
    pub socket: SocketArgs,
    /// The options that are kube-proxy's
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
}

/// What is kept of past changes
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// How many changes are kept for `rulec history` and `rulec watch`; 0 for none
    ///
    /// With --state-dir, what they meant is kept for the next start, too.
    #[arg(long, value_name = "NUMBER", default_value_t = Self::CHANGES, value_parser = clap::value_parser!(u64).range(..=100_000).map(as_usize))]
    pub history_changes: usize,
    /// How much memory the states between them may take, in MiB, as an estimate: older ones are read
    /// from the disk, or dropped with their changes
    #[arg(long, value_name = "MIB", default_value_t = Self::MIB, value_parser = clap::value_parser!(u64).range(1..=65_536).map(as_usize))]
    pub history_mib: usize,
}

impl HistoryArgs {
    /// How many changes are kept by default.
    pub const CHANGES: usize = 1024;

    /// How much memory they may take by default.
    pub const MIB: usize = 32;
}

/// The range of the option is far below the largest number.
fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The socket of the daemon
#[derive(Debug, Args)]
pub struct SocketArgs {
    /// The Unix socket on which the daemon tells the other commands of itself; empty for none
    ///
    /// Only root and the user of the daemon can open it, and it changes nothing.
    #[arg(long, value_name = "PATH", env = "RULEC_SOCKET", default_value = SocketArgs::DEFAULT, value_parser = path_or_none())]
    pub socket: PathBuf,
}

impl SocketArgs {
    /// Where the socket is by default.
    pub const DEFAULT: &str = "/run/rulec/rulec.sock";

    /// Returns the path of the socket, if there is to be one.
    pub fn path(&self) -> Option<&Path> {
        (!self.socket.as_os_str().is_empty()).then_some(&self.socket)
    }
}

impl RunArgs {
    /// Returns the path of the socket, if there is to be one.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.socket.path().map(Path::to_owned)
    }

    /// Returns whether manifests are a source.
    pub(crate) fn has_manifests(&self) -> bool {
        !self.manifests.is_empty() || !self.urls.manifests_url.is_empty()
    }
}
