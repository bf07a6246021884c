//! The networks that may connect to the VIPs of load balancers: `spec.loadBalancerSourceRanges`.

use ipnet::IpNet;

use crate::model::Model;
use crate::net::Family;
use crate::nft::length;
use crate::object::Service;
use crate::settings::Settings;

/// Returns the networks that may connect to the VIPs of a Service in a family; `None` without a
/// restriction.
///
/// If the primary address of the node is in a range, the VIPs are added (as in kube-proxy): a node
/// that has a VIP among its own addresses often connects with that VIP as its source.
pub(super) fn sources(
    model: &Model,
    settings: &Settings,
    service: &Service,
    family: Family,
) -> Option<Vec<IpNet>> {
    let vips = || service.load_balancer_vips.iter().filter(|vip| Family::of(**vip) == family);
    let of_family = |range: &&IpNet| Family::of(range.addr()) == family;
    let ranges = service.source_ranges.iter().filter(of_family);
    let mut ranges: Vec<IpNet> = ranges.map(IpNet::trunc).collect();
    vips().next()?;
    let node = model.node(&settings.node_name).map(|node| &*node.object);
    let is_of_node = |address| ranges.iter().any(|range| range.contains(&address));
    if settings.primary_address(node, family).is_some_and(is_of_node) {
        ranges.extend(vips().map(|vip| IpNet::from(*vip)));
    }
    // Adjacent ranges are not merged, so that each can be added and removed on its own.
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| kept.contains(&*next));
    let is_everybody = ranges.iter().any(|range| range.prefix_len() == 0);
    let is_restricted = !ranges.is_empty() && !is_everybody;
    is_restricted.then(|| ranges.into_iter().flat_map(length::ranges).collect())
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::change::{Change, Origin, Provenance, Sourced};
    use crate::name::{NamespacedName, NodeName};
    use crate::object::{Node, Object};

    /// Returns the resulting ranges as text, on a node with this address.
    fn on(
        node: Option<&str>,
        vips: &[&str],
        ranges: &[&str],
        family: Family,
    ) -> Option<Vec<String>> {
        let address = |text: &&str| -> IpAddr { text.parse().unwrap() };
        let service = Service {
            load_balancer_vips: vips.iter().map(address).collect(),
            source_ranges: ranges.iter().map(|text| text.parse().unwrap()).collect(),
            ..Service::new(NamespacedName::new("default", "web"))
        };
        let mut model = Model::default();
        let node = Node {
            name: NodeName::from("here"),
            addresses: node.iter().map(address).collect(),
            pod_cidrs: Vec::new(),
            zone: None,
            taints: Vec::new(),
            deleting: false,
        };
        let object = Object::Node(Arc::new(node));
        let sourced = Sourced { object, provenance: Provenance("test".into()) };
        model.apply(Origin::Manifests, Change::Apply(sourced));
        let settings = Settings::new(NodeName::from("here"));
        let found = sources(&model, &settings, &service, family)?;
        Some(found.iter().map(ToString::to_string).collect())
    }

    fn v4(ranges: &[&str]) -> Option<Vec<String>> {
        on(Some("192.0.2.10"), &["198.51.100.20", "198.51.100.21"], ranges, Family::Ipv4)
    }

    fn some(ranges: &[&str]) -> Option<Vec<String>> {
        Some(ranges.iter().map(|range| (*range).to_owned()).collect())
    }

    #[test]
    fn without_ranges_or_vips_access_is_unrestricted() {
        assert_eq!(v4(&[]), None);
        assert_eq!(on(None, &[], &["10.0.0.0/8"], Family::Ipv4), None);
    }

    #[test]
    fn ranges_apply_only_to_their_family() {
        assert_eq!(v4(&["2001:db8::/32"]), None);
        assert_eq!(v4(&["2001:db8::/32", "10.0.0.0/8"]), some(&["10.0.0.0/8"]));
        let vips = ["198.51.100.20", "2001:db8:5::20"];
        let ranges = ["10.0.0.0/8", "2001:db8::/32"];
        assert_eq!(on(None, &vips, &ranges, Family::Ipv6), some(&["2001:db8::/32"]));
        // The only VIP is of the other family.
        assert_eq!(on(None, &vips[..1], &ranges, Family::Ipv6), None);
    }

    #[test]
    fn a_range_of_all_addresses_is_no_restriction() {
        assert_eq!(v4(&["10.0.0.0/8", "0.0.0.0/0"]), None);
        assert_eq!(v4(&["1.2.3.4/0"]), None);
        // A range of the other family has no effect on this one.
        assert_eq!(v4(&["10.0.0.0/8", "::/0"]), some(&["10.0.0.0/8"]));
    }

    #[test]
    fn overlapping_ranges_are_merged() {
        let overlapping = ["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/8", "10.1.2.3/32", "11.0.0.0/8"];
        assert_eq!(v4(&overlapping), some(&["10.0.0.0/8", "11.0.0.0/8"]));
        let beginning_alike = ["10.0.0.0/16", "10.0.0.0/8", "10.0.0.0/24"];
        assert_eq!(v4(&beginning_alike), some(&["10.0.0.0/8"]));
        let side_by_side = ["10.128.0.0/9", "10.0.0.0/9"];
        assert_eq!(v4(&side_by_side), some(&["10.0.0.0/9", "10.128.0.0/9"]));
    }

    #[test]
    fn host_bits_are_ignored() {
        assert_eq!(v4(&["203.0.113.77/25"]), some(&["203.0.113.0/25"]));
        assert_eq!(v4(&["203.0.113.77/25", "203.0.113.99/26"]), some(&["203.0.113.0/25"]));
    }

    #[test]
    fn ranges_of_ipv6_that_have_no_length_are_cut() {
        let vips = ["2001:db8:5::20"];
        assert_eq!(
            on(None, &vips, &["2001:db8::/31", "2001:dc0::/32"], Family::Ipv6),
            some(&["2001:db8::/32", "2001:db9::/32", "2001:dc0::/32"])
        );
    }

    #[test]
    fn an_allowed_node_allows_its_vips() {
        let both = ["192.0.2.0/24", "198.51.100.20/32", "198.51.100.21/32"];
        assert_eq!(v4(&["192.0.2.0/24"]), some(&both));
        assert_eq!(v4(&["192.0.2.77/24"]), some(&both), "host bits are ignored here too");
        assert_eq!(v4(&["192.0.2.10/32"]).map(|found| found.len()), Some(3));
        assert_eq!(v4(&["192.0.2.11/32"]), some(&["192.0.2.11/32"]), "not the node's address");
        // VIPs that are already in a range are not added.
        let wide = ["192.0.2.0/24", "198.51.0.0/16"];
        assert_eq!(v4(&wide), some(&wide));
        // A node address of the other family has no effect on this one.
        let vips = ["2001:db8:5::20"];
        let ranges = ["2001:db8::/32", "2001:dbf::/32"];
        assert_eq!(on(Some("192.0.2.10"), &vips, &ranges, Family::Ipv6), some(&ranges));
        assert_eq!(
            on(Some("2001:dbf::10"), &vips, &ranges[1..], Family::Ipv6),
            some(&["2001:db8:5::20/128", "2001:dbf::/32"])
        );
    }
}
