//! The packet oracle on the example cluster of the specification: the fate of each kind of client
//! at each kind of frontend, in both families. The numbers are those of the specification's cases.
//!
//! Expected outcomes are words: the name of a backend, followed by `+m` if the client's address is
//! masqueraded; or `reject`, `drop`, `pass`.

#[path = "support/objects.rs"]
mod objects;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::name::{Name, NodeName, Zone};
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::nft::ChainId;
use rulec_compiler::object::{
    Affinity, Conditions, Endpoint, Hints, InterfaceAddresses, Node, Object, Service, ServiceCidr,
    ServiceType, SlicePort, TrafficPolicy,
};
use rulec_compiler::oracle::{self, Fate, Masquerade, Packet, Verdict};
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};
use rulec_compiler::state::ChainContent;
use rulec_compiler::{Model, Program, Settings, State};

use objects::{
    HERE, bare_service, bare_slice, endpoint, model, nets, number, service_port, settings,
    slice_port,
};

// ---- The example cluster ------------------------------------------------------------------------

const NOT_READY: Conditions = Conditions { ready: false, serving: false, terminating: false };
const TERMINATING: Conditions = Conditions { ready: false, serving: true, terminating: true };
const DEAD: Conditions = Conditions { ready: false, serving: false, terminating: true };

/// Returns the address with a name, in a family.
fn address(name: &str, family: Family) -> IpAddr {
    let (v4, v6): ([u8; 4], [u16; 4]) = match name {
        // Nodes, the second interface of this one, and its loopback.
        "node" => ([192, 0, 2, 10], [0x2001, 0xdb8, 0, 10]),
        "node-2" => ([192, 0, 2, 110], [0x2001, 0xdb8, 0, 110]),
        "loopback" => ([127, 0, 0, 1], [0, 0, 0, 1]),
        // Pods: of this node, of node nb, and the endpoints of web.
        "pod" => ([10, 50, 1, 200], [0x2001, 0xdb8, 0x5001, 200]),
        "pod-nb" => ([10, 50, 2, 9], [0x2001, 0xdb8, 0x5002, 9]),
        "e1" => ([10, 50, 1, 5], [0x2001, 0xdb8, 0x5001, 5]),
        "e1b" => ([10, 50, 1, 6], [0x2001, 0xdb8, 0x5001, 6]),
        "e2" => ([10, 50, 2, 5], [0x2001, 0xdb8, 0x5002, 5]),
        "e3" => ([10, 50, 3, 5], [0x2001, 0xdb8, 0x5003, 5]),
        // Clients outside.
        "x" => ([203, 0, 113, 77], [0x2001, 0xdb8, 0xff00, 77]),
        "y" => ([203, 0, 113, 200], [0x2001, 0xdb8, 0xff01, 200]),
        // Destinations.
        "cluster" => ([10, 90, 0, 10], [0xfd90, 0, 0, 10]),
        "nobody" => ([10, 90, 0, 99], [0xfd90, 0, 0, 99]),
        "elsewhere" => ([10, 91, 0, 1], [0xfd91, 0, 0, 1]),
        "vip" => ([198, 51, 100, 20], [0x2001, 0xdb8, 5, 20]),
        "vip-2" => ([198, 51, 100, 21], [0x2001, 0xdb8, 5, 21]),
        "external" => ([198, 51, 100, 30], [0x2001, 0xdb8, 5, 30]),
        other => panic!("unknown name {other}"),
    };
    match family {
        Family::Ipv4 => Ipv4Addr::from(v4).into(),
        Family::Ipv6 => {
            let [a, b, c, d] = v6;
            Ipv6Addr::new(a, b, c, 0, 0, 0, 0, d).into()
        }
    }
}

const NAMES: [&str; 5] = ["node", "e1", "e1b", "e2", "e3"];

struct Fixture {
    service: Service,
    endpoints: Vec<(&'static str, Option<&'static str>, Conditions, Option<Hints>)>,
    slice_ports: Vec<SlicePort>,
    others: Vec<Service>,
    settings: Settings,
    node: Node,
}

/// Service web with all kinds of frontends, and three ready endpoints, one of them local.
fn world() -> Fixture {
    let mut service = bare_service("default", "web");
    service.kind = ServiceType::LoadBalancer;
    service.cluster_ips.v4 = Some(Ipv4Addr::new(10, 90, 0, 10));
    service.cluster_ips.v6 = Some(Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 10));
    service.ports = vec![service_port("http", 80)];
    service.ports[0].node_port = Some(number(30080));
    let both = |name| Family::ALL.map(|family| address(name, family)).to_vec();
    service.load_balancer_vips = both("vip");
    service.external_ips = both("external");
    let settings = Settings {
        detect_local: DetectLocal::ClusterCidr(nets(&["10.50.0.0/16", "2001:db8:5000::/36"])),
        ..Settings::clone(&settings())
    };
    let node = Node {
        name: NodeName::from(HERE),
        addresses: [both("node"), both("node-2")].concat(),
        pod_cidrs: nets(&["10.50.1.0/24", "2001:db8:5001::/48"]),
        zone: Some(Zone::from("z1")),
        taints: Vec::new(),
        deleting: false,
    };
    Fixture {
        service,
        endpoints: Vec::new(),
        slice_ports: vec![slice_port("http", 8080)],
        others: Vec::new(),
        settings,
        node,
    }
    .endpoint("e1", Some(HERE), Conditions::READY)
    .endpoint("e2", Some("nb"), Conditions::READY)
    .endpoint("e3", Some("nc"), Conditions::READY)
}

/// Returns the example cluster with a changed Service.
fn with(change: impl FnOnce(&mut Service)) -> Fixture {
    let mut world = world();
    change(&mut world.service);
    world
}

fn external_local(service: &mut Service) {
    service.external_policy = TrafficPolicy::Local;
}

fn internal_local(service: &mut Service) {
    service.internal_policy = TrafficPolicy::Local;
}

fn restricted(ranges: &[&str]) -> Fixture {
    with(|service| service.source_ranges = nets(ranges))
}

impl Fixture {
    fn endpoint(mut self, name: &'static str, node: Option<&'static str>, is: Conditions) -> Self {
        self.endpoints.push((name, node, is, None));
        self
    }

    fn without_endpoints(mut self) -> Self {
        self.endpoints.clear();
        self
    }

    /// Gives the endpoints hints, in order.
    fn hints<const N: usize>(mut self, hints: [(&[&str], &[&str]); N]) -> Self {
        assert_eq!(self.endpoints.len(), N);
        for (endpoint, (zones, nodes)) in self.endpoints.iter_mut().zip(hints) {
            let zones: Box<[Zone]> = zones.iter().map(|zone| Zone::from(*zone)).collect();
            let nodes: Box<[NodeName]> = nodes.iter().map(|node| NodeName::from(*node)).collect();
            let is_some = !zones.is_empty() || !nodes.is_empty();
            endpoint.3 = is_some.then_some(Hints { zones, nodes });
        }
        self
    }

    fn detect(mut self, detect_local: DetectLocal) -> Self {
        self.settings.detect_local = detect_local;
        self
    }

    fn model(&self) -> Model {
        let mut objects = vec![
            Object::Service(Arc::new(self.service.clone())),
            Object::Node(Arc::new(self.node.clone())),
            Object::ServiceCidr(Arc::new(ServiceCidr {
                name: Name::from("kubernetes"),
                cidrs: nets(&["10.90.0.0/16", "fd90::/108"]),
            })),
            Object::InterfaceAddresses(Arc::new(InterfaceAddresses {
                addresses: own(),
                ..InterfaceAddresses::default()
            })),
        ];
        objects.extend(self.others.iter().map(|other| Object::Service(Arc::new(other.clone()))));
        for family in Family::ALL {
            let mut slice = bare_slice("default", &format!("web-{family}"), "web", family);
            slice.ports.clone_from(&self.slice_ports);
            let endpoints = self.endpoints.iter();
            slice.endpoints = endpoints
                .map(|(name, node, conditions, hints)| Endpoint {
                    hints: hints.clone().map(Box::new),
                    ..endpoint(address(name, family), *conditions, *node)
                })
                .collect();
            slice.endpoints.sort();
            objects.push(Object::EndpointSlice(Arc::new(slice)));
        }
        model(&objects)
    }

    fn state(&self) -> State {
        let settings = Arc::new(self.settings.clone());
        Program::compile(&self.model(), settings, &State::default()).state()
    }

    /// Returns the outcomes for a packet from a client to a frontend, `name:port` or
    /// `name:port/protocol`, or for a ping to a name.
    fn outcomes(&self, client: &str, frontend: &str, family: Family) -> Vec<Fate> {
        let (client, interface) = client.split_once('@').unwrap_or((client, ""));
        let (name, transport) = match frontend.split_once(':') {
            None => (frontend, None),
            Some((name, port)) => {
                let (port, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
                let protocol = match protocol {
                    "tcp" => Protocol::Tcp,
                    "udp" => Protocol::Udp,
                    "sctp" => Protocol::Sctp,
                    other => panic!("unknown protocol {other}"),
                };
                (name, port.parse().ok().map(|port| (protocol, number(port))))
            }
        };
        let packet = Packet {
            source: address(client, family),
            interface: (!interface.is_empty()).then(|| interface.to_owned()),
            destination: address(name, family),
            transport,
        };
        oracle::explain(&self.state(), &packet, 0x4000, &is_own)
    }

    /// Asserts the outcomes for a packet, in both families.
    #[track_caller]
    fn expect(&self, client: &str, frontend: &str, expected: &str) -> &Self {
        for family in Family::ALL {
            let outcomes = self.outcomes(client, frontend, family);
            let found: BTreeSet<String> =
                outcomes.iter().map(|outcome| word(outcome, family)).collect();
            assert_eq!(found.len(), outcomes.len(), "duplicate outcomes: {outcomes:?}");
            let expected: BTreeSet<String> = expected.split(' ').map(str::to_owned).collect();
            assert_eq!(found, expected, "{client} -> {frontend} in {family}");
        }
        self
    }
}

/// Returns the addresses of this node.
fn own() -> Vec<IpAddr> {
    let names = ["loopback", "node", "node-2"];
    names.iter().flat_map(|name| Family::ALL.map(|family| address(name, family))).collect()
}

fn is_own(address: IpAddr) -> bool {
    own().contains(&address)
}

fn word(outcome: &Fate, family: Family) -> String {
    let verdict = match outcome.verdict {
        Verdict::Backend(backend) => of_backend(backend, family),
        Verdict::Pass => "pass".to_owned(),
        Verdict::Reject => "reject".to_owned(),
        Verdict::Drop => "drop".to_owned(),
    };
    verdict + if outcome.masquerade.is_some() { "+m" } else { "" }
}

fn of_backend(backend: Backend, family: Family) -> String {
    let name = NAMES.into_iter().find(|name| address(name, family) == backend.address);
    let Some(name) = name else { panic!("{backend} has no name") };
    if backend.port.get() == 8080 { name.to_owned() } else { format!("{name}:{}", backend.port) }
}

const ALL_KEPT: &str = "e1 e2 e3";
const ALL_MASQUERADED: &str = "e1+m e2+m e3+m";

// ---- Cluster addresses, ports, protocols --------------------------------------------------------

#[test]
fn cases_1_to_3_cluster_addresses() {
    world()
        .expect("pod", "cluster:80", ALL_KEPT)
        .expect("pod-nb", "cluster:80", ALL_KEPT)
        .expect("e1", "cluster:80", "e1+m e2 e3")
        // Not on this node: the hairpin is handled elsewhere.
        .expect("e2", "cluster:80", ALL_KEPT)
        .expect("x", "cluster:80", ALL_MASQUERADED)
        .expect("node", "cluster:80", ALL_MASQUERADED);
}

#[test]
fn case_4_no_known_pods_and_masquerade_all() {
    world()
        .detect(DetectLocal::ClusterCidr(Vec::new()))
        .expect("x", "cluster:80", ALL_KEPT)
        .expect("node", "cluster:80", ALL_KEPT)
        .expect("e1", "cluster:80", "e1+m e2 e3");
    let mut all = world();
    all.settings.masquerade_all = true;
    all.expect("pod", "cluster:80", ALL_MASQUERADED);
    // It applies only to cluster addresses.
    let mut all = with(external_local);
    all.settings.masquerade_all = true;
    all.expect("pod", "vip:80", ALL_KEPT).expect("x", "vip:80", "e1");
}

#[test]
fn pods_are_detected_by_node_and_by_interface() {
    world().detect(DetectLocal::NodeCidr).expect("pod", "cluster:80", ALL_KEPT).expect(
        "pod-nb",
        "cluster:80",
        ALL_MASQUERADED,
    );
    let bridge = InterfacePattern::named("cni0").map(DetectLocal::Interface);
    let prefix = InterfacePattern::starting_with("veth").map(DetectLocal::Interface);
    for (detect, inside, outside) in
        [(bridge, "cni0", "cni01"), (prefix, "veth12ab", "vet")].map(|(d, a, b)| (d.ok(), a, b))
    {
        let Some(detect) = detect else { panic!("{inside} is not an interface name") };
        let world = with(external_local).detect(detect);
        world
            .expect(&format!("pod@{inside}"), "cluster:80", ALL_KEPT)
            .expect(&format!("x@{inside}"), "cluster:80", ALL_KEPT)
            .expect(&format!("pod@{outside}"), "cluster:80", ALL_MASQUERADED)
            .expect("pod", "cluster:80", ALL_MASQUERADED)
            .expect(&format!("pod@{inside}"), "vip:80", ALL_KEPT)
            .expect(&format!("pod@{outside}"), "vip:80", "e1")
            // Packets that the node sends arrive on no interface, whatever the query says.
            .expect(&format!("node@{inside}"), "cluster:80", ALL_MASQUERADED)
            .expect(&format!("node@{inside}"), "vip:80", ALL_MASQUERADED);
    }
}

#[test]
fn case_5_each_protocol_has_its_own_endpoints() {
    let mut world = world();
    for (name, protocol) in [("dns", Protocol::Udp), ("dns-sctp", Protocol::Sctp)] {
        let mut port = service_port(name, 80);
        port.protocol = protocol;
        world.service.ports.push(port);
        world.slice_ports.push(SlicePort { protocol, ..slice_port(name, 5300) });
    }
    world
        .expect("pod", "cluster:80", ALL_KEPT)
        .expect("pod", "cluster:80/udp", "e1:5300 e2:5300 e3:5300")
        .expect("pod", "cluster:80/sctp", "e1:5300 e2:5300 e3:5300");
}

#[test]
fn cases_6_and_7_undefined_ports_and_addresses() {
    world()
        .expect("pod", "cluster:80/udp", "reject")
        .expect("pod", "cluster:443", "reject")
        .expect("node", "cluster:443", "reject")
        .expect("pod", "cluster", "reject")
        .expect("pod", "nobody:80", "drop")
        .expect("node", "nobody:80", "drop")
        .expect("x", "nobody", "drop")
        .expect("pod", "elsewhere:80", "pass");
}

#[test]
fn cases_8_to_10_no_endpoints() {
    let frontends = ["cluster:80", "vip:80", "external:80", "node:30080"];
    let mut other_name = world();
    other_name.slice_ports = vec![slice_port("web", 8080)];
    let mut other_protocol = world();
    other_protocol.slice_ports =
        vec![SlicePort { protocol: Protocol::Udp, ..slice_port("http", 8080) }];
    let dead = || world().without_endpoints().endpoint("e1", Some(HERE), DEAD);
    let not_ready = world().without_endpoints().endpoint("e2", Some("nb"), NOT_READY);
    // 42 and 46: under any policy.
    let mut local = dead();
    external_local(&mut local.service);
    internal_local(&mut local.service);
    let all = [world().without_endpoints(), other_name, other_protocol, dead(), not_ready, local];
    for world in all {
        for (client, frontend) in
            ["x", "pod", "node"].iter().flat_map(|client| frontends.map(|to| (client, to)))
        {
            world.expect(client, frontend, "reject");
        }
    }
}

// ---- Endpoints ----------------------------------------------------------------------------------

#[test]
fn cases_27_to_29_terminating_endpoints() {
    let one_ready = world()
        .without_endpoints()
        .endpoint("e1", Some(HERE), Conditions::READY)
        .endpoint("e2", Some("nb"), TERMINATING);
    one_ready.expect("pod", "cluster:80", "e1");
    let none_ready = world()
        .without_endpoints()
        .endpoint("e1", Some(HERE), TERMINATING)
        .endpoint("e2", Some("nb"), TERMINATING)
        .endpoint("e3", Some("nc"), DEAD);
    none_ready.expect("pod", "cluster:80", "e1 e2").expect("x", "vip:80", "e1+m e2+m");
    let published = Conditions { ready: true, serving: false, terminating: true };
    world()
        .without_endpoints()
        .endpoint("e1", Some(HERE), published)
        .endpoint("e2", Some("nb"), TERMINATING)
        .expect("pod", "cluster:80", "e1");
}

// ---- Traffic policies ---------------------------------------------------------------------------

#[test]
fn cases_36_to_38_internal_policy_local() {
    with(internal_local)
        .expect("pod", "cluster:80", "e1")
        .expect("e1", "cluster:80", "e1+m")
        .expect("node", "cluster:80", "e1+m")
        .expect("x", "cluster:80", "e1+m")
        .expect("x", "vip:80", ALL_MASQUERADED)
        .expect("pod", "node:30080", ALL_MASQUERADED);
    let mut remote = with(internal_local);
    remote.endpoints.remove(0);
    remote.expect("pod", "cluster:80", "drop").expect("node", "cluster:80", "drop");
    remote.expect("x", "vip:80", "e2+m e3+m");
    let terminating = |conditions| {
        with(internal_local).without_endpoints().endpoint("e1", Some(HERE), conditions).endpoint(
            "e2",
            Some("nb"),
            Conditions::READY,
        )
    };
    terminating(TERMINATING).expect("pod", "cluster:80", "e1").expect("x", "vip:80", "e2+m");
    terminating(DEAD).expect("pod", "cluster:80", "drop");
}

#[test]
fn case_39_external_policy_cluster() {
    let world = world();
    for frontend in ["vip:80", "external:80", "node:30080"] {
        for client in ["x", "pod", "node", "e1"] {
            world.expect(client, frontend, ALL_MASQUERADED);
        }
    }
}

#[test]
fn cases_40_41_and_52_external_policy_local() {
    let world = with(external_local);
    let mut remote = with(external_local);
    remote.endpoints.remove(0);
    for frontend in ["vip:80", "external:80", "node:30080"] {
        world
            .expect("x", frontend, "e1")
            .expect("pod", frontend, ALL_KEPT)
            .expect("pod-nb", frontend, ALL_KEPT)
            .expect("node", frontend, ALL_MASQUERADED)
            .expect("e1", frontend, "e1+m e2 e3");
        remote.expect("x", frontend, "drop").expect("pod", frontend, "e2 e3").expect(
            "node",
            frontend,
            "e2+m e3+m",
        );
    }
    world.expect("pod", "cluster:80", ALL_KEPT).expect("x", "cluster:80", ALL_MASQUERADED);
    remote.expect("x", "cluster:80", "e2+m e3+m");
}

#[test]
fn case_43_unknown_pods_are_treated_as_external() {
    let nobody = || with(external_local).detect(DetectLocal::ClusterCidr(Vec::new()));
    nobody().expect("pod", "vip:80", "e1").expect("e1", "vip:80", "e1+m").expect(
        "node",
        "vip:80",
        ALL_MASQUERADED,
    );
    let mut remote = nobody();
    remote.endpoints.remove(0);
    remote.expect("pod", "vip:80", "drop").expect("node", "vip:80", "e2+m e3+m");
}

#[test]
fn cases_44_and_45_terminating_local_endpoints() {
    with(external_local)
        .without_endpoints()
        .endpoint("e1", Some(HERE), TERMINATING)
        .endpoint("e1b", Some(HERE), TERMINATING)
        .endpoint("e2", Some("nb"), Conditions::READY)
        .expect("x", "vip:80", "e1 e1b")
        .expect("pod", "vip:80", "e2")
        .expect("pod", "cluster:80", "e2");
    with(external_local)
        .without_endpoints()
        .endpoint("e2", Some("nb"), TERMINATING)
        .expect("pod", "cluster:80", "e2")
        .expect("pod", "vip:80", "e2")
        .expect("x", "vip:80", "drop");
}

#[test]
fn cases_47_to_49_combined_policies() {
    let mut both = with(|service| {
        internal_local(service);
        external_local(service);
    });
    both.expect("pod", "cluster:80", "e1").expect("x", "vip:80", "e1");
    both.expect("pod", "vip:80", ALL_KEPT);
    both.endpoints.remove(0);
    both.expect("pod", "cluster:80", "drop")
        .expect("pod", "vip:80", "e2 e3")
        .expect("x", "vip:80", "drop");
    let plain = |service: &mut Service| {
        external_local(service);
        service.kind = ServiceType::ClusterIP;
        service.external_ips.clear();
        service.load_balancer_vips.clear();
        service.ports[0].node_port = None;
    };
    with(plain).expect("x", "cluster:80", ALL_MASQUERADED).expect("x", "vip:80", "pass");
    // The policy does not apply to this type: addresses that remain in a status are served.
    let stale = |service: &mut Service| {
        external_local(service);
        service.kind = ServiceType::ClusterIP;
        service.external_ips.clear();
    };
    with(stale).expect("x", "vip:80", ALL_MASQUERADED);
}

#[test]
fn case_50_pods_of_other_nodes() {
    with(external_local).expect("pod-nb", "node:30080", ALL_KEPT);
    let by_node = || with(external_local).detect(DetectLocal::NodeCidr);
    by_node().expect("pod-nb", "node:30080", "e1").expect("pod", "node:30080", ALL_KEPT);
}

// ---- Topology -----------------------------------------------------------------------------------

#[test]
fn cases_53_to_57_zones() {
    let (z1, z2): (&[&str], &[&str]) = (&["z1"], &["z2"]);
    let in_zones = |a, b, c| world().hints([(a, &[]), (b, &[]), (c, &[])]);
    in_zones(z1, z1, z2).expect("pod", "cluster:80", "e1 e2").expect("x", "vip:80", "e1+m e2+m");
    in_zones(z1, &[], z2).expect("pod", "cluster:80", ALL_KEPT);
    in_zones(z2, z2, z2).expect("pod", "cluster:80", ALL_KEPT);
    in_zones(&["z1", "z2", "z3"], z2, z2).expect("pod", "cluster:80", "e1");
    let mut nowhere = in_zones(z1, z1, z2);
    nowhere.node.zone = None;
    nowhere.expect("pod", "cluster:80", ALL_KEPT);
    // Endpoints that are not ready need no hints, and their hints do not exclude others.
    let mut unready = in_zones(z1, &[], z2);
    unready.endpoints[1].2 = NOT_READY;
    unready.expect("pod", "cluster:80", "e1");
    let mut unready = in_zones(z1, z2, z2);
    unready.endpoints[0].2 = NOT_READY;
    unready.expect("pod", "cluster:80", "e2 e3");
}

#[test]
fn case_58_node_hints_precede_zone_hints() {
    let (z1, z2): (&[&str], &[&str]) = (&["z1"], &["z2"]);
    let by_node = |a, b, c| world().hints([(z1, a), (z1, b), (z2, c)]);
    by_node(&[HERE], &["nb"], &["nc"]).expect("pod", "cluster:80", "e1");
    by_node(&["nb"], &["nb"], &["nc"]).expect("pod", "cluster:80", "e1 e2");
    by_node(&[HERE], &[], &["nc"]).expect("pod", "cluster:80", "e1 e2");
}

#[test]
fn cases_60_and_61_topology_is_ignored() {
    let (z1, z2): (&[&str], &[&str]) = (&["z1"], &["z2"]);
    let two_here = with(external_local)
        .without_endpoints()
        .endpoint("e1", Some(HERE), Conditions::READY)
        .endpoint("e1b", Some(HERE), Conditions::READY)
        .hints([(z1, &[]), (z2, &[])]);
    two_here.expect("x", "vip:80", "e1 e1b").expect("pod", "vip:80", "e1");
    // An endpoint that only clients from outside reach is masqueraded when it reaches itself.
    let elsewhere = with(|service| {
        external_local(service);
        internal_local(service);
    })
    .detect(DetectLocal::ClusterCidr(Vec::new()))
    .hints([(z2, &[]), (z1, &[]), (z2, &[])]);
    elsewhere.expect("e1", "vip:80", "e1+m").expect("node", "vip:80", "e2+m");
    world()
        .without_endpoints()
        .endpoint("e1", Some(HERE), TERMINATING)
        .endpoint("e2", Some("nb"), TERMINATING)
        .hints([(z1, &[]), (z2, &[])])
        .expect("pod", "cluster:80", "e1 e2");
}

// ---- External frontends -------------------------------------------------------------------------

#[test]
fn cases_63_to_66_addresses_of_external_frontends() {
    let mut world = world();
    world
        .expect("pod", "external:443", "pass")
        .expect("x", "vip:443", "pass")
        .expect("x", "node-2:30080", "pass")
        .expect("node", "loopback:30080", "pass")
        .expect("x", "node:30081", "pass")
        .expect("x", "node:30080/udp", "pass");
    let cidrs = |texts| NodePortAddresses::Cidrs(nets(texts));
    for all in [cidrs(&["192.0.2.0/24", "2001:db8::/64"]), cidrs(&[])] {
        world.settings.node_port_addresses = all;
        world
            .expect("x", "node:30080", ALL_MASQUERADED)
            .expect("x", "node-2:30080", ALL_MASQUERADED)
            .expect("node", "loopback:30080", "pass")
            // Not an address of this node.
            .expect("x", "elsewhere:30080", "pass");
    }
    world.settings.node_port_addresses = cidrs(&["192.0.2.110/32", "2001:db8::6e/128"]);
    world.expect("x", "node:30080", "pass").expect("x", "node-2:30080", ALL_MASQUERADED);
    // That of `localhost` answers this node itself, at any of its loopback addresses, if it is named
    // (KEP-6032).
    for (named, node) in [
        (cidrs(&["127.0.0.0/8", "::1/128"]), "pass"),
        (NodePortAddresses::PrimaryAnd(nets(&["127.0.0.1/32", "::1/128"])), ALL_MASQUERADED),
    ] {
        world.settings.node_port_addresses = named;
        world
            .expect("loopback", "loopback:30080", ALL_MASQUERADED)
            .expect("x", "loopback:30080", "pass")
            .expect("loopback", "loopback:30081", "pass")
            .expect("x", "node-2:30080", "pass")
            .expect("x", "node:30080", node);
    }
    for others in [&["127.0.0.2/32", "::2/128"][..], &["0.0.0.0/0", "::/0"]] {
        world.settings.node_port_addresses = cidrs(others);
        world.expect("loopback", "loopback:30080", "pass");
    }
}

#[test]
fn case_67_node_ports_without_endpoints() {
    let nobody = world().without_endpoints();
    for client in ["x", "pod", "node"] {
        nobody.expect(client, "node:30080", "reject").expect(client, "node-2:30080", "pass");
    }
}

#[test]
fn case_77_conflicting_claims() {
    let mut world = world();
    let mut other = bare_service("default", "a");
    other.cluster_ips.v4 = Some(Ipv4Addr::new(10, 90, 0, 11));
    other.cluster_ips.v6 = Some(Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 11));
    other.ports = vec![service_port("http", 80)];
    other.external_ips = world.service.external_ips.clone();
    world.others = vec![other];
    // The other Service has no endpoints, and the first name.
    world.expect("x", "external:80", "reject").expect("x", "vip:80", ALL_MASQUERADED);
    // A load balancer's address takes precedence over an external IP.
    world.others[0].external_ips = world.service.load_balancer_vips.clone();
    world.expect("x", "vip:80", ALL_MASQUERADED).expect("x", "external:80", ALL_MASQUERADED);
}

// ---- Source ranges ------------------------------------------------------------------------------

#[test]
fn case_69_clients_outside_source_ranges_are_dropped_at_vips() {
    let x = ["203.0.113.0/25", "2001:db8:ff00::/48"];
    restricted(&x)
        .expect("x", "vip:80", ALL_MASQUERADED)
        .expect("y", "vip:80", "drop")
        .expect("pod", "vip:80", "drop")
        .expect("node", "vip:80", "drop")
        .expect("y", "vip:443", "pass")
        .expect("y", "node:30080", ALL_MASQUERADED)
        .expect("y", "external:80", ALL_MASQUERADED)
        .expect("y", "cluster:80", ALL_MASQUERADED);
    // An external IP that is a VIP as well is a VIP.
    let mut both = restricted(&x);
    both.service.external_ips = both.service.load_balancer_vips.clone();
    both.expect("y", "vip:80", "drop");
    // Also under policy Local, and for Pods that are allowed.
    let mut local = restricted(&x);
    external_local(&mut local.service);
    local.expect("x", "vip:80", "e1").expect("y", "vip:80", "drop").expect("pod", "vip:80", "drop");
    let mut pods = restricted(&["10.50.0.0/16", "2001:db8:5000::/36"]);
    external_local(&mut pods.service);
    pods.expect("pod", "vip:80", ALL_KEPT).expect("x", "vip:80", "drop");
}

#[test]
fn cases_70_and_71_an_allowed_node_may_use_the_vip_as_source() {
    let with_node = ["192.0.2.0/24", "2001:db8::/64"];
    let mut world = restricted(&with_node);
    let second = Family::ALL.map(|family| address("vip-2", family));
    world.service.load_balancer_vips.extend(second);
    world.service.load_balancer_vips.sort_unstable();
    world
        .expect("node", "vip:80", ALL_MASQUERADED)
        .expect("vip", "vip:80", ALL_MASQUERADED)
        .expect("vip-2", "vip:80", ALL_MASQUERADED)
        .expect("vip", "vip-2:80", ALL_MASQUERADED)
        .expect("external", "vip:80", "drop")
        .expect("x", "vip:80", "drop");
    restricted(&["203.0.113.0/25", "2001:db8:ff00::/48"]).expect("vip", "vip:80", "drop");
}

#[test]
fn case_72_source_ranges_without_effect() {
    restricted(&["203.0.113.0/25", "0.0.0.0/0", "2001:db8:ff00::/48", "::/0"]).expect(
        "y",
        "vip:80",
        ALL_MASQUERADED,
    );
    for (ranges, open) in [("2001:db8:ff00::/48", Family::Ipv4), ("203.0.113.0/25", Family::Ipv6)] {
        let world = restricted(&[ranges]);
        for family in Family::ALL {
            let outcomes = world.outcomes("y", "vip:80", family);
            let is_open = outcomes.iter().all(|it| matches!(it.verdict, Verdict::Backend(_)));
            assert_eq!(is_open, family == open, "{ranges} in {family}");
        }
    }
}

#[test]
fn case_73_source_ranges_precede_rejection() {
    let nobody = restricted(&["203.0.113.0/25", "2001:db8:ff00::/48"]).without_endpoints();
    nobody.expect("y", "vip:80", "drop").expect("x", "vip:80", "reject");
}

// ---- Further cases ------------------------------------------------------------------------------

/// A node address in the Pods' network, such as that of a bridge, counts as a Pod's.
#[test]
fn a_node_address_in_the_pod_network_counts_as_a_pod() {
    let both = ["192.0.2.0/24", "2001:db8::/64"];
    let of = |world: Fixture| world.detect(DetectLocal::ClusterCidr(nets(&both)));
    for frontend in ["cluster:80", "vip:80", "external:80", "node:30080"] {
        of(with(external_local)).expect("node", frontend, ALL_KEPT);
    }
    // Under policy Cluster, external frontends do not distinguish clients.
    of(world()).expect("node", "cluster:80", ALL_KEPT).expect("node", "vip:80", ALL_MASQUERADED);
    // Packets that the node sends arrive on no interface.
    for pattern in [InterfacePattern::named("cni0"), InterfacePattern::starting_with("cni")] {
        let by = with(external_local).detect(DetectLocal::Interface(pattern.unwrap()));
        by.expect("node@cni0", "vip:80", ALL_MASQUERADED);
    }
}

/// With session affinity, the client is assumed to have no record: any backend is possible.
#[test]
fn affinity_reaches_all_backends_of_the_group() {
    with(|service| {
        external_local(service);
        service.affinity = Affinity::ClientIp { timeout: 60 };
    })
    .expect("x", "vip:80", "e1")
    .expect("pod", "vip:80", ALL_KEPT)
    .expect("e1", "cluster:80", "e1+m e2 e3");
}

/// An endpoint at the node's own address is reached without leaving the node: arriving packets are
/// not masqueraded, since they do not pass postrouting; packets that the node sends are.
#[test]
fn an_endpoint_at_the_node_address_is_masqueraded_only_for_the_node() {
    let host = world().without_endpoints().endpoint("node", Some(HERE), Conditions::READY);
    host.expect("x", "cluster:80", "node")
        .expect("x", "vip:80", "node")
        .expect("pod", "cluster:80", "node")
        .expect("node", "cluster:80", "node+m")
        .expect("node", "vip:80", "node+m");
    // Not by the mark, but because it is both ends of the connection.
    let unknown = host.detect(DetectLocal::ClusterCidr(Vec::new()));
    let outcomes = unknown.outcomes("node", "cluster:80", Family::Ipv4);
    let why: Vec<_> = outcomes.iter().map(|outcome| outcome.masquerade).collect();
    assert_eq!(why, [Some(Masquerade::Hairpin)]);
}

/// An endpoint that names no node may be on this one: through any frontend and under any policy, it
/// is masqueraded when it reaches itself. It does not serve clients from outside under policy
/// Local.
#[test]
fn an_endpoint_without_a_node_can_reach_itself() {
    let placeless = |world: Fixture| {
        let world = world.without_endpoints().endpoint("e1", None, Conditions::READY);
        world.endpoint("e2", Some("nb"), Conditions::READY)
    };
    let plain = placeless(world());
    plain.expect("e1", "cluster:80", "e1+m e2").expect("pod", "cluster:80", "e1 e2").expect(
        "e1",
        "node:30080",
        "e1+m e2+m",
    );
    let local = placeless(with(external_local));
    for frontend in ["vip:80", "external:80", "node:30080"] {
        local.expect("e1", frontend, "e1+m e2").expect("pod", frontend, "e1 e2");
        local.expect("x", frontend, "drop");
    }
    let why = local.outcomes("e1", "vip:80", Family::Ipv6);
    assert!(why.iter().any(|outcome| outcome.masquerade == Some(Masquerade::Hairpin)), "{why:?}");
    // Under internal policy Local, it does not count as local.
    placeless(with(internal_local)).expect("e1", "cluster:80", "drop");
    // If Pods cannot be recognised, there is no other masquerading.
    let unknown = placeless(world()).detect(DetectLocal::ClusterCidr(Vec::new()));
    unknown.expect("e1", "cluster:80", "e1+m e2");
}

/// The path consists of the rules that took effect, and the chain that decided is named.
#[test]
fn the_path_names_the_rules_that_took_effect() {
    let told = |world: &Fixture, client, frontend| -> Vec<(Option<ChainId>, Vec<String>)> {
        let outcomes = world.outcomes(client, frontend, Family::Ipv4).into_iter();
        outcomes
            .map(|it| (it.decided_in, it.path.into_iter().map(|step| step.chain).collect()))
            .collect()
    };
    let found = told(&world(), "y", "elsewhere:80");
    assert_eq!(found, [(None, Vec::new())], "no rule took effect");

    let found = told(&restricted(&["203.0.113.0/25"]), "y", "vip:80");
    let chains = ["prerouting", "dispatch", "firewall"].map(str::to_owned).to_vec();
    assert_eq!(found, [(Some(ChainId::Firewall), chains)]);

    let found = told(&with(external_local), "x", "vip:80");
    let [(Some(ChainId::Pick(..)), chains)] = found.as_slice() else { panic!("{found:?}") };
    let expected = ["prerouting", "dispatch", "serve", "split", "outside", "serve", "pick-1"];
    assert_eq!(chains, &expected);

    // A client that is not known to be a Pod is marked at a cluster address, in a rule of `serve`.
    let kept = ["serve", "pick-3"].as_slice();
    for (client, rest) in
        [("pod", kept), ("x", &["serve", "serve", "pick-3", "postrouting", "translated"])]
    {
        for (decided, chains) in told(&world(), client, "cluster:80") {
            assert!(matches!(decided, Some(ChainId::Pick(..))), "{decided:?}");
            let expected = [&["prerouting", "dispatch"], rest].concat();
            assert_eq!(chains, expected, "{client}");
        }
    }
    let found = told(&world(), "x", "cluster:81");
    let chains = ["filter-forward", "new-output"].map(str::to_owned).to_vec();
    assert_eq!(found, [(Some(ChainId::NewOutput), chains)]);
    let outcomes = world().outcomes("x", "cluster:81", Family::Ipv4);
    assert!(outcomes.iter().all(|it| it.masquerade.is_none()), "it is to no Service port");

    let found = told(&world(), "node", "nobody:80");
    let chains = ["filter-output", "new-output"].map(str::to_owned).to_vec();
    assert_eq!(found, [(Some(ChainId::NewOutput), chains)]);
}

/// Without a table, or if a chain is not intact, packets pass.
#[test]
fn a_packet_passes_without_our_rules() {
    let state = world().state();
    let packet = Packet {
        source: address("x", Family::Ipv4),
        interface: None,
        destination: address("vip", Family::Ipv4),
        transport: Some((Protocol::Tcp, number(80))),
    };
    let verdicts = |state: &State| -> Vec<Verdict> {
        let outcomes = oracle::explain(state, &packet, 0x4000, &is_own);
        outcomes.into_iter().map(|outcome| outcome.verdict).collect()
    };
    assert_eq!(verdicts(&state).len(), 3);
    assert_eq!(verdicts(&State::default()), [Verdict::Pass]);
    let mut altered = state;
    for table in altered.tables.values_mut() {
        table.chains.insert(ChainId::Prerouting, ChainContent::Other);
    }
    assert_eq!(verdicts(&altered), [Verdict::Pass]);
}
