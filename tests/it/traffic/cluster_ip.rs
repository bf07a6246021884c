//! Cluster addresses: which clients are served, which are masqueraded, and what is refused.

use std::collections::BTreeMap;

use rulec_testkit::{
    Family, Options, Protocol, Server, address, ask, ask_many, require_root, sctp_supported,
};

use super::{
    CLUSTER_CIDR, HTTP, PROTOCOLS, Seen, Sender, Site, cluster_ip, each_of, endpoints, service,
};

/// Returns a Service with two ports, http on 80/TCP and echo on 80/UDP, at number 10.
fn web() -> String {
    let ports = "
        ports:
        - {name: http, port: 80, targetPort: 8080}
        - {name: echo, port: 80, protocol: UDP, targetPort: 8080}";
    service("web", 10, ports)
}

/// The ports of its EndpointSlices.
const WEB: &str = "[{name: http, port: 8080}, {name: echo, port: 8080, protocol: UDP}]";

#[test]
fn all_clients_reach_every_backend() {
    if !require_root() {
        return;
    }
    let site = Site::start(&(web() + &endpoints("web", WEB, &["a", "b", "c"])));
    for family in Family::BOTH {
        let to = cluster_ip(family, 10, 80);
        for protocol in PROTOCOLS {
            site.served(Sender::Pod, protocol, to, &["a", "b", "c"], Seen::Own);
            site.served(Sender::Host, protocol, to, &["a", "b", "c"], Seen::Masqueraded);
            site.served(Sender::Client, protocol, to, &["a", "b", "c"], Seen::Masqueraded);
            // The node with the source address that the kernel chooses.
            let counts = ask_many(&site.world.node, protocol, to, 60);
            assert_eq!(counts.len(), 3, "the node -> {protocol} {to}: {counts:?}");
        }
    }
}

#[test]
fn without_cluster_cidr_every_source_is_kept() {
    if !require_root() {
        return;
    }
    let yaml = web() + &endpoints("web", WEB, &["a", "b", "c"]);
    let site = Site::start_with(&[], &yaml);
    for family in Family::BOTH {
        for protocol in PROTOCOLS {
            for sender in Sender::ALL {
                let to = cluster_ip(family, 10, 80);
                site.served(sender, protocol, to, &["a", "b", "c"], Seen::Own);
            }
        }
    }
}

#[test]
fn a_cluster_cidr_applies_only_to_its_family() {
    if !require_root() {
        return;
    }
    let yaml = web() + &endpoints("web", WEB, &["a"]);
    let site = Site::start_with(&["--cluster-cidr", "10.50.0.0/16"], &yaml);
    let [v4, v6] = Family::BOTH.map(|family| cluster_ip(family, 10, 80));
    site.served(Sender::Client, Protocol::Tcp, v4, &["a"], Seen::Masqueraded);
    site.served(Sender::Client, Protocol::Tcp, v6, &["a"], Seen::Own);
}

#[test]
fn masquerade_all_applies_to_pods_too() {
    if !require_root() {
        return;
    }
    let yaml = web() + &endpoints("web", WEB, &["a", "b", "c"]);
    for args in [vec!["--masquerade-all"], [&CLUSTER_CIDR[..], &["--masquerade-all"]].concat()] {
        let site = Site::start_with(&args, &yaml);
        for family in Family::BOTH {
            for sender in Sender::ALL {
                let to = cluster_ip(family, 10, 80);
                site.served(sender, Protocol::Tcp, to, &["a", "b", "c"], Seen::Masqueraded);
            }
        }
    }
}

#[test]
fn another_masquerade_bit_has_the_same_effect() {
    if !require_root() {
        return;
    }
    let yaml = web() + &endpoints("web", WEB, &["a"]);
    let site = Site::start_with(&[&CLUSTER_CIDR[..], &["--masquerade-bit", "31"]].concat(), &yaml);
    for family in Family::BOTH {
        let to = cluster_ip(family, 10, 80);
        site.served(Sender::Client, Protocol::Tcp, to, &["a"], Seen::Masqueraded);
        site.served(Sender::Pod, Protocol::Tcp, to, &["a"], Seen::Own);
    }
}

#[test]
fn protocols_of_one_port_have_separate_targets() {
    if !require_root() {
        return;
    }
    // Without SCTP in the kernel, the SCTP port must still not affect the others.
    let dns = service(
        "dns",
        53,
        "
        ports:
        - {name: dns, port: 53, protocol: UDP, targetPort: 8080}
        - {name: dns-tcp, port: 53, protocol: TCP, targetPort: 9090}
        - {name: dns-sctp, port: 53, protocol: SCTP, targetPort: 8080}
        ",
    );
    // A port of a slice must match in both name and protocol.
    let slices = endpoints(
        "dns",
        "[{name: dns, port: 8080, protocol: UDP},
          {name: dns-tcp, port: 9090, protocol: TCP},
          {name: dns-sctp, port: 8080, protocol: SCTP}]",
        &["a", "b"],
    );
    let site = Site::start(&(dns + &slices));
    for family in Family::BOTH {
        let to = cluster_ip(family, 53, 53);
        site.served(Sender::Pod, Protocol::Udp, to, &["a", "b"], Seen::Own);
        site.served(Sender::Pod, Protocol::Tcp, to, &["a:9090", "b:9090"], Seen::Own);
        if sctp_supported() {
            site.served(Sender::Pod, Protocol::Sctp, to, &["a", "b"], Seen::Own);
        }
    }
}

#[test]
fn a_pod_reaches_itself() {
    if !require_root() {
        return;
    }
    let ports = "
        type: NodePort
        ports:
        - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
        - {name: echo, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30080}";
    let yaml = service("web", 10, ports) + &endpoints("web", WEB, &["a", "b", "c"]);
    // Without a cluster CIDR, sources are kept, but hairpins are still masqueraded.
    for args in [&CLUSTER_CIDR[..], &[]] {
        let site = Site::start_with(args, &yaml);
        let a = site.world.pod(0);
        for family in Family::BOTH {
            let node = family.of(address::NODE);
            for protocol in PROTOCOLS {
                let reach = |to| {
                    ask(&a.namespace, protocol, to, Options::default())
                        .unwrap_or_else(|failure| panic!("a -> {protocol} {to}: {failure:?}"))
                };
                // If the pod saw its own address, its answer would not return through the node.
                each_of(&["a", "b", "c"], "a -> its cluster address", || {
                    let answer = reach(cluster_ip(family, 10, 80));
                    let seen = if answer.name == "a" { node } else { a.ip(family) };
                    assert_eq!(answer.source, seen, "{answer:?}");
                    answer
                });
                each_of(&["a", "b", "c"], "a -> its node port", || {
                    let answer = reach((node, 30080).into());
                    assert_eq!(answer.source, node, "{answer:?}");
                    answer
                });
            }
        }
    }
}

#[test]
fn undefined_ports_and_protocols_are_refused() {
    if !require_root() {
        return;
    }
    let ports = "
        ports:
        - {name: http, port: 80, targetPort: 8080}";
    let site = Site::start(&(service("web", 10, ports) + &endpoints("web", HTTP, &["a", "b"])));
    let at = |port| Family::BOTH.map(|family| cluster_ip(family, 10, port));
    site.refused(&Sender::ALL, &[Protocol::Tcp, Protocol::Udp], &at(443));
    // The backends listen on both protocols at 8080.
    site.refused(&Sender::ALL, &[Protocol::Tcp, Protocol::Udp], &at(8080));
    site.refused(&Sender::ALL, &[Protocol::Udp], &at(80));
    for to in at(80) {
        site.served(Sender::Pod, Protocol::Tcp, to, &["a", "b"], Seen::Own);
    }
}

#[test]
fn a_service_without_endpoints_refuses_connections() {
    if !require_root() {
        return;
    }
    let web = service(
        "web",
        10,
        "
        type: NodePort
        externalIPs: [198.51.100.30, '2001:db8:5::30']
        ports:
        - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
        - {name: echo, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30080}
        ",
    );
    let frontends = Family::BOTH.map(|family| {
        let [external, node] = match family {
            Family::V4 => ["198.51.100.30:80", "192.0.2.10:30080"],
            Family::V6 => ["[2001:db8:5::30]:80", "[2001:db8::10]:30080"],
        };
        [cluster_ip(family, 10, 80), external.parse().unwrap(), node.parse().unwrap()]
    });
    let elsewhere = frontends.map(|[cluster_ip, external, _]| [cluster_ip, external]).concat();
    let frontends = frontends.concat();

    let mut site = Site::start(&web);
    site.refused(&Sender::ALL, &PROTOCOLS, &frontends);

    let serves = |site: &Site, by: &[&str]| {
        for to in &frontends {
            for protocol in PROTOCOLS {
                site.served(Sender::Client, protocol, *to, by, Seen::Masqueraded);
            }
        }
    };
    site.apply(&(web.clone() + &endpoints("web", WEB, &["a"])));
    serves(&site, &["a"]);
    site.apply(&(web.clone() + &endpoints("web", WEB, &["b", "c"])));
    serves(&site, &["b", "c"]);
    // An empty slice, as the controller leaves it, and no slice at all.
    site.apply(&(web.clone() + &endpoints("web", WEB, &[])));
    site.refused(&Sender::ALL, &PROTOCOLS, &frontends);
    site.apply(&(web.clone() + &endpoints("web", WEB, &["c"])));
    serves(&site, &["c"]);
    site.apply(&web);
    site.refused(&Sender::ALL, &PROTOCOLS, &frontends);

    // Without the Service, packets to its addresses leave by the default route and get no answer.
    // At the node port, the node's kernel refuses connections anyway because no process listens.
    site.manifests.remove("all.yaml");
    site.settle();
    site.silent(&Sender::ALL, &PROTOCOLS, &elsewhere);
    let rules = site.world.node.nft_list();
    assert!(!rules.contains("30080"), "the node port is still there:\n{rules}");
}

#[test]
fn a_service_moves_to_another_port_and_another_address() {
    if !require_root() {
        return;
    }
    let web = |number, port| {
        service("web", number, &format!("ports: [{{name: http, port: {port}, targetPort: 8080}}]"))
            + &endpoints("web", HTTP, &["a", "b"])
    };
    let at = |number, port| Family::BOTH.map(|family| cluster_ip(family, number, port));
    let serves = |site: &Site, number, port| {
        for to in at(number, port) {
            site.served(Sender::Pod, Protocol::Tcp, to, &["a", "b"], Seen::Own);
        }
    };
    let mut site = Site::start(&web(10, 80));
    serves(&site, 10, 80);
    site.apply(&web(10, 81));
    serves(&site, 10, 81);
    site.refused(&Sender::ALL, &[Protocol::Tcp], &at(10, 80));
    site.apply(&web(11, 80));
    serves(&site, 11, 80);
    site.refused(&[Sender::Pod], &[Protocol::Tcp], &at(11, 81));
    site.silent(&Sender::ALL, &[Protocol::Tcp], &[at(10, 80), at(10, 81)].concat());
}

#[test]
fn each_port_has_its_own_endpoints() {
    if !require_root() {
        return;
    }
    let ports = "
        ports:
        - {name: http, port: 80, targetPort: 8080}
        - {name: metrics, port: 81, targetPort: 9090}
        - {name: later, port: 82, targetPort: 9090}";
    let both = endpoints("web", "[{name: http, port: 8080}, {name: metrics, port: 9090}]", &["a"]);
    let site = Site::start(&(service("web", 10, ports) + &both));
    for family in Family::BOTH {
        let at = |port| cluster_ip(family, 10, port);
        site.served(Sender::Pod, Protocol::Tcp, at(80), &["a"], Seen::Own);
        site.served(Sender::Pod, Protocol::Tcp, at(81), &["a:9090"], Seen::Own);
        site.refused(&Sender::ALL, &[Protocol::Tcp], &[at(82)]);
    }
}

#[test]
fn families_are_independent() {
    if !require_root() {
        return;
    }
    let ports = "
        ports:
        - {name: http, port: 80, targetPort: 8080}";
    let v4 = "{addresses: [10.50.1.5], nodeName: na}";
    let v6 = "{addresses: ['2001:db8:50:1::6'], nodeName: na}";
    let slice = |address_type, endpoint: &str| {
        super::slice("web-slice", "web", address_type, HTTP, &[endpoint])
    };
    let [to_v4, to_v6] = Family::BOTH.map(|family| cluster_ip(family, 10, 80));

    let mut site = Site::start(&(service("web", 10, ports) + &slice("IPv4", v4)));
    site.served(Sender::Pod, Protocol::Tcp, to_v4, &["a"], Seen::Own);
    site.refused(&Sender::ALL, &[Protocol::Tcp], &[to_v6]);

    site.apply(&(service("web", 10, ports) + &slice("IPv6", v6)));
    site.served(Sender::Pod, Protocol::Tcp, to_v6, &["b"], Seen::Own);
    site.refused(&Sender::ALL, &[Protocol::Tcp], &[to_v4]);

    // A Service of one family has no frontend in the other.
    let single = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 'fd90::10'
  clusterIPs: ['fd90::10']
  ipFamilies: [IPv6]
  ports: [{name: http, port: 80, targetPort: 8080}]
";
    site.apply(&(single.to_owned() + &slice("IPv6", v6)));
    site.served(Sender::Pod, Protocol::Tcp, to_v6, &["b"], Seen::Own);
    site.silent(&Sender::ALL, &PROTOCOLS, &[to_v4]);

    // The user chooses the order of the families.
    let reversed = "---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  clusterIP: 'fd90::10'
  clusterIPs: ['fd90::10', 10.90.0.10]
  ipFamilies: [IPv6, IPv4]
  ports: [{name: http, port: 80, targetPort: 8080}]
";
    site.apply(&(reversed.to_owned() + &endpoints("web", HTTP, &["a", "c"])));
    for to in [to_v4, to_v6] {
        site.served(Sender::Pod, Protocol::Tcp, to, &["a", "c"], Seen::Own);
    }
}

#[test]
fn backends_share_the_flows_evenly() {
    if !require_root() {
        return;
    }
    let site = Site::start(&(web() + &endpoints("web", WEB, &["a", "b", "c"])));
    for family in Family::BOTH {
        for sender in [Sender::Pod, Sender::Client] {
            for protocol in PROTOCOLS {
                let to = cluster_ip(family, 10, 80);
                let counts = ask_many(sender.of(&site.world), protocol, to, 300);
                let fair = |count: &usize| (50..=150).contains(count);
                let is_even = counts.len() == 3 && counts.values().all(fair);
                assert!(is_even, "{sender:?} -> {protocol} {to}: {counts:?}");
            }
        }
    }
}

#[test]
fn services_are_independent() {
    if !require_root() {
        return;
    }
    // The same port at different addresses, different ports at different addresses, the same and
    // other backends.
    let port = |number| format!("ports: [{{name: http, port: {number}, targetPort: 8080}}]");
    let yaml = [
        service("one", 11, &port(80)) + &endpoints("one", HTTP, &["a"]),
        service("two", 12, &port(80)) + &endpoints("two", HTTP, &["b", "c"]),
        service("three", 13, &port(81)) + &endpoints("three", HTTP, &["a", "c"]),
        service("four", 14, &port(80)),
    ];
    let mut site = Site::start(&yaml.concat());
    let wanted: BTreeMap<u8, (u16, Vec<&str>)> = BTreeMap::from([
        (11, (80, vec!["a"])),
        (12, (80, vec!["b", "c"])),
        (13, (81, vec!["a", "c"])),
    ]);
    for family in Family::BOTH {
        for (number, (port, by)) in &wanted {
            let to = cluster_ip(family, *number, *port);
            site.served(Sender::Pod, Protocol::Tcp, to, by, Seen::Own);
        }
        site.refused(&[Sender::Pod], &[Protocol::Tcp], &[cluster_ip(family, 14, 80)]);
    }

    // Of two Services with a common endpoint, one is deleted; the other keeps it, including its
    // hairpin.
    site.apply(&yaml[1..].concat());
    for family in Family::BOTH {
        let to = cluster_ip(family, 13, 81);
        site.served(Sender::Pod, Protocol::Tcp, to, &["a", "c"], Seen::Own);
        each_of(&["a", "c"], "a -> itself", || {
            let from = &site.world.pod(0).namespace;
            ask(from, Protocol::Tcp, to, Options::default()).unwrap()
        });
        site.silent(&Sender::ALL, &[Protocol::Tcp], &[cluster_ip(family, 11, 80)]);
    }
}

/// Packets to an address without a Service follow the routes, unless a ServiceCIDR contains the
/// address.
#[test]
fn unused_addresses_of_a_service_cidr_are_dropped() {
    if !require_root() {
        return;
    }
    let web =
        service("web", 10, "ports: [{name: http, port: 80}]") + &endpoints("web", HTTP, &["a"]);
    let ranges = "---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.90.0.0/24, 'fd90::/120']}
";
    let mut site = Site::start(&web);
    let stranger = [Family::V4, Family::V6].map(|family| cluster_ip(family, 77, 8080));
    site.world.client.sh("ip addr add 10.90.0.77 dev lo; ip addr add fd90::77 dev lo nodad");
    let client = (address::CLIENT.0, address::CLIENT.1);
    site.world.node.sh(&format!(
        "ip route add 10.90.0.77 via {}; ip route add fd90::77 via {}",
        client.0, client.1
    ));
    let _server =
        Server::start_at(&site.world.client, "stranger", &stranger.map(|at| (Protocol::Tcp, at)));
    let reached = |site: &Site| {
        for to in stranger {
            for sender in [Sender::Pod, Sender::Host] {
                assert_eq!(sender.ask(&site.world, Protocol::Tcp, to).unwrap().name, "stranger");
            }
        }
    };
    reached(&site);
    site.apply(&(web.clone() + ranges));
    site.silent(&[Sender::Pod, Sender::Host], &[Protocol::Tcp], &stranger);
    for family in Family::BOTH {
        let to = cluster_ip(family, 10, 80);
        site.served(Sender::Client, Protocol::Tcp, to, &["a"], Seen::Masqueraded);
        // An undefined port at a Service's address is refused, not dropped.
        site.refused(&[Sender::Pod], &[Protocol::Tcp], &[cluster_ip(family, 10, 81)]);
    }
    site.apply(&web);
    reached(&site);
}
