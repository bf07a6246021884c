//! Changes under traffic: no connection that can be served may fail.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rulec_testkit::{Connection, Family, LongServer, Protocol, address, flow_with, require_root};

use super::{CLUSTER_CIDR, Seen, Sender, Site, cluster_ip, endpoints, service};
use crate::daemon::Daemon;

/// Returns a Service with every kind of frontend.
fn web() -> String {
    let spec = "
        type: NodePort
        externalIPs: [198.51.100.30, '2001:db8:5::30']
        ports:
        - {name: http, port: 80, nodePort: 30080}
        - {name: long, port: 70, nodePort: 30070}";
    service("web", 10, spec)
}

fn web_with(backends: &[&str]) -> String {
    web() + &endpoints("web", "[{name: http, port: 8080}, {name: long, port: 7070}]", backends)
}

/// Opens a connection of every client to every kind of frontend.
fn open(site: &Site) -> Vec<(String, Connection)> {
    let mut connections = Vec::new();
    for family in Family::BOTH {
        let external = match family {
            Family::V4 => "198.51.100.30:70",
            Family::V6 => "[2001:db8:5::30]:70",
        };
        let node: SocketAddr = (family.of(address::NODE), 30070).into();
        for to in [cluster_ip(family, 10, 70), external.parse().unwrap(), node] {
            for sender in Sender::ALL {
                let what = format!("{sender:?} -> {to}");
                let connection = flow_with(sender.of(&site.world), to, sender.options(family));
                let connection = connection.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                connections.push((what, connection));
            }
        }
    }
    connections
}

/// Asserts that every connection is alive and still at the backend.
#[track_caller]
fn alive(connections: &mut [(String, Connection)], backend: &str, word: &str) {
    for (what, connection) in connections {
        let answer = connection.exchange(word);
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {word}: {error:?}"));
        assert_eq!(answer, format!("{backend} {word}"), "{what}");
    }
}

#[test]
fn connections_survive_every_change() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(&web_with(&["a"]));
    let _long: Vec<LongServer> = ["a", "b", "c"]
        .map(|name| LongServer::start(site.backend(name), name, 7070))
        .into_iter()
        .collect();
    let mut connections = open(&site);
    assert_eq!(connections.len(), 18);
    alive(&mut connections, "a", "opened");

    site.apply(&web_with(&["a", "b", "c"]));
    alive(&mut connections, "a", "others-came");
    site.apply(&web_with(&["a", "c"]));
    alive(&mut connections, "a", "one-left");
    site = site.restart();
    alive(&mut connections, "a", "restarted");
    site = site.crash(|manifests| manifests.write("all.yaml", &web_with(&["a", "b"])));
    alive(&mut connections, "a", "crashed");

    // The backend leaves the slice, but runs until its connections are closed.
    site.apply(&web_with(&["b"]));
    alive(&mut connections, "a", "left");
    let mut new = open(&site);
    alive(&mut new, "b", "opened");
    site.apply(&web());
    alive(&mut connections, "a", "no-endpoints");
    alive(&mut new, "b", "no-endpoints");
    site.refused(&Sender::ALL, &[Protocol::Tcp], &Family::BOTH.map(|it| cluster_ip(it, 10, 70)));
    site.manifests.remove("all.yaml");
    site.settle();
    alive(&mut connections, "a", "no-service");
    alive(&mut new, "b", "no-service");
}

/// Makes flows continuously while `change` runs, of every client to every frontend, and returns the
/// names of the servers that answered.
///
/// # Panics
///
/// When a flow fails: with a gap in the rules, it is not translated or is refused.
pub(super) fn hammer(world: &rulec_testkit::World, change: impl FnOnce()) -> BTreeSet<String> {
    let done = AtomicBool::new(false);
    let ask = |sender: Sender, to: SocketAddr| {
        let mut names = BTreeSet::new();
        let mut flows = 0_usize;
        while !done.load(Ordering::Relaxed) || flows == 0 {
            let answer = sender.ask(world, Protocol::Tcp, to);
            let answer = answer
                .unwrap_or_else(|error| panic!("{sender:?} -> {to}: flow {flows}: {error:?}"));
            names.insert(answer.name);
            flows += 1;
        }
        names
    };
    let v4 = "192.0.2.10:30080".parse().unwrap();
    let v6 = "[2001:db8:5::30]:80".parse().unwrap();
    let flows = [
        (Sender::Pod, cluster_ip(Family::V4, 10, 80)),
        (Sender::Pod, cluster_ip(Family::V6, 10, 80)),
        (Sender::Host, cluster_ip(Family::V4, 10, 80)),
        (Sender::Client, v4),
        (Sender::Client, v6),
    ];
    thread::scope(|scope| {
        let ask = &ask;
        let workers = flows.map(|(sender, to)| scope.spawn(move || ask(sender, to)));
        // Even if the change panics, the workers must end.
        let stop = Stop(&done);
        change();
        drop(stop);
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns ten states of the Service that have backend `a` in common; the last one has all
/// backends.
fn edits() -> [String; 10] {
    let sticky = |backends: &[&str]| {
        web_with(backends)
            .replace("type: NodePort", "type: NodePort\n    sessionAffinity: ClientIP")
    };
    [
        web_with(&["a", "b"]),
        web_with(&["a", "b", "c"]),
        web_with(&["a", "c"]),
        sticky(&["a", "c"]),
        sticky(&["a"]),
        sticky(&["a", "b"]),
        web_with(&["b", "a"]),
        web_with(&["a"]),
        web_with(&["c", "a"]),
        web_with(&["a", "b", "c"]),
    ]
}

#[test]
fn quick_edits_lose_no_connection() {
    if !require_root() {
        return;
    }
    let Site { mut daemon, manifests, servers, world, .. } = Site::start(&web_with(&["a"]));
    // Each state as soon as the kernel has the previous one; then all without waiting.
    let names = hammer(&world, || {
        for yaml in edits() {
            daemon.after(|| manifests.write("all.yaml", &yaml));
        }
    });
    assert!(names.contains("a"), "{names:?}");
    hammer(&world, || {
        for yaml in edits() {
            manifests.write("all.yaml", &yaml);
            thread::sleep(Duration::from_millis(5));
        }
        daemon.settle(&world.node, &manifests.path(), &CLUSTER_CIDR);
    });
    let site = Site { daemon, manifests, args: CLUSTER_CIDR.to_vec(), servers, world };
    let to = cluster_ip(Family::V4, 10, 80);
    site.served(Sender::Client, Protocol::Tcp, to, &["a", "b", "c"], Seen::Masqueraded);
}

#[test]
fn restarts_lose_no_connection() {
    if !require_root() {
        return;
    }
    let Site { daemon, manifests, servers, world, .. } = Site::start(&web_with(&["a", "b"]));
    let mut last = None;
    hammer(&world, || {
        daemon.stop();
        let daemon = Daemon::start(&world.node, &manifests.path(), &CLUSTER_CIDR);
        daemon.kill9();
        // The manifests change while no daemon runs.
        manifests.write("all.yaml", &web_with(&["a", "c"]));
        last = Some(Daemon::start(&world.node, &manifests.path(), &CLUSTER_CIDR));
    });
    let daemon = last.unwrap();
    let site = Site { daemon, manifests, args: CLUSTER_CIDR.to_vec(), servers, world };
    for family in Family::BOTH {
        site.served(Sender::Pod, Protocol::Tcp, cluster_ip(family, 10, 80), &["a", "c"], Seen::Own);
    }
}

/// The tables as the release before groups left them, for `web_with(&["a", "b"])`.
const FIRST_LAYOUT: &str = include_str!("fixtures/first-layout.nft");

/// An update from the first layout: its tables are replaced at one moment, while flows go on.
#[test]
fn an_update_from_the_first_layout_loses_no_connection() {
    if !require_root() {
        return;
    }
    let Site { daemon, manifests, servers, world, .. } = Site::start(&web_with(&["a", "b"]));
    daemon.stop();
    let node = &world.node;
    node.nft(&format!("delete table ip rulec\ndelete table ip6 rulec\n{FIRST_LAYOUT}"));
    assert!(node.nft_list().contains("map picks"), "the first layout is there");
    let mut last = None;
    hammer(&world, || {
        last = Some(Daemon::start(node, &manifests.path(), &CLUSTER_CIDR));
    });
    let listing = node.nft_list();
    assert!(listing.contains("map classes") && !listing.contains("map picks"), "{listing}");
    let daemon = last.unwrap();
    let log = daemon.log();
    assert!(log.contains("it was made by an earlier release"), "{log}");
    let site = Site { daemon, manifests, args: CLUSTER_CIDR.to_vec(), servers, world };
    for family in Family::BOTH {
        site.served(Sender::Pod, Protocol::Tcp, cluster_ip(family, 10, 80), &["a", "b"], Seen::Own);
    }
}
