//! One element of a set or map of ours, typed.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::pick::Pick;
use super::skeleton::{Scope, SetId, View};
use crate::interface::InterfacePattern;
use crate::net::{Backend, Family, Protocol};
use crate::resolve::{Frontend, PortKey};

/// What identifies an element: its set and its key there. The order is that of the sets, then of
/// the frontends, so that the elements of a frontend in one set stand together.
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
    /// Interfaces from which only Pods come.
    PodInterface(Family, InterfacePattern),
    /// A range that cluster addresses are taken from.
    ServiceCidr(IpNet),
    /// An address of this node that node ports answer on.
    NodeIp(IpAddr),
    /// A route type that node ports answer on: the only one is `local`, meaning every address of
    /// this node but loopback.
    NodeAddressType(Family),
    /// The cluster address of a Service.
    ClusterIp(IpAddr),
    /// A local endpoint, which must be masqueraded when it reaches itself.
    Hairpin(IpAddr),
    /// An address that is this node's for IPVS only.
    Vip(IpAddr),
    /// A frontend with backends, in a view of it.
    Service(View, Frontend),
    /// A frontend without any.
    Reject(Frontend),
    /// The id of the backend at a slot of a frontend with session affinity.
    AffinitySlot(View, Frontend, u32),
    /// A backend of a frontend, by slot or id.
    Endpoint(View, Frontend, u32),
    /// A frontend whose clients are restricted.
    Firewalled(Frontend),
    /// Clients that may connect to it.
    SourceRange(Frontend, IpNet),
    /// A protocol whose packets are not forwarded if they belong to no flow.
    InvalidProtocol(Family, Protocol),
}

impl Key {
    /// The family, and so the table.
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

    /// The set or map.
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

    /// The address whose presence some Service is the reason of, if it is such a member of a set.
    pub(super) fn address(self) -> Option<IpAddr> {
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

    /// The frontend it belongs to, if it belongs to one.
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

/// What a map gives for a key; a set gives nothing.
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
    /// Whose it is, as a comment for those who list the table. Only frontends carry one.
    pub comment: Option<Arc<PortKey>>,
}

impl Element {
    /// An element without a comment.
    pub fn new(key: Key, value: Value) -> Self {
        Self { key, value, comment: None }
    }
}
