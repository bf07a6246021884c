//! `rulec diff` and `rulec explain` with the daemon's settings: options and configuration file have
//! the same meaning for all commands, on the node and elsewhere.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::process::Command;

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;

use crate::daemon::{Daemon, Manifests, command};
use crate::support::{RULEC, finish, rulec};

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  clusterIP: 10.90.0.10
  ports: [{name: http, port: 80, nodePort: 30080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.50.1.5], nodeName: na}]
";

const NODE: &str = "---
apiVersion: v1
kind: Node
metadata: {name: na}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
";

/// Returns a configuration file of kube-proxy.
fn config(fields: &str) -> String {
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    format!("{head}{fields}")
}

/// Returns the addresses at which node ports answer according to manifests.
fn node_ips(mut command: Command, objects: &str, args: &[&str]) -> Vec<String> {
    let manifests = Manifests::of(objects);
    let directory = tempfile::tempdir().unwrap();
    let snapshot = directory.path().join("snapshot.json");
    command.args(["diff", "--node-name", "na"]).args(args).arg("--save").arg(&snapshot);
    command.arg("--from").arg(manifests.path()).arg("--to").arg(manifests.path());
    let ran = finish(command);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{args:?}: {ran:?}");
    let snapshot: Value = serde_json::from_slice(&fs::read(&snapshot).unwrap()).unwrap();
    let tables = snapshot["tables"].as_object().unwrap().values();
    let elements = tables.flat_map(|table| table["elements"].as_array().unwrap());
    let ips = elements.filter_map(|element| element["key"]["NodeIp"].as_str());
    ips.map(str::to_owned).collect()
}

/// Manifests have the same meaning wherever they are read.
#[test]
fn the_addresses_of_another_node_can_be_given() {
    const NETWORKS: [&str; 2] = ["--nodeport-addresses", "192.0.2.0/24,2001:db8::/64"];
    if !require_root() {
        return;
    }
    let elsewhere = Namespace::new("settings-elsewhere");
    elsewhere.sh("ip link set lo up; ip addr add 192.0.2.77/32 dev lo");
    let with = |objects: &str, more: &[&str]| {
        let args = [&NETWORKS[..], more].concat();
        node_ips(command(&elsewhere, &[]), objects, &args)
    };
    let node = format!("{WEB}{NODE}");
    let told = ["--own-addresses", "192.0.2.110,203.0.113.5,2001:db8::110"];
    assert_eq!(with(&node, &[]), ["192.0.2.10"]);
    assert_eq!(with(&node, &told), ["192.0.2.10", "192.0.2.110", "2001:db8::110"]);
    assert_eq!(with(WEB, &told), ["192.0.2.110", "2001:db8::110"]);
    assert_eq!(with(WEB, &["--bind-address", "192.0.2.9"]), ["192.0.2.9"]);
    // No Node object says that the node is not this machine.
    assert_eq!(with(WEB, &[]), ["192.0.2.77"]);

    let manifests = Manifests::of(&node);
    let path = manifests.path();
    let explain = |to: &str, more: &[&str]| {
        let args = ["explain", to, "--from", "203.0.113.7", "--node-name", "na", "--state"];
        let args = [&args[..], &[path.to_str().unwrap()], &NETWORKS, more].concat();
        let ran = rulec(&elsewhere, &args);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{to}: {ran:?}");
        ran.stdout
    };
    assert!(explain("192.0.2.10:30080", &[]).contains("goes to 10.50.1.5:8080"));
    assert!(explain("192.0.2.77:30080", &[]).contains("passes unchanged"));
    assert!(explain("192.0.2.110:30080", &[]).contains("passes unchanged"));
    assert!(explain("192.0.2.110:30080", &told).contains("goes to 10.50.1.5:8080"));
}

#[test]
fn a_primary_address_applies_to_manifests_too() {
    let of = |objects: &str, args: &[&str]| {
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG");
        node_ips(command, objects, args)
    };
    let node = format!("{WEB}{NODE}");
    assert_eq!(of(&node, &[]), ["192.0.2.10"]);
    assert_eq!(of(&node, &["--bind-address", "192.0.2.9"]), ["192.0.2.9"]);
    assert_eq!(of(&node, &["--bind-address", "0.0.0.0"]), ["192.0.2.10"]);
    assert_eq!(of(WEB, &["--bind-address", "2001:db8::9"]), ["2001:db8::9"]);
}

/// As docs/migration.md states: with the daemon's settings, `diff` finds no difference.
#[test]
fn a_file_applies_equally_to_daemon_diff_and_explain() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("settings");
    node.sh(
        "ip link set lo up; ip addr add 192.0.2.10/32 dev lo; ip addr add 192.0.2.110/32 dev lo",
    );
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.conf");
    let file = file.to_str().unwrap();
    let manifests = Manifests::of(&format!("{WEB}{NODE}"));
    let path = manifests.path();
    let path = path.to_str().unwrap();
    for fields in [
        "mode: nftables\nhostnameOverride: na\nclusterCIDR: 10.50.0.0/16\nbindAddress: 192.0.2.110\n",
        "mode: nftables\nhostnameOverride: na\nnodePortAddresses: [192.0.2.0/24]\nnftables: \
         {masqueradeBit: 7, masqueradeAll: true}\n",
        "hostnameOverride: na\ndetectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: \
         cni0}\niptables: {masqueradeBit: 9}\n",
    ] {
        fs::write(file, config(fields)).unwrap();
        // The node name is that of the file, not that of the tests.
        let args = ["run", "--config", file, "--manifests", path, "--shared-tables"];
        let mut daemon = Daemon::of(command(&node, &args));
        daemon.wait_for("in sync with all sources");
        let with = |args: &[&str]| {
            let ran = rulec(&node, &[args, &["--config", file]].concat());
            assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{fields}: {ran:?}");
            ran.stdout
        };
        assert_eq!(with(&["diff", "--to", path]), "No difference.\n", "{fields}");
        let explain =
            ["explain", "192.0.2.110:30080", "--from", "203.0.113.7", "--manifests", path];
        let answer = with(&[&explain[..], &["--state", "kernel"]].concat());
        assert!(answer.contains("goes to 10.50.1.5:8080, masqueraded"), "{fields}: {answer}");
        assert!(!answer.contains("differs from rulec's"), "{fields}: {answer}");
        daemon.stop();
    }
}

#[test]
fn options_replaced_by_a_file_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.conf");
    let manifests = Manifests::of(WEB);
    let ran = |fields: &str, args: &[&str]| {
        fs::write(&file, config(fields)).unwrap();
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG").current_dir(directory.path());
        command.arg("diff").arg("--from").arg(manifests.path()).arg("--to").arg(manifests.path());
        command.args(["--config", "config.conf", "--node-name", "na"]).args(args);
        finish(command)
    };
    // Settings that do not affect the compilation are reported by the daemon only.
    let replaced = ran("oomScoreAdj: 2000\nunknown: 1\n", &["--cluster-cidr", "10.0.0.0/8"]);
    let warning = "--cluster-cidr: has no effect: config.conf is used instead\n";
    assert_eq!((replaced.status, replaced.stderr.as_str()), (0, warning));
    let wrong = ran("clusterCIDR: nowhere\n", &[]);
    assert_eq!((wrong.status, wrong.stdout.as_str()), (3, ""));
    assert!(wrong.stderr.contains("config.conf:3: clusterCIDR: \"nowhere\""), "{}", wrong.stderr);
    fs::remove_file(&file).unwrap();
    let mut missing = Command::new(RULEC);
    missing.args(["diff", "--to", ".", "--config", "/nonexistent"]);
    let missing = finish(missing);
    assert_eq!(missing.status, 3);
    assert!(missing.stderr.contains("reading /nonexistent"), "{}", missing.stderr);
}
