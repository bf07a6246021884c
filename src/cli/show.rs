//! The command lines of `rulec show` and `rulec status`.

use std::convert::Infallible;
use std::ops::Deref;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use super::{ApiArgs, CompileArgs};
use crate::config::options::SocketArgs;

/// `rulec show`
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// What to show
    #[arg(value_enum)]
    pub what: Subject,
    /// One of them: a Service (NAMESPACE/NAME, NAME), a node port (:PORT), an ADDRESS, ADDRESS:PORT
    /// or a URL; a Node; a source
    ///
    /// A Service alone is described in full, with each endpoint that is not used and the reason.
    #[arg(value_name = "NAME")]
    pub name: Option<Name>,
    /// Only Services of this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// The state to show instead of the daemon's: `kernel`, a manifest directory or file, a
    /// snapshot, or `api` for what an API server has
    ///
    /// May be given several times with manifests; the last that defines an object takes precedence.
    /// Without a daemon, the kernel's state is shown.
    #[arg(long, value_name = "STATE")]
    pub state: Vec<String>,
    /// Count the flows that conntrack has now, per endpoint
    ///
    /// All flows of this machine are read once, which needs CAP_NET_ADMIN. Only of `endpoints`.
    #[arg(long)]
    pub flows: bool,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The API server that `api` means
    #[command(flatten)]
    pub api: ApiArgs,
    /// How to compile manifests, and how the kernel was programmed
    #[command(flatten)]
    pub compile: CompileArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = ShowOutput::Text)]
    pub output: ShowOutput,
}

/// A name as typed. What it means depends on what is shown.
#[derive(Clone, Debug)]
pub struct Name(String);

impl FromStr for Name {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

/// What to show
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Subject {
    /// Services: their frontends, policies and endpoints
    #[value(alias = "service", alias = "svc")]
    Services,
    /// Endpoints of Services, and why some are not used
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
    /// This node: its addresses, its zone, and what node ports answer on
    #[value(alias = "nodes")]
    Node,
    /// Where objects come from, and whether that can be relied on
    #[value(alias = "source")]
    Sources,
}

/// The output format
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShowOutput {
    /// Columns as of `kubectl get`, or a description of one Service
    Text,
    /// More columns
    Wide,
    /// As documented in docs/show.md
    Json,
    /// The same as YAML
    Yaml,
}

/// `rulec status`
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = StatusOutput::Text)]
    pub output: StatusOutput,
}

/// The output format of a status
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    /// For people
    Text,
    /// As documented in docs/show.md
    Json,
}
