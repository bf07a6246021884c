//! `rulec trace`: the way of a real packet through the rules, and what it means.
//!
//! ```text
//!  sinks::nft::trace ─▶ way (steps) ─┐
//!                                    ├▶ Trace ─▶ text | json
//!  Explanation (what is expected) ───┘
//! ```
//!
//! - `send` sends the packet, if it is to come from this machine.
//! - `way` makes steps of what the kernel tells, and says where the packet went.
//! - `about` says of a step which object and field it is there for.

mod about;
mod json;
mod send;
mod text;
mod way;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::oracle::{Packet, Verdict};
use rulec_compiler::state::State;
use rulec_sinks::nft::trace::{Event, Flow, Tracer, Wanted, handles};
use rulec_sinks::{Device, Lookup};

use crate::cli::trace::{TraceArgs, TraceOutput};
use crate::observe::state::{self, DaemonState};
use crate::observe::telemetry::complain;
use crate::tool::compiling::Compiling;
use crate::tool::daemon::{Unanswered, ask};
use crate::tool::explain::{Destination, Explanation, destinations, is_own, own_addresses};
use crate::tool::input::{Named, NodeAddresses, Side};
use way::Way;

/// How long after its last step a packet is at the end of its way. It may wait in a queue, for the
/// link-layer address of the next hop, but not in the rules.
const QUIET: Duration = Duration::from_millis(300);

/// The status if the packet did not go the way that `rulec explain` expects.
const UNEXPECTED: u8 = 1;

/// The status if there was no packet.
const NOTHING: u8 = 2;

/// A packet, its way, and what is expected of it.
struct Trace {
    flow: Flow,
    /// The interface on which it has arrived, unless it is one of this node.
    interface: Option<String>,
    /// Whether this command has sent it.
    is_sent: bool,
    way: Way,
    /// What each step is there for, if that is known.
    about: Vec<Option<String>>,
    expected: Expected,
}

/// What `rulec explain` says of such a packet.
enum Expected {
    /// The same, for these reasons.
    Same(Vec<String>),
    /// Something else.
    Other(Vec<Verdict>),
}

/// Traces and prints.
///
/// # Errors
///
/// If the kernel cannot be read or does not trace.
pub fn run(args: &TraceArgs) -> anyhow::Result<ExitCode> {
    args.color.apply();
    let Compiling { settings, node, .. } = Compiling::of_kernel(&args.compile, &args.socket)?;
    let known = Known::read(args, settings, &node)?;
    let own = own_addresses(&known.side, &known.state, &node)?;
    let (source, destination) = one(args, &known, &own)?;
    let family = Family::of(destination.0);
    let places = handles(family).context("listing the rules")?;
    let sends = !args.wait && args.from.is_none_or(|from| own.contains(&from));
    anyhow::ensure!(
        !sends || args.interface.is_none(),
        "--interface: a packet that this node sends arrives on none; use --wait, or --from another \
         address"
    );
    let on = args.interface.as_deref().map(|name| index(&devices()?, name)).transpose()?;
    let Some(events) = follow(args, (source, on), destination, sends)? else {
        complain(format_args!("no packet that starts a flow came within {} s", args.seconds));
        return Ok(ExitCode::from(NOTHING));
    };
    let flow =
        events.iter().find_map(|event| event.flow).context("the kernel told no addresses")?;
    // One that this node sends to itself arrives on the loopback device, but not from elsewhere.
    let device = events.first().and_then(|first| first.device).filter(|_| !sends);
    // It may be one that was made while this waited.
    let interface = device.map(name).transpose()?;
    let mark = known.side.settings.masquerade_bit.mark();
    let way = Way::of(events, &places, family, mark);
    let trace = known.judge((flow, interface), sends, way, &own);
    let printed = match args.output {
        TraceOutput::Text => text::print(&trace),
        TraceOutput::Json => json::print(&trace),
    };
    match printed {
        // The reader has closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    let is_expected = matches!(trace.expected, Expected::Same(_));
    Ok(if is_expected { ExitCode::SUCCESS } else { ExitCode::from(UNEXPECTED) })
}

/// What the kernel holds, and the objects of the daemon.
struct Known {
    side: Side,
    state: State,
}

impl Known {
    fn read(
        args: &TraceArgs,
        settings: std::sync::Arc<rulec_compiler::Settings>,
        node: &NodeAddresses,
    ) -> anyhow::Result<Self> {
        let state = Named::kernel(&settings, node)?;
        let daemon = args.socket.path().map(|socket| ask::<DaemonState>(socket, state::STATE));
        let model = match daemon {
            Some(Ok(daemon)) => daemon.into_model()?,
            Some(Err(error @ Unanswered::NoDaemon { .. })) => {
                complain(format_args!("{error}\nthe kernel knows no objects"));
                None
            }
            Some(Err(Unanswered::Failed(error))) => return Err(error),
            None => None,
        };
        Ok(Self { side: Side::of_objects("the kernel", model, settings), state })
    }

    fn judge(
        &self,
        (flow, interface): (Flow, Option<String>),
        is_sent: bool,
        way: Way,
        own: &[IpAddr],
    ) -> Trace {
        let transport = flow
            .transport
            .and_then(|(protocol, _, port)| Some((protocol, std::num::NonZeroU16::new(port)?)));
        let packet = Packet {
            source: flow.source,
            interface: interface.clone(),
            destination: flow.destination,
            transport,
        };
        let explanation = Explanation::of(&self.side, &self.state, packet, &is_own(own));
        let outcomes = &explanation.outcomes;
        let same = outcomes.iter().find(|explained| way.is(&explained.outcome));
        let about = about::steps(&self.side, &self.state, &explanation, same, &way);
        let expected = match same {
            Some(explained) => Expected::Same(explained.reasons.clone()),
            None => {
                let mut verdicts: Vec<Verdict> =
                    outcomes.iter().map(|explained| explained.outcome.verdict).collect();
                verdicts.dedup();
                Expected::Other(verdicts)
            }
        };
        Trace { flow, interface, is_sent, way, about, expected }
    }
}

/// Returns the source and destination that the arguments mean.
fn one(
    args: &TraceArgs,
    known: &Known,
    own: &[IpAddr],
) -> anyhow::Result<(Option<IpAddr>, Destination)> {
    let all = destinations(&args.to, &known.side, &known.state, own)?;
    let fits = |(address, _): &&Destination| {
        let of = |other: IpAddr| Family::of(other) == Family::of(*address);
        args.from.map_or_else(|| args.wait || own.iter().copied().any(of), of)
    };
    let found = all.iter().find(fits).copied();
    let found = found.with_context(|| match args.from {
        Some(from) => format!("{} has no address of the family of {from}", args.to),
        None => format!("this node has no address of the family of {}", args.to),
    })?;
    Ok((args.from, found))
}

/// Returns the interfaces of this node, by index.
fn devices() -> anyhow::Result<BTreeMap<u32, Device>> {
    Lookup::open().and_then(|mut lookup| lookup.devices()).context("listing the interfaces")
}

/// Returns the name of an interface; its number if it is gone.
fn name(index: u32) -> anyhow::Result<String> {
    Ok(devices()?.remove(&index).map_or_else(|| format!("#{index}"), |device| device.name))
}

/// Returns the index of an interface.
fn index(devices: &BTreeMap<u32, Device>, name: &str) -> anyhow::Result<u32> {
    let found = devices.iter().find(|(_, device)| device.name == name);
    let known = || devices.values().map(|device| &*device.name).collect::<Vec<_>>().join(", ");
    found
        .map(|(index, _)| *index)
        .with_context(|| format!("--interface {name}: this node has {}", known()))
}

/// Follows one packet, from an address and on an interface if these matter. Returns `None` if there
/// is none in time.
fn follow(
    args: &TraceArgs,
    (source, on): (Option<IpAddr>, Option<u32>),
    (destination, transport): Destination,
    sends: bool,
) -> anyhow::Result<Option<Vec<Event>>> {
    let mut wanted = Wanted { destination, transport, source, source_port: None };
    let packet = if sends {
        let (protocol, port) = transport.context("name a port: a ping is not sent")?;
        let to = SocketAddr::new(destination, port.get());
        anyhow::ensure!(
            protocol != Protocol::Sctp,
            "SCTP is not sent: use --wait, and connect from elsewhere"
        );
        let packet = send::Prepared::new(protocol, source, to)
            .with_context(|| format!("preparing a packet to {to}"))?;
        wanted.source_port = Some(packet.port());
        Some(packet)
    } else {
        None
    };
    let mut tracer = Tracer::open(&wanted).context("tracing (are you root?)")?;
    // It is open until the end of the trace: nobody answers the peer with a reset before that.
    let sent = packet.map(send::Prepared::send);
    if !sends {
        // Who sends the packet must know when to.
        let from = source.map_or_else(|| "anywhere".to_owned(), |it| it.to_string());
        complain(format_args!("waiting for a packet from {from} to {destination}"));
    }
    let is_wanted = |event: &Event| on.is_none() || event.device == on;
    let first = tracer.packet(args.patience(), is_wanted).context("reading the trace")?;
    let Some(first) = first else {
        // An error that comes with a trace is what became of the packet.
        let error = sent.and_then(|sent| sent.error);
        return error.map_or(Ok(None), |error| Err(error).context("sending a packet"));
    };
    // Other packets may begin meanwhile. One to this node itself has another number on each side of
    // the loopback device.
    let mut numbers = vec![first.packet];
    let mut last = first.flow;
    let mut events = vec![first];
    let mut end = Instant::now() + QUIET;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // There may be events of others without an end.
        let event =
            if left.is_zero() { None } else { tracer.next(left).context("reading the trace")? };
        let Some(event) = event else { break };
        if event.flow.is_some_and(|flow| last.is_some_and(|last| goes_on(&last, &flow))) {
            numbers.push(event.packet);
        }
        if numbers.contains(&event.packet) {
            last = event.flow.or(last);
            events.push(event);
            end = Instant::now() + QUIET;
        }
    }
    Ok(Some(events))
}

/// Returns whether a packet that appears is the one that went to the same place.
fn goes_on(last: &Flow, flow: &Flow) -> bool {
    // Packets without ports are told apart by their source alone.
    (last.destination, last.transport) == (flow.destination, flow.transport)
        && (flow.transport.is_some() || last.source == flow.source)
}

/// Writes a trace to the standard output.
fn write_out(text: &[u8]) -> io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text)?;
    out.flush()
}
