//! One element of one of our sets or maps, typed.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::pick::Pick;
use super::set::{Scope, SetId, View};
use crate::frontend::{Frontend, PortKey};
use crate::interface::InterfacePattern;
use crate::net::{Backend, Family, Protocol};

/// The identity of an element: its set and its key there. Keys are ordered by set, then by
/// frontend, so that the elements of a frontend in one set are adjacent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// A protocol that Services can have; constant.
    Protocol(Family, Protocol),
    /// A pick code in use.
    Pick(Family, Scope, View, Pick),
    /// A source whose traffic to cluster addresses keeps its address.
    UnmasqueradedSource(IpNet),
    /// Interfaces from which traffic to cluster addresses keeps its address.
    UnmasqueradedInterface(Family, InterfacePattern),
    /// A source that is known to be a Pod.
    PodSource(IpNet),
    /// Interfaces on which only traffic from Pods arrives.
    PodInterface(Family, InterfacePattern),
    /// A range that cluster addresses are allocated from.
    ServiceCidr(IpNet),
    /// An address of this node that node ports answer on.
    NodeIp(IpAddr),
    /// A route type that node ports answer on. The only one is `local`, which means every address
    /// of this node except loopback.
    NodeAddressType(Family),
    /// The cluster address of a Service.
    ClusterIp(IpAddr),
    /// A local endpoint, which must be masqueraded when it reaches itself.
    Hairpin(IpAddr),
    /// An address that is bound to this node only for IPVS.
    Vip(IpAddr),
    /// A frontend with backends, in one view.
    Service(View, Frontend),
    /// A frontend without backends.
    Reject(Frontend),
    /// The id of the backend at a slot of a frontend with session affinity.
    AffinitySlot(View, Frontend, u32),
    /// A backend of a frontend, by slot or id.
    Endpoint(View, Frontend, u32),
    /// A frontend with restricted clients.
    Firewalled(Frontend),
    /// A network of clients that may connect to a restricted frontend.
    SourceRange(Frontend, IpNet),
    /// A protocol whose forwarded packets are dropped if they belong to no flow.
    InvalidProtocol(Family, Protocol),
}

impl Key {
    /// Returns the family, which also selects the table.
    pub fn family(self) -> Family {
        match self {
            Self::Protocol(family, _)
            | Self::InvalidProtocol(family, _)
            | Self::Pick(family, ..)
            | Self::UnmasqueradedInterface(family, _)
            | Self::PodInterface(family, _)
            | Self::NodeAddressType(family) => family,
            Self::UnmasqueradedSource(net) | Self::PodSource(net) | Self::ServiceCidr(net) => {
                Family::of(net.addr())
            }
            Self::NodeIp(address)
            | Self::ClusterIp(address)
            | Self::Hairpin(address)
            | Self::Vip(address) => Family::of(address),
            Self::Service(_, frontend)
            | Self::Reject(frontend)
            | Self::AffinitySlot(_, frontend, _)
            | Self::Endpoint(_, frontend, _)
            | Self::Firewalled(frontend)
            | Self::SourceRange(frontend, _) => frontend.family(),
        }
    }

    /// Returns the set or map.
    pub fn set(self) -> SetId {
        match self {
            Self::Protocol(..) => SetId::Protocols,
            Self::Pick(_, scope, view, _) => SetId::Picks(scope, view),
            Self::UnmasqueradedSource(_) => SetId::UnmasqueradedSources,
            Self::UnmasqueradedInterface(..) => SetId::UnmasqueradedInterfaces,
            Self::PodSource(_) => SetId::PodSources,
            Self::PodInterface(..) => SetId::PodInterfaces,
            Self::ServiceCidr(_) => SetId::ServiceCidrs,
            Self::NodeIp(_) => SetId::NodeIps,
            Self::NodeAddressType(_) => SetId::NodeAddressTypes,
            Self::ClusterIp(_) => SetId::ClusterIps,
            Self::Hairpin(_) => SetId::Hairpin,
            Self::Vip(_) => SetId::Vips,
            Self::Service(view, frontend) => SetId::Services(Scope::of(frontend), view),
            Self::Reject(frontend) => SetId::Rejects(Scope::of(frontend)),
            Self::AffinitySlot(view, frontend, _) => {
                SetId::AffinitySlots(Scope::of(frontend), view)
            }
            Self::Endpoint(view, frontend, _) => SetId::Endpoints(Scope::of(frontend), view),
            Self::Firewalled(_) => SetId::Firewalled,
            Self::SourceRange(..) => SetId::SourceRanges,
            Self::InvalidProtocol(..) => SetId::InvalidProtocols,
        }
    }

    /// Returns the address, if this is a member of a set that has it because of Services.
    pub(crate) fn address(self) -> Option<IpAddr> {
        match self {
            Self::ClusterIp(address) | Self::Hairpin(address) | Self::Vip(address) => Some(address),
            Self::Protocol(..)
            | Self::InvalidProtocol(..)
            | Self::Pick(..)
            | Self::UnmasqueradedSource(_)
            | Self::UnmasqueradedInterface(..)
            | Self::PodSource(_)
            | Self::PodInterface(..)
            | Self::ServiceCidr(_)
            | Self::NodeIp(_)
            | Self::NodeAddressType(_)
            | Self::Service(..)
            | Self::Reject(_)
            | Self::AffinitySlot(..)
            | Self::Endpoint(..)
            | Self::Firewalled(_)
            | Self::SourceRange(..) => None,
        }
    }

    /// Returns the frontend it belongs to, if any.
    pub fn frontend(self) -> Option<Frontend> {
        match self {
            Self::Service(_, frontend)
            | Self::Reject(frontend)
            | Self::AffinitySlot(_, frontend, _)
            | Self::Endpoint(_, frontend, _)
            | Self::Firewalled(frontend)
            | Self::SourceRange(frontend, _) => Some(frontend),
            Self::Protocol(..)
            | Self::InvalidProtocol(..)
            | Self::Pick(..)
            | Self::UnmasqueradedSource(_)
            | Self::UnmasqueradedInterface(..)
            | Self::PodSource(_)
            | Self::PodInterface(..)
            | Self::ServiceCidr(_)
            | Self::NodeIp(_)
            | Self::NodeAddressType(_)
            | Self::ClusterIp(_)
            | Self::Hairpin(_)
            | Self::Vip(_) => None,
        }
    }
}

/// The value that a map gives for a key; a set gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// The key is a member.
    Present,
    /// How to choose a backend.
    Pick(Pick),
    /// The id of a backend.
    Id(u32),
    /// A backend.
    Backend(Backend),
    /// Go to the chain of the pick that is the key.
    Goto,
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Element {
    /// Set and key.
    pub key: Key,
    /// The data.
    pub value: Value,
    /// The owner, as a comment for people who list the table. Only elements that start a frontend
    /// have one.
    pub comment: Option<Arc<PortKey>>,
}

impl Element {
    /// Returns an element without a comment.
    pub fn new(key: Key, value: Value) -> Self {
        Self { key, value, comment: None }
    }
}

/// An element and the Service port it belongs to, if any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedElement {
    /// The element.
    pub element: Element,
    /// The Service port.
    pub owner: Option<Arc<PortKey>>,
}
