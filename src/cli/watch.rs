//! The command lines of `rulec watch` and `rulec history`.

use clap::{Args, ValueEnum};

use super::Colour;
use super::name::{Asked, Place};
use crate::config::options::SocketArgs;

/// `rulec watch`
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Only changes of these Services: NAMESPACE/NAME, NAME, or a name of the cluster's DNS
    #[arg(value_name = "NAME", value_parser = service)]
    pub names: Vec<Asked>,
    /// Where from, and in which form
    #[command(flatten)]
    pub how: PastArgs,
}

/// `rulec history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// The number of a change, to show it in full
    #[arg(value_name = "CHANGE", value_parser = number)]
    pub change: Option<u64>,
    /// Only changes of this Service: NAMESPACE/NAME, NAME, or a name of the cluster's DNS; may be given
    /// several times
    #[arg(long, value_name = "NAME", value_parser = service, conflicts_with = "change")]
    pub service: Vec<Asked>,
    /// Where from, and in which form
    #[command(flatten)]
    pub how: PastArgs,
}

/// Where changes come from, and in which form they are printed
#[derive(Debug, Args)]
pub struct PastArgs {
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = PastOutput::Text)]
    pub output: PastOutput,
    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
}

/// The output format of changes
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PastOutput {
    /// For people
    Text,
    /// As documented in docs/watch.md
    Json,
}

/// Accepts the name of a Service.
fn service(text: &str) -> Result<Asked, String> {
    let asked: Asked = text.parse()?;
    match (&asked.place, &asked.port) {
        (Place::Service { .. }, None) => Ok(asked),
        _ => Err(format!("{text:?} is not the name of a Service, NAMESPACE/NAME or NAME")),
    }
}

/// Accepts the number of a change, as `rulec history` prints it.
fn number(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix('@').unwrap_or(text).parse();
    number.map_err(|_| format!("{text:?} is not the number of a change: rulec history lists them"))
}
