//! Tests of the harness: which packets arrive in a world without rulec, under handwritten rules.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

use rulec_testkit::{
    Answer, Failure, Family, LongServer, Namespace, Options, Protocol, Server, World, WorldSpec,
    address, ask, ask_many, ask_many_with, flow, require_root, sctp_supported,
};

const PORT: u16 = 8080;

/// A ClusterIP that the rules of a test translate.
const VIP: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 90, 0, 10), Ipv6Addr::new(0xfd90, 0, 0, 0, 0, 0, 0, 0x10));

#[test]
fn pods_nodes_and_clients_reach_each_other() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 2, remote_pods: 2 });
    let hosts: Vec<(&Namespace, (Ipv4Addr, Ipv6Addr))> = [
        (&world.node, address::NODE),
        (&world.nb, address::NB),
        (&world.client, address::CLIENT),
        (&world.client2, address::CLIENT2),
    ]
    .into_iter()
    .chain(world.pods().iter().chain(world.remote_pods()).map(|p| (&p.namespace, (p.v4, p.v6))))
    .collect();

    let servers: Vec<Server> =
        hosts.iter().map(|(host, _)| Server::start(host, host.name(), &everywhere())).collect();
    assert_eq!(servers.len(), 8);
    for (from, source) in &hosts {
        for (to, target) in &hosts {
            for (protocol, family) in cases() {
                let at = SocketAddr::new(family.of(*target), PORT);
                let answer = ask(from, protocol, at, Options::default());
                let answer = answer.unwrap_or_else(|failure| {
                    panic!("{protocol} {} -> {at}: {failure:?}", from.name())
                });
                let source = family.of(*source);
                assert_eq!(answer, Answer { name: to.name().to_owned(), source, port: PORT });
            }
        }
    }
}

#[test]
fn the_second_node_address_answers_but_is_never_a_source() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec::default());
    let _node = Server::start(&world.node, "node", &everywhere());
    let _client = Server::start(&world.client, "client", &everywhere());
    for (protocol, family) in cases() {
        let second = SocketAddr::new(family.of(address::NODE_SECOND), PORT);
        assert_eq!(source(&world.client, protocol, second), family.of(address::CLIENT));
        let client = SocketAddr::new(family.of(address::CLIENT), PORT);
        assert_eq!(source(&world.node, protocol, client), family.of(address::NODE));
    }
}

#[test]
fn translated_flows_show_their_source() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 2, remote_pods: 1 });
    let (local, other, remote) = (world.pod(0), world.pod(1), world.remote_pod(0));
    let _local = Server::start(&local.namespace, "local", &everywhere());
    let _remote = Server::start(&remote.namespace, "remote", &everywhere());
    for backend in [local, remote] {
        for masquerade in ["", "ct status dnat masquerade"] {
            world.node.nft(&translate((backend.v4, backend.v6), masquerade));
            for (protocol, family) in cases() {
                let vip = SocketAddr::new(family.of(VIP), 80);
                let expected = |own: (Ipv4Addr, Ipv6Addr)| {
                    family.of(if masquerade.is_empty() { own } else { address::NODE })
                };
                let from_client = source(&world.client, protocol, vip);
                assert_eq!(from_client, expected(address::CLIENT), "{protocol} {masquerade}");
                let from_client2 = source(&world.client2, protocol, vip);
                assert_eq!(from_client2, expected(address::CLIENT2), "{protocol} {masquerade}");
                let from_pod = source(&other.namespace, protocol, vip);
                assert_eq!(from_pod, expected((other.v4, other.v6)), "{protocol} {masquerade}");
                let from_host = source(&world.node, protocol, vip);
                assert_eq!(from_host, family.of(address::NODE), "{protocol} {masquerade}");
            }
        }
    }

    // Hairpin: the connection of a pod to itself must be masqueraded.
    world.node.nft(&translate((local.v4, local.v6), "ct status dnat masquerade"));
    for (protocol, family) in cases() {
        let vip = SocketAddr::new(family.of(VIP), 80);
        assert_eq!(source(&local.namespace, protocol, vip), family.of(address::NODE));
    }
}

#[test]
fn failures_are_distinguished() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 1, remote_pods: 1 });
    let quick = Options { timeout: Duration::from_millis(50), ..Options::default() };
    let from =
        [&world.client, &world.node, &world.pod(0).namespace, &world.remote_pod(0).namespace];

    // Without any rule: no host has the address, and the packets are dropped without an error.
    for (protocol, family) in cases() {
        let vip = SocketAddr::new(family.of(VIP), 80);
        for from in from {
            let failure = ask(from, protocol, vip, quick).unwrap_err();
            assert!(matches!(failure, Failure::TimedOut), "{protocol} {vip}: {failure:?}");
        }
        // A port without a listener.
        let closed = world.pod(0).at(family, 9);
        let failure = ask(&world.client, protocol, closed, Options::default()).unwrap_err();
        assert!(matches!(failure, Failure::Refused), "{protocol} {closed}: {failure:?}");
    }

    world.node.nft(&filter("drop"));
    for (protocol, family) in cases() {
        let vip = SocketAddr::new(family.of(VIP), 80);
        for from in from {
            let failure = ask(from, protocol, vip, quick).unwrap_err();
            assert!(matches!(failure, Failure::TimedOut), "{protocol} {vip}: {failure:?}");
        }
    }

    world.node.nft(&filter("reject"));
    for (protocol, family) in cases() {
        let vip = SocketAddr::new(family.of(VIP), 80);
        for from in from {
            let failure = ask(from, protocol, vip, Options::default()).unwrap_err();
            assert!(
                matches!(failure, Failure::Refused),
                "{protocol} {vip} from {}: {failure:?}",
                from.name()
            );
        }
    }

    world.node.nft(&filter("reject with icmpx admin-prohibited"));
    for (protocol, family) in cases() {
        let vip = SocketAddr::new(family.of(VIP), 80);
        let failure = ask(&world.client, protocol, vip, Options::default()).unwrap_err();
        assert!(matches!(failure, Failure::Unreachable), "{protocol} {vip}: {failure:?}");
    }
}

#[test]
fn icmp_errors_are_not_limited() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec::default());
    world.node.nft(&filter("reject"));
    for family in Family::BOTH {
        let vip = SocketAddr::new(family.of(VIP), 80);
        for idx in 0..100 {
            let failure = ask(&world.client, Protocol::Udp, vip, Options::default()).unwrap_err();
            assert!(matches!(failure, Failure::Refused), "{family} {idx}: {failure:?}");
        }
    }
}

#[test]
fn flows_spread_over_backends() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 1, remote_pods: 1 });
    let (local, remote) = (world.pod(0), world.remote_pod(0));
    let _local = Server::start(&local.namespace, "local", &everywhere());
    let _remote = Server::start(&remote.namespace, "remote", &everywhere());
    world.node.nft(&format!(
        "table inet spread {{
            chain prerouting {{
                type nat hook prerouting priority dstnat
                ip daddr {} meta l4proto {{ tcp, udp, sctp }} dnat ip to \
                    numgen inc mod 2 map {{ 0 : {} . {PORT}, 1 : {} . {PORT} }}
                ip6 daddr {} meta l4proto {{ tcp, udp, sctp }} dnat ip6 to \
                    numgen inc mod 2 map {{ 0 : {} . {PORT}, 1 : {} . {PORT} }}
            }}
        }}",
        VIP.0, local.v4, remote.v4, VIP.1, local.v6, remote.v6,
    ));
    // Exact numbers, because every flow is new: at 400 flows, ports chosen by the kernel would
    // recur.
    let halves = BTreeMap::from([("local".to_owned(), 200), ("remote".to_owned(), 200)]);
    for (protocol, family) in cases() {
        let vip = SocketAddr::new(family.of(VIP), 80);
        assert_eq!(ask_many(&world.client, protocol, vip, 400), halves, "{protocol} {family}");
    }

    // With one source port, all datagrams are one flow, and conntrack keeps its backend.
    let source = Some(SocketAddr::new(address::CLIENT.0.into(), 40_000));
    let same = Options { source, ..Options::default() };
    let counts = ask_many_with(&world.client, Protocol::Udp, (VIP.0, 80).into(), 10, same);
    assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10]);
    // For TCP, each connection is new although the ports are the same.
    let counts = ask_many_with(&world.client, Protocol::Tcp, (VIP.0, 80).into(), 10, same);
    assert_eq!(counts.values().sum::<usize>(), 10);
}

#[test]
fn connections_survive_a_change_of_their_rules() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 1, remote_pods: 1 });
    let (local, remote) = (world.pod(0), world.remote_pod(0));
    let local_server = LongServer::start(&local.namespace, "local", PORT);
    let _remote_server = LongServer::start(&remote.namespace, "remote", PORT);
    for family in Family::BOTH {
        let vip = SocketAddr::new(family.of(VIP), 80);
        world.node.nft(&translate((local.v4, local.v6), ""));
        let mut old = flow(&world.client, vip).unwrap();
        assert_eq!(old.exchange("one").unwrap(), "local one");
        assert_eq!(old.source().ip(), family.of(address::CLIENT));

        world.node.nft(&translate((remote.v4, remote.v6), ""));
        let mut new = flow(&world.client, vip).unwrap();
        assert_eq!(new.exchange("two").unwrap(), "remote two");
        assert_eq!(old.exchange("three").unwrap(), "local three");
    }

    let mut orphan = flow(&world.client, local.at(Family::V4, PORT)).unwrap();
    drop(local_server);
    assert!(matches!(orphan.exchange("four"), Err(Failure::Other(_))));
    let failure = flow(&world.client, local.at(Family::V4, PORT)).unwrap_err();
    assert!(matches!(failure, Failure::Refused), "{failure:?}");
}

#[test]
fn a_dropped_server_refuses_and_frees_its_ports() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("ports");
    for round in ["first", "second"] {
        let server = Server::start(&namespace, round, &everywhere());
        for (protocol, _) in cases() {
            let answer = ask(&namespace, protocol, loopback(), Options::default()).unwrap();
            assert_eq!((answer.name.as_str(), answer.port), (round, PORT));
        }
        drop(server);
        for (protocol, _) in cases() {
            let failure = ask(&namespace, protocol, loopback(), Options::default()).unwrap_err();
            assert!(matches!(failure, Failure::Refused), "{protocol}: {failure:?}");
        }
    }
    // A server at one address only.
    let at = [(Protocol::Tcp, loopback())];
    let _server = Server::start_at(&namespace, "one", &at);
    let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), PORT);
    assert!(ask(&namespace, Protocol::Tcp, loopback(), Options::default()).is_ok());
    assert!(ask(&namespace, Protocol::Tcp, other, Options::default()).is_err());
}

#[test]
fn dropped_namespaces_kill_their_processes() {
    if !require_root() {
        return;
    }
    let mut names = Vec::new();
    let mut child = None;
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        let world = World::new(WorldSpec { local_pods: 1, remote_pods: 1 });
        let all = [&world.node, &world.nb, &world.client, &world.client2];
        let pods = world.pods().iter().chain(world.remote_pods()).map(|pod| &pod.namespace);
        names.extend(all.into_iter().chain(pods).map(|namespace| namespace.name().to_owned()));
        let listed = listed();
        assert!(names.iter().all(|name| listed.contains(name)));

        let mut sleep = world.node.command("sleep", ["60"]);
        child = Some(sleep.stdout(Stdio::piped()).spawn().unwrap());
        // Until `nsenter` has entered the namespace and become `sleep`.
        let comm = format!("/proc/{}/comm", child.as_ref().unwrap().id());
        while fs::read_to_string(&comm).unwrap() != "sleep\n" {
            thread::sleep(Duration::from_millis(1));
        }
        world.node.run(|| panic!("on purpose"));
    }));
    assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on purpose"));
    assert!(!child.unwrap().wait().unwrap().success(), "sleep was killed");
    assert_eq!(names.len(), 6);
    let listed = listed();
    assert!(names.iter().all(|name| !listed.contains(name)), "{listed}");
}

#[test]
fn scripts_run_inside_and_failures_show_their_output() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("scripts");
    assert_eq!(namespace.sh("ip -brief link | cut -d' ' -f1"), "lo\n");
    namespace.nft("add table ip marker");
    assert_eq!(namespace.nft_list(), "table ip marker {\n}\n");
    assert!(!Namespace::new("other").nft_list().contains("marker"));

    let failing: [&dyn Fn(); 2] =
        [&|| drop(namespace.sh("echo to stdout; echo to stderr >&2; false; echo never")), &|| {
            namespace.nft("add chain ip absent chain")
        }];
    for (fail, expected) in failing.into_iter().zip([&["to stdout", "to stderr"][..], &["absent"]])
    {
        let message = panic::catch_unwind(AssertUnwindSafe(fail)).unwrap_err();
        let message = message.downcast_ref::<String>().expect("a message");
        assert!(expected.iter().all(|words| message.contains(words)), "{message}");
        assert!(!message.contains("echo never\n"), "{message}");
    }
}

#[test]
fn a_world_can_be_used_at_once() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 4, remote_pods: 4 });
    // The first packets do not wait for a carrier, an address or a neighbour.
    let _server = Server::start(&world.remote_pod(3).namespace, "last", &everywhere());
    for family in Family::BOTH {
        let to = world.remote_pod(3).at(family, PORT);
        ask(&world.pod(3).namespace, Protocol::Udp, to, Options::default()).unwrap();
    }
    drop(world);
}

/// Returns the protocols that this kernel has, each with both families.
fn cases() -> Vec<(Protocol, Family)> {
    protocols().iter().flat_map(|protocol| Family::BOTH.map(|family| (*protocol, family))).collect()
}

#[expect(clippy::print_stderr, reason = "a skipped protocol has to be said")]
fn protocols() -> &'static [Protocol] {
    static SCTP: LazyLock<bool> = LazyLock::new(|| {
        let supported = sctp_supported();
        if !supported {
            eprintln!("skipped: this kernel has no SCTP");
        }
        supported
    });
    let all = &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    if *SCTP { all } else { &all[..2] }
}

fn everywhere() -> Vec<(Protocol, u16)> {
    protocols().iter().map(|protocol| (*protocol, PORT)).collect()
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

fn source(from: &Namespace, protocol: Protocol, to: SocketAddr) -> IpAddr {
    let answer = ask(from, protocol, to, Options::default());
    answer
        .unwrap_or_else(|failure| panic!("{protocol} {} -> {to}: {failure:?}", from.name()))
        .source
}

fn listed() -> String {
    let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// Returns rules that translate the VIP to a backend and replace the previous ones.
fn translate((v4, v6): (Ipv4Addr, Ipv6Addr), postrouting: &str) -> String {
    let nat = format!(
        "ip daddr {} meta l4proto {{ tcp, udp, sctp }} dnat ip to {v4}:{PORT}
         ip6 daddr {} meta l4proto {{ tcp, udp, sctp }} dnat ip6 to [{v6}]:{PORT}",
        VIP.0, VIP.1
    );
    format!(
        "table inet translate
         delete table inet translate
         table inet translate {{
            chain prerouting {{
                type nat hook prerouting priority dstnat
                {nat}
            }}
            chain output {{
                type nat hook output priority -100
                {nat}
            }}
            chain postrouting {{
                type nat hook postrouting priority srcnat
                {postrouting}
            }}
         }}"
    )
}

/// Returns rules that give a verdict on the VIP and replace the previous ones.
fn filter(verdict: &str) -> String {
    let rules = format!("ip daddr {} {verdict}\nip6 daddr {} {verdict}", VIP.0, VIP.1);
    format!(
        "table inet filter
         delete table inet filter
         table inet filter {{
            chain forward {{
                type filter hook forward priority filter
                {rules}
            }}
            chain output {{
                type filter hook output priority filter
                {rules}
            }}
         }}"
    )
}
