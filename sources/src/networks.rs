//! The networks that this node uses, so that no addresses of Services are given out of them.

use std::fmt;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use crate::rtnetlink;

/// The table of most routes and that of a node's own addresses, from <linux/rtnetlink.h>.
const RT_TABLE_MAIN: u32 = 254;
const RT_TABLE_LOCAL: u32 = 255;

/// A network or an address that this node uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedNetwork {
    network: IpNet,
    usage: Usage,
    device: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    /// The node itself has the addresses.
    Own,
    /// A route leads there.
    Route,
}

impl UsedNetwork {
    /// Returns whether addresses of a network could not be given out because of this. A route to
    /// exactly this network is meant for Services: a node without a default route needs one.
    pub fn conflicts_with(&self, network: &IpNet) -> bool {
        let overlaps = self.network.contains(network) || network.contains(&self.network);
        overlaps && (self.usage == Usage::Own || self.network != network.trunc())
    }

    /// Returns what of a list conflicts with a network.
    pub fn find<'a>(used: &'a [Self], network: &IpNet) -> Option<&'a Self> {
        // The address of an interface says more than the route to its network.
        let own = used.iter().find(|it| it.usage == Usage::Own && it.conflicts_with(network));
        own.or_else(|| used.iter().find(|it| it.conflicts_with(network)))
    }
}

impl fmt::Display for UsedNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { network, usage, device } = self;
        match usage {
            Usage::Own if network.prefix_len() == network.max_prefix_len() => {
                write!(f, "{device} has the address {}", network.addr())
            }
            Usage::Own => write!(f, "{device} has the addresses {network}"),
            Usage::Route => write!(f, "a route to {network} leads to {device}"),
        }
    }
}

/// Lists the networks that routes of the tables `main` and `local` lead to, in the network namespace
/// of the calling thread. What rulec itself has put there for IPVS does not count: the addresses of
/// one device, and routes of one protocol.
///
/// # Errors
///
/// If the kernel refuses, or its routes change all the time.
pub fn used_networks(except_device: Option<&str>, protocol: u8) -> io::Result<Vec<UsedNetwork>> {
    let except = except_device.and_then(|name| nix::net::if_::if_nametoindex(name).ok());
    let ask = || RouteNetlinkMessage::GetRoute(RouteMessage::default());
    rtnetlink::list(ask, |found: &mut Vec<UsedNetwork>, answer| {
        if let RouteNetlinkMessage::NewRoute(route) = answer
            && u8::from(route.header.protocol) != protocol
        {
            found.extend(used(route, except));
        }
    })
}

pub(crate) fn used(route: &RouteMessage, except: Option<u32>) -> Option<UsedNetwork> {
    let header = &route.header;
    let mut table = u32::from(header.table);
    let (mut device, mut address) = (None, None);
    for attribute in &route.attributes {
        if let RouteAttribute::Table(it) = attribute {
            table = *it;
        } else if let RouteAttribute::Oif(index) = attribute {
            device = Some(*index);
        } else if let RouteAttribute::Destination(RouteAddress::Inet(it)) = attribute {
            address = Some(IpAddr::V4(*it));
        } else if let RouteAttribute::Destination(RouteAddress::Inet6(it)) = attribute {
            address = Some(IpAddr::V6(*it));
        }
    }
    let usage = match (table, header.kind == RouteType::Local, header.kind == RouteType::Unicast) {
        (RT_TABLE_LOCAL, true, _) => Usage::Own,
        (RT_TABLE_MAIN, _, true) => Usage::Route,
        _ => return None,
    };
    // A default route leads everywhere, and says nothing about who uses an address.
    let length = header.destination_prefix_length;
    if length == 0 || (except.is_some() && device == except) {
        return None;
    }
    let address = address?;
    let network = IpNet::new(address, length).ok()?.trunc();
    let name = device.and_then(|index| nix::net::if_::if_indextoname(index).ok());
    let device = name.map_or("a gateway".to_owned(), |name| name.to_string_lossy().into_owned());
    Some(UsedNetwork { network, usage, device })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(network: &str, usage: Usage) -> UsedNetwork {
        UsedNetwork { network: network.parse().unwrap(), usage, device: "eth0".to_owned() }
    }

    #[test]
    fn overlaps_conflict_unless_a_route_is_for_exactly_this_network() {
        let range: IpNet = "10.96.0.0/16".parse().unwrap();
        for (network, usage, conflicts) in [
            ("10.0.0.0/8", Usage::Route, true),
            ("10.96.7.0/24", Usage::Route, true),
            ("10.96.0.0/16", Usage::Route, false),
            ("10.96.0.0/16", Usage::Own, true),
            ("10.96.0.1/32", Usage::Own, true),
            ("10.97.0.0/16", Usage::Route, false),
            ("fd00::/8", Usage::Route, false),
        ] {
            assert_eq!(of(network, usage).conflicts_with(&range), conflicts, "{network}");
        }
    }

    #[test]
    fn the_address_of_an_interface_is_named_before_its_route() {
        let range = "10.96.0.0/16".parse().unwrap();
        let used = [of("10.96.1.0/24", Usage::Route), of("10.96.1.1/32", Usage::Own)];
        let found = UsedNetwork::find(&used, &range).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some("eth0 has the address 10.96.1.1"));
        let found = UsedNetwork::find(&used[..1], &range).map(ToString::to_string);
        assert_eq!(found.as_deref(), Some("a route to 10.96.1.0/24 leads to eth0"));
        assert_eq!(UsedNetwork::find(&used, &"10.97.0.0/16".parse().unwrap()), None);
    }
}
