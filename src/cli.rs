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

/// Kubernetes Services in nftables, at a cost that is the size of the change
#[derive(Debug, Parser)]
#[command(name = "rulec", version, propagate_version = true, about, max_term_width = 100)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
    /// How to log
    #[command(flatten)]
    pub log: LogArgs,
}

/// What to do
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Program this node from an API server, from manifests, or from both, and keep it so
    ///
    /// Runs until SIGTERM or SIGINT, and leaves the rules in place: traffic goes on while it is
    /// restarted or replaced. `rulec cleanup` removes them. SIGHUP has the configuration and all
    /// manifests read at once.
    Run(RunArgs),
    /// Show what would change in the kernel, and why
    ///
    /// Exits with 0 if nothing would, 1 if something would, 2 on trouble. It is trouble, too, if a
    /// manifest has an error: it is reported, and the rest is compared all the same.
    Diff(DiffArgs),
    /// Tell what becomes of a packet, by which rules, and why
    ///
    /// Follows the first packet of a connection through the rules, over what the kernel holds or
    /// manifests come to, and names the objects and fields that decide. Where a backend is chosen at
    /// random, all that may be chosen are listed.
    Explain(ExplainArgs),
    /// Remove every trace of rulec from this node's kernel, or of kube-proxy
    ///
    /// Connections to Services are translated only as long as somebody's rules are there: let the
    /// next proxy program the node first.
    Cleanup(CleanupArgs),
    /// Print a script that completes the options of rulec in a shell
    ///
    /// The Debian package has those of bash, zsh and fish in their places.
    Completions(CompletionsArgs),
}

/// How to log
#[derive(Debug, Args)]
pub struct LogArgs {
    /// Log lines for people, or JSON objects for machines [default: text]
    #[arg(long, global = true, value_enum)]
    pub log_format: Option<LogFormat>,
    /// How much to log: error, warn, info, debug, trace, or directives as in
    /// `info,rulec_sources=debug` [default: info]
    #[arg(long, global = true, value_name = "FILTER", env = "RULEC_LOG")]
    pub log_level: Option<String>,
}

impl LogArgs {
    /// What is meant where no configuration says more.
    pub fn log(&self) -> Log {
        Log {
            format: self.log_format.unwrap_or(LogFormat::Text),
            level: self.log_level.clone().unwrap_or_else(|| "info".to_owned()),
        }
    }
}

/// Log lines for people or for machines
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines of text
    Text,
    /// JSON objects, one a line
    Json,
}

/// What the compilation depends on
#[derive(Debug, Args)]
pub struct SettingsArgs {
    /// The name of this node; endpoints that name it are local [default: the host's name]
    #[arg(long, value_name = "NAME", alias = "hostname-override")]
    pub node_name: Option<String>,
    /// The addresses of Pods, one network of each family at the most
    ///
    /// Traffic from elsewhere to a cluster address is masqueraded. Without it, nobody is.
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    pub cluster_cidr: Vec<String>,
    /// Masquerade all traffic to cluster addresses, also that of Pods
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub masquerade_all: Option<bool>,
    /// The bit of the packet mark that asks for masquerading; nobody else may use it [default: 14]
    #[arg(long, value_name = "BIT", alias = "iptables-masquerade-bit", value_parser = clap::value_parser!(u8).range(0..32))]
    pub masquerade_bit: Option<u8>,
    /// Do not forward TCP, UDP and SCTP packets that conntrack takes for invalid [default: true with
    /// --proxy-mode iptables, as in kube-proxy, unless conntrack is liberal; else false]
    ///
    /// An endpoint's segment from outside of the window would reach the client untranslated, which answers
    /// with a reset.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = go_bool)]
    pub drop_invalid: Option<bool>,
    /// What mode ipvs takes beside kube-proxy's options
    #[command(flatten)]
    pub ipvs: IpvsArgs,
}

/// What mode ipvs takes beside kube-proxy's options
#[derive(Debug, Args)]
pub struct IpvsArgs {
    /// For how long, at the most, an endpoint that has gone keeps its TCP connections; counts in mode
    /// ipvs [default: 600]
    ///
    /// 0 ends them at once. The annotation rulec.io/ipvs-drain-seconds of a Service comes first.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=i64::from(IpvsSettings::LONGEST_DRAIN)))]
    pub ipvs_drain_seconds: Option<u32>,
    /// The flags of --ipvs-scheduler, with commas between; counts in mode ipvs [default: mh-port for mh,
    /// none for others]
    ///
    /// flag-1, flag-2 and flag-3, or their names sh-fallback, sh-port, mh-fallback and mh-port; an empty
    /// list is none. The annotation rulec.io/ipvs-scheduler-flags of a Service comes first.
    #[arg(long, value_name = "FLAG,...")]
    pub ipvs_scheduler_flags: Option<SchedulerFlags>,
    /// How the addresses of Services become the node's; counts in mode ipvs [default: dummy]
    #[arg(long, value_name = "HOW", value_enum)]
    pub ipvs_addresses: Option<IpvsAddresses>,
    /// The dummy device that has them; counts in mode ipvs [default: kube-ipvs0]
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub ipvs_device: Option<String>,
}

impl IpvsArgs {
    /// The name of the dummy device, if nobody says. As in kube-proxy: others know the name, and leave it
    /// out when they look for the node's addresses.
    pub const DEVICE: &str = "kube-ipvs0";

    /// How the addresses of Services become the node's.
    pub fn addresses(&self) -> IpvsAddresses {
        self.ipvs_addresses.unwrap_or_default()
    }

    /// The name of the dummy device, whether or not there is one.
    pub fn device(&self) -> &str {
        self.ipvs_device.as_deref().unwrap_or(Self::DEVICE)
    }
}

/// How the addresses of Services become the node's
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IpvsAddresses {
    /// They are put on a dummy device
    #[default]
    Dummy,
    /// They have local routes, and are on no device
    LocalRoutes,
}

/// The name of a device that can be made.
fn device(name: &str) -> Result<String, String> {
    InterfacePattern::named(name)?;
    // The kernel takes `%d` for a number that it chooses.
    if matches!(name, "." | "..") || name.contains('%') {
        return Err(format!("{name:?} cannot be the name of an interface"));
    }
    Ok(name.to_owned())
}

/// `rulec run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A directory of Kubernetes manifests, or one file
    ///
    /// Services, EndpointSlices, Pods, Nodes and ServiceCIDRs are read, from YAML and JSON; other kinds
    /// are passed over.
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// A file with a KubeProxyConfiguration
    ///
    /// It replaces the options of kube-proxy, but for those of logging and the node's name.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The address of the API server, in place of what the kubeconfig says
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Read Services from the API server of the cluster that this is a Pod of
    ///
    /// Needed only beside --manifests: it goes without saying in a Pod that has no other source.
    #[arg(long)]
    pub in_cluster: bool,
    /// Write the configuration in force to FILE, as a KubeProxyConfiguration, and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Do what needs more privileges than CAP_NET_ADMIN, and exit
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = go_bool, action = ArgAction::Set)]
    pub init_only: bool,
    /// Remove every trace of rulec from this node's kernel, and exit, as `rulec cleanup` does
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, value_parser = go_bool, action = ArgAction::Set)]
    pub cleanup: bool,
    /// What the compilation depends on
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Let other processes change the tables, and repair what they change
    ///
    /// By default the tables belong to this process alone where the kernel can enforce it (Linux
    /// 6.9).
    #[arg(long)]
    pub shared_tables: bool,
    /// How often to read all files again, in case a change went unnoticed
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub rescan_seconds: u64,
    /// How often to compare the kernel with what it should hold [default: 60 if others can change the
    /// tables, 3600 if not]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub verify_seconds: Option<u64>,
    /// Keep what the sources last said in this directory, for the next start
    ///
    /// By it, Services are served after a reboot although the API server does not answer yet, and a start asks
    /// for what has changed, not for everything. The directory is made if it is not there.
    #[arg(long, value_name = "DIRECTORY", env = "STATE_DIRECTORY")]
    pub state_dir: Option<PathBuf>,
    /// How long the API server may take at a start before what it last had stands in for it
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub state_grace_seconds: u64,
    /// Save what is programmed to FILE, on SIGUSR1 and at the end
    #[arg(long, value_name = "FILE")]
    pub snapshot: Option<PathBuf>,
    /// What kube-proxy would take
    #[command(flatten)]
    pub kube_proxy: KubeProxyFlags,
}

/// `rulec cleanup`
#[derive(Debug, Args, Default)]
pub struct CleanupArgs {
    /// Remove what kube-proxy has left, and nothing of rulec
    ///
    /// The tables of its nftables mode, its chains in iptables' nftables back end, and of its IPVS mode
    /// the interface and the virtual servers of that interface's addresses (unless rulec has them now).
    /// Rules of others are left alone. What else there may be is named, with the command that removes
    /// it. Stop kube-proxy first, or it makes everything again.
    #[arg(long)]
    pub kube_proxy: bool,
    /// The dummy device that mode ipvs was run with [default: kube-ipvs0]
    #[arg(long, value_name = "NAME", value_parser = device)]
    pub ipvs_device: Option<String>,
}

/// What manifests are compiled with: the daemon's settings
#[derive(Debug, Args)]
pub struct CompileArgs {
    /// A file with a KubeProxyConfiguration, as `rulec run` takes it
    ///
    /// It replaces the options that say the same, but for the node's name.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the compilation depends on
    #[command(flatten)]
    pub settings: SettingsArgs,
    /// Who chooses backends
    #[command(flatten)]
    pub mode: ModeArgs,
    /// What of the node itself it depends on
    #[command(flatten)]
    pub node: NodeArgs,
    /// Addresses of the node that nothing else tells: manifests name those of the Node object only
    ///
    /// If nothing tells any, the node is taken for this machine where that matters; and it is this
    /// machine if its kernel is looked at.
    #[arg(long, value_name = "ADDRESS,...", value_delimiter = ',')]
    pub own_addresses: Vec<IpAddr>,
}

impl CompileArgs {
    /// What is also an option of kube-proxy, as its flags.
    pub fn flags(&self) -> KubeProxyFlags {
        let given = self.mode.flags().into_iter().chain(self.node.flags());
        KubeProxyFlags { given: given.filter_map(|(flag, text)| Some((flag, text?))).collect() }
    }
}

/// Who chooses backends
#[derive(Debug, Args)]
pub struct ModeArgs {
    /// What is programmed [default: nftables]
    #[arg(long, value_name = "MODE", value_enum)]
    pub proxy_mode: Option<ProxyMode>,
    /// How a backend is chosen, unless the Service says otherwise; counts in mode ipvs [default: rr]
    ///
    /// One of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq and mh.
    #[arg(long, value_name = "NAME")]
    pub ipvs_scheduler: Option<Scheduler>,
    /// Networks whose virtual servers and addresses are left alone; counts in mode ipvs
    #[arg(long, value_name = "CIDR,...", value_delimiter = ',')]
    pub ipvs_exclude_cidrs: Vec<String>,
}

/// What is programmed; the names are kube-proxy's
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProxyMode {
    /// nftables
    Nftables,
    /// nftables, with what kube-proxy's file says of iptables
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

/// The name of a value on the command line.
fn name_of(value: impl ValueEnum) -> Option<String> {
    Some(value.to_possible_value()?.get_name().to_owned())
}

/// A list as kube-proxy takes it, if there is one.
fn list_of(elements: &[String]) -> Option<String> {
    (!elements.is_empty()).then(|| elements.join(","))
}

/// What of the node itself the compilation depends on
#[derive(Debug, Args)]
pub struct NodeArgs {
    /// The primary address of the node, in place of what its Node object says
    #[arg(long, value_name = "ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// How to tell the packets of this node's Pods from others [default: ClusterCIDR]
    #[arg(long, value_name = "MODE", value_enum)]
    pub detect_local_mode: Option<DetectLocalMode>,
    /// The bridge that Pods are attached to; counts in mode BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// How the names of Pods' interfaces begin; counts in mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Where node ports answer: networks of the node's addresses, or `primary` [default: primary; every
    /// address if the mode is not nftables]
    ///
    /// A family without a network answers on every address of the node but loopback; so does one
    /// with a network of prefix length 0.
    #[arg(long, value_name = "CIDR,...|primary", value_delimiter = ',')]
    pub nodeport_addresses: Vec<String>,
}

/// How the packets of Pods are told from others'; the names are kube-proxy's
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DetectLocalMode {
    /// By source, in --cluster-cidr
    #[value(name = "ClusterCIDR")]
    ClusterCidr,
    /// By source, in the podCIDRs of this node's Node object
    #[value(name = "NodeCIDR")]
    NodeCidr,
    /// By the interface they come from, --pod-bridge-interface
    #[value(name = "BridgeInterface")]
    BridgeInterface,
    /// By the name of the interface they come from, --pod-interface-name-prefix
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
    /// The state to reach, likewise
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub to: String,
    /// What manifests are compiled with
    #[command(flatten)]
    pub compile: CompileArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Save the state of --to as a snapshot
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// `rulec explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Where the packet goes: ADDRESS:PORT, ADDRESS:PORT/PROTOCOL (tcp, udp or sctp), or an ADDRESS
    /// alone, for a ping
    #[arg(value_name = "FRONTEND")]
    pub to: Destination,
    /// Where it comes from [default: this node]
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// The interface it arrives by, where Pods are told by interfaces
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The state to look at: `kernel`, a manifest directory or file, or a snapshot
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub state: String,
    /// Manifests to name as reasons, if the state does not tell its objects
    #[arg(long, value_name = "PATH")]
    pub manifests: Option<PathBuf>,
    /// What manifests are compiled with
    #[command(flatten)]
    pub compile: CompileArgs,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = ExplainOutput::Text)]
    pub output: ExplainOutput,
}

/// How to print an explanation
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExplainOutput {
    /// For people
    Text,
    /// As documented in docs/explain-json.md
    Json,
}

/// Where a packet goes.
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
            found.ok_or_else(|| format!("{name:?} is none of tcp, udp and sctp"))
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
            Some(_) => format!("{place:?} has a protocol and no port: ADDRESS:PORT/PROTOCOL"),
            None => format!("{place:?} is not ADDRESS:PORT (an IPv6 address stands in brackets)"),
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

/// How to print a difference
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people, by Service
    Text,
    /// As documented in docs/diff-json.md
    Json,
    /// As commands for `nft -f`; what is IPVS's is there as comments
    Nft,
    /// As lines for `ipvsadm --restore`: only what is IPVS's, without addresses
    Ipvsadm,
}
