//! Pods on a bridge.

use rulec_testkit::require_root;

use super::{Fault, Small, WEB, WEB_V6, connect_both, says_and_mends};

/// The Pod of the endpoint, and another one on its bridge.
const ITSELF: &[&str] = &[WEB, "--from", "10.50.1.5"];
const OTHER: &[&str] = &[WEB, "--from", "10.50.1.6"];
const OTHER_V6: &[&str] = &[WEB_V6, "--from", "2001:db8:50:1::6"];

#[test]
fn a_bridge_that_refuses_hairpins_is_named() {
    if !require_root() {
        return;
    }
    let small = Small::bridged();
    let _servers = small.serve();
    small.node.sh("modprobe br_netfilter 2>&1 || :
         sysctl -qw net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1");
    let fault = Fault {
        what: "bridge br0 sends nothing back to the port that it came from: Pods on it do not reach \
               themselves through a Service",
        command: "for port in pod1 pod2; do ip link set $port type bridge_slave hairpin on; done",
        asked: ITSELF,
    };
    says_and_mends(&small.node, &[fault], || {
        assert_eq!(connect_both(&small.pods[1]), ["pod1"; 2], "others are not affected");
        let answers = connect_both(&small.pods[0]);
        assert!(answers == ["timed out"; 2] || answers == ["pod1"; 2], "{answers:?}");
        answers[0] != "pod1"
    });
}

#[test]
fn a_bridge_that_passes_the_rules_by_is_named() {
    if !require_root() {
        return;
    }
    let small = Small::bridged();
    let _servers = small.serve();
    small.node.sh("modprobe br_netfilter 2>&1 || :
         sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
         ip link set pod1 type bridge_slave hairpin on
         ip link set pod2 type bridge_slave hairpin on");
    let what = |family: &str| {
        format!(
            "bridge br0 does not show {family} between its ports to netfilter: Pods on it do not \
             reach each other through cluster addresses"
        )
    };
    let [v4, v6] = [what("IPv4"), what("IPv6")];
    let command = |tables: &str| format!("ip link set br0 type bridge nf_call_{tables} 1");
    let [mends_v4, mends_v6] = [command("iptables"), command("ip6tables")];
    let faults = [
        Fault { what: &v4, command: &mends_v4, asked: OTHER },
        Fault { what: &v6, command: &mends_v6, asked: OTHER_V6 },
    ];
    says_and_mends(&small.node, &faults, || {
        assert_eq!(connect_both(&small.pods[0]), ["pod1"; 2], "a hairpin is masqueraded");
        let answers = connect_both(&small.pods[1]);
        assert!(answers == ["timed out"; 2] || answers == ["pod1"; 2], "{answers:?}");
        answers[0] != "pod1"
    });
}
