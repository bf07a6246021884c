//! The sets and maps of a table: their names, keys, data and storage.

use serde::{Deserialize, Serialize};

use crate::frontend::Frontend;

/// The maximum number of client records in an affinity map. The kernel refuses more; a client
/// without a record is served, but without affinity.
pub const AFFINITY_RECORDS: u32 = 262_144;

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

/// The view of a frontend: under external policy Local, clients from outside reach other backends
/// than the cluster's, so the frontend has two sets of backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum View {
    /// All clients or, if there is a local view too, only Pods and the node itself.
    Cluster,
    /// Clients from outside, if the external policy is Local.
    Local,
}

impl View {
    /// Both views.
    pub const ALL: [Self; 2] = [Self::Cluster, Self::Local];
}

/// Returns one of two names, by view.
pub(super) const fn by_view(
    view: View,
    cluster: &'static str,
    local: &'static str,
) -> &'static str {
    match view {
        View::Cluster => cluster,
        View::Local => local,
    }
}

/// A set or map of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SetId {
    /// The protocols a Service can have.
    Protocols,
    /// Pick code → chain. The only verdict maps; one element per code in use.
    Picks(Scope, View),
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
    /// Route types of addresses that node ports answer on.
    NodeAddressTypes,
    /// Cluster addresses in use.
    ClusterIps,
    /// (address, same address) of local endpoints.
    Hairpin,
    /// Addresses that are bound to this node only so that IPVS sees the packets sent to them.
    Vips,
    /// Frontend → pick code.
    Services(Scope, View),
    /// Frontends without endpoints.
    Rejects(Scope),
    /// Frontend, slot → id of the backend, for session affinity.
    AffinitySlots(Scope, View),
    /// Frontend, slot or id → backend.
    Endpoints(Scope, View),
    /// Frontend, client → id of the backend: the affinity records, written by packets, with a
    /// timeout.
    Affinity(Scope, View),
    /// Frontends with restricted clients.
    Firewalled,
    /// Frontend, client: the clients that may connect to a restricted frontend.
    SourceRanges,
    /// The transport protocols whose forwarded packets are dropped if they belong to no flow.
    InvalidProtocols,
}

impl SetId {
    /// All sets, in the order in which they are created.
    pub const ALL: [Self; 36] = {
        use Scope::{Address, NodePort};
        use View::{Cluster, Local};
        [
            Self::Protocols,
            Self::Picks(Address, Cluster),
            Self::Picks(Address, Local),
            Self::Picks(NodePort, Cluster),
            Self::Picks(NodePort, Local),
            Self::UnmasqueradedSources,
            Self::UnmasqueradedInterfaces,
            Self::PodSources,
            Self::PodInterfaces,
            Self::ServiceCidrs,
            Self::NodeIps,
            Self::NodeAddressTypes,
            Self::ClusterIps,
            Self::Hairpin,
            Self::Vips,
            Self::Services(Address, Cluster),
            Self::Services(Address, Local),
            Self::Services(NodePort, Cluster),
            Self::Services(NodePort, Local),
            Self::Rejects(Address),
            Self::Rejects(NodePort),
            Self::AffinitySlots(Address, Cluster),
            Self::AffinitySlots(Address, Local),
            Self::AffinitySlots(NodePort, Cluster),
            Self::AffinitySlots(NodePort, Local),
            Self::Endpoints(Address, Cluster),
            Self::Endpoints(Address, Local),
            Self::Endpoints(NodePort, Cluster),
            Self::Endpoints(NodePort, Local),
            Self::Affinity(Address, Cluster),
            Self::Affinity(Address, Local),
            Self::Affinity(NodePort, Cluster),
            Self::Affinity(NodePort, Local),
            Self::Firewalled,
            Self::SourceRanges,
            Self::InvalidProtocols,
        ]
    };

    /// Returns its name in the kernel.
    pub fn name(self) -> &'static str {
        use Scope::{Address, NodePort};
        match self {
            Self::Protocols => "protocols",
            Self::Picks(Address, view) => by_view(view, "picks", "local-picks"),
            Self::Picks(NodePort, view) => by_view(view, "nodeport-picks", "local-nodeport-picks"),
            Self::UnmasqueradedSources => "unmasqueraded-sources",
            Self::UnmasqueradedInterfaces => "unmasqueraded-interfaces",
            Self::PodSources => "pod-sources",
            Self::PodInterfaces => "pod-interfaces",
            Self::ServiceCidrs => "service-cidrs",
            Self::NodeIps => "node-ips",
            Self::NodeAddressTypes => "node-address-types",
            Self::ClusterIps => "cluster-ips",
            Self::Hairpin => "hairpin",
            Self::Vips => "vips",
            Self::Services(Address, view) => by_view(view, "services", "local-services"),
            Self::Services(NodePort, view) => by_view(view, "nodeports", "local-nodeports"),
            Self::Rejects(Address) => "reject-services",
            Self::Rejects(NodePort) => "reject-nodeports",
            Self::AffinitySlots(Address, view) => {
                by_view(view, "affinity-slots", "local-affinity-slots")
            }
            Self::AffinitySlots(NodePort, view) => {
                by_view(view, "nodeport-affinity-slots", "local-nodeport-affinity-slots")
            }
            Self::Endpoints(Address, view) => by_view(view, "endpoints", "local-endpoints"),
            Self::Endpoints(NodePort, view) => {
                by_view(view, "nodeport-endpoints", "local-nodeport-endpoints")
            }
            Self::Affinity(Address, view) => by_view(view, "affinity", "local-affinity"),
            Self::Affinity(NodePort, view) => {
                by_view(view, "nodeport-affinity", "local-nodeport-affinity")
            }
            Self::Firewalled => "firewalled",
            Self::SourceRanges => "source-ranges",
            Self::InvalidProtocols => "invalid-protocols",
        }
    }

    /// Returns the set with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// Returns its key, data and storage.
    pub fn spec(self) -> SetSpec {
        use Datatype::{Address, FibType, Interface, Port, Priority, Protocol};
        let frontend = |scope| match scope {
            Scope::Address => vec![Address, Protocol, Port],
            Scope::NodePort => vec![Protocol, Port],
        };
        let frontend_and = |scope, last| {
            let mut key = frontend(scope);
            key.push(last);
            key
        };
        let set = |key| SetSpec { key, data: Data::None, kind: SetKind::Hash };
        let ranges = |key| SetSpec { key, data: Data::None, kind: SetKind::Interval };
        let map = |key, data| SetSpec { key, data: Data::Value(data), kind: SetKind::Hash };
        match self {
            Self::Protocols | Self::InvalidProtocols => set(vec![Protocol]),
            Self::Picks(..) => {
                SetSpec { key: vec![Priority], data: Data::Verdict, kind: SetKind::Hash }
            }
            Self::UnmasqueradedSources | Self::PodSources | Self::ServiceCidrs => {
                ranges(vec![Address])
            }
            Self::UnmasqueradedInterfaces | Self::PodInterfaces => ranges(vec![Interface]),
            Self::NodeIps | Self::ClusterIps | Self::Vips => set(vec![Address]),
            Self::NodeAddressTypes => set(vec![FibType]),
            Self::Hairpin => set(vec![Address, Address]),
            Self::Services(scope, _) => map(frontend(scope), vec![Priority]),
            Self::Rejects(scope) => set(frontend(scope)),
            Self::AffinitySlots(scope, _) => map(frontend_and(scope, Priority), vec![Priority]),
            Self::Endpoints(scope, _) => map(frontend_and(scope, Priority), vec![Address, Port]),
            Self::Affinity(scope, _) => SetSpec {
                key: frontend_and(scope, Address),
                data: Data::Value(vec![Priority]),
                kind: SetKind::Dynamic { size: AFFINITY_RECORDS },
            },
            Self::Firewalled => set(frontend(Scope::Address)),
            Self::SourceRanges => ranges(frontend_and(Scope::Address, Address)),
        }
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
    /// Ranges; in a key of several parts, only the last part is a range. A change costs the kernel
    /// time in proportion to the size of the set, so these sets are used only for the node's
    /// settings and for the few Services that restrict their clients.
    Interval,
    /// Exact match, filled by packets, with timeouts.
    Dynamic {
        /// The maximum number of elements.
        size: u32,
    },
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
    /// The type of a route.
    FibType,
    /// The name of an interface: 16 bytes, padded with zeros.
    Interface,
}
