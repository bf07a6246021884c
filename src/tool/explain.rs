//! `rulec explain`: where a packet goes, by which rules, and why.

mod destination;
mod json;
mod reason;
#[cfg(test)]
mod tests;
mod text;

pub(crate) use destination::{Destination, all as destinations};
pub(crate) use json::word;
pub(crate) use text::verdict;

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context;
use rulec_compiler::Frontend;
use rulec_compiler::frontend::{PortKey, View};
use rulec_compiler::net::Family;
use rulec_compiler::nft::element::Key;
use rulec_compiler::object::Object;
use rulec_compiler::oracle::{self, Fate, Packet, Verdict};
use rulec_compiler::remark;
use rulec_compiler::state::{ChainContent, State};

use crate::cli::{ExplainArgs, ExplainOutput};
use crate::host::node::{self, Needs};
use crate::observe::telemetry::complain;
use crate::tool::balancing::Balancing;
use crate::tool::compiling::{Compiling, remind};
use crate::tool::input::{Giving, NodeAddresses, Places, Side};

/// A packet and its possible outcomes.
pub(crate) struct Explanation {
    packet: Packet,
    frontend: Option<Served>,
    pub(crate) outcomes: Vec<Explained>,
    /// The endpoints of the Service port that are not used, and why.
    left_out: Vec<String>,
    /// Differences from what rulec creates: the actual rules may behave differently.
    warnings: Vec<String>,
    /// Remarks about objects that have no effect.
    remarks: Vec<String>,
    /// What of this node is in the way of such a connection.
    node: Vec<String>,
}

/// The frontend that the packet reaches.
pub(crate) struct Served {
    pub(crate) frontend: Frontend,
    owner: Option<PortKey>,
    /// The timeout of session affinity in seconds, if the Service has it.
    affinity: Option<u32>,
    /// How new connections of such clients are spread over the endpoints.
    balancing: Balancing,
}

/// A possible outcome, and its reasons.
pub(crate) struct Explained {
    pub(crate) outcome: Fate,
    pub(crate) reasons: Vec<String>,
}

/// Explains and prints.
///
/// # Errors
///
/// If the state or the manifests cannot be read, or no source address is known.
pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    args.color.apply();
    let is_here = args.state == ["kernel"];
    let Compiling { settings, mut giving, node, runners } =
        Compiling::of(&args.compile, &args.socket, is_here)?;
    let places = Places::of(&args.api, &args.socket, &settings);
    let mut side = Side::read(&args.state, &places, &settings, &node, &mut giving)
        .with_context(|| format!("--state {}", args.state.join(", ")))?;
    let mut is_whole = tell(&side);
    if side.state.is_none() || !args.manifests.is_empty() {
        remind(&runners);
    }
    let state = match side.state.take() {
        Some(state) => state,
        None => side.compile(&State::default())?.state(),
    };
    if !args.manifests.is_empty() {
        let paths: Vec<_> = args.manifests.iter().map(|path| path.to_string_lossy()).collect();
        let known = Side::read(&paths, &places, &settings, &node, &mut giving)
            .with_context(|| format!("--manifests {}", paths.join(", ")))?;
        is_whole &= tell(&known);
        side.model = known.model;
    }
    let mut own = own_addresses(&side, &state, &node)?;
    own.extend(&node.told);
    let is_own = is_own(&own);
    let mut explanations = Vec::new();
    for (source, (destination, transport)) in flows(&args, &side, &state, &own)? {
        let interface = args.interface.clone();
        let packet = Packet { source, interface, destination, transport };
        let mut explanation = Explanation::of(&side, &state, packet, &is_own);
        if is_here {
            let needs = needs(&side, &state, &explanation, &giving, &is_own);
            let look = node::look(&needs);
            explanation.node = look.findings.iter().map(ToString::to_string).collect();
            for error in look.errors {
                complain(format_args!("{error:#}"));
                is_whole = false;
            }
        }
        explanations.push(explanation);
    }
    let printed = match args.output {
        ExplainOutput::Text => text::print(&explanations),
        ExplainOutput::Json => json::print(&explanations),
    };
    match printed {
        // The reader has closed the pipe.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Reports what is wrong with the manifests of a side. Returns whether all of it could be used.
fn tell(side: &Side) -> bool {
    for problem in &side.problems {
        complain(problem);
    }
    side.errors().next().is_none()
}

/// Returns the packets that were asked for: each source with its destination. Of a Service with
/// addresses of both families, those are left out whose family the source does not have.
fn flows(
    args: &ExplainArgs,
    side: &Side,
    state: &State,
    own: &[IpAddr],
) -> anyhow::Result<Vec<(IpAddr, Destination)>> {
    let destinations = destination::all(&args.to, side, state, own)?;
    let source_of = |to: IpAddr| {
        let is_same_family = |address: &IpAddr| Family::of(*address) == Family::of(to);
        let mut own = own.iter().copied().filter(|it| is_same_family(it) && !it.is_loopback());
        match args.from {
            Some(from) => Some(from).filter(is_same_family),
            // The kernel chooses the destination as the source, too.
            None if to.is_loopback() => Some(to),
            None => own.next(),
        }
    };
    let flows = destinations.iter().filter_map(|to| Some((source_of(to.0)?, *to)));
    let flows: Vec<(IpAddr, Destination)> = flows.collect();
    if let (true, Some((to, _))) = (flows.is_empty(), destinations.first()) {
        match args.from {
            Some(from) => anyhow::bail!("{from} and {to} are of different IP families"),
            None => anyhow::bail!("this node has no address of that family: use --from"),
        }
    }
    anyhow::ensure!(!flows.is_empty(), "{}: no address of this node is known", args.to);
    Ok(flows)
}

/// Returns the addresses of this node: those of its interfaces if its kernel is read, otherwise
/// those that the objects, the settings and the state name.
pub(crate) fn own_addresses(
    side: &Side,
    state: &State,
    node: &NodeAddresses,
) -> anyhow::Result<Vec<IpAddr>> {
    if node.is_here {
        let Object::InterfaceAddresses(held) = node.read()?.object else { return Ok(Vec::new()) };
        return Ok(held.addresses.clone());
    }
    let mut own = side.settings.node_addresses.clone();
    if let Some(model) = &side.model {
        let node = model.node(&side.settings.node_name);
        own.extend(node.into_iter().flat_map(|node| node.object.addresses.iter().copied()));
        let held = model.interface_addresses();
        own.extend(held.into_iter().flat_map(|held| held.object.addresses.iter().copied()));
    }
    let keys = state.tables.values().flat_map(|table| table.elements.keys());
    own.extend(keys.filter_map(|key| if let Key::NodeIp(ip) = key { Some(*ip) } else { None }));
    Ok(own)
}

/// Returns whether an address is one of this node, which has these.
pub(crate) fn is_own(own: &[IpAddr]) -> impl Fn(IpAddr) -> bool {
    move |address| address.is_loopback() || own.contains(&address)
}

impl Explanation {
    /// Returns the frontend that the packet reaches.
    pub(crate) fn frontend(&self) -> Option<&Served> {
        self.frontend.as_ref()
    }

    /// Follows a packet through the rules of a state.
    pub(crate) fn of(
        side: &Side,
        state: &State,
        packet: Packet,
        is_own: &dyn Fn(IpAddr) -> bool,
    ) -> Self {
        let mark = side.settings.masquerade_bit.mark();
        let outcomes = oracle::explain(state, &packet, mark, is_own);
        let frontend = served(side, state, &outcomes);
        let silent = silent(state, &packet, is_own);
        let outcomes = outcomes.into_iter().map(|outcome| {
            let reasons = reason::of(side, &packet, frontend.as_ref(), silent, &outcome);
            Explained { outcome, reasons }
        });
        let outcomes: Vec<Explained> = outcomes.collect();
        let is_asked = outcomes.iter().any(|it| reason::is_for_endpoints(&it.outcome));
        let left_out = frontend.as_ref().filter(|_| is_asked).and_then(|served| {
            Some(reason::left_out(side, served.owner.as_ref()?, served, &outcomes))
        });
        Self {
            outcomes,
            left_out: left_out.unwrap_or_default(),
            warnings: warnings(state, Family::of(packet.destination)),
            remarks: remarks(side, frontend.as_ref()),
            node: Vec::new(),
            packet,
            frontend,
        }
    }
}

/// Returns the frontend that the rules decided about. It need not be the first one that matches the
/// packet: an external IP without endpoints that is also the node's address leaves the packet to
/// node ports.
fn served(side: &Side, state: &State, outcomes: &[Fate]) -> Option<Served> {
    let frontend = outcomes.iter().find_map(|outcome| outcome.frontend)?;
    let group = state.group(View::Cluster, frontend);
    let affinity = group.and_then(|group| Some(group.affinity?.affinity.timeout));
    let owner = state.owner(frontend).map(|comment| side.meant(comment));
    let is_outside = outcomes.iter().any(reason::is_from_outside);
    let view = if is_outside { View::Local } else { View::Cluster };
    let balancing = Balancing::of(state, view, frontend);
    Some(Served { frontend, owner, affinity, balancing })
}

/// Returns the node port that the packet would reach if node ports answered at its destination.
fn silent(state: &State, packet: &Packet, is_own: &dyn Fn(IpAddr) -> bool) -> Option<Frontend> {
    let (protocol, port) = packet.transport?;
    let family = Family::of(packet.destination);
    let node_port = Frontend::NodePort { family, protocol, port };
    let elements = &state.tables.get(&family)?.elements;
    let is_one = elements.contains_key(&Key::Service(node_port))
        || elements.contains_key(&Key::Reject(node_port));
    (is_one && is_own(packet.destination)).then_some(node_port)
}

/// Returns remarks about the Service's objects that have no effect, and about this node.
fn remarks(side: &Side, served: Option<&Served>) -> Vec<String> {
    let Some(model) = &side.model else { return Vec::new() };
    let owner = served.and_then(|served| served.owner.as_ref());
    let of_service = owner.map(|owner| remark::of_service(model, &side.settings, &owner.service));
    let of_node = remark::of_node(model, &side.settings);
    let all = of_node.into_iter().chain(of_service.into_iter().flatten());
    all.map(|remark| remark.to_string()).collect()
}

/// Returns what such a connection needs of this node, if it is one to a Service.
fn needs(
    side: &Side,
    state: &State,
    explanation: &Explanation,
    giving: &Giving,
    is_own: &dyn Fn(IpAddr) -> bool,
) -> Needs {
    let mut needs = Needs::new(&side.settings);
    let Explanation { packet, outcomes, .. } = explanation;
    if explanation.frontend.is_none() {
        return needs;
    }
    let elements = |family| state.tables.get(&family).into_iter().flat_map(|it| it.elements.keys());
    if is_own(packet.source) {
        let named = elements(Family::of(packet.destination)).filter_map(|key| {
            if let Key::ServiceCidr(network) = key { Some(*network) } else { None }
        });
        needs.reach(packet.destination, &giving.networks().chain(named).collect());
        return needs;
    }
    for explained in outcomes {
        let Verdict::Backend(backend) = explained.outcome.verdict else { continue };
        let address = backend.address;
        if !is_own(address) {
            let table = state.tables.get(&Family::of(address));
            let key = Key::Hairpin(address);
            let is_local = table.is_some_and(|it| it.elements.contains_key(&key));
            needs.serve(address, is_local);
        }
    }
    if let Some(interface) = &packet.interface {
        needs.arrive(packet.source, interface);
    }
    needs
}

fn warnings(state: &State, family: Family) -> Vec<String> {
    let Some(table) = state.tables.get(&family) else {
        return vec![format!("there is no table of rulec for {family}")];
    };
    let chains = table.chains.iter().filter(|(_, content)| **content != ChainContent::Complete);
    let altered = chains.map(|(chain, _)| {
        format!("chain {chain} differs from rulec's (or has another --masquerade-bit)")
    });
    altered.chain(table.foreign.iter().cloned()).collect()
}
