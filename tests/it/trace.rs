//! `rulec trace`: the way of real packets, what it says of each step, and of other programs' rules.
//! That it agrees with `rulec explain` is shown by every case of the table (`cases/trace.rs`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use rulec_testkit::require_root;
use serde_json::Value;

use crate::asked::Asked;
use crate::daemon::{Daemon, Manifests};
use crate::support::Ran;

const OBJECTS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 10.90.0.10
  type: NodePort
  ports:
  - {name: http, port: 80, nodePort: 30080, targetPort: 8080}
  - {name: dns, port: 53, protocol: UDP, nodePort: 30053}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: dns, port: 5353, protocol: UDP}]
endpoints: [{addresses: [10.50.1.5], nodeName: na}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.90.0.11, ports: [{port: 80}]}
";

/// A node with a daemon, and a route to Pods that nobody answers from.
struct Node {
    asked: Asked,
    daemon: Daemon,
}

impl Node {
    fn new(name: &str) -> Self {
        let asked = Asked::new(name, Manifests::of(OBJECTS));
        asked.node.sh(
            "ip link set lo up; ip addr add 192.0.2.10/32 dev lo; ip link add pods type veth peer \
             name pods-peer; ip link set pods up; ip link set pods-peer up; ip addr add \
             10.50.1.1/24 dev pods; ip route add default via 10.50.1.9 dev pods",
        );
        let daemon = asked.start(&["--cluster-cidr", "10.50.0.0/16", "--service-cidr="]);
        Self { asked, daemon }
    }

    fn trace(&self, args: &[&str]) -> Ran {
        self.asked.ask(&[&["trace"], args].concat())
    }
}

/// Returns a text without the port that the kernel has chosen.
fn without_port(text: &str) -> String {
    let (head, rest) = text.split_once(" -> ").unwrap();
    let (address, _) = head.rsplit_once(':').unwrap();
    format!("{address}:PORT -> {rest}")
}

#[test]
fn the_way_of_a_packet_is_told_with_the_objects() {
    if !require_root() {
        return;
    }
    let node = Node::new("trace");
    for (name, args) in [
        ("cluster-ip", &["default/web:http"][..]),
        ("udp", &["10.90.0.10:53/udp"]),
        ("node-port", &["192.0.2.10:30080"]),
        ("refused", &["empty"]),
        ("no-such-port", &["10.90.0.10:81"]),
        ("elsewhere", &["203.0.113.1:80"]),
    ] {
        let ran = node.trace(args);
        assert_eq!(ran.status, 0, "{args:?}: {ran:?}");
        insta::assert_snapshot!(name, without_port(&ran.stdout));
    }
    let tables = node.asked.node.sh("nft list tables");
    assert!(!tables.contains("rulec-trace"), "nothing is left: {tables}");
    node.daemon.stop();
}

/// It is no filter for what this node sends, and not ignored either.
#[test]
fn an_interface_is_for_packets_of_others() {
    if !require_root() {
        return;
    }
    let node = Node::new("trace-interface");
    for (args, why) in [
        (&["web:http", "--interface", "pods"][..], "--interface: a packet that this node sends"),
        (&["web:http", "--interface", "none", "--wait"], "--interface none: this node has lo"),
    ] {
        let ran = node.trace(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran:?}");
        assert!(ran.stderr.contains(why), "{}", ran.stderr);
    }
    // A packet that does not arrive there is none of those that are waited for.
    let ran = node.trace(&["web:http", "--interface", "pods", "--wait", "--seconds", "1"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:?}");
    // What is given out to Services of manifests does not matter: the settings are the daemon's.
    let ran = node.trace(&["web:http", "--state-dir", "/nonexistent"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("settings: those of the daemon at "), "{}", ran.stderr);
    node.daemon.stop();
}

#[test]
fn a_rule_of_another_program_that_drops_is_named() {
    if !require_root() {
        return;
    }
    let node = Node::new("trace-other");
    node.asked.node.nft(
        "table inet theirs {
             chain out {
                 type filter hook output priority 10;
                 ip daddr 10.50.1.5 drop
             }
         }",
    );
    let ran = node.trace(&["web:http"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    for part in [
        "  is dropped silently\n",
        "table inet theirs, chain out, rule with handle 2 of another program drops it\n",
        "nft -a list chain inet theirs out\n",
        "not what rulec explain expects: it goes to 10.50.1.5:8080\n",
    ] {
        assert!(ran.stdout.contains(part), "{part}: {}", ran.stdout);
    }
    let json = node.trace(&["web:http", "-o", "json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    let last = json["steps"].as_array().unwrap().last().unwrap();
    assert_eq!(last["table"], "inet theirs");
    assert_eq!((&json["verdict"], &json["expected"]), (&"drop".into(), &false.into()));
    node.daemon.stop();
}

/// Between two hooks, routing decides: no rule drops such a packet.
#[test]
fn a_packet_that_is_lost_after_its_translation_is_not_untouched() {
    if !require_root() {
        return;
    }
    let node = Node::new("trace-lost");
    node.asked.node.sh("ip route add blackhole 10.50.1.5/32");
    for frontend in ["web:http", "10.90.0.10:53/udp"] {
        let ran = node.trace(&[frontend]);
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(ran.stdout.contains("  is dropped silently\n"), "{}", ran.stdout);
        let why = "translated, and then no hook has seen it: no route to the endpoint";
        assert!(ran.stdout.contains(why), "{}", ran.stdout);
    }
    node.daemon.stop();
}

#[test]
fn what_cannot_be_traced_is_said() {
    if !require_root() {
        return;
    }
    let node = Node::new("trace-none");
    let ran = node.trace(&["web:http", "--from", "10.50.7.7", "--seconds", "1"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (2, ""), "{ran:?}");
    assert!(ran.stderr.contains("waiting for a packet from 10.50.7.7 to 10.90.0.10\n"));
    assert!(ran.stderr.ends_with("no packet that starts a flow came within 1 s\n"));
    for (args, why) in [
        (&["10.90.0.10"][..], "a ping is not sent"),
        (&["10.90.0.10:80/sctp"], "SCTP is not sent"),
        (&["nowhere"], "nowhere"),
        (&["web:http", "--from", "2001:db8::1"], "family"),
    ] {
        let ran = node.trace(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(why), "{args:?}: {}", ran.stderr);
    }
    node.daemon.stop();
}
