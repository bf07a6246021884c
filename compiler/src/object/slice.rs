//! EndpointSlices.

use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::load_balancing::Weight;
use crate::name::{Name, NamespacedName, NodeName, PortName, Zone};
use crate::net::{Family, Protocol};

/// An EndpointSlice (discovery.k8s.io/v1) of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: NamespacedName,
    /// The Service it belongs to, in the same namespace (label `kubernetes.io/service-name`).
    pub service: NamespacedName,
    /// `addressType`; all addresses are of this family.
    pub family: Family,
    /// Ports by name and protocol, sorted; those without a name or number are left out.
    pub ports: Vec<SlicePort>,
    /// Endpoints, sorted by address; those without an address are left out.
    pub endpoints: Vec<Endpoint>,
    /// The share of new connections of each endpoint.
    #[serde(default, skip_serializing_if = "Weight::is_default")]
    pub weight: Weight,
}

impl EndpointSlice {
    /// The marker in the name of a slice that mirrors Endpoints; no object of the API can have it.
    const MIRROR: &str = "@endpoints-";

    /// Returns the name of the slice that mirrors a subset of Endpoints (v1) in a family.
    pub fn mirror_name(endpoints: &NamespacedName, subset: usize, family: Family) -> String {
        let family = match family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        format!("{}{}{subset}-{family}", endpoints.name, Self::MIRROR)
    }

    /// Returns the name of the Endpoints that a slice of this name mirrors, if it mirrors any.
    pub fn mirrored(name: &Name) -> Option<&str> {
        name.as_str().split_once(Self::MIRROR).map(|(endpoints, _)| endpoints)
    }

    /// Returns true if the slice mirrors Endpoints. Such a slice is used only for a Service that
    /// has neither a selector nor a slice of its own.
    pub fn is_mirror(&self) -> bool {
        Self::mirrored(&self.key.name).is_some()
    }
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the Service port it implements.
    pub name: PortName,
    /// The protocol, which must match the Service port's too.
    pub protocol: Protocol,
    /// The port on the endpoints.
    pub port: NonZeroU16,
}

/// One endpoint of an EndpointSlice. Only the first of its addresses is used (KEP-752).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Its conditions, which decide what it may be used for.
    pub conditions: Conditions,
    /// The node it runs on, if known; decides whether it is local.
    pub node: Option<NodeName>,
    /// `hints`; `None` for most endpoints. Boxed because endpoints are by far the most numerous
    /// objects of a model, so that each byte of them matters.
    pub hints: Option<Box<Hints>>,
}

impl Endpoint {
    /// Returns an endpoint that is ready and names no node.
    pub fn ready(address: IpAddr) -> Self {
        Self { address, conditions: Conditions::READY, node: None, hints: None }
    }
}

/// The consumers that an endpoint is meant for, by topology.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`, sorted.
    pub zones: Box<[Zone]>,
    /// `forNodes`, sorted.
    pub nodes: Box<[NodeName]>,
}

/// The conditions of an endpoint, defaulted: nil means ready, serving and not terminating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conditions {
    /// Ready for new connections.
    pub ready: bool,
    /// Passing its readiness probe, whether or not it is terminating.
    pub serving: bool,
    /// Being shut down.
    pub terminating: bool,
}

impl Conditions {
    /// The conditions of an endpoint that states none.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
}
