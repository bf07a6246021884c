//! A node without a route to the networks of Services, and `--service-route`.

use rulec_testkit::{Namespace, Protocol, require_root};

use super::{Fault, RANGES, Small, WEB, WEB_V6, connect, log_of_a_look, says_and_mends, web};
use crate::daemon::{Daemon, Manifests};
use crate::support::{SETTINGS, eventually, rulec};

/// Returns the answers to the node's own connections: of each protocol over each family.
fn own(node: &Namespace) -> Vec<String> {
    let ways = [WEB, WEB_V6].into_iter().flat_map(|to| {
        [Protocol::Tcp, Protocol::Udp].into_iter().map(move |protocol| (protocol, to))
    });
    ways.map(|(protocol, to)| connect(node, protocol, to)).collect()
}

/// Returns our rules and routes.
fn routes(node: &Namespace) -> String {
    node.sh("ip rule | grep -w 114 || :; ip -6 rule | grep -w 114 || :
             ip route show table all proto 114; ip -6 route show table all proto 114")
}

#[test]
fn the_nodes_own_connections_have_a_way() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    let manifests = Manifests::of(&web());
    let path = manifests.path();
    let args = [&SETTINGS[..], &RANGES].concat();
    let daemon = Daemon::start(&small.node, &path, &args);
    assert_eq!(own(&small.node), ["unreachable"; 4]);
    assert_eq!(connect(&small.pods[1], Protocol::Tcp, WEB), "pod1", "a Pod needs none");
    daemon.stop();
    let with = [&args[..], &["--service-route"]].concat();
    let mut daemon = Daemon::start(&small.node, &path, &with);
    daemon.wait_for("set the route to Services networks=\"10.96.0.0/16,fd00:96::/112\"");
    assert_eq!(own(&small.node), ["pod1"; 4]);
    // It is there before the rules, and thus before names.
    let log = daemon.log();
    assert!(log.find("set the route").unwrap() < log.find("adopted the kernel").unwrap(), "{log}");
    // A start that finds the route leaves it.
    let before = routes(&small.node);
    daemon.kill9();
    let log = log_of_a_look(&small.node, &path, &with);
    assert_eq!(routes(&small.node), before);
    assert!(!log.contains("the route to Services") && !log.contains("has no route"), "{log}");
    // So does a stop. A start without the option removes it.
    assert_eq!(routes(&small.node), before);
    assert_eq!(own(&small.node), ["pod1"; 4]);
    let mut daemon = Daemon::start(&small.node, &path, &args);
    daemon.wait_for("removed the route to Services networks=\"10.96.0.0/16,fd00:96::/112\"");
    assert_eq!(
        (own(&small.node), routes(&small.node).as_str()),
        (vec!["unreachable".into(); 4], "")
    );
}

#[test]
fn any_other_route_takes_precedence_and_forwarded_packets_never_see_it() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    let manifests = Manifests::of(&web());
    let with = [&SETTINGS[..], &RANGES, &["--service-route=true"]].concat();
    let _daemon = Daemon::start(&small.node, &manifests.path(), &with);
    // An address that no Service has: a Pod's packets are refused at once, as without the route,
    // and nothing goes round in circles.
    let loopback = || {
        small.node.sh("cat /sys/class/net/lo/statistics/tx_packets 2>/dev/null; \
                                     ip -s -j link show lo")
    };
    let before = loopback();
    for to in ["10.96.9.9:80", "[fd00:96::999]:80"] {
        assert_eq!(connect(&small.pods[0], Protocol::Tcp, to), "unreachable", "{to}");
    }
    assert_eq!(loopback(), before);
    // With a default route, the node's connections take it, and so does its choice of a source.
    let source = |to: &str| small.node.sh(&format!("ip route get {to}"));
    assert!(source("10.96.0.10").contains("dev lo"), "{}", source("10.96.0.10"));
    small.node.sh("ip route add default via 10.50.2.5
                   ip route add default via 2001:db8:50:2::5");
    for to in ["10.96.0.10", "fd00:96::a"] {
        assert!(source(to).contains("dev pod2"), "{}", source(to));
    }
    assert_eq!(own(&small.node), ["pod1"; 4]);
}

#[test]
fn routes_follow_the_networks_of_services_and_cleanup_removes_only_ours() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let manifests = Manifests::of(&web());
    let path = manifests.path();
    small.node.sh("ip route add 10.99.0.0/16 dev lo proto 114
                   ip route add 10.98.0.0/16 dev lo table 11400
                   ip rule add iif lo lookup 11400 pref 33001");
    let others = routes(&small.node);
    let with = [&SETTINGS[..], &RANGES, &["--service-route"]].concat();
    let mut daemon = Daemon::start(&small.node, &path, &with);
    let has = |network: &str| routes(&small.node).contains(&format!("{network} dev lo table"));
    assert!(has("10.96.0.0/16") && has("fd00:96::/112"), "{}", routes(&small.node));
    // A ServiceCIDR is a network of Services, too.
    let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: \
                {cidrs: [10.97.0.0/24]}\n";
    manifests.write("cidr.yaml", cidr);
    eventually("it is routed", || has("10.97.0.0/24"));
    // What others delete comes back with the next look, here with a change.
    small.node.sh("ip rule del pref 33000; ip route del 10.96.0.0/16 table 11400");
    manifests.remove("cidr.yaml");
    eventually("it is gone", || !has("10.97.0.0/24"));
    daemon.wait_for_count("set the route to Services networks=\"10.96.0.0/16\"", 1);
    assert!(has("10.96.0.0/16") && routes(&small.node).contains("iif lo"));
    // The network is still free for the next start, and the route is what a user may set as well.
    daemon.stop();
    let cleaned = rulec(&small.node, &["cleanup"]);
    assert_eq!(cleaned.status, 0, "{cleaned:?}");
    for network in ["10.96.0.0/16", "fd00:96::/112"] {
        let line = format!("removed the route to Services network={network}");
        assert!(cleaned.stderr.contains(&line), "{}", cleaned.stderr);
    }
    assert_eq!(routes(&small.node), others);
    let again = rulec(&small.node, &["cleanup"]);
    assert!(again.stderr.contains("there was nothing to remove"), "{again:?}");
}

#[test]
fn the_option_has_no_effect_in_mode_ipvs() {
    let Some(ran) = require_root().then(|| {
        let namespace = Namespace::new("route-ipvs");
        let manifests = Manifests::of(&web());
        let path = manifests.path();
        let path = path.to_str().unwrap();
        let args = ["run", "--manifests", path, "--proxy-mode", "ipvs", "--service-route"];
        let to = path.to_owned() + "/written";
        rulec(&namespace, &[&args[..], &["--write-config-to", &to]].concat())
    }) else {
        return;
    };
    let warning = "--service-route: has no effect: in mode ipvs, the addresses of Services are the \
                   node's own";
    assert!(ran.status == 0 && ran.stderr.contains(warning), "{ran:?}");
}

#[test]
fn a_missing_route_is_said_with_the_command_that_sets_it() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    let of = |network: &str| {
        let what = format!("this node has no route to {network}: its own connections to Services");
        (what, format!("ip route add {network} dev lo"))
    };
    let [(v4, mends_v4), (v6, mends_v6)] = [of("10.96.0.0/16"), of("fd00:96::/112")];
    let faults = [
        Fault { what: &v4, command: &mends_v4, asked: &[WEB] },
        Fault { what: &v6, command: &mends_v6, asked: &[WEB_V6] },
    ];
    says_and_mends(&small.node, &faults, || {
        let answers = own(&small.node);
        assert!(answers == ["unreachable"; 4] || answers == ["pod1"; 4], "{answers:?}");
        answers[0] != "pod1"
    });
    // A Pod's packets need no such route.
    small.node.sh("ip route del 10.96.0.0/16; ip route del fd00:96::/112");
    assert!(faults[0].is_explained(&small.node));
    let of_pod = Fault { asked: &[WEB, "--from", "10.50.2.5"], ..faults[0] };
    assert!(!of_pod.is_explained(&small.node));
}
