//! The laws of the compiler, tested with random histories.
//!
//! The generators deliberately produce more keys than one node of the persistent maps holds: with
//! few keys, a map whose `diff` loses updates would pass. `PROPTEST_CASES` asks for other cases,
//! and more of them than a test run has time for; `.ci/laws` sets it. Seeds of failures are kept in
//! `regressions`.

mod ipvs;
mod keep;
mod packets;
mod parts;
mod pieces;
mod reference;
mod relay;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::{
    Config, FailurePersistence, FileFailurePersistence, RngSeed, TestCaseError, TestRunner,
};

use rulec_compiler::frontend::{PortKey, View};
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::ipvs::Scheduler;
use rulec_compiler::load_balancing::{LoadBalancing, Weight};
use rulec_compiler::name::{LabelKey, LabelValue, Name, NamespacedName, NodeName, PortName, Zone};
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::nft::code::{self, AffinityId, Class, Draw, GROUPS_PER_MAP, Member};
use rulec_compiler::nft::element::Value;
use rulec_compiler::nft::length::Lengths;
use rulec_compiler::nft::maglev::{self, Hash, Maglev};
use rulec_compiler::nft::rule::Statement;
use rulec_compiler::nft::ruleset;
use rulec_compiler::nft::size::Size;
use rulec_compiler::nft::traffic::Traffic;
use rulec_compiler::nft::{self, ChainId, Clients, Code, GroupId, Key, SetId};
use rulec_compiler::object::{
    Affinity, ClusterIps, Conditions, Endpoint, EndpointSlice, Hints, InterfaceAddresses,
    IpvsOptions, Kind, Node, Object, ObjectKey, Pod, PodAddresses, Service, ServiceCidr,
    ServicePort, ServiceType, SlicePort, TargetPort, TrafficPolicy,
};
use rulec_compiler::program::AffinityKey;
use rulec_compiler::resolve::{Rank, Route, resolve};
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};
use rulec_compiler::state::{ChainContent, Held, Table};
use rulec_compiler::{
    Change, Delta, Dirty, Frontend, Model, Op, Origin, Program, Provenance, Settings, Sourced,
    Stage, State,
};

use support::{
    HERE, applied, bare_service, bare_slice, check, checked_delta, elements, endpoint, model, nets,
    number, replacement, service_port, settings, slice_port, sourced,
};

// ---- Objects ------------------------------------------------------------------------------------

const NAMESPACES: [&str; 2] = ["default", "kube-system"];
const SERVICES: u8 = 44;
const SLICES: u8 = 90;
const PODS: u8 = 30;

fn namespace() -> impl Strategy<Value = &'static str> {
    select(&NAMESPACES[..])
}

fn node_name() -> impl Strategy<Value = &'static str> {
    select(&[HERE, "there"][..])
}

fn protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![5 => Just(Protocol::Tcp), 2 => Just(Protocol::Udp), 1 => Just(Protocol::Sctp)]
}

/// Returns a few names, so that Service ports and slice ports sometimes match and sometimes do not.
fn port_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => Just("http"), 2 => Just("dns"), 1 => Just("")]
}

fn conditions() -> impl Strategy<Value = Conditions> {
    let of = |ready, serving, terminating| Conditions { ready, serving, terminating };
    prop_oneof![
        6 => Just(Conditions::READY),
        1 => Just(of(false, false, false)),
        1 => Just(of(false, true, false)),
        2 => Just(of(false, true, true)),
        1 => Just(of(false, false, true)),
    ]
}

fn v4(c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 96, c, d))
}

fn v6(c: u8, d: u8) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, u16::from(c), u16::from(d)))
}

/// Returns the address of an endpoint, from a range so small that Services share addresses.
fn endpoint_address(family: Family, d: u8) -> IpAddr {
    match family {
        Family::Ipv4 => v4(1, d),
        Family::Ipv6 => v6(1, d),
    }
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![2 => Just(Family::Ipv4), 1 => Just(Family::Ipv6)]
}

/// Addresses that anybody may write into a Service; some are cluster addresses of other Services.
fn claimed_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let pool = vec![v4(0, 3), v4(0, 4), v4(9, 1), v4(9, 2), v6(0, 3), v6(9, 1)];
    prop_oneof![2 => Just(Vec::new()), 1 => subsequence(pool, 0..=3)]
}

fn service_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let node_port = option::of((30_000..30_012_u16).prop_map(number));
    let target = prop_oneof![
        Just(TargetPort::Number(number(8080))),
        Just(TargetPort::Name(PortName::from("web"))),
    ];
    let port = select(&[80_u16, 53, 443, 81][..]);
    let ports = (port_name(), protocol(), port, node_port, target);
    vec(ports, 1..=3).prop_map(|ports| {
        let mut kept: Vec<ServicePort> = Vec::new();
        for (name, protocol, port, node_port, target) in ports {
            let (name, port) = (PortName::from(name), number(port));
            let clash = kept.iter().any(|other| {
                other.name == name || (other.protocol, other.port) == (protocol, port)
            });
            if !clash {
                kept.push(ServicePort { name, protocol, port, node_port, target });
            }
        }
        kept
    })
}

fn cluster_ips(number: u8) -> impl Strategy<Value = ClusterIps> {
    // Mostly the Service's own; sometimes that of another Service, which manifests can contain.
    let of = |v4: bool, v6: bool, number: u8| ClusterIps {
        v4: v4.then(|| Ipv4Addr::new(10, 96, 0, number)),
        v6: v6.then(|| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from(number))),
    };
    prop_oneof![
        9 => (any::<bool>(), any::<bool>()).prop_map(move |(v4, v6)| of(v4 || !v6, v6, number)),
        1 => (any::<bool>(), any::<bool>(), 0..4_u8).prop_map(move |(v4, v6, n)| of(v4, v6, n)),
        1 => Just(ClusterIps::default()),
    ]
}

fn labels(most: usize) -> impl Strategy<Value = BTreeMap<LabelKey, LabelValue>> {
    let key = select(&["app", "tier"][..]).prop_map(LabelKey::from);
    let value = select(&["a", "b", "c"][..]).prop_map(LabelValue::from);
    btree_map(key, value, 0..=most)
}

fn traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    prop_oneof![3 => Just(TrafficPolicy::Cluster), 2 => Just(TrafficPolicy::Local)]
}

/// The fields that decide about access to a Service.
#[derive(Debug)]
struct Exposure {
    kind: ServiceType,
    internal_policy: TrafficPolicy,
    external_policy: TrafficPolicy,
    source_ranges: Vec<ipnet::IpNet>,
    health_check_node_port: Option<NonZeroU16>,
}

/// Returns an exposure; some of the source ranges contain the node's own address.
fn exposure() -> impl Strategy<Value = Exposure> {
    use ServiceType::{ClusterIP, ExternalName, LoadBalancer, NodePort};
    let v4 = ["10.96.2.0/31", "10.0.0.0/9", "192.0.2.0/24", "192.0.2.64/26", "192.0.2.77/32"];
    let v6 = ["fd00::/64", "fd00::2:0/110", "2001:db8::/31", "2001:db8::/61"];
    let pool = nets(&[&v4[..], &["0.0.0.0/0"], &v6].concat());
    let ranges = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(pool, 0..=4)];
    let kind = prop_oneof![
        2 => Just(ClusterIP),
        2 => Just(NodePort),
        4 => Just(LoadBalancer),
        1 => Just(ExternalName),
    ];
    let check = option::of((32_000..32_003_u16).prop_map(number));
    (kind, traffic_policy(), traffic_policy(), ranges, check).prop_map(
        |(kind, internal_policy, external_policy, source_ranges, health_check_node_port)| {
            Exposure {
                kind,
                internal_policy,
                external_policy,
                source_ranges,
                health_check_node_port,
            }
        },
    )
}

fn zone() -> impl Strategy<Value = Option<Zone>> {
    option::of(select(&["z1", "z2"][..]).prop_map(Zone::from))
}

fn hints() -> impl Strategy<Value = Option<Box<Hints>>> {
    let zones = subsequence(vec![Zone::from("z1"), Zone::from("z2")], 0..=2);
    let nodes = subsequence(vec![NodeName::from(HERE), NodeName::from("there")], 0..=1);
    let some = (zones, nodes).prop_map(|(zones, nodes)| {
        let hints = Hints { zones: zones.into(), nodes: nodes.into() };
        (!hints.zones.is_empty() || !hints.nodes.is_empty()).then(|| Box::new(hints))
    });
    prop_oneof![1 => Just(None), 2 => some]
}

/// Returns the IPVS options of a Service, which have no effect in the other mode.
fn ipvs_options() -> impl Strategy<Value = IpvsOptions> {
    let scheduler = option::of(select(&[Scheduler::Rr, Scheduler::Lc, Scheduler::Mh][..]));
    let flags = ["", "flag-1", "mh-port"].map(|flags| flags.parse().unwrap_or_default());
    let flags = option::weighted(0.2, select(flags.to_vec()));
    let drain = option::weighted(0.3, select(&[0, 7, 900][..]));
    let limits = [1, 7].into_iter().filter_map(NonZeroU32::new).collect::<Vec<_>>();
    let limit = option::weighted(0.2, select(limits));
    let some = (scheduler, flags, drain, limit);
    let some = some.prop_map(|(scheduler, flags, drain, limit)| IpvsOptions {
        scheduler,
        flags,
        drain,
        max_connections: limit,
    });
    prop_oneof![2 => Just(IpvsOptions::default()), 1 => some]
}

fn load_balancing() -> impl Strategy<Value = Option<LoadBalancing>> {
    let some = select(&LoadBalancing::ALL[..]).prop_map(Some);
    prop_oneof![9 => Just(None), 1 => some]
}

fn weight() -> impl Strategy<Value = Weight> {
    let some = select(&[0_u8, 2, 5][..]).prop_map(|it| Weight::try_from(it).unwrap_or_default());
    prop_oneof![4 => Just(Weight::default()), 1 => some]
}

fn service() -> impl Strategy<Value = Service> {
    let affinity = prop_oneof![
        3 => Just(Affinity::None),
        1 => Just(Affinity::ClientIp { timeout: 10 }),
        1 => Just(Affinity::ClientIp { timeout: 10_800 }),
    ];
    let key = (namespace(), 0..SERVICES).prop_flat_map(|(namespace, number)| {
        let own = number + if namespace == NAMESPACES[0] { 4 } else { 4 + SERVICES };
        (Just(namespace), Just(number), cluster_ips(own))
    });
    let rest = (
        service_ports(),
        claimed_addresses(),
        claimed_addresses(),
        affinity,
        labels(2),
        any::<bool>(),
        (load_balancing(), ipvs_options()),
    );
    (key, rest, exposure()).prop_map(|((namespace, number, cluster_ips), rest, exposure)| {
        let (ports, external_ips, load_balancer_vips, affinity, selector, publish, balancing) =
            rest;
        let (load_balancing, ipvs) = balancing;
        let Exposure { kind, internal_policy, external_policy, source_ranges, .. } = exposure;
        // An ExternalName Service is not served, and no source reports an address for it. The same
        // is true for a headless Service.
        let is_alias = kind == ServiceType::ExternalName;
        Service {
            kind,
            cluster_ips: if is_alias { ClusterIps::default() } else { cluster_ips },
            health_check_node_port: exposure.health_check_node_port,
            ports,
            external_ips,
            load_balancer_vips,
            source_ranges,
            internal_policy,
            external_policy,
            affinity,
            selector,
            publish_not_ready: publish,
            load_balancing,
            ipvs,
            ..bare_service(namespace, &format!("service-{number}"))
        }
    })
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let place = (namespace(), 0..SLICES, 0..SERVICES + 2, family());
    let port = (port_name(), protocol(), select(&[8080_u16, 8081][..])).prop_map(
        |(name, protocol, port)| SlicePort {
            name: PortName::from(name),
            protocol,
            port: number(port),
        },
    );
    // Hints apply only if all endpoints have some: mostly, none has.
    let hints = prop_oneof![2 => Just(vec![None; 7]), 1 => vec(hints(), 7)];
    let endpoints = vec((0..24_u8, conditions(), option::of(node_name())), 0..7);
    let facts = (place, vec(port, 0..=2), endpoints, hints, weight());
    facts.prop_map(|(place, mut ports, endpoints, hints, weight)| {
        let (namespace, number, service, family) = place;
        ports.extend([slice_port("http", 8080), slice_port("dns", 8053)]);
        ports.sort();
        ports.dedup();
        let mut endpoints: Vec<Endpoint> = endpoints
            .into_iter()
            .zip(hints)
            .map(|((d, conditions, node), hints)| Endpoint {
                hints,
                ..endpoint(endpoint_address(family, d), conditions, node)
            })
            .collect();
        endpoints.sort();
        let name = format!("slice-{number}");
        let service = format!("service-{service}");
        EndpointSlice { ports, endpoints, weight, ..bare_slice(namespace, &name, &service, family) }
    })
}

fn pod() -> impl Strategy<Value = Pod> {
    let own = vec((family(), 0..24_u8), 0..3).prop_map(|addresses| {
        let of = |(family, d)| endpoint_address(family, d);
        PodAddresses::Own(addresses.into_iter().map(of).collect())
    });
    let addresses = prop_oneof![2 => own, 1 => Just(PodAddresses::Node)];
    let ports = subsequence(vec![slice_port("web", 8080), slice_port("web", 9090)], 0..=1);
    let node = option::of(node_name());
    let facts = (labels(2), node, addresses, ports, conditions(), weight());
    (namespace(), 0..PODS, facts).prop_map(
        |(namespace, number, (labels, node, addresses, ports, conditions, weight))| Pod {
            key: NamespacedName::new(namespace, format!("pod-{number}").as_str()),
            labels,
            node: node.map(NodeName::from),
            addresses,
            ports,
            conditions,
            host: None,
            weight,
        },
    )
}

/// Returns a Node; some have addresses that Services name as external IPs.
fn node() -> impl Strategy<Value = Node> {
    let pool = vec![v4(2, 1), v4(2, 2), v6(2, 1), v6(2, 2)];
    let claimed = prop_oneof![
        2 => Just(Vec::new()),
        1 => subsequence(vec![v4(9, 1), v4(9, 2), v6(9, 1)], 1..=2),
    ];
    let addresses =
        (subsequence(pool, 0..=4), claimed).prop_map(|(own, claimed)| [own, claimed].concat());
    let cidrs = subsequence(nets(&["10.244.1.0/24", "10.244.2.0/24", "fd00:1::/64"]), 0..=2);
    let taints = subsequence(vec![Arc::from("ToBeDeletedByClusterAutoscaler")], 0..=1);
    let facts = (addresses, cidrs, zone(), taints, any::<bool>());
    (node_name(), facts).prop_map(|(name, (addresses, pod_cidrs, zone, taints, deleting))| {
        let name = NodeName::from(name);
        Node { name, addresses, pod_cidrs, zone, taints, deleting }
    })
}

fn object() -> impl Strategy<Value = Object> {
    prop_oneof![
        8 => service().prop_map(|service| Object::Service(Arc::new(service))),
        12 => slice().prop_map(|slice| Object::EndpointSlice(Arc::new(slice))),
        4 => pod().prop_map(|pod| Object::Pod(Arc::new(pod))),
        2 => node().prop_map(|node| Object::Node(Arc::new(node))),
        1 => surroundings(),
    ]
}

/// Returns a ServiceCIDR, or the addresses of the interfaces.
fn surroundings() -> impl Strategy<Value = Object> {
    let ranges = nets(&["10.96.0.0/12", "10.96.0.0/16", "10.97.0.0/16", "fd00:10::/108"]);
    let service_cidr = (0..3_u8, subsequence(ranges, 0..=3)).prop_map(|(number, cidrs)| {
        let name = Name::from(format!("cidr-{number}").as_str());
        Object::ServiceCidr(Arc::new(ServiceCidr { name, cidrs }))
    });
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    // One address that Services also ask for, and a link-local one.
    let link = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
    let pool = [v4(2, 1), v4(2, 2), v4(3, 1), v4(9, 1), v6(2, 1), link].into_iter().chain(loopback);
    let addresses = subsequence(pool.collect::<Vec<IpAddr>>(), 0..=8);
    let addresses = (addresses, any::<bool>()).prop_map(|(addresses, has_primary)| {
        let is_primary = |it: &&IpAddr| has_primary && [v4(2, 2), v6(2, 1)].contains(it);
        let primary = addresses.iter().filter(is_primary).copied().collect();
        Object::InterfaceAddresses(Arc::new(InterfaceAddresses { addresses, primary }))
    });
    prop_oneof![service_cidr, addresses]
}

fn object_key() -> impl Strategy<Value = ObjectKey> {
    let key = |kind: &'static str, count: u8| {
        (namespace(), 0..count).prop_map(move |(namespace, number)| {
            NamespacedName::new(namespace, format!("{kind}-{number}").as_str())
        })
    };
    prop_oneof![
        8 => key("service", SERVICES).prop_map(ObjectKey::Service),
        12 => key("slice", SLICES).prop_map(ObjectKey::EndpointSlice),
        4 => key("pod", PODS).prop_map(ObjectKey::Pod),
        1 => node_name().prop_map(|name| ObjectKey::Node(NodeName::from(name))),
        1 => surroundings().prop_map(|object| object.key()),
    ]
}

/// Returns a complete list without duplicates: more than 64 Services and their other objects.
fn list() -> impl Strategy<Value = Vec<Object>> {
    let services = vec(service(), 120..140);
    (services, vec(slice(), 120..180), vec(pod(), 20..30), vec(node(), 0..3))
        .prop_map(|(services, slices, pods, nodes)| {
            let services = services.into_iter().map(|object| Object::Service(Arc::new(object)));
            let slices = slices.into_iter().map(|object| Object::EndpointSlice(Arc::new(object)));
            let pods = pods.into_iter().map(|object| Object::Pod(Arc::new(object)));
            let nodes = nodes.into_iter().map(|object| Object::Node(Arc::new(object)));
            let all = services.chain(slices).chain(pods).chain(nodes);
            let unique: BTreeMap<ObjectKey, Object> =
                all.map(|object| (object.key(), object)).collect();
            unique.into_values().collect::<Vec<Object>>()
        })
        .prop_filter("at least 64 Services", |list| {
            list.iter().filter(|object| matches!(object, Object::Service(_))).count() >= 64
        })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        5 => object().prop_map(|object| Change::Apply(sourced(object))),
        2 => object_key().prop_map(Change::Remove),
    ]
}

fn origin() -> impl Strategy<Value = Origin> {
    select(Origin::ALL.to_vec())
}

/// Returns a change, or a complete list of some kinds.
fn origin_change() -> impl Strategy<Value = Change> {
    const KINDS: [&[Kind]; 3] = [&Kind::ALL, &[Kind::Service], &[Kind::EndpointSlice, Kind::Node]];
    let listed = (select(KINDS.to_vec()), vec(object(), 0..20)).prop_map(|(kinds, objects)| {
        let unique: BTreeMap<ObjectKey, Object> =
            objects.into_iter().map(|object| (object.key(), object)).collect();
        let objects = unique.into_values().filter(|object| kinds.contains(&object.key().kind()));
        Change::Replace { kinds, objects: objects.map(sourced).collect() }
    });
    prop_oneof![12 => change(), 1 => listed]
}

fn batch() -> impl Strategy<Value = Vec<Change>> {
    vec(change(), 45..75)
}

/// The initial objects, and batches of changes.
type History = (Vec<Object>, Vec<Vec<Change>>);

fn history() -> impl Strategy<Value = History> {
    (list(), vec(batch(), 1..=3))
}

// ---- A daemon without a kernel ------------------------------------------------------------------

/// A model and a program, updated with changes as in the engine.
#[derive(Clone)]
struct Daemon {
    model: Model,
    program: Program,
}

impl Daemon {
    /// Removes the classes that nothing uses any more, at once.
    fn retire_idle(&mut self) {
        let idle: Vec<_> = self.program.idle_affinities().collect();
        idle.into_iter().for_each(|class| self.program.retire(class));
    }

    fn start(list: &[Object]) -> Self {
        let model = model(list);
        let program = Program::compile(&model, settings(), &State::default());
        Self { model, program }
    }

    fn apply(&mut self, batch: &[Change]) -> Dirty {
        let mut dirty = Dirty::default();
        for change in batch {
            dirty.merge(self.model.apply(Origin::Manifests, change.clone()));
        }
        self.program.update(&self.model, &dirty);
        dirty
    }

    /// Returns the daemon at the end of a history.
    fn after((list, batches): &History) -> Self {
        let mut daemon = Self::start(list);
        for batch in batches {
            daemon.apply(batch);
        }
        daemon
    }

    fn fresh(&self) -> Program {
        Program::compile(&self.model, settings(), &State::default())
    }
}

// ---- The meaning of a state ---------------------------------------------------------------------

/// The content of a view of a frontend, independent of slots and numbers.
#[derive(Debug, PartialEq)]
struct Served {
    owner: Arc<PortKey>,
    treatment: Treatment,
    backends: Shares,
}

/// The number of slots of each backend.
type Shares = BTreeMap<Backend, u32>;

/// What happens to the clients of a frontend.
#[derive(Debug, PartialEq)]
enum Treatment {
    Rejected,
    Dropped,
    ByIpvs(Clients),
    Served {
        clients: Clients,
        /// The timeout in seconds.
        affinity: Option<u32>,
        balancing: LoadBalancing,
    },
}

/// The key of `Served`: clients from outside may reach other backends.
type Seen = (Frontend, View);

/// A state without its history.
#[derive(Debug, PartialEq)]
struct Meaning {
    frontends: BTreeMap<Seen, Served>,
    /// Elements of the node, cluster addresses, hairpins, and source ranges.
    others: BTreeSet<Key>,
    /// The classes of session affinity that the table has.
    affinities: BTreeSet<AffinityKey>,
    /// Those of them that a frontend uses.
    used: BTreeSet<AffinityKey>,
}

/// The elements of a group.
#[derive(Debug, Default)]
struct Content {
    endpoints: BTreeMap<u32, (Protocol, Backend)>,
    /// How a slot is drawn, in a group with members.
    drawn: Option<Code>,
    slots: BTreeMap<u32, Member>,
    members: BTreeMap<Member, (Protocol, Backend)>,
    next: BTreeMap<Member, Member>,
    local: Option<Code>,
}

impl Content {
    /// Checks that slots are dense, that no member or backend is there twice, and that nothing is
    /// left over; returns the backends.
    fn check(&self, group: GroupId) -> Shares {
        let slots: Vec<u32> = self.endpoints.keys().chain(self.slots.keys()).copied().collect();
        let dense: Vec<u32> = (0..).take(slots.len()).collect();
        assert_eq!(slots, dense, "{group:?} has {self:?}");
        assert!(self.endpoints.is_empty() || self.slots.is_empty(), "{group:?} has {self:?}");
        let members: BTreeSet<Member> = self.slots.values().copied().collect();
        assert_eq!(members, self.members.keys().copied().collect());
        let of_members: BTreeSet<Backend> = self.members.values().map(|(_, it)| *it).collect();
        assert_eq!(of_members.len(), members.len(), "a backend is two members");
        match self.drawn {
            Some(Code { group: of, clients: Clients::Kept, class }) if of == group => {
                check_draw(class, self.slots.len());
            }
            other => assert!(other.is_none() && members.is_empty(), "{group:?} has {self:?}"),
        }
        self.check_next(&members);
        let all = || self.endpoints.values().chain(self.members.values());
        let protocols: BTreeSet<Protocol> = all().map(|(protocol, _)| *protocol).collect();
        assert!(protocols.len() <= 1, "{group:?} has {protocols:?}");
        let of_slots = self.slots.values().map(|member| self.members[member].1);
        shares(self.endpoints.values().map(|(_, backend)| *backend).chain(of_slots))
    }

    /// Checks that all members have one turn each, one after the other.
    fn check_next(&self, members: &BTreeSet<Member>) {
        let Some(first) = self.next.keys().next() else { return };
        assert_eq!(self.next.keys().copied().collect::<BTreeSet<_>>(), *members);
        let mut seen = BTreeSet::from([*first]);
        let mut now = self.next[first];
        while now != *first {
            assert!(seen.insert(now), "{now:?} has two turns");
            now = self.next[&now];
        }
        assert_eq!(seen, *members);
    }
}

/// Checks that a group with this number of slots is drawn from as a class says.
fn check_draw(class: Class, slots: usize) {
    match class {
        Class::Random(size) => assert_eq!(Size::of(slots), Some(size), "the wrong size"),
        Class::Maglev(table) => assert_eq!(slots, table.size.slots() as usize, "the wrong table"),
        Class::Dropped | Class::Ipvs | Class::RoundRobin | Class::Affinity(_) => {
            panic!("{class:?} draws no slot");
        }
    }
}

fn shares(slots: impl Iterator<Item = Backend>) -> Shares {
    let mut shares = Shares::new();
    slots.for_each(|backend| *shares.entry(backend).or_default() += 1);
    shares
}

/// Returns the balancing of a group whose slots are drawn by a class.
fn balancing(class: Class) -> LoadBalancing {
    match class {
        Class::RoundRobin => LoadBalancing::RoundRobin,
        Class::Maglev(Maglev { hash: Hash::Connection, .. }) => LoadBalancing::Maglev,
        Class::Maglev(Maglev { hash: Hash::Source, .. }) => LoadBalancing::MaglevSource,
        Class::Random(_) | Class::Dropped | Class::Ipvs | Class::Affinity(_) => {
            LoadBalancing::Random
        }
    }
}

/// Returns a value that is there in every sound state.
fn must<T>(value: Option<T>) -> T {
    let Some(value) = value else { panic!("the state is not sound") };
    value
}

/// Reads a state and checks that it is sound: groups are whole, every class in use has its chain,
/// and no element is left over.
fn meaning(state: &State) -> Meaning {
    let mut groups: BTreeMap<(Family, GroupId), Content> = BTreeMap::new();
    let mut heads: Vec<(Frontend, Option<Code>, Arc<PortKey>)> = Vec::new();
    let mut others = BTreeSet::new();
    let mut classes: BTreeMap<(Family, AffinityId), AffinityKey> = BTreeMap::new();
    for (key, Held { value, owner, .. }) in elements(state) {
        let is_head = matches!(key, Key::Service(_) | Key::Reject(_));
        assert_eq!(owner.is_some(), is_head, "the comment of {key:?}");
        let of_group = key.group().map(|group| groups.entry((key.family(), group)).or_default());
        match (key, value, of_group) {
            (Key::Service(frontend), Value::Code(code), _) => {
                heads.extend(owner.map(|owner| (frontend, Some(code), owner)));
            }
            (Key::Reject(frontend), Value::Present, _) => {
                heads.extend(owner.map(|owner| (frontend, None, owner)));
            }
            (Key::Class(family, Class::Affinity(id)), Value::Goto(chain), _) => {
                let ChainId::Affinity(affinity) = chain else { panic!("{id:?} leads to {chain}") };
                classes.insert((family, id), AffinityKey { family, affinity });
            }
            (Key::Class(..) | Key::Draw(..), Value::Goto(_), _) => {}
            (Key::Endpoint(.., protocol, slot), Value::Backend(backend), Some(group)) => {
                group.endpoints.insert(slot, (protocol, backend));
            }
            (Key::MemberGroup(..), Value::Code(code), Some(group)) => group.drawn = Some(code),
            (Key::MemberSlot(.., slot), Value::Member(member), Some(group)) => {
                group.slots.insert(slot, member);
            }
            (Key::Member(_, member, protocol), Value::Backend(backend), Some(group)) => {
                group.members.insert(member, (protocol, backend));
            }
            (Key::Next(_, member), Value::Member(next), Some(group)) => {
                group.next.insert(member, next);
            }
            (Key::LocalGroup(..), Value::Code(code), Some(group)) => group.local = Some(code),
            (Key::Firewalled(frontend), Value::Lengths(lengths), _) => {
                let ranges = must(state.sources(frontend));
                assert_eq!(lengths, Lengths::of(&ranges), "{frontend}");
                others.insert(key);
                others.extend(ranges.into_iter().map(|range| Key::SourceRange(frontend, range)));
            }
            (Key::SourceRange(frontend, range), Value::Present, _) => {
                let ranges = must(state.sources(frontend));
                assert!(ranges.contains(&range), "{frontend} has {range} left over");
            }
            (key, Value::Present, None) => {
                others.insert(key);
            }
            (key, value, _) => panic!("{key:?} has {value:?}"),
        }
    }
    let backends: BTreeMap<_, Shares> =
        groups.iter().map(|((family, id), group)| ((*family, *id), group.check(*id))).collect();

    let mut frontends: BTreeMap<Seen, Served> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for (frontend, code, owner) in heads {
        let family = frontend.family();
        let local = code
            .filter(|code| code.clients == Clients::Split)
            .and_then(|code| groups.get(&(family, code.group))?.local);
        for (view, code) in [(View::Cluster, Some(code)), (View::Local, local.map(Some))] {
            let Some(code) = code else { continue };
            let of_group = code.and_then(|code| backends.get(&(family, code.group)).cloned());
            let of_group = of_group.unwrap_or_default();
            let (treatment, backends) = match code {
                None => (Treatment::Rejected, Shares::new()),
                Some(Code { class: Class::Dropped, .. }) => (Treatment::Dropped, Shares::new()),
                Some(Code { clients, class: Class::Affinity(id), group }) => {
                    let class = must(classes.get(&(family, id)));
                    used.insert(*class);
                    let content = &groups[&(family, group)];
                    assert!(!content.slots.is_empty(), "{frontend}: no slots");
                    assert_eq!(content.next, BTreeMap::new(), "{frontend}: turns");
                    let affinity = Some(class.affinity.timeout);
                    let balancing = balancing(must(content.drawn).class);
                    (Treatment::Served { clients, affinity, balancing }, of_group)
                }
                Some(Code { clients, class: Class::RoundRobin, group }) => {
                    let content = &groups[&(family, group)];
                    assert!(!content.next.is_empty(), "{frontend}: no turns");
                    let balancing = LoadBalancing::RoundRobin;
                    (Treatment::Served { clients, affinity: None, balancing }, of_group)
                }
                Some(Code { clients, class, group }) if class != Class::Ipvs => {
                    check_draw(class, groups[&(family, group)].endpoints.len());
                    let balancing = balancing(class);
                    (Treatment::Served { clients, affinity: None, balancing }, of_group)
                }
                Some(Code { clients, .. }) => (Treatment::ByIpvs(clients), Shares::new()),
            };
            let served = Served { owner: Arc::clone(&owner), treatment, backends };
            let known = frontends.insert((frontend, view), served);
            assert_eq!(known, None, "{frontend} is served and rejected");
        }
    }

    let affinities: BTreeSet<AffinityKey> = classes.values().copied().collect();
    for (family, table) in &state.tables {
        let of_family = affinities.iter().filter(|class| class.family == *family);
        let sets = of_family.clone().map(|class| class.set());
        assert_eq!(table.sets, SetId::CONSTANT.into_iter().chain(sets).collect());
        assert_eq!(table.foreign, Vec::<String>::new());
        for (chain, content) in &table.chains {
            assert_eq!(*content, ChainContent::Complete, "{chain}");
        }
        let of_localhost = ChainId::OF_LOCALHOST.into_iter().filter(|_| table.serves_localhost());
        let chains = ChainId::constant().chain(of_family.map(|class| class.chain()));
        let chains = chains.chain(of_localhost);
        assert_eq!(table.chains.keys().copied().collect::<BTreeSet<_>>(), chains.collect());
    }
    Meaning { frontends, others, affinities, used }
}

/// Returns what should be served, computed without the compiler: all routes of all Services, side
/// by side.
fn expected(model: &Model, settings: &Settings) -> BTreeMap<Seen, Served> {
    type Claims = BTreeMap<(Rank, Arc<PortKey>), [Option<Served>; 2]>;
    let mut claims: BTreeMap<Frontend, Claims> = BTreeMap::new();
    for service in model.services() {
        for route in resolve(model, settings, &service.object.key) {
            for (frontend, rank) in &route.frontends {
                let claim = (*rank, Arc::clone(&route.port));
                claims.entry(*frontend).or_default().insert(claim, served(&route, *rank));
            }
        }
    }
    let mut expected = BTreeMap::new();
    for (frontend, claims) in claims {
        let Some(views) = claims.into_values().next() else { continue };
        for (view, served) in View::ALL.into_iter().zip(views) {
            expected.extend(served.map(|served| ((frontend, view), served)));
        }
    }
    expected
}

/// Returns the content of each view of a frontend with this rank.
fn served(route: &Route, rank: Rank) -> [Option<Served>; 2] {
    let affinity = match route.affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout } => Some(timeout),
    };
    // With session affinity, the first choice is at random where another could take turns.
    let balancing = match (affinity, route.load_balancing) {
        (Some(_), LoadBalancing::RoundRobin) => LoadBalancing::Random,
        (_, balancing) => balancing,
    };
    let view = |clients, backends: &[Backend], otherwise: Treatment| {
        let shares = shares(slots(route, backends));
        let served = Treatment::Served { clients, affinity, balancing };
        let treatment = if backends.is_empty() { otherwise } else { served };
        Served { owner: Arc::clone(&route.port), treatment, backends: shares }
    };
    let rejected = || Treatment::Rejected;
    let dropped = if route.has_endpoints { Treatment::Dropped } else { Treatment::Rejected };
    let is_external = rank.is_external();
    match (if is_external { route.external } else { route.internal }, is_external) {
        (TrafficPolicy::Cluster, false) => {
            [Some(view(Clients::Internal, &route.cluster, rejected())), None]
        }
        (TrafficPolicy::Local, false) => {
            [Some(view(Clients::Internal, &route.local, dropped)), None]
        }
        (TrafficPolicy::Cluster, true) => {
            [Some(view(Clients::Masqueraded, &route.cluster, rejected())), None]
        }
        (TrafficPolicy::Local, true) => {
            let local = view(Clients::Kept, &route.local, rejected());
            let is_here = !local.backends.is_empty();
            let cluster = view(Clients::Split, &route.cluster, rejected());
            [Some(cluster), is_here.then_some(local)]
        }
    }
}

/// Returns the backends of a route's slots, in any order.
fn slots<'a>(route: &'a Route, backends: &'a [Backend]) -> Box<dyn Iterator<Item = Backend> + 'a> {
    let weight = |backend: &Backend| {
        let weight = must(route.weights.as_ref()).of(*backend);
        // Those that take turns have one each.
        let is_in_turns =
            route.load_balancing == LoadBalancing::RoundRobin && route.affinity == Affinity::None;
        (*backend, if is_in_turns { 1 } else { weight.get().into() })
    };
    let weights = backends.iter().map(weight);
    match route.load_balancing {
        LoadBalancing::Random | LoadBalancing::RoundRobin => {
            Box::new(weights.flat_map(|(it, weight)| std::iter::repeat_n(it, weight as usize)))
        }
        LoadBalancing::Maglev | LoadBalancing::MaglevSource => {
            let weights: Vec<(Backend, u32)> = weights.collect();
            Box::new(maglev::fill(route.maglev_table_size, &weights).into_iter())
        }
    }
}

/// Asserts that two programs mean the same, and that the second one has no idle classes.
fn assert_same_meaning(incremental: &Program, fresh: &Program) {
    let (incremental_meaning, fresh_meaning) =
        (meaning(&incremental.state()), meaning(&fresh.state()));
    assert_eq!(incremental_meaning.frontends, fresh_meaning.frontends);
    assert_eq!(incremental_meaning.others, fresh_meaning.others);
    assert_eq!(fresh.idle_affinities().count(), 0, "a fresh program has idle classes");
    check_idle(incremental, &incremental_meaning);
}

/// Checks that the unused classes of a program are those that no frontend and no group uses.
fn check_idle(program: &Program, meaning: &Meaning) {
    let idle: BTreeSet<AffinityKey> = program.idle_affinities().collect();
    let of_groups: BTreeSet<AffinityKey> = program
        .services()
        .flat_map(|(_, fragment)| fragment.iter())
        .flat_map(|port| {
            port.groups().filter_map(|group| {
                Some(AffinityKey { family: port.family, affinity: group.affinity?.affinity })
            })
        })
        .collect();
    assert!(meaning.used.is_subset(&of_groups));
    let unused: BTreeSet<_> = meaning.affinities.difference(&of_groups).copied().collect();
    assert_eq!(idle, unused, "uses of classes are miscounted");
}

/// The backend of each id.
type AffinityIds = BTreeMap<(Seen, u32), Backend>;

/// Returns the ids by which records name endpoints: after any history, they are those of a fresh
/// start.
fn affinity_ids(program: &Program) -> AffinityIds {
    let state = program.state();
    let mut ids = BTreeMap::new();
    for frontend in elements(&state).into_keys().filter_map(Key::frontend) {
        for view in View::ALL {
            let group = state.group(view, frontend).filter(|group| group.affinity.is_some());
            let slots = group.iter().flat_map(|group| group.slots.iter());
            ids.extend(slots.map(|slot| (((frontend, view), slot.id), slot.backend)));
        }
    }
    ids
}

/// Asserts that the ids are the same, except where two backends of a group have the same hash: the
/// one that came first has it, and the other one the next number.
fn assert_same_ids(one: &AffinityIds, other: &AffinityIds) {
    for ((seen, id), backend) in one {
        let is_same = other.get(&(*seen, *id)) == Some(backend);
        let is_taken = |id: u32| [one, other].iter().any(|ids| ids.contains_key(&(*seen, id)));
        let has_neighbour = is_taken(id + 1) || id.checked_sub(1).is_some_and(is_taken);
        assert!(is_same || has_neighbour, "{seen:?}: {backend} has another id than {id}");
    }
    assert_eq!(one.len(), other.len());
}

fn names(program: &Program) -> Vec<&NamespacedName> {
    program.services().map(|(name, _)| name).collect()
}

// ---- Damage -------------------------------------------------------------------------------------

/// Changes that others can make to our tables.
#[derive(Clone, Debug)]
enum Damage {
    RemoveElement(Index),
    AlterElement(Index),
    AlterComment(Index),
    AddEndpoint(Index, u32),
    AddFrontend(u8, Option<u8>),
    AddMember(u8),
    AddSource(u8),
    AddAffinity(Family, u32),
    BreakChain(Index),
    RemoveChain(Index),
    RemoveSet(Index),
    AddForeign(Family),
    RemoveTable(Family),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    use Damage::{
        AddAffinity, AddEndpoint, AddForeign, AddFrontend, AddMember, AddSource, AlterComment,
        AlterElement, BreakChain, RemoveChain, RemoveElement, RemoveSet, RemoveTable,
    };
    let index = any::<Index>;
    let damage = prop_oneof![
        20 => index().prop_map(RemoveElement),
        20 => index().prop_map(AlterElement),
        10 => index().prop_map(AlterComment),
        10 => (index(), 0..9_u32).prop_map(|(frontend, slot)| AddEndpoint(frontend, slot)),
        5 => (0..99_u8, option::of(0..9_u8)).prop_map(|(d, owner)| AddFrontend(d, owner)),
        5 => (100..199_u8).prop_map(AddMember),
        3 => (1..9_u8).prop_map(AddSource),
        5 => (family(), 20..40_u32).prop_map(|(family, n)| AddAffinity(family, n)),
        5 => index().prop_map(BreakChain),
        5 => index().prop_map(RemoveChain),
        2 => index().prop_map(RemoveSet),
        1 => family().prop_map(AddForeign),
        1 => family().prop_map(RemoveTable),
    ];
    vec(damage, 1..30)
}

impl Damage {
    /// Makes the change, as far as a kernel would allow it.
    fn apply(&self, state: &mut State) {
        let keys: Vec<Key> = elements(state).into_keys().collect();
        let frontends: Vec<Frontend> = keys.iter().filter_map(|key| key.frontend()).collect();
        let chains: Vec<(Family, ChainId)> = state
            .tables
            .iter()
            .flat_map(|(family, table)| table.chains.keys().map(|chain| (*family, *chain)))
            .collect();
        let some = |index: &Index, count: usize| (count > 0).then(|| index.index(count));
        let mut add = |key: Key, value: Value, owner: Option<Arc<PortKey>>| {
            if let Some(table) = state.tables.get_mut(&key.family())
                && table.sets.contains(&key.set())
            {
                table.elements.entry(key).or_insert(Held { value, owner, is_counted: false });
            }
        };
        match self {
            Self::RemoveElement(index) => {
                let Some(index) = some(index, keys.len()) else { return };
                let table = table(state, keys[index].family());
                table.elements.remove(&keys[index]);
            }
            Self::AlterElement(index) => {
                let Some(index) = some(index, keys.len()) else { return };
                let table = table(state, keys[index].family());
                if let Some(Held { value, .. }) = table.elements.get_mut(&keys[index]) {
                    *value = match *value {
                        Value::Code(code) => {
                            let group = must(GroupId::new(code.group.number() + 1));
                            Value::Code(Code { group, ..code })
                        }
                        Value::Member(Member { group, number }) => {
                            Value::Member(Member { group, number: number ^ 1 })
                        }
                        Value::Backend(backend) => {
                            Value::Backend(Backend { port: number(9999), ..backend })
                        }
                        Value::Lengths(lengths) => {
                            Value::Lengths(Lengths::from_number(lengths.number() ^ 1 << 23))
                        }
                        Value::Present | Value::Goto(_) => *value,
                    };
                }
            }
            Self::AlterComment(index) => {
                let Some(index) = some(index, keys.len()) else { return };
                let table = table(state, keys[index].family());
                if let Some(Held { is_counted, .. }) = table.elements.get_mut(&keys[index])
                    && index % 2 == 0
                {
                    *is_counted = !*is_counted;
                }
                if let Some(Held { owner: comment, .. }) = table.elements.get_mut(&keys[index]) {
                    *comment = match comment {
                        Some(_) => None,
                        None => PortKey::from_comment("some/body:else").map(Arc::new),
                    };
                }
            }
            Self::AddEndpoint(index, slot) => {
                let Some(index) = some(index, frontends.len()) else { return };
                let backend = Backend { address: v4(3, 3), port: number(1) };
                let frontend = frontends[index];
                let family = frontend.family();
                let protocol = if slot % 3 == 0 { Protocol::Sctp } else { frontend.protocol() };
                let group = must(u32::try_from(index / 2 + 1).ok().and_then(GroupId::new));
                let member = must(Member::new(group, *slot));
                let backend = if family == Family::Ipv4 {
                    backend
                } else {
                    Backend { address: v6(3, 3), ..backend }
                };
                add(Key::Endpoint(family, group, protocol, *slot), Value::Backend(backend), None);
                add(Key::MemberSlot(family, group, *slot), Value::Member(member), None);
                let member = Key::Member(family, member, protocol);
                add(member, Value::Backend(backend), None);
                let lengths = Lengths::from_number(1 << (slot % 32));
                add(Key::Firewalled(frontend), Value::Lengths(lengths), None);
            }
            Self::AddFrontend(d, owner) => {
                let frontend = Frontend::Address {
                    address: v4(8, *d),
                    protocol: Protocol::Tcp,
                    port: number(80),
                };
                let owner =
                    owner.and_then(|n| PortKey::from_comment(&format!("default/service-{n}:http")));
                add(Key::Reject(frontend), Value::Present, owner.map(Arc::new));
            }
            Self::AddMember(d) => {
                add(Key::Hairpin(v4(1, *d)), Value::Present, None);
                add(Key::ClusterIp(v6(0, *d)), Value::Present, None);
                add(Key::NodeIp(v4(2, *d)), Value::Present, None);
            }
            Self::AddSource(d) => {
                // Intervals must not overlap: the existing ones have to go.
                let family = Family::Ipv4;
                if let Some(table) = state.tables.get_mut(&family) {
                    table.elements.retain(|key, _| !matches!(key, Key::UnmasqueradedSource(_)));
                    if table.sets.contains(&SetId::UnmasqueradedSources) {
                        let net = ipnet::Ipv4Net::new_assert(Ipv4Addr::new(10, *d, 0, 0), 16);
                        let key = Key::UnmasqueradedSource(net.into());
                        table.elements.insert(
                            key,
                            Held { value: Value::Present, owner: None, is_counted: false },
                        );
                    }
                }
            }
            Self::AddAffinity(family, timeout) => {
                let affinity = code::Affinity { timeout: *timeout, map: 1 };
                if let Some(table) = state.tables.get_mut(family)
                    && table.sets.contains(&SetId::Classes)
                {
                    let content = match *timeout % 2 {
                        0 => ChainContent::Complete,
                        _ => ChainContent::Other,
                    };
                    let chain = ChainId::Affinity(affinity);
                    table.sets.insert(SetId::Affinity(affinity));
                    table.chains.insert(chain, content);
                    let id = must(AffinityId::new(timeout + 100));
                    let key = Key::Class(*family, Class::Affinity(id));
                    let (value, owner) = (Value::Goto(chain), None);
                    table.elements.insert(key, Held { value, owner, is_counted: false });
                }
            }
            Self::BreakChain(index) => {
                let Some(index) = some(index, chains.len()) else { return };
                let (family, chain) = chains[index];
                table(state, family).chains.insert(chain, ChainContent::Other);
            }
            Self::RemoveChain(index) => {
                let Some(index) = some(index, chains.len()) else { return };
                let (family, chain) = chains[index];
                let table = table(state, family);
                table.chains.remove(&chain);
                table.elements.retain(|_, held| held.value != Value::Goto(chain));
                // A kernel deletes a chain only when no rule jumps to it any more.
                for (other, content) in &mut table.chains {
                    let jumps = ruleset::rules(*other).into_iter().any(|rule| {
                        let leads = [Statement::Jump(chain), Statement::Goto(chain)];
                        leads.iter().any(|statement| rule.0.contains(statement))
                    });
                    if jumps {
                        *content = ChainContent::Other;
                    }
                }
            }
            Self::RemoveSet(index) => {
                for (_, table) in state.tables.iter_mut().take(1) {
                    let sets: Vec<SetId> = table.sets.iter().copied().collect();
                    let Some(index) = some(index, sets.len()) else { continue };
                    let set = sets[index];
                    table.sets.remove(&set);
                    table.elements.retain(|key, _| key.set() != set);
                    // A kernel deletes a set only when no rule looks it up any more.
                    table.chains.values_mut().for_each(|it| *it = ChainContent::Other);
                }
            }
            Self::AddForeign(family) => {
                if let Some(table) = state.tables.get_mut(family) {
                    table.foreign.push("chain strange".to_owned());
                }
            }
            Self::RemoveTable(family) => {
                state.tables.remove(family);
            }
        }
    }
}

fn table(state: &mut State, family: Family) -> &mut Table {
    state.tables.entry(family).or_default()
}

fn damaged(state: &State, damages: &[Damage]) -> State {
    let mut state = state.clone();
    damages.iter().for_each(|damage| damage.apply(&mut state));
    state
}

// ---- Laws ---------------------------------------------------------------------------------------

/// The same cases in each run, so that a change does not fail by chance on a rare, unrelated fault.
const SEED: u64 = 11;

/// The file in which the seeds of failures are kept. Its cases run before all others from then on,
/// so commit it.
macro_rules! seeds {
    ($file:literal) => {
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/laws/regressions/", $file)
    };
}
use seeds;

/// Few but large cases, always the same. If the environment asks for a number of cases, they are
/// new ones.
fn cases(count: u32, seeds: &'static str) -> Config {
    let config = Config::default();
    let is_asked = config.cases != 256;
    let (cases, rng_seed) =
        if is_asked { (config.cases, config.rng_seed) } else { (count, RngSeed::Fixed(SEED)) };
    let failure_persistence: Option<Box<dyn FailurePersistence>> =
        Some(Box::new(FileFailurePersistence::Direct(seeds)));
    let shrinking = Duration::from_secs(60).as_millis().try_into().unwrap_or(u32::MAX);
    let config = Config { max_shrink_iters: 400, max_shrink_time: shrinking, ..config };
    Config { cases, rng_seed, failure_persistence, ..config }
}

proptest! {
    #![proptest_config(cases(24, seeds!("main.txt")))]

    /// The program matches the routes, and an incremental history means the same as a fresh
    /// compilation.
    #[test]
    fn incremental_equals_fresh((list, batches) in history()) {
        let mut daemon = Daemon::start(&list);
        for batch in std::iter::once(&Vec::new()).chain(&batches) {
            daemon.apply(batch);
            let fresh = daemon.fresh();
            let meaning = meaning(&fresh.state());
            prop_assert_eq!(&meaning.frontends, &expected(&daemon.model, &settings()));
            assert_same_meaning(&daemon.program, &fresh);
            assert_same_ids(&affinity_ids(&daemon.program), &affinity_ids(&fresh));
            prop_assert_eq!(names(&daemon.program), names(&fresh));
        }
    }

    /// Every delta, by whichever method, is valid for a kernel, leads to the right state and is the
    /// smallest possible; between equal programs it is empty.
    #[test]
    fn deltas_are_valid_and_minimal((list, batches) in history(), retire in any::<bool>()) {
        let mut daemon = Daemon::start(&list);
        for batch in &batches {
            let before = daemon.clone();
            daemon.apply(batch);
            if retire {
                // Only unused classes are removed.
                let all = meaning(&daemon.program.state()).affinities;
                all.into_iter().for_each(|class| daemon.program.retire(class));
                prop_assert_eq!(daemon.program.idle_affinities().count(), 0);
                check_idle(&daemon.program, &meaning(&daemon.program.state()));
            }
            let delta = checked_delta(&before.program, &daemon.program);
            let idle: BTreeSet<AffinityKey> = daemon.program.idle_affinities().collect();
            for op in delta.shared.iter() {
                if let Op::Nft(nft::Op::AddChain(family, ChainId::Affinity(affinity))) = op {
                    let class = AffinityKey { family: *family, affinity: *affinity };
                    prop_assert!(!idle.contains(&class), "unused class {}", affinity);
                }
            }
            let reconciled = Delta::reconcile(&before.program.state(), &daemon.program);
            let count = |delta: &Delta| delta.ops().filter(|op| op.element().is_some()).count();
            prop_assert!(count(&delta) <= count(&reconciled));
            prop_assert!(!delta.atomic && !reconciled.atomic);
            // Also back, as to an older revision.
            checked_delta(&daemon.program, &before.program);
        }
        let program = &daemon.program;
        let state = program.state();
        prop_assert!(Delta::between(program, program).is_empty());
        prop_assert!(Delta::between(program, &program.clone()).is_empty());
        prop_assert!(Delta::reconcile(&state, program).is_empty());
        prop_assert!(Delta::between_states(&state, &state).is_empty());
    }

    /// A table can be filled from nothing and emptied.
    #[test]
    fn a_table_is_filled_and_emptied(list in list()) {
        let daemon = Daemon::start(&list);
        let empty = Program::new(settings());
        checked_delta(&empty, &daemon.program);
        checked_delta(&daemon.program, &empty);
        let nothing = State::default();
        check(&nothing, &Delta::reconcile(&nothing, &daemon.program), &daemon.program.state());
    }

    /// The same objects give the same bytes, whatever their order.
    #[test]
    fn the_order_of_objects_does_not_matter(
        (list, shuffled) in list().prop_flat_map(|list| (Just(list.clone()), Just(list).prop_shuffle())),
    ) {
        let script = |model: &Model| {
            let program = Program::compile(model, settings(), &State::default());
            let delta = Delta::reconcile(&State::default(), &program);
            delta.ops().map(|op| op.commands(program.mark())).collect::<String>()
        };
        let mut one_by_one = Model::default();
        for object in &shuffled {
            one_by_one.apply(Origin::Manifests, Change::Apply(sourced(object.clone())));
        }
        let expected = script(&model(&list));
        prop_assert_eq!(&script(&one_by_one), &expected);
        prop_assert_eq!(&script(&model(&shuffled)), &expected);
    }

    /// After any change by others to our tables, the program's state can be reached, also by a
    /// process that starts with what it finds.
    #[test]
    fn damage_is_repaired(history in history(), damages in damages()) {
        let Daemon { model, program } = Daemon::after(&history);
        let found = damaged(&program.state(), &damages);
        let repair = Delta::reconcile(&found, &program);
        check(&found, &repair, &program.state());
        let foreign = found.tables.values().any(|table| !table.foreign.is_empty());
        prop_assert_eq!(repair.atomic, foreign);
        prop_assert_eq!(repair.is_empty(), found == program.state());

        let restarted = Program::compile(&model, settings(), &found);
        check(&found, &Delta::reconcile(&found, &restarted), &restarted.state());
        assert_same_meaning(&restarted, &Program::compile(&model, settings(), &State::default()));
    }

    /// A process that starts with the state of another one writes nothing, and continues as that
    /// would have.
    #[test]
    fn a_restart_writes_nothing(history in history(), more in batch()) {
        let mut daemon = Daemon::after(&history);
        let state = daemon.program.state();
        let mut restarted = daemon.clone();
        restarted.program = Program::compile(&daemon.model, settings(), &state);
        let delta = Delta::reconcile(&state, &restarted.program);
        prop_assert!(delta.is_empty(), "{:?}", delta);
        prop_assert_eq!(&restarted.program, &daemon.program);

        daemon.apply(&more);
        let before = restarted.program.clone();
        restarted.apply(&more);
        checked_delta(&before, &restarted.program);
        assert_same_meaning(&restarted.program, &daemon.fresh());
    }

    /// A complete list replaces everything that was there before.
    #[test]
    fn a_list_replaces_everything(history in history(), list in list()) {
        let mut daemon = Daemon::after(&history);
        daemon.apply(&[replacement(&list)]);
        let fresh = Daemon::start(&list);
        prop_assert_eq!(&daemon.model, &fresh.model);
        assert_same_meaning(&daemon.program, &fresh.program);
        // The indices are right too: later changes are noticed.
        for batch in &history.1 {
            daemon.apply(batch);
        }
        assert_same_meaning(&daemon.program, &daemon.fresh());

        // The same list again is no change.
        let objects: Vec<Sourced> = daemon.model.objects().collect();
        let before = daemon.clone();
        let count = objects.len();
        let dirty = daemon.apply(&[Change::everything(objects)]);
        prop_assert!(dirty.is_empty());
        prop_assert_eq!(dirty.unchanged, count);
        prop_assert_eq!(&daemon.model, &before.model);
        prop_assert!(Delta::between(&before.program, &daemon.program).is_empty());
    }

    /// With several sources, the version of the first source that has an object is used, whatever
    /// the order of changes; the program is that of a single source with exactly these objects.
    #[test]
    fn the_first_source_of_an_object_takes_precedence(
        changes in vec((origin(), origin_change()), 60..120),
    ) {
        let mut daemon = Daemon::start(&[]);
        let mut held: BTreeMap<(ObjectKey, Origin), Object> = BTreeMap::new();
        for (origin, change) in changes {
            match &change {
                Change::Apply(sourced) => {
                    held.insert((sourced.object.key(), origin), sourced.object.clone());
                }
                Change::Remove(key) => {
                    held.remove(&(key.clone(), origin));
                }
                Change::Replace { kinds, objects } => {
                    held.retain(|(key, from), _| *from != origin || !kinds.contains(&key.kind()));
                    held.extend(objects.iter().map(|sourced| {
                        ((sourced.object.key(), origin), sourced.object.clone())
                    }));
                }
            }
            let dirty = daemon.model.apply(origin, change);
            daemon.program.update(&daemon.model, &dirty);
        }
        let mut expected: BTreeMap<ObjectKey, Object> = BTreeMap::new();
        for ((key, origin), object) in &held {
            let object = || match (object, origin) {
                (Object::Pod(pod), Origin::Podman) => {
                    // podman does not know the names of ports.
                    let mut others = held.range((key.clone(), *origin)..).skip(1);
                    let next = others.next().filter(|((of, _), _)| of == key);
                    let ports = match next {
                        Some((_, Object::Pod(next))) => next.ports.clone(),
                        Some(_) | None => Vec::new(),
                    };
                    Object::Pod(Arc::new(Pod { ports, ..Pod::clone(pod) }))
                }
                (object, _) => object.clone(),
            };
            expected.entry(key.clone()).or_insert_with(object);
        }
        let found: Vec<Object> = daemon.model.objects().map(|sourced| sourced.object).collect();
        prop_assert_eq!(found, expected.values().cloned().collect::<Vec<Object>>());
        prop_assert_eq!(daemon.model.overridden().count(), held.len() - expected.len());
        let single = Daemon::start(&expected.into_values().collect::<Vec<Object>>());
        assert_same_meaning(&daemon.program, &single.program);
    }

    /// An object that says what is already known touches nothing, but its new place is recorded.
    #[test]
    fn an_unchanged_object_changes_only_its_provenance(list in list(), index in any::<Index>()) {
        let mut daemon = Daemon::start(&list);
        let provenance = Provenance("elsewhere".into());
        let object = list[index.index(list.len())].clone();
        let again = Sourced { object: object.clone(), provenance: provenance.clone() };
        let dirty = daemon.apply(&[Change::Apply(again)]);
        prop_assert_eq!(dirty, Dirty { unchanged: 1, ..Dirty::default() });
        let found = daemon.model.objects().find(|sourced| sourced.object.key() == object.key());
        prop_assert_eq!(found, Some(Sourced { object, provenance }));
    }

    /// A Service whose change is refused is reverted, and all others are up to date.
    #[test]
    fn a_refused_service_is_reverted((list, batches) in history(), index in any::<Index>()) {
        let mut daemon = Daemon::start(&list);
        for batch in &batches {
            let before = daemon.program.clone();
            daemon.apply(batch);
            let wanted = daemon.program.clone();
            let delta = Delta::between(&before, &wanted);
            if delta.groups.is_empty() {
                continue;
            }
            let service = delta.groups[index.index(delta.groups.len())].service.clone();
            let mut restored = wanted.clone();
            restored.restore(&service, &before);

            prop_assert_eq!(restored.fragment(&service), before.fragment(&service));
            for (name, fragment) in wanted.services().filter(|(name, _)| **name != service) {
                prop_assert_eq!(restored.fragment(name), Some(fragment));
            }
            let fragment = before.fragment(&service);
            for port in fragment.iter().flat_map(|fragment| fragment.iter()) {
                for (frontend, rank) in &port.frontends {
                    let winner = restored.winner(*frontend).unwrap();
                    if winner.owner == &port.port {
                        prop_assert_eq!(winner.rank, *rank);
                        prop_assert_eq!(winner.target, port.target(*rank));
                    } else {
                        let claim = (winner.rank, winner.owner);
                        prop_assert!(claim < (*rank, &port.port), "{} lost {frontend}", port.port);
                    }
                }
            }
            check_idle(&restored, &meaning(&restored.state()));

            // Each of the three can be reached from each other.
            checked_delta(&before, &restored);
            checked_delta(&wanted, &restored);
            checked_delta(&restored, &wanted);
            // The kernel has everything except the refused group, which may contain changes for
            // more than one Service: reading the kernel tells what is missing.
            let mut partial = delta;
            partial.groups.retain(|group| group.service != service);
            partial.shared.drop_retired();
            let found = applied(&before.state(), &partial);
            check(&found, &Delta::reconcile(&found, &restored), &restored.state());
        }
        assert_same_meaning(&daemon.program, &daemon.fresh());
    }

    /// A delta may be cut at any group: no frontend is half changed, and the rest can follow.
    #[test]
    fn a_delta_can_be_cut_at_any_group(
        (list, batches) in history(),
        cuts in vec(any::<Index>(), 4),
    ) {
        let mut daemon = Daemon::start(&list);
        let cut = |old: &State, delta: &Delta, wanted: &Program| {
            let new = wanted.state();
            // The transactions at which it may be cut, in order.
            let steps: Vec<_> = delta.steps().collect();
            let of_services = steps.iter().flat_map(|step| {
                let shared = std::iter::once(step.shared);
                shared.chain(step.groups.iter().map(|(_, ops)| *ops))
            });
            let parts: Vec<Vec<Op>> = of_services.map(<[Op]>::to_vec).collect();
            for index in &cuts {
                let done = &parts[..index.index(parts.len() + 1)];
                let head = Delta { shared: done.concat().into(), ..Delta::default() };
                let state = applied(old, &head);
                check_served(&state, old, &new);
                check(&state, &Delta::reconcile(&state, wanted), &new);
            }
        };
        let state = State::default();
        cut(&state, &Delta::reconcile(&state, &daemon.program), &daemon.program);
        for batch in &batches {
            let before = daemon.program.clone();
            daemon.apply(batch);
            daemon.retire_idle();
            let state = before.state();
            cut(&state, &Delta::between(&before, &daemon.program), &daemon.program);
            cut(&state, &Delta::reconcile(&state, &daemon.program), &daemon.program);
        }
    }

    /// The node's facts may change while a process runs, under any settings.
    #[test]
    fn changed_node_facts_are_applied(
        settings in any_settings(),
        facts in vec(prop_oneof![
            node().prop_map(|node| Change::Apply(sourced(Object::Node(Arc::new(node))))),
            surroundings().prop_map(|object| Change::Apply(sourced(object))),
            surroundings().prop_map(|object| Change::Remove(object.key())),
            node_name().prop_map(|name| Change::Remove(ObjectKey::Node(NodeName::from(name)))),
        ], 1..12),
    ) {
        let settings = Arc::new(settings);
        let mut model = Model::default();
        let mut program = Program::new(Arc::clone(&settings));
        for fact in facts {
            let before = program.clone();
            let dirty = model.apply(Origin::Manifests, fact);
            program.update(&model, &dirty);
            checked_delta(&before, &program);
            let fresh = Program::compile(&model, Arc::clone(&settings), &State::default());
            prop_assert_eq!(program.state(), fresh.state());
        }
    }

    /// Other settings give other elements, and the delta between them is valid for a kernel.
    #[test]
    fn settings_can_change_at_a_restart(
        list in list(),
        (old, new) in (any_settings(), any_settings()),
    ) {
        let model = model(&list);
        let old = Program::compile(&model, Arc::new(old), &State::default());
        let new = Program::compile(&model, Arc::new(new), &old.state());
        checked_delta(&old, &new);
    }
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let cidrs = nets(&["10.244.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "fd00:10::/64", "fd00::/16"]);
    let named = InterfacePattern::named;
    let prefix = InterfacePattern::starting_with;
    let patterns = [named("cni0"), named("cni1"), prefix("cni"), prefix("veth")];
    let patterns: Vec<InterfacePattern> = patterns.into_iter().flatten().collect();
    let detect_local = prop_oneof![
        3 => subsequence(cidrs, 0..=3).prop_map(DetectLocal::ClusterCidr),
        1 => Just(DetectLocal::NodeCidr),
        1 => select(patterns).prop_map(DetectLocal::Interface),
    ];
    let answering =
        nets(&["10.96.2.0/24", "10.96.2.2/31", "192.0.2.0/24", "0.0.0.0/0", "fd00::2:0/112"]);
    let localhost = nets(&["127.0.0.1/32", "127.0.0.0/8", "127.0.0.2/32", "::1/128"]);
    let answering: Vec<IpNet> = answering.into_iter().chain(localhost).collect();
    let node_port_addresses = prop_oneof![
        Just(NodePortAddresses::Primary),
        subsequence(answering.clone(), 0..=3).prop_map(NodePortAddresses::PrimaryAnd),
        subsequence(answering, 0..=4).prop_map(NodePortAddresses::Cidrs),
    ];
    let own = subsequence(vec![v4(2, 2), v6(2, 2)], 0..=1);
    let flags = (any::<bool>(), select(Traffic::ALL.to_vec()));
    (detect_local, node_port_addresses, own, flags, node_name()).prop_map(
        |(detect_local, node_port_addresses, node_addresses, (masquerade_all, traffic), node)| {
            Settings {
                detect_local,
                node_port_addresses,
                node_addresses,
                masquerade_all,
                // So both values are tested equally often.
                drop_invalid: !masquerade_all,
                traffic,
                ..Settings { node_name: NodeName::from(node), ..(*settings()).clone() }
            }
        },
    )
}

/// Asserts that every frontend is in its old or its new state, that the chain of its class is there,
/// and that all slots of its group are.
fn check_served(state: &State, old: &State, new: &State) {
    let by_frontend = |state: &State| {
        let mut frontends: BTreeMap<Frontend, Vec<(Key, Held)>> = BTreeMap::new();
        for (key, held) in elements(state) {
            let is_restriction = matches!(key, Key::Firewalled(_) | Key::SourceRange(..));
            if let Some(frontend) = key.frontend().filter(|_| !is_restriction) {
                frontends.entry(frontend).or_default().push((key, held));
            }
        }
        frontends
    };
    let (old_heads, new_heads) = (by_frontend(old), by_frontend(new));
    let found = by_frontend(state);
    for frontend in old_heads.keys().chain(new_heads.keys()) {
        // What is to go may still be there.
        let of = |frontends: &BTreeMap<Frontend, Vec<(Key, Held)>>| {
            frontends.get(frontend).cloned().unwrap_or_default()
        };
        let (now, of_old, of_new) = (of(&found), of(&old_heads), of(&new_heads));
        let has = |all: &[(Key, Held)]| all.iter().all(|it| now.contains(it));
        let is_known = now.iter().all(|it| of_old.contains(it) || of_new.contains(it));
        assert!(is_known && (has(&of_old) || has(&of_new)), "{frontend} is half changed: {now:?}");
        check_sources(*frontend, state, [old, new]);
    }
    for (key, Held { value, .. }) in elements(state) {
        if let (Key::Service(frontend), Value::Code(code)) = (key, value) {
            let class = Key::Class(frontend.family(), code.class);
            assert!(elements_hold(state, class), "the code of {frontend} has no chain");
            let is_split = code.clients == Clients::Split;
            let local = state.code_for(View::Local, frontend).filter(|_| is_split);
            for (view, code) in [(View::Cluster, Some(code)), (View::Local, local)] {
                let Some(Code { class: Class::Random(size), .. }) = code else { continue };
                let Some(Code { group, .. }) = code else { continue };
                let (family, protocol) = (frontend.family(), frontend.protocol());
                for slot in 0..size.filled().unwrap_or(size.slots()) {
                    let slot = Key::Endpoint(family, group, protocol, slot);
                    assert!(elements_hold(state, slot), "{frontend}: {view:?}: no {slot:?}");
                }
            }
        }
    }
}

/// Asserts that the clients that may connect are those of before or of after, or those of both.
fn check_sources(frontend: Frontend, state: &State, either: [&State; 2]) {
    let sources = |state: &State| {
        let ranges = state.sources(frontend)?;
        Some(ranges.into_iter().collect::<BTreeSet<IpNet>>())
    };
    let (now, either) = (sources(state), either.map(sources));
    let Some(now) = now else {
        assert!(either.contains(&None), "{frontend} is open to all");
        return;
    };
    let known: BTreeSet<IpNet> = either.iter().flatten().flatten().copied().collect();
    let has_all = either.iter().flatten().any(|ranges| ranges.is_subset(&now));
    assert!(now.is_subset(&known) && has_all, "{frontend} is open to {now:?}, not {either:?}");
}

fn elements_hold(state: &State, key: Key) -> bool {
    state.tables.get(&key.family()).is_some_and(|table| table.elements.contains_key(&key))
}

fn port_key() -> impl Strategy<Value = PortKey> {
    const LABEL: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
    const SUBDOMAIN: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\\.[a-z]{1,62}){1,3}";
    let name = prop_oneof![LABEL, SUBDOMAIN, "[a-z]{63}", "[a-z]{253}"];
    let namespace = prop_oneof![LABEL, "[a-z]{63}"];
    let port = prop_oneof!["", "[a-z]([-a-z0-9]{0,13}[a-z0-9])?", "[a-z]{15}", "[a-z]{63}"];
    (namespace, name, port).prop_map(|(namespace, name, port)| PortKey {
        service: NamespacedName::new(namespace.as_str(), name.as_str()),
        port: PortName::from(port.as_str()),
    })
}

proptest! {
    #![proptest_config(cases(1_000, seeds!("names.txt")))]

    /// A comment is never too long, names its owner, and can be parsed.
    #[test]
    fn comments_are_short_and_can_be_parsed(key in port_key()) {
        let key = Arc::new(key);
        let comment = key.comment();
        let text = comment.to_string();
        prop_assert!(text.len() <= PortKey::MAX_COMMENT, "{text} has {} characters", text.len());
        let read = PortKey::from_comment(&text);
        prop_assert_eq!(read.as_ref(), Some(&*comment));
        prop_assert_eq!(&comment.comment(), &comment);
        if key.to_string().len() <= PortKey::MAX_COMMENT {
            prop_assert_eq!(&comment, &key);
        } else {
            prop_assert_eq!(&comment.service.namespace, &key.service.namespace);
        }

        // Two long names that differ only at their ends get different comments.
        let name = Name::from(format!("{}x", key.service.name).as_str());
        let service = NamespacedName { name, ..key.service.clone() };
        let other = Arc::new(PortKey { service, port: key.port.clone() });
        prop_assert_ne!(other.comment(), comment);
    }

    /// A code stands for exactly one group, treatment and class.
    #[test]
    fn codes_round_trip(
        group in 1..=GroupId::MAX,
        clients in select(&Clients::ALL[..]),
        class in 0..1_024_u32,
    ) {
        let group = GroupId::new(group).unwrap();
        if let Some(class) = Class::from_number(class) {
            let code = Code { group, clients, class };
            prop_assert_eq!(Code::from_code(code.code()), Some(code));
        }
    }
}

/// Returns a Service with port http 80 at a cluster address.
fn plain(namespace: &str, name: &str, d: u8) -> Service {
    let mut service = bare_service(namespace, name);
    service.cluster_ips.v4 = Some(Ipv4Addr::new(10, 96, 0, d));
    service.ports = vec![service_port("http", 80)];
    service
}

/// Returns its only slice, with endpoints by their last octets.
fn slice_with(service: &Service, endpoints: &[u8]) -> Object {
    let (namespace, name) = (service.key.namespace.as_str(), service.key.name.as_str());
    let mut slice = bare_slice(namespace, name, name, Family::Ipv4);
    slice.ports = vec![slice_port("http", 8080)];
    let of = |d: &u8| endpoint(v4(1, *d), Conditions::READY, None);
    slice.endpoints = endpoints.iter().map(of).collect();
    Object::EndpointSlice(Arc::new(slice))
}

fn objects(services: &[(&Service, &[u8])]) -> Vec<Object> {
    let of = |(service, endpoints): &(&Service, &[u8])| {
        [Object::Service(Arc::new((*service).clone())), slice_with(service, endpoints)]
    };
    services.iter().flat_map(of).collect()
}

/// With long names, a kernel's comments name the owner in short form and the program in full. Both
/// mean the same Service.
#[test]
fn a_service_with_a_long_name_is_changed_in_one_transaction() {
    let service = plain(&"s".repeat(63), &"n".repeat(63), 1);
    let three = Daemon::start(&objects(&[(&service, &[1, 2, 3])]));
    let two = Daemon::start(&objects(&[(&service, &[1, 2])]));
    checked_delta(&three.program, &two.program);
}

/// A frontend that passes to another Service with fewer backends does so in one transaction, also
/// if the previous state is known only from the kernel.
#[test]
fn a_frontend_changes_owner_in_one_transaction() {
    let (mut first, mut second) = (plain("default", "a", 1), plain("default", "b", 2));
    second.external_ips = vec![v4(9, 1)];
    let before = Daemon::start(&objects(&[(&first, &[1]), (&second, &[1, 2, 3])]));
    std::mem::swap(&mut first.external_ips, &mut second.external_ips);
    let after = Daemon::start(&objects(&[(&first, &[1]), (&second, &[1, 2, 3])]));
    checked_delta(&before.program, &after.program);
    checked_delta(&after.program, &before.program);
}

/// Two Services claim one cluster address: each finds its own slots after a restart, although only
/// one of them has the frontend.
#[test]
fn slots_of_a_service_that_lost_a_frontend_survive_a_restart() {
    let (winner, mut loser) = (plain("default", "a", 1), plain("default", "b", 1));
    loser.external_ips = vec![v4(9, 1)];
    let mut daemon = Daemon::start(&objects(&[(&winner, &[100]), (&loser, &[2, 3])]));
    daemon.apply(&[replacement(&objects(&[(&winner, &[100]), (&loser, &[1, 2, 3])]))]);
    let state = daemon.program.state();
    let restarted = Program::compile(&daemon.model, settings(), &state);
    let delta = Delta::reconcile(&state, &restarted);
    assert!(delta.is_empty(), "{delta:?}");
}

/// A class that a Service would have only between two changes never reaches a kernel.
#[test]
fn a_passing_class_is_not_added() {
    let mut sticky = plain("default", "a", 1);
    sticky.affinity = Affinity::ClientIp { timeout: 60 };
    let plain = plain("default", "a", 1);
    let mut daemon = Daemon::start(&objects(&[(&plain, &[1])]));
    let before = daemon.program.clone();
    let of = |service: &Service| Change::Apply(sourced(Object::Service(Arc::new(service.clone()))));
    let mut dirty = daemon.model.apply(Origin::Manifests, of(&sticky));
    daemon.program.update(&daemon.model, &dirty);
    assert_eq!(meaning(&daemon.program.state()).affinities.len(), 1);
    // Both changes in one batch.
    let mut daemon = Daemon { program: before.clone(), ..daemon };
    dirty = daemon.apply(&[of(&sticky), of(&plain)]);
    assert!(!dirty.services.is_empty());
    assert!(Delta::between(&before, &daemon.program).is_empty());
}

/// With many Services of one timeout, their records are in several maps, of which each has room for
/// those of its groups.
#[test]
fn services_with_affinity_share_maps() {
    let count = u8::try_from(2 * GROUPS_PER_MAP + 1).unwrap();
    let services: Vec<Service> = (1..=count)
        .map(|d| {
            let affinity = Affinity::ClientIp { timeout: 10_800 };
            Service { affinity, ..plain("default", &format!("s{d:03}"), d) }
        })
        .collect();
    let list: Vec<(&Service, &[u8])> = services.iter().map(|it| (it, &[1_u8, 2][..])).collect();
    let mut daemon = Daemon::start(&objects(&list));
    let names = |daemon: &Daemon| -> Vec<String> {
        let state = daemon.program.state();
        let sets = &state.tables[&Family::Ipv4].sets;
        sets.iter().filter_map(|set| Some(set.affinity()?.to_string())).collect()
    };
    assert_eq!(names(&daemon), ["affinity-10800", "affinity-10800-2", "affinity-10800-3"]);
    // A map that nobody uses goes after a while, and is made again when it is needed.
    let before = daemon.program.clone();
    daemon.apply(&[replacement(&objects(&list[..list.len() - 1]))]);
    daemon.retire_idle();
    assert_eq!(names(&daemon), ["affinity-10800", "affinity-10800-2"]);
    checked_delta(&before, &daemon.program);
    checked_delta(&daemon.program, &before);
}

/// Groups that begin do not crowd into the map of those that they begin from.
#[test]
fn local_groups_take_places_of_their_own_in_the_maps() {
    let count = u8::try_from(GROUPS_PER_MAP).unwrap();
    let affinity = Affinity::ClientIp { timeout: 60 };
    let services = |external_policy| -> Vec<Service> {
        let of = |d| Service {
            affinity,
            external_policy,
            kind: ServiceType::LoadBalancer,
            load_balancer_vips: vec![v4(9, d)],
            ..plain("default", &format!("s{d:03}"), d)
        };
        (1..=count).map(of).collect()
    };
    let list = |services: &[Service]| {
        let pairs: Vec<(&Service, &[u8])> = services.iter().map(|it| (it, &[1_u8][..])).collect();
        let mut objects = objects(&pairs);
        for object in &mut objects {
            if let Object::EndpointSlice(slice) = object {
                Arc::make_mut(slice).endpoints[0].node = Some(NodeName::from(HERE));
            }
        }
        objects
    };
    let mut daemon = Daemon::start(&list(&services(TrafficPolicy::Cluster)));
    let users = |daemon: &Daemon| -> BTreeMap<code::Affinity, BTreeSet<GroupId>> {
        let state = daemon.program.state();
        let mut users: BTreeMap<code::Affinity, BTreeSet<GroupId>> = BTreeMap::new();
        for frontend in elements(&state).into_keys().filter_map(Key::frontend) {
            for group in View::ALL.into_iter().filter_map(|view| state.group(view, frontend)) {
                let affinity = must(group.affinity).affinity;
                users.entry(affinity).or_default().insert(must(group.id));
            }
        }
        users
    };
    assert_eq!(users(&daemon).values().map(BTreeSet::len).collect::<Vec<_>>(), [GROUPS_PER_MAP]);
    daemon.apply(&[replacement(&list(&services(TrafficPolicy::Local)))]);
    let full = [GROUPS_PER_MAP; 2];
    assert_eq!(users(&daemon).values().map(BTreeSet::len).collect::<Vec<_>>(), full);
    // A Service that comes while the daemon is down finds no place in a map that is full.
    let state = daemon.program.state();
    let mut more = services(TrafficPolicy::Local);
    more.push(Service { affinity, ..plain("aaa", "first", 200) });
    let mut restarted = daemon.clone();
    restarted.model = model(&list(&more));
    restarted.program = Program::compile(&restarted.model, settings(), &state);
    let counts: Vec<usize> = users(&restarted).values().map(BTreeSet::len).collect();
    assert_eq!(counts, [GROUPS_PER_MAP, GROUPS_PER_MAP, 1]);
}

/// A Service whose endpoints are all gone for a moment finds the records of its clients again.
#[test]
fn an_empty_group_keeps_its_place_in_a_map() {
    let sticky =
        Service { affinity: Affinity::ClientIp { timeout: 60 }, ..plain("default", "web", 1) };
    let with = |endpoints: &[u8]| replacement(&objects(&[(&sticky, endpoints)]));
    let mut daemon = Daemon::start(&objects(&[(&sticky, &[1, 2])]));
    let before = daemon.program.state();
    daemon.apply(&[with(&[])]);
    assert_eq!(daemon.program.idle_affinities().count(), 0);
    assert_eq!(daemon.program.without_affinity(&sticky.key).count(), 0, "a false warning");
    daemon.apply(&[with(&[1, 2])]);
    let codes = |state: &State| -> BTreeSet<Option<Code>> {
        elements(state).into_keys().filter_map(Key::frontend).map(|it| state.code(it)).collect()
    };
    assert_eq!(codes(&daemon.program.state()), codes(&before));
}

/// The network of the node's Pods was known and no longer is.
#[test]
fn a_wider_interval_is_added_after_the_narrower_is_removed() {
    let narrow = Settings {
        detect_local: DetectLocal::ClusterCidr(nets(&["10.244.0.0/16"])),
        ..Settings::new(NodeName::from(HERE))
    };
    let narrow = Program::new(Arc::new(narrow));
    let wide = Program::new(settings());
    checked_delta(&narrow, &wide);
    checked_delta(&wide, &narrow);
}

/// A snapshot of a kernel without any of our tables is a state like any other.
#[test]
fn a_state_without_tables_can_be_compared() {
    let state = Program::new(settings()).state();
    let nothing = State::default();
    check(&state, &Delta::between_states(&state, &nothing), &nothing);
    check(&nothing, &Delta::between_states(&nothing, &state), &state);
    assert!(Delta::between_states(&nothing, &nothing).is_empty());
}

/// A Service that puts nothing into the kernel is not listed among those that do, whether it was
/// there at the start or was added later.
#[test]
fn a_headless_service_is_not_listed() {
    let list = [Object::Service(Arc::new(bare_service("default", "headless")))];
    let mut later = Daemon::start(&[]);
    later.apply(&[replacement(&list)]);
    assert_eq!(names(&later.program), Vec::<&NamespacedName>::new());
    assert_eq!(names(&Daemon::start(&list).program), Vec::<&NamespacedName>::new());
}

/// A class that is no longer wanted is removed only after its last use.
#[test]
fn a_class_is_removed_after_its_last_user() {
    let affinity = |timeout| Service {
        affinity: Affinity::ClientIp { timeout },
        ..plain("default", "web", 1)
    };
    let before = Daemon::start(&objects(&[(&affinity(60), &[1, 2])])).program;
    let wanted = Daemon::start(&objects(&[(&affinity(61), &[1, 2])])).program;
    let found = before.state();
    for delta in [
        Delta::reconcile(&found, &wanted),
        Delta::between_states(&found, &wanted.state()),
        Delta::between(&before, &wanted),
    ] {
        let goes = |op: &Op| {
            let is_set = matches!(op, Op::Nft(nft::Op::DeleteSet(..)));
            is_set || matches!(op, Op::Nft(nft::Op::DeleteChain(..)))
        };
        assert!(!delta.shared.at(Stage::Switch).iter().any(goes), "the class is removed first");
        let gone = delta.shared.at(Stage::Retire).iter().filter(|op| goes(op)).count();
        assert_eq!(gone, 2, "its chain and its map");
        check(&found, &delta, &wanted.state());
    }
}
