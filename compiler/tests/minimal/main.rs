//! The cost of each typical change: its exact operations, one line each.
//!
//! In addition, every change is checked as in `laws`: it is valid for a kernel, leads to the right
//! state, and there is no smaller one. Classes of session affinity, which Services share, are left
//! out of the lines: see `a_class_is_added_with_the_first_service_that_has_its_timeout`.

mod balancing;
mod ipvs;
mod policies;
#[path = "../support/mod.rs"]
mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rulec_compiler::name::{NodeName, Zone};
use rulec_compiler::net::Family;
use rulec_compiler::nft::Key;
use rulec_compiler::object::{
    Affinity, Conditions, Endpoint, EndpointSlice, Hints, Node, Object, Service, ServiceType,
    TrafficPolicy,
};
use rulec_compiler::program::Fragment;
use rulec_compiler::{
    Change, Delta, Dirty, Model, Op, Origin, Program, Provenance, Sourced, Stage, State,
};

use support::{
    HERE, bare_service, bare_slice, checked_delta, endpoint, model, nets, number, replacement,
    service_port, settings, slice_port,
};

// ---- Objects ------------------------------------------------------------------------------------

/// Service default/web, ClusterIP 10.96.0.1, port http 80.
fn web(change: impl FnOnce(&mut Service)) -> Object {
    service("web", 1, change)
}

fn service(name: &str, number: u8, change: impl FnOnce(&mut Service)) -> Object {
    let mut service = bare_service("default", name);
    service.cluster_ips.v4 = Some(Ipv4Addr::new(10, 96, 0, number));
    service.ports = vec![service_port("http", 80)];
    change(&mut service);
    Object::Service(Arc::new(service))
}

/// Adds node port 30080 and external IP 192.0.2.1.
fn exposed(service: &mut Service) {
    service.kind = ServiceType::NodePort;
    service.ports[0].node_port = Some(number(30080));
    service.external_ips = vec![external(1)];
}

/// Adds a load balancer's VIP, 192.0.2.1, with external policy Local.
fn outside_local(service: &mut Service) {
    balanced(service);
    service.external_policy = TrafficPolicy::Local;
}

/// Adds a load balancer's VIP, 192.0.2.1.
fn balanced(service: &mut Service) {
    service.kind = ServiceType::LoadBalancer;
    service.load_balancer_vips = vec![external(1)];
}

/// Sets internal policy Local.
fn inside_local(service: &mut Service) {
    service.internal_policy = TrafficPolicy::Local;
}

/// Adds the VIP, with access for these clients only.
fn restricted(ranges: &[&str]) -> impl FnOnce(&mut Service) {
    let ranges = nets(ranges);
    move |service| {
        balanced(service);
        service.source_ranges = ranges;
    }
}

fn sticky(service: &mut Service) {
    service.affinity = Affinity::ClientIp { timeout: 10 };
}

fn external(d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, d))
}

/// Returns an endpoint at 10.0.0.d, on another node.
fn at(d: u8) -> Endpoint {
    endpoint(IpAddr::V4(Ipv4Addr::new(10, 0, 0, d)), Conditions::READY, Some("there"))
}

/// Returns an endpoint that names no node, like one that was written by hand.
fn placeless(d: u8) -> Endpoint {
    Endpoint { node: None, ..at(d) }
}

fn local(d: u8) -> Endpoint {
    endpoint(at(d).address, Conditions::READY, Some(HERE))
}

fn not_ready(d: u8) -> Endpoint {
    let conditions = Conditions { ready: false, serving: false, terminating: false };
    endpoint(at(d).address, conditions, Some("there"))
}

fn terminating(d: u8) -> Endpoint {
    let conditions = Conditions { ready: false, serving: true, terminating: true };
    endpoint(at(d).address, conditions, Some("there"))
}

/// Returns the endpoint with a hint for a zone.
fn hinted(endpoint: Endpoint, zone: &str) -> Endpoint {
    let hints = Hints { zones: [Zone::from(zone)].into(), nodes: [].into() };
    Endpoint { hints: Some(Box::new(hints)), ..endpoint }
}

fn local_terminating(d: u8) -> Endpoint {
    Endpoint { node: Some(NodeName::from(HERE)), ..terminating(d) }
}

fn slice(service: &str, name: &str, endpoints: &[Endpoint]) -> EndpointSlice {
    let family = endpoints.first().map_or(Family::Ipv4, |first| Family::of(first.address));
    let mut slice = bare_slice("default", name, service, family);
    slice.ports = vec![slice_port("http", 8080)];
    slice.endpoints = endpoints.to_vec();
    slice
}

/// Returns slice web-1 of default/web.
fn endpoints(endpoints: &[Endpoint]) -> Object {
    Object::EndpointSlice(Arc::new(slice("web", "web-1", endpoints)))
}

/// Returns another slice, of any Service.
fn more(service: &str, name: &str, endpoints: &[Endpoint]) -> Object {
    Object::EndpointSlice(Arc::new(slice(service, name, endpoints)))
}

fn node(addresses: &[IpAddr]) -> Object {
    node_with(|node| node.addresses = addresses.to_vec())
}

fn node_in(zone: &str) -> Object {
    node_with(|node| node.zone = Some(Zone::from(zone)))
}

fn node_with(change: impl FnOnce(&mut Node)) -> Object {
    let mut node = Node {
        name: NodeName::from(HERE),
        addresses: Vec::new(),
        pod_cidrs: Vec::new(),
        zone: None,
        taints: Vec::new(),
        deleting: false,
    };
    change(&mut node);
    Object::Node(Arc::new(node))
}

// ---- Operations ---------------------------------------------------------------------------------

struct Daemon {
    model: Model,
    program: Program,
}

impl Daemon {
    fn start(objects: &[Object]) -> Self {
        let model = model(objects);
        let program = Program::compile(&model, settings(), &State::default());
        Self { model, program }
    }

    fn apply(&mut self, change: Change) -> (Dirty, Delta) {
        let before = self.program.clone();
        let dirty = self.model.apply(Origin::Manifests, change);
        self.program.update(&self.model, &dirty);
        (dirty, checked_delta(&before, &self.program))
    }
}

/// Returns the operations on elements from one set of objects to another, made in one batch.
fn ops(before: &[Object], after: &[Object]) -> Vec<String> {
    history(&[before, after])
}

/// Returns the operations of the last step.
fn history(steps: &[&[Object]]) -> Vec<String> {
    let mut daemon = Daemon::start(&[]);
    let mut last = Vec::new();
    for objects in steps {
        let (_, delta) = daemon.apply(replacement(objects));
        last = lines(&delta);
    }
    last
}

fn lines(delta: &Delta) -> Vec<String> {
    let is_class = |key| matches!(key, Key::Class(..) | Key::Draw(..));
    let is_skeleton = |op: &Op| op.element().is_none_or(|element| is_class(element.key));
    let is_shown = |op: &&Op| matches!(op, Op::Ipvs(_)) || !is_skeleton(op);
    delta.ops().filter(is_shown).map(line).collect()
}

fn line(op: &Op) -> String {
    let command = op.commands(0x4000);
    let command = command.trim_end().replace("element ip6 rulec", "ip6");
    command.replace("element ip rulec ", "").replace("{ ", "").replace(" }", "")
}

// ---- Endpoints ----------------------------------------------------------------------------------

#[test]
fn adding_an_endpoint_takes_three_operations() {
    let found = ops(
        &[web(|_| ()), endpoints(&[at(1), at(2), at(3)])],
        &[web(|_| ()), endpoints(&[at(1), at(2), at(3), at(4)])],
    );
    assert_eq!(
        found,
        [
            "add endpoints 0:1000 . tcp . 3 : 10.0.0.4 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1404",
        ]
    );
}

#[test]
fn a_new_endpoint_takes_the_last_slot_whatever_its_address() {
    let found = ops(
        &[web(|_| ()), endpoints(&[at(2), at(3)])],
        &[web(|_| ()), endpoints(&[at(1), at(2), at(3)])],
    );
    assert_eq!(
        found,
        [
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.1 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
        ]
    );
}

#[test]
fn removing_the_endpoint_in_the_last_slot_takes_three_operations() {
    let found = ops(
        &[web(|_| ()), endpoints(&[at(1), at(2), at(3)])],
        &[web(|_| ()), endpoints(&[at(1), at(2)])],
    );
    assert_eq!(
        found,
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete endpoints 0:1000 . tcp . 2",
        ]
    );
}

#[test]
fn removing_the_endpoint_in_another_slot_takes_five_operations() {
    let found = ops(
        &[web(|_| ()), endpoints(&[at(1), at(2), at(3)])],
        &[web(|_| ()), endpoints(&[at(2), at(3)])],
    );
    assert_eq!(
        found,
        [
            "delete endpoints 0:1000 . tcp . 0",
            "add endpoints 0:1000 . tcp . 0 : 10.0.0.3 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete endpoints 0:1000 . tcp . 2",
        ]
    );
}

#[test]
fn a_returning_endpoint_takes_the_last_slot() {
    let three = [web(|_| ()), endpoints(&[at(1), at(2), at(3)])];
    let two = [web(|_| ()), endpoints(&[at(2), at(3)])];
    let found = history(&[&three, &two, &three]);
    assert_eq!(
        found,
        [
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.1 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
        ]
    );
}

#[test]
fn replacing_an_endpoint_in_one_batch_takes_two_operations() {
    let found = ops(
        &[web(|_| ()), endpoints(&[at(1), at(2), at(3)])],
        &[web(|_| ()), endpoints(&[at(1), at(3), at(9)])],
    );
    assert_eq!(
        found,
        ["delete endpoints 0:1000 . tcp . 1", "add endpoints 0:1000 . tcp . 1 : 10.0.0.9 . 8080"]
    );
}

#[test]
fn losing_and_regaining_readiness_takes_three_operations_each() {
    let ready = [web(|_| ()), endpoints(&[at(1), at(2), at(3)])];
    let unready = [web(|_| ()), endpoints(&[at(1), at(2), not_ready(3)])];
    assert_eq!(
        ops(&ready, &unready),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete endpoints 0:1000 . tcp . 2",
        ]
    );
    assert_eq!(
        history(&[&ready, &unready, &ready]),
        [
            "add endpoints 0:1000 . tcp . 2 : 10.0.0.3 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1403",
        ]
    );
}

#[test]
fn conditions_of_an_unused_endpoint_take_no_operation() {
    let before = [web(|_| ()), endpoints(&[at(1), not_ready(2)])];
    let after = [web(|_| ()), endpoints(&[at(1), terminating(2)])];
    assert_eq!(ops(&before, &after), [""; 0]);
}

#[test]
fn termination_of_all_endpoints_takes_no_operation() {
    let before = [web(|_| ()), endpoints(&[at(1), at(2)])];
    let after = [web(|_| ()), endpoints(&[terminating(1), terminating(2)])];
    assert_eq!(ops(&before, &after), [""; 0]);
}

/// Up to eight endpoints: the endpoint is in the table once, and the size in the codes of all
/// frontends changes.
#[test]
fn adding_an_endpoint_takes_one_operation_and_two_per_frontend() {
    let found =
        ops(&[web(exposed), endpoints(&[at(1)])], &[web(exposed), endpoints(&[at(1), at(2)])]);
    assert_eq!(
        found,
        [
            "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1802",
            "delete nodeports tcp . 30080",
            "add nodeports tcp . 30080 comment \"default/web:http\" : 0:1802",
        ]
    );
}

/// Above eight: the size stays, and so do the codes of all frontends.
#[test]
fn adding_an_endpoint_to_many_takes_one_operation() {
    let nine: Vec<Endpoint> = (1..=9).map(at).collect();
    let ten: Vec<Endpoint> = (1..=10).map(at).collect();
    assert_eq!(
        ops(&[web(exposed), endpoints(&nine)], &[web(exposed), endpoints(&ten)]),
        ["add endpoints 0:1000 . tcp . 9 : 10.0.0.10 . 8080"]
    );
    assert_eq!(
        ops(&[web(exposed), endpoints(&ten)], &[web(exposed), endpoints(&nine)]),
        ["delete endpoints 0:1000 . tcp . 9"]
    );
}

#[test]
fn the_first_endpoint_ends_the_rejection() {
    let found = ops(&[web(|_| ()), endpoints(&[])], &[web(|_| ()), endpoints(&[at(1)])]);
    assert_eq!(
        found,
        [
            "add endpoints 0:1000 . tcp . 0 : 10.0.0.1 . 8080",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1401",
            "delete reject-services 10.96.0.1 . tcp . 80",
        ]
    );
}

#[test]
fn removing_the_last_endpoint_starts_the_rejection() {
    let found = ops(&[web(|_| ()), endpoints(&[at(1)])], &[web(|_| ()), endpoints(&[])]);
    assert_eq!(
        found,
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add reject-services 10.96.0.1 . tcp . 80 comment \"default/web:http\"",
            "delete endpoints 0:1000 . tcp . 0",
        ]
    );
}

#[test]
fn a_repeated_slice_is_no_change() {
    let mut daemon = Daemon::start(&[web(exposed), endpoints(&[at(1), at(2)])]);
    let again =
        Sourced { object: endpoints(&[at(1), at(2)]), provenance: Provenance("moved".into()) };
    let (dirty, delta) = daemon.apply(Change::Apply(again));
    assert_eq!(dirty, Dirty { unchanged: 1, ..Dirty::default() });
    assert!(delta.is_empty(), "{delta:?}");
}

#[test]
fn moving_an_endpoint_between_slices_takes_no_operation() {
    let found = ops(
        &[web(|_| ()), endpoints(&[at(1), at(2)]), more("web", "web-2", &[at(3)])],
        &[web(|_| ()), endpoints(&[at(2)]), more("web", "web-2", &[at(1), at(3)])],
    );
    assert_eq!(found, [""; 0]);
}

#[test]
fn a_second_copy_of_an_endpoint_takes_no_operation() {
    let one = [web(|_| ()), endpoints(&[at(1), at(2)])];
    let two = [
        web(|_| ()),
        endpoints(&[at(1), at(2)]),
        more("web", "web-2", &[terminating(1), not_ready(2)]),
    ];
    assert_eq!(ops(&one, &two), [""; 0]);
    assert_eq!(ops(&two, &one), [""; 0]);
}

#[test]
fn removing_the_ready_copy_of_an_endpoint_removes_it() {
    let two = [web(|_| ()), endpoints(&[at(1), at(2)]), more("web", "web-2", &[terminating(2)])];
    let one = [web(|_| ()), endpoints(&[at(1)]), more("web", "web-2", &[terminating(2)])];
    assert_eq!(
        ops(&two, &one),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1401",
            "delete endpoints 0:1000 . tcp . 1",
        ]
    );
}

// ---- Frontends ----------------------------------------------------------------------------------

#[test]
fn an_external_ip_takes_one_operation() {
    let without = [web(|_| ()), endpoints(&[at(1), at(2)])];
    let with =
        [web(|service| service.external_ips = vec![external(1)]), endpoints(&[at(1), at(2)])];
    assert_eq!(
        ops(&without, &with),
        ["add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1802"]
    );
    assert_eq!(ops(&with, &without), ["delete services 192.0.2.1 . tcp . 80"]);
}

#[test]
fn an_external_ip_that_becomes_a_vip_takes_no_operation() {
    let external_ip =
        [web(|service| service.external_ips = vec![external(1)]), endpoints(&[at(1)])];
    let vip = [web(|service| service.load_balancer_vips = vec![external(1)]), endpoints(&[at(1)])];
    assert_eq!(ops(&external_ip, &vip), [""; 0]);
}

#[test]
fn changing_a_vip_replaces_only_its_element() {
    let with = |d| {
        let vip = move |service: &mut Service| service.load_balancer_vips = vec![external(d)];
        [web(vip), endpoints(&[at(1)])]
    };
    assert_eq!(
        ops(&with(1), &with(2)),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.2 . tcp . 80 comment \"default/web:http\" : 0:1801",
        ]
    );
}

#[test]
fn changing_a_port_number_replaces_only_its_element() {
    let with = |port| {
        let port = move |service: &mut Service| service.ports[0].port = number(port);
        [web(port), endpoints(&[at(1)])]
    };
    assert_eq!(
        ops(&with(80), &with(81)),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 81 comment \"default/web:http\" : 0:1401",
        ]
    );
}

#[test]
fn changing_a_node_port_leaves_other_frontends_alone() {
    let with = |port| {
        let port = move |service: &mut Service| {
            exposed(service);
            service.ports[0].node_port = Some(number(port));
        };
        [web(port), endpoints(&[at(1)])]
    };
    assert_eq!(
        ops(&with(30080), &with(30081)),
        [
            "delete nodeports tcp . 30080",
            "add nodeports tcp . 30081 comment \"default/web:http\" : 0:1801",
        ]
    );
}

#[test]
fn renaming_a_port_changes_only_the_comment() {
    let named = |name: &str| {
        let mut slice = slice("web", "web-1", &[at(1), at(2)]);
        slice.ports = vec![slice_port(name, 8080)];
        [
            web(|service| service.ports = vec![service_port(name, 80)]),
            Object::EndpointSlice(Arc::new(slice)),
        ]
    };
    assert_eq!(
        ops(&named("http"), &named("main")),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:main\" : 0:1402",
        ]
    );
}

#[test]
fn renaming_a_port_keeps_its_slots() {
    let named = |name: &str, endpoints: &[Endpoint]| {
        let mut slice = slice("web", "web-1", endpoints);
        slice.ports = vec![slice_port(name, 8080)];
        [
            web(|service| service.ports = vec![service_port(name, 80)]),
            Object::EndpointSlice(Arc::new(slice)),
        ]
    };
    let two = named("http", &[at(2), at(3)]);
    let three = named("http", &[at(1), at(2), at(3)]);
    let renamed = named("main", &[at(1), at(2), at(3)]);
    assert_eq!(
        history(&[&two, &three, &renamed]),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:main\" : 0:1403",
        ]
    );
}

#[test]
fn changing_the_target_port_takes_two_operations_per_backend() {
    let to = |port| {
        let mut slice = slice("web", "web-1", &[at(1), at(2)]);
        slice.ports = vec![slice_port("http", port)];
        [web(|_| ()), Object::EndpointSlice(Arc::new(slice))]
    };
    assert_eq!(
        ops(&to(8080), &to(9090)),
        [
            "delete endpoints 0:1000 . tcp . 0",
            "add endpoints 0:1000 . tcp . 0 : 10.0.0.1 . 9090",
            "delete endpoints 0:1000 . tcp . 1",
            "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 9090",
        ]
    );
}

#[test]
fn fields_that_affect_no_frontend_take_no_operation() {
    let before = [web(|_| ()), endpoints(&[at(1)])];
    let after = [
        web(|service| {
            service.publish_not_ready = true;
            service.health_check_node_port = Some(number(32000));
        }),
        endpoints(&[at(1)]),
    ];
    assert_eq!(ops(&before, &after), [""; 0]);
}

#[test]
fn removing_a_service_removes_all_its_elements() {
    let found = ops(&[web(|_| ()), endpoints(&[local(1), at(2)])], &[]);
    assert_eq!(
        found,
        [
            "delete cluster-ips 10.96.0.1",
            "delete hairpin 10.0.0.1 . 10.0.0.1",
            "delete services 10.96.0.1 . tcp . 80",
            "delete endpoints 0:1000 . tcp . 0",
            "delete endpoints 0:1000 . tcp . 1",
        ]
    );
}

#[test]
fn removing_slices_before_their_service_takes_no_more_operations() {
    let mut daemon = Daemon::start(&[web(|_| ()), endpoints(&[at(1)])]);
    let before = daemon.program.clone();
    let mut dirty = daemon.model.apply(Origin::Manifests, Change::Remove(endpoints(&[]).key()));
    dirty.merge(daemon.model.apply(Origin::Manifests, Change::Remove(web(|_| ()).key())));
    daemon.program.update(&daemon.model, &dirty);
    assert_eq!(
        lines(&checked_delta(&before, &daemon.program)),
        [
            "delete cluster-ips 10.96.0.1",
            "delete services 10.96.0.1 . tcp . 80",
            "delete endpoints 0:1000 . tcp . 0",
        ]
    );
}

#[test]
fn a_service_without_endpoints_takes_two_operations() {
    assert_eq!(
        ops(&[], &[web(|_| ())]),
        [
            "add cluster-ips 10.96.0.1",
            "add reject-services 10.96.0.1 . tcp . 80 comment \"default/web:http\"",
        ]
    );
}

#[test]
fn families_are_changed_independently() {
    let v6 = |d: u16| {
        let address = IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, d));
        endpoint(address, Conditions::READY, Some(HERE))
    };
    let dual = || {
        web(|service| {
            exposed(service);
            service.cluster_ips.v6 = Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
        })
    };
    let four = endpoints(&[at(1)]);
    let six = |endpoints: &[Endpoint]| more("web", "web-6", endpoints);
    assert_eq!(
        ops(&[dual(), four.clone(), six(&[v6(1)])], &[dual(), four.clone(), six(&[v6(1), v6(2)])]),
        [
            "add ip6 hairpin fd00::1:2 . fd00::1:2",
            "add ip6 endpoints 0:2000 . tcp . 1 : fd00::1:2 . 8080",
            "delete ip6 services fd00::1 . tcp . 80",
            "add ip6 services fd00::1 . tcp . 80 comment \"default/web:http\" : 0:2402",
            "delete ip6 nodeports tcp . 30080",
            "add ip6 nodeports tcp . 30080 comment \"default/web:http\" : 0:2802",
        ]
    );
    // The second family adds only its own elements.
    assert_eq!(
        ops(&[web(exposed), four.clone(), six(&[v6(1)])], &[dual(), four, six(&[v6(1)])]),
        [
            "add ip6 cluster-ips fd00::1",
            "add ip6 hairpin fd00::1:1 . fd00::1:1",
            "add ip6 endpoints 0:2000 . tcp . 0 : fd00::1:1 . 8080",
            "add ip6 services fd00::1 . tcp . 80 comment \"default/web:http\" : 0:2401",
            "add ip6 nodeports tcp . 30080 comment \"default/web:http\" : 0:2801",
        ]
    );
}

// ---- Session affinity ---------------------------------------------------------------------------

/// The head takes two operations, and the size one. Each endpoint takes three: its slot, its
/// member, and the deletion of its element without affinity.
#[test]
fn affinity_makes_each_backend_a_member() {
    let backends = endpoints(&[at(1), at(2), at(3)]);
    let found = ops(&[web(|_| ()), backends.clone()], &[web(sticky), backends]);
    assert_eq!(
        found,
        [
            "add member-groups 0:1000 : 0:1003",
            "add member-slots 0:1000 . 0 : 0:1d6c",
            "add member-slots 0:1000 . 1 : 0:192d",
            "add member-slots 0:1000 . 2 : 0:1a52",
            "add members 0:192d . tcp : 10.0.0.2 . 8080",
            "add members 0:1a52 . tcp : 10.0.0.3 . 8080",
            "add members 0:1d6c . tcp : 10.0.0.1 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1440",
            "delete endpoints 0:1000 . tcp . 0",
            "delete endpoints 0:1000 . tcp . 1",
            "delete endpoints 0:1000 . tcp . 2",
        ]
    );
}

/// A start with affinity on a kernel without it does the same.
#[test]
fn affinity_enabled_at_a_start_gives_the_same_members() {
    let backends = endpoints(&[at(1), at(2), at(3)]);
    let before = Daemon::start(&[web(|_| ()), backends.clone()]).program;
    let after = model(&[web(sticky), backends]);
    let fresh = Program::compile(&after, settings(), &State::default());
    let seeded = Program::compile(&after, settings(), &before.state());
    assert_eq!(lines(&checked_delta(&before, &seeded)), lines(&checked_delta(&before, &fresh)));
    let again = Program::compile(&after, settings(), &seeded.state());
    assert!(checked_delta(&seeded, &again).is_empty(), "members in records are kept");
}

#[test]
fn changing_the_affinity_timeout_changes_only_the_class() {
    let backends = endpoints(&[at(1), at(2), at(3)]);
    let longer = |service: &mut Service| service.affinity = Affinity::ClientIp { timeout: 20 };
    assert_eq!(
        ops(&[web(sticky), backends.clone()], &[web(longer), backends]),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1441",
        ]
    );
}

/// Whatever the number of frontends: the size of the group is not in their codes.
#[test]
fn adding_an_endpoint_with_affinity_takes_four_operations() {
    let exposed = |service: &mut Service| {
        exposed(service);
        sticky(service);
    };
    assert_eq!(
        ops(&[web(exposed), endpoints(&[at(1)])], &[web(exposed), endpoints(&[at(1), at(2)])]),
        [
            "delete member-groups 0:1000",
            "add member-groups 0:1000 : 0:1002",
            "add member-slots 0:1000 . 1 : 0:192d",
            "add members 0:192d . tcp : 10.0.0.2 . 8080",
        ]
    );
}

/// Above eight, the size stays: the slot and the member.
#[test]
fn adding_an_endpoint_with_affinity_to_many_takes_two_operations() {
    let nine: Vec<Endpoint> = (1..=9).map(at).collect();
    let ten: Vec<Endpoint> = (1..=10).map(at).collect();
    assert_eq!(
        ops(&[web(sticky), endpoints(&nine)], &[web(sticky), endpoints(&ten)]),
        ["add member-slots 0:1000 . 9 : 0:1c75", "add members 0:1c75 . tcp : 10.0.0.10 . 8080",]
    );
}

#[test]
fn a_backend_with_affinity_stays_the_same_member_when_it_moves() {
    let found = ops(
        &[web(sticky), endpoints(&[at(1), at(2), at(3)])],
        &[web(sticky), endpoints(&[at(2), at(3)])],
    );
    assert_eq!(
        found,
        [
            "delete member-groups 0:1000",
            "add member-groups 0:1000 : 0:1002",
            "delete member-slots 0:1000 . 0",
            "add member-slots 0:1000 . 0 : 0:1a52",
            "delete member-slots 0:1000 . 2",
            "delete members 0:1d6c . tcp",
        ]
    );
}

// ---- Shared elements ----------------------------------------------------------------------------

#[test]
fn adding_a_local_endpoint_takes_one_more_operation() {
    let found =
        ops(&[web(|_| ()), endpoints(&[at(1)])], &[web(|_| ()), endpoints(&[at(1), local(2)])]);
    assert_eq!(
        found,
        [
            "add hairpin 10.0.0.2 . 10.0.0.2",
            "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
        ]
    );
}

#[test]
fn an_endpoint_that_becomes_local_takes_one_operation() {
    let before = [web(|_| ()), endpoints(&[at(1)])];
    let after = [web(|_| ()), endpoints(&[local(1)])];
    assert_eq!(ops(&before, &after), ["add hairpin 10.0.0.1 . 10.0.0.1"]);
}

/// It may be on this node, and then must be able to reach itself. Under policy Local it does not
/// count as local.
#[test]
fn adding_an_endpoint_without_a_node_takes_one_more_operation() {
    let with = |more: Endpoint| [web(|_| ()), endpoints(&[at(1), more])];
    let found = ops(&with(not_ready(2)), &with(placeless(2)));
    assert_eq!(
        found,
        [
            "add hairpin 10.0.0.2 . 10.0.0.2",
            "add endpoints 0:1000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:1402",
        ]
    );
    assert_eq!(ops(&with(placeless(2)), &with(at(2))), ["delete hairpin 10.0.0.2 . 10.0.0.2"]);
    assert_eq!(ops(&with(placeless(2)), &with(local(2))), [""; 0], "it has a hairpin already");
    let local = |it: Endpoint| [web(inside_local), endpoints(&[at(1), it])];
    assert_eq!(ops(&local(at(2)), &local(placeless(2))), [""; 0]);
}

#[test]
fn a_shared_hairpin_is_kept_until_its_last_user_is_removed() {
    let api = || service("api", 2, |_| ());
    let both = [web(|_| ()), api(), endpoints(&[local(1)]), more("api", "api-1", &[local(1)])];
    let one = [web(|_| ()), api(), endpoints(&[local(1)])];
    let none = [web(|_| ()), api()];
    assert_eq!(
        ops(&both, &one),
        [
            "delete services 10.96.0.2 . tcp . 80",
            "add reject-services 10.96.0.2 . tcp . 80 comment \"default/api:http\"",
            "delete endpoints 0:1000 . tcp . 0",
        ]
    );
    assert_eq!(
        history(&[&both, &one, &none]),
        [
            "delete hairpin 10.0.0.1 . 10.0.0.1",
            "delete services 10.96.0.1 . tcp . 80",
            "add reject-services 10.96.0.1 . tcp . 80 comment \"default/web:http\"",
            "delete endpoints 0:2000 . tcp . 0",
        ]
    );
}

#[test]
fn a_cluster_address_is_kept_until_its_last_port_is_removed() {
    let two = |service: &mut Service| service.ports.push(service_port("metrics", 9100));
    assert_eq!(ops(&[web(two)], &[web(|_| ())]), ["delete reject-services 10.96.0.1 . tcp . 9100"]);
    assert_eq!(
        ops(&[web(|_| ())], &[web(two)]),
        ["add reject-services 10.96.0.1 . tcp . 9100 comment \"default/web:metrics\""]
    );
    assert_eq!(
        history(&[&[web(two)], &[web(|_| ())], &[]]),
        ["delete cluster-ips 10.96.0.1", "delete reject-services 10.96.0.1 . tcp . 80"]
    );
}

#[test]
fn a_contested_external_ip_passes_to_the_remaining_service() {
    let claim = |service: &mut Service| service.external_ips = vec![external(1)];
    let shared = [
        service("a", 2, claim),
        web(claim),
        more("a", "a-1", &[at(1), at(2)]),
        endpoints(&[at(1), at(7)]),
    ];
    let left = [
        service("a", 2, |_| ()),
        web(claim),
        more("a", "a-1", &[at(1), at(2)]),
        endpoints(&[at(1), at(7)]),
    ];
    // Each has a group of its own, which stays as it is.
    assert_eq!(
        ops(&shared, &left),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:2802",
        ]
    );
    assert_eq!(
        history(&[&shared, &left, &shared]),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/a:http\" : 0:1802",
        ]
    );
}

#[test]
fn a_losing_claim_does_not_change_the_frontend() {
    let claim = |service: &mut Service| service.external_ips = vec![external(1)];
    let shared = |endpoints: &[Endpoint]| {
        let endpoints = more("web", "web-1", endpoints);
        [service("a", 2, claim), web(claim), more("a", "a-1", &[at(1)]), endpoints]
    };
    assert_eq!(
        ops(&shared(&[at(1)]), &shared(&[at(1), at(2)])),
        [
            "add endpoints 0:2000 . tcp . 1 : 10.0.0.2 . 8080",
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:2402",
        ]
    );
}

// ---- Node and classes ---------------------------------------------------------------------------

#[test]
fn changing_the_node_address_takes_two_operations() {
    let address = |d| IpAddr::V4(Ipv4Addr::new(172, 16, 0, d));
    let with = |node| [node, web(exposed), endpoints(&[at(1)])];
    assert_eq!(
        ops(&with(node(&[address(1)])), &with(node(&[address(2)]))),
        ["delete node-ips 172.16.0.1", "add node-ips 172.16.0.2"]
    );
    // Only the first address is used.
    assert_eq!(ops(&with(node(&[address(1)])), &with(node(&[address(1), address(2)]))), [""; 0]);
    assert_eq!(
        ops(&[web(exposed), endpoints(&[at(1)])], &with(node(&[address(1)]))),
        [
            "add node-ips 172.16.0.1",
            "delete node-port-protocols tcp",
            "delete node-port-protocols udp",
            "delete node-port-protocols sctp",
        ]
    );
}

/// Services depend only on the zone and the first addresses of a node: for other changes nothing is
/// compiled, let alone written.
#[test]
fn unrelated_node_changes_compile_nothing() {
    let whole = |change: fn(&mut Node)| {
        node_with(|node| {
            node.zone = Some(Zone::from("z1"));
            node.addresses = vec![IpAddr::from([172, 16, 0, 1])];
            change(node);
        })
    };
    let services = [
        web(restricted(&["172.16.0.0/16"])),
        service("api", 2, exposed),
        endpoints(&[hinted(at(1), "z1"), hinted(at(2), "z2")]),
        more("api", "api-1", &[hinted(at(1), "z1"), hinted(at(2), "z2")]),
    ];
    let with = |node: Object| [&[node][..], &services].concat();
    let mut daemon = Daemon::start(&with(whole(|_| ())));
    let fragments = |daemon: &Daemon| -> Vec<Arc<Fragment>> {
        daemon.program.services().map(|(_, fragment)| Arc::clone(fragment)).collect()
    };
    let before = fragments(&daemon);
    let changes: [fn(&mut Node); 3] = [
        |node| node.taints = vec!["ToBeDeletedByClusterAutoscaler".into()],
        |node| node.deleting = true,
        |node| node.addresses.push(IpAddr::from([172, 17, 0, 1])),
    ];
    for change in changes {
        let (dirty, delta) = daemon.apply(replacement(&with(whole(change))));
        assert!(dirty.nodes.contains(&NodeName::from(HERE)), "{dirty:?}");
        assert!(delta.is_empty(), "{delta:?}");
        let after = fragments(&daemon);
        assert!(before.iter().zip(&after).all(|(old, new)| Arc::ptr_eq(old, new)));
    }
    // The zone is different: both Services are compiled.
    let (_, delta) = daemon.apply(replacement(&with(node_in("z2"))));
    assert_eq!(delta.groups.len(), 2);
}

/// Returns the commands without the comments of rules, which are hashes of the rules.
fn text(ops: &[Op]) -> String {
    let commands: String = ops.iter().map(|op| op.commands(0x4000)).collect();
    let said = commands.lines().filter_map(|line| line.split(" comment \"rulec:").next());
    said.map(|line| format!("{line}\n")).collect()
}

/// A map, a chain with its rules, and an element: whatever the number of Services with the timeout.
#[test]
fn a_class_is_added_with_the_first_service_that_has_its_timeout() {
    let before = [web(|_| ()), endpoints(&[at(1)])];
    let after = [web(sticky), endpoints(&[at(1)])];
    let mut daemon = Daemon::start(&before);
    let (_, delta) = daemon.apply(replacement(&after));
    let found = text(delta.shared.at(Stage::Prepare));
    let found: Vec<&str> = found.lines().collect();
    let [map, chain, rules @ .., element] = found.as_slice() else { panic!("{found:?}") };
    assert!(map.starts_with("add map ip rulec affinity-10 {"), "{map}");
    assert_eq!(*chain, "add chain ip rulec affinity-10");
    let is_rule = |line: &&str| line.starts_with("add rule ip rulec affinity-10 ");
    assert!(!rules.is_empty() && rules.iter().all(is_rule), "{rules:?}");
    assert_eq!(*element, "add element ip rulec classes { 0:40 : goto affinity-10 }");
    assert_eq!(delta.shared.at(Stage::Switch), []);
    assert_eq!(delta.shared.at(Stage::Retire), []);

    // The way back leaves it there for a while, and the next time it is used again.
    for objects in [&before, &after, &before] {
        let (_, delta) = daemon.apply(replacement(objects));
        assert_eq!(delta.shared.len(), 0);
    }

    // After it has been unused for long, it is removed.
    let used = daemon.program.clone();
    let idle: Vec<_> = daemon.program.idle_affinities().collect();
    idle.into_iter().for_each(|class| daemon.program.retire(class));
    let delta = checked_delta(&used, &daemon.program);
    let found = text(delta.shared.at(Stage::Retire));
    assert_eq!(
        found.lines().collect::<Vec<_>>(),
        [
            "delete element ip rulec classes { 0:40 }",
            "delete chain ip rulec affinity-10",
            "delete map ip rulec affinity-10",
        ]
    );
    assert_eq!(delta.len(), 3);
}

/// Another Service with the timeout shares it.
#[test]
fn a_second_service_with_the_timeout_adds_no_class() {
    let one = [web(sticky), endpoints(&[at(1)])];
    let two = [
        web(sticky),
        service("api", 2, sticky),
        endpoints(&[at(1)]),
        more("api", "api-1", &[at(1)]),
    ];
    let mut daemon = Daemon::start(&one);
    for objects in [&two[..], &one[..]] {
        let (_, delta) = daemon.apply(replacement(objects));
        assert_eq!(delta.shared.len(), 0);
    }
}

// ---- Size ---------------------------------------------------------------------------------------

#[test]
fn a_change_takes_the_same_operations_among_a_thousand_services() {
    let crowd = || -> Vec<Object> {
        let others = (0..1_000_u16).flat_map(|n| {
            let [c, d] = n.to_be_bytes();
            let name = format!("other-{n}");
            let service = service(&name, 0, |service| {
                service.cluster_ips.v4 = Some(Ipv4Addr::new(10, 97, c, d));
                service.ports[0].node_port = Some(number(31_000 + n));
            });
            [service, more(&name, &format!("{name}-1"), &[at(1), local(2)])]
        });
        others.collect()
    };
    let changes: [(Vec<Object>, Vec<Object>); 3] = [
        (
            vec![web(exposed), endpoints(&[at(1), at(2), at(3)])],
            vec![web(exposed), endpoints(&[at(2), at(3)])],
        ),
        (vec![web(sticky), endpoints(&[at(1)])], vec![web(sticky), endpoints(&[at(1), at(2)])]),
        (vec![web(|_| ())], vec![web(exposed)]),
    ];
    let crowd = crowd();
    for (before, after) in changes {
        let alone = ops(&before, &after);
        let among = |objects: &[Object]| [objects, crowd.as_slice()].concat();
        // The Service comes first, so that its groups have the same numbers.
        let mut daemon = Daemon::start(&before);
        daemon.apply(replacement(&among(&before)));
        let (dirty, delta) = daemon.apply(replacement(&among(&after)));
        assert_eq!(lines(&delta), alone);
        assert_eq!(dirty.services.len(), 1);
        assert_eq!(delta.groups.len(), 1);
    }
}
