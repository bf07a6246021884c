//! The daemon and an API server: what the kernel holds is what the server has, whatever happens to it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rulec_apiserver::{Assets, Credential, RealServer, Resource, Server, Verb, on_both_servers};
use rulec_testkit::{Namespace, require_root};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests, NODE_NAME, SETTLED, rulec};
use crate::support::{Dice, loadable};

/// A node with an API server beside it; both are in the node's namespace.
struct Cluster<S> {
    // In the order of dropping.
    daemon: Option<Daemon>,
    server: S,
    node: Namespace,
    directory: TempDir,
}

impl<S: Server> Cluster<S> {
    fn new(name: &str) -> Self {
        let node = Namespace::new(name);
        node.sh("ip link set lo up");
        let server = node.run(S::start);
        let directory = TempDir::new().unwrap();
        let cluster = Self { daemon: None, server, node, directory };
        cluster.server.apply(&node_object());
        cluster
            .server
            .write_kubeconfig(&cluster.path("kubeconfig"), &Credential::Token("token".into()));
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the daemon, with more arguments.
    fn start(&mut self, args: &[&str]) {
        let kubeconfig = self.path("kubeconfig");
        let kubeconfig = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        self.daemon = Some(Daemon::spawn_with(&self.node, &[&kubeconfig, args].concat()));
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the daemon runs")
    }

    /// Waits until the kernel holds what a fresh compilation of these objects says, and of those that
    /// the server has of its own accord.
    fn holds(&mut self, objects: &[Value]) {
        let objects = [objects, &self.server.its_own()].concat();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let path = self.path("expected.json");
        std::fs::write(&path, list.to_string()).unwrap();
        let args = ["diff", "--to", path.to_str().unwrap(), "--node-name", NODE_NAME];
        let mut last = None;
        let node = &self.node;
        let daemon = self.daemon.as_mut().expect("the daemon runs");
        let same = daemon.wait_until(|_| {
            let output = rulec(node, &args);
            let same = output.status.success();
            last = Some(output);
            same
        });
        assert!(same, "the kernel differs: {last:?}; the log:\n{}", daemon.log());
    }
}

fn node_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
    })
}

fn service(number: usize, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("web-{number}"), "namespace": "default"},
        "spec": {
            "clusterIP": format!("10.90.{}.{}", number / 250 + 1, number % 250 + 1),
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        },
    })
}

fn slice(number: usize, endpoints: usize) -> Value {
    let endpoints: Vec<Value> = (1..=endpoints)
        .map(|n| json!({"addresses": [format!("10.50.{}.{n}", number % 250)], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("web-{number}-a"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("web-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

on_both_servers!(
    the_kernel_follows_the_server,
    what_the_server_had_stays_while_it_is_away,
    nothing_is_removed_before_every_source_has_delivered,
    a_long_history_ends_where_a_fresh_start_does,
);

fn the_kernel_follows_the_server<S: Server>() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-follow");
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);

    cluster.server.apply(&slice(1, 3));
    cluster.server.apply(&service(2, 80));
    cluster.holds(&[node_object(), service(1, 80), slice(1, 3), service(2, 80)]);

    // What changes nothing is not written.
    let before = cluster.daemon().committed();
    let mut noisy = slice(1, 3);
    noisy["metadata"]["annotations"] = json!({"note": "nothing of this matters"});
    cluster.server.apply(&noisy);
    cluster.server.apply(&service(3, 80));
    cluster.holds(&[node_object(), service(1, 80), slice(1, 3), service(2, 80), service(3, 80)]);
    assert_eq!(cluster.daemon().committed(), before + 1, "the noise was written");
}

fn what_the_server_had_stays_while_it_is_away<S: Server>() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-away");
    for object in [service(1, 80), slice(1, 2), service(2, 80), slice(2, 2)] {
        cluster.server.apply(&object);
    }
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    cluster.server.down();
    // What went while nobody could see it has gone when it is seen again.
    cluster.server.delete(Resource::Services, "default", "web-2");
    cluster.server.apply(&slice(1, 4));
    cluster.server.forget();
    cluster.daemon().wait_for("API server");
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2), service(2, 80), slice(2, 2)]);
    cluster.server.up();
    cluster.holds(&[node_object(), service(1, 80), slice(1, 4), slice(2, 2)]);
}

fn nothing_is_removed_before_every_source_has_delivered<S: Server>() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-both");
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    drop(cluster.daemon.take());

    // Another run, with manifests beside the server, which does not answer yet.
    cluster.server.down();
    let manifests = Manifests::of(&loadable(&service(2, 80).to_string()));
    let path = manifests.path();
    cluster.start(&["--manifests", path.to_str().unwrap()]);
    cluster.daemon().wait_for("watching manifests");
    std::thread::sleep(Duration::from_millis(300));
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);
    assert_eq!(cluster.daemon().committed(), 0);
    cluster.server.up();
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2), service(2, 80)]);

    // The same object in both: the node's own file has the say, and it is said.
    manifests.write("other.json", &service(1, 8000).to_string());
    cluster.holds(&[node_object(), service(1, 8000), slice(1, 2), service(2, 80)]);
    cluster.daemon().wait_for("two sources have this object");
    manifests.remove("other.json");
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2), service(2, 80)]);
}

/// What happens to a server once so many objects have been written.
#[derive(Clone, Copy)]
enum Blow {
    Down,
    Up,
    Crash,
    Forget,
    Drop,
}

/// How many objects have been written; all there will be, once whoever writes them has ended.
struct Writing<'a>(&'a AtomicUsize);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(usize::MAX, Ordering::Release);
    }
}

/// A long random history with a server that comes and goes, is killed while it is written to, and
/// forgets.
fn a_long_history_ends_where_a_fresh_start_does<S: Server>() {
    const EVENTS: usize = 10_000;
    const ROUND: usize = 2_500;
    const SERVICES: u64 = 200;
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-chaos");
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    let server = &cluster.server;
    let written = AtomicUsize::new(0);
    let mut held: BTreeMap<(Resource, usize), Value> = BTreeMap::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..EVENTS / ROUND {
                for (when, blow) in [
                    (600, Blow::Down),
                    (900, Blow::Up),
                    (1_200, Blow::Crash),
                    (1_500, Blow::Forget),
                    (1_800, Blow::Drop),
                ] {
                    while written.load(Ordering::Acquire) < round * ROUND + when {
                        thread::sleep(Duration::from_millis(1));
                    }
                    match blow {
                        Blow::Down => server.down(),
                        Blow::Up => server.up(),
                        Blow::Crash => server.crash(),
                        Blow::Forget => server.forget(),
                        Blow::Drop => server.drop_connections(),
                    }
                }
            }
        });
        // A failure here must not leave the other thread waiting for more.
        let writing = Writing(&written);
        let mut dice = Dice::new(11);
        let mut roll = |sides: u64| usize::try_from(dice.roll(sides)).unwrap();
        for event in 0..EVENTS {
            let number = roll(SERVICES);
            let (resource, object) = match roll(8) {
                0 => (Resource::Services, Some(service(number, 80))),
                1 => (Resource::Services, Some(service(number, 81))),
                2 => (Resource::Services, None),
                3 => (Resource::EndpointSlices, None),
                more => (Resource::EndpointSlices, Some(slice(number, more - 3))),
            };
            let suffix = if resource == Resource::Services { "" } else { "-a" };
            let name = format!("web-{number}{suffix}");
            match object {
                Some(object) => {
                    server.apply(&object);
                    held.insert((resource, number), object);
                }
                None => {
                    server.delete(resource, "default", &name);
                    held.remove(&(resource, number));
                }
            }
            writing.0.store(event + 1, Ordering::Release);
            if event % 50 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let all: Vec<Value> = std::iter::once(node_object()).chain(held.into_values()).collect();
    assert!(all.len() > 100, "a history that leaves nothing shows nothing");
    cluster.holds(&all);
}

/// With a token of the ServiceAccount that `deploy/kubernetes` makes.
#[test]
fn the_role_that_is_deployed_is_enough_on_the_real_server() {
    if Assets::named().is_none() || !require_root() {
        return;
    }
    let mut cluster = Cluster::<RealServer>::new("api-role");
    let credential = Credential::Token(cluster.server.service_account_token());
    cluster.server.write_kubeconfig(&cluster.path("kubeconfig"), &credential);
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);
    let requests = cluster.server.requests();
    let asked: BTreeSet<_> = requests.iter().map(|it| (it.resource, it.verb)).collect();
    let wanted =
        [Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs, Resource::Services];
    assert_eq!(asked, wanted.map(|resource| (Some(resource), Verb::Watch)).into());
    assert_eq!(cluster.server.forbidden_requests(), [""; 0]);
}
