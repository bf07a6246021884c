//! `rulec top`, as text and as JSON. What the kernel counts is tested in `traffic::counted`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::net::UdpSocket;
use std::sync::atomic::{AtomicU16, Ordering};

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;

use crate::asked::Asked;
use crate::daemon::Manifests;
use crate::support::{Ran, eventually, service, slice};

/// A node with one Service, to which the node itself has a route.
fn place(name: &str) -> Asked {
    let file =
        service("web", "172.30.0.1", "") + "---\n" + &slice("web", &["10.50.1.1", "10.50.1.2"]);
    let udp = file.replace("  - name: http\n", "  - name: http\n    protocol: UDP\n");
    let udp = udp.replace("    - name: http\n    protocol", "    - name: http\n      protocol");
    let place = Asked::new(name, Manifests::of(&udp));
    place
        .node
        .sh("ip link set lo up; ip addr add 192.0.2.10/32 dev lo; ip route add default dev lo");
    place
}

/// Sends datagrams to the Service, each of which is a connection of its own: from a port that none
/// before has used.
fn send(node: &Namespace, datagrams: u16) {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let first = NEXT.fetch_add(datagrams, Ordering::Relaxed);
    node.run(|| {
        for port in first..first + datagrams {
            let socket = UdpSocket::bind(("192.0.2.10", port)).unwrap();
            socket.send_to(b"x", "172.30.0.1:80").unwrap();
        }
    });
}

fn json(ran: &Ran) -> Value {
    assert_eq!((ran.status, &*ran.stderr), (0, ""), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

#[test]
fn a_daemon_that_does_not_count_says_how_to_make_it_count() {
    if !require_root() {
        return;
    }
    let place = place("top-off");
    let ran = place.ask(&["top"]);
    assert_eq!(ran.status, 3, "there is no daemon: {ran:?}");
    assert!(ran.stderr.contains("no daemon listens at "), "{}", ran.stderr);
    let _daemon = place.start(&[]);
    let ran = place.ask(&["top"]);
    assert_eq!((ran.status, &*ran.stdout), (3, ""), "{ran:?}");
    let advice = "does not count connections: start rulec run with --traffic services";
    assert!(ran.stderr.contains(advice), "{}", ran.stderr);
    let ran = place.ask(&["top", "--interval", "0.5"]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.stderr.contains("not a number of seconds from 1 to 86400"), "{}", ran.stderr);
}

#[test]
fn connections_are_shown_with_those_of_endpoints() {
    if !require_root() {
        return;
    }
    let place = place("top");
    let daemon = place.start(&["--traffic", "endpoints"]);
    send(&place.node, 12);
    let once = ["top", "--once", "--interval", "1"];
    let document = || json(&place.ask(&[&once[..], &["-o", "json"]].concat()));
    let sum = |endpoints: &Value| -> u64 {
        let counts = endpoints.as_array().unwrap().iter();
        counts.map(|it| it["connections"].as_u64().unwrap()).sum()
    };
    eventually("all are counted", || {
        let document = document();
        let web = &document["services"][0];
        assert_eq!((&web["namespace"], &web["name"]), (&"default".into(), &"web".into()));
        web["connections"] == 12 && sum(&web["endpoints"]) == 12
    });
    // Without a terminal, it prints once.
    let ran = place.ask(&["top", "--interval", "1"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let lines: Vec<Vec<&str>> =
        ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["SERVICE", "CONN/S", "TOTAL", "ENDPOINTS"], "{ran:?}");
    assert_eq!(lines[1], ["default/web:http", "0.0", "12", "2"], "{ran:?}");
    let endpoints: Vec<&str> = lines[2..].iter().map(|line| line[0]).collect();
    assert_eq!(endpoints.len(), 2, "{ran:?}");
    assert!(endpoints.iter().all(|it| it.starts_with("10.50.1.")), "{ran:?}");

    daemon.stop();
    let _daemon = place.start(&["--traffic", "services"]);
    send(&place.node, 3);
    eventually("more are counted", || {
        let document = document();
        let web = &document["services"][0];
        assert_eq!(document["counted"], "services");
        assert_eq!(web["endpoints"], Value::Array(Vec::new()));
        web["connections"] == 15
    });
}
