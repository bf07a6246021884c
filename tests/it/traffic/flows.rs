//! `rulec diff --flows`: the forecast of each flow, compared with what then happens to it.
//!
//! Flows of real clients go through Services on their way to real servers. The forecast is made, the
//! daemon is given the new manifests, and then each flow is looked at: is its entry still there, who
//! answers on it, or why does nobody.

mod held;

use std::collections::BTreeSet;

use rulec_testkit::{LongServer, patience, require_root};
use serde_json::Value;

use super::*;
use crate::daemon::rulec;
use crate::support::eventually;
use held::Held;

const EXTERNAL: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(198, 51, 100, 30), Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x30));

/// The target ports of UDP and TCP, and others.
const TARGETS: &str = "[{name: dns, protocol: UDP, port: 8080}, {name: long, port: 7070}]";
const OTHER_TARGETS: &str = "[{name: dns, protocol: UDP, port: 9090}, {name: long, port: 7071}]";

/// The kinds of frontends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Cluster,
    External,
    Node,
}

const EVERYWHERE: [At; 3] = [At::Cluster, At::External, At::Node];

impl At {
    fn of(self, family: Family, protocol: Protocol) -> SocketAddr {
        let is_udp = protocol == Protocol::Udp;
        let port = if is_udp { 53 } else { 70 };
        match self {
            Self::Cluster => cluster_ip(family, 10, port),
            Self::External => SocketAddr::new(family.of(EXTERNAL), port),
            Self::Node => SocketAddr::new(family.of(address::NODE), 30_000 + port),
        }
    }
}

/// Returns a Service with every kind of frontend; `more` is added to its `spec`.
fn web(more: &str) -> String {
    let spec = format!(
        "type: NodePort\n{more}ports:\n- {{name: dns, protocol: UDP, port: 53, nodePort: 30053}}\n\
         - {{name: long, port: 70, nodePort: 30070}}\n"
    );
    service("web", 10, &spec)
}

const EXTERNAL_IPS: &str = "externalIPs: [198.51.100.30, '2001:db8:51::30']\n";

fn web_to(backends: &[&str]) -> String {
    web(EXTERNAL_IPS) + &endpoints("web", TARGETS, backends)
}

/// A Service whose UDP flow is deleted with every change: its end shows that the daemon has looked.
fn canary(backend: &str) -> String {
    service("canary", 20, "ports: [{name: dns, protocol: UDP, port: 53}]")
        + &endpoints("canary", "[{name: dns, protocol: UDP, port: 8080}]", &[backend])
}

/// Returns what `--flows` forecasts for each listed flow, by protocol, client and destination.
fn forecast(site: &Site, yaml: &str) -> BTreeMap<String, (String, Option<String>)> {
    let next = Manifests::of(yaml);
    let to = next.path();
    let args = ["diff", "--flows", "-o", "json", "--node-name", "na", "--to", to.to_str().unwrap()];
    let output = rulec(&site.world.node, &[&args, &site.args[..]].concat());
    assert!(output.status.code().is_some_and(|status| status <= 1), "{output:?}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let flows = &document["flows"];
    assert_eq!(flows["notListed"], 0, "all are listed");
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let listed = flows["listed"].as_array().unwrap().iter().map(|flow| {
        let [protocol, client, to] =
            ["protocol", "client", "destination"].map(|it| text(&flow[it]));
        let key =
            format!("{} {} {}", protocol.unwrap().to_lowercase(), client.unwrap(), to.unwrap());
        (key, (text(&flow["outcome"]).unwrap(), text(&flow["next"])))
    });
    let listed: BTreeMap<_, _> = listed.collect();
    assert_eq!(flows["total"], listed.len(), "the numbers are those of the list");
    listed
}

/// One change.
struct Case<'a> {
    what: &'a str,
    /// The manifests when the flows begin.
    given: String,
    /// Those before the change, if they are others.
    before: Option<String>,
    after: String,
    /// The places that flows go to, and how many flows of each client.
    at: &'a [At],
    each: usize,
    /// What becomes of flows of each protocol.
    expected: &'a [(Protocol, &'a str)],
}

fn try_case(site: &mut Site, case: &Case<'_>) {
    let Case { what, given, before, after, at, each, expected } = case;
    site.apply(&(given.clone() + &canary("a") + NODE));
    let mut flows = Vec::new();
    for family in Family::BOTH {
        for at in *at {
            for sender in [Sender::Client, Sender::Pod] {
                for protocol in PROTOCOLS {
                    for _ in 0..*each {
                        let to = at.of(family, protocol);
                        flows.push(Held::open(site, protocol, sender, to));
                    }
                }
            }
        }
    }
    if let Some(before) = before {
        site.apply(&(before.clone() + &canary("a") + NODE));
    }
    let (one, other) = (Family::V4, Family::V6);
    let canaries = [one, other]
        .map(|family| Held::open(site, Protocol::Udp, Sender::Client, cluster_ip(family, 20, 53)));
    let after = after.clone() + &canary("b") + NODE;
    let forecast = forecast(site, &after);
    site.apply(&after);
    for canary in canaries {
        assert_eq!(forecast.get(&canary.key()), Some(&("moves".to_owned(), None)), "{canary:?}");
        eventually("the daemon has looked at flows", || canary.is_gone(site));
    }
    // Attempts to connect are looked at a second later.
    thread::sleep(patience(Duration::from_millis(1_500)));
    let mut seen = BTreeSet::new();
    for flow in &mut flows {
        let key = flow.key();
        let told = forecast.get(&key).unwrap_or_else(|| panic!("{what}: nothing of {flow:?}"));
        let (outcome, failure) = flow.outcome(site);
        let outcome = match (outcome.as_str(), flow.backend.is_some()) {
            // An attempt that nobody answered, and that was not on its way to a backend.
            ("again", false) => "served".to_owned(),
            ("again", true) => "moves".to_owned(),
            (other, _) => other.to_owned(),
        };
        assert_eq!(told.0, outcome, "{what}: {flow:?}: {failure:?}");
        match (told.1.as_deref(), &failure) {
            (None, None) | (Some("refused"), Some(Failure::Refused)) => {}
            (Some("dropped"), Some(Failure::TimedOut)) => {}
            // Whoever has the address answers, or nobody.
            (Some("untranslated"), Some(_)) => {}
            (next, failure) => panic!("{what}: {flow:?}: {next:?}, but {failure:?}"),
        }
        seen.insert((flow.protocol, outcome));
    }
    let expected: BTreeSet<_> = expected.iter().map(|(it, out)| (*it, (*out).to_owned())).collect();
    assert_eq!(seen, expected, "{what}");
}

use Protocol::{Tcp, Udp};

fn start() -> (Site, Vec<LongServer>) {
    start_with(&CLUSTER_CIDR)
}

fn start_with(args: &[&'static str]) -> (Site, Vec<LongServer>) {
    let site = Site::start_with(args, NODE);
    let mut long = Vec::new();
    for name in BACKENDS {
        for port in [7070, 7071] {
            let name = format!("{name}:{port}");
            long.push(LongServer::start(site.backend(&name[..1]), &name, port));
        }
    }
    (site, long)
}

#[test]
fn flows_fare_as_foretold_when_endpoints_change() {
    if !require_root() {
        return;
    }
    let (mut site, _long) = start();
    let ending = |family: Family| {
        let a = endpoint(family, "a", "{ready: false, serving: true, terminating: true}");
        [a, endpoint(family, "b", "{ready: true}")]
    };
    let ending = slice("web-v4", "web", "IPv4", TARGETS, &ending(Family::V4))
        + &slice("web-v6", "web", "IPv6", TARGETS, &ending(Family::V6));
    let cases = [
        Case {
            what: "one endpoint of two goes",
            given: web_to(&["a", "b"]),
            before: None,
            after: web_to(&["b"]),
            at: &[At::Cluster],
            each: 4,
            expected: &[(Udp, "moves"), (Udp, "stays"), (Tcp, "lingers"), (Tcp, "stays")],
        },
        Case {
            what: "an endpoint that only served goes",
            given: web_to(&["a"]),
            before: Some(web(EXTERNAL_IPS) + &ending),
            after: web_to(&["b"]),
            at: &[At::Cluster],
            each: 1,
            expected: &[(Udp, "moves"), (Tcp, "lingers")],
        },
        Case {
            what: "an endpoint ends, and still serves",
            given: web_to(&["a"]),
            before: None,
            after: web(EXTERNAL_IPS) + &ending,
            at: &[At::Cluster],
            each: 1,
            expected: &[(Udp, "stays"), (Tcp, "lingers")],
        },
        Case {
            what: "the target ports change",
            given: web_to(&["a"]),
            before: None,
            after: web(EXTERNAL_IPS) + &endpoints("web", OTHER_TARGETS, &["a"]),
            at: &EVERYWHERE,
            each: 1,
            expected: &[(Udp, "moves"), (Tcp, "lingers")],
        },
        Case {
            what: "no endpoint is left",
            given: web_to(&["a"]),
            before: None,
            after: web_to(&[]),
            at: &EVERYWHERE,
            each: 1,
            expected: &[(Udp, "breaks"), (Tcp, "lingers")],
        },
        Case {
            what: "nothing changes",
            given: web_to(&["a", "b"]),
            before: None,
            after: web_to(&["a", "b"]),
            at: &EVERYWHERE,
            each: 1,
            expected: &[(Udp, "stays"), (Tcp, "stays")],
        },
    ];
    for case in &cases {
        try_case(&mut site, case);
    }
}

#[test]
fn flows_fare_as_foretold_when_a_service_changes() {
    if !require_root() {
        return;
    }
    let (mut site, _long) = start();
    let mixed = "[{name: dns, protocol: UDP, port: 9090}, {name: long, port: 7070}]";
    let local = format!("{EXTERNAL_IPS}externalTrafficPolicy: Local\n");
    let slices = |backends: &[&str]| endpoints("web", TARGETS, backends);
    let no_node_ports = "ports: [{name: dns, protocol: UDP, port: 53}, {name: long, port: 70}]";
    let other = web(EXTERNAL_IPS).replace("{name: web}", "{name: other}")
        + &endpoints("other", TARGETS, &["b"]);
    let cases = [
        Case {
            what: "the Service goes",
            given: web_to(&["a"]),
            before: None,
            after: slices(&["a"]),
            at: &EVERYWHERE,
            each: 1,
            expected: &[(Udp, "breaks"), (Tcp, "lingers")],
        },
        Case {
            what: "the external addresses go",
            given: web_to(&["a"]),
            before: None,
            after: web("") + &slices(&["a"]),
            at: &[At::External, At::Cluster],
            each: 1,
            expected: &[(Udp, "breaks"), (Udp, "stays"), (Tcp, "lingers"), (Tcp, "stays")],
        },
        Case {
            what: "the node ports go",
            given: web_to(&["a"]),
            before: None,
            after: service("web", 10, no_node_ports) + &slices(&["a"]),
            at: &[At::Node],
            each: 1,
            expected: &[(Udp, "breaks"), (Tcp, "lingers")],
        },
        Case {
            what: "another Service takes over",
            given: web_to(&["a"]),
            before: None,
            after: other,
            at: &EVERYWHERE,
            each: 1,
            expected: &[(Udp, "moves"), (Tcp, "lingers")],
        },
        Case {
            what: "the policy becomes Local, and the endpoint of UDP another one elsewhere",
            given: web_to(&["c"]),
            before: None,
            after: web(&local) + &endpoints("web", mixed, &["c"]),
            at: &[At::Cluster],
            each: 1,
            expected: &[(Udp, "moves"), (Tcp, "stays")],
        },
        Case {
            what: "the Service comes",
            given: String::new(),
            before: None,
            after: web_to(&["a"]),
            at: &[At::Cluster, At::External],
            each: 1,
            expected: &[(Udp, "served"), (Tcp, "served")],
        },
    ];
    for case in &cases {
        try_case(&mut site, case);
    }
}

/// Clients from outside are dropped, while others reach the endpoint elsewhere.
#[test]
fn the_forecast_knows_who_is_served_under_policy_local() {
    if !require_root() {
        return;
    }
    served_under_policy_local(&CLUSTER_CIDR);
}

/// Conntrack does not know the interface by which packets of a client arrive.
#[test]
fn the_forecast_knows_pods_by_the_interface_that_leads_to_them() {
    if !require_root() {
        return;
    }
    let prefix = ["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix"];
    served_under_policy_local(&[&prefix[..], &["pod"]].concat());
}

fn served_under_policy_local(args: &[&'static str]) {
    let (mut site, _long) = start_with(args);
    let others = "[{name: dns, protocol: UDP, port: 9090}, {name: long, port: 7071}]";
    let local = format!("{EXTERNAL_IPS}externalTrafficPolicy: Local\n");
    site.apply(&(web_to(&["c"]) + NODE));
    let open = |sender| Held::open(&site, Udp, sender, At::External.of(Family::V4, Udp));
    let (mut outside, mut pod) = (open(Sender::Client), open(Sender::Pod));
    let long = Held::open(&site, Tcp, Sender::Client, At::External.of(Family::V4, Tcp));

    // The policy alone leaves everything as it is.
    let only_policy = web(&local) + &endpoints("web", TARGETS, &["c"]) + NODE;
    let told = forecast(&site, &only_policy);
    for flow in [&outside, &pod, &long] {
        assert_eq!(told[&flow.key()].0, "stays", "{flow:?}");
    }
    site.apply(&only_policy);
    thread::sleep(patience(Duration::from_millis(1_500)));
    for flow in [&outside, &pod, &long] {
        assert!(!flow.is_gone(&site), "{flow:?}");
    }

    let after = web(&local) + &endpoints("web", others, &["c"]) + NODE;
    let told = forecast(&site, &after);
    assert_eq!(told[&outside.key()], ("breaks".to_owned(), Some("dropped".to_owned())));
    assert_eq!(told[&pod.key()], ("moves".to_owned(), None));
    assert_eq!(told[&long.key()], ("lingers".to_owned(), None));
    site.apply(&after);
    for flow in [&outside, &pod] {
        eventually("the flow is deleted", || flow.is_gone(&site));
    }
    let (outcome, failure) = outside.outcome(&site);
    assert!(matches!(failure, Some(Failure::TimedOut)), "{outcome}: {failure:?}");
    assert_eq!(pod.outcome(&site).0, "again");
}

/// Connections to a process of the node go on to it when a Service gets its port as a node port; UDP
/// goes to the Service.
#[test]
fn flows_to_the_node_fare_as_foretold_when_a_node_port_comes() {
    if !require_root() {
        return;
    }
    let (mut site, _long) = start();
    let _process = LongServer::start(&site.world.node, "node", 30_070);
    let _other = Server::start(&site.world.node, "node", &[(Udp, 30_053)]);
    let open =
        |protocol| Held::open(&site, protocol, Sender::Client, At::Node.of(Family::V4, protocol));
    let (mut long, mut datagrams) = (open(Tcp), open(Udp));
    assert_eq!(long.backend.as_deref(), Some("node opened"));
    assert_eq!(datagrams.backend.as_deref(), Some("node:30053"));
    let after = web_to(&["a"]) + NODE;
    let told = forecast(&site, &after);
    assert_eq!(told[&long.key()], ("stays".to_owned(), None));
    assert_eq!(told[&datagrams.key()], ("served".to_owned(), None));
    site.apply(&after);
    eventually("the datagrams' flow is deleted", || datagrams.is_gone(&site));
    assert_eq!(datagrams.ask(&site).unwrap(), "a:8080");
    assert_eq!(long.connection.as_mut().unwrap().exchange("opened").unwrap(), "node opened");
    // What is foretold of a flow is what is there: nothing changes any more.
    datagrams.backend = None;
    assert_eq!(forecast(&site, &after)[&long.key()].0, "stays");
}

/// An attempt to connect that nobody has answered follows the rules, a second later.
#[test]
fn attempts_to_connect_move_as_foretold() {
    if !require_root() {
        return;
    }
    let (mut site, _long) = start();
    let mute = "chain in {\ntype filter hook input priority 0\nip protocol tcp drop\n}\n";
    site.backend("a").nft(&format!("table ip mute {{\n{mute}}}\n"));
    site.apply(&(web_to(&["a"]) + NODE));
    let attempt = Held::open(&site, Tcp, Sender::Client, At::Cluster.of(Family::V4, Tcp));
    assert!(attempt.connection.is_none(), "nobody answers");
    let told = |site: &Site, yaml: &str| forecast(site, yaml)[&attempt.key()].clone();
    let refused = ("breaks".to_owned(), Some("refused".to_owned()));
    assert_eq!(told(&site, &(web_to(&[]) + NODE)), refused);
    let after = web_to(&["b"]) + NODE;
    assert_eq!(told(&site, &after), ("moves".to_owned(), None));
    site.apply(&after);
    eventually("the attempt is deleted", || attempt.is_gone(&site));
    assert_eq!(attempt.connects(&site).unwrap(), "b:7070 opened");
}
