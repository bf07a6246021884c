//! `--traffic`: what the kernel counts, and what becomes of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use rulec_testkit::{Family, Options, address, ask, patience, require_root};

use super::balancing::{annotated, weighted};
use super::{
    CLUSTER_CIDR, NODE, PATIENCE, PROTOCOLS, Sender, Site, cluster_ip, endpoints, service,
};
use crate::health::OF_TRAFFIC;
use crate::support::{get, with_flows};

/// Where the daemon serves its metrics by default, in the namespace of the node.
const METRICS: &str = "127.0.0.1:10249";

const PORTS: &str = "[{name: http, port: 8080}, {name: echo, port: 8080, protocol: UDP}]";

/// The endpoints of Service web with two weights: nine slots, in a size of twelve.
const UNEQUAL: [(u8, &[&str]); 2] = [(7, &["a"]), (2, &["b"])];

fn args(traffic: &'static str) -> Vec<&'static str> {
    CLUSTER_CIDR.into_iter().chain(["--traffic", traffic]).collect()
}

/// Returns Service web; `spec` is more of its spec.
fn web(spec: &str) -> String {
    let spec = format!(
        "
        type: NodePort
        {spec}
        ports:
        - {{name: http, port: 80, targetPort: 8080, nodePort: 30080}}
        - {{name: echo, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30080}}"
    );
    service("web", 10, &spec)
}

/// Where Service web is reached.
fn frontends() -> Vec<SocketAddr> {
    let of = |family: Family| {
        [cluster_ip(family, 10, 80), SocketAddr::new(family.of(address::NODE), 30080)]
    };
    Family::BOTH.into_iter().flat_map(of).collect()
}

/// Connects from the node to the node port on `localhost`, over both protocols, and returns how many
/// connections that were to each port.
fn connect_locally(site: &Site) -> u64 {
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 30080);
    const TIMES: u64 = 3;
    for _ in 0..TIMES {
        for protocol in PROTOCOLS {
            let answer = ask(&site.world.node, protocol, to, Options::default());
            answer.unwrap_or_else(|failure| panic!("{protocol} {to}: {failure:?}"));
        }
    }
    TIMES
}

/// Makes connections from all clients to all frontends, and returns how many there were to each
/// port.
fn connect(site: &Site) -> u64 {
    let mut connections = 0;
    for to in frontends() {
        for sender in Sender::ALL {
            for protocol in PROTOCOLS {
                let answer = sender.ask(&site.world, protocol, to);
                answer.unwrap_or_else(|failure| panic!("{sender:?} {protocol} {to}: {failure:?}"));
            }
            connections += 1;
        }
    }
    connections
}

/// Returns the sum of the series of a metric whose labels contain a text.
fn sum(metrics: &str, name: &str, labels: &str) -> u64 {
    let series = metrics.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    series.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

/// Waits until as many connections are counted, for each port and for its endpoints together.
#[track_caller]
fn counted(site: &Site, expected: u64) {
    let deadline = Instant::now() + patience(PATIENCE);
    loop {
        let text = get(&site.world.node, METRICS, "/metrics").body;
        let ports = ["http", "echo"].map(|port| {
            let label = format!("service=\"web\",port=\"{port}\"");
            ["rulec_service_connections_total", "rulec_endpoint_connections_total"]
                .map(|name| sum(&text, name, &label))
        });
        if ports.as_flattened().iter().all(|it| *it == expected) {
            return;
        }
        let is_over = ports.as_flattened().iter().any(|it| *it > expected);
        let is_late = Instant::now() > deadline;
        assert!(!is_over && !is_late, "{ports:?} instead of {expected}:\n{text}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn each_connection_is_counted_once_for_its_service_and_once_for_its_endpoint() {
    if !require_root() {
        return;
    }
    let all = endpoints("web", PORTS, &["a", "b", "c"]);
    let mut site = Site::start_with(&args("endpoints"), &(web("") + &all + NODE));
    let mut expected = connect(&site);
    counted(&site, expected);
    let unequal: String =
        UNEQUAL.map(|(weight, backends)| weighted(weight, PORTS, backends)).concat();
    let affinity = "sessionAffinity: ClientIP";
    for (spec, how, slices) in [
        ("", "random", &unequal),
        ("", "round-robin", &all),
        ("", "maglev", &all),
        ("", "maglev-source", &unequal),
        (affinity, "random", &all),
        (affinity, "random", &unequal),
        ("externalTrafficPolicy: Local", "random", &all),
    ] {
        let balanced = annotated("web", &web(spec), &format!("rulec.io/load-balancing: {how}"));
        site.apply(&(balanced + slices + NODE));
        expected += connect(&site);
        counted(&site, expected);
    }
}

/// Those of the node to its own node ports on `localhost` take other chains, and count as well.
#[test]
fn connections_to_localhost_are_counted_with_the_others() {
    if !require_root() {
        return;
    }
    let all = endpoints("web", PORTS, &["a", "b", "c"]);
    let at_localhost = ["--nodeport-addresses", "primary,localhost"];
    let args = [&args("endpoints")[..], &at_localhost].concat();
    let mut site = Site::start_with(&args, &(web("") + &all + NODE));
    let mut expected = connect_locally(&site);
    counted(&site, expected);
    expected += connect(&site);
    counted(&site, expected);
    // The endpoint that some of them were counted for goes.
    site.apply(&(web("") + &endpoints("web", PORTS, &["b"]) + NODE));
    expected += connect_locally(&site);
    counted(&site, expected);
    let text = get(&site.world.node, METRICS, "/metrics").body;
    for (name, kind) in OF_TRAFFIC {
        let base = name.strip_suffix("_total").unwrap_or(name);
        let is_told = [name, base].iter().any(|it| text.contains(&format!("# TYPE {it} {kind}\n")));
        assert!(is_told, "{name} is a {kind}: {text}");
    }
}

#[test]
fn totals_are_exact_while_endpoints_change_and_the_daemon_restarts() {
    if !require_root() {
        return;
    }
    let with = |backends: &[&str]| web("") + &endpoints("web", PORTS, backends) + NODE;
    let mut site = Site::start_with(&args("endpoints"), &with(&["a", "b", "c"]));
    let mut expected = 0;
    for (round, backends) in
        [&["a", "b"][..], &["c"], &["b", "c", "a"], &["b"], &["a", "b"]].into_iter().enumerate()
    {
        // Nobody has read the counters of the elements that go.
        expected += connect(&site);
        site.apply(&with(backends));
        expected += connect(&site);
        if round % 2 == 1 {
            counted(&site, expected);
        }
    }
    counted(&site, expected);
    let text = get(&site.world.node, METRICS, "/metrics").body;
    assert_eq!(sum(&text, "rulec_traffic_losses_total", ""), 0);

    // The next daemon starts from the counters of the elements that there are.
    let site = site.restart();
    let text = get(&site.world.node, METRICS, "/metrics").body;
    let label = "service=\"web\",port=\"http\"";
    let kept = sum(&text, "rulec_service_connections_total", label);
    assert!(kept > 0 && kept <= expected, "{kept} of {expected}");
    let more = connect(&site);
    let deadline = Instant::now() + patience(PATIENCE);
    loop {
        let text = get(&site.world.node, METRICS, "/metrics").body;
        let now = sum(&text, "rulec_service_connections_total", label);
        assert!(now <= kept + more, "{now} instead of {}", kept + more);
        if now == kept + more {
            break;
        }
        assert!(Instant::now() < deadline, "{now} instead of {}", kept + more);
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn counting_begins_and_ends_without_a_lost_connection() {
    if !require_root() {
        return;
    }
    let yaml = web("") + &endpoints("web", PORTS, &["a", "b", "c"]) + NODE;
    let mut site = Site::start_with(&args("off"), &yaml);
    let listed = |site: &Site, map: &str| {
        site.world.node.sh(&format!("nft list map ip rulec {map}")).matches("counter").count()
    };
    assert_eq!([listed(&site, "services"), listed(&site, "endpoints")], [0, 0]);
    for (traffic, expected) in
        [("services", [2, 0]), ("endpoints", [2, 6]), ("services", [2, 0]), ("off", [0, 0])]
    {
        let Site { daemon, manifests, servers, world, .. } = site;
        let options = Sender::Pod.options(Family::V4);
        let ways = [(&world.pod(2).namespace, cluster_ip(Family::V4, 10, 80), options)];
        let mut next = None;
        with_flows(&ways, |_| {
            daemon.stop();
            let args = args(traffic);
            next = Some(crate::daemon::Daemon::start(&world.node, &manifests.path(), &args));
        });
        let daemon = next.unwrap();
        site = Site { daemon, manifests, args: args(traffic), servers, world };
        site.settle();
        let found = ["services", "endpoints"].map(|map| listed(&site, map));
        assert_eq!(found, expected, "--traffic {traffic}");
    }
    // What the kernel counts is asked for, and nothing else.
    let text = get(&site.world.node, METRICS, "/metrics").body;
    assert!(!text.contains("connections_total{"), "{text}");
}
