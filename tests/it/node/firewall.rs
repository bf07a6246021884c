//! A chain of others that drops what is forwarded.

use rulec_testkit::require_root;

use super::{Fault, Small, WEB, WEB_V6, connect_both, explain, says_and_mends};

/// Returns what is said of a chain.
fn said(chain: &str, by: &str) -> String {
    let may = "connections to Services through this node may fail";
    format!("chain {chain} drops what none of its rules accepts ({by}): {may}")
}

const FROM: &[&str] = &[WEB, "--from", "10.50.2.5"];
const FROM_V6: &[&str] = &[WEB_V6, "--from", "2001:db8:50:2::5"];

/// Says what is broken, and that nothing else is.
fn is_broken(small: &Small) -> bool {
    let answers = connect_both(&small.pods[1]);
    let is_broken = answers == ["timed out"; 2];
    assert!(is_broken || answers == ["pod1"; 2], "{answers:?}");
    is_broken
}

#[test]
fn a_chain_whose_policy_drops_is_named() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    small.node.nft(
        "table inet fw {
           chain forward {
             type filter hook forward priority 0; policy drop;
             ct state established,related accept
             tcp dport 22 accept
           }
         }",
    );
    let what = said("inet fw forward", "policy");
    let command = "nft add rule inet fw forward ct status dnat accept";
    let fault = |asked| Fault { what: &what, command, asked };
    says_and_mends(&small.node, &[fault(FROM)], || is_broken(&small));
    // Connections of the node itself are not forwarded.
    small.node.nft("flush chain inet fw forward");
    assert!(fault(FROM).is_explained(&small.node) && fault(FROM_V6).is_explained(&small.node));
    small.node.sh("ip route add default via 10.50.2.5");
    let own = explain(&small.node, WEB, &[]);
    assert!(own.status == 0 && !own.stdout.contains(&what), "{own:?}");
}

#[test]
fn the_chain_forward_of_iptables_is_named_with_iptables() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    small.node.sh("iptables-nft -P FORWARD DROP
                   iptables-nft -A FORWARD -p tcp --dport 22 -j ACCEPT
                   ip6tables-nft -A FORWARD -j REJECT
                   ip6tables-nft -A FORWARD -j DROP");
    let [v4, v6] = [said("ip filter FORWARD", "policy"), said("ip6 filter FORWARD", "last rule")];
    let command = "iptables-nft -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT";
    // Behind its last rule, it would have no effect.
    let command_v6 = command.replace("iptables", "ip6tables").replace("-A", "-I");
    let faults = [
        Fault { what: &v4, command, asked: FROM },
        Fault { what: &v6, command: &command_v6, asked: FROM_V6 },
    ];
    says_and_mends(&small.node, &faults, || {
        let answers = connect_both(&small.pods[1]);
        assert!(answers == ["timed out", "refused"] || answers == ["pod1"; 2], "{answers:?}");
        answers[0] != "pod1"
    });
}

#[test]
fn what_cannot_be_read_of_iptables_legacy_is_only_a_hint() {
    if !require_root() {
        return;
    }
    let small = Small::routed();
    let _servers = small.serve();
    let loads = small.node.command("iptables-legacy", ["-P", "FORWARD", "DROP"]).output().unwrap();
    let hint = "chain FORWARD of iptables-legacy cannot be read";
    let manifests = crate::daemon::Manifests::of(&super::web());
    let args = [&crate::support::SETTINGS[..], &super::RANGES].concat();
    let daemon = crate::daemon::Daemon::start(&small.node, &manifests.path(), &args);
    let asked = explain(&small.node, FROM[0], &FROM[1..]);
    let log = daemon.stop();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(hint)).collect();
    if loads.status.success() {
        assert_eq!(lines.len(), 1, "{log}");
        assert!(lines[0].contains(" INFO ") && asked.stdout.contains(hint), "{lines:?} {asked:?}");
        assert_eq!(connect_both(&small.pods[1]), ["timed out", "pod1"]);
        small.node.sh("iptables-legacy -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT");
        assert_eq!(connect_both(&small.pods[1]), ["pod1"; 2]);
    } else {
        // This kernel has no legacy tables.
        assert!(lines.is_empty() && !asked.stdout.contains(hint), "{log} {asked:?}");
    }
}
