//! A node with a kubelet and no API server: static Pods have their addresses from the kubelet.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod real;

use std::net::SocketAddr;

use rulec_kubelet::{Behaviour, Kubelet, Pod};
use rulec_testkit::{
    Family, Namespace, Protocol, Server, World, WorldSpec, ask_many, require_root,
};
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests};
use crate::support::{eventually, get, rulec};

const HEALTH: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";

/// A Service with a cluster address, and the manifests of its two static Pods: as a person writes
/// them, without addresses.
pub(crate) const MANIFESTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIPs: [10.96.0.10, 'fd00:96::10']
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: main, image: web, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: second, labels: {app: web}}
spec: {containers: [{name: main, image: web, ports: [{name: http, containerPort: 8080}]}]}
";

fn frontend(family: Family) -> SocketAddr {
    let text = match family {
        Family::V4 => "10.96.0.10:80",
        Family::V6 => "[fd00:96::10]:80",
    };
    text.parse().unwrap()
}

/// Two Pods on the node with servers, and a client.
struct Site {
    world: World,
    _servers: Vec<Server>,
    manifests: Manifests,
    root: TempDir,
}

impl Site {
    fn new() -> Self {
        let world = World::new(WorldSpec { local_pods: 2, remote_pods: 0 });
        let servers = ["first", "second"].iter().enumerate().map(|(number, name)| {
            Server::start(&world.pod(number).namespace, name, &[(Protocol::Tcp, 8080)])
        });
        let _servers = servers.collect();
        let root = tempfile::tempdir().unwrap();
        Self { world, _servers, manifests: Manifests::of(MANIFESTS), root }
    }

    /// Returns a static Pod as the kubelet has it, with the addresses of a Pod of the world.
    fn pod(&self, name: &str, number: usize) -> Pod {
        let pod = self.world.pod(number);
        let addresses = [Family::V4, Family::V6].map(|family| pod.ip(family).to_string());
        let labels = vec![("app".to_owned(), "web".to_owned())];
        Pod { labels, ..Pod::of_file(name, &[&addresses[0], &addresses[1]]) }
    }

    fn kubelet(&self, pods: &[Pod]) -> Kubelet {
        Kubelet::start(self.root.path(), Behaviour::Serves, pods)
    }

    /// Starts the daemon, which finds the kubelet by itself.
    fn daemon(&self) -> Daemon {
        let root = self.root.path().to_str().unwrap();
        Daemon::start(&self.world.node, &self.manifests.path(), &["--kubelet-root-dir", root])
    }

    /// Waits until exactly these Pods answer, over both families.
    fn answered_by(&self, names: &[&str]) {
        for family in [Family::V4, Family::V6] {
            eventually(&format!("{names:?} over {family:?}"), || {
                let answers = ask_many(&self.world.client, Protocol::Tcp, frontend(family), 24);
                answers.keys().map(String::as_str).eq(names.iter().copied())
            });
        }
    }
}

fn metric(namespace: &Namespace, line: &str) -> bool {
    get(namespace, METRICS, "/metrics").body.lines().any(|it| it == line)
}

#[test]
fn static_pods_are_served_at_the_addresses_that_the_kubelet_reports() {
    if !require_root() {
        return;
    }
    let site = Site::new();
    let kubelet = site.kubelet(&[site.pod("web", 0)]);
    let mut daemon = site.daemon();
    site.answered_by(&["first"]);
    // A Pod that gets ready, and its manifest, are one endpoint.
    kubelet.put(&Pod { addresses: Vec::new(), ready: None, ..site.pod("second", 1) });
    kubelet.put(&site.pod("second", 1));
    site.answered_by(&["first", "second"]);
    kubelet.put(&Pod { ready: Some(false), ..site.pod("web", 0) });
    site.answered_by(&["second"]);
    // The last one serves while it terminates.
    kubelet.put(&Pod { is_deleting: true, ..site.pod("second", 1) });
    let before = daemon.committed();
    kubelet.delete("web-na");
    site.answered_by(&["second"]);
    kubelet.put(&site.pod("web", 0));
    daemon.wait_for_count(crate::daemon::COMMITTED, before + 1);
    site.answered_by(&["first"]);
    // A Pod's manifest that goes first leaves the Pod of the kubelet.
    site.manifests.write("all.yaml", MANIFESTS.split("---").next().unwrap());
    site.answered_by(&["first"]);
}

#[test]
fn a_kubelet_that_dies_leaves_its_pods_until_it_is_back_without_them() {
    if !require_root() {
        return;
    }
    let site = Site::new();
    let both = [site.pod("web", 0), site.pod("second", 1)];
    let kubelet = site.kubelet(&both);
    let mut daemon = site.daemon();
    site.answered_by(&["first", "second"]);
    let node = &site.world.node;
    assert!(metric(node, "rulec_source_available{source=\"kubelet\"} 1"));

    drop(kubelet);
    daemon.wait_for("kubelet: ");
    eventually("the metric says so", || {
        metric(node, "rulec_source_available{source=\"kubelet\"} 0")
    });
    let readyz = get(node, HEALTH, "/readyz");
    assert!(readyz.body.starts_with("ok\nstale: the kubelet, as of "), "{}", readyz.body);
    assert_eq!(readyz.code, 200);
    site.answered_by(&["first", "second"]);

    // A daemon that starts while the kubelet is away removes nothing either.
    daemon.kill9();
    let mut daemon = site.daemon();
    daemon.wait_for("the kubelet has not delivered in time");
    site.answered_by(&["first", "second"]);

    let _kubelet = site.kubelet(&both[..1]);
    site.answered_by(&["first"]);
    assert_eq!(get(node, HEALTH, "/readyz").body, "ok");
}

#[test]
fn tools_that_do_not_ask_the_kubelet_say_so() {
    const SAID: &str = "manifests lack what the kubelet told the daemon about Pods";
    if !require_root() {
        return;
    }
    let site = Site::new();
    let _kubelet = site.kubelet(&[site.pod("web", 0)]);
    let (root, socket) = (site.root.path(), site.root.path().join("rulec.sock"));
    let (root, socket) = (root.to_str().unwrap(), socket.to_str().unwrap());
    let args = ["--kubelet-root-dir", root, "--socket", socket];
    let _daemon = Daemon::start(&site.world.node, &site.manifests.path(), &args);
    site.answered_by(&["first"]);
    let manifests = site.manifests.path().to_str().unwrap().to_owned();
    let run = |args: &[&str]| rulec(&site.world.node, &[args, &["--socket", socket]].concat());
    let ran = run(&["diff", "--to", &manifests]);
    assert_eq!((ran.status, ran.stderr.contains(SAID)), (1, true), "{ran:?}");
    let ran = run(&["explain", "web", "--from=10.50.1.9", "--manifests", &manifests]);
    assert!(ran.stderr.contains(SAID), "{ran:?}");
    // Manifests lack nothing that the other side has, or only the kernel is read.
    let ran = run(&["diff", "--from", &manifests, "--to", &manifests]);
    assert_eq!((ran.status, ran.stderr.contains(SAID)), (0, false), "{ran:?}");
    let ran = run(&["explain", "web", "--from=10.50.1.9"]);
    assert!(!ran.stderr.contains(SAID), "{ran:?}");
}
