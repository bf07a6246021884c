//! Resolves a Service port for IPVS, which has only addresses and sees only packets sent to this
//! node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{IpvsRoute, node_ports};
use crate::model::Model;
use crate::name::NodeName;
use crate::net::Family;
use crate::object::Service;
use crate::scheduling::Balancing;
use crate::settings::Settings;

/// Returns the data that IPVS needs for a Service in a family; `None` if IPVS is not used.
pub(super) fn route(
    model: &Model,
    settings: &Settings,
    service: &Service,
    family: Family,
    cluster_ip: IpAddr,
) -> Option<IpvsRoute> {
    let ipvs = settings.ipvs()?;
    let asked = service.ipvs;
    let scheduling = asked.scheduling(ipvs.scheduling);
    // A scheduler that cannot leave a draining real server out would drop new connections.
    let drain = asked.drain.unwrap_or(ipvs.drain);
    let drain = if scheduling.scheduler.can_drain() { drain } else { 0 };
    let balancing = Balancing { scheduling, drain, max_connections: asked.max_connections };
    // An address of an interface is local already, and remains so when the Service goes.
    let interfaces = model.interface_addresses();
    let is_held = |address: &IpAddr| {
        interfaces.into_iter().any(|entry| entry.object.addresses.contains(address))
    };
    let others = service.load_balancer_vips.iter().chain(&service.external_ips).copied();
    let others = others.filter(|address| Family::of(*address) == family && !is_held(address));
    let others = others.filter(|address| elsewhere(model, settings, *address).is_none());
    let is_excluded = |address: &IpAddr| ipvs.exclude.iter().any(|net| net.contains(address));
    let vips: BTreeSet<IpAddr> =
        others.chain([cluster_ip]).filter(|address| !is_excluded(address)).collect();
    Some(IpvsRoute { balancing, vips: vips.into_iter().collect() })
}

/// Returns the other Node that has an address, in IPVS mode. If the address were bound here, this
/// node would deliver to itself all packets meant for that node. IPVS does not see packets that are
/// forwarded there, so nothing of the Service can be served at the address.
pub(super) fn elsewhere<'a>(
    model: &'a Model,
    settings: &Settings,
    address: IpAddr,
) -> Option<&'a NodeName> {
    settings.ipvs()?;
    model.other_node_at(address, &settings.node_name)
}

/// Returns the addresses of all interfaces, except those that we have bound.
pub(super) fn interfaces(model: &Model) -> BTreeSet<IpAddr> {
    let held = model.interface_addresses();
    held.into_iter().flat_map(|entry| entry.object.addresses.iter().copied()).collect()
}

/// Returns the addresses that node ports answer on. Loopback addresses are left out because no
/// packet leaves the node with one, and link-local ones because several interfaces may have the
/// same.
pub(super) fn node_port_addresses(
    model: &Model,
    settings: &Settings,
    family: Family,
) -> Vec<IpAddr> {
    let is_usable = |address: &IpAddr| {
        let is_of_link = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
        Family::of(*address) == family && !address.is_loopback() && !is_of_link
    };
    let addresses = node_ports::addresses(model, settings, family);
    let addresses: BTreeSet<IpAddr> = match addresses {
        Some(addresses) => addresses.into_iter().filter(is_usable).collect(),
        None => interfaces(model).into_iter().filter(is_usable).collect(),
    };
    addresses.into_iter().collect()
}
