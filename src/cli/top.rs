//! The command line of `rulec top`.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::config::options::SocketArgs;

/// `rulec top`
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The time between two readings, in seconds; at least 1
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    pub interval: Duration,
    /// Print the connections of one interval, and end
    #[arg(long)]
    pub once: bool,
    /// Where the daemon listens
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = TopOutput::Text)]
    pub output: TopOutput,
}

/// The output format of connections
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TopOutput {
    /// For people
    Text,
    /// As documented in docs/traffic.md, one document a line for each interval
    Json,
}

/// Accepts a time. The daemon reads its counters once a second at the most.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let is_long_enough = |it: &Duration| (1..=86_400).contains(&it.as_secs());
    let refusal = || format!("{text:?} is not a number of seconds from 1 to 86400");
    seconds.filter(is_long_enough).ok_or_else(refusal)
}
