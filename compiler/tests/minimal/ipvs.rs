//! The cost of changes in IPVS mode.
//!
//! An added or removed real server is one operation for each virtual server that has it, whatever
//! the others; so is a change of a virtual server's attributes. The rules have no endpoints: their
//! elements change only with the treatment of clients, and with hairpins.

use rulec_compiler::Settings;
use rulec_compiler::ipvs::Scheduler;
use rulec_compiler::net::Protocol;
use rulec_compiler::object::InterfaceAddresses;
use rulec_compiler::settings::{IpvsSettings, NodePortAddresses, ProxyMode};

use super::*;

const NOW: u32 = 1000;

/// Node ports are on every address, as is usual in this mode.
fn ipvs() -> Settings {
    Settings {
        proxy_mode: ProxyMode::Ipvs(IpvsSettings::default()),
        node_port_addresses: NodePortAddresses::Cidrs(Vec::new()),
        ..Settings::clone(&settings())
    }
}

/// Returns the operations of the last step, if all steps are made at the same time.
fn history(steps: &[&[Object]]) -> Vec<String> {
    run(steps).1
}

fn ops(before: &[Object], after: &[Object]) -> Vec<String> {
    history(&[before, after])
}

fn run(steps: &[&[Object]]) -> (Daemon, Vec<String>) {
    let model = Model::default();
    let program = Program::compile_at(&model, Arc::new(ipvs()), &State::default(), NOW);
    let mut daemon = Daemon { model, program };
    let mut last = Vec::new();
    for objects in steps {
        let (_, delta) = daemon.apply(replacement(objects));
        last = lines(&delta);
    }
    (daemon, last)
}

/// Returns the operations that remove the draining real servers.
fn retired(steps: &[&[Object]]) -> Vec<String> {
    let (mut daemon, _) = run(steps);
    let before = daemon.program.clone();
    for (real, _) in before.draining() {
        daemon.program.retire_real(real);
    }
    lines(&checked_delta(&before, &daemon.program))
}

fn interfaces(addresses: &[[u8; 4]]) -> Object {
    let addresses = addresses.iter().map(|address| IpAddr::from(*address)).collect();
    Object::InterfaceAddresses(Arc::new(InterfaceAddresses {
        addresses,
        ..InterfaceAddresses::default()
    }))
}

fn udp(change: impl FnOnce(&mut Service)) -> Object {
    web(|service| {
        service.ports[0].protocol = Protocol::Udp;
        change(service);
    })
}

fn udp_endpoints(endpoints: &[Endpoint]) -> Object {
    let mut slice = slice("web", "web-1", endpoints);
    slice.ports[0].protocol = Protocol::Udp;
    Object::EndpointSlice(Arc::new(slice))
}

// ---- Endpoints ----------------------------------------------------------------------------------

/// One: the real server. The rules do not depend on the number of the others.
#[test]
fn adding_an_endpoint_takes_one_operation() {
    let with = |endpoints: &[Endpoint]| [web(|_| ()), self::endpoints(endpoints)];
    assert_eq!(
        ops(&with(&[at(1), at(2)]), &with(&[at(1), at(2), at(3)])),
        ["# ipvsadm -a -t 10.96.0.1:80 -r 10.0.0.3:8080 -m -w 1"]
    );
}

/// One: weight 0, and an end in ten minutes. One more when that time is over.
#[test]
fn removing_an_endpoint_takes_one_operation_and_its_expiry_one() {
    let with = |endpoints: &[Endpoint]| [web(|_| ()), self::endpoints(endpoints)];
    let (two, one) = (with(&[at(1), at(2)]), with(&[at(1)]));
    assert_eq!(ops(&two, &one), ["# ipvsadm -e -t 10.96.0.1:80 -r 10.0.0.2:8080 -m -w 0 -x 1600"]);
    assert_eq!(retired(&[&two, &one]), ["# ipvsadm -d -t 10.96.0.1:80 -r 10.0.0.2:8080"]);
    let unready = with(&[at(1), not_ready(2)]);
    assert_eq!(ops(&two, &unready), ops(&two, &one), "lost readiness is the same");
}

/// Case 107. One: the weight.
#[test]
fn reviving_a_draining_endpoint_takes_one_operation() {
    let with = |endpoints: &[Endpoint]| [web(|_| ()), self::endpoints(endpoints)];
    let (two, one) = (with(&[at(1), at(2)]), with(&[at(1)]));
    assert_eq!(
        history(&[&two, &one, &two]),
        ["# ipvsadm -e -t 10.96.0.1:80 -r 10.0.0.2:8080 -m -w 1"]
    );
}

/// One: UDP has no connections to keep. The same without draining.
#[test]
fn removing_an_endpoint_without_draining_takes_one_operation() {
    let with = |endpoints: &[Endpoint]| [udp(|_| ()), udp_endpoints(endpoints)];
    let (two, one) = (with(&[at(1), at(2)]), with(&[at(1)]));
    assert_eq!(ops(&two, &one), ["# ipvsadm -d -u 10.96.0.1:80 -r 10.0.0.2:8080"]);
    assert_eq!(retired(&[&two, &one]), [""; 0]);

    let at_once = |service: &mut Service| service.ipvs.drain = Some(0);
    let with = |endpoints: &[Endpoint]| [web(at_once), self::endpoints(endpoints)];
    assert_eq!(
        ops(&with(&[at(1), at(2)]), &with(&[at(1)])),
        ["# ipvsadm -d -t 10.96.0.1:80 -r 10.0.0.2:8080"]
    );

    let by_address = |service: &mut Service| service.ipvs.scheduler = Some(Scheduler::Dh);
    let with = |endpoints: &[Endpoint]| [web(by_address), self::endpoints(endpoints)];
    assert_eq!(
        ops(&with(&[at(1), at(2)]), &with(&[at(1)])),
        ["# ipvsadm -d -t 10.96.0.1:80 -r 10.0.0.2:8080"]
    );
}

/// None: a longer drain time does not apply to real servers that already drain.
#[test]
fn changing_the_drain_time_takes_no_operation() {
    let drain = |seconds: u32| move |service: &mut Service| service.ipvs.drain = Some(seconds);
    let before = [web(drain(30)), endpoints(&[at(1)])];
    assert_eq!(ops(&before, &[web(drain(60)), endpoints(&[at(1)])]), [""; 0]);
    let two = [web(drain(30)), endpoints(&[at(1), at(2)])];
    let later = [web(drain(60)), endpoints(&[at(1)])];
    assert_eq!(history(&[&two, &before, &later]), [""; 0]);
}

/// One for each virtual server: the cluster address, the external IP, and the node port at each
/// address of the node. A local endpoint also adds a hairpin.
#[test]
fn adding_an_endpoint_takes_one_operation_per_virtual_server() {
    let node = || interfaces(&[[127, 0, 0, 1], [172, 16, 0, 1], [172, 16, 0, 2]]);
    let with = |endpoints: &[Endpoint]| [node(), web(exposed), self::endpoints(endpoints)];
    assert_eq!(
        ops(&with(&[at(1)]), &with(&[at(1), local(2)])),
        [
            "add hairpin 10.0.0.2 . 10.0.0.2",
            "# ipvsadm -a -t 10.96.0.1:80 -r 10.0.0.2:8080 -m -w 1",
            "# ipvsadm -a -t 172.16.0.1:30080 -r 10.0.0.2:8080 -m -w 1",
            "# ipvsadm -a -t 172.16.0.2:30080 -r 10.0.0.2:8080 -m -w 1",
            "# ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 1",
        ]
    );
}

/// Three: the rules now leave the frontend to IPVS instead of rejecting, and the real server. The
/// virtual server already exists (case 105).
#[test]
fn the_first_and_the_last_endpoint_take_three_operations_each() {
    let with = |endpoints: &[Endpoint]| [web(|_| ()), self::endpoints(endpoints)];
    let (none, one) = (with(&[]), with(&[at(1)]));
    assert_eq!(
        ops(&none, &one),
        [
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:17ff",
            "# ipvsadm -a -t 10.96.0.1:80 -r 10.0.0.1:8080 -m -w 1",
            "delete reject-services 10.96.0.1 . tcp . 80",
        ]
    );
    assert_eq!(
        ops(&one, &none),
        [
            "add reject-services 10.96.0.1 . tcp . 80 comment \"default/web:http\"",
            "# ipvsadm -e -t 10.96.0.1:80 -r 10.0.0.1:8080 -m -w 0 -x 1600",
            "delete services 10.96.0.1 . tcp . 80",
        ]
    );
}

// ---- Attributes of virtual servers --------------------------------------------------------------

/// One for each virtual server. Real servers and connections stay.
#[test]
fn changing_the_scheduler_takes_one_operation_per_virtual_server() {
    let with = |scheduler| {
        let service = move |service: &mut Service| {
            exposed(service);
            service.ipvs.scheduler = scheduler;
        };
        [web(service), endpoints(&[at(1), at(2)]), interfaces(&[[172, 16, 0, 1]])]
    };
    assert_eq!(
        ops(&with(None), &with(Some(Scheduler::Mh))),
        [
            "# ipvsadm -E -t 10.96.0.1:80 -s mh -b flag-1,flag-2",
            "# ipvsadm -E -t 172.16.0.1:30080 -s mh -b flag-1,flag-2",
            "# ipvsadm -E -t 192.0.2.1:80 -s mh -b flag-1,flag-2",
        ]
    );
    assert_eq!(ops(&with(None), &with(Some(Scheduler::Rr))), [""; 0], "that is the default");
}

/// One each: the rules are not involved.
#[test]
fn changing_affinity_takes_one_operation() {
    let with = |timeout: Option<u32>| {
        let affinity = timeout.map_or(Affinity::None, |timeout| Affinity::ClientIp { timeout });
        [web(|service| service.affinity = affinity), endpoints(&[at(1), at(2)])]
    };
    let (none, short, long) = (with(None), with(Some(10)), with(Some(20)));
    assert_eq!(ops(&none, &short), ["# ipvsadm -E -t 10.96.0.1:80 -s rr -p 10"]);
    assert_eq!(ops(&short, &long), ["# ipvsadm -E -t 10.96.0.1:80 -s rr -p 20"]);
    assert_eq!(ops(&long, &none), ["# ipvsadm -E -t 10.96.0.1:80 -s rr"]);
}

// ---- Policies -----------------------------------------------------------------------------------

/// Two for the head, which now distinguishes clients; one for the element that leads clients
/// from outside to the local group; and one for each real server on other nodes. The cluster
/// address is not affected.
#[test]
fn external_policy_takes_three_operations_and_one_per_remote_endpoint() {
    let backends = || endpoints(&[at(1), at(2), local(3)]);
    let (cluster, local) = ([web(balanced), backends()], [web(outside_local), backends()]);
    assert_eq!(
        ops(&cluster, &local),
        [
            "add local-groups 0:1000 : 0:23ff",
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1fff",
            "# ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 0 -x 1600",
            "# ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 0 -x 1600",
        ]
    );
    assert_eq!(
        history(&[&cluster, &local, &cluster]),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1bff",
            "# ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 1",
            "# ipvsadm -e -t 192.0.2.1:80 -r 10.0.0.2:8080 -m -w 1",
            "delete local-groups 0:1000",
        ]
    );
}

/// Case 105. Without a local endpoint, Pods and the node reach all endpoints, and clients from
/// outside none: two for the head.
#[test]
fn external_policy_without_local_endpoints_takes_two_operations() {
    let backends = || endpoints(&[at(1), at(2)]);
    let (cluster, local) = ([web(balanced), backends()], [web(outside_local), backends()]);
    assert_eq!(
        ops(&cluster, &local),
        [
            "delete services 192.0.2.1 . tcp . 80",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1fff",
        ]
    );
}

/// One for each real server on other nodes; without a local one, also two for the head, which means
/// drop.
#[test]
fn internal_policy_takes_one_operation_per_remote_endpoint() {
    let with = |change: fn(&mut Service), last: Endpoint| [web(change), endpoints(&[at(1), last])];
    assert_eq!(
        ops(&with(|_| (), local(2)), &with(inside_local, local(2))),
        ["# ipvsadm -e -t 10.96.0.1:80 -r 10.0.0.1:8080 -m -w 0 -x 1600"]
    );
    assert_eq!(
        ops(&with(|_| (), at(2)), &with(inside_local, at(2))),
        [
            "delete services 10.96.0.1 . tcp . 80",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:17fe",
            "# ipvsadm -e -t 10.96.0.1:80 -r 10.0.0.1:8080 -m -w 0 -x 1600",
            "# ipvsadm -e -t 10.96.0.1:80 -r 10.0.0.2:8080 -m -w 0 -x 1600",
        ]
    );
}

// ---- Addresses ----------------------------------------------------------------------------------

/// For each node port, a virtual server with its real servers, and the element for its clients.
/// Removing all of it with the virtual server takes two.
#[test]
fn a_node_address_adds_and_removes_only_its_node_ports() {
    let service = |service: &mut Service| {
        service.kind = ServiceType::NodePort;
        service.ports[0].node_port = Some(number(30080));
    };
    let with =
        |addresses: &[[u8; 4]]| [web(service), endpoints(&[at(1), at(2)]), interfaces(addresses)];
    let (one, two) = (with(&[[172, 16, 0, 1]]), with(&[[172, 16, 0, 1], [172, 16, 0, 2]]));
    assert_eq!(
        ops(&one, &two),
        [
            "add services 172.16.0.2 . tcp . 30080 comment \"default/web:http\" : 0:1bff",
            "# ipvsadm -A -t 172.16.0.2:30080 -s rr",
            "# ipvsadm -a -t 172.16.0.2:30080 -r 10.0.0.1:8080 -m -w 1",
            "# ipvsadm -a -t 172.16.0.2:30080 -r 10.0.0.2:8080 -m -w 1",
        ]
    );
    assert_eq!(
        ops(&two, &one),
        ["# ipvsadm -D -t 172.16.0.2:30080", "delete services 172.16.0.2 . tcp . 30080"]
    );
    assert_eq!(ops(&one, &with(&[[127, 0, 0, 1], [172, 16, 0, 1]])), [""; 0], "none on loopback");
}

/// Case 106. Two: the address, and its membership in `vips`.
#[test]
fn a_vip_on_an_interface_is_not_bound() {
    let with = |addresses: &[[u8; 4]]| [web(balanced), endpoints(&[at(1)]), interfaces(addresses)];
    let (without, on_interface) = (with(&[]), with(&[[192, 0, 2, 1]]));
    assert_eq!(ops(&without, &on_interface), ["# unbind 192.0.2.1", "delete vips 192.0.2.1"]);
    assert_eq!(ops(&on_interface, &without), ["add vips 192.0.2.1", "# bind 192.0.2.1"]);
}

/// Two for the address, and two for a port: the element, and the virtual server with its real
/// servers. One for the cluster address, whose other ports are rejected.
#[test]
fn removing_a_service_takes_five_operations() {
    let (service, none): ([Object; 2], [Object; 0]) =
        ([web(|_| ()), endpoints(&[at(1), at(2)])], []);
    assert_eq!(
        ops(&service, &none),
        [
            "# unbind 10.96.0.1",
            "# ipvsadm -D -t 10.96.0.1:80",
            "delete cluster-ips 10.96.0.1",
            "delete vips 10.96.0.1",
            "delete services 10.96.0.1 . tcp . 80",
        ]
    );
    let found = ops(&none, &service);
    assert_eq!(
        found,
        [
            "add cluster-ips 10.96.0.1",
            "add vips 10.96.0.1",
            "# bind 10.96.0.1",
            "add services 10.96.0.1 . tcp . 80 comment \"default/web:http\" : 0:17ff",
            "# ipvsadm -A -t 10.96.0.1:80 -s rr",
            "# ipvsadm -a -t 10.96.0.1:80 -r 10.0.0.1:8080 -m -w 1",
            "# ipvsadm -a -t 10.96.0.1:80 -r 10.0.0.2:8080 -m -w 1",
        ]
    );
    // Draining real servers go at once, too, since their Service is gone.
    let one = [web(|_| ()), endpoints(&[at(1)])];
    assert_eq!(history(&[&service, &one, &none]).len(), 5);
}

/// An address that two Services share is bound until both are gone.
#[test]
fn a_shared_address_is_bound_once() {
    let of = |name, number| more(name, &format!("{name}-1"), &[at(number)]);
    let first = || service("a", 1, balanced);
    let second = || {
        service("b", 2, |service| {
            balanced(service);
            service.ports[0].port = number(81);
        })
    };
    let (one, both) = ([first(), of("a", 1)], [first(), of("a", 1), second(), of("b", 2)]);
    let is_about =
        |line: &String| line.contains("bind 192.0.2.1") || line.contains("vips 192.0.2.1");
    assert_eq!(ops(&one, &both).iter().filter(|line| is_about(line)).count(), 0);
    assert_eq!(ops(&both, &one).iter().filter(|line| is_about(line)).count(), 0);
    let other = [second(), of("b", 2)];
    assert_eq!(ops(&both, &other).iter().filter(|line| is_about(line)).count(), 0);
}

/// The binding, the element, and the virtual server with its real server.
#[test]
fn an_external_ip_leaves_in_four_operations_and_returns_in_five() {
    let there = |addresses: &[IpAddr]| {
        let name = NodeName::from("there");
        node_with(|node| {
            node.name = name;
            node.addresses = addresses.to_vec();
        })
    };
    let with = |addresses: &[IpAddr]| {
        let named = |service: &mut Service| service.external_ips = vec![external(1)];
        [web(named), endpoints(&[at(1)]), there(addresses)]
    };
    let (here, elsewhere) = (with(&[external(2)]), with(&[external(2), external(1)]));
    assert_eq!(
        ops(&here, &elsewhere),
        [
            "# unbind 192.0.2.1",
            "# ipvsadm -D -t 192.0.2.1:80",
            "delete vips 192.0.2.1",
            "delete services 192.0.2.1 . tcp . 80",
        ]
    );
    assert_eq!(
        ops(&elsewhere, &here),
        [
            "add vips 192.0.2.1",
            "# bind 192.0.2.1",
            "add services 192.0.2.1 . tcp . 80 comment \"default/web:http\" : 0:1bff",
            "# ipvsadm -A -t 192.0.2.1:80 -s rr",
            "# ipvsadm -a -t 192.0.2.1:80 -r 10.0.0.1:8080 -m -w 1",
        ]
    );
    assert_eq!(ops(&elsewhere, &with(&[external(1)])), [""; 0], "another address is irrelevant");
    let own = [&with(&[external(2)])[..2], &[node(&[external(1)])]].concat();
    assert_eq!(ops(&here, &own), [""; 0], "this node's own address is no other's");
}
