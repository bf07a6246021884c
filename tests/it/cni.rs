//! A node with neither a kubelet nor addresses in its manifests: the cache of the CNI plugins has
//! the addresses of the Pods.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;

use rulec_kubelet::{Behaviour, Kubelet, Pod};
use rulec_testkit::{Family, Protocol, Server, World, WorldSpec, ask_many, require_root};
use serde_json::json;
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests};
use crate::kubelet::MANIFESTS;
use crate::support::{SETTINGS, diff, eventually};

/// Two Pods on the node with servers, and a client.
struct Site {
    world: World,
    _servers: Vec<Server>,
    manifests: Manifests,
    cache: TempDir,
    state: TempDir,
}

impl Site {
    fn new() -> Self {
        let world = World::new(WorldSpec { local_pods: 2, remote_pods: 0 });
        let servers = ["first", "second"].iter().enumerate().map(|(number, name)| {
            Server::start(&world.pod(number).namespace, name, &[(Protocol::Tcp, 8080)])
        });
        let _servers = servers.collect();
        let [cache, state] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        Self { world, _servers, manifests: Manifests::of(MANIFESTS), cache, state }
    }

    /// Notes that a plugin has given the addresses of a Pod of the world to a Pod. Its network
    /// namespace is that of the Pod.
    fn add(&self, container: &str, name: &str, number: usize) {
        let pod = self.world.pod(number);
        let ips = [Family::V4, Family::V6].map(|family| {
            let length = if family == Family::V4 { 24 } else { 64 };
            json!({"address": format!("{}/{length}", pod.ip(family))})
        });
        let sandbox = format!("/run/netns/{}", pod.namespace.name());
        let record = json!({
            "kind": "cniCacheV1", "containerId": container, "config": "e30=",
            "ifName": "eth0", "networkName": "net",
            "cniArgs": [["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", name]],
            "result": {"cniVersion": "1.0.0", "ips": ips, "interfaces": [
                {"name": "eth0", "sandbox": sandbox}]},
        });
        self.write(container, &record.to_string());
    }

    fn write(&self, container: &str, text: &str) {
        fs::write(self.cache.path().join(format!("net-{container}-eth0")), text).unwrap();
    }

    fn delete(&self, container: &str) {
        fs::remove_file(self.cache.path().join(format!("net-{container}-eth0"))).unwrap();
    }

    fn daemon(&self, more: &[&str]) -> Daemon {
        let [cache, state] = [&self.cache, &self.state].map(|path| path.path().to_str().unwrap());
        let own = ["--cni-cache", cache, "--state-dir", state, "--rescan-seconds", "1000"];
        Daemon::start(
            &self.world.node,
            &self.manifests.path(),
            &[&own, &SETTINGS[..], more].concat(),
        )
    }

    /// Waits until exactly these Pods answer, over both families.
    fn answered_by(&self, names: &[&str]) {
        for (family, at) in [(Family::V4, "10.96.0.10:80"), (Family::V6, "[fd00:96::10]:80")] {
            eventually(&format!("{names:?} over {family:?}"), || {
                let at = at.parse().unwrap();
                let answers = ask_many(&self.world.client, Protocol::Tcp, at, 24);
                answers.keys().map(String::as_str).eq(names.iter().copied())
            });
        }
    }
}

#[test]
fn pods_are_served_at_the_addresses_that_plugins_gave_them() {
    if !require_root() {
        return;
    }
    let site = Site::new();
    site.add("c1", "web-na", 0);
    let mut daemon = site.daemon(&[]);
    site.answered_by(&["first"]);
    site.add("c2", "second-na", 1);
    site.answered_by(&["first", "second"]);
    site.delete("c1");
    site.answered_by(&["second"]);
    // Half a file of a container that is gone by then.
    site.write("c2", "{");
    daemon.wait_for("net-c2-eth0: cannot be decoded");
    site.answered_by(&["second"]);
    site.add("c2", "second-na", 1);
    site.add("c3", "web-na", 0);
    site.answered_by(&["first", "second"]);
    daemon.wait_for("resolved: ");
    daemon.stop();

    // Files that cannot be read at a start leave the endpoints as the kernel has them.
    site.write("c2", "{");
    site.write("c3", "{");
    let mut daemon = site.daemon(&[]);
    site.answered_by(&["first", "second"]);
    site.delete("c2");
    site.add("c3", "web-na", 0);
    site.answered_by(&["first"]);
    daemon.wait_for("resolved: ");
    // The tools see the same.
    let manifests = site.manifests.path();
    let cache = site.cache.path().to_str().unwrap();
    let options = ["--cni-cache", cache];
    let same = diff(&site.world.node, "kernel", manifests.to_str().unwrap(), &options);
    assert_eq!(same.status, 0, "{same:?}");
    let without = diff(&site.world.node, "kernel", manifests.to_str().unwrap(), &[]);
    assert_eq!(without.status, 1, "{without:?}");
    site.write("c4", "{");
    let broken = diff(&site.world.node, "kernel", manifests.to_str().unwrap(), &options);
    assert!(broken.status == 2 && broken.stderr.contains("net-c4-eth0"), "{broken:?}");
}

#[test]
fn the_kubelet_knows_better() {
    if !require_root() {
        return;
    }
    let site = Site::new();
    site.add("c1", "web-na", 1);
    let root = tempfile::tempdir().unwrap();
    let pod = site.world.pod(0);
    let addresses = [Family::V4, Family::V6].map(|family| pod.ip(family).to_string());
    let labels = vec![("app".to_owned(), "web".to_owned())];
    let web = Pod { labels, ..Pod::of_file("web", &[&addresses[0], &addresses[1]]) };
    let _kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web]);
    let _daemon = site.daemon(&["--kubelet-root-dir", root.path().to_str().unwrap()]);
    site.answered_by(&["first"]);
}
