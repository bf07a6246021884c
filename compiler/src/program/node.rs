//! The elements that depend on the settings and on the node, and belong to no Service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use im::OrdSet;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Program;
use crate::interface::InterfacePattern;
use crate::model::Model;
use crate::net::{Family, Protocol};
use crate::nft::element::Key;
use crate::resolve::{NodeFacts, node_ports};
use crate::settings::{DetectLocal, first_of};

impl Program {
    /// Returns the elements that depend on the settings and the node.
    pub(crate) fn node(&self) -> &OrdSet<Key> {
        &self.node
    }

    /// Returns the addresses that node ports answer on; `None` if every address of the node does.
    pub fn node_port_ips(&self, family: Family) -> Option<Vec<IpAddr>> {
        let ips = self.node.iter().filter(|key| key.family() == family);
        if ips.clone().any(|key| matches!(key, Key::NodePortProtocol(..))) {
            return None;
        }
        Some(
            ips.filter_map(|key| if let Key::NodeIp(ip) = key { Some(*ip) } else { None })
                .collect(),
        )
    }

    /// Recompiles these elements.
    pub(super) fn update_node(&mut self, model: &Model) {
        let mut keys = OrdSet::new();
        for family in Family::ALL {
            if self.settings.drop_invalid {
                keys.extend(Protocol::ALL.map(|protocol| Key::InvalidProtocol(family, protocol)));
            }
            let pods = self.pods(model, family);
            keys.extend(pods.map(|pods| match pods {
                Pods::At(net) => Key::PodSource(net),
                Pods::By(pattern) => Key::PodInterface(family, pattern),
            }));
            // Traffic to a cluster address is masqueraded unless its source is in these sets. They
            // hold the Pods or, if Pods cannot be recognised, every source.
            if !self.settings.masquerade_all {
                keys.insert(match pods {
                    Some(Pods::At(net)) => Key::UnmasqueradedSource(net),
                    Some(Pods::By(pattern)) => Key::UnmasqueradedInterface(family, pattern),
                    None => Key::UnmasqueradedSource(everything(family)),
                });
            }
            keys.extend(self.node_port_addresses(model, family));
        }
        let ranges = model.service_cidrs().flat_map(|entry| entry.object.cidrs.iter().copied());
        // Ranges of a set must not overlap, while those of ServiceCIDRs may.
        keys.extend(IpNet::aggregate(&ranges.collect()).into_iter().map(Key::ServiceCidr));
        self.node = keys;
        self.facts = NodeFacts::of(model, &self.settings);
    }

    /// Returns the recognised Pods.
    fn pods(&self, model: &Model, family: Family) -> Option<Pods> {
        let cidr = match &self.settings.detect_local {
            DetectLocal::ClusterCidr(cidrs) => first_of(family, cidrs),
            DetectLocal::NodeCidr => {
                let node = model.node(&self.settings.node_name);
                node.and_then(|node| first_of(family, &node.object.pod_cidrs))
            }
            DetectLocal::Interface(pattern) => return Some(Pods::By(*pattern)),
        };
        cidr.map(Pods::At)
    }

    /// Returns the keys of node port addresses. Loopback is left out, as in kube-proxy's nftables
    /// mode.
    fn node_port_addresses(&self, model: &Model, family: Family) -> Vec<Key> {
        match node_ports::addresses(model, &self.settings, family) {
            None => Protocol::ALL.map(|it| Key::NodePortProtocol(family, it)).to_vec(),
            Some(addresses) => {
                let usable = addresses.into_iter().filter(|address| !address.is_loopback());
                usable.map(Key::NodeIp).collect()
            }
        }
    }
}

/// The way in which Pods are recognised.
#[derive(Clone, Copy)]
enum Pods {
    /// By source address.
    At(IpNet),
    /// By the interface they arrive on.
    By(InterfacePattern),
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        Family::Ipv6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}
