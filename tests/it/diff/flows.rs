//! `--flows`: its text, its JSON and its errors. What becomes of real flows is compared with the
//! forecast in `traffic/flows`.

use rulec_testkit::Namespace;

use super::*;

fn udp_service(name: &str, address: &str, backends: &[&str]) -> String {
    let service = service(name, address, "");
    let service = service.replace("port: 80\n", "port: 53\n      protocol: UDP\n");
    let slice = slice(name, backends).replace("port: 8080\n", "port: 5353\n    protocol: UDP\n");
    file(&[service.replace("8080", "5353"), slice])
}

fn tcp_service(name: &str, address: &str, backends: &[&str]) -> String {
    file(&[service(name, address, ""), slice(name, backends)])
}

/// The Services before: `dns` loses its endpoints, `web` one of two, `old` goes, `busy` stays.
fn before() -> Manifests {
    Manifests::of(&file(&[
        udp_service("dns", "10.96.0.10", &["10.50.1.1", "10.50.1.2"]),
        tcp_service("web", "10.96.0.11", &["10.50.1.1", "10.50.1.2"]),
        udp_service("old", "10.96.0.12", &["10.50.1.3"]),
        tcp_service("busy", "fd00:96::13", &["2001:db8:50:1::4"]),
    ]))
}

/// Those after, with a new one, `new`.
fn after() -> Manifests {
    Manifests::of(&file(&[
        udp_service("dns", "10.96.0.10", &[]),
        tcp_service("web", "10.96.0.11", &["10.50.1.2"]),
        tcp_service("busy", "fd00:96::13", &["2001:db8:50:1::4"]),
        udp_service("new", "10.96.0.14", &["10.50.1.5"]),
    ]))
}

/// Inserts a flow: protocol, port of the client, destination, backend, and options.
fn insert(namespace: &Namespace, protocol: &str, from: u16, to: &str, backend: &str, more: &str) {
    let [to, backend] = [to, backend].map(|it| it.parse::<std::net::SocketAddr>().unwrap());
    let client = if to.is_ipv4() { "203.0.113.7" } else { "2001:db8:113::7" };
    namespace.sh(&format!(
        "conntrack -I -p {protocol} -t 3600 -s {client} --sport {from} -d {} --dport {} -r {} \
         --reply-port-src {} -q {client} --reply-port-dst {from} {more} 2>/dev/null",
        to.ip(),
        to.port(),
        backend.ip(),
        backend.port(),
    ));
}

const ANSWERED: &str = "--state ESTABLISHED -u SEEN_REPLY";

/// A node whose daemon serves the first manifests, and flows of every kind. The daemon has ended, so
/// that they stay as they are.
fn node_with_flows() -> Namespace {
    let namespace = Namespace::new("diff-flows");
    namespace.sh("ip link set lo up");
    let before = before();
    Daemon::start(&namespace, &before.path(), &SETTINGS).stop();
    let put =
        |protocol, from, to, backend, more| insert(&namespace, protocol, from, to, backend, more);
    for (port, backend) in
        [(4001, "10.50.1.1:5353"), (4002, "10.50.1.1:5353"), (4003, "10.50.1.2:5353")]
    {
        put("udp", port, "10.96.0.10:53", backend, "");
    }
    for (port, backend) in
        [(4001, "10.50.1.1:8080"), (4002, "10.50.1.2:8080"), (4003, "10.50.1.2:8080")]
    {
        put("tcp", port, "10.96.0.11:80", backend, ANSWERED);
    }
    // An attempt to connect, and connections that are over.
    put("tcp", 4004, "10.96.0.11:80", "10.50.1.1:8080", "--state SYN_SENT");
    put("tcp", 4005, "10.96.0.11:80", "10.50.1.1:8080", "--state TIME_WAIT -u SEEN_REPLY");
    put("tcp", 4006, "10.96.0.11:80", "10.50.1.1:8080", "--state CLOSE -u SEEN_REPLY");
    put("udp", 4001, "10.96.0.12:53", "10.50.1.3:5353", "");
    put("tcp", 4001, "[fd00:96::13]:80", "[2001:db8:50:1::4]:8080", ANSWERED);
    // It began before its Service exists.
    put("udp", 4001, "10.96.0.14:53", "10.96.0.14:53", "");
    // To no Service, in another zone, to another port.
    put("udp", 4001, "198.51.100.9:53", "198.51.100.9:53", "");
    put("udp", 4009, "10.96.0.10:53", "10.50.1.1:5353", "-w 5");
    put("udp", 4010, "10.96.0.10:54", "10.50.1.1:5353", "");
    namespace
}

fn told(namespace: &Namespace, to: &Path, more: &[&str]) -> String {
    let path = to.to_str().unwrap();
    let ran = diff(namespace, "kernel", path, &[&["--flows"], more].concat());
    assert!(ran.status <= 1 && ran.stderr.is_empty(), "{ran:?}");
    ran.stdout.replace(path, "DIRECTORY")
}

#[test]
fn the_text_begins_with_numbers_and_the_worst() {
    if !require_root() {
        return;
    }
    let (namespace, after) = (node_with_flows(), after());
    let text = told(&namespace, &after.path(), &[]);
    let wide = |line: &&str| line.chars().count() > 80;
    assert_eq!(text.lines().find(wide), None, "for a terminal of 80 columns");
    // Reasons have the path, which is not everywhere as long.
    insta::assert_snapshot!(text.split("\n\nService ").next().unwrap());
    // Nothing changes: the flows are told nevertheless.
    let same = before();
    insta::assert_snapshot!(told(&namespace, &same.path(), &[]));
    // Each of them, without the operations.
    let verbose = told(&namespace, &after.path(), &["--verbose"]);
    let flows = verbose.split("\n\n").find(|part| part.contains("flows to Services"));
    insta::assert_snapshot!(flows.unwrap());
}

#[test]
fn the_json_has_every_flow() {
    if !require_root() {
        return;
    }
    let (namespace, after) = (node_with_flows(), after());
    let text = told(&namespace, &after.path(), &["-o", "json"]);
    let document: Value = serde_json::from_str(&text).unwrap();
    insta::assert_snapshot!(serde_json::to_string_pretty(&document["flows"]).unwrap());
    let ran = diff(&namespace, "kernel", after.path().to_str().unwrap(), &["-o", "json"]);
    assert!(!ran.stdout.contains("\"flows\""), "only if asked for: {}", ran.stdout);
}

/// Of more flows than are listed, the worst are, and the numbers are of all.
#[test]
fn many_flows_are_counted_and_the_worst_are_listed() {
    if !require_root() {
        return;
    }
    let (namespace, after) = (node_with_flows(), after());
    let mut commands = String::new();
    for number in 0..1_500_u32 {
        let client = std::net::Ipv4Addr::from(0x0b00_0000 + number);
        commands += &format!(
            "-I -p tcp -t 3600 -s {client} --sport 4000 -d 10.96.0.11 --dport 80 -r 10.50.1.2 \
             --reply-port-src 8080 -q {client} --reply-port-dst 4000 {ANSWERED}\n"
        );
    }
    let list = tempfile::NamedTempFile::new().unwrap();
    fs::write(&list, commands).unwrap();
    namespace.sh(&format!("conntrack -R {} >/dev/null 2>&1", list.path().display()));
    let text = told(&namespace, &after.path(), &["-o", "json"]);
    let flows = &serde_json::from_str::<Value>(&text).unwrap()["flows"];
    let listed = flows["listed"].as_array().unwrap();
    assert_eq!((listed.len(), &flows["notListed"]), (1_000, &510.into()));
    assert_eq!((&flows["total"], &flows["breaks"]), (&1_510.into(), &4.into()));
    let breaks = listed.iter().take_while(|flow| flow["outcome"] == "breaks").count();
    assert_eq!(breaks, 4, "first");
    let text = told(&namespace, &after.path(), &["--verbose"]);
    assert!(text.contains("    and 1410 more\n"), "{text}");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("diff-flows-not");
    let (one, two) = (before(), after());
    let [one, two] = [one.path(), two.path()];
    let [one, two] = [one.to_str().unwrap(), two.to_str().unwrap()];
    let from = format!(
        "--flows: needs --from kernel, not --from {one}: flows are those of the running kernel"
    );
    let formats = "--flows: only with --output text or json";
    let mode = "--flows: not available in mode ipvs";
    let cases: [(&str, &str, &[&str], &str); 5] = [
        (one, two, &[], &from),
        (one, "kernel", &[], &from),
        ("kernel", two, &["-o", "nft"], formats),
        ("kernel", two, &["-o", "ipvsadm"], formats),
        ("kernel", two, &["--proxy-mode", "ipvs"], mode),
    ];
    for (from, to, more, says) in cases {
        let ran = diff(&namespace, from, to, &[&["--flows"], more].concat());
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran:?}");
        assert!(ran.stderr.contains(says), "{says}: {ran:?}");
    }
    // A snapshot of a kernel has no objects.
    let saved = tempfile::tempdir().unwrap();
    let saved = saved.path().join("kernel.json");
    let saved = saved.to_str().unwrap();
    let ran = diff(&namespace, two, "kernel", &["--save", saved]);
    assert!(ran.status <= 1, "{ran:?}");
    let ran = diff(&namespace, "kernel", saved, &["--flows"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran:?}");
    assert!(ran.stderr.contains("is a snapshot without objects"), "{ran:?}");
}

/// Without any content in the kernel, a daemon starts with the change, and looks at all flows.
#[test]
fn a_start_looks_at_all_flows() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("diff-flows-start");
    namespace.sh("ip link set lo up");
    let manifests = after();
    // As another proxy has left them.
    insert(&namespace, "udp", 4001, "10.96.0.14:53", "10.50.1.9:5353", "");
    insert(&namespace, "udp", 4002, "10.96.0.14:53", "10.50.1.5:5353", "");
    insert(&namespace, "tcp", 4003, "10.96.0.11:80", "10.50.1.9:8080", ANSWERED);
    let text = told(&namespace, &manifests.path(), &["-o", "json"]);
    let flows = serde_json::from_str::<Value>(&text).unwrap()["flows"].clone();
    let of = |port: u16| {
        let client = format!("203.0.113.7:{port}");
        let listed = flows["listed"].as_array().unwrap();
        listed.iter().find(|flow| flow["client"] == *client).unwrap()["outcome"].clone()
    };
    assert_eq!([of(4001), of(4002), of(4003)], ["moves", "stays", "lingers"]);
    let _daemon = Daemon::start(&namespace, &manifests.path(), &SETTINGS);
    let is_there = |port: u16| {
        let listing = namespace.sh("conntrack -L 2>/dev/null");
        listing.contains(&format!("sport={port} "))
    };
    crate::support::eventually("the first flow is deleted", || !is_there(4001));
    assert!(is_there(4002) && is_there(4003));
}
