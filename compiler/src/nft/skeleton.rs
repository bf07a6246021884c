//! The constant ruleset: tables, sets, chains and rules, as data.
//!
//! There is one table per family. Only the `Pick` chains depend on the served Services, which all
//! share them. A rule is a list of statements; the sink encodes it for the kernel, `text` prints it
//! for people, and a test with the kernel shows that both mean the same.
//!
//! `skb->priority` is the scratch register between two lookups: it is the only field that can be
//! set from a map, can be read as part of a key, is printed and parsed again by the `nft` tool, and
//! is not used by others in these hooks. Postrouting resets it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pick::{Clients, Pick};
use crate::frontend::Frontend;

/// The name of the table, in both families.
pub const TABLE: &str = "rulec";

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

    /// Returns the fields of a packet that identify its frontend.
    fn frontend(self) -> Vec<Field> {
        match self {
            Self::Address => vec![Field::Daddr, Field::Protocol, Field::Dport],
            Self::NodePort => vec![Field::Protocol, Field::Dport],
        }
    }

    fn frontend_and(self, field: Field) -> Vec<Field> {
        let mut fields = self.frontend();
        fields.push(field);
        fields
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
const fn by_view(view: View, cluster: &'static str, local: &'static str) -> &'static str {
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

/// A chain of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChainId {
    /// Decides, for the first packet of a flow, whether it goes to a Service and to which backend.
    Dispatch,
    /// The part of `dispatch` for packets to an address of this node.
    NodePorts,
    /// The part of `dispatch` for clients from outside under policy Local.
    Outside(Scope),
    /// Drops packets from clients that a frontend does not allow.
    Firewall,
    /// Rejects packets to a frontend without endpoints.
    Unserved,
    /// The part of `unserved` for node ports.
    UnservedNodePorts,
    /// Rejects packets to an address that is bound only for IPVS, if no Service is there.
    Unknown,
    /// Filter for arriving packets, before NAT.
    FirewallPrerouting,
    /// Filter for packets that this node sends, before NAT.
    FirewallOutput,
    /// NAT of arriving packets.
    Prerouting,
    /// NAT of packets that this node sends.
    Output,
    /// Masquerading.
    Postrouting,
    /// Filter for packets to this node.
    FilterInput,
    /// Filter for forwarded packets.
    FilterForward,
    /// Filter for packets that this node sends.
    FilterOutput,
    /// Chooses a backend.
    Pick(Scope, View, Pick),
}

impl ChainId {
    /// The constant chains, in the order in which they are created.
    pub const CONSTANT: [Self; 16] = [
        Self::Dispatch,
        Self::NodePorts,
        Self::Outside(Scope::Address),
        Self::Outside(Scope::NodePort),
        Self::Firewall,
        Self::Unserved,
        Self::UnservedNodePorts,
        Self::Unknown,
        Self::FirewallPrerouting,
        Self::FirewallOutput,
        Self::Prerouting,
        Self::Output,
        Self::Postrouting,
        Self::FilterInput,
        Self::FilterForward,
        Self::FilterOutput,
    ];

    /// Returns the chain with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let constant = Self::CONSTANT.into_iter().find(|chain| chain.to_string() == name);
        constant.or_else(|| {
            let (view, stem) = match name.strip_prefix("local-") {
                Some(stem) => (View::Local, stem),
                None => (View::Cluster, name),
            };
            let (scope, stem) = match stem.strip_prefix("nodeport-") {
                Some(stem) => (Scope::NodePort, stem),
                None => (Scope::Address, stem),
            };
            Some(Self::Pick(scope, view, Pick::from_name(stem)?))
        })
    }

    /// Returns the scope of the frontends that the chain decides about, if it does.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Self::Outside(scope) | Self::Pick(scope, ..) => Some(scope),
            Self::Firewall | Self::Unserved | Self::Unknown => Some(Scope::Address),
            Self::NodePorts | Self::UnservedNodePorts => Some(Scope::NodePort),
            Self::Dispatch
            | Self::FirewallPrerouting
            | Self::FirewallOutput
            | Self::Prerouting
            | Self::Output
            | Self::Postrouting
            | Self::FilterInput
            | Self::FilterForward
            | Self::FilterOutput => None,
        }
    }

    /// Returns the hook, if this is a base chain.
    pub fn hook(self) -> Option<Hook> {
        // The names and numbers are those of <linux/netfilter_ipv4.h>: dstnat −100, filter 0,
        // srcnat 100.
        match self {
            // Before NAT, because source ranges apply to the original destination.
            Self::FirewallPrerouting => {
                Some(Hook::new(HookType::Filter, HookPoint::Prerouting, -110))
            }
            Self::FirewallOutput => Some(Hook::new(HookType::Filter, HookPoint::Output, -110)),
            Self::Prerouting => Some(Hook::new(HookType::Nat, HookPoint::Prerouting, -100)),
            Self::Output => Some(Hook::new(HookType::Nat, HookPoint::Output, -100)),
            Self::Postrouting => Some(Hook::new(HookType::Nat, HookPoint::Postrouting, 100)),
            Self::FilterInput => Some(Hook::new(HookType::Filter, HookPoint::Input, 0)),
            Self::FilterForward => Some(Hook::new(HookType::Filter, HookPoint::Forward, 0)),
            Self::FilterOutput => Some(Hook::new(HookType::Filter, HookPoint::Output, 0)),
            Self::Dispatch
            | Self::NodePorts
            | Self::Outside(_)
            | Self::Firewall
            | Self::Unserved
            | Self::UnservedNodePorts
            | Self::Unknown
            | Self::Pick(..) => None,
        }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch => f.write_str("dispatch"),
            Self::NodePorts => f.write_str("nodeports"),
            Self::Outside(Scope::Address) => f.write_str("outside"),
            Self::Outside(Scope::NodePort) => f.write_str("outside-nodeports"),
            Self::Firewall => f.write_str("firewall"),
            Self::Unserved => f.write_str("unserved"),
            Self::UnservedNodePorts => f.write_str("unserved-nodeports"),
            Self::Unknown => f.write_str("unknown"),
            Self::FirewallPrerouting => f.write_str("firewall-prerouting"),
            Self::FirewallOutput => f.write_str("firewall-output"),
            Self::Prerouting => f.write_str("prerouting"),
            Self::Output => f.write_str("output"),
            Self::Postrouting => f.write_str("postrouting"),
            Self::FilterInput => f.write_str("filter-input"),
            Self::FilterForward => f.write_str("filter-forward"),
            Self::FilterOutput => f.write_str("filter-output"),
            Self::Pick(scope, view, pick) => {
                f.write_str(by_view(*view, "", "local-"))?;
                match scope {
                    Scope::Address => write!(f, "{pick}"),
                    Scope::NodePort => write!(f, "nodeport-{pick}"),
                }
            }
        }
    }
}

/// The attachment of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The type, which limits the verdicts.
    pub kind: HookType,
    /// The point on a packet's path.
    pub point: HookPoint,
    /// The priority; lower runs first.
    pub priority: i32,
}

impl Hook {
    const fn new(kind: HookType, point: HookPoint, priority: i32) -> Self {
        Self { kind, point, priority }
    }
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookType {
    /// Accept, drop, reject.
    Filter,
    /// Translate; sees only the first packet of a flow.
    Nat,
}

/// A netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// Arriving, before routing.
    Prerouting,
    /// To this node.
    Input,
    /// Forwarded.
    Forward,
    /// Sent by this node.
    Output,
    /// Leaving this node.
    Postrouting,
}

/// A field of a packet, as part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The interface it arrived on; an empty name for packets that this node sends.
    Iifname,
    /// The source address.
    Saddr,
    /// The destination address.
    Daddr,
    /// The transport protocol.
    Protocol,
    /// The transport protocol in the IP header, because nft 1.0.6 swaps the bytes of `Protocol` in
    /// keys of sets with ranges. In IPv6 the two differ if there are extension headers; conntrack
    /// has already removed the only common one, that of fragments.
    HeaderProtocol,
    /// The destination port.
    Dport,
    /// The scratch register.
    Priority,
    /// The destination address of the flow's first packet, before any translation.
    OriginalDaddr,
}

/// A rule: statements that are evaluated from left to right until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(pub Vec<Statement>);

impl Rule {
    /// Returns the sets that the rule looks up.
    pub(super) fn sets(&self) -> Vec<SetId> {
        let of = |statement: &Statement| match statement {
            Statement::Member { set, .. } | Statement::DaddrType(set) => Some(*set),
            Statement::SetPriority(Source::Map { map, .. }) | Statement::Dnat { map, .. } => {
                Some(*map)
            }
            Statement::GotoPick(scope, view) => Some(SetId::Picks(*scope, *view)),
            Statement::RecordAffinity { scope, view, .. }
            | Statement::ForgetAffinity(scope, view) => Some(SetId::Affinity(*scope, *view)),
            Statement::SetPriority(Source::Zero | Source::Random(_) | Source::ClientHash(_))
            | Statement::NotLoopback
            | Statement::SaddrIsLocal(_)
            | Statement::StateNew
            | Statement::StateInvalid
            | Statement::StatusDnat
            | Statement::MarkIsSet
            | Statement::SetMark
            | Statement::ClearMark
            | Statement::Masquerade
            | Statement::Reject
            | Statement::Drop
            | Statement::Jump(_)
            | Statement::Goto(_)
            | Statement::Return => None,
        };
        self.0.iter().filter_map(of).collect()
    }

    /// Returns the chains that the rule jumps or goes to.
    pub(super) fn chains(&self) -> impl Iterator<Item = ChainId> {
        self.0.iter().filter_map(|statement| {
            if let Statement::Jump(chain) | Statement::Goto(chain) = statement {
                Some(*chain)
            } else {
                None
            }
        })
    }
}

/// A match or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The fields are, or are not, a member of the set.
    Member {
        /// The key.
        fields: Vec<Field>,
        /// The set.
        set: SetId,
        /// True if they must be a member.
        is_member: bool,
    },
    /// The destination is not a loopback address.
    NotLoopback,
    /// The route type of the destination is in the set.
    DaddrType(SetId),
    /// The source is, or is not, an address of this node.
    SaddrIsLocal(bool),
    /// The packet starts a flow.
    StateNew,
    /// The packet neither belongs to a flow nor starts one, according to conntrack.
    StateInvalid,
    /// The flow's destination is translated.
    StatusDnat,
    /// The packet's mark requests masquerading.
    MarkIsSet,
    /// Request masquerading.
    SetMark,
    /// Clear the request for masquerading.
    ClearMark,
    /// Set the scratch register.
    SetPriority(Source),
    /// Go to the chain that the map gives for the scratch register.
    GotoPick(Scope, View),
    /// Write the record (frontend, client) → scratch register, or renew the timeout of an existing
    /// one.
    RecordAffinity {
        /// The scope.
        scope: Scope,
        /// The view.
        view: View,
        /// The timeout in seconds.
        timeout: u32,
    },
    /// Delete the client's record.
    ForgetAffinity(Scope, View),
    /// Translate the destination to the value that the map gives for the fields; if there is none,
    /// the rule does not match.
    Dnat {
        /// The key.
        fields: Vec<Field>,
        /// The map.
        map: SetId,
    },
    /// Translate the source to the address of the outgoing interface, with random ports.
    Masquerade,
    /// Refuse with ICMP port unreachable, for every protocol.
    Reject,
    /// Drop the packet silently.
    Drop,
    /// Continue in a chain, then resume here.
    Jump(ChainId),
    /// Continue in a chain, and do not resume here.
    Goto(ChainId),
    /// Leave the chain.
    Return,
}

/// The source of a value for the scratch register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// 0.
    Zero,
    /// The value that a map gives for the fields; if there is none, the rule does not match.
    Map {
        /// The key.
        fields: Vec<Field>,
        /// The map.
        map: SetId,
    },
    /// A random number below this one.
    Random(u32),
    /// A number below this one that depends only on the client's address. With session affinity, a
    /// client that uses another frontend of the same Service thus finds the same backend.
    ClientHash(u32),
}

/// Returns the rules of a chain.
pub fn rules(chain: ChainId) -> Vec<Rule> {
    use Statement::{
        ClearMark, DaddrType, Drop, GotoPick, Jump, MarkIsSet, Masquerade, NotLoopback, Reject,
        Return, SetMark, SetPriority, StateInvalid, StateNew, StatusDnat,
    };
    let member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: true };
    let not_member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: false };
    let to_this_node = |chain: ChainId, first: Option<Statement>| {
        // An address may match both sets. The second pass through the chain then has no effect: a
        // packet that the first one has not ended is not ended by the second either.
        let by_address = vec![member(vec![Field::Daddr], SetId::NodeIps), Jump(chain)];
        let by_type = vec![NotLoopback, DaddrType(SetId::NodeAddressTypes), Jump(chain)];
        [by_address, by_type].map(|rest| Rule(first.iter().cloned().chain(rest).collect()))
    };
    let [nodeports_by_address, nodeports_by_type] = to_this_node(ChainId::NodePorts, None);
    let choose = |scope: Scope, view: View| {
        let map = SetId::Services(scope, view);
        let fields = scope.frontend();
        Rule(vec![SetPriority(Source::Map { fields, map }), GotoPick(scope, view)])
    };
    let reject = |scope: Scope| Rule(vec![member(scope.frontend(), SetId::Rejects(scope)), Reject]);
    match chain {
        ChainId::Dispatch => vec![
            Rule(vec![not_member(vec![Field::Protocol], SetId::Protocols), Return]),
            Rule(vec![
                member(vec![Field::Daddr], SetId::ClusterIps),
                not_member(vec![Field::Saddr], SetId::UnmasqueradedSources),
                not_member(vec![Field::Iifname], SetId::UnmasqueradedInterfaces),
                SetMark,
            ]),
            // If this node connects to one of its own addresses, that address is also the source.
            // Other nodes could not answer to a VIP.
            Rule(vec![member(vec![Field::Saddr], SetId::Vips), SetMark]),
            choose(Scope::Address, View::Cluster),
            nodeports_by_address,
            nodeports_by_type,
        ],
        ChainId::NodePorts => vec![choose(Scope::NodePort, View::Cluster)],
        // Without a local backend, drop silently: a load balancer that has not noticed yet, or a
        // client that asked the wrong node, shall retry rather than give up.
        ChainId::Outside(scope) => vec![choose(scope, View::Local), Rule(vec![Drop])],
        ChainId::Firewall => {
            let source = [Field::Daddr, Field::HeaderProtocol, Field::Dport, Field::Saddr];
            vec![Rule(vec![
                member(Scope::Address.frontend(), SetId::Firewalled),
                not_member(source.to_vec(), SetId::SourceRanges),
                Drop,
            ])]
        }
        ChainId::FirewallPrerouting | ChainId::FirewallOutput => {
            vec![Rule(vec![StateNew, Jump(ChainId::Firewall)])]
        }
        ChainId::Unserved => vec![reject(Scope::Address)],
        ChainId::UnservedNodePorts => vec![reject(Scope::NodePort)],
        ChainId::Unknown => {
            let fields = Scope::Address.frontend();
            let map = SetId::Services(Scope::Address, View::Cluster);
            vec![Rule(vec![SetPriority(Source::Map { fields, map }), Return]), Rule(vec![Reject])]
        }
        ChainId::Prerouting | ChainId::Output => vec![Rule(vec![Jump(ChainId::Dispatch)])],
        ChainId::Postrouting => vec![
            Rule(vec![SetPriority(Source::Zero)]),
            Rule(vec![MarkIsSet, ClearMark, Masquerade]),
            Rule(vec![
                StatusDnat,
                member(vec![Field::Saddr, Field::Daddr], SetId::Hairpin),
                Masquerade,
            ]),
            // Conntrack does not know that IPVS has translated a flow. If the flow was started to
            // the address of an endpoint itself, no Service was involved.
            Rule(vec![
                member(vec![Field::Saddr, Field::Daddr], SetId::Hairpin),
                not_member(vec![Field::OriginalDaddr; 2], SetId::Hairpin),
                Masquerade,
            ]),
        ],
        ChainId::FilterInput => {
            let mut rules = vec![Rule(vec![StateNew, Jump(ChainId::Unserved)])];
            rules.extend(to_this_node(ChainId::UnservedNodePorts, Some(StateNew)));
            // A process that listens on all addresses of this node must not be reachable at a VIP.
            let unknown = member(vec![Field::Daddr], SetId::Vips);
            rules.push(Rule(vec![StateNew, unknown, Jump(ChainId::Unknown)]));
            rules
        }
        ChainId::FilterForward => {
            // Conntrack translates only packets that belong to a flow: a backend's segment from
            // outside the window would reach the client from an address that it never spoke to, and
            // the client would answer with a reset.
            let protocols = member(vec![Field::Protocol], SetId::InvalidProtocols);
            let mut rules = vec![Rule(vec![StateInvalid, protocols, Drop])];
            rules.extend(self::rules(ChainId::FilterOutput));
            rules
        }
        ChainId::FilterOutput => vec![
            Rule(vec![StateNew, Jump(ChainId::Unserved)]),
            Rule(vec![StateNew, member(vec![Field::Daddr], SetId::ClusterIps), Reject]),
            // A Service may soon get an address that no Service has now: drop silently instead of
            // rejecting, and do not let the packet be routed.
            Rule(vec![StateNew, member(vec![Field::Daddr], SetId::ServiceCidrs), Drop]),
        ],
        ChainId::Pick(scope, view, pick) => pick_rules(scope, view, pick),
    }
}

fn pick_rules(scope: Scope, view: View, pick: Pick) -> Vec<Rule> {
    let mut rules = clients_rules(scope, pick.clients);
    if pick.backends == 0 {
        return rules;
    }
    let fields = scope.frontend_and(Field::Priority);
    let map = SetId::Endpoints(scope, view);
    let dnat = Statement::Dnat { fields: fields.clone(), map };
    let Some(timeout) = pick.affinity else {
        rules.push(Rule(vec![Statement::SetPriority(Source::Random(pick.backends))]));
        rules.push(Rule(vec![dnat]));
        return rules;
    };
    let record = Statement::RecordAffinity { scope, view, timeout };
    rules.extend([
        // A record of a backend that exists: renew it and translate. If the backend is gone, `dnat`
        // finds no value and the rule does not match.
        Rule(vec![
            Statement::SetPriority(Source::Map {
                fields: scope.frontend_and(Field::Saddr),
                map: SetId::Affinity(scope, view),
            }),
            record.clone(),
            dnat.clone(),
        ]),
        // No record, or one of a removed backend: choose a slot, look up its id, record that,
        // translate.
        Rule(vec![Statement::ForgetAffinity(scope, view)]),
        Rule(vec![Statement::SetPriority(Source::ClientHash(pick.backends))]),
        Rule(vec![Statement::SetPriority(Source::Map {
            fields,
            map: SetId::AffinitySlots(scope, view),
        })]),
        Rule(vec![record]),
        Rule(vec![dnat]),
    ]);
    rules
}

fn clients_rules(scope: Scope, clients: Clients) -> Vec<Rule> {
    let not_in = |field, set| Statement::Member { fields: vec![field], set, is_member: false };
    // A source that is a Pod is treated as a Pod, even if its address is also the node's, as for a
    // bridge.
    let unless_pod = |is_local, then| {
        Rule(vec![
            not_in(Field::Saddr, SetId::PodSources),
            not_in(Field::Iifname, SetId::PodInterfaces),
            Statement::SaddrIsLocal(is_local),
            then,
        ])
    };
    match clients {
        Clients::Kept => Vec::new(),
        Clients::Masqueraded => vec![Rule(vec![Statement::SetMark])],
        Clients::Split => vec![
            unless_pod(false, Statement::Goto(ChainId::Outside(scope))),
            unless_pod(true, Statement::SetMark),
        ],
        Clients::Dropped => vec![Rule(vec![Statement::Drop])],
    }
}

/// Returns the key of an affinity record: the frontend and the client.
pub fn affinity_key(scope: Scope) -> Vec<Field> {
    scope.frontend_and(Field::Saddr)
}
