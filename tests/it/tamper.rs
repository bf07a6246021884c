//! Changes to our tables by other processes: where the kernel cannot prevent them, they are undone
//! at once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rulec_testkit::{
    Family, Namespace, Options, Protocol, Server, World, WorldSpec, address, ask, ask_many,
    require_root,
};

use crate::daemon::{Daemon, Manifests};
use crate::health::Metrics;
use crate::support::{SETTINGS, eventually, file, listing, service, slice};

const SHARED: [&str; 5] = [SETTINGS[0], SETTINGS[1], SETTINGS[2], SETTINGS[3], "--shared-tables"];

/// Logged when the daemon finds that another process has changed its tables.
const CULPRIT: &str = "another process has changed our tables; repairing";

/// A world with one Service, which pods and clients reach at its cluster address and node port.
struct Served {
    world: World,
    manifests: Manifests,
    _servers: Vec<Server>,
}

impl Served {
    fn new() -> Self {
        let world = World::new(WorldSpec { local_pods: 2, remote_pods: 1 });
        let servers = [(world.pod(0), "e1"), (world.remote_pod(0), "e2")]
            .map(|(pod, name)| Server::start(&pod.namespace, name, &[(Protocol::Tcp, 8080)]));
        let mut documents = Vec::new();
        for (name, family, cluster_ip) in
            [("web", Family::V4, "10.96.0.10"), ("web6", Family::V6, "fd00:96::10")]
        {
            let endpoints =
                [world.pod(0), world.remote_pod(0)].map(|pod| pod.ip(family).to_string());
            let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
            documents.push(service(name, cluster_ip, ""));
            documents.push(slice(name, &endpoints));
        }
        let manifests = Manifests::of(&file(&documents));
        Self { world, manifests, _servers: servers.into() }
    }

    fn at(family: Family) -> SocketAddr {
        let ip = match family {
            Family::V4 => "10.96.0.10",
            Family::V6 => "fd00:96::10",
        };
        SocketAddr::new(ip.parse().unwrap(), 80)
    }

    /// Asserts that every endpoint answers, in both families, to a pod and to a client outside.
    fn works(&self) {
        for family in [Family::V4, Family::V6] {
            for from in [&self.world.pod(1).namespace, &self.world.client] {
                let counts = ask_many(from, Protocol::Tcp, Self::at(family), 24);
                let names: Vec<&str> = counts.keys().map(String::as_str).collect();
                assert_eq!(names, ["e1", "e2"], "{family:?}: {counts:?}");
            }
        }
    }
}

/// Returns the sorted lines of the listing, because recreated objects are listed in another
/// position.
fn sorted(world: &World) -> Vec<String> {
    let mut lines: Vec<String> = listing(&world.node).lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn changes_by_others_are_repaired_and_the_culprit_is_named() {
    if !require_root() {
        return;
    }
    let served = Served::new();
    let node = &served.world.node;
    let daemon = Daemon::start(node, &served.manifests.path(), &SHARED);
    served.works();
    let before = sorted(&served.world);
    let cases = [
        "delete element ip rulec services { 10.96.0.10 . tcp . 80 }",
        "delete element ip rulec endpoints { 0:1000 . tcp . 0 }",
        "add element ip rulec cluster-ips { 10.96.0.99 }",
        "add element ip rulec services { 10.96.0.99 . tcp . 80 : 0:1401 }",
        "flush chain ip rulec prerouting",
        "insert rule ip rulec prerouting counter drop",
        "add rule ip6 rulec filter-forward drop",
        "flush map ip6 rulec endpoints",
        "add chain ip rulec theirs",
        "add chain ip rulec filter-forward { policy drop; }",
        "add table ip rulec { flags dormant; }",
        "delete table ip rulec",
        "delete table ip6 rulec",
        "flush ruleset",
    ];
    for (number, damage) in (1_u32..).zip(cases) {
        node.nft(damage);
        eventually(damage, || {
            // While a table is missing, the listing fails.
            let tables = node.nft_list();
            let both = ["table ip rulec {", "table ip6 rulec {"];
            both.iter().all(|table| tables.contains(table)) && {
                let lists = node.command("nft", ["list", "table", "ip6", "rulec"]).output();
                lists.unwrap().status.success()
                    && sorted_or_none(&served.world) == Some(before.clone())
            }
        });
        // The log limits how often it repeats the same line.
        eventually("the repair is counted", || repairs(node) >= f64::from(number));
        let log = daemon.log();
        let line = log.lines().rfind(|line| line.contains(CULPRIT)).unwrap();
        assert!(line.contains("process=nft"), "{damage}: {line}");
        served.works();
    }
    let log = daemon.log();
    assert!(!log.contains("as we left them"), "each process was identified: {log}");
}

/// Returns the number of repairs of the tables.
fn repairs(node: &Namespace) -> f64 {
    Metrics::of(node).value("rulec_drift_repairs_total", "")
}

/// Checks run beside the changes, and take none of them for one of another process.
#[test]
fn checks_find_nothing_while_changes_go_on() {
    if !require_root() {
        return;
    }
    let often = ["--verify-seconds", "1", "--log-level", "debug"];
    for args in [&SETTINGS[..], &SHARED] {
        let served = Served::new();
        let args = [args, &often].concat();
        let mut daemon = Daemon::start(&served.world.node, &served.manifests.path(), &args);
        let compared = |daemon: &Daemon| daemon.count("compared the kernel's content");
        let mut changes = 0_u8;
        while compared(&daemon) < 3 {
            let other = service("other", &format!("10.96.0.{}", 20 + changes % 100), "");
            daemon.after(|| served.manifests.write("other.yaml", &file(&[other])));
            changes += 1;
        }
        let log = daemon.log();
        assert!(!log.contains("differs=true"), "{log}");
        assert_eq!(daemon.count("repairing"), 0, "{log}");
        served.works();
    }
}

fn sorted_or_none(world: &World) -> Option<Vec<String>> {
    let script = "nft list table ip rulec; nft list table ip6 rulec";
    let output = world.node.command("sh", ["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    output.status.success().then_some(lines)
}

/// Changes to tables of others cause no reads and no log lines.
#[test]
fn changes_to_foreign_tables_are_ignored() {
    if !require_root() {
        return;
    }
    let served = Served::new();
    let node = &served.world.node;
    let mut daemon = Daemon::start(node, &served.manifests.path(), &SHARED);
    for number in 0..50 {
        node.nft(&format!("add table inet t{number}\nadd chain inet t{number} c"));
    }
    // After this change to our tables, the daemon would have logged something about the others.
    node.nft("flush chain ip rulec output");
    daemon.wait_for(CULPRIT);
    served.works();
    assert_eq!(daemon.count("repairing"), 1, "{}", daemon.log());
    assert!(node.nft_list().contains("table inet t49"));
}

/// Makes flows one after the other while `chaos` runs; returns their number and the failures.
fn under_traffic(served: &Served, chaos: impl FnOnce()) -> (usize, BTreeMap<String, usize>) {
    let done = AtomicBool::new(false);
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let mut flows = 0;
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut flows = 0;
            let mut failures: BTreeMap<String, usize> = BTreeMap::new();
            // At least as many that each endpoint is reached.
            while flows < 50 || !done.load(Ordering::Relaxed) {
                for family in [Family::V4, Family::V6] {
                    for from in [&served.world.pod(1).namespace, &served.world.client] {
                        flows += 1;
                        let answer =
                            ask(from, Protocol::Tcp, Served::at(family), Options::default());
                        if let Err(failure) = answer {
                            *failures.entry(failure.to_string()).or_default() += 1;
                        }
                    }
                }
            }
            (flows, failures)
        });
        chaos();
        done.store(true, Ordering::Relaxed);
        (flows, outcomes) = traffic.join().unwrap();
    });
    (flows, outcomes)
}

#[test]
fn flushing_the_ruleset_does_not_affect_exclusive_tables() {
    if !require_root() {
        return;
    }
    let served = Served::new();
    let node = &served.world.node;
    let daemon = Daemon::start(node, &served.manifests.path(), &SETTINGS);
    if daemon.has_to_share() {
        return;
    }
    let before = sorted(&served.world);
    let (flows, failures) = under_traffic(&served, || {
        for _ in 0..20 {
            node.nft("flush ruleset");
        }
    });
    assert_eq!(failures, BTreeMap::new(), "of {flows} flows");
    assert!(flows >= 50);
    assert_eq!(sorted(&served.world), before);
    assert_eq!(daemon.count("repairing"), 0, "there was nothing to repair");
}

#[test]
fn flushing_the_ruleset_is_repaired_each_time_in_shared_tables() {
    if !require_root() {
        return;
    }
    let served = Served::new();
    let node = &served.world.node;
    let _daemon = Daemon::start(node, &served.manifests.path(), &SHARED);
    let before = sorted(&served.world);
    // Flows may fail while there are no rules, but not for good.
    let (flows, _) = under_traffic(&served, || {
        for number in 1..=20_u32 {
            node.nft("flush ruleset");
            eventually("the repair is counted", || repairs(node) >= f64::from(number));
            eventually("the tables are back", || {
                sorted_or_none(&served.world).as_ref() == Some(&before)
            });
        }
    });
    assert!(flows >= 50);
    served.works();
    assert_eq!(sorted(&served.world), before);
}

/// Restarts of the daemon never leave a flow without a translation.
#[test]
fn restarts_do_not_interrupt_traffic() {
    if !require_root() {
        return;
    }
    let served = Served::new();
    let node = &served.world.node;
    let path = served.manifests.path();
    for args in [&SETTINGS[..], &SHARED] {
        drop(Daemon::start(node, &path, args));
        let (flows, failures) = under_traffic(&served, || {
            for round in 0..6 {
                // From one kind of tables to the other as well, which replaces them.
                let args = if round % 3 == 2 { &SHARED[..] } else { args };
                let daemon = Daemon::start(node, &path, args);
                match round % 2 {
                    0 => drop(daemon.stop()),
                    _ => daemon.kill9(),
                }
            }
        });
        assert_eq!(failures, BTreeMap::new(), "of {flows} flows");
    }
    // The node's own address is not in the tables.
    assert!(!listing(node).contains(&address::NODE.0.to_string()));
}
