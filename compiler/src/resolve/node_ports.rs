//! The addresses of this node that node ports answer on. Health checks use the same addresses.

use std::net::IpAddr;

use crate::model::Model;
use crate::net::Family;
use crate::settings::Settings;

/// Returns the selected addresses, which may include loopback addresses; `None` if every address of
/// the node is selected in this family.
pub fn addresses(model: &Model, settings: &Settings, family: Family) -> Option<Vec<IpAddr>> {
    let selected = &settings.node_port_addresses;
    let mut addresses = Vec::new();
    if selected.has_primary() {
        let node = model.node(&settings.node_name).map(|node| &*node.object);
        let primary = settings.primary_address(node, family);
        addresses.push(primary.filter(|address| !address.is_loopback())?);
    }
    let cidrs = selected.cidrs(family)?;
    let held = model.interface_addresses();
    let all = held.into_iter().flat_map(|entry| entry.object.addresses.iter().copied());
    let is_selected = |address: &IpAddr| cidrs.iter().any(|cidr| cidr.contains(address));
    for address in all.filter(is_selected) {
        // The primary address may be in a network, too.
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Some(addresses)
}
