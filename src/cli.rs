//! The command line, as typed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::ipvs::{Scheduler, SchedulerFlags};
use rulec_compiler::net::Protocol;
use rulec_compiler::settings::IpvsSettings;

use crate::config::{KubeProxyFlags, Log, go_bool};

/// Program Kubernetes Services into nftables or IPVS, at a cost proportional to the change
#[derive(Debug, Parser)]
#[command(name = "rulec", version, propagate_version = true, about, max_term_width = 100)]
pub struct Cli {
    /// The command to run
    #[command(subcommand)]
    pub command: Command,
    /// How to log
    #[command(flatten)]
    pub log: LogArgs,
}

/// The command to run
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Program this node from an API server, from manifests, or from both, and keep it up to date
    ///
    /// Runs until SIGTERM or SIGINT, and leaves the rules in place: connections continue while it
    /// is restarted or replaced. `rulec cleanup` removes the rules. On SIGHUP, it reads the
    /// configuration and all manifests again at once.
    Run(RunArgs),
    /// Show what would change in the kernel, and why
    ///
    /// Exits with 0 if nothing would change, 1 if something would, and 2 on errors. An error in a
    /// manifest counts as one: it is reported, and the rest is compared nevertheless.
    Diff(DiffArgs),
    /// Show where a packet goes, by which rules, and why
    ///
    /// Follows the first packet of a connection through the rules that the kernel holds, or that
    /// manifests compile to, and names the objects and fields that decide. Where a backend is
    /// chosen at random, all candidates are listed.
    Explain(ExplainArgs),
    /// Remove everything that rulec, or kube-proxy, has put into this node's kernel
    ///
    /// Connections to Services are translated only while a proxy's rules are in place: let the next
    /// proxy program the node first.
    Cleanup(CleanupArgs),
    /// Print a script that completes the options of rulec in a shell
    ///
    /// The Debian package installs the scripts for bash, zsh and fish.
    Completions(CompletionsArgs),
}

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
    /// empty list means none. The annotation rulec.io/ipvs-scheduler-flags of a Service takes
    /// precedence.
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
fn device(name: &str) -> Result<String, String> {
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
    /// It replaces the options of kube-proxy, except those of logging and the node's name.
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

/// `rulec cleanup`
#[derive(Debug, Args, Default)]
pub struct CleanupArgs {
    /// Remove what kube-proxy has left, and nothing of rulec
    ///
    /// That is: the tables of its nftables mode; its chains in the nftables back end of iptables;
    /// and, of its IPVS mode, the interface and the virtual servers of that interface's addresses
    /// (unless rulec uses them now). Rules of others are left alone. Other remains are listed, with
    /// the command that removes them. Stop kube-proxy first, or it creates everything again.
    #[arg(long)]
    pub kube_proxy: bool,
    /// The dummy device that IPVS mode ran with [default: kube-ipvs0]
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub ipvs_device: Option<String>,
}

/// How to compile manifests: the daemon's settings
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// A file with a KubeProxyConfiguration, as for `rulec run`
    ///
    /// It replaces the equivalent options, except the node's name.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings of the compiler
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// The proxy mode
    #[command(flatten)]
    pub mode: ModeArgs,
    /// Properties of the node
    #[command(flatten)]
    pub node: NodeArgs,
    /// Addresses of the node that no other input names: manifests contain only those of the Node
    /// object
    ///
    /// If no input names any, the node is assumed to be this machine where that matters; it is this
    /// machine whenever the kernel's state is used.
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',')]
    pub own_addresses: Vec<IpAddr>,
}

impl CompileArgs {
    /// Returns the options that kube-proxy has too, as its flags.
    pub fn flags(&self) -> KubeProxyFlags {
        let given = self.mode.flags().into_iter().chain(self.node.flags());
        KubeProxyFlags { given: given.filter_map(|(flag, text)| Some((flag, text?))).collect() }
    }
}

/// The proxy mode
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// The proxy mode [default: nftables]
    #[arg(long, value_name = "MODE", value_enum)]
    pub proxy_mode: Option<ProxyMode>,
    /// How a backend is chosen, unless the Service says otherwise; used only in IPVS mode [default:
    /// rr]
    ///
    /// One of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq and mh.
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<Scheduler>,
    /// Networks whose virtual servers and addresses are left alone; used only in IPVS mode
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Vec<String>,
}

/// The proxy mode, named as in kube-proxy
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// nftables
    Nftables,
    /// nftables, with the iptables settings of kube-proxy's file
    Iptables,
    /// IPVS
    Ipvs,
}

impl ModeArgs {
    fn flags(&self) -> [(&'static str, Option<String>); 3] {
        let Self { proxy_mode, ipvs_scheduler, ipvs_exclude_cidrs } = self;
        [
            ("proxy-mode", proxy_mode.and_then(name_of)),
            ("ipvs-scheduler", ipvs_scheduler.map(|scheduler| scheduler.to_string())),
            ("ipvs-exclude-cidrs", list_of(ipvs_exclude_cidrs)),
        ]
    }
}

/// Returns the name of a value on the command line.
fn name_of(value: impl ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().to_owned())
}

/// Returns a list in kube-proxy's form, unless it is empty.
fn list_of(elements: &[String]) -> Option<String> {
    (!elements.is_empty()).then(|| elements.join(","))
}

/// Properties of the node that the compilation depends on
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The primary address of the node; overrides its Node object
    #[arg(long, value_name = "ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// How to recognise packets of this node's Pods [default: ClusterCIDR]
    #[arg(long, value_name = "MODE", value_enum)]
    pub detect_local_mode: Option<DetectLocalMode>,
    /// The bridge that Pods are attached to; used only in mode BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// The prefix of the names of Pods' interfaces; used only in mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Where node ports answer: networks of the node's addresses, or `primary` [default: primary;
    /// every address if the mode is not nftables]
    ///
    /// A family without a network answers on every address of the node except loopback; so does one
    /// with a network of prefix length 0.
    #[arg(long, value_name = "CIDR,...|primary", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
}

/// How packets of local Pods are recognised, named as in kube-proxy
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DetectLocalMode {
    /// By source address, in --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// By source address, in the podCIDRs of this node's Node object
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// By the interface that they arrive on, --pod-bridge-interface
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// By the prefix of the name of the interface that they arrive on, --pod-interface-name-prefix
    #[value(name = "InterfaceNamePrefix")]
    InterfaceNamePrefix,
}

impl NodeArgs {
    fn flags(&self) -> [(&'static str, Option<String>); 5] {
        let Self {
            bind_address,
            detect_local_mode,
            pod_bridge_interface,
            pod_interface_name_prefix,
            nodeport_addresses,
        } = self;
        [
            ("bind-address", bind_address.map(|address| address.to_string())),
            ("detect-local-mode", detect_local_mode.and_then(name_of)),
            ("pod-bridge-interface", pod_bridge_interface.clone()),
            ("pod-interface-name-prefix", pod_interface_name_prefix.clone()),
            ("nodeport-addresses", list_of(nodeport_addresses)),
        ]
    }
}

/// `rulec diff`
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// The state to start from: `kernel`, a manifest directory or file, or a snapshot
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub from: String,
    /// The state to reach, in the same forms
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub to: String,
    /// How to compile manifests
    #[command(flatten)]
    pub compile: CompileArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Save the state of --to as a snapshot
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// `rulec explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The destination of the packet: ADDRESS:PORT, ADDRESS:PORT/PROTOCOL (tcp, udp or sctp), or an
    /// ADDRESS alone, for a ping
    #[arg(value_name = "FRONTEND")]
    pub to: Destination,
    /// The source address of the packet [default: this node]
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// The interface that the packet arrives on, where Pods are recognised by interface
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The state to look at: `kernel`, a manifest directory or file, or a snapshot
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub state: String,
    /// Manifests to name as reasons, if the state does not contain its objects
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// How to compile manifests
    #[command(flatten)]
    pub compile: CompileArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = ExplainOutput::Text)]
    pub output: ExplainOutput,
}

/// The output format of an explanation
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExplainOutput {
    /// For people
    Text,
    /// As documented in docs/explain-json.md
    Json,
}

/// The destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// Protocol and port; `None` for a ping.
    pub transport: Option<(Protocol, NonZeroU16)>,
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, protocol) = match text.split_once('/') {
            Some((place, protocol)) => (place, Some(protocol)),
            None => (text, None),
        };
        let named = |name: &str| {
            let is_it = |it: &Protocol| it.to_string().eq_ignore_ascii_case(name);
            let found = Protocol::ALL.into_iter().find(is_it);
            found.ok_or_else(|| format!("{name:?} is not tcp, udp or sctp"))
        };
        let in_brackets = |text: &str| {
            let address = text.strip_prefix('[')?.strip_suffix(']')?;
            address.parse::<Ipv6Addr>().ok().map(IpAddr::V6)
        };
        let alone = place.parse().ok().or_else(|| in_brackets(place));
        if let (Some(address), None) = (alone, protocol) {
            return Ok(Self { address, transport: None });
        }
        let socket: SocketAddr = place.parse().map_err(|_| match alone {
            Some(_) => format!("{place:?} has a protocol but no port: use ADDRESS:PORT/PROTOCOL"),
            None => format!("{place:?} is not ADDRESS:PORT (an IPv6 address needs brackets)"),
        })?;
        let port = NonZeroU16::new(socket.port()).ok_or("port 0 is not a port")?;
        let protocol = protocol.map_or(Ok(Protocol::Tcp), named)?;
        Ok(Self { address: socket.ip(), transport: Some((protocol, port)) })
    }
}

/// `rulec completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// The output format of a difference
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people, by Service
    Text,
    /// As documented in docs/diff-json.md
    Json,
    /// As commands for `nft -f`; changes of IPVS are comments
    Nft,
    /// As lines for `ipvsadm --restore`: changes of IPVS only, without addresses
    Ipvsadm,
}
