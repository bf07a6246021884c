//! The sets and maps of a table: their names, keys, data and storage.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::code::Affinity;
use crate::frontend::Frontend;

/// The kind of frontend: address or node port. Node ports have the same maps without the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Addresses: cluster addresses, external IPs, VIPs of load balancers.
    Address,
    /// Node ports.
    NodePort,
}

impl Scope {
    /// Both scopes.
    pub const ALL: [Self; 2] = [Self::Address, Self::NodePort];

    /// Returns the scope of a frontend.
    pub fn of(frontend: Frontend) -> Self {
        match frontend {
            Frontend::Address { .. } => Self::Address,
            Frontend::NodePort { .. } => Self::NodePort,
        }
    }
}

/// A set or map of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SetId {
    /// Class → chain that chooses a backend. This and `Draws` are the only verdict maps.
    Classes,
    /// Class → chain that draws a slot of a group with members.
    Draws,
    /// Sources that are not masqueraded on their way to a cluster address.
    UnmasqueradedSources,
    /// Interfaces whose traffic to a cluster address is not masqueraded.
    UnmasqueradedInterfaces,
    /// Sources that are known to be Pods.
    PodSources,
    /// Interfaces on which only traffic from Pods arrives.
    PodInterfaces,
    /// Ranges that cluster addresses are allocated from.
    ServiceCidrs,
    /// Addresses that node ports answer on.
    NodeIps,
    /// Protocols whose node ports answer on every address of this node except loopback.
    NodePortProtocols,
    /// Cluster addresses in use.
    ClusterIps,
    /// (address, same address) of local endpoints.
    Hairpin,
    /// Addresses that are bound to this node only so that IPVS sees the packets sent to them.
    Vips,
    /// Frontend → code.
    Services(Scope),
    /// Group → code of the group that clients from outside get, under policy Local.
    LocalGroups,
    /// Frontends without endpoints.
    Rejects(Scope),
    /// Group, slot → backend.
    Endpoints,
    /// Group with members → code with the class by which its slots are drawn.
    MemberGroups,
    /// Group, slot → member.
    MemberSlots,
    /// Member → backend.
    Members,
    /// Member → the one whose turn is after it, in a group with round robin.
    NextMembers,
    /// Group → the member whose turn was last: written by packets, with a timeout.
    Turns,
    /// Group, bucket of clients → member: the affinity records, written by packets, with a timeout.
    Affinity(Affinity),
    /// Frontend with restricted clients → the lengths of its source ranges.
    Firewalled,
    /// Length, frontend, network: the clients that may connect to a restricted frontend.
    SourceRanges,
    /// The transport protocols whose forwarded packets are dropped if they belong to no flow.
    InvalidProtocols,
}

impl SetId {
    /// The sets that exist whatever Services there are, in the order in which they are created.
    pub const CONSTANT: [Self; 26] = [
        Self::Classes,
        Self::Draws,
        Self::UnmasqueradedSources,
        Self::UnmasqueradedInterfaces,
        Self::PodSources,
        Self::PodInterfaces,
        Self::ServiceCidrs,
        Self::NodeIps,
        Self::NodePortProtocols,
        Self::ClusterIps,
        Self::Hairpin,
        Self::Vips,
        Self::Services(Scope::Address),
        Self::Services(Scope::NodePort),
        Self::LocalGroups,
        Self::Rejects(Scope::Address),
        Self::Rejects(Scope::NodePort),
        Self::Endpoints,
        Self::MemberGroups,
        Self::MemberSlots,
        Self::Members,
        Self::NextMembers,
        Self::Turns,
        Self::Firewalled,
        Self::SourceRanges,
        Self::InvalidProtocols,
    ];

    /// Returns its name in the kernel.
    pub fn name(self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Classes => "classes",
            Self::Draws => "draws",
            Self::UnmasqueradedSources => "unmasqueraded-sources",
            Self::UnmasqueradedInterfaces => "unmasqueraded-interfaces",
            Self::PodSources => "pod-sources",
            Self::PodInterfaces => "pod-interfaces",
            Self::ServiceCidrs => "service-cidrs",
            Self::NodeIps => "node-ips",
            Self::NodePortProtocols => "node-port-protocols",
            Self::ClusterIps => "cluster-ips",
            Self::Hairpin => "hairpin",
            Self::Vips => "vips",
            Self::Services(Scope::Address) => "services",
            Self::Services(Scope::NodePort) => "nodeports",
            Self::LocalGroups => "local-groups",
            Self::Rejects(Scope::Address) => "reject-services",
            Self::Rejects(Scope::NodePort) => "reject-nodeports",
            Self::Endpoints => "endpoints",
            Self::MemberGroups => "member-groups",
            Self::MemberSlots => "member-slots",
            Self::Members => "members",
            Self::NextMembers => "next-members",
            Self::Turns => "turns",
            Self::Affinity(affinity) => return Cow::Owned(affinity.to_string()),
            Self::Firewalled => "firewalled",
            Self::SourceRanges => "source-ranges",
            Self::InvalidProtocols => "invalid-protocols",
        })
    }

    /// Returns the set with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let constant = Self::CONSTANT.into_iter().find(|set| set.name() == name);
        constant.or_else(|| Affinity::from_name(name).map(Self::Affinity))
    }

    /// Returns the session affinity that it has records of, if it has.
    pub fn affinity(self) -> Option<Affinity> {
        if let Self::Affinity(affinity) = self { Some(affinity) } else { None }
    }

    /// Returns true if packets write its elements: we never do.
    pub fn is_of_records(self) -> bool {
        self.spec().kind == SetKind::Dynamic
    }

    /// Returns true if its elements stand for ranges of values.
    pub fn has_ranges(self) -> bool {
        matches!(
            self,
            Self::UnmasqueradedSources
                | Self::UnmasqueradedInterfaces
                | Self::PodSources
                | Self::PodInterfaces
                | Self::ServiceCidrs
        )
    }

    /// Returns its key, data and storage.
    pub fn spec(self) -> SetSpec {
        use Datatype::{Address, Integer, Interface, Port, Priority, Protocol};
        let frontend = |scope| match scope {
            Scope::Address => vec![Address, Protocol, Port],
            Scope::NodePort => vec![Protocol, Port],
        };
        let set = |key| SetSpec { key, data: Data::None, kind: SetKind::Hash };
        let ranges = |key| SetSpec { key, data: Data::None, kind: SetKind::Interval };
        let map = |key, data| SetSpec { key, data: Data::Value(data), kind: SetKind::Hash };
        match self {
            Self::Classes | Self::Draws => {
                SetSpec { key: vec![Priority], data: Data::Verdict, kind: SetKind::Hash }
            }
            Self::UnmasqueradedSources | Self::PodSources | Self::ServiceCidrs => {
                ranges(vec![Address])
            }
            Self::UnmasqueradedInterfaces | Self::PodInterfaces => ranges(vec![Interface]),
            Self::NodeIps | Self::ClusterIps | Self::Vips => set(vec![Address]),
            Self::Hairpin => set(vec![Address, Address]),
            Self::Services(scope) => map(frontend(scope), vec![Priority]),
            Self::LocalGroups | Self::MemberGroups => map(vec![Priority], vec![Priority]),
            Self::Rejects(scope) => set(frontend(scope)),
            // The tool wants to know the protocol of a port that is translated.
            Self::Endpoints => map(vec![Priority, Protocol, Integer], vec![Address, Port]),
            Self::MemberSlots => map(vec![Priority, Integer], vec![Priority]),
            Self::Members => map(vec![Priority, Protocol], vec![Address, Port]),
            Self::NextMembers => map(vec![Priority], vec![Priority]),
            Self::Turns => SetSpec {
                key: vec![Priority],
                data: Data::Value(vec![Priority]),
                kind: SetKind::Dynamic,
            },
            Self::Affinity(_) => SetSpec {
                key: vec![Priority, Integer],
                data: Data::Value(vec![Priority]),
                kind: SetKind::Dynamic,
            },
            Self::Firewalled => map(frontend(Scope::Address), vec![Priority]),
            Self::SourceRanges => set(vec![Priority, Address, Protocol, Port, Address]),
            Self::NodePortProtocols | Self::InvalidProtocols => set(vec![Protocol]),
        }
    }
}

impl SetSpec {
    /// Returns true if the set must be declared by expressions of its types.
    pub fn is_by_expression(&self) -> bool {
        self.key.contains(&Datatype::Integer)
    }
}

/// The definition of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// The parts of the key.
    pub key: Vec<Datatype>,
    /// The data of an element.
    pub data: Data,
    /// The storage of the set.
    pub kind: SetKind,
}

/// The data of an element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// None: a set.
    None,
    /// Values.
    Value(Vec<Datatype>),
    /// A verdict.
    Verdict,
}

/// The storage of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Exact match; constant cost at any size.
    Hash,
    /// Ranges, in a key of one part. A change costs the kernel time in proportion to the size of the
    /// set, so these sets are used only for the node's settings.
    Interval,
    /// Exact match, filled by packets, with timeouts. It names no size, so that the kernel starts
    /// it small and limits it to `AFFINITY_RECORDS`.
    Dynamic,
}

/// The type of a part of a key or value, in the terms of the `nft` tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    /// An address of the table's family.
    Address,
    /// A transport protocol.
    Protocol,
    /// A port.
    Port,
    /// The type of `meta priority`; a 32-bit number, printed as `major:minor` in hexadecimal.
    Priority,
    /// A 32-bit number in the host's byte order, printed in decimal. The tool has no name for it: a
    /// set that has one is declared by expressions of the types of its parts (`typeof`).
    Integer,
    /// The name of an interface: 16 bytes, padded with zeros.
    Interface,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_set_has_intervals_of_several_parts() {
        // A deletion there looks at every element of the set.
        for set in SetId::CONSTANT {
            let SetSpec { key, kind, .. } = set.spec();
            assert_eq!(set.has_ranges(), kind == SetKind::Interval, "{set:?}");
            assert!(kind != SetKind::Interval || key.len() == 1, "{set:?}");
        }
    }
}
