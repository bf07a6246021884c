//! The constant ruleset: tables, sets, chains and rules, as data.
//!
//! One table per family. Only the `Pick` chains depend on what is served, and all Services share
//! them. A rule is a list of statements; the sink encodes it for the kernel, `text` prints it for
//! people, and a kernel test shows that both mean the same.
//!
//! `skb->priority` is the scratch register between a lookup and the next: the only field that can
//! be set from a map, read as part of a key, is printed and parsed again by the `nft` tool, and that
//! nobody else relies on in these hooks. Postrouting resets it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pick::Pick;
use crate::net::{Family, Fnv};
use crate::resolve::Frontend;

/// The name of the table, in both families.
pub const TABLE: &str = "rulec";

/// How many client records a table holds for each scope; the kernel refuses more, and a client
/// without a record is served, only not remembered.
pub const AFFINITY_RECORDS: u32 = 262_144;

/// Whether something is for frontends that are addresses or for node ports: the latter have the
/// same maps without the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// Addresses: cluster addresses, external IPs, VIPs of load balancers.
    Address,
    /// Node ports.
    NodePort,
}

impl Scope {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Address, Self::NodePort];

    /// The scope of a frontend.
    pub fn of(frontend: Frontend) -> Self {
        match frontend {
            Frontend::Address { .. } => Self::Address,
            Frontend::NodePort { .. } => Self::NodePort,
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Address => "",
            Self::NodePort => "nodeport-",
        }
    }

    /// The fields of a packet that name its frontend.
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

/// A set or map of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SetId {
    /// The protocols a Service can have.
    Protocols,
    /// Pick code → chain. The only verdict map; one element per code in use.
    Picks(Scope),
    /// Sources that are not masqueraded on their way to a cluster address.
    UnmasqueradedSources,
    /// Interfaces from which nobody is masqueraded on the way to a cluster address.
    UnmasqueradedInterfaces,
    /// Ranges that cluster addresses are taken from.
    ServiceCidrs,
    /// Addresses that node ports answer on.
    NodeIps,
    /// Route types of addresses that node ports answer on.
    NodeAddressTypes,
    /// Cluster addresses in use.
    ClusterIps,
    /// (address, same address) of local endpoints.
    Hairpin,
    /// Frontend → pick code.
    Services(Scope),
    /// Frontends without endpoints.
    Rejects(Scope),
    /// Frontend, slot → id of the backend, for session affinity.
    AffinitySlots(Scope),
    /// Frontend, slot or id → backend.
    Endpoints(Scope),
    /// Frontend, client → id of the backend: written by the packets themselves, with a timeout.
    Affinity(Scope),
}

impl SetId {
    /// All, in the order in which they are created.
    pub const ALL: [Self; 20] = [
        Self::Protocols,
        Self::Picks(Scope::Address),
        Self::Picks(Scope::NodePort),
        Self::UnmasqueradedSources,
        Self::UnmasqueradedInterfaces,
        Self::ServiceCidrs,
        Self::NodeIps,
        Self::NodeAddressTypes,
        Self::ClusterIps,
        Self::Hairpin,
        Self::Services(Scope::Address),
        Self::Services(Scope::NodePort),
        Self::Rejects(Scope::Address),
        Self::Rejects(Scope::NodePort),
        Self::AffinitySlots(Scope::Address),
        Self::AffinitySlots(Scope::NodePort),
        Self::Endpoints(Scope::Address),
        Self::Endpoints(Scope::NodePort),
        Self::Affinity(Scope::Address),
        Self::Affinity(Scope::NodePort),
    ];

    /// The name in the kernel.
    pub fn name(self) -> &'static str {
        match self {
            Self::Protocols => "protocols",
            Self::Picks(Scope::Address) => "picks",
            Self::Picks(Scope::NodePort) => "nodeport-picks",
            Self::UnmasqueradedSources => "unmasqueraded-sources",
            Self::UnmasqueradedInterfaces => "unmasqueraded-interfaces",
            Self::ServiceCidrs => "service-cidrs",
            Self::NodeIps => "node-ips",
            Self::NodeAddressTypes => "node-address-types",
            Self::ClusterIps => "cluster-ips",
            Self::Hairpin => "hairpin",
            Self::Services(Scope::Address) => "services",
            Self::Services(Scope::NodePort) => "nodeports",
            Self::Rejects(Scope::Address) => "reject-services",
            Self::Rejects(Scope::NodePort) => "reject-nodeports",
            Self::AffinitySlots(Scope::Address) => "affinity-slots",
            Self::AffinitySlots(Scope::NodePort) => "nodeport-affinity-slots",
            Self::Endpoints(Scope::Address) => "endpoints",
            Self::Endpoints(Scope::NodePort) => "nodeport-endpoints",
            Self::Affinity(Scope::Address) => "affinity",
            Self::Affinity(Scope::NodePort) => "nodeport-affinity",
        }
    }

    /// The set of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|set| set.name() == name)
    }

    /// What it is made of.
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
        let ranges = |part| SetSpec { key: vec![part], data: Data::None, kind: SetKind::Interval };
        let map = |key, data| SetSpec { key, data: Data::Value(data), kind: SetKind::Hash };
        match self {
            Self::Protocols => set(vec![Protocol]),
            Self::Picks(_) => {
                SetSpec { key: vec![Priority], data: Data::Verdict, kind: SetKind::Hash }
            }
            Self::UnmasqueradedSources | Self::ServiceCidrs => ranges(Address),
            Self::UnmasqueradedInterfaces => ranges(Interface),
            Self::NodeIps | Self::ClusterIps => set(vec![Address]),
            Self::NodeAddressTypes => set(vec![FibType]),
            Self::Hairpin => set(vec![Address, Address]),
            Self::Services(scope) => map(frontend(scope), vec![Priority]),
            Self::Rejects(scope) => set(frontend(scope)),
            Self::AffinitySlots(scope) => map(frontend_and(scope, Priority), vec![Priority]),
            Self::Endpoints(scope) => map(frontend_and(scope, Priority), vec![Address, Port]),
            Self::Affinity(scope) => SetSpec {
                key: frontend_and(scope, Address),
                data: Data::Value(vec![Priority]),
                kind: SetKind::Dynamic { size: AFFINITY_RECORDS },
            },
        }
    }
}

/// What a set is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// The parts of the key.
    pub key: Vec<Datatype>,
    /// What a key leads to.
    pub data: Data,
    /// How it is stored.
    pub kind: SetKind,
}

/// What a key of a set or map leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nothing: a set.
    None,
    /// Values.
    Value(Vec<Datatype>),
    /// A verdict.
    Verdict,
}

/// How a set is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Exact match; constant cost at any size.
    Hash,
    /// Ranges. Only for settings of the node, never per Service.
    Interval,
    /// Exact match, filled by packets, with timeouts.
    Dynamic {
        /// The most elements it takes.
        size: u32,
    },
}

/// The type of a part of a key or a value, in the terms of the `nft` tool.
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
    /// Decides, for the first packet of a flow, whether it goes to a Service, and to which backend.
    Dispatch,
    /// The part of it for packets to an address of this node.
    NodePorts,
    /// Rejects what goes to a frontend without endpoints.
    Unserved,
    /// The part of it for node ports.
    UnservedNodePorts,
    /// NAT of what arrives.
    Prerouting,
    /// NAT of what this node sends.
    Output,
    /// Masquerading.
    Postrouting,
    /// Filter of what is for this node.
    FilterInput,
    /// Filter of what is forwarded.
    FilterForward,
    /// Filter of what this node sends.
    FilterOutput,
    /// Chooses a backend.
    Pick(Scope, Pick),
}

impl ChainId {
    /// The constant ones, in the order in which they are created.
    pub const CONSTANT: [Self; 10] = [
        Self::Dispatch,
        Self::NodePorts,
        Self::Unserved,
        Self::UnservedNodePorts,
        Self::Prerouting,
        Self::Output,
        Self::Postrouting,
        Self::FilterInput,
        Self::FilterForward,
        Self::FilterOutput,
    ];

    /// The hook of a base chain.
    pub fn hook(self) -> Option<Hook> {
        // The names and numbers are those of <linux/netfilter_ipv4.h>: dstnat −100, filter 0,
        // srcnat 100.
        match self {
            Self::Prerouting => Some(Hook::new(HookType::Nat, HookPoint::Prerouting, -100)),
            Self::Output => Some(Hook::new(HookType::Nat, HookPoint::Output, -100)),
            Self::Postrouting => Some(Hook::new(HookType::Nat, HookPoint::Postrouting, 100)),
            Self::FilterInput => Some(Hook::new(HookType::Filter, HookPoint::Input, 0)),
            Self::FilterForward => Some(Hook::new(HookType::Filter, HookPoint::Forward, 0)),
            Self::FilterOutput => Some(Hook::new(HookType::Filter, HookPoint::Output, 0)),
            Self::Dispatch
            | Self::NodePorts
            | Self::Unserved
            | Self::UnservedNodePorts
            | Self::Pick(..) => None,
        }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch => f.write_str("dispatch"),
            Self::NodePorts => f.write_str("nodeports"),
            Self::Unserved => f.write_str("unserved"),
            Self::UnservedNodePorts => f.write_str("unserved-nodeports"),
            Self::Prerouting => f.write_str("prerouting"),
            Self::Output => f.write_str("output"),
            Self::Postrouting => f.write_str("postrouting"),
            Self::FilterInput => f.write_str("filter-input"),
            Self::FilterForward => f.write_str("filter-forward"),
            Self::FilterOutput => f.write_str("filter-output"),
            Self::Pick(scope, pick) => write!(f, "{}{pick}", scope.prefix()),
        }
    }
}

/// Where a base chain is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// What it may do.
    pub kind: HookType,
    /// The point on a packet's way.
    pub point: HookPoint,
    /// Lower comes first.
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
    /// For this node.
    Input,
    /// Passing through.
    Forward,
    /// Sent by this node.
    Output,
    /// Leaving.
    Postrouting,
}

/// A field of a packet, as part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The interface it came by; the empty name for what this node sends.
    Iifname,
    /// The source address.
    Saddr,
    /// The destination address.
    Daddr,
    /// The transport protocol.
    Protocol,
    /// The destination port.
    Dport,
    /// The scratch register.
    Priority,
}

/// A rule: statements, evaluated left to right until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(pub Vec<Statement>);

/// A match or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The fields are, or are not, a member of the set.
    Member {
        /// The key.
        fields: Vec<Field>,
        /// The set.
        set: SetId,
        /// Whether it must be one.
        is_member: bool,
    },
    /// The destination is not a loopback address.
    NotLoopback,
    /// The route type of the destination is in the set.
    DaddrType(SetId),
    /// The packet starts a flow.
    StateNew,
    /// The flow's destination is translated.
    StatusDnat,
    /// The packet asks for masquerading.
    MarkIsSet,
    /// Ask for masquerading.
    SetMark,
    /// Do not ask any more.
    ClearMark,
    /// Set the scratch register.
    SetPriority(Source),
    /// Go where the map says for the scratch register.
    GotoPick(Scope),
    /// Write (client, frontend) → scratch register, or renew the timeout if there is a record.
    RecordAffinity {
        /// The scope.
        scope: Scope,
        /// Seconds.
        timeout: u32,
    },
    /// Delete the client's record.
    ForgetAffinity(Scope),
    /// Translate the destination to what the map gives for the fields; if it gives nothing, the
    /// rule ends here.
    Dnat {
        /// The key.
        fields: Vec<Field>,
        /// The map.
        map: SetId,
    },
    /// Translate the source to the address of the outgoing interface, with random ports.
    Masquerade,
    /// Refuse with ICMP port unreachable, whatever the protocol.
    Reject,
    /// Say nothing and let it go no further.
    Drop,
    /// Continue in a chain, then here.
    Jump(ChainId),
    /// Leave the chain.
    Return,
}

/// What the scratch register is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// 0.
    Zero,
    /// What a map gives for the fields; if it gives nothing, the rule ends here.
    Map {
        /// The key.
        fields: Vec<Field>,
        /// The map.
        map: SetId,
    },
    /// A random number below.
    Random(u32),
    /// A number below that depends on the client's address only. With session affinity, a client
    /// that comes by another frontend of the Service so finds the same backend.
    ClientHash(u32),
}

/// The rules of a chain.
pub fn rules(chain: ChainId) -> Vec<Rule> {
    use Statement::{
        ClearMark, DaddrType, Drop, GotoPick, Jump, MarkIsSet, Masquerade, NotLoopback, Reject,
        Return, SetMark, SetPriority, StateNew, StatusDnat,
    };
    let member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: true };
    let not_member = |fields: Vec<Field>, set| Statement::Member { fields, set, is_member: false };
    let to_this_node = |chain: ChainId, first: Option<Statement>| {
        // An address may be in both sets; the chain then is left at once the second time, since
        // what the first time has not ended, the second will not either.
        let by_address = vec![member(vec![Field::Daddr], SetId::NodeIps), Jump(chain)];
        let by_type = vec![NotLoopback, DaddrType(SetId::NodeAddressTypes), Jump(chain)];
        [by_address, by_type].map(|rest| Rule(first.iter().cloned().chain(rest).collect()))
    };
    let [nodeports_by_address, nodeports_by_type] = to_this_node(ChainId::NodePorts, None);
    let choose = |scope: Scope| {
        let map = SetId::Services(scope);
        Rule(vec![SetPriority(Source::Map { fields: scope.frontend(), map }), GotoPick(scope)])
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
            choose(Scope::Address),
            nodeports_by_address,
            nodeports_by_type,
        ],
        ChainId::NodePorts => vec![choose(Scope::NodePort)],
        ChainId::Unserved => vec![reject(Scope::Address)],
        ChainId::UnservedNodePorts => vec![reject(Scope::NodePort)],
        ChainId::Prerouting | ChainId::Output => vec![Rule(vec![Jump(ChainId::Dispatch)])],
        ChainId::Postrouting => vec![
            Rule(vec![SetPriority(Source::Zero)]),
            Rule(vec![MarkIsSet, ClearMark, Masquerade]),
            Rule(vec![
                StatusDnat,
                member(vec![Field::Saddr, Field::Daddr], SetId::Hairpin),
                Masquerade,
            ]),
        ],
        ChainId::FilterInput => {
            let mut rules = vec![Rule(vec![StateNew, Jump(ChainId::Unserved)])];
            rules.extend(to_this_node(ChainId::UnservedNodePorts, Some(StateNew)));
            rules
        }
        ChainId::FilterForward | ChainId::FilterOutput => vec![
            Rule(vec![StateNew, Jump(ChainId::Unserved)]),
            Rule(vec![StateNew, member(vec![Field::Daddr], SetId::ClusterIps), Reject]),
            // An address that no Service has, and one might soon: no answer, but no route either.
            Rule(vec![StateNew, member(vec![Field::Daddr], SetId::ServiceCidrs), Drop]),
        ],
        ChainId::Pick(scope, pick) => pick_rules(scope, pick),
    }
}

fn pick_rules(scope: Scope, pick: Pick) -> Vec<Rule> {
    let fields = scope.frontend_and(Field::Priority);
    let dnat = Statement::Dnat { fields: fields.clone(), map: SetId::Endpoints(scope) };
    let mut rules = Vec::new();
    if pick.masquerade {
        rules.push(Rule(vec![Statement::SetMark]));
    }
    let Some(timeout) = pick.affinity else {
        rules.push(Rule(vec![Statement::SetPriority(Source::Random(pick.backends))]));
        rules.push(Rule(vec![dnat]));
        return rules;
    };
    let record = Statement::RecordAffinity { scope, timeout };
    rules.extend([
        // A record of a live backend: renew it and go. If the backend is gone, the translation
        // finds nothing and the rule ends.
        Rule(vec![
            Statement::SetPriority(Source::Map {
                fields: scope.frontend_and(Field::Saddr),
                map: SetId::Affinity(scope),
            }),
            record.clone(),
            dnat.clone(),
        ]),
        // None, or a dead one: choose a slot, turn it into the backend's id, record it, go.
        Rule(vec![Statement::ForgetAffinity(scope)]),
        Rule(vec![Statement::SetPriority(Source::ClientHash(pick.backends))]),
        Rule(vec![Statement::SetPriority(Source::Map {
            fields,
            map: SetId::AffinitySlots(scope),
        })]),
        Rule(vec![record]),
        Rule(vec![dnat]),
    ]);
    rules
}

/// The key of a client's record: the frontend and the client.
pub fn affinity_key(scope: Scope) -> Vec<Field> {
    scope.frontend_and(Field::Saddr)
}

/// The comment of a rule: a number that stands for what the rule says, so that a rule somebody else
/// has written is told from ours without decoding it. As a comment, it survives when an admin saves
/// the ruleset to a file and loads it again.
pub fn fingerprint(family: Family, mark: u32, rule: &Rule) -> String {
    let mut hash = Fnv::default();
    hash.write(super::text::rule(family, mark, rule).as_bytes());
    format!("{TABLE}:{:016x}", hash.finish())
}
