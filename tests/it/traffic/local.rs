//! Which clients count as Pods of the node: the detection modes, and their effect on source
//! addresses.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use rulec_testkit::{Family, Namespace, Options, Protocol, address, ask, require_root};

use super::{HTTP, NODE, PATIENCE, Seen, Sender, Site, cluster_ip, each_of, endpoints, service};
use crate::support::rulec;

/// Returns a Service whose only endpoint is not one of the clients.
fn web() -> String {
    service("web", 10, "ports: [{name: http, port: 80}]") + &endpoints("web", HTTP, &["a"])
}

/// Asserts which source address the endpoint sees for the world's usual clients.
#[track_caller]
fn seen(site: &Site, expected: [(Sender, Seen); 3]) {
    for family in Family::BOTH {
        for (sender, seen) in expected {
            site.served(sender, Protocol::Tcp, cluster_ip(family, 10, 80), &["a"], seen);
        }
    }
}

/// Asserts which source address the endpoint sees for another client.
#[track_caller]
fn source_of(from: &Namespace, own: (Ipv4Addr, Ipv6Addr), seen: Seen) {
    for family in Family::BOTH {
        let options =
            Options { source: Some(SocketAddr::new(family.of(own), 0)), timeout: PATIENCE };
        let answer = ask(from, Protocol::Tcp, cluster_ip(family, 10, 80), options).unwrap();
        let expected = match seen {
            Seen::Own => family.of(own),
            Seen::Masqueraded => family.of(address::NODE),
        };
        assert_eq!(answer.source, expected, "{family:?}");
    }
}

#[test]
fn pods_are_recognised_by_the_networks_of_their_node() {
    if !require_root() {
        return;
    }
    let node =
        |cidrs: &str| NODE.replace("status:", &format!("spec: {{podCIDRs: [{cidrs}]}}\nstatus:"));
    let own = node("10.50.1.0/24, '2001:db8:50:1::/64'");
    let mut site = Site::start_with(&["--detect-local-mode", "NodeCIDR"], &(web() + &own));
    let only_pods = [
        (Sender::Pod, Seen::Own),
        (Sender::Host, Seen::Masqueraded),
        (Sender::Client, Seen::Masqueraded),
    ];
    seen(&site, only_pods);
    // Unlike with a cluster CIDR, a Pod of another node does not count.
    source_of(&site.world.remote_pod(0).namespace, address::remote_pod(0), Seen::Masqueraded);

    // The node has other networks now.
    site.apply(&(web() + &node("10.50.2.0/24, '2001:db8:50:2::/64'")));
    source_of(&site.world.remote_pod(0).namespace, address::remote_pod(0), Seen::Own);
    source_of(&site.world.pod(2).namespace, address::pod(2), Seen::Masqueraded);

    // Without known networks, no client can be told from Pods, and all sources are kept.
    site.apply(&(web() + NODE));
    seen(&site, Sender::ALL.map(|sender| (sender, Seen::Own)));
    site.apply(&(web() + &own));
    seen(&site, only_pods);
}

#[test]
fn pods_are_recognised_by_their_bridge() {
    if !require_root() {
        return;
    }
    // The link of a Pod serves as the bridge: the mode compares the interface on which packets
    // arrive.
    let args = ["--detect-local-mode", "BridgeInterface", "--pod-bridge-interface", "pod2"];
    let site = Site::start_with(&args, &(web() + NODE));
    seen(
        &site,
        [
            (Sender::Pod, Seen::Own),
            (Sender::Host, Seen::Masqueraded),
            (Sender::Client, Seen::Masqueraded),
        ],
    );
    // The interface's whole name is compared; the address does not count.
    source_of(&site.world.pod(1).namespace, address::pod(1), Seen::Masqueraded);
}

#[test]
fn pods_are_recognised_by_the_names_of_their_interfaces() {
    if !require_root() {
        return;
    }
    let args = ["--detect-local-mode", "InterfaceNamePrefix", "--pod-interface-name-prefix", "pod"];
    let site = Site::start_with(&args, &(web() + NODE));
    seen(
        &site,
        [
            (Sender::Pod, Seen::Own),
            (Sender::Host, Seen::Masqueraded),
            (Sender::Client, Seen::Masqueraded),
        ],
    );
    source_of(&site.world.pod(1).namespace, address::pod(1), Seen::Own);
    source_of(&site.world.remote_pod(0).namespace, address::remote_pod(0), Seen::Masqueraded);
}

/// An address of the node in its Pods' network, such as a bridge's, counts as a Pod: via an
/// external frontend, too, its source is kept, and all endpoints can be chosen.
#[test]
fn a_node_address_in_the_pod_network_counts_as_a_pod() {
    if !require_root() {
        return;
    }
    let own = address::pod_at(1, 1);
    let (vip4, vip6) = (Ipv4Addr::new(198, 51, 100, 20), "2001:db8:51::20".parse().unwrap());
    let spec = format!(
        "
        type: LoadBalancer
        externalTrafficPolicy: Local
        ports: [{{name: http, port: 80}}]
        externalIPs: [{vip4}, '{vip6}']"
    );
    let slices = endpoints("web", HTTP, &["a", "c"]);
    let site = Site::start(&format!("{}{slices}{NODE}", service("web", 10, &spec)));
    let (v4, v6) = own;
    site.world.node.sh(&format!(
        "ip address add {v4}/32 dev uplink preferred_lft 0
         ip address add {v6}/128 dev uplink preferred_lft 0 nodad"
    ));
    for family in Family::BOTH {
        let to = SocketAddr::new(family.of((vip4, vip6)), 80);
        let ask_from = |source: (Ipv4Addr, Ipv6Addr), seen| {
            let source = Some(SocketAddr::new(family.of(source), 0));
            each_of(&["a", "c"], &format!("{source:?} -> {to}"), || {
                let options = Options { source, timeout: PATIENCE };
                let answer = ask(&site.world.node, Protocol::Tcp, to, options).unwrap();
                assert_eq!(answer.source, family.of(seen), "{source:?} -> {to}");
                answer
            });
        };
        ask_from(own, own);
        // The node's other addresses do not count as Pods.
        ask_from(address::NODE_SECOND, address::NODE);
    }
}

#[test]
fn a_mode_without_its_interface_is_refused() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("modes");
    for (mode, flag) in [
        ("BridgeInterface", "--pod-bridge-interface"),
        ("InterfaceNamePrefix", "--pod-interface-name-prefix"),
    ] {
        let run = ["run", "--manifests", "/nowhere", "--detect-local-mode", mode];
        for more in [&[][..], &[flag, "sixteen-letters!"], &[flag, "a/b"]] {
            let ran = rulec(&namespace, &[&run[..], more].concat());
            assert_eq!(ran.status, 3, "{ran:?}");
            assert!(ran.stderr.contains(flag), "{ran:?}");
        }
    }
}
