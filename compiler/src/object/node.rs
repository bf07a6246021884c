//! Nodes, and what surrounds Services: ranges of cluster addresses, and addresses of interfaces.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{Name, NodeName, Zone};
use crate::net::Family;

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The name.
    pub name: NodeName,
    /// InternalIP addresses in order, then ExternalIP addresses in order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`, if not empty.
    pub zone: Option<Zone>,
    /// Keys of `spec.taints`, sorted.
    pub taints: Vec<Arc<str>>,
    /// Whether it has a `metadata.deletionTimestamp`.
    pub deleting: bool,
}

impl Node {
    /// Returns the node's primary address of a family: the first one.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// A ServiceCIDR (networking.k8s.io/v1): a range that cluster addresses are taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// The name.
    pub name: Name,
    /// `spec.cidrs`, masked, sorted, no duplicates.
    pub cidrs: Vec<IpNet>,
}

/// The addresses of this node's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddresses {
    /// All of them, sorted, no duplicates.
    pub addresses: Vec<IpAddr>,
    /// For each family, the source address that the kernel uses by default.
    #[serde(default)]
    pub primary: Vec<IpAddr>,
}
