//! `rulec explain`: where a packet goes, by which rules, and why.

mod json;
mod reason;
#[cfg(test)]
mod tests;
mod text;

use std::net::IpAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::net::Family;
use rulec_compiler::nft::Pick;
use rulec_compiler::nft::element::{Key, Value};
use rulec_compiler::nft::set::View;
use rulec_compiler::object::Object;
use rulec_compiler::oracle::{self, Fate, Packet};
use rulec_compiler::remark;
use rulec_compiler::state::{ChainContent, Held, State};

use crate::cli::{ExplainArgs, ExplainOutput};
use crate::setup;
use crate::tool::input::{NodeAddresses, Side};

/// A packet and its possible outcomes.
struct Explanation {
    packet: Packet,
    frontend: Option<Served>,
    outcomes: Vec<Explained>,
    /// The endpoints of the Service port that are not used, and why.
    left_out: Vec<String>,
    /// Differences from what rulec creates: the actual rules may behave differently.
    warnings: Vec<String>,
    /// Remarks about objects that have no effect.
    remarks: Vec<String>,
}

/// The frontend that the packet reaches.
struct Served {
    frontend: Frontend,
    owner: Option<PortKey>,
    /// The timeout of session affinity in seconds, if the Service has it.
    affinity: Option<u32>,
}

/// A possible outcome, and its reasons.
struct Explained {
    outcome: Fate,
    reasons: Vec<String>,
}

/// Explains and prints.
///
/// # Errors
///
/// If the state or the manifests cannot be read, or no source address is known.
pub fn run(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let settings = Arc::new(setup::settings(&args.compile)?);
    let is_here = args.state == "kernel";
    let node = NodeAddresses::of(&args.compile, is_here)?;
    let mut side = Side::read(&args.state, &settings, &node)
        .with_context(|| format!("--state {}", args.state))?;
    let state = match side.state.take() {
        Some(state) => state,
        None => side.compile(&State::default())?.state(),
    };
    if let Some(path) = &args.manifests {
        let path = path.to_string_lossy();
        let known =
            Side::read(&path, &settings, &node).with_context(|| format!("--manifests {path}"))?;
        side.model = known.model;
        side.incomplete |= known.incomplete;
    }
    let mut own = own_addresses(&side, &state, &node)?;
    own.extend(&node.told);
    let to = args.to.address;
    let is_same_family = |address: &IpAddr| Family::of(*address) == Family::of(to);
    let source = match args.from {
        Some(from) => from,
        None => {
            let mut own = own.iter().copied().filter(|it| is_same_family(it) && !it.is_loopback());
            own.next().context("this node has no address of that family: use --from")?
        }
    };
    anyhow::ensure!(is_same_family(&source), "{source} and {to} are of different IP families");
    let packet =
        Packet { source, interface: args.interface, destination: to, transport: args.to.transport };
    let is_own = |address: IpAddr| address.is_loopback() || own.contains(&address);
    let explanation = Explanation::of(&side, &state, packet, &is_own);
    let printed = match args.output {
        ExplainOutput::Text => text::print(&explanation),
        ExplainOutput::Json => json::print(&explanation),
    };
    match printed {
        // The reader has closed the pipe.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    Ok(if side.incomplete { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// Returns the addresses of this node: those of its interfaces if its kernel is read, otherwise
/// those that the objects, the settings and the state name.
fn own_addresses(side: &Side, state: &State, node: &NodeAddresses) -> anyhow::Result<Vec<IpAddr>> {
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

impl Explanation {
    fn of(side: &Side, state: &State, packet: Packet, is_own: &dyn Fn(IpAddr) -> bool) -> Self {
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
    let table = state.tables.get(&frontend.family())?;
    let affinity = match table.elements.get(&Key::Service(View::Cluster, frontend)) {
        Some(Held { value: Value::Pick(Pick { affinity, .. }), .. }) => *affinity,
        Some(_) | None => None,
    };
    let owner = state.owner(frontend).map(|comment| side.meant(comment));
    Some(Served { frontend, owner, affinity })
}

/// Returns the node port that the packet would reach if node ports answered at its destination.
fn silent(state: &State, packet: &Packet, is_own: &dyn Fn(IpAddr) -> bool) -> Option<Frontend> {
    let (protocol, port) = packet.transport?;
    let family = Family::of(packet.destination);
    let node_port = Frontend::NodePort { family, protocol, port };
    let elements = &state.tables.get(&family)?.elements;
    let is_one = elements.contains_key(&Key::Service(View::Cluster, node_port))
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
