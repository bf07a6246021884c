//! The laws of the compiler, tested with random histories.
//!
//! The generators deliberately produce more keys than one node of the persistent maps holds: with
//! few keys, a map whose `diff` loses updates would pass. `PROPTEST_CASES` asks for other cases,
//! and more of them than a test run has time for; `.ci/laws` sets it. Seeds of failures are kept in
//! `regressions`.

mod ipvs;
mod keep;
mod packets;
mod reference;
mod steps;
#[path = "../support/mod.rs"]
mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use proptest::test_runner::{
    Config, FailurePersistence, FileFailurePersistence, RngSeed, TestCaseError, TestRunner,
};

use rulec_compiler::frontend::PortKey;
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::ipvs::Scheduler;
use rulec_compiler::name::{LabelKey, LabelValue, Name, NamespacedName, NodeName, PortName, Zone};
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::nft::element::Value;
use rulec_compiler::nft::pick::Clients;
use rulec_compiler::nft::rule::Statement;
use rulec_compiler::nft::ruleset;
use rulec_compiler::nft::set::View;
use rulec_compiler::nft::{self, ChainId, Key, Pick, Scope, SetId};
use rulec_compiler::object::{
    Affinity, ClusterIps, Conditions, Endpoint, EndpointSlice, Hints, InterfaceAddresses,
    IpvsOptions, Kind, Node, Object, ObjectKey, Pod, PodAddresses, Service, ServiceCidr,
    ServicePort, ServiceType, SlicePort, TargetPort, TrafficPolicy,
};
use rulec_compiler::program::PickId;
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
    let v4 = ["10.96.2.0/31", "10.0.0.0/9", "192.0.2.0/24", "0.0.0.0/0"];
    let pool = nets(&[&v4[..], &["fd00::/64", "fd00::2:0/112"]].concat());
    let ranges = prop_oneof![2 => Just(Vec::new()), 1 => subsequence(pool, 0..=3)];
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
    let some = (scheduler, flags, drain);
    let some = some.prop_map(|(scheduler, flags, drain)| IpvsOptions { scheduler, flags, drain });
    prop_oneof![2 => Just(IpvsOptions::default()), 1 => some]
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
        ipvs_options(),
    );
    (key, rest, exposure()).prop_map(|((namespace, number, cluster_ips), rest, exposure)| {
        let (ports, external_ips, load_balancer_vips, affinity, selector, publish, ipvs) = rest;
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
    (place, vec(port, 0..=2), endpoints, hints).prop_map(|(place, mut ports, endpoints, hints)| {
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
        EndpointSlice { ports, endpoints, ..bare_slice(namespace, &name, &service, family) }
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
    (namespace(), 0..PODS, labels(2), node, addresses, ports, conditions()).prop_map(
        |(namespace, number, labels, node, addresses, ports, conditions)| Pod {
            key: NamespacedName::new(namespace, format!("pod-{number}").as_str()),
            labels,
            node: node.map(NodeName::from),
            addresses,
            ports,
            conditions,
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
    select(vec![Origin::Manifests, Origin::Api])
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
    /// Removes the pick chains that nothing uses any more, at once.
    fn retire_idle_picks(&mut self) {
        let idle: Vec<_> = self.program.idle_picks().collect();
        idle.into_iter().for_each(|pick| self.program.retire(pick));
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

/// The content of a view of a frontend, independent of slots.
#[derive(Debug, PartialEq)]
struct Served {
    owner: Arc<PortKey>,
    pick: Option<Pick>,
    backends: BTreeSet<Backend>,
}

/// The key of `Served`: clients from outside may reach other backends.
type Seen = (Frontend, View);

/// A state without its history.
#[derive(Debug, PartialEq)]
struct Meaning {
    frontends: BTreeMap<Seen, Served>,
    /// Elements of the node, cluster addresses, hairpins, and source ranges.
    others: BTreeSet<Key>,
    picks: BTreeSet<PickId>,
}

/// Reads a state and checks that it is sound: slots are dense, no id or backend is there twice,
/// every pick code in use has its chain, and no element is left over.
fn meaning(state: &State) -> Meaning {
    let elements = elements(state);
    let mut frontends: BTreeMap<Seen, Served> = BTreeMap::new();
    let mut others = BTreeSet::new();
    let mut goto = BTreeSet::new();
    let mut read = 0;
    for (key, Held { value, owner: comment }) in &elements {
        let (view, pick) = match (key, value) {
            (Key::Service(view, _), Value::Pick(pick)) => (*view, Some(*pick)),
            (Key::Reject(_), Value::Present) => (View::Cluster, None),
            (Key::Pick(family, scope, view, pick), Value::Goto) => {
                let (family, scope, view, pick) = (*family, *scope, *view, *pick);
                goto.insert(PickId { family, scope, view, pick });
                read += 1;
                continue;
            }
            (key, Value::Present) => {
                assert!(comment.is_none(), "{key:?} has a comment");
                others.insert(*key);
                read += 1;
                continue;
            }
            _ => continue,
        };
        let Some(frontend) = key.frontend() else { panic!("{key:?} has no frontend") };
        let mut backends = BTreeSet::new();
        read += 1;
        let Pick { affinity, backends: n, .. } = pick.unwrap_or(Pick::DROP);
        for position in 0..n {
            let id = match elements.get(&Key::AffinitySlot(view, frontend, position)) {
                Some(Held { value: Value::Id(id), owner: None }) if affinity.is_some() => {
                    read += 1;
                    *id
                }
                None if affinity.is_none() => position,
                other => panic!("slot {position} of {frontend} is {other:?}"),
            };
            match elements.get(&Key::Endpoint(view, frontend, id)) {
                Some(Held { value: Value::Backend(backend), owner: None }) => {
                    assert!(backends.insert(*backend), "{backend} occurs twice in {frontend}");
                    read += 1;
                }
                other => panic!("endpoint {position} ({id}) of {frontend} is {other:?}"),
            }
        }
        let Some(owner) = comment.clone() else { panic!("{frontend} has no owner") };
        let served = Served { owner, pick, backends };
        let known = frontends.insert((frontend, view), served);
        assert_eq!(known, None, "{frontend} is served and rejected");
    }
    assert_eq!(read, elements.len(), "elements that are never looked up");

    let mut chains = BTreeSet::new();
    for (family, table) in &state.tables {
        assert_eq!(table.sets, SetId::ALL.into_iter().collect());
        assert_eq!(table.foreign, Vec::<String>::new());
        for (chain, content) in &table.chains {
            assert_eq!(*content, ChainContent::Complete, "{chain}");
            if let ChainId::Pick(scope, view, pick) = *chain {
                chains.insert(PickId { family: *family, scope, view, pick });
            }
        }
        assert!(ChainId::CONSTANT.iter().all(|chain| table.chains.contains_key(chain)));
    }
    assert_eq!(chains, goto, "pick chains and the elements that lead to them");
    let meaning = Meaning { frontends, others, picks: chains };
    let missing: Vec<_> = meaning.used_picks().difference(&meaning.picks).copied().collect();
    assert_eq!(missing, [], "pick codes without a chain");
    meaning
}

impl Meaning {
    fn used_picks(&self) -> BTreeSet<PickId> {
        let used = self.frontends.iter().filter_map(|((frontend, view), served)| {
            let (family, scope) = (frontend.family(), Scope::of(*frontend));
            Some(PickId { family, scope, view: *view, pick: served.pick? })
        });
        used.collect()
    }
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
    let view = |clients, backends: &[Backend], otherwise: Option<Pick>| {
        let backends: BTreeSet<Backend> = backends.iter().copied().collect();
        let n = u32::try_from(backends.len()).unwrap_or(u32::MAX);
        let pick = Some(Pick { clients, affinity, backends: n });
        let pick = if n > 0 { pick } else { otherwise };
        Served { owner: Arc::clone(&route.port), pick, backends }
    };
    let dropped = route.has_endpoints.then_some(Pick::DROP);
    let is_external = rank.is_external();
    match (if is_external { route.external } else { route.internal }, is_external) {
        (TrafficPolicy::Cluster, false) => [Some(view(Clients::Kept, &route.cluster, None)), None],
        (TrafficPolicy::Local, false) => [Some(view(Clients::Kept, &route.local, dropped)), None],
        (TrafficPolicy::Cluster, true) => {
            [Some(view(Clients::Masqueraded, &route.cluster, None)), None]
        }
        (TrafficPolicy::Local, true) => {
            let local = view(Clients::Kept, &route.local, None);
            let is_here = local.pick.is_some();
            [Some(view(Clients::Split, &route.cluster, None)), is_here.then_some(local)]
        }
    }
}

/// Asserts that two programs mean the same, and that the second one has no idle pick chains.
fn assert_same_meaning(incremental: &Program, fresh: &Program) {
    let (incremental_meaning, fresh_meaning) =
        (meaning(&incremental.state()), meaning(&fresh.state()));
    assert_eq!(incremental_meaning.frontends, fresh_meaning.frontends);
    assert_eq!(incremental_meaning.others, fresh_meaning.others);
    assert_eq!(fresh_meaning.used_picks(), fresh_meaning.picks, "a fresh program has idle chains");
    let used = incremental_meaning.used_picks();
    let idle: BTreeSet<_> = incremental.idle_picks().collect();
    let unused: BTreeSet<_> = incremental_meaning.picks.difference(&used).copied().collect();
    assert_eq!(idle, unused, "uses of pick chains are miscounted");
}

/// Returns the ids by which records name endpoints: after any history, they are those of a fresh
/// start.
fn affinity_ids(program: &Program) -> BTreeMap<(Seen, u32), Backend> {
    let elements = elements(&program.state());
    let id = |(key, Held { value, .. }): (&Key, &Held)| {
        let (Key::AffinitySlot(view, frontend, _), Value::Id(id)) = (key, value) else {
            return None;
        };
        let Held { value, .. } = elements.get(&Key::Endpoint(*view, *frontend, *id))?;
        let Value::Backend(backend) = value else { return None };
        Some((((*frontend, *view), *id), *backend))
    };
    elements.iter().filter_map(id).collect()
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
    AddPick(Family, u32),
    BreakChain(Index),
    RemoveChain(Index),
    RemoveSet(Index),
    AddForeign(Family),
    RemoveTable(Family),
}

fn damages() -> impl Strategy<Value = Vec<Damage>> {
    use Damage::{
        AddEndpoint, AddForeign, AddFrontend, AddMember, AddPick, AddSource, AlterComment,
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
        5 => (family(), 20..40_u32).prop_map(|(family, n)| AddPick(family, n)),
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
                table.elements.entry(key).or_insert(Held { value, owner });
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
                        Value::Pick(pick) => {
                            Value::Pick(Pick { backends: pick.backends + 1, ..pick })
                        }
                        Value::Id(id) => Value::Id(id.wrapping_add(1)),
                        Value::Backend(backend) => {
                            Value::Backend(Backend { port: number(9999), ..backend })
                        }
                        Value::Present | Value::Goto => *value,
                    };
                }
            }
            Self::AlterComment(index) => {
                let Some(index) = some(index, keys.len()) else { return };
                let table = table(state, keys[index].family());
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
                let view = if slot % 3 == 0 { View::Local } else { View::Cluster };
                add(Key::Endpoint(view, frontends[index], *slot), Value::Backend(backend), None);
                add(Key::AffinitySlot(view, frontends[index], *slot), Value::Id(*slot), None);
                add(Key::Firewalled(frontends[index]), Value::Present, None);
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
                        table.elements.insert(key, Held { value: Value::Present, owner: None });
                    }
                }
            }
            Self::AddPick(family, backends) => {
                let pick = Pick { clients: Clients::Kept, affinity: None, backends: *backends };
                if let Some(table) = state.tables.get_mut(family)
                    && table.sets.contains(&SetId::Picks(Scope::Address, View::Cluster))
                {
                    let chain = ChainId::Pick(Scope::Address, View::Cluster, pick);
                    let content = match *backends % 2 {
                        0 => ChainContent::Complete,
                        _ => ChainContent::Other,
                    };
                    table.chains.insert(chain, content);
                    let key = Key::Pick(*family, Scope::Address, View::Cluster, pick);
                    table.elements.insert(key, Held { value: Value::Goto, owner: None });
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
                if let ChainId::Pick(scope, view, pick) = chain {
                    table.elements.remove(&Key::Pick(family, scope, view, pick));
                }
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
                    let set = SetId::ALL[index.index(SetId::ALL.len())];
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
    Config { cases, rng_seed, failure_persistence, max_shrink_iters: 400, ..config }
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
            prop_assert_eq!(affinity_ids(&daemon.program), affinity_ids(&fresh));
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
                // Only unused pick chains are removed.
                let picks = meaning(&daemon.program.state()).picks;
                picks.into_iter().for_each(|pick| daemon.program.retire(pick));
                let meaning = meaning(&daemon.program.state());
                prop_assert_eq!(meaning.used_picks(), meaning.picks);
            }
            let delta = checked_delta(&before.program, &daemon.program);
            let used = meaning(&daemon.program.state()).used_picks();
            for op in delta.shared.iter() {
                if let Op::Nft(nft::Op::AddChain(family, ChainId::Pick(scope, view, pick))) = op {
                    let (family, scope, view, pick) = (*family, *scope, *view, *pick);
                    let id = PickId { family, scope, view, pick };
                    prop_assert!(used.contains(&id), "unused pick chain {}", pick);
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
        restarted.apply(&more);
        checked_delta(&daemon.program, &restarted.program);
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
        for ((key, _), object) in &held {
            expected.entry(key.clone()).or_insert_with(|| object.clone());
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
            let state = meaning(&restored.state());
            let idle: BTreeSet<_> = restored.idle_picks().collect();
            prop_assert_eq!(&idle, &state.picks.difference(&state.used_picks()).copied().collect());

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
            for index in &cuts {
                let groups = delta.groups[..index.index(delta.groups.len() + 1)].to_vec();
                let mut head = Delta { groups, ..delta.clone() };
                head.shared.drop_retired();
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
            daemon.retire_idle_picks();
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
    let node_port_addresses = prop_oneof![
        Just(NodePortAddresses::Primary),
        subsequence(answering, 0..=3).prop_map(NodePortAddresses::Cidrs),
    ];
    let own = subsequence(vec![v4(2, 2), v6(2, 2)], 0..=1);
    (detect_local, node_port_addresses, own, any::<bool>(), node_name()).prop_map(
        |(detect_local, node_port_addresses, node_addresses, masquerade_all, node)| Settings {
            detect_local,
            node_port_addresses,
            node_addresses,
            masquerade_all,
            // So both values are tested equally often.
            drop_invalid: !masquerade_all,
            ..Settings::new(NodeName::from(node))
        },
    )
}

/// Asserts that every frontend is in its old or its new state, and that its pick code has a chain.
fn check_served(state: &State, old: &State, new: &State) {
    let by_frontend = |state: &State| {
        let mut frontends: BTreeMap<Frontend, Vec<(Key, _)>> = BTreeMap::new();
        for (key, held) in elements(state) {
            if let Some(frontend) = key.frontend() {
                frontends.entry(frontend).or_default().push((key, held));
            }
        }
        frontends
    };
    let (old, new) = (by_frontend(old), by_frontend(new));
    let found = by_frontend(state);
    for frontend in old.keys().chain(new.keys()) {
        let now = found.get(frontend);
        assert!(
            now == old.get(frontend) || now == new.get(frontend),
            "{frontend} is half changed: {now:?}"
        );
    }
    for (key, Held { value, .. }) in elements(state) {
        if let (Key::Service(view, frontend), Value::Pick(pick)) = (key, value) {
            let goto = Key::Pick(frontend.family(), Scope::of(frontend), view, pick);
            assert!(elements_hold(state, goto), "the code of {frontend} has no chain");
        }
    }
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

    /// A code stands for exactly one pick, and so does the chain's name.
    #[test]
    fn pick_codes_and_names_round_trip(
        clients in select(&[Clients::Kept, Clients::Masqueraded, Clients::Split][..]),
        affinity in option::of(1..=86_400_u32),
        backends in 1..=4_095_u32,
    ) {
        let pick = Pick { clients, affinity, backends };
        prop_assert_eq!(Pick::from_code(pick.code()), Some(pick));
        prop_assert_eq!(Pick::from_name(&pick.to_string()), Some(pick));
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

/// A pick code that a frontend would have only until the next Service is added never reaches a
/// kernel, neither at the start nor later.
#[test]
fn a_transient_pick_code_needs_no_chain() {
    let (mut loser, mut winner) = (plain("default", "a", 1), plain("default", "b", 2));
    loser.external_ips = vec![v4(9, 1)];
    winner.load_balancer_vips = vec![v4(9, 1)];
    let list = objects(&[(&loser, &[1, 2]), (&winner, &[1])]);
    let external_two = |program: &Program| {
        let pick = Pick { clients: Clients::Masqueraded, affinity: None, backends: 2 };
        let (family, scope, view) = (Family::Ipv4, Scope::Address, View::Cluster);
        let id = PickId { family, scope, view, pick };
        meaning(&program.state()).picks.contains(&id)
    };
    assert!(!external_two(&Daemon::start(&list).program));
    let mut daemon = Daemon::start(&[]);
    daemon.apply(&[replacement(&list)]);
    assert!(!external_two(&daemon.program));
    // Nor when the Service that has the frontend is compiled again.
    let before = daemon.program.clone();
    daemon.apply(&[replacement(&objects(&[(&loser, &[1, 2]), (&winner, &[2])]))]);
    assert!(!external_two(&daemon.program));
    assert_eq!(checked_delta(&before, &daemon.program).shared.len(), 0);
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

/// A pick chain that is no longer wanted is removed only after its last use.
#[test]
fn a_pick_chain_is_removed_after_its_last_user() {
    let service = plain("default", "web", 1);
    let before = Daemon::start(&objects(&[(&service, &[1, 2])])).program;
    let wanted = Daemon::start(&objects(&[(&service, &[1])])).program;
    let found = before.state();
    for delta in [
        Delta::reconcile(&found, &wanted),
        Delta::between_states(&found, &wanted.state()),
        Delta::between(&before, &wanted),
    ] {
        let is_pick =
            |op: &Op| op.deleted().is_some_and(|element| matches!(element.key, Key::Pick(..)));
        assert!(!delta.shared.at(Stage::Switch).iter().any(is_pick), "the chain is removed first");
        assert!(delta.shared.at(Stage::Retire).iter().any(is_pick), "the chain is never removed");
        check(&found, &delta, &wanted.state());
    }
}
