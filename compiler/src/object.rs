//! The objects that decide what is programmed, reduced to the fields that matter.
//!
//! A source creates them from its input. Every object here is valid, defaulted and in normal form.
//! Two objects are equal exactly if they mean the same, whatever the order, metadata or spelling of
//! the originals; change detection relies on this equality.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{Name, NamespacedName, NodeName};

mod asks;
mod node;
mod pod;
mod service;
mod slice;

pub use asks::{AskedFamilies, Asks, FamilyPolicy};
pub use node::{InterfaceAddresses, Node, ServiceCidr};
pub use pod::{HostName, Pod, PodAddresses};
pub use service::{
    Affinity, ClusterIps, IpvsOptions, Service, ServicePort, ServiceType, TargetPort, TrafficPolicy,
};
pub use slice::{Conditions, Endpoint, EndpointSlice, Hints, SlicePort};

/// Any object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Node.
    Node(Arc<Node>),
    /// A ServiceCIDR.
    ServiceCidr(Arc<ServiceCidr>),
    /// The addresses of this node's interfaces; there is one such object.
    InterfaceAddresses(Arc<InterfaceAddresses>),
}

impl Object {
    /// Returns the identity of the object.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(service) => ObjectKey::Service(service.key.clone()),
            Self::EndpointSlice(slice) => ObjectKey::EndpointSlice(slice.key.clone()),
            Self::Pod(pod) => ObjectKey::Pod(pod.key.clone()),
            Self::Node(node) => ObjectKey::Node(node.name.clone()),
            Self::ServiceCidr(cidr) => ObjectKey::ServiceCidr(cidr.name.clone()),
            Self::InterfaceAddresses(_) => ObjectKey::InterfaceAddresses,
        }
    }
}

/// Kind and name: the identity of an object. Content is never part of it, so that an edit is an
/// update and not a removal followed by an addition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKey {
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
    /// A Pod.
    Pod(NamespacedName),
    /// A Node.
    Node(NodeName),
    /// A ServiceCIDR.
    ServiceCidr(Name),
    /// The addresses of this node's interfaces.
    InterfaceAddresses,
}

impl ObjectKey {
    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::InterfaceAddresses => Kind::InterfaceAddresses,
        }
    }
}

/// The kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// A Service.
    Service,
    /// An EndpointSlice.
    EndpointSlice,
    /// A Pod.
    Pod,
    /// A Node.
    Node,
    /// A ServiceCIDR.
    ServiceCidr,
    /// The addresses of this node's interfaces.
    InterfaceAddresses,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
        Self::ServiceCidr,
        Self::InterfaceAddresses,
    ];
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::EndpointSlice(key) => write!(f, "EndpointSlice {key}"),
            Self::Pod(key) => write!(f, "Pod {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
            Self::InterfaceAddresses => f.write_str("addresses of the interfaces"),
        }
    }
}
