//! Many connections against many changes of every kind, one after another: each connection that
//! can be served is answered, by a backend of the Service before or after the change going on.
//!
//! Backends that leave go on listening, as terminating Pods do.
#![expect(clippy::print_stdout, reason = "what a run consisted of, and the seed to repeat it")]

mod callers;
mod changes;
mod cluster;

use std::env;
use std::fs;
use std::mem;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rulec_testkit::{Namespace, Protocol, Server, World, WorldSpec, require_root};
use tempfile::TempDir;

use self::callers::{Calls, History};
use self::changes::{Kind, below};
use self::cluster::{Cluster, LOCAL, REMOTE, TARGETS, local_pod};
use super::{PROTOCOLS, Sender};
use crate::daemon::{Daemon, Manifests, SETTLED};
use crate::support::Dice;

#[test]
fn no_connection_fails_while_everything_changes() {
    if require_root() {
        run(1, 20_000, 44);
    }
}

/// Takes five minutes: `cargo test --test it a_million_connections -- --ignored --nocapture`.
/// `RULEC_TEST_SEED` repeats a run.
#[test]
#[ignore = "takes minutes; CONTRIBUTING.md says how to run it"]
fn a_million_connections_against_300_changes() {
    if require_root() {
        let clock = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let seed = env::var("RULEC_TEST_SEED").map_or_else(|_| clock(), |it| it.parse().unwrap());
        run(seed, 1_000_000, 308);
    }
}

/// Makes this many connections while the daemon carries out the changes.
fn run(seed: u64, connections: u64, changes: usize) {
    println!("seed {seed}");
    let started = Instant::now();
    let mut dice = Dice::new(seed);
    let world = World::new(WorldSpec { local_pods: LOCAL + 1, remote_pods: REMOTE });
    Calls::prepare(&world);
    // Flows that are over are soon forgotten.
    let timeouts = ["tcp_timeout_close", "udp_timeout", "udp_timeout_stream"];
    let settings = timeouts.map(|timeout| format!("net.netfilter.nf_conntrack_{timeout}=3"));
    world.node.sh(&format!("sysctl -qw {}", settings.join(" ")));
    let _servers = servers(&world);
    let history = History::new(Cluster::new());
    let mut node = Node::start(&world.node);
    let kinds = changes::draw(changes, &mut dice);
    let calls = Calls::new(&world, &history);
    let mut before = world.node.nft_list();
    let outcome = thread::scope(|scope| {
        let _stop = StopOnDrop(&calls);
        for sender in Sender::ALL {
            let calls = &calls;
            scope.spawn(move || calls.call(sender, &[Protocol::Tcp]));
            scope.spawn(move || calls.call(sender, &PROTOCOLS));
        }
        let each = connections.div_ceil(u64::try_from(changes).unwrap());
        for (number, kind) in kinds.iter().enumerate() {
            let goal = tcp(&calls) + each;
            node.change(*kind, &history, &mut dice);
            while calls.failure().is_none() && tcp(&calls) < goal {
                thread::sleep(Duration::from_millis(5));
            }
            let after = world.node.nft_list();
            for late in mem::take(&mut *calls.late.lock().unwrap()) {
                println!("change {number}, {kind:?}: {late}");
            }
            if let Some(failure) = calls.failure() {
                return Err(format!(
                    "seed {seed}, change {number}, {kind:?} (before it: {:?}): {failure}\nthe \
                     ruleset's difference:\n{}\nthe objects:\n{}\nthe log:\n{}",
                    number.checked_sub(1).map(|it| kinds[it]),
                    difference(&before, &after),
                    node.cluster.yaml(),
                    node.daemon().log()
                ));
            }
            before = after;
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    let [tcp, udp] = calls.answered.map(|it| it.into_inner());
    println!(
        "{tcp} TCP connections and {udp} UDP flows in {:.0?}, none refused, reset or unanswered; {} \
         datagrams and {} SYNs sent again; {} flows to frontends that came or went not judged; \
         {changes} changes: {:?}",
        started.elapsed(),
        calls.repeated.into_inner(),
        retransmitted(&world),
        calls.unjudged.into_inner(),
        changes::count(&kinds)
    );
    assert!(tcp >= connections && udp > 0, "{tcp} and {udp} were answered");
}

fn tcp(calls: &Calls<'_>) -> u64 {
    calls.answered[0].load(Ordering::Relaxed)
}

struct StopOnDrop<'c, 'w>(&'c Calls<'w>);

impl Drop for StopOnDrop<'_, '_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Starts the backends; each is named by its number.
fn servers(world: &World) -> Vec<Server> {
    let ports: Vec<(Protocol, u16)> =
        PROTOCOLS.into_iter().flat_map(|protocol| TARGETS.map(|port| (protocol, port))).collect();
    let start = |number: usize| {
        let pod = match number.checked_sub(LOCAL) {
            None => world.pod(local_pod(number)),
            Some(remote) => world.remote_pod(remote),
        };
        Server::start(&pod.namespace, &number.to_string(), &ports)
    };
    (0..LOCAL + REMOTE).map(start).collect()
}

/// The node with its daemon, and the objects that this has.
struct Node<'w> {
    namespace: &'w Namespace,
    cluster: Cluster,
    manifests: Manifests,
    config: TempDir,
    /// Whether other programs can change the tables.
    is_shared: bool,
    masquerade_all: bool,
    // `None` only while it is replaced.
    daemon: Option<Daemon>,
}

impl<'w> Node<'w> {
    fn start(namespace: &'w Namespace) -> Self {
        let cluster = Cluster::new();
        let mut node = Self {
            namespace,
            manifests: Manifests::of(&cluster.yaml()),
            cluster,
            config: TempDir::new().unwrap(),
            is_shared: false,
            masquerade_all: false,
            daemon: None,
        };
        node.configure();
        node.start_daemon();
        node
    }

    /// Makes a change, and returns when the kernel has it.
    fn change(&mut self, kind: Kind, history: &History, dice: &mut Dice) {
        kind.change(&mut self.cluster, dice);
        let tampering = (kind == Kind::Tampering).then(|| below(dice, TAMPERING.len()));
        let is_replaced =
            tampering.map_or(kind == Kind::Restart && self.is_shared, |number| number < REPLACING);
        if is_replaced {
            // A kernel may show the ranges of a new table only at the end of the transaction, after
            // its rules: docs/upgrade-and-uninstall.md.
            history.begin(Cluster { pods_are_unseen: true, ..self.cluster.clone() });
        }
        history.begin(self.cluster.clone());
        let write = |node: &Self| node.manifests.write("all.yaml", &node.cluster.yaml());
        if kind == Kind::Reload {
            self.masquerade_all ^= true;
            let before = self.daemon().count(SETTLED);
            self.configure();
            self.daemon.as_mut().unwrap().wait_for_count(SETTLED, before + 1);
        } else if kind == Kind::Restart {
            self.restart(!self.is_shared);
        } else if kind == Kind::Crash {
            self.daemon.take().unwrap().kill9();
            write(self);
            self.start_daemon();
        } else if let Some(number) = tampering {
            if !self.is_shared {
                self.restart(true);
            }
            self.namespace.nft(TAMPERING[number]);
        } else {
            write(self);
        }
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let daemon = self.daemon.as_mut().unwrap();
        daemon.settle(self.namespace, &self.manifests.path(), &args);
        history.settle();
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn restart(&mut self, is_shared: bool) {
        self.daemon.take().unwrap().stop();
        self.is_shared = is_shared;
        self.start_daemon();
    }

    fn start_daemon(&mut self) {
        let mut args = self.args();
        if self.is_shared {
            args.push("--shared-tables".to_owned());
        }
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.daemon = Some(Daemon::start(self.namespace, &self.manifests.path(), &args));
    }

    /// Returns the settings of the daemon, which `rulec diff` needs, too.
    fn args(&self) -> Vec<String> {
        vec!["--config".to_owned(), self.config().display().to_string()]
    }

    fn config(&self) -> PathBuf {
        self.config.path().join("config.yaml")
    }

    /// Writes the configuration file.
    fn configure(&self) {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: 10.50.0.0/16,2001:db8:50::/48
nftables: {{masqueradeAll: {}}}
",
            self.masquerade_all
        );
        let draft = self.config.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, self.config()).unwrap();
    }
}

/// How many of the following, the first ones, make the daemon replace a table.
const REPLACING: usize = 2;

/// What another program does to the tables, without harm to the Services that are called.
const TAMPERING: [&str; 5] = [
    "add chain ip rulec theirs",
    "add set ip6 rulec theirs { type ipv4_addr; }",
    "insert rule ip rulec prerouting counter",
    "add element ip rulec services { 10.99.99.99 . tcp . 80 : 4:d001 }
     add element ip rulec endpoints { 4:d000 . tcp . 0 : 10.50.9.9 . 80 }",
    "add element ip rulec cluster-ips { 10.99.99.99 }
     add element ip6 rulec hairpin { 2001:db8::1 . 2001:db8::2 }",
];

/// Returns how many SYNs the clients had to send again: a packet was lost.
fn retransmitted(world: &World) -> u64 {
    let of = |sender: Sender| {
        sender.of(world).run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
            let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
            let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
            let mut pairs = names.split(' ').zip(values.split(' '));
            let (_, value) = pairs.find(|(name, _)| *name == "TCPSynRetrans").unwrap();
            value.parse::<u64>().unwrap()
        })
    };
    Sender::ALL.into_iter().map(of).sum()
}

/// Returns the lines that only one of two listings has, without records of session affinity.
fn difference(before: &str, after: &str) -> String {
    let only = |sign: &str, of: &str, other: &str| -> String {
        let lines = of.lines().filter(|line| !line.contains(" expires "));
        let lines = lines.filter(|line| !other.lines().any(|it| it == *line));
        lines.map(|line| format!("{sign} {line}\n")).collect()
    };
    only("-", before, after) + &only("+", after, before)
}
