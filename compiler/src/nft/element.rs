//! One element of one of our sets or maps, typed.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::chain::ChainId;
use super::code::{Class, Code, Draw, GroupId, Member};
use super::length::Lengths;
use super::set::{Scope, SetId};
use super::traffic::Traffic;
use crate::frontend::{Frontend, PortKey};
use crate::interface::InterfacePattern;
use crate::net::{Backend, Family, Protocol};

/// The identity of an element: its set and its key there. Keys are ordered by set, then by
/// frontend, so that the elements of a frontend in one set are adjacent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Key {
    /// A class of frontends.
    Class(Family, Class),
    /// How a slot of groups with members is drawn.
    Draw(Family, Draw),
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
    /// A protocol whose node ports answer on every address of this node except loopback.
    NodePortProtocol(Family, Protocol),
    /// The cluster address of a Service.
    ClusterIp(IpAddr),
    /// A local endpoint, which must be masqueraded when it reaches itself.
    Hairpin(IpAddr),
    /// An address that is bound to this node only for IPVS.
    Vip(IpAddr),
    /// A frontend with backends.
    Service(Frontend),
    /// A group of backends that clients from outside do not get.
    LocalGroup(Family, GroupId),
    /// A frontend without backends.
    Reject(Frontend),
    /// A backend of a group by its slot. All backends of a group have one protocol.
    Endpoint(Family, GroupId, Protocol, u32),
    /// A group with members.
    MemberGroup(Family, GroupId),
    /// A slot of a group with members.
    MemberSlot(Family, GroupId, u32),
    /// A backend of a group with members, whatever its slot.
    Member(Family, Member, Protocol),
    /// A member that another one follows in turn.
    Next(Family, Member),
    /// A frontend with restricted clients.
    Firewalled(Frontend),
    /// A network of clients that may connect to a restricted frontend; its length is one of
    /// `Length`.
    SourceRange(Frontend, IpNet),
    /// A protocol whose forwarded packets are dropped if they belong to no flow.
    InvalidProtocol(Family, Protocol),
}

impl Key {
    /// Returns the family, which also selects the table.
    pub fn family(self) -> Family {
        match self {
            Self::Class(family, _)
            | Self::Draw(family, _)
            | Self::LocalGroup(family, _)
            | Self::Endpoint(family, ..)
            | Self::MemberGroup(family, _)
            | Self::MemberSlot(family, ..)
            | Self::Member(family, ..)
            | Self::Next(family, _)
            | Self::InvalidProtocol(family, _)
            | Self::UnmasqueradedInterface(family, _)
            | Self::PodInterface(family, _)
            | Self::NodePortProtocol(family, _) => family,
            Self::UnmasqueradedSource(net) | Self::PodSource(net) | Self::ServiceCidr(net) => {
                Family::of(net.addr())
            }
            Self::NodeIp(address)
            | Self::ClusterIp(address)
            | Self::Hairpin(address)
            | Self::Vip(address) => Family::of(address),
            Self::Service(frontend)
            | Self::Reject(frontend)
            | Self::Firewalled(frontend)
            | Self::SourceRange(frontend, _) => frontend.family(),
        }
    }

    /// Returns the set or map.
    pub fn set(self) -> SetId {
        match self {
            Self::Class(..) => SetId::Classes,
            Self::Draw(..) => SetId::Draws,
            Self::UnmasqueradedSource(_) => SetId::UnmasqueradedSources,
            Self::UnmasqueradedInterface(..) => SetId::UnmasqueradedInterfaces,
            Self::PodSource(_) => SetId::PodSources,
            Self::PodInterface(..) => SetId::PodInterfaces,
            Self::ServiceCidr(_) => SetId::ServiceCidrs,
            Self::NodeIp(_) => SetId::NodeIps,
            Self::NodePortProtocol(..) => SetId::NodePortProtocols,
            Self::ClusterIp(_) => SetId::ClusterIps,
            Self::Hairpin(_) => SetId::Hairpin,
            Self::Vip(_) => SetId::Vips,
            Self::Service(frontend) => SetId::Services(Scope::of(frontend)),
            Self::LocalGroup(..) => SetId::LocalGroups,
            Self::Reject(frontend) => SetId::Rejects(Scope::of(frontend)),
            Self::Endpoint(..) => SetId::Endpoints,
            Self::MemberGroup(..) => SetId::MemberGroups,
            Self::MemberSlot(..) => SetId::MemberSlots,
            Self::Member(..) => SetId::Members,
            Self::Next(..) => SetId::NextMembers,
            Self::Firewalled(_) => SetId::Firewalled,
            Self::SourceRange(..) => SetId::SourceRanges,
            Self::InvalidProtocol(..) => SetId::InvalidProtocols,
        }
    }

    /// Returns the address, if this is a member of a set that has it because of Services.
    pub(crate) fn address(self) -> Option<IpAddr> {
        if let Subject::Address(address) = self.subject() { Some(address) } else { None }
    }

    /// Returns the group it belongs to, if any.
    pub fn group(self) -> Option<GroupId> {
        if let Subject::Group(group) = self.subject() { Some(group) } else { None }
    }

    /// Returns the frontend it belongs to, if any.
    pub fn frontend(self) -> Option<Frontend> {
        if let Subject::Frontend(frontend) = self.subject() { Some(frontend) } else { None }
    }

    fn subject(self) -> Subject {
        match self {
            Self::Service(frontend)
            | Self::Reject(frontend)
            | Self::Firewalled(frontend)
            | Self::SourceRange(frontend, _) => Subject::Frontend(frontend),
            Self::LocalGroup(_, group)
            | Self::Endpoint(_, group, ..)
            | Self::MemberGroup(_, group)
            | Self::MemberSlot(_, group, _)
            | Self::Member(_, Member { group, .. }, _)
            | Self::Next(_, Member { group, .. }) => Subject::Group(group),
            Self::ClusterIp(address) | Self::Hairpin(address) | Self::Vip(address) => {
                Subject::Address(address)
            }
            Self::Class(..)
            | Self::Draw(..)
            | Self::InvalidProtocol(..)
            | Self::UnmasqueradedSource(_)
            | Self::UnmasqueradedInterface(..)
            | Self::PodSource(_)
            | Self::PodInterface(..)
            | Self::ServiceCidr(_)
            | Self::NodeIp(_)
            | Self::NodePortProtocol(..) => Subject::Node,
        }
    }
}

/// What an element is about.
enum Subject {
    /// A frontend.
    Frontend(Frontend),
    /// A group of backends.
    Group(GroupId),
    /// An address that Services need in a set.
    Address(IpAddr),
    /// The node, or every Service.
    Node,
}

/// The value that a map gives for a key; a set gives none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Value {
    /// The key is a member.
    Present,
    /// A group, and how to choose a backend of it.
    Code(Code),
    /// A backend of a group with members.
    Member(Member),
    /// A backend.
    Backend(Backend),
    /// The lengths of the source ranges of a frontend.
    Lengths(Lengths),
    /// Go to a chain.
    Goto(ChainId),
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
    /// True if it has a counter, of the packets that find it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_counted: bool,
}

impl Element {
    /// Returns an element without a comment.
    pub fn new(key: Key, value: Value) -> Self {
        Self { key, value, comment: None, is_counted: false }
    }

    /// Returns it with a counter, if the elements of its set have one.
    pub fn counted(self, traffic: Traffic) -> Self {
        Self { is_counted: traffic.counts(self.key.set()), ..self }
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
