//! The command line, as typed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use rulec_compiler::ipvs::Scheduler;
use rulec_compiler::net::Protocol;

pub mod completions;

use crate::config::KubeProxyFlags;
use crate::config::options::device;
pub use crate::config::options::{
    IpvsAddresses, IpvsArgs, LogArgs, LogFormat, RunArgs, SettingsArgs,
};

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
