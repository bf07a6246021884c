//! `rulec explain`: its output in text and JSON, and the questions that it refuses. Other tests
//! compare its answers with real packets.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;

use crate::daemon::{Daemon, Manifests};
use crate::support::{RULEC, Ran, SETTINGS, finish, rulec};

const OBJECTS: &str = "
apiVersion: v1
kind: Node
metadata: {name: na, labels: {topology.kubernetes.io/zone: z1}}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.90.0.10
  externalTrafficPolicy: Local
  loadBalancerSourceRanges: [203.0.113.0/24]
  ports: [{name: http, port: 80, nodePort: 30080, targetPort: 8080}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.20}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.50.1.5], nodeName: na, conditions: {ready: true}}
- {addresses: [10.50.2.5], nodeName: nb, conditions: {ready: true}}
- {addresses: [10.50.3.5], nodeName: nc, conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.90.0.11, sessionAffinity: ClientIP, ports: [{port: 53, protocol: UDP}]}
";

/// Explains from manifests without a kernel.
fn offline(objects: &str, args: &[&str]) -> Ran {
    let manifests = Manifests::of(objects);
    let mut command = Command::new(RULEC);
    command.env_remove("RULEC_LOG").current_dir(manifests.path());
    command.arg("explain").args(args).args(["--state", "."]).args(SETTINGS);
    finish(command)
}

fn explained(args: &[&str]) -> String {
    let Ran { status, stdout, stderr } = offline(OBJECTS, args);
    assert_eq!((status, stderr.as_str()), (0, ""), "{args:?}: {stdout}");
    stdout
}

#[test]
fn the_text_names_rules_objects_and_fields() {
    insta::assert_snapshot!(explained(&["10.90.0.10:80", "--from", "10.50.1.5"]));
    insta::assert_snapshot!(explained(&["198.51.100.20:80", "--from", "203.0.113.7"]));
    insta::assert_snapshot!(explained(&["198.51.100.20:80", "--from", "203.0.114.7"]));
    insta::assert_snapshot!(explained(&["192.0.2.10:30080/tcp", "--from", "203.0.114.7"]));
    insta::assert_snapshot!(explained(&["10.90.0.11:53/UDP", "--from", "10.50.1.5"]));
    insta::assert_snapshot!(explained(&["10.90.0.11", "--from", "10.50.1.5"]));
}

/// Two endpoints of different weights, and a Service that asks for a way of load balancing.
fn weighted(how: &str) -> String {
    let asks = format!("metadata: {{name: web, annotations: {{{how}}}}}");
    let objects = OBJECTS.replace("metadata: {name: web}", &asks);
    let light = "metadata: {name: web-2, annotations: {rulec.io/weight: '0'}, labels:";
    let third = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-2, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.50.1.9], nodeName: na}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-3, annotations: {rulec.io/weight: '3'}, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.50.1.8], nodeName: na}]
";
    objects + &third.replace("metadata: {name: web-2, labels:", light)
}

#[test]
fn load_balancing_and_weights_are_explained() {
    let ask = |how: &str, more: &[&str]| {
        let args = [&["198.51.100.20:80", "--from", "203.0.113.7"], more].concat();
        let Ran { status, stdout, stderr } = offline(&weighted(how), &args);
        assert_eq!((status, stderr.as_str()), (0, ""), "{how}: {stdout}");
        stdout
    };
    insta::assert_snapshot!(ask(
        "rulec.io/load-balancing: maglev",
        &["--maglev-table-size", "251"]
    ));
    insta::assert_snapshot!(ask("rulec.io/load-balancing: round-robin", &[]));
    let json = ask("service.cilium.io/lb-algorithm: maglev", &["-o", "json"]);
    let said: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(said["frontend"]["loadBalancing"], "maglev");
    // Clients from outside meet the endpoints on this node: weights 1 and 3, of 16,381 slots.
    let shares: Vec<&Value> =
        said["outcomes"].as_array().unwrap().iter().map(|it| &it["share"]).collect();
    assert_eq!(shares, [&Value::from(vec![4_095, 16_381]), &Value::from(vec![12_286, 16_381])]);
    let limit = "rulec.io/max-connections: '7'";
    let json = ask(limit, &["-o", "json", "--proxy-mode", "ipvs"]);
    let said: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(said["frontend"]["maxConnections"], 7);
    let text = ask(limit, &["--proxy-mode", "ipvs"]);
    assert!(text.contains("  an endpoint with 7 connections gets no new ones\n"), "{text}");
    assert!(text.contains("its share of new connections is 3 of 4"), "{text}");
    // By default there is nothing to say.
    assert!(!explained(&["198.51.100.20:80", "--from", "203.0.113.7"]).contains("load balancing"));
}

/// A slice that matches no port of its Service, and a node name without a Node: `explain`, `diff`
/// and `run` report both.
#[test]
fn objects_without_effect_are_reported() {
    let objects =
        OBJECTS.replace("ports: [{name: http, port: 8080}]", "ports: [{name: web, port: 8080}]");
    let Ran { status, stdout, stderr } =
        offline(&objects, &["10.90.0.10:80", "--from", "10.50.1.5"]);
    assert_eq!((status, stderr.as_str()), (0, ""), "{stdout}");
    let mismatch = "EndpointSlice default/web-1: its endpoints are not used: ports are matched by name and \
                    protocol: Service default/web has http/TCP, but the slice has web/TCP";
    assert!(stdout.contains(mismatch), "{stdout}");

    let manifests = Manifests::of(&objects);
    let ask = |args: &[&str], node: &str| {
        let mut command = Command::new(RULEC);
        command.env_remove("RULEC_LOG").current_dir(manifests.path());
        command.args(args).args(["--node-name", node]);
        finish(command)
    };
    let name = "Node na.example.com: there is no Node of this name (--node-name). Known nodes: na.";
    let explain = ["explain", "10.90.0.10:80", "--from", "10.50.1.5", "--state", "."];
    let explained = ask(&explain, "na.example.com").stdout;
    assert!(explained.contains(mismatch) && explained.contains(name), "{explained}");
    let diff = ["diff", "--from", ".", "--to", "."];
    let told = ask(&diff, "na.example.com").stderr;
    assert!(told.contains(mismatch) && told.contains(name), "{told}");
    let told = ask(&diff, "na").stderr;
    assert!(told.contains(mismatch) && !told.contains("--node-name"), "{told}");

    // The daemon reports them when the first lists are complete, and reports again when they are
    // resolved.
    if !require_root() {
        return;
    }
    let node = Namespace::new("no-effect");
    let mut daemon = Daemon::start(&node, &manifests.path(), &["--node-name", "na.example.com"]);
    daemon.wait_for(mismatch);
    daemon.wait_for(name);
    manifests.write("node.yaml", "{apiVersion: v1, kind: Node, metadata: {name: na.example.com}}");
    daemon.wait_for("resolved: Node na.example.com: there is no Node of this name");
    daemon.stop();
}

/// `explain` shows that a connection to an endpoint without a node name returns to its sender
/// masqueraded.
#[test]
fn a_hairpin_to_an_endpoint_without_a_node_is_explained() {
    let objects = OBJECTS.replace(", nodeName: na", "");
    let Ran { stdout, .. } = offline(&objects, &["10.90.0.10:80", "--from", "10.50.1.5"]);
    assert!(stdout.contains("goes to 10.50.1.5:8080, masqueraded"), "{stdout}");
    assert!(stdout.contains("because it returns to its source (hairpin)"), "{stdout}");
}

#[test]
fn packets_to_other_addresses_pass() {
    for (to, word) in [
        ("10.90.0.99:80", "no rule applies"),
        ("127.0.0.1:30080", "nodePort 30080/TCP (IPv4) does not answer at 127.0.0.1"),
        ("[2001:db8::1]:80/sctp", "no rule applies"),
    ] {
        let from = if to.starts_with('[') { "2001:db8::2" } else { "203.0.113.7" };
        let text = explained(&[to, "--from", from]);
        assert!(text.contains("passes unchanged") && text.contains(word), "{to}: {text}");
    }
}

/// Manifests contain only the addresses of the Node object.
#[test]
fn other_addresses_of_the_node_can_be_given() {
    let from = ["198.51.100.20:80", "--from", "203.0.113.110"];
    assert!(!explained(&from).contains("masqueraded"), "a client outside is not masqueraded");
    let own = [&from[..], &["--own-addresses", "203.0.113.110,2001:db8::110"]].concat();
    assert!(explained(&own).contains("masqueraded"), "an address of the node is masqueraded");
    let to = ["203.0.113.110:30080", "--from", "203.0.113.7", "-o", "json"];
    let own = [&to[..], &["--own-addresses", "203.0.113.110"]].concat();
    let said: Value = serde_json::from_str(&explained(&own)).unwrap();
    assert_eq!(said["outcomes"][0]["verdict"], "pass");
    assert_eq!(said.get("frontend"), None, "node ports answer at the primary address alone");
}

#[test]
fn a_pod_can_be_recognised_by_its_interface() {
    let by = ["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "veth"];
    for (interface, is_masqueraded) in [("veth7", false), ("eth0", true)] {
        let from = ["10.90.0.10:80", "--from", "203.0.113.7", "--interface", interface];
        let text = explained(&[&from[..], &by].concat());
        assert_eq!(text.contains("masqueraded"), is_masqueraded, "{interface}: {text}");
    }
}

#[test]
fn every_field_is_documented() {
    let page = include_str!("../../docs/explain-json.md");
    let objects = weighted("rulec.io/load-balancing: maglev");
    let objects = objects.replace("  type:", "  sessionAffinity: ClientIP\n  type:");
    let args = ["10.90.0.10:80", "--from", "203.0.113.7", "--interface", "eth0", "-o", "json"];
    let said: Value = serde_json::from_str(&offline(&objects, &args).stdout).unwrap();
    assert!(
        said["frontend"]["loadBalancing"].is_string() && said["outcomes"][0]["share"].is_array()
    );
    let outcome = &said["outcomes"][0];
    let frontend = &said["frontend"];
    for (prefix, value) in
        [("", &said), ("frontend.", frontend), ("", outcome), ("", &outcome["path"][0])]
    {
        for field in value.as_object().unwrap().keys() {
            let mut ways = ["", "[]"].map(|end| format!("`{prefix}{field}{end}`")).into_iter();
            assert!(ways.any(|way| page.contains(&way)), "{prefix}{field} is not documented");
        }
    }
    let known = (&frontend["affinitySeconds"], &outcome["masquerade"]);
    assert_eq!(known, (&Value::from(10_800), &Value::from("mark")));
}

#[test]
fn an_address_without_a_port_may_be_in_brackets() {
    let ping = |to| explained(&[to, "--from", "2001:db8::2"]);
    assert!(ping("[fd90::1]").starts_with("2001:db8::2 -> fd90::1, no port\n"));
    assert_eq!(ping("[fd90::1]"), ping("fd90::1"));
}

#[test]
fn invalid_queries_get_a_clear_error() {
    let cases: [(&[&str], &str); 11] = [
        (&["[fd90::1]/tcp"], "has a protocol but no port"),
        (&["[fd90::1"], "is not ADDRESS:PORT"),
        (&["[10.90.0.10]"], "is not ADDRESS:PORT"),
        (&["[fd90::1]80"], "is not ADDRESS:PORT"),
        (&["10.90.0.10:80/icmp"], "\"icmp\" is not tcp, udp or sctp"),
        (&["10.90.0.10:0"], "10.90.0.10:0"),
        (&["10.90.0.10:65536"], "10.90.0.10:65536"),
        (&["web:81"], "web:81: Service default/web has no such port (81)"),
        (&["10.90.0.10:80", "--from", "nowhere"], "nowhere"),
        (&["10.90.0.10:80", "--from", "2001:db8::2"], "are of different IP families"),
        (&["[fd90::1]:80"], "use --from"),
    ];
    for (args, word) in cases {
        let ran = offline(OBJECTS, args);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(word), "{args:?}: {ran:?}");
    }
    // Errors in manifests are reported, and the valid objects explained.
    let objects =
        format!("{OBJECTS}---\napiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: []\n");
    let ran = offline(&objects, &["10.90.0.10:80", "--from", "10.50.1.5"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("all.yaml:"), "{}", ran.stderr);
    assert!(ran.stdout.contains("goes to 10.50.2.5:8080"), "{}", ran.stdout);
}

/// The kernel does not hold the objects; manifests given in addition provide them.
#[test]
fn kernel_rules_are_explained_with_manifests() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("explain");
    node.sh("ip link set lo up; ip addr add 192.0.2.10/32 dev lo");
    let manifests = Manifests::of(OBJECTS);
    let path = manifests.path();
    let path = path.to_str().unwrap();
    let daemon = Daemon::start(&node, &manifests.path(), &SETTINGS);
    let explain = |to: &str, more: &[&str]| {
        let args = [&["explain", to, "--from", "203.0.113.7"], &SETTINGS[..], more].concat();
        let ran = rulec(&node, &args);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{to}: {ran:?}");
        ran.stdout
    };
    for to in ["198.51.100.20:80", "192.0.2.10:30080", "10.90.0.11:53/udp", "8.8.8.8:53/udp"] {
        let both = explain(to, &["--manifests", path]);
        assert_eq!(both, explain(to, &["--state", path]), "{to}: kernel and manifests agree");
        let alone: Value = serde_json::from_str(&explain(to, &["-o", "json"])).unwrap();
        let with: Value =
            serde_json::from_str(&explain(to, &["-o", "json", "--manifests", path])).unwrap();
        assert_eq!(alone["outcomes"][0]["verdict"], with["outcomes"][0]["verdict"]);
        assert_eq!(alone["outcomes"][0]["path"], with["outcomes"][0]["path"]);
    }
    // The effect of rules other than rulec's is not predicted.
    daemon.stop();
    node.sh("nft delete table ip rulec");
    let gone = explain("198.51.100.20:80", &[]);
    assert!(gone.contains("there is no table of rulec for IPv4"), "{gone}");
}
