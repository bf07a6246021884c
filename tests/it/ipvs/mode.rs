//! Mode ipvs as operators see it: the daemon, the predictions of `diff`, and the migration both
//! ways.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rulec_testkit::{
    Family, Namespace, Options, Protocol, Server, World, WorldSpec, patience, require_root,
};

use crate::daemon::{Daemon, Manifests, NODE_NAME, rulec};
use crate::support::{eventually, get, with_flows};

/// The options that only mode ipvs needs.
const MODE: [&str; 2] = ["--proxy-mode", "ipvs"];

const PODS: [&str; 2] = ["--cluster-cidr", "10.50.0.0/16,2001:db8:50::/48"];

/// Returns a Service of both families with these endpoints, and more metadata and spec.
fn web(metadata: &str, spec: &str, endpoints: [&str; 2]) -> String {
    let slice = |family: &str, addresses: &str| {
        format!(
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{}, labels: {{kubernetes.io/service-name: web}}}}
addressType: {family}
ports: [{{port: 8080}}]
endpoints: [{addresses}]
",
            family.to_lowercase()
        )
    };
    let [v4, v6] = endpoints;
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: web{metadata}}}
spec:
  clusterIPs: [10.90.0.10, 'fd90::10']
  ports: [{{port: 80}}]
{spec}
{}{}",
        slice("IPv4", v4),
        slice("IPv6", v6)
    )
}

/// Two endpoints of each family, where no server listens.
const SOME: [&str; 2] = [
    "{addresses: [10.50.2.5]}, {addresses: [10.50.2.6]}",
    "{addresses: ['2001:db8:50:2::5']}, {addresses: ['2001:db8:50:2::6']}",
];

fn listed(node: &Namespace) -> BTreeSet<String> {
    node.sh("ipvsadm -Sn").lines().map(str::to_owned).collect()
}

/// Returns the status and output of `diff` from the kernel to the manifests.
fn diff(node: &Namespace, manifests: &Manifests, output: &str) -> (Option<i32>, String) {
    let path = manifests.path();
    let to = path.to_str().unwrap();
    let args = ["diff", "--node-name", NODE_NAME, "--to", to, "-o", output];
    let ran = rulec(node, &[&args[..], &MODE, &PODS].concat());
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
    (ran.status.code(), String::from_utf8(ran.stdout).unwrap())
}

fn start(node: &Namespace, manifests: &Manifests, more: &[&str]) -> Daemon {
    Daemon::start(node, &manifests.path(), &[&MODE[..], &PODS, more].concat())
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn a_restart_writes_only_what_has_changed() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("ipvs-restart");
    let manifests = Manifests::of(&web("", "", SOME));
    let daemon = start(&node, &manifests, &[]);
    let before = listed(&node);
    assert!(before.contains("-a -t 10.90.0.10:80 -r 10.50.2.5:8080 -m -w 1"), "{before:?}");
    assert!(node.sh("ip address show dev kube-ipvs0").contains("10.90.0.10/32"));
    assert_eq!(get(&node, "127.0.0.1:10249", "/proxyMode").body, "ipvs");
    assert_eq!(diff(&node, &manifests, "text"), (Some(0), "No difference.\n".to_owned()));
    daemon.stop();

    let daemon = start(&node, &manifests, &[]);
    assert_eq!(daemon.committed(), 0, "{}", daemon.log());
    assert_eq!(listed(&node), before);
    daemon.kill9();

    let [v4, v6] = SOME;
    let more = format!("{v4}, {{addresses: [10.50.2.7]}}");
    manifests.write("all.yaml", &web("", "", [&more, v6]));
    let (status, commands) = diff(&node, &manifests, "ipvsadm");
    let expected = "-a -t 10.90.0.10:80 -r 10.50.2.7:8080 -m -w 1\n";
    assert_eq!((status, commands.as_str()), (Some(1), expected));
    let daemon = start(&node, &manifests, &[]);
    assert_eq!(daemon.committed(), 1, "{}", daemon.log());
    assert!(listed(&node).contains(expected.trim_end()));
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn ipvsadm_with_the_output_of_diff_equals_the_daemon() {
    if !require_root() {
        return;
    }
    let metadata = ", annotations: {rulec.io/ipvs-scheduler: mh, \
                    rulec.io/ipvs-scheduler-flags: mh-fallback}";
    let affinity = "  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 600}}
  externalIPs: [198.51.100.30]";
    let manifests = Manifests::of(&web(metadata, affinity, SOME));

    let by_hand = Namespace::new("ipvs-by-hand");
    let (status, commands) = diff(&by_hand, &manifests, "ipvsadm");
    assert_eq!(status, Some(1));
    let mut child = by_hand.command("ipvsadm", ["-R"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(commands.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{commands}");

    let node = Namespace::new("ipvs-by-daemon");
    let _daemon = start(&node, &manifests, &[]);
    let listed = listed(&node);
    let server = "-A -t 10.90.0.10:80 -s mh -p 600 -b mh-fallback";
    assert!(listed.iter().any(|line| line.starts_with(server)), "{listed:#?}");
    assert_eq!(self::listed(&by_hand), listed);
}

/// The remains of kube-proxy's IPVS mode are adopted: existing entries are not added again, its
/// stale virtual servers are removed, and those of others stay.
#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn remains_of_kube_proxy_are_taken_over() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("ipvs-taken-over");
    node.sh("ip link add kube-ipvs0 type dummy
         ip address add 10.90.0.10/32 dev kube-ipvs0
         ip address add 10.90.0.99/32 dev kube-ipvs0
         ipvsadm -A -t 10.90.0.10:80 -s rr
         ipvsadm -a -t 10.90.0.10:80 -r 10.50.2.5:8080 -m -w 1
         ipvsadm -a -t 10.90.0.10:80 -r 10.50.2.9:8080 -m -w 1
         ipvsadm -A -t 10.90.0.99:80 -s rr
         ipvsadm -A -t 198.18.7.7:55 -s wrr");
    let manifests = Manifests::of(&web("", "", SOME));
    let (status, commands) = diff(&node, &manifests, "ipvsadm");
    assert_eq!(status, Some(1));
    let v4: Vec<&str> = commands.lines().filter(|line| !line.contains('[')).collect();
    let [add, drain, delete] = v4[..] else { panic!("{commands}") };
    assert_eq!(add, "-a -t 10.90.0.10:80 -r 10.50.2.6:8080 -m -w 1");
    assert!(drain.starts_with("-e -t 10.90.0.10:80 -r 10.50.2.9:8080 -m -w 0 -x "), "{drain}");
    assert_eq!(delete, "-D -t 10.90.0.99:80");

    let mut daemon = start(&node, &manifests, &[]);
    // A real server without connections is removed soon.
    let is_gone = daemon.wait_until(|_| !node.sh("ipvsadm -Ln").contains("10.50.2.9"));
    assert!(is_gone, "{}", node.sh("ipvsadm -Ln"));
    let listed = listed(&node);
    assert!(listed.contains("-A -t 198.18.7.7:55 -s wrr"), "{listed:#?}");
    assert!(!listed.iter().any(|line| line.contains("10.90.0.99")), "{listed:#?}");
    let addresses = node.sh("ip address show dev kube-ipvs0");
    assert!(addresses.contains("10.90.0.10") && !addresses.contains("10.90.0.99"), "{addresses}");

    // Changes that others make to our virtual servers are undone; virtual servers of others stay.
    node.sh("ipvsadm -d -t 10.90.0.10:80 -r 10.50.2.5:8080; ipvsadm -E -t 10.90.0.10:80 -s wlc");
    assert_eq!(diff(&node, &manifests, "ipvsadm").0, Some(1));
    daemon.stop();
    let _daemon = start(&node, &manifests, &["--verify-seconds", "1"]);
    assert_eq!(diff(&node, &manifests, "ipvsadm"), (Some(0), String::new()));
    node.sh("ipvsadm -D -t 10.90.0.10:80; ip address del 10.90.0.10/32 dev kube-ipvs0");
    eventually("it is repaired", || diff(&node, &manifests, "ipvsadm").0 == Some(0));
    assert!(self::listed(&node).contains("-a -t 10.90.0.10:80 -r 10.50.2.5:8080 -m -w 1"));
}

/// From nftables mode to IPVS mode and back, with rulec's own commands; no connection fails.
#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn switching_to_ipvs_mode_and_back_loses_no_connection() {
    if !require_root() {
        return;
    }
    let world = World::new(WorldSpec { local_pods: 2, remote_pods: 0 });
    let _server = Server::start(&world.pod(0).namespace, "a", &[(Protocol::Tcp, 8080)]);
    let pod = world.pod(0);
    let endpoints =
        [format!("{{addresses: [{}]}}", pod.v4), format!("{{addresses: ['{}']}}", pod.v6)];
    let manifests = Manifests::of(&web("", "", [&endpoints[0], &endpoints[1]]));
    let daemon = Daemon::start(&world.node, &manifests.path(), &PODS);

    let mut ways = Vec::new();
    for family in Family::BOTH {
        let (to, own) = match family {
            Family::V4 => ("10.90.0.10:80", "192.0.2.10:0"),
            Family::V6 => ("[fd90::10]:80", "[2001:db8::10]:0"),
        };
        for from in [&world.pod(1).namespace, &world.node, &world.client] {
            // Otherwise the node would use the address that it connects to as its own source while
            // it has that address, and such a connection would end when the address is removed.
            let source = (from.name() == world.node.name()).then(|| own.parse().unwrap());
            let options = Options { source, timeout: patience(Duration::from_secs(20)) };
            ways.push((from, to.parse().unwrap(), options));
        }
    }
    with_flows(&ways, |flows| there_and_back(&world, &manifests, daemon, flows));
}

fn there_and_back(world: &World, manifests: &Manifests, daemon: Daemon, flows: &AtomicUsize) {
    let a_while = || {
        let before = flows.load(Ordering::Relaxed);
        eventually("there are flows", || flows.load(Ordering::Relaxed) > before + 40);
    };
    a_while();
    daemon.stop();
    let daemon = start(&world.node, manifests, &[]);
    a_while();
    let stats = world.node.sh("ipvsadm -Ln --stats");
    assert!(!stats.contains("10.90.0.10:80 0 0"), "IPVS serves: {stats}");
    daemon.stop();

    let _daemon = Daemon::start(&world.node, &manifests.path(), &PODS);
    a_while();
    let ran = rulec(&world.node, &["cleanup", "--kube-proxy"]);
    assert!(ran.status.success(), "{ran:?}");
    a_while();
    assert!(!world.node.sh("ip -o link").contains("kube-ipvs0"));
    assert!(!world.node.sh("ipvsadm -Ln").contains("10.90.0.10"));
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn cleanup_removes_addresses_however_they_were_bound() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("ipvs-cleanup");
    node.sh("ip link set lo up; ipvsadm -A -t 198.18.7.7:55 -s wrr");
    let manifests = Manifests::of(&web("", "", SOME));
    for addresses in ["dummy", "local-routes"] {
        let daemon = start(&node, &manifests, &["--ipvs-addresses", addresses]);
        let routes = node.sh("ip route show table local; ip -6 route show table local");
        assert!(routes.contains("10.90.0.10") && routes.contains("fd90::10"), "{routes}");
        assert_eq!(node.sh("ip -o link").contains("kube-ipvs0"), addresses == "dummy");
        daemon.stop();
        let ran = rulec(&node, &["cleanup"]);
        assert!(ran.status.success(), "{ran:?}");
        assert_eq!(listed(&node), BTreeSet::from(["-A -t 198.18.7.7:55 -s wrr".to_owned()]));
        let routes = node.sh("ip route show table local; ip -6 route show table local");
        assert!(!routes.contains("10.90.0.10") && !routes.contains("fd90::10"), "{routes}");
        assert!(!node.sh("ip -o link").contains("kube-ipvs0"));
        assert_eq!(node.sh("nft list tables"), "");
    }
}
