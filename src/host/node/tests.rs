//! The decisions, for kernels that are described here.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rulec_compiler::{Change, Model, Origin, Program, Settings, State};
use rulec_sinks::nft::forward::DroppingChain;
use rulec_sinks::{Bridge, Device, Port, Way};

use super::*;

const BRIDGE: u32 = 7;

/// Returns a kernel in which endpoints below 10.88 and fd88 are on a bridge, others behind `eth0`,
/// and 192.0.2.1 is the node itself; no route leads to 10.96 and fd96.
fn kernel(needs: &Needs) -> Kernel {
    let device = |name: &str, kind: &str| Device {
        name: name.to_owned(),
        kind: kind.to_owned(),
        bridge: None,
        port: None,
    };
    let port = |name: &str, kind: &str, hairpin| {
        let port = Some(Port { bridge: BRIDGE, hairpin });
        Device { port, ..device(name, kind) }
    };
    let bridge = Device { bridge: Some(Bridge::default()), ..device("br0", "bridge") };
    let devices = [
        (2, device("eth0", "")),
        (BRIDGE, bridge),
        (8, port("p0", "veth", false)),
        (9, port("p1", "veth", true)),
        (10, port("p2", "veth", false)),
        (11, port("eth1", "", false)),
        (12, device("p9", "veth")),
    ];
    let way = |address: IpAddr| {
        let text = address.to_string();
        let way = match text.as_str() {
            "192.0.2.1" => Some(Way::Own),
            text if text.starts_with("10.88.") || text.starts_with("fd88:") => {
                Some(Way::Device(BRIDGE))
            }
            text if text.starts_with("10.96.") || text.starts_with("fd96:") => None,
            _ => Some(Way::Device(2)),
        };
        (address, way)
    };
    Kernel {
        ways: needs.addresses().into_iter().map(way).collect(),
        devices: devices.into_iter().collect(),
    }
}

/// Returns needs: networks, endpoints on the node, and others.
fn needs(networks: &[&str], local: &[&str], others: &[&str]) -> Needs {
    let addresses =
        |all: &[&str]| -> BTreeSet<IpAddr> { all.iter().map(|it| it.parse().unwrap()).collect() };
    Needs {
        networks: networks.iter().map(|it| it.parse().unwrap()).collect(),
        local: addresses(local),
        others: addresses(others),
        ..Needs::default()
    }
}

fn texts(findings: Vec<Finding>) -> Vec<String> {
    findings.iter().map(ToString::to_string).collect()
}

/// Returns the value of a setting among those given; the others do not exist.
fn settings<'a>(held: &'a [(&str, u32)]) -> impl Fn(&str) -> Option<u32> + use<'a> {
    |name| held.iter().find(|(it, _)| *it == name).map(|(_, value)| *value)
}

#[test]
fn networks_without_a_route_are_named_with_their_commands() {
    let needs = needs(&["10.96.0.0/16", "fd96::/112", "10.97.0.0/16", "192.0.2.1/32"], &[], &[]);
    let found = texts(route::find(&needs, &kernel(&needs)));
    let text = |network: &str| {
        format!(
            "this node has no route to {network}: its own connections to Services there fail before \
             any rule sees them; run rulec with --service-route, or `ip route add {network} dev lo`"
        )
    };
    assert_eq!(found, [text("10.96.0.0/16"), text("fd96::/112")]);
}

#[test]
fn needs_are_those_of_the_services_that_are_served() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.10, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {clusterIP: 10.200.0.10, ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [10.50.1.5], nodeName: na}
- {addresses: [192.0.2.1], nodeName: na}
- {addresses: [10.50.2.5], nodeName: nb}
- {addresses: [192.0.2.2], nodeName: nb}
";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("all.yaml");
    fs::write(&path, text).unwrap();
    let mut model = Model::default();
    let objects = rulec_sources::read(&path).unwrap().objects;
    model.apply(Origin::Manifests, Change::everything(objects));
    let settings = Settings { masquerade_all: true, ..Settings::new("na".into()) };
    let program = Program::compile(&model, Arc::new(settings), &State::default());
    let networks = BTreeSet::from(["10.96.0.0/16".parse().unwrap(), "fd96::/112".parse().unwrap()]);
    let found = Needs::of(&program, &networks, &["192.0.2.1".parse().unwrap()]);
    let expected =
        needs(&["10.96.0.0/16", "10.200.0.10/32"], &["10.50.1.5"], &["10.50.2.5", "192.0.2.2"]);
    assert_eq!(found, Needs { masquerades_all: true, ..expected });
}

#[test]
fn one_cluster_address_outside_of_all_networks_is_enough() {
    let networks = BTreeSet::from(["10.96.0.0/16".parse().unwrap()]);
    let mut needs = Needs::default();
    for address in ["10.200.0.1", "10.96.0.1", "10.200.0.2", "10.96.0.2", "fd96::1", "fd96::2"] {
        needs.reach(address.parse().unwrap(), &networks);
    }
    let found: Vec<String> = needs.networks.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["10.96.0.0/16", "10.200.0.1/32", "fd96::1/128"]);
}

#[test]
fn forwarding_matters_where_endpoints_are_elsewhere() {
    let find = |endpoints: &[&str], held: &[(&str, u32)]| {
        let needs = needs(&["10.96.0.0/16"], &endpoints[..1], &endpoints[1..]);
        texts(forwarding::find(&needs, &kernel(&needs), settings(held)))
    };
    let off = ["ipv4/conf/all", "ipv4/conf/eth0", "ipv4/conf/br0", "ipv6/conf/all"];
    let off = off.map(|it| format!("{it}/forwarding"));
    let off: Vec<(&str, u32)> = off.iter().map(|it| (it.as_str(), 0)).collect();
    let on = |which: &[usize]| {
        let mut held = off.clone();
        for idx in which {
            held[*idx].1 = 1;
        }
        held
    };
    let all = ["10.88.0.5", "10.50.0.5", "fd88::5"];
    let found = find(&all, &off);
    let rest = "only its own connections reach Pods and other machines; `sysctl -w";
    let v4 = format!("this node does not forward IPv4: {rest} net.ipv4.ip_forward=1`");
    let v6 = "this node does not forward IPv6: only its own connections reach Pods and other \
              machines; first `sysctl -w net/ipv6/conf/DEVICE/accept_ra=2` for each DEVICE with a \
              route from a router advertisement, then `sysctl -w net.ipv6.conf.all.forwarding=1`"
        .to_owned();
    assert_eq!(found, [v4.clone(), v6]);
    assert_eq!(find(&all[..2], &off), [v4]);
    assert_eq!(find(&["192.0.2.1"], &off), [""; 0], "the node itself");
    assert_eq!(find(&all, &on(&[0, 1, 2, 3])), [""; 0]);
    assert_eq!(find(&all, &on(&[1, 2, 3])), [""; 0], "every device that matters forwards");
    let one =
        format!("this node does not forward IPv4 from br0: {rest} net/ipv4/conf/br0/forwarding=1`");
    assert_eq!(find(&all, &on(&[0, 1, 3])), [one]);
    assert_eq!(find(&all, &[]), [""; 0], "what cannot be read is not known to be off");
}

#[test]
fn chains_that_see_the_packets_are_named_with_their_tool() {
    let chain = |family, sees, table: &str, name: &str, by_policy| {
        let (table, name) = (table.to_owned(), name.to_owned());
        DroppingChain { family, sees, table, name, by_policy }
    };
    let v6: &[Family] = &[Family::Ipv6];
    let chains = vec![
        chain("ip", &[Family::Ipv4], "filter", "FORWARD", true),
        chain("ip6", v6, "filter", "FORWARD", true),
        chain("inet", &Family::ALL, "fw", "forward", false),
        chain("inet", &Family::ALL, "filter", "FORWARD", true),
    ];
    let none = |_| false;
    let found = texts(firewall::find(v6, chains.clone(), none));
    let may = |by: &str| {
        format!(
            "drops what none of its rules accepts ({by}): connections to Services through this node \
             may fail;"
        )
    };
    let iptables = "FORWARD -m conntrack --ctstate DNAT -j ACCEPT`";
    let expected = [
        format!("chain ip6 filter FORWARD {} `ip6tables-nft -A {iptables}", may("policy")),
        format!(
            "chain inet fw forward {} `nft insert rule inet fw forward ct status dnat accept`",
            may("last rule")
        ),
        format!(
            "chain inet filter FORWARD {} `nft add rule inet filter FORWARD ct status dnat accept`",
            may("policy")
        ),
    ];
    assert_eq!(found, expected);
    assert_eq!(firewall::find(&[Family::Ipv4], chains, none).len(), 3);
    let found = firewall::find(&Family::ALL, Vec::new(), |family| family == Family::Ipv4);
    assert!(found.iter().all(Finding::is_hint));
    let unread = "chain FORWARD of iptables-legacy cannot be read: if it drops (`iptables-legacy -S \
                  FORWARD`), connections to Services through this node fail; `iptables-legacy -A \
                  FORWARD -m conntrack --ctstate DNAT -j ACCEPT`";
    assert_eq!(texts(found), [unread]);
}

#[test]
fn bridges_of_pods_need_netfilter_and_hairpin_mode() {
    let find = |needs: &Needs, held: &[(&str, u32)]| {
        texts(bridge::find(needs, &kernel(needs), settings(held)))
    };
    let local = needs(&[], &["10.88.0.5", "10.50.0.5"], &[]);
    let hairpin = "bridge br0 sends nothing back to the port that it came from: Pods on it do not \
                   reach themselves through a Service; `for port in p0 p2; do ip link set $port type \
                   bridge_slave hairpin on; done`";
    let on = [("bridge/bridge-nf-call-iptables", 1), ("bridge/bridge-nf-call-ip6tables", 0)];
    assert_eq!(find(&local, &on), [hairpin]);
    let unseen = |family, load, tables| {
        format!(
            "bridge br0 does not show {family} between its ports to netfilter: Pods on it do not \
             reach each other through cluster addresses; `{load}ip link set br0 type bridge \
             nf_call_{tables} 1`"
        )
    };
    let load = "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=0 \
                net.bridge.bridge-nf-call-ip6tables=0 net.bridge.bridge-nf-call-arptables=0; ";
    assert_eq!(find(&local, &[]), [unseen("IPv4", load, "iptables")], "the module is not loaded");
    let both = needs(&[], &["10.88.0.5", "fd88::5"], &[]);
    assert_eq!(find(&both, &on), [&unseen("IPv6", "", "ip6tables"), hairpin]);
    let masquerading = Needs { masquerades_all: true, ..both };
    assert_eq!(find(&masquerading, &[]), [""; 0]);
    assert_eq!(find(&needs(&[], &["10.50.0.5"], &["10.88.0.5"]), &[]), [""; 0], "not a local one");
}

#[test]
fn a_strict_reverse_path_filter_drops_what_arrives_elsewhere() {
    let find = |client: &str, device: &str, held: &[(&str, u32)]| {
        let mut needs = Needs::default();
        needs.arrive(client.parse().unwrap(), device);
        texts(reverse_path::find(&needs, &kernel(&needs), settings(held)))
    };
    let (all, one) = ("ipv4/conf/all/rp_filter", "ipv4/conf/eth1/rp_filter");
    let text = "rp_filter drops packets of 203.0.113.7 that arrive on eth1, since the route to it leads \
                to eth0; `sysctl -w net/ipv4/conf/eth1/rp_filter=2`";
    for held in [[(all, 1), (one, 0)], [(all, 0), (one, 1)], [(all, 1), (one, 1)]] {
        assert_eq!(find("203.0.113.7", "eth1", &held), [text]);
    }
    for held in [[(all, 0), (one, 0)], [(all, 1), (one, 2)], [(all, 2), (one, 1)]] {
        assert_eq!(find("203.0.113.7", "eth1", &held), [""; 0]);
    }
    assert_eq!(find("203.0.113.7", "eth0", &[(all, 1)]), [""; 0], "it is the right device");
    assert_eq!(find("2001:db8::7", "eth1", &[(all, 1)]), [""; 0], "IPv6 has none");
}
