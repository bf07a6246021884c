//! `rulec show` with what is counted: the connections of a daemon that counts, and `--flows`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::net::UdpSocket;

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;

use crate::asked::Asked;
use crate::daemon::Manifests;
use crate::support::{RULEC, Ran, eventually, file, finish, service, slice};

const UDP: &str = "172.30.0.1";
const TCP: &str = "172.30.0.2";

fn udp(backends: &[&str]) -> String {
    let service = service("dns", UDP, "").replace("port: 80\n", "port: 80\n      protocol: UDP\n");
    file(&[
        service,
        slice("dns", backends).replace("port: 8080\n", "port: 8080\n    protocol: UDP\n"),
    ])
}

fn tcp(backends: &[&str]) -> String {
    file(&[service("web", TCP, ""), slice("web", backends)])
}

/// A node to which its own packets come back, with two Services of two endpoints.
fn place(name: &str) -> Asked {
    let both = ["10.50.1.1", "10.50.1.2"];
    let place = Asked::new(name, Manifests::of(&file(&[udp(&both), tcp(&both)])));
    // Flows do not end while a test looks at them.
    place
        .node
        .sh("ip link set lo up; ip addr add 192.0.2.10/32 dev lo; ip route add default dev lo
         sysctl -qw net.netfilter.nf_conntrack_udp_timeout=3600");
    place
}

/// Sends datagrams to the Service, each of which is a flow of its own.
fn send(node: &Namespace, ports: std::ops::Range<u16>) {
    node.run(|| {
        for port in ports {
            let socket = UdpSocket::bind(("192.0.2.10", port)).unwrap();
            socket.send_to(b"x", (UDP, 80)).unwrap();
        }
    });
}

/// Adds a connection to the TCP Service, in a state.
fn connection(node: &Namespace, from: u16, backend: &str, state: &str) {
    node.sh(&format!(
        "conntrack -I -p tcp -t 3600 -s 203.0.113.7 --sport {from} -d {TCP} --dport 80 -r {backend} \
         --reply-port-src 8080 -q 203.0.113.7 --reply-port-dst {from} --state {state} \
         -u SEEN_REPLY 2>/dev/null"
    ));
}

/// The flows by Service and endpoint, as `conntrack` lists them, without those that have ended.
fn listed(node: &Namespace) -> BTreeMap<(String, String), u64> {
    let mut found = BTreeMap::new();
    for line in node.sh("conntrack -L 2>/dev/null").lines() {
        let values = |name: &str| -> Vec<&str> {
            line.split_whitespace().filter_map(|word| word.strip_prefix(name)).collect()
        };
        let (sources, destinations, ports) = (values("src="), values("dst="), values("sport="));
        let name = match destinations.first() {
            Some(&UDP) => "dns",
            Some(&TCP) => "web",
            _ => continue,
        };
        if !["TIME_WAIT", "CLOSE"].iter().any(|state| line.contains(state)) {
            let endpoint = format!("{}:{}", sources[1], ports[1]);
            *found.entry((name.to_owned(), endpoint)).or_default() += 1;
        }
    }
    found
}

fn json(ran: &Ran) -> Value {
    assert_eq!(ran.status, 0, "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

/// Returns a number of each endpoint by Service and endpoint.
fn numbers(list: &Value, field: &str) -> BTreeMap<(String, String), u64> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    let rows = list["items"].as_array().unwrap().iter();
    let with = rows.filter_map(|row| Some((row, row[field].as_u64()?)));
    with.map(|(row, number)| ((text(row, "service"), text(row, "endpoint")), number)).collect()
}

/// The cells of a table, by column.
fn columns(ran: &Ran) -> Vec<BTreeMap<String, String>> {
    let mut lines = ran.stdout.lines();
    let split = |line: &str| -> Vec<String> {
        line.split("  ").map(|it| it.trim().to_owned()).filter(|it| !it.is_empty()).collect()
    };
    let header = split(lines.next().unwrap());
    lines.map(|line| header.clone().into_iter().zip(split(line)).collect()).collect()
}

#[test]
fn connections_are_shown_of_a_daemon_that_counts_and_otherwise_why_not() {
    if !require_root() {
        return;
    }
    let place = place("show-counts");
    let daemon = place.start(&["--traffic", "endpoints"]);
    send(&place.node, 20_000..20_012);
    let endpoints = || json(&place.ask(&["show", "endpoints", "-o", "json"]));
    eventually("all are counted", || {
        let all = numbers(&endpoints(), "connections");
        all.values().sum::<u64>() == 12 && all.len() == 4
    });
    assert_eq!(endpoints()["counted"], "endpoints");
    let services = json(&place.ask(&["show", "services", "-o", "json"]));
    let of = |index: usize| services["items"][index]["connections"].as_u64();
    assert_eq!((of(0), of(1)), (Some(12), Some(0)), "{services}");
    let wide = place.ask(&["show", "services", "-o", "wide"]);
    assert_eq!((wide.status, &*wide.stderr), (0, ""), "{wide:?}");
    let shown: Vec<String> = columns(&wide).iter().map(|row| row["CONNECTIONS"].clone()).collect();
    assert_eq!(shown, ["12", "0"], "{wide:?}");
    let wide = columns(&place.ask(&["show", "endpoints", "dns", "-o", "wide"]));
    let sum: u64 = wide.iter().map(|row| row["CONNECTIONS"].parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 12, "{wide:?}");
    let text = place.ask(&["show", "services"]);
    assert!(!text.stdout.contains("CONNECTIONS") && text.stderr.is_empty(), "{text:?}");
    daemon.stop();

    let daemon = place.start(&["--traffic", "services"]);
    let wide = place.ask(&["show", "endpoints", "-o", "wide"]);
    assert!(wide.stderr.contains("counts those of Services alone"), "{wide:?}");
    assert!(columns(&wide).iter().all(|row| row["CONNECTIONS"] == "-"), "{wide:?}");
    let list = endpoints();
    assert_eq!((&list["counted"], numbers(&list, "connections").len()), (&"services".into(), 0));
    daemon.stop();

    let _daemon = place.start(&[]);
    let wide = place.ask(&["show", "services", "-o", "wide"]);
    let why = "new connections are not shown: the daemon does not count them";
    assert!(wide.status == 0 && wide.stderr.contains(why), "{wide:?}");
    assert!(!wide.stdout.contains("CONNECTIONS"), "{wide:?}");
    assert_eq!(endpoints().get("counted"), None);
}

#[test]
fn flows_are_those_that_conntrack_lists() {
    if !require_root() {
        return;
    }
    let place = place("show-flows");
    let mut daemon = place.start(&[]);
    // Without a flow, each endpoint has none.
    let flows = |more: &[&str]| {
        let args = ["show", "endpoints", "--flows", "-o", "json"];
        numbers(&json(&place.ask(&[&args[..], more].concat())), "flows")
    };
    assert_eq!(flows(&[]).into_values().collect::<Vec<_>>(), [0; 4]);
    send(&place.node, 21_000..21_040);
    for (port, backend) in [(4001, "10.50.1.1"), (4002, "10.50.1.2"), (4003, "10.50.1.2")] {
        connection(&place.node, port, backend, "ESTABLISHED");
    }
    connection(&place.node, 4004, "10.50.1.1", "TIME_WAIT");
    connection(&place.node, 4005, "10.50.1.1", "CLOSE");
    let found = flows(&[]);
    assert_eq!(found, listed(&place.node));
    let sum = |name: &str| -> u64 {
        found.iter().filter(|((service, _), _)| service == name).map(|(_, flows)| flows).sum()
    };
    assert_eq!((sum("dns"), sum("web")), (40, 3), "{found:?}");
    // The kernel alone tells the same.
    let args = ["show", "endpoints", "--flows", "-o", "json", "--state", "kernel"];
    assert_eq!(numbers(&json(&place.ask(&args)), "flows"), found);

    // Connections go on to an endpoint that the Service does not have any more.
    daemon.after(|| {
        let dns = udp(&["10.50.1.1", "10.50.1.2"]);
        place.manifests.write("all.yaml", &file(&[dns, tcp(&["10.50.1.1"])]));
    });
    let ran = place.ask(&["show", "endpoints", "web", "--flows"]);
    let rows = columns(&ran);
    let of = |endpoint: &str| rows.iter().find(|row| row["ENDPOINT"] == endpoint).unwrap();
    assert_eq!((&*of("10.50.1.1:8080")["FLOWS"], &*of("10.50.1.1:8080")["USED"]), ("1", "yes"));
    let gone = of("10.50.1.2:8080");
    assert_eq!((&*gone["FLOWS"], &*gone["USED"]), ("2", "no"), "{ran:?}");
    assert!(gone["WHY NOT"].contains("no endpoint any more, but flows go on to it"), "{ran:?}");
    assert_eq!(flows(&[]), listed(&place.node));
}

#[test]
fn flows_that_cannot_be_told_are_refused() {
    if !require_root() {
        return;
    }
    let place = place("show-flows-not");
    let _daemon = place.start(&[]);
    let manifests = place.manifests.path();
    let manifests = manifests.to_str().unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["services"], "--flows: only with rulec show endpoints"),
        (&["node"], "--flows: only with rulec show endpoints"),
        (&["endpoints", "--state", manifests], "--flows: flows are those of the running kernel"),
        (&["endpoints", "--state", "@now"], "--flows: flows are those of the running kernel"),
    ];
    for (args, says) in cases {
        let ran = place.ask(&[&["show", "--flows"], args].concat());
        assert_eq!((ran.status, &*ran.stdout), (3, ""), "{ran:?}");
        assert!(ran.stderr.contains(says), "{says}: {ran:?}");
    }
    let [option, socket] = place.args();
    let args = ["--bounding-set=-net_admin", RULEC, "show", "endpoints", "--flows"];
    let mut command = place.node.command("setpriv", args);
    command.args([option, socket]).env_remove("RULEC_LOG");
    let ran = finish(command);
    assert_eq!((ran.status, &*ran.stdout), (3, ""), "{ran:?}");
    let why = "not permitted to read the flows of conntrack: CAP_NET_ADMIN is needed";
    assert!(ran.stderr.contains(why), "{ran:?}");
}
