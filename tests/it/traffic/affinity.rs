//! Session affinity: which backend a client reaches again.
//!
//! The clients are one machine with many addresses, see [`clients`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use rulec_compiler::net;
use rulec_compiler::nft::set::SetId;
use rulec_sinks::nft::records::{Filling, Records};
use rulec_testkit::{
    Family, Options, Protocol, address, ask, ask_many, ask_many_with, patience, require_root,
};

use super::{CLUSTER_CIDR, PROTOCOLS, Site, cluster_ip, endpoints, service};
use crate::health::Metrics;
use crate::support::eventually;

/// The ports of the EndpointSlices.
const WEB: &str = "[{name: http, port: 8080}, {name: echo, port: 8080, protocol: UDP}]";

/// Returns a Service with every kind of frontend and this affinity.
fn web(affinity: &str) -> String {
    let spec = format!(
        "
        type: NodePort
        externalIPs: [198.51.100.30, '2001:db8:5::30']
        {affinity}
        ports:
        - {{name: http, port: 80, nodePort: 30080}}
        - {{name: echo, port: 80, protocol: UDP, nodePort: 30080}}"
    );
    service("web", 10, &spec)
}

/// Session affinity with the default timeout of three hours.
const STICKY: &str = "sessionAffinity: ClientIP";

fn sticky_for(seconds: u64) -> String {
    format!("{STICKY}\n        sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}")
}

/// Returns the frontends of the Service in one family.
fn frontends(family: Family) -> [SocketAddr; 3] {
    let external: IpAddr = match family {
        Family::V4 => Ipv4Addr::new(198, 51, 100, 30).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 5, 0, 0, 0, 0, 0x30).into(),
    };
    let node = family.of(address::NODE);
    [cluster_ip(family, 10, 80), (external, 80).into(), (node, 30080).into()]
}

/// Returns thirteen addresses, each of which represents a client.
pub(super) fn clients(family: Family) -> Vec<IpAddr> {
    (78..=90)
        .map(|host: u8| match family {
            Family::V4 => Ipv4Addr::new(203, 0, 113, host).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host.into()).into(),
        })
        .collect()
}

/// Starts everything, and gives the client machine all those addresses.
fn start(yaml: &str) -> Site {
    let site = Site::start(yaml);
    add_clients(&site);
    site
}

/// Gives the client machine the addresses of all [`clients`].
pub(super) fn add_clients(site: &Site) {
    let add = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => format!("ip addr add {ip}/32 dev eth0\n"),
        IpAddr::V6(ip) => format!("ip addr add {ip}/128 dev eth0 nodad\n"),
    };
    let script: String = Family::BOTH.into_iter().flat_map(clients).map(add).collect();
    site.world.client.sh(&script);
}

/// Makes some flows of one client and returns the backend that all of them reached.
#[track_caller]
fn stuck(site: &Site, client: IpAddr, protocol: Protocol, to: SocketAddr, flows: usize) -> String {
    let options = Options { source: Some((client, 0).into()), ..Options::default() };
    let counts = ask_many_with(&site.world.client, protocol, to, flows, options);
    assert_eq!(counts.len(), 1, "{client} -> {protocol} {to} does not stick: {counts:?}");
    counts.into_keys().next().unwrap()
}

/// Returns the backend of each client.
#[track_caller]
pub(super) fn all_stuck(
    site: &Site,
    clients: &[IpAddr],
    protocol: Protocol,
    to: SocketAddr,
) -> BTreeMap<IpAddr, String> {
    clients.iter().map(|client| (*client, stuck(site, *client, protocol, to, 3))).collect()
}

#[test]
fn a_client_reaches_one_backend_through_every_frontend() {
    if !require_root() {
        return;
    }
    let site = start(&(web(STICKY) + &endpoints("web", WEB, &["a", "b", "c"])));
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            let client = family.of(address::CLIENT);
            let [first, external, node_port] = frontends(family);
            let backend = stuck(&site, client, protocol, first, 25);
            assert_eq!(stuck(&site, client, protocol, external, 25), backend);
            assert_eq!(stuck(&site, client, protocol, node_port, 25), backend);
        }
        // Session affinity applies to Pods and the node, too.
        for from in [&site.world.pod(2).namespace, &site.world.node] {
            let counts = ask_many(from, Protocol::Tcp, cluster_ip(family, 10, 80), 25);
            assert_eq!(counts.len(), 1, "{counts:?}");
        }
    }
}

#[test]
fn clients_are_spread_and_each_keeps_its_backend() {
    if !require_root() {
        return;
    }
    let site = start(&(web(STICKY) + &endpoints("web", WEB, &["a", "b", "c"])));
    for family in Family::BOTH {
        let clients = clients(family);
        for to in frontends(family) {
            for protocol in PROTOCOLS {
                let before = all_stuck(&site, &clients, protocol, to);
                // The backends see only the node's address, but the affinity records contain the
                // clients': otherwise all of them would be one client.
                // Each client's first backend is a random one: all 13 get the same one with a
                // probability of 1 in 500,000.
                let used: BTreeSet<&String> = before.values().collect();
                assert!(used.len() > 1, "{protocol} {to}: {before:?}");
                assert_eq!(all_stuck(&site, &clients, protocol, to), before);
            }
        }
    }
}

#[test]
fn ports_have_separate_affinity_records() {
    if !require_root() {
        return;
    }
    // At first each port has one backend, so that the records differ; then both have all.
    let slices = |http: &[&str], echo: &[&str]| {
        endpoints("web", "[{name: http, port: 8080}]", http)
            + &endpoints("web", "[{name: echo, port: 8080, protocol: UDP}]", echo)
                .replace("name: web-v", "name: web-echo-v")
    };
    let mut site = start(&(web(STICKY) + &slices(&["a"], &["b"])));
    for family in Family::BOTH {
        let clients = clients(family);
        for to in frontends(family) {
            for (protocol, backend) in [(Protocol::Tcp, "a"), (Protocol::Udp, "b")] {
                let found = all_stuck(&site, &clients, protocol, to);
                assert!(found.values().all(|it| it == backend), "{protocol} {to}: {found:?}");
            }
        }
    }
    site.apply(&(web(STICKY) + &slices(&["a", "b", "c"], &["a", "b", "c"])));
    for family in Family::BOTH {
        let clients = clients(family);
        for to in frontends(family) {
            for (protocol, backend) in [(Protocol::Tcp, "a"), (Protocol::Udp, "b")] {
                let found = all_stuck(&site, &clients, protocol, to);
                assert!(found.values().all(|it| it == backend), "{protocol} {to}: {found:?}");
            }
        }
    }
}

#[test]
fn an_affinity_record_is_kept_while_it_is_used() {
    if !require_root() {
        return;
    }
    // All clients start with a single backend, so that a new choice would be noticed.
    let second = patience(Duration::from_secs(1));
    let timeout = 3 * second;
    let affinity = sticky_for(timeout.as_secs());
    let mut site = start(&(web(&affinity) + &endpoints("web", WEB, &["a"])));
    let flows: Vec<(Vec<IpAddr>, Protocol, SocketAddr)> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            let clients = clients(family);
            let [first, external, node_port] = frontends(family);
            [
                (clients.clone(), Protocol::Tcp, first),
                (clients.clone(), Protocol::Udp, external),
                (clients, Protocol::Tcp, node_port),
            ]
        })
        .collect();
    let look = |site: &Site| -> Vec<BTreeMap<IpAddr, String>> {
        let one = |(clients, protocol, to): &(Vec<IpAddr>, _, _)| {
            clients.iter().map(|it| (*it, stuck(site, *it, *protocol, *to, 1))).collect()
        };
        flows.iter().map(one).collect()
    };
    let all_at_a = look(&site);
    assert!(all_at_a.iter().flat_map(BTreeMap::values).all(|it| it == "a"), "{all_at_a:?}");
    site.apply(&(web(&affinity) + &endpoints("web", WEB, &["a", "b", "c"])));
    // Twice the timeout, in steps of less than half of it.
    for _ in 0..6 {
        assert_eq!(look(&site), all_at_a);
        thread::sleep(second);
    }
    thread::sleep(timeout + second);
    for (found, flow) in look(&site).iter().zip(&flows) {
        let used: BTreeSet<&String> = found.values().collect();
        assert!(used.len() > 1, "no client has moved: {flow:?}: {found:?}");
    }
}

/// The records of one Service port are bounded, so those of others have room whoever sends to it.
#[test]
fn a_flood_of_clients_leaves_room_for_the_records_of_others() {
    const CLIENTS: u32 = 70_000;
    if !require_root() {
        return;
    }
    let other = service(
        "other",
        11,
        &format!("\n        {STICKY}\n        ports: [{{name: http, port: 80}}]"),
    );
    let all = ["a", "b", "c"];
    let site = start(
        &(web(STICKY) + &endpoints("web", WEB, &all) + &other + &endpoints("other", WEB, &all)),
    );
    let flooded = cluster_ip(Family::V4, 10, 80);
    flood(&site, CLIENTS, flooded);
    let listing = site.world.node.sh("nft list map ip rulec affinity-10800");
    let records = listing.matches(" expires ").count();
    assert!((3_500..=4_096).contains(&records), "{records} records of {CLIENTS} clients");
    for client in clients(Family::V4) {
        stuck(&site, client, Protocol::Tcp, cluster_ip(Family::V4, 11, 80), 25);
        stuck(&site, client, Protocol::Udp, flooded, 25);
    }
}

/// Sends a datagram from each of this many addresses of 198.18.0.0/15.
fn flood(site: &Site, clients: u32, to: SocketAddr) {
    // Any address of this network is one of the client's.
    site.world.client.sh("ip route add local 198.18.0.0/15 dev lo");
    site.world.node.sh("ip route add 198.18.0.0/15 via 203.0.113.77");
    site.world.client.run(|| {
        for number in 0..clients {
            let source = Ipv4Addr::from(0xc612_0000 + number);
            let socket = UdpSocket::bind((source, 0)).unwrap();
            socket.send_to(b"?", to).unwrap();
        }
    });
}

#[test]
fn metrics_tell_how_full_a_map_of_records_is_and_a_full_one_serves_without_affinity() {
    const RECORDS: &str = "{set=\"affinity-10800\",ip_family=\"IPv4\"}";
    const LIMIT: u32 = 65_535;
    if !require_root() {
        return;
    }
    // Only of shared tables can others write records.
    let args = [CLUSTER_CIDR[0], CLUSTER_CIDR[1], "--shared-tables"];
    let manifests = web(STICKY) + &endpoints("web", WEB, &["a", "b", "c"]);
    let site = Site::start_with(&args, &manifests);
    add_clients(&site);
    let node = &site.world.node;
    let told = |name: &str| Metrics::of(node).value(name, RECORDS);
    assert_eq!((told("rulec_records"), told("rulec_records_limit")), (0.0, f64::from(LIMIT)));
    let to = cluster_ip(Family::V4, 10, 80);
    flood(&site, 300, to);
    let count = || {
        let listing = node.sh("nft list map ip rulec affinity-10800");
        u32::try_from(listing.matches(" expires ").count()).unwrap()
    };
    // Packets may still be under way.
    let mut records = count();
    eventually("no more records come", || {
        let before = std::mem::replace(&mut records, count());
        (200..=300).contains(&records) && records == before
    });
    eventually("the metric tells them", || told("rulec_records") == f64::from(records));
    // Kernels that do not tell the number list the records.
    let map = (net::Family::Ipv4, SetId::from_name("affinity-10800").unwrap());
    let listed = node.run(|| Records::open().unwrap().by_listing().read().unwrap()[&map]);
    assert_eq!(listed, Filling { records, limit: LIMIT });

    // Records of groups that were deleted stay until they expire: here, of groups that never were.
    let left = 0..LIMIT - records;
    let record = |number: u32| {
        let group = 0x1000 + number / 4_096;
        format!(
            "{:x}:{:x} . {} : {:x}:1",
            group >> 4,
            (group & 15) << 12,
            number % 4_096,
            group >> 4
        )
    };
    for some in left.collect::<Vec<u32>>().chunks(8_192) {
        let some: Vec<String> = some.iter().map(|number| record(*number)).collect();
        node.nft(&format!("add element ip rulec affinity-10800 {{ {} }}", some.join(", ")));
    }
    eventually("the metric tells that it is full", || told("rulec_records") == f64::from(LIMIT));
    let counts = clients(Family::V4).into_iter().map(|client| {
        let options = Options { source: Some((client, 0).into()), ..Options::default() };
        ask_many_with(&site.world.client, Protocol::Tcp, to, 25, options)
    });
    let counts: Vec<BTreeMap<String, usize>> = counts.collect();
    // All are served. A client in the bucket of another one, which has a record, sticks.
    assert!(counts.iter().any(|backends| backends.len() > 1), "{counts:?}");
    assert_eq!(told("rulec_records"), f64::from(LIMIT));
}

#[test]
fn clients_of_a_removed_backend_move_to_another() {
    if !require_root() {
        return;
    }
    let slices = |backends: &[&str]| web(STICKY) + &endpoints("web", WEB, backends);
    let mut site = start(&slices(&["a", "b", "c"]));
    for (family, protocol) in [(Family::V4, Protocol::Tcp), (Family::V6, Protocol::Udp)] {
        let clients = clients(family);
        let frontends = frontends(family);
        let look = |site: &Site| frontends.map(|to| all_stuck(site, &clients, protocol, to));
        let with_all = look(&site);

        // `b` still runs and would answer, but is not an endpoint any more.
        site.apply(&slices(&["a", "c"]));
        let without_b = look(&site);
        for (before, after) in with_all.iter().zip(&without_b) {
            for (client, backend) in after {
                assert_ne!(backend, "b", "{client}");
                // Clients of the other backends have not moved.
                let moved = before[client] != *backend;
                assert_eq!(moved, before[client] == "b", "{client}: {before:?}, {after:?}");
            }
        }
        assert_eq!(look(&site), without_b);

        // Clients that have moved stay, though their previous backend is back.
        site.apply(&slices(&["a", "b", "c"]));
        assert_eq!(look(&site), without_b);

        // A restart of the daemon does not change this.
        site = site.restart();
        assert_eq!(look(&site), without_b);
        site.apply(&slices(&["a", "b"]));
        let without_c = look(&site);
        for (before, after) in without_b.iter().zip(&without_c) {
            for (client, backend) in after {
                assert_ne!(backend, "c", "{client}");
                assert!(before[client] == "c" || before[client] == *backend, "{client}");
            }
        }
        site.apply(&slices(&["a", "b", "c"]));
    }
}

#[test]
fn affinity_can_be_switched_on_and_off() {
    if !require_root() {
        return;
    }
    let slices = endpoints("web", WEB, &["a", "b", "c"]);
    let mut site = start(&(web("sessionAffinity: None") + &slices));
    let spread = |site: &Site, is_spread: bool| {
        for family in Family::BOTH {
            for to in frontends(family) {
                for protocol in PROTOCOLS {
                    let counts = ask_many(&site.world.client, protocol, to, 60);
                    let backends = if is_spread { 3 } else { 1 };
                    assert_eq!(counts.len(), backends, "{protocol} {to}: {counts:?}");
                }
            }
        }
    };
    spread(&site, true);
    site.apply(&(web(STICKY) + &slices));
    spread(&site, false);
    site.apply(&(web(&sticky_for(7)) + &slices));
    spread(&site, false);
    site.apply(&(web("") + &slices));
    spread(&site, true);
    site.apply(&(web(STICKY) + &slices));
    spread(&site, false);

    // Without endpoints, and then with one again.
    site.apply(&web(STICKY));
    let all = Family::BOTH.map(frontends).concat();
    site.refused(&super::Sender::ALL, &PROTOCOLS, &all);
    site.apply(&(web(STICKY) + &endpoints("web", WEB, &["b"])));
    for to in all {
        assert_eq!(ask_many(&site.world.client, Protocol::Tcp, to, 5).len(), 1);
        let answer = ask(&site.world.client, Protocol::Tcp, to, Options::default());
        assert_eq!(answer.unwrap().name, "b");
    }
}
