//! Pods, which stand for endpoints where no EndpointSlices do.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::slice::{Conditions, SlicePort};
use crate::name::{LabelKey, LabelValue, NamespacedName, NodeName};

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
