//! A node that does not forward.

use rulec_testkit::require_root;

use super::{Fault, Small, WEB, WEB_V6, connect_both, says_and_mends, web};
use crate::daemon::{Daemon, Manifests};
use crate::support::{SETTINGS, file, service, slice};

#[test]
fn a_node_that_does_not_forward_says_so() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    small.node.sh("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
    let faults = [
        Fault {
            what: "this node does not forward IPv4: only its own connections",
            command: "sysctl -w net.ipv4.ip_forward=1",
            asked: &[WEB, "--from", "10.50.2.5"],
        },
        Fault {
            what: "this node does not forward IPv6: only its own connections",
            command: "sysctl -w net.ipv6.conf.all.forwarding=1",
            asked: &[WEB_V6, "--from", "2001:db8:50:2::5"],
        },
    ];
    says_and_mends(&small.node, &faults, || {
        let answers = connect_both(&small.pods[1]);
        let is_broken = answers == ["timed out"; 2];
        assert!(is_broken || answers == ["pod1"; 2], "{answers:?}");
        is_broken
    });
}

#[test]
fn one_device_that_does_not_forward_is_named() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    small.node.sh("sysctl -qw net.ipv4.conf.pod1.forwarding=0");
    let fault = Fault {
        what: "this node does not forward IPv4 from pod1: only its own connections",
        command: "sysctl -w net/ipv4/conf/pod1/forwarding=1",
        asked: &[WEB, "--from", "10.50.2.5"],
    };
    says_and_mends(&small.node, &[fault], || connect_both(&small.pods[1]) == ["timed out", "pod1"]);
}

#[test]
fn a_node_without_services_is_looked_at_when_there_are_some() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    small.node.sh("sysctl -qw net.ipv4.ip_forward=0");
    let manifests = Manifests::new();
    let mut daemon = Daemon::start(&small.node, &manifests.path(), &SETTINGS);
    // An endpoint on the node itself needs no forwarding.
    let own = file(&[service("own", "10.96.0.11", ""), slice("own", &["10.50.2.1"])]);
    daemon.after(|| manifests.write("own.yaml", &own));
    daemon.wait_for("this node has no route to 10.96.0.0/16");
    assert_eq!(daemon.count("does not forward"), 0, "{}", daemon.log());
    daemon.after(|| manifests.write("web.yaml", &web()));
    daemon.wait_for("this node does not forward IPv4");
    assert_eq!(daemon.count("has no route"), 1, "{}", daemon.log());
    // It looks again, as long as something is wrong.
    small.node.sh("sysctl -qw net.ipv4.ip_forward=1");
    daemon.wait_for("resolved: this node does not forward IPv4");
    small.node.sh("ip route add 10.96.0.0/16 dev lo");
    daemon.wait_for("resolved: this node has no route to 10.96.0.0/16");
    assert_eq!(daemon.count("has no route to 10.96.0.0/16: "), 2, "{}", daemon.log());
}
