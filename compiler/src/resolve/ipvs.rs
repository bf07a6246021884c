//! What a Service port means for IPVS, which knows of addresses only and sees only what is sent to this
//! node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{IpvsRoute, node_ports};
use crate::ipvs::Balancing;
use crate::model::Model;
use crate::name::NodeName;
use crate::net::Family;
use crate::object::Service;
use crate::settings::Settings;

/// What IPVS needs for a Service in a family; `None` if IPVS is not used.
pub(super) fn route(
    model: &Model,
    settings: &Settings,
    service: &Service,
    family: Family,
    cluster_ip: IpAddr,
) -> Option<IpvsRoute> {
    let ipvs = settings.ipvs()?;
    let asked = service.ipvs;
    let balancing = Balancing {
        scheduling: asked.scheduling(ipvs.scheduling),
        drain: asked.drain.unwrap_or(ipvs.drain),
    };
    // What some interface has is this node's already, and stays so when the Service goes.
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

/// The other Node that has an address, where that matters: if it were bound here, this node would send
/// itself all that is for that one. IPVS does not see what is on its way to there, so that nothing of
/// the Service can be served at the address.
pub(super) fn elsewhere<'a>(
    model: &'a Model,
    settings: &Settings,
    address: IpAddr,
) -> Option<&'a NodeName> {
    settings.ipvs()?;
    model.other_node_at(address, &settings.node_name)
}

/// The addresses of all interfaces but our own.
pub(super) fn interfaces(model: &Model) -> BTreeSet<IpAddr> {
    let held = model.interface_addresses();
    held.into_iter().flat_map(|entry| entry.object.addresses.iter().copied()).collect()
}

/// The addresses that node ports answer on. Not those of loopback, which no packet leaves with, nor of a
/// single link, which several interfaces may have.
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
