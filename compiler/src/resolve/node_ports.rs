//! The addresses of this node that node ports answer on. Health checks use the same addresses.

use std::net::IpAddr;

use crate::model::Model;
use crate::net::Family;
use crate::settings::{NodePortAddresses, Settings};

/// Returns the selected addresses, which may include loopback addresses; `None` if every address of
/// the node is selected in this family.
pub fn addresses(model: &Model, settings: &Settings, family: Family) -> Option<Vec<IpAddr>> {
    match &settings.node_port_addresses {
        NodePortAddresses::Primary => {
            let node = model.node(&settings.node_name).map(|node| &*node.object);
            let primary = settings.primary_address(node, family);
            Some(vec![primary.filter(|address| !address.is_loopback())?])
        }
        some @ NodePortAddresses::Cidrs(_) => {
            let cidrs = some.cidrs(family)?;
            let held = model.interface_addresses();
            let all = held.into_iter().flat_map(|entry| entry.object.addresses.iter().copied());
            Some(all.filter(|address| cidrs.iter().any(|cidr| cidr.contains(address))).collect())
        }
    }
}
