//! Which addresses of this node are those of its node ports, and of what goes with them.

use std::net::IpAddr;

use crate::model::Model;
use crate::net::Family;
use crate::settings::{NodePortAddresses, Settings};

/// The addresses that are selected, loopback among them; `None` in a family where that is every address
/// of the node.
pub fn addresses(model: &Model, settings: &Settings, family: Family) -> Option<Vec<IpAddr>> {
    let of_family = |address: &IpAddr| Family::of(*address) == family;
    match &settings.node_port_addresses {
        NodePortAddresses::Primary => {
            let own = settings.node_addresses.iter().copied().find(of_family);
            let node = model.node(&settings.node_name);
            let primary = own.or_else(|| node.and_then(|node| node.object.address(family)));
            Some(vec![primary.filter(|address| of_family(address) && !address.is_loopback())?])
        }
        some @ NodePortAddresses::Cidrs(_) => {
            let cidrs = some.cidrs(family)?;
            let held = model.interface_addresses();
            let all = held.into_iter().flat_map(|entry| entry.object.addresses.iter().copied());
            Some(all.filter(|address| cidrs.iter().any(|cidr| cidr.contains(address))).collect())
        }
    }
}
