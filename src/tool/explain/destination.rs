//! Where the packet goes, as the command line names it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use anyhow::Context;
use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::nft::element::Key;
use rulec_compiler::state::State;

use crate::cli::name::{Asked, Place, Port};
use crate::tool::input::Side;

/// An address, and protocol and port unless it is a ping.
pub(crate) type Destination = (IpAddr, Option<(Protocol, NonZeroU16)>);

/// Returns the destinations that a name means. Of a Service, these are the ports of its cluster
/// addresses.
///
/// # Errors
///
/// If it means nothing, or Services of several namespaces.
pub(crate) fn all(
    asked: &Asked,
    side: &Side,
    state: &State,
    own: &[IpAddr],
) -> anyhow::Result<Vec<Destination>> {
    match (&asked.place, asked.number(), asked.protocol) {
        (Place::Address(address), None, None) => Ok(vec![(*address, None)]),
        (Place::Address(address), Some(port), protocol) => {
            Ok(vec![(*address, Some((protocol.unwrap_or(Protocol::Tcp), port)))])
        }
        (Place::Address(address), None, Some(protocol)) => {
            anyhow::bail!("{asked}: name the port: {address}:PORT/{protocol}")
        }
        (Place::Node, port, protocol) => {
            let port = port.context("a node port is a number")?;
            Ok(of_node(port, protocol, state, own))
        }
        (Place::Service { .. }, ..) => of_service(asked, side, state),
    }
}

/// Returns a port of the node, at the first address of each family where node ports answer.
fn of_node(
    port: NonZeroU16,
    protocol: Option<Protocol>,
    state: &State,
    own: &[IpAddr],
) -> Vec<Destination> {
    let keys = || state.tables.values().flat_map(|table| table.elements.keys());
    let answering =
        keys().filter_map(|key| if let Key::NodeIp(address) = key { Some(*address) } else { None });
    let others = own.iter().copied().filter(|address| !address.is_loopback());
    let addresses: Vec<IpAddr> = answering.chain(others).collect();
    let served: BTreeSet<Protocol> = frontends(state)
        .filter(|(_, frontend)| match frontend {
            Frontend::NodePort { port: it, .. } => *it == port,
            Frontend::Address { address, port: it, .. } => *it == port && own.contains(address),
        })
        .map(|(_, frontend)| frontend.protocol())
        .collect();
    let protocols = match (protocol, served.is_empty()) {
        (Some(protocol), _) => vec![protocol],
        (None, true) => vec![Protocol::Tcp],
        (None, false) => served.into_iter().collect(),
    };
    let of_family = |family| addresses.iter().copied().find(|it| Family::of(*it) == family);
    let of_protocol = |protocol| {
        let addresses = Family::ALL.into_iter().filter_map(of_family);
        addresses.map(move |address| (address, Some((protocol, port))))
    };
    protocols.into_iter().flat_map(of_protocol).collect()
}

fn of_service(asked: &Asked, side: &Side, state: &State) -> anyhow::Result<Vec<Destination>> {
    let owned = |(comment, frontend): (&PortKey, Frontend)| (side.meant(comment), frontend);
    let known: Vec<(PortKey, Frontend)> = frontends(state).map(owned).collect();
    let of_name = known.iter().filter(|(owner, _)| asked.names(&owner.service));
    let of_name: Vec<&(PortKey, Frontend)> = of_name.collect();
    let services: BTreeSet<&NamespacedName> = of_name.iter().map(|(it, _)| &it.service).collect();
    if services.len() > 1 {
        let names: Vec<String> = services.iter().map(ToString::to_string).collect();
        anyhow::bail!("{asked} means several Services, choose one: {}", names.join(", "));
    }
    let is_cluster_ip = |address: IpAddr| {
        let table = state.tables.get(&Family::of(address));
        table.is_some_and(|table| table.elements.contains_key(&Key::ClusterIp(address)))
    };
    let found = of_name.iter().filter_map(|(owner, frontend)| match *frontend {
        Frontend::Address { address, protocol, port }
            if asked.has(owner, *frontend, false) && is_cluster_ip(address) =>
        {
            Some((address, Some((protocol, port))))
        }
        Frontend::Address { .. } | Frontend::NodePort { .. } => None,
    });
    let found: Vec<Destination> = found.collect();
    if found.is_empty() {
        let Some(service) = services.first() else {
            let names = |entry: &NamespacedName| asked.names(entry);
            let mut all = side.model.iter().flat_map(|model| model.services());
            let why = match all.any(|entry| names(&entry.object.key)) {
                true => "it is not served (rulec show services says why)",
                false => "there is no such Service",
            };
            anyhow::bail!("{asked}: {why}");
        };
        let ports: BTreeSet<String> =
            of_name.iter().map(|(owner, frontend)| format!("{owner} at {frontend}")).collect();
        let port = match &asked.port {
            Some(Port::Number(port)) => port.to_string(),
            Some(Port::Name(port)) => port.clone(),
            None => "cluster address".to_owned(),
        };
        let ports: Vec<String> = ports.into_iter().collect();
        anyhow::bail!("{asked}: Service {service} has no such port ({port}): {}", ports.join(", "));
    }
    Ok(found)
}

/// Returns each frontend with its owner.
fn frontends(state: &State) -> impl Iterator<Item = (&PortKey, Frontend)> {
    let elements = state.tables.values().flat_map(|table| &table.elements);
    elements.filter_map(|(key, held)| {
        let (Key::Service(frontend) | Key::Reject(frontend)) = key else { return None };
        Some((held.owner.as_deref()?, *frontend))
    })
}
