//! Load balancing by Service: which endpoints new connections reach, and which connections go on
//! when the node has lost its records of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use rulec_testkit::{
    Connection, Failure, Family, Hosts, LongServer, Namespace, Options, Protocol, World, address,
    ask, ask_many, flow_with, patience, require_root,
};

use super::affinity::{add_clients, all_stuck, clients};
use super::changes::hammer;
use super::{
    CLUSTER_CIDR, NODE, PATIENCE, PROTOCOLS, Sender, Site, cluster_ip, endpoints, service,
};
use crate::daemon::Daemon;

/// The backends of these tests: all are Pods of the node.
const POOL: [&str; 5] = ["a", "b", "d", "e", "f"];

/// The ports of the EndpointSlices.
const PORTS: &str = "[{name: http, port: 8080}, {name: echo, port: 8080, protocol: UDP}, {name: \
                     long, port: 7070}]";

/// How a Service asks for its load balancing.
fn balanced(how: &str) -> String {
    format!("rulec.io/load-balancing: {how}")
}

/// Returns Service web with every kind of frontend. `spec` is more of its spec.
fn web(annotations: &str, spec: &str) -> String {
    let spec = format!(
        "
        type: LoadBalancer
        externalIPs: [198.51.100.30, '2001:db8:5::30']
        {spec}
        ports:
        - {{name: http, port: 80, nodePort: 30080}}
        - {{name: echo, port: 80, protocol: UDP, nodePort: 30080}}
        - {{name: long, port: 70, nodePort: 30070}}"
    );
    let status =
        "status: {loadBalancer: {ingress: [{ip: 198.51.100.20}, {ip: '2001:db8:5::20'}]}}\n";
    annotated("web", &service("web", 10, &spec), annotations) + status
}

/// Gives all objects of this name, or whose name begins with it, annotations.
pub(super) fn annotated(name: &str, yaml: &str, annotations: &str) -> String {
    yaml.replace(
        &format!("metadata: {{name: {name}"),
        &format!("metadata: {{annotations: {{{annotations}}}, name: {name}"),
    )
}

/// Returns slices of Service web whose endpoints have a weight.
pub(super) fn weighted(weight: u8, ports: &str, backends: &[&str]) -> String {
    let slices = endpoints("web", ports, backends)
        .replace("name: web-v", &format!("name: web-weight{weight}-v"));
    annotated("web-weight", &slices, &format!("rulec.io/weight: '{weight}'"))
}

fn start(yaml: &str) -> Site {
    start_with(&CLUSTER_CIDR, yaml)
}

fn start_with(args: &[&'static str], yaml: &str) -> Site {
    let hosts = Hosts { node: &[5, 6, 7, 8, 9, 10], nb: &[5], nc: &[] };
    Site::start_in(World::with_hosts(hosts), &POOL, args, yaml)
}

/// The address of the load balancer of Service web.
fn vip(family: Family, port: u16) -> SocketAddr {
    let ip = (Ipv4Addr::new(198, 51, 100, 20), Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x20));
    SocketAddr::new(family.of(ip), port)
}

/// The time between two connections whose order counts: the kernel frees old records of turns once a
/// second, and has room for 16 of a Service port.
const PAUSE: Duration = Duration::from_millis(150);

/// The time after which it has freed those of many connections.
const CALM: Duration = Duration::from_secs(3);

/// Makes connections one after the other, and returns the backends in their order.
#[track_caller]
fn order(from: &Namespace, protocol: Protocol, to: SocketAddr, n: usize) -> Vec<String> {
    let one = |_| {
        thread::sleep(patience(PAUSE));
        ask(from, protocol, to, Options { source: None, timeout: PATIENCE })
    };
    let all: Result<Vec<_>, Failure> = (0..n).map(one).collect();
    all.unwrap_or_else(|failure| panic!("{protocol} {to}: {failure:?}"))
        .into_iter()
        .map(|answer| answer.name)
        .collect()
}

/// Asserts that the backends took turns: each round is like the one before.
#[track_caller]
fn in_turn(order: &[String], backends: &[&str]) {
    let (first, rest) = order.split_at(backends.len());
    let all: BTreeSet<&str> = first.iter().map(String::as_str).collect();
    assert_eq!(all, backends.iter().copied().collect(), "{order:?}");
    assert!(rest.iter().zip(order).all(|(it, before)| it == before), "{order:?}");
}

/// Makes the node forget all its flows.
fn forget_flows(node: &Namespace) {
    node.sh("conntrack -F -f ipv4 2>&1; conntrack -F -f ipv6 2>&1");
}

// ---- Round robin --------------------------------------------------------------------------------

#[test]
fn endpoints_take_turns() {
    if !require_root() {
        return;
    }
    let other = |backends: &[&str]| {
        let spec = "ports: [{name: http, port: 80}, {name: echo, port: 80, protocol: UDP}]";
        annotated("other", &service("other", 11, spec), &balanced("round-robin"))
            + &endpoints("other", PORTS, backends)
    };
    let yaml = |backends: &[&str]| {
        web(&balanced("round-robin"), "")
            + &endpoints("web", PORTS, backends)
            + &other(&["a", "b", "d"])
    };
    let mut site = start(&yaml(&["a", "b", "d", "e"]));
    for (family, protocol) in [(Family::V4, Protocol::Tcp), (Family::V6, Protocol::Udp)] {
        let client = &site.world.client;
        let (web, other) = (cluster_ip(family, 10, 80), cluster_ip(family, 11, 80));
        in_turn(&order(client, protocol, web, 12), &["a", "b", "d", "e"]);
        // Each Service has its own turns, whoever calls the other one meanwhile.
        let (mut of_web, mut of_other) = (Vec::new(), Vec::new());
        for _ in 0..10 {
            of_web.extend(order(client, protocol, web, 1));
            of_other.extend(order(client, protocol, other, 1));
        }
        in_turn(&of_web, &["a", "b", "d", "e"]);
        in_turn(&of_other, &["a", "b", "d"]);
        // All frontends of a port share its turns, and so do all clients.
        let mut all = Vec::new();
        for _ in 0..4 {
            all.extend(order(client, protocol, vip(family, 80), 1));
            all.extend(order(&site.world.pod(2).namespace, protocol, web, 1));
        }
        in_turn(&all, &["a", "b", "d", "e"]);
    }
    for backends in [&POOL[..], &["a", "d", "f"], &["a"], &["e", "a"]] {
        let Site { mut daemon, manifests, args, servers, world } = site;
        hammer(&world, || daemon.after(|| manifests.write("all.yaml", &yaml(backends))));
        site = Site { daemon, manifests, args, servers, world };
        site.settle();
        thread::sleep(patience(CALM));
        let turns = 2 * backends.len();
        let to = |family| cluster_ip(family, 10, 80);
        in_turn(&order(&site.world.client, Protocol::Tcp, to(Family::V4), turns), backends);
        in_turn(&order(&site.world.client, Protocol::Tcp, to(Family::V6), turns), backends);
    }
}

/// Faster than the kernel frees the records of turns, some turns are drawn at random. No connection
/// is lost, and all endpoints get their share: within 100 of 800, see [`near`], if all were random.
#[test]
fn a_flood_of_connections_is_spread() {
    if !require_root() {
        return;
    }
    let backends = ["a", "b", "d", "e"];
    let site = start(&(web(&balanced("round-robin"), "") + &endpoints("web", PORTS, &backends)));
    for family in Family::BOTH {
        let found = shares(&site, family);
        backends.iter().for_each(|backend| near(&found, backend, 200));
    }
    // Then they take turns again.
    thread::sleep(patience(CALM));
    let to = cluster_ip(Family::V4, 10, 80);
    in_turn(&order(&site.world.client, Protocol::Tcp, to, 12), &backends);
}

// ---- Weights ------------------------------------------------------------------------------------

/// Returns how many of 800 connections each backend got.
fn shares(site: &Site, family: Family) -> BTreeMap<String, usize> {
    ask_many(&site.world.client, Protocol::Tcp, cluster_ip(family, 10, 80), 800)
}

/// Asserts that a count of 800 connections is near what is expected. By Hoeffding's inequality, a
/// right share is further away than 100 with a probability of at most 2·e⁻²⁵, which is 3·10⁻¹¹.
#[track_caller]
fn near(found: &BTreeMap<String, usize>, backend: &str, expected: usize) {
    let count = found.get(backend).copied().unwrap_or(0);
    assert!(count.abs_diff(expected) <= 100, "{backend}: not about {expected}: {found:?}");
}

#[test]
fn random_connections_follow_the_weights() {
    if !require_root() {
        return;
    }
    let web = web("", "");
    let mut site = start(
        &(web.clone()
            + &weighted(3, PORTS, &["a"])
            + &weighted(0, PORTS, &["d"])
            + &weighted(1, PORTS, &["b"])),
    );
    for family in Family::BOTH {
        let found = shares(&site, family);
        near(&found, "a", 600);
        near(&found, "b", 200);
        assert_eq!(found.len(), 2, "the weight of d is 0: {found:?}");
    }
    site.apply(&(web.clone() + &weighted(1, PORTS, &["a", "d"]) + &weighted(6, PORTS, &["b"])));
    let found = shares(&site, Family::V4);
    near(&found, "a", 100);
    near(&found, "b", 600);
    near(&found, "d", 100);
    assert!(found.len() == 3, "each has a share: {found:?}");
    // Without the annotation, all are equal.
    site.apply(&(web.clone() + &endpoints("web", PORTS, &["a", "b"])));
    let found = shares(&site, Family::V4);
    near(&found, "a", 400);
    near(&found, "b", 400);
    site.apply(&(web + &weighted(0, PORTS, &["a", "b"])));
    let all = Family::BOTH.map(|family| cluster_ip(family, 10, 80));
    site.refused(&Sender::ALL, &PROTOCOLS, &all);
}

#[test]
fn turns_and_tables_follow_the_weights() {
    if !require_root() {
        return;
    }
    let slices =
        weighted(3, PORTS, &["a"]) + &weighted(0, PORTS, &["d"]) + &weighted(1, PORTS, &["b"]);
    let mut site = start(&(web(&balanced("maglev"), "") + &slices));
    for family in Family::BOTH {
        let found = shares(&site, family);
        near(&found, "a", 600);
        near(&found, "b", 200);
        assert_eq!(found.len(), 2, "the weight of d is 0: {found:?}");
    }
    // Members take turns, whatever their weights, as long as they have one.
    site.apply(&(web(&balanced("round-robin"), "") + &slices));
    in_turn(
        &order(&site.world.client, Protocol::Tcp, cluster_ip(Family::V4, 10, 80), 8),
        &["a", "b"],
    );
}

// ---- Maglev -------------------------------------------------------------------------------------

/// Returns the backend that each of these sources reaches.
#[track_caller]
fn chosen(
    from: &Namespace,
    protocol: Protocol,
    to: SocketAddr,
    sources: &[SocketAddr],
) -> BTreeMap<SocketAddr, String> {
    let one = |source: &SocketAddr| {
        let answer = ask(from, protocol, to, Options { source: Some(*source), timeout: PATIENCE });
        let answer = answer.unwrap_or_else(|failure| panic!("{source} -> {to}: {failure:?}"));
        (*source, answer.name)
    };
    sources.iter().map(one).collect()
}

fn used(chosen: &BTreeMap<SocketAddr, String>) -> BTreeSet<&str> {
    chosen.values().map(String::as_str).collect()
}

/// Returns a hundred ports of the client.
fn sources(family: Family) -> Vec<SocketAddr> {
    (31_000..31_100).map(|port| (family.of(address::CLIENT), port).into()).collect()
}

#[test]
fn a_connection_meets_its_endpoint_again() {
    if !require_root() {
        return;
    }
    let site = start(&(web(&balanced("maglev"), "") + &endpoints("web", PORTS, &POOL)));
    let client = &site.world.client;
    for family in Family::BOTH {
        let sources = sources(family);
        for protocol in PROTOCOLS {
            let to = vip(family, 80);
            let before = chosen(client, protocol, to, &sources);
            // The hash is always the same, so whether these ports reach all is, too.
            assert_eq!(used(&before), POOL.into(), "ports are spread");
            forget_flows(&site.world.node);
            assert_eq!(chosen(client, protocol, to, &sources), before);
            // Whichever frontend of the port it is.
            forget_flows(&site.world.node);
            assert_eq!(chosen(client, protocol, cluster_ip(family, 10, 80), &sources), before);
        }
    }
}

#[test]
fn two_nodes_choose_alike() {
    if !require_root() {
        return;
    }
    for how in ["maglev", "maglev-source"] {
        let site = start(&(web(&balanced(how), "") + &endpoints("web", PORTS, &POOL)));
        add_clients(&site);
        let World { client, nb, .. } = &site.world;
        let there = [&["--node-name", "nb"], &CLUSTER_CIDR[..]].concat();
        let _there = Daemon::start(nb, &site.manifests.path(), &there);
        for family in Family::BOTH {
            let (own, to) = (sources(family), vip(family, 80));
            let clients = clients(family).into_iter().map(|ip| SocketAddr::new(ip, 31_200));
            let sources: Vec<SocketAddr> = own.into_iter().take(30).chain(clients).collect();
            let here = chosen(client, Protocol::Udp, to, &sources);
            let (via, length) = match family {
                Family::V4 => (family.of(address::NB), 32),
                Family::V6 => (family.of(address::NB), 128),
            };
            client.sh(&format!("ip route add {}/{length} via {via}", to.ip()));
            let flows = |node: &Namespace| {
                node.sh("conntrack -L -p udp -f ipv4 2>/dev/null; conntrack -L -p udp -f ipv6 2>/dev/null").lines().count()
            };
            forget_flows(&site.world.node);
            let there = chosen(client, Protocol::Udp, to, &sources);
            assert_eq!(there, here, "{how}");
            assert!(used(&here).len() > 1, "{how}: {here:?}");
            assert!(flows(nb) >= sources.len(), "they came through the other node");
        }
    }
}

#[test]
fn a_client_meets_one_endpoint_by_its_address() {
    if !require_root() {
        return;
    }
    let site = start(&(web(&balanced("maglev-source"), "") + &endpoints("web", PORTS, &POOL)));
    add_clients(&site);
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let (clients, to) = (clients(family), vip(family, 80));
            let before = all_stuck(&site, &clients, protocol, to);
            let used: BTreeSet<&String> = before.values().collect();
            assert!(used.len() > 1, "clients are spread: {before:?}");
            forget_flows(&site.world.node);
            assert_eq!(all_stuck(&site, &clients, protocol, cluster_ip(family, 10, 80)), before);
        }
    }
}

// ---- Fail-over ----------------------------------------------------------------------------------

/// How many connections of each family are open.
const OPEN: usize = 100;

/// An open connection, and the backend that it is with.
struct Open {
    connection: Connection,
    with: String,
}

/// Opens connections to the load balancer.
fn open(site: &Site) -> Vec<Open> {
    let one = |family: Family| {
        let options = Options { source: None, timeout: PATIENCE };
        let mut connection = flow_with(&site.world.client, vip(family, 70), options).unwrap();
        let answer = connection.exchange("hello").unwrap();
        Open { connection, with: answer.split(' ').next().unwrap().to_owned() }
    };
    Family::BOTH.into_iter().flat_map(|family| (0..OPEN).map(move |_| one(family))).collect()
}

/// Sends a line on each connection, and returns those that go on with their backend, and how many
/// do not.
fn going_on(open: Vec<Open>) -> (Vec<Open>, usize) {
    let all = open.len();
    let goes_on = |it: &mut Open| match it.connection.exchange("again") {
        Ok(answer) => {
            assert_eq!(answer, format!("{} again", it.with), "another backend knows nothing of it");
            true
        }
        Err(_) => false,
    };
    let mut open = open;
    open.retain_mut(goes_on);
    let broken = all - open.len();
    (open, broken)
}

/// With policy Local, a client's address reaches the endpoints unchanged, so that a connection is
/// the same connection for them, whatever the node knows of it. Conntrack takes up connections in
/// their middle (`nf_conntrack_tcp_loose`, on by default).
#[test]
fn connections_outlive_the_loss_of_all_records() {
    if !require_root() {
        return;
    }
    let yaml = |how: &str, backends: &[&str]| {
        web(&balanced(how), "externalTrafficPolicy: Local") + &endpoints("web", PORTS, backends)
    };
    let mut site = start(&yaml("maglev", &POOL));
    let _long = POOL.map(|name| LongServer::start(site.backend(name), name, 7070));
    let all = open(&site);
    let with: BTreeSet<&str> = all.iter().map(|it| it.with.as_str()).collect();
    assert_eq!(with, POOL.into());

    forget_flows(&site.world.node);
    let (all, broken) = going_on(all);
    assert_eq!(broken, 0, "every connection goes on");

    // An endpoint goes, and then the records: its connections cannot go on, and few others are
    // moved.
    site.apply(&yaml("maglev", &POOL[..4]));
    let (all, broken) = going_on(all);
    assert_eq!(broken, 0, "a change moves no connection that the node knows");
    forget_flows(&site.world.node);
    let (of_gone, of_others): (Vec<Open>, Vec<Open>) =
        all.into_iter().partition(|it| it.with == POOL[4]);
    let (of_gone, _) = going_on(of_gone);
    assert_eq!(of_gone.len(), 0, "the endpoint is not there any more");
    let others = of_others.len();
    let (others_left, moved) = going_on(of_others);
    assert!(moved * 10 <= others, "{moved} of {others} connections of other endpoints broke");

    // The endpoint returns: what is left goes on, except for what it takes.
    site.apply(&yaml("maglev", &POOL));
    forget_flows(&site.world.node);
    let (_, broken) = going_on(others_left);
    assert_eq!(broken, 0, "each slot returns to its former backend");

    // For contrast: at random, one of five connections meets its endpoint again. Half of 200 do
    // with a probability below 10⁻¹⁷.
    site.apply(&yaml("random", &POOL));
    let all = open(&site);
    forget_flows(&site.world.node);
    let (_, broken) = going_on(all);
    assert!(broken > OPEN, "only {broken} of {} connections broke", 2 * OPEN);
}

// ---- Changes of load balancing ------------------------------------------------------------------

#[test]
fn a_change_of_load_balancing_loses_no_connection() {
    if !require_root() {
        return;
    }
    let yaml = |how: &str| {
        web(&balanced(how), "")
            + &weighted(2, PORTS, &["a", "b"])
            + &weighted(1, PORTS, &["d", "e"])
    };
    let Site { mut daemon, manifests, servers: _servers, world, .. } = start(&yaml("random"));
    let mut last = None;
    let ways = ["maglev", "round-robin", "random", "maglev-source", "maglev", "random"];
    hammer(&world, || {
        for how in ways {
            daemon.after(|| manifests.write("all.yaml", &yaml(how)));
        }
        // By the option, which is a new start.
        let unasked = web("", "") + &endpoints("web", PORTS, &POOL);
        daemon.after(|| manifests.write("all.yaml", &unasked));
        for how in ["round-robin", "maglev", "random"] {
            let args = [&CLUSTER_CIDR[..], &["--load-balancing", how]].concat();
            daemon.signal("TERM");
            daemon.wait();
            daemon = Daemon::start(&world.node, &manifests.path(), &args);
        }
        last = Some(daemon);
    });
    assert!(last.is_some_and(|mut daemon| daemon.is_running()));
}

// ---- Session affinity ---------------------------------------------------------------------------

#[test]
fn session_affinity_holds_with_every_way() {
    if !require_root() {
        return;
    }
    let sticky = |how: &str| web(&balanced(how), "sessionAffinity: ClientIP");
    let small = [&CLUSTER_CIDR[..], &["--maglev-table-size", "1021"]].concat();
    let mut site = start_with(&small, NODE);
    add_clients(&site);
    let stuck = |site: &Site| -> BTreeMap<IpAddr, String> {
        let of = |family| all_stuck(site, &clients(family), Protocol::Tcp, vip(family, 80));
        Family::BOTH.into_iter().flat_map(of).collect()
    };
    for how in ["maglev", "maglev-source", "round-robin", "random"] {
        let slices = weighted(2, PORTS, &["a", "b"]) + &weighted(1, PORTS, &["d"]);
        site.apply(&(sticky(how) + &slices));
        let before = stuck(&site);
        let used: BTreeSet<&String> = before.values().collect();
        assert!(used.len() > 1, "{how}: {before:?}");
        forget_flows(&site.world.node);
        assert_eq!(stuck(&site), before, "{how}");
        // Other weights move nobody who has an endpoint.
        site.apply(&(sticky(how) + &weighted(1, PORTS, &["a"]) + &weighted(7, PORTS, &["b", "d"])));
        assert_eq!(stuck(&site), before, "{how}");
        // Without any weight, an endpoint loses its clients, too.
        site.apply(&(sticky(how) + &weighted(0, PORTS, &["a"]) + &weighted(7, PORTS, &["b", "d"])));
        for (client, backend) in stuck(&site) {
            let expected = &before[&client];
            assert!(backend != "a" && (expected == "a" || *expected == backend), "{how}: {client}");
        }
        // The records go with the Service.
        site.apply(NODE);
    }
}
