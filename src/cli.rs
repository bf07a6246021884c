//! The command line, as typed.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use rulec_compiler::ipvs::Scheduler;

mod check;
pub mod completions;
pub mod name;
pub mod relay;
pub mod replay;
pub mod show;
pub mod top;
pub mod trace;
pub mod watch;

pub use check::{CheckArgs, CheckOutput, Rule};

use crate::config::KubeProxyFlags;
pub use crate::config::options::{
    IpvsAddresses, IpvsArgs, LogArgs, LogFormat, RangeArgs, RunArgs, SettingsArgs, SocketArgs,
};
use crate::config::options::{device, heading, path_or_none};
use name::Asked;

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
    /// Print help, with the options that have no effect
    ///
    /// They are options of kube-proxy, and are accepted so that its command line is one of rulec.
    #[arg(long, global = true, action = ArgAction::HelpLong)]
    help_all: Option<bool>,
}

impl Cli {
    /// Parses a command line, whose first word is the name of the program.
    ///
    /// # Errors
    ///
    /// If it is wrong, or asks for help or the version.
    pub fn read(line: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = line.into_iter().collect();
        // Where the word is a value of another option, no help is printed, and nothing is different.
        let is_all = words.iter().any(|word| word == "--help-all");
        let command = if is_all { Self::with_all_options() } else { Self::command() };
        let mut matches = command.try_get_matches_from(words)?;
        Self::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut Self::command()))
    }

    /// Returns the command line with nothing hidden in its help.
    pub fn with_all_options() -> clap::Command {
        let is_hidden = |arg: &clap::Arg| arg.get_help_heading() == Some(heading::WITHOUT_EFFECT);
        let show = |arg: clap::Arg| if is_hidden(&arg) { arg.hide(false) } else { arg };
        Self::command().mut_subcommands(|command| command.mut_args(show))
    }
}

/// The command to run
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Program this node from an API server, from manifests, or from both, and keep it up to date
    ///
    /// Runs until SIGTERM or SIGINT, and leaves the rules in place: connections continue while it
    /// is restarted or replaced. `rulec cleanup` removes the rules. On SIGHUP, it reads the
    /// configuration and all manifests again at once.
    Run(Box<RunArgs>),
    /// Show what would change for Services, and why
    ///
    /// A summary comes first, then what is dangerous: frontends that are no longer served, that
    /// refuse or drop connections, that another Service takes over, or that are opened to more
    /// clients. Then all changes, by Service.
    ///
    /// Exits with 0 if nothing would change, and 1 if something would; with 2 if a part could not be
    /// compared, because of an error in a manifest or of a directory that is not read: that part may
    /// differ, the output names it, and the rest is compared nevertheless. Exits with 3 if it cannot
    /// compare at all.
    ///
    /// On a terminal, the text goes through the pager that the variable PAGER names, or `less`; an
    /// empty PAGER means none.
    Diff(DiffArgs),
    /// Show where a packet goes, by which rules, and why
    ///
    /// Follows the first packet of a connection through the rules that the kernel holds, or that
    /// manifests compile to, and names the objects and fields that decide. Where a backend is
    /// chosen at random, all candidates are listed.
    Explain(ExplainArgs),
    /// Follow a real packet through the rules of the kernel, and say what each step is there for
    ///
    /// Sends a packet, or waits for one, and shows each rule that it matches, also in the tables of
    /// other programs. Exits with 0 if the packet goes the way that `rulec explain` expects, 1 if it
    /// goes another one, 2 if there was no packet, and 3 if it cannot trace. Needs root.
    Trace(Box<trace::TraceArgs>),
    /// Say what is wrong with manifests, without a kernel or a cluster
    ///
    /// Finds what cannot be read or is ignored, and what does not fit together: selectors that match
    /// nothing, Services that ask for the same address, objects that are defined twice. Exits with 0
    /// if it has found no error and no warning, 1 if it has, 2 if something could not be read, and 3
    /// if it cannot run.
    Check(CheckArgs),
    /// Show Services, endpoints, the node or the sources, as the daemon knows them
    ///
    /// Asks the running daemon. Without one, shows what the kernel holds, or the state that --state
    /// names. Of one Service, each endpoint that is not used is named, with the reason.
    Show(Box<show::ShowArgs>),
    /// Show how the daemon is: in sync or not and why, sources, refused Services, errors
    ///
    /// Exits with 0 if nothing is wrong, 1 if something is, and 3 if there is no daemon or it does
    /// not answer.
    Status(show::StatusArgs),
    /// Follow changes: what of which Service, why, and at which cost
    ///
    /// Asks the running daemon, and goes on until it is interrupted. A restart of the daemon is waited
    /// for. Exits with 0 if the output is closed, and 3 if there is no daemon or it does not answer.
    Watch(watch::WatchArgs),
    /// Show which Services get new connections, and which endpoints, live
    ///
    /// The busiest Service port comes first. Asks the running daemon, which counts if it was started
    /// with --traffic. Without a terminal, or with --once, prints the connections of one interval.
    /// Exits with 0, or with 3 if there is no daemon, it does not answer, or it does not count.
    Top(top::TopArgs),
    /// Show past changes that the daemon keeps, or one of them
    ///
    /// `rulec diff --from @-5m --to @now` compares the states of two moments. Exits with 0, or with 3
    /// if there is no daemon, it does not answer, or it does not keep the change.
    History(watch::HistoryArgs),
    /// List what a recording has, or write a part of it to another file
    ///
    /// `rulec run --to-file` records, and `rulec run --replay` programs a node from it. As a state,
    /// `rulec diff`, `rulec show` and `rulec explain` take FILE, which is its last one, or FILE@TIME.
    /// Exits with 0, with 2 if a part of it is torn and was left out, or with 3 if it cannot be read.
    Replay(replay::ReplayArgs),
    /// Follow the API server once, and serve many nodes with what each of them needs
    ///
    /// Nodes follow it with `rulec run --relay`. It keeps no state, so that any number of relays can
    /// run behind one address. Exits with 0 on SIGTERM or SIGINT, and 3 if it cannot run.
    Relay(relay::RelayServerArgs),
    /// Remove everything that rulec, or kube-proxy, has put into this node's kernel
    ///
    /// Connections to Services are translated only while a proxy's rules are in place: let the next
    /// proxy program the node first.
    Cleanup(CleanupArgs),
    /// Print a script that completes the command line of rulec in a shell
    ///
    /// In bash, zsh and fish, names of Services are completed, too: the running daemon is asked. The
    /// Debian package installs the scripts for these three.
    Completions(CompletionsArgs),
    /// Print what can follow on a command line, for the scripts of `rulec completions`
    #[command(hide = true)]
    Complete(CompleteArgs),
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
///
/// Without any of these options, they are those of the running daemon, if there is one.
#[derive(Debug, PartialEq, Args)]
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
    /// What Services of manifests are given
    #[command(flatten)]
    pub ranges: RangeArgs,
    /// The directory of results of CNI plugins in which the daemon finds the addresses of Pods
    #[arg(long, help_heading = heading::SOURCES, value_name = "DIRECTORY")]
    pub cni_cache: Option<PathBuf>,
    /// The directory in which the daemon keeps what it has given out to Services of manifests
    ///
    /// Without it (`--state-dir=`), or if it cannot be read, what is shown is given out anew. That differs only for
    /// a few Services whose names lead to the same address.
    #[arg(long, help_heading = heading::SERVICES, value_name = "DIRECTORY", default_value = "/var/lib/rulec", value_parser = path_or_none())]
    pub state_dir: PathBuf,
    /// Addresses of the node that no other input names: manifests contain only those of the Node
    /// object
    ///
    /// If no input names any, the node is assumed to be this machine where that matters; it is this
    /// machine whenever the kernel's state is used.
    #[arg(long, help_heading = heading::NODE, value_name = "ADDRESS,...", value_delimiter = ',')]
    pub own_addresses: Vec<IpAddr>,
}

/// The options alone, to see which there are by default.
#[derive(Debug, Parser)]
struct CompileDefaults {
    #[command(flatten)]
    args: CompileArgs,
}

impl CompileArgs {
    /// Returns whether any of the options was given.
    pub fn are_given(&self) -> bool {
        *self != CompileDefaults::parse_from([""]).args
    }

    /// Returns whether any of the options was given that decide what a kernel holds of given objects.
    pub fn settings_are_given(&self) -> bool {
        let of = |args: &Self| {
            (&args.config, &args.settings, &args.mode, &args.node)
                == (&self.config, &self.settings, &self.mode, &self.node)
        };
        !of(&CompileDefaults::parse_from([""]).args)
    }

    /// Returns the options that kube-proxy has too, as its flags.
    pub fn flags(&self) -> KubeProxyFlags {
        let given = self.mode.flags().into_iter().chain(self.node.flags());
        KubeProxyFlags { given: given.filter_map(|(flag, text)| Some((flag, text?))).collect() }
    }
}

/// The API server that the state `api` means
#[derive(Debug, Default, Args)]
pub struct ApiArgs {
    /// For the state `api`: a file with the server's address and credentials [default:
    /// ~/.kube/config, or the service account of a Pod]
    #[arg(long, help_heading = heading::SOURCES, value_name = "FILE", env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// For the state `api`: the address of the server; overrides the kubeconfig
    #[arg(long, help_heading = heading::SOURCES, value_name = "URL")]
    pub master: Option<String>,
}

/// The proxy mode
#[derive(Debug, PartialEq, Args)]
pub struct ModeArgs {
    /// The proxy mode [default: nftables]
    #[arg(long, help_heading = heading::RULES, value_name = "MODE", value_enum)]
    pub proxy_mode: Option<ProxyMode>,
    /// How a backend is chosen, unless the Service says otherwise; used only in IPVS mode [default:
    /// rr]
    ///
    /// One of rr, wrr, lc, wlc, lblc, lblcr, dh, sh, sed, nq and mh.
    #[arg(long, help_heading = heading::IPVS, value_name = "NAME")]
    pub ipvs_scheduler: Option<Scheduler>,
    /// Networks whose virtual servers and addresses are left alone; used only in IPVS mode
    #[arg(long, help_heading = heading::IPVS, value_name = "CIDR,...", value_delimiter = ',')]
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
#[derive(Debug, PartialEq, Args)]
pub struct NodeArgs {
    /// The primary address of the node; overrides its Node object
    #[arg(long, help_heading = heading::NODE, value_name = "ADDRESS")]
    pub bind_address: Option<IpAddr>,
    /// How to recognise packets of this node's Pods [default: ClusterCIDR]
    #[arg(long, help_heading = heading::NODE, value_name = "MODE", value_enum)]
    pub detect_local_mode: Option<DetectLocalMode>,
    /// The bridge that Pods are attached to; used only in mode BridgeInterface
    #[arg(long, help_heading = heading::NODE, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// The prefix of the names of Pods' interfaces; used only in mode InterfaceNamePrefix
    #[arg(long, help_heading = heading::NODE, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// Where node ports answer: networks of the node's addresses, or `primary` [default: primary;
    /// every address if the mode is not nftables]
    ///
    /// A family without a network answers on every address of the node except loopback; so does one
    /// with a network of prefix length 0.
    #[arg(long, help_heading = heading::SERVICES, value_name = "CIDR,...|primary", value_delimiter = ',')]
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
    /// The state to start from: `kernel`, a manifest directory or file, a snapshot, a recording,
    /// `api` for what an API server has, `-` for manifests on standard input, or a moment of the
    /// daemon
    ///
    /// A recording is FILE, for its last state, or FILE@TIME.
    ///
    /// A moment is `@now`, `@-5m`, a time such as `@2026-11-30T22:10:00Z`, or `@17` for the state after
    /// change 17 of `rulec history`.
    ///
    /// May be given several times with manifests; the last that defines an object takes precedence.
    /// Services without `clusterIP` are given the same address on both sides: the one that the other
    /// side writes, if it does.
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub from: Vec<String>,
    /// The state to reach, in the same forms
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub to: Vec<String>,
    /// How to compile manifests
    #[command(flatten)]
    pub compile: CompileArgs,
    /// Where the daemon is asked for its settings, and for moments
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The API server that `api` means
    #[command(flatten)]
    pub api: ApiArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Show the operations in the kernel, too
    #[arg(short, long)]
    pub verbose: bool,
    /// Say what becomes of the flows (connections, and exchanges of UDP packets) to Services that
    /// exist on this machine now: which break, move to another backend, or stay
    ///
    /// Reads conntrack, so that it needs CAP_NET_ADMIN and `--from kernel`. With --verbose, flows
    /// are listed one by one. Not available in mode ipvs.
    #[arg(long)]
    pub flows: bool,
    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
    /// Save the state of --to as a snapshot
    ///
    /// What could not be read is named in it, and is not compared later either.
    #[arg(long, value_name = "FILE")]
    pub save: Option<PathBuf>,
}

/// When to use colour
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    /// On a terminal, unless the variable NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl Colour {
    /// Uses colour in everything that is printed from now on.
    pub fn apply(self) {
        let choice = match self {
            Self::Auto => anstream::ColorChoice::Auto,
            Self::Always => anstream::ColorChoice::Always,
            Self::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// `rulec explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The destination of the packet: ADDRESS:PORT, ADDRESS:PORT/PROTOCOL (tcp, udp or sctp), an
    /// ADDRESS alone for a ping, a URL, a node port (:PORT), or a Service (NAMESPACE/NAME, with
    /// :PORT for one of its ports)
    ///
    /// Each port of a Service is explained, at its cluster addresses.
    #[arg(value_name = "FRONTEND")]
    pub to: Asked,
    /// The source address of the packet [default: this node]
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// The interface that the packet arrives on, where Pods are recognised by interface
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The state to look at: `kernel`, a manifest directory or file, a snapshot, a recording, `api`
    /// for what an API server has, or `-` for manifests on standard input
    ///
    /// A recording is FILE, for its last state, or FILE@TIME.
    ///
    /// May be given several times with manifests; the last that defines an object takes precedence.
    #[arg(long, value_name = "STATE", default_value = "kernel")]
    pub state: Vec<String>,
    /// Manifests to name as reasons, if the state does not contain its objects; may be given
    /// several times
    #[arg(long, value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
    /// How to compile manifests
    #[command(flatten)]
    pub compile: CompileArgs,
    /// Where the daemon is asked for its settings
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The API server that `api` means
    #[command(flatten)]
    pub api: ApiArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = ExplainOutput::Text)]
    pub output: ExplainOutput,
    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
}

/// The output format of an explanation
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExplainOutput {
    /// For people
    Text,
    /// As documented in docs/explain-json.md
    Json,
}

/// `rulec completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// `rulec complete`
#[derive(Debug, Args)]
pub struct CompleteArgs {
    /// The words of the command line after `rulec`, up to the one that is completed
    #[arg(last = true, value_name = "WORD")]
    pub words: Vec<OsString>,
}

/// The output format of a difference
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// As documented in docs/diff-json.md
    Json,
    /// As commands for `nft -f`; changes of IPVS are comments
    Nft,
    /// As lines for `ipvsadm --restore`: changes of IPVS only, without addresses
    Ipvsadm,
}
