//! Pods, which stand for endpoints where no EndpointSlices do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::slice::{Conditions, SlicePort};
use crate::load_balancing::Weight;
use crate::name::{LabelKey, LabelValue, Name, NamespacedName, NodeName};

/// A Pod as a manifest source sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: NamespacedName,
    /// Labels, matched by the selectors of Services.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// `spec.nodeName`; a manifest without one describes a Pod of this node.
    pub node: Option<NodeName>,
    /// The addresses it is reached at.
    pub addresses: PodAddresses,
    /// Named container ports, sorted, for named target ports.
    pub ports: Vec<SlicePort>,
    /// From `status` and `metadata.deletionTimestamp`; a manifest without a status is ready.
    pub conditions: Conditions,
    /// Its name in a headless Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<HostName>,
    /// Its share of new connections.
    #[serde(default, skip_serializing_if = "Weight::is_default")]
    pub weight: Weight,
}

/// The name of a Pod below that of the headless Service that selects it, if that has the name of the
/// subdomain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostName {
    /// `spec.hostname`.
    pub hostname: Name,
    /// `spec.subdomain`.
    pub subdomain: Name,
}

/// The addresses a Pod is reached at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodAddresses {
    /// At `status.podIPs` (the first of each family is used). May be empty: then the Pod is
    /// unreachable.
    Own(Vec<IpAddr>),
    /// At the addresses of its node: the Pod has `hostNetwork` and no `status.podIPs`.
    Node,
}
