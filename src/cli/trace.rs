//! The command line of `rulec trace`.

use std::net::IpAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::name::Asked;
use super::{Colour, CompileArgs};
use crate::config::options::SocketArgs;

/// `rulec trace`
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The destination of the packet, as for `rulec explain`
    ///
    /// Of a Service, it is a cluster address of its first port.
    #[arg(value_name = "FRONTEND")]
    pub to: Asked,
    /// The source address of the packet [default: this node]
    ///
    /// If it is an address of this node, or none is given, a TCP connection is opened, or an empty
    /// UDP datagram sent. Otherwise the next packet from there is waited for.
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Wait for a packet of others, and send none
    #[arg(long)]
    pub wait: bool,
    /// Wait for a packet that arrives on this interface
    ///
    /// Without it, the packet may arrive on any; on which it did matters where Pods are recognised by
    /// interface. What this node sends arrives on none.
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// How long to wait for a packet, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// How the kernel was programmed
    #[command(flatten)]
    pub compile: CompileArgs,
    /// Where the daemon is asked for its settings and objects
    #[command(flatten)]
    pub socket: SocketArgs,
    /// The output format
    #[arg(short, long, value_enum, default_value_t = TraceOutput::Text)]
    pub output: TraceOutput,
    /// When to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    pub color: Colour,
}

impl TraceArgs {
    /// Returns how long to wait for a packet.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// The output format of a trace
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TraceOutput {
    /// For people
    Text,
    /// As documented in docs/trace.md
    Json,
}
