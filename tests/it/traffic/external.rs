//! Frontends for clients outside the cluster: node ports, external IPs, load balancer addresses.

use std::net::SocketAddr;

use rulec_testkit::{Family, Options, Protocol, Server, address, ask, require_root};

use super::{
    HTTP, NODE, PROTOCOLS, Seen, Sender, Site, at, cluster_ip, each_of, endpoints, indent, service,
};

const LOOPBACK: (std::net::Ipv4Addr, std::net::Ipv6Addr) =
    (std::net::Ipv4Addr::LOCALHOST, std::net::Ipv6Addr::LOCALHOST);

const WEB: &str = "[{name: http, port: 8080}, {name: echo, port: 8080, protocol: UDP}]";

/// Returns a Service with a node port for each protocol.
fn node_port() -> String {
    let spec = "
        type: NodePort
        ports:
        - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
        - {name: echo, port: 80, protocol: UDP, targetPort: 8080, nodePort: 30080}";
    service("web", 10, spec)
}

/// Starts a process of the node that listens on the node port's number, which is allowed.
fn squatter(site: &Site) -> Server {
    let ports = [(Protocol::Tcp, 30080), (Protocol::Udp, 30080)];
    Server::start(&site.world.node, "squatter", &ports)
}

/// Asserts that the node's own process answers, as if there were no rules.
#[track_caller]
fn untouched(site: &Site, sender: Sender, to: SocketAddr) {
    for protocol in PROTOCOLS {
        site.served(sender, protocol, to, &["squatter:30080"], Seen::Own);
    }
}

/// Asserts the same for loopback addresses.
#[track_caller]
fn loopback_is_untouched(site: &Site, family: Family) {
    for protocol in PROTOCOLS {
        let to = SocketAddr::new(family.of(LOOPBACK), 30080);
        each_of(&["squatter:30080"], "the node -> itself", || {
            ask(&site.world.node, protocol, to, Options::default()).unwrap()
        });
    }
}

#[test]
fn a_node_port_is_on_the_primary_address_only() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(&(node_port() + &endpoints("web", WEB, &["a", "b", "c"]) + NODE));
    let squatter = squatter(&site);
    for family in Family::BOTH {
        let primary = SocketAddr::new(family.of(address::NODE), 30080);
        let second = SocketAddr::new(family.of(address::NODE_SECOND), 30080);
        for sender in Sender::ALL {
            for protocol in PROTOCOLS {
                site.served(sender, protocol, primary, &["a", "b", "c"], Seen::Masqueraded);
            }
            untouched(&site, sender, second);
        }
        loopback_is_untouched(&site, family);
    }

    // Connections are refused at exactly those addresses that were served.
    site.apply(&(node_port() + NODE));
    for family in Family::BOTH {
        site.refused(&Sender::ALL, &PROTOCOLS, &at(family, 30080, &[address::NODE]));
        let second = SocketAddr::new(family.of(address::NODE_SECOND), 30080);
        for sender in Sender::ALL {
            untouched(&site, sender, second);
        }
        loopback_is_untouched(&site, family);
    }

    // Without the Service, the primary address is like the others.
    site.apply(NODE);
    for family in Family::BOTH {
        untouched(&site, Sender::Client, SocketAddr::new(family.of(address::NODE), 30080));
    }
    drop(squatter);
}

#[test]
fn without_a_node_a_node_port_is_on_all_local_addresses() {
    if !require_root() {
        return;
    }
    let mut site = Site::start(&(node_port() + &endpoints("web", WEB, &["a", "b", "c"])));
    let _squatter = squatter(&site);
    for family in Family::BOTH {
        for to in at(family, 30080, &[address::NODE, address::NODE_SECOND]) {
            for sender in Sender::ALL {
                for protocol in PROTOCOLS {
                    site.served(sender, protocol, to, &["a", "b", "c"], Seen::Masqueraded);
                }
            }
        }
        loopback_is_untouched(&site, family);
        // The same port of another machine is not affected, though its packets pass this node.
        let elsewhere = [(Protocol::Tcp, SocketAddr::new(family.of(address::CLIENT2), 30080))];
        let _other = Server::start_at(&site.world.client2, "other", &elsewhere);
        site.served(Sender::Pod, Protocol::Tcp, elsewhere[0].1, &["other:30080"], Seen::Own);
        site.served(Sender::Host, Protocol::Tcp, elsewhere[0].1, &["other:30080"], Seen::Own);
    }

    site.apply(&node_port());
    for family in Family::BOTH {
        let all = at(family, 30080, &[address::NODE, address::NODE_SECOND]);
        site.refused(&Sender::ALL, &PROTOCOLS, &all);
        loopback_is_untouched(&site, family);
    }

    // The Node object gets an address, and loses it again.
    site.apply(&(node_port() + NODE));
    for family in Family::BOTH {
        site.refused(&Sender::ALL, &PROTOCOLS, &at(family, 30080, &[address::NODE]));
        untouched(&site, Sender::Client, SocketAddr::new(family.of(address::NODE_SECOND), 30080));
    }
    site.apply(&node_port());
    for family in Family::BOTH {
        let all = at(family, 30080, &[address::NODE, address::NODE_SECOND]);
        site.refused(&Sender::ALL, &PROTOCOLS, &all);
    }
}

#[test]
fn node_ports_use_the_address_of_their_own_node() {
    if !require_root() {
        return;
    }
    let other = NODE.replace("na", "nb").replace("192.0.2.10", "192.0.2.11");
    let own = NODE.replace("192.0.2.10", "192.0.2.110").replace("db8::10", "db8::110");
    let yaml = node_port() + &endpoints("web", WEB, &["a"]) + &other + &own;
    let site = Site::start(&yaml);
    let _squatter = squatter(&site);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.of(address::NODE_SECOND), 30080);
        site.served(Sender::Client, Protocol::Tcp, to, &["a"], Seen::Masqueraded);
        untouched(&site, Sender::Client, SocketAddr::new(family.of(address::NODE), 30080));
    }
}

#[test]
fn one_node_port_number_serves_two_services() {
    if !require_root() {
        return;
    }
    let port = |protocol: &str| {
        format!(
            "
            type: NodePort
            ports: [{{name: p, port: 80, protocol: {protocol}, nodePort: 30090}}]"
        )
    };
    let tcp =
        service("one", 11, &port("TCP")) + &endpoints("one", "[{name: p, port: 8080}]", &["a"]);
    let udp = service("two", 12, &port("UDP"))
        + &endpoints("two", "[{name: p, port: 9090, protocol: UDP}]", &["b", "c"]);
    let mut site = Site::start(&(tcp.clone() + &udp + NODE));
    let nodes = Family::BOTH.map(|family| SocketAddr::new(family.of(address::NODE), 30090));
    for to in nodes {
        site.served(Sender::Client, Protocol::Tcp, to, &["a"], Seen::Masqueraded);
        site.served(Sender::Client, Protocol::Udp, to, &["b:9090", "c:9090"], Seen::Masqueraded);
    }
    // One Service is deleted, which leaves the other unchanged.
    site.apply(&(udp + NODE));
    for to in nodes {
        site.refused(&[Sender::Client], &[Protocol::Tcp], &[to]);
        site.served(Sender::Client, Protocol::Udp, to, &["b:9090", "c:9090"], Seen::Masqueraded);
    }
    let rules = site.world.node.nft_list();
    assert!(!rules.contains("tcp . 30090"), "the node port is still there:\n{rules}");
    // The TCP port was closed rather than rejected, which looks the same from outside.
    site.apply(&(tcp + NODE));
    for to in nodes {
        site.served(Sender::Client, Protocol::Tcp, to, &["a"], Seen::Masqueraded);
    }
}

/// Addresses of a machine outside the cluster, which answers with the name `outside`.
struct Outside {
    _server: Server,
}

impl Outside {
    fn start(site: &Site, ips: &[&str], ports: &[(Protocol, u16)]) -> Self {
        for ip in ips {
            let bits = if ip.contains(':') { 128 } else { 32 };
            site.world.client2.sh(&format!("ip addr add {ip}/{bits} dev eth0 nodad"));
            site.world.node.sh(&format!("ip route add {ip}/{bits} dev uplink"));
        }
        Self { _server: Server::start(&site.world.client2, "outside", ports) }
    }
}

#[test]
fn external_ips_are_served_for_all_clients() {
    if !require_root() {
        return;
    }
    let spec = "
        externalIPs: [198.51.100.30, 198.51.100.31, '2001:db8:5::30', bogus, '']
        ports:
        - {name: http, port: 80, targetPort: 8080}
        - {name: echo, port: 80, protocol: UDP, targetPort: 8080}";
    let yaml = service("web", 10, spec) + &endpoints("web", WEB, &["a", "b", "c"]);
    let mut site = Site::start(&yaml);
    // The addresses belong to a machine outside; ports that the Service does not define still lead
    // there.
    let _outside = Outside::start(
        &site,
        &["198.51.100.30", "198.51.100.31", "2001:db8:5::30"],
        &[(Protocol::Tcp, 443), (Protocol::Udp, 443), (Protocol::Tcp, 80), (Protocol::Udp, 80)],
    );
    for ip in ["198.51.100.30", "198.51.100.31", "2001:db8:5::30"] {
        let at = |port| SocketAddr::new(ip.parse().unwrap(), port);
        for sender in Sender::ALL {
            for protocol in PROTOCOLS {
                site.served(sender, protocol, at(80), &["a", "b", "c"], Seen::Masqueraded);
                // Through the node, because of the client's routes; otherwise it would reach its
                // neighbour directly.
                site.served(sender, protocol, at(443), &["outside:443"], Seen::Own);
            }
        }
    }

    // Without endpoints, the Service's ports are refused, and other ports still unaffected.
    site.apply(&service("web", 10, spec));
    for ip in ["198.51.100.30", "198.51.100.31", "2001:db8:5::30"] {
        let at = |port| SocketAddr::new(ip.parse().unwrap(), port);
        site.refused(&Sender::ALL, &PROTOCOLS, &[at(80)]);
        site.served(Sender::Client, Protocol::Tcp, at(443), &["outside:443"], Seen::Own);
    }

    // Packets to an address that the Service loses reach its owner again.
    let less = spec.replace("198.51.100.31, ", "");
    site.apply(&(service("web", 10, &less) + &endpoints("web", WEB, &["b"])));
    let [kept, gone] = ["198.51.100.30:80", "198.51.100.31:80"].map(|to| to.parse().unwrap());
    site.served(Sender::Client, Protocol::Tcp, kept, &["b"], Seen::Masqueraded);
    site.served(Sender::Client, Protocol::Tcp, gone, &["outside:80"], Seen::Own);
}

/// Returns a Service of type LoadBalancer with the status that the controller wrote.
fn load_balancer(ingress: &str) -> String {
    let spec = "
        type: LoadBalancer
        ports:
        - {name: http, port: 80, targetPort: 8080, nodePort: 30080}";
    let status = indent(&format!("loadBalancer: {{ingress: [{ingress}]}}"));
    service("web", 10, spec) + "status:\n" + &status
}

#[test]
fn vips_are_served_unless_their_ip_mode_is_proxy() {
    if !require_root() {
        return;
    }
    let vips = "
        {ip: 198.51.100.20}, {ip: 198.51.100.21, ipMode: VIP}, {ip: '2001:db8:5::20'},
        {ip: 198.51.100.22, ipMode: Proxy}, {ip: '2001:db8:5::22', ipMode: Proxy},
        {hostname: lb.example.org}";
    let yaml = load_balancer(&vips.replace('\n', " ")) + &endpoints("web", HTTP, &["a", "b", "c"]);
    let site = Site::start(&(yaml + NODE));
    let ours = ["198.51.100.20", "198.51.100.21", "2001:db8:5::20"];
    let proxies = ["198.51.100.22", "2001:db8:5::22"];
    let _outside = Outside::start(
        &site,
        &[&ours[..], &proxies].concat(),
        &[(Protocol::Tcp, 80), (Protocol::Tcp, 443)],
    );
    let at = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
    for sender in Sender::ALL {
        for ip in ours {
            site.served(sender, Protocol::Tcp, at(ip, 80), &["a", "b", "c"], Seen::Masqueraded);
            site.served(sender, Protocol::Tcp, at(ip, 443), &["outside:443"], Seen::Own);
        }
        for ip in proxies {
            site.served(sender, Protocol::Tcp, at(ip, 80), &["outside:80"], Seen::Own);
        }
        // The proxy itself connects to the node port.
        for family in Family::BOTH {
            let node = SocketAddr::new(family.of(address::NODE), 30080);
            site.served(sender, Protocol::Tcp, node, &["a", "b", "c"], Seen::Masqueraded);
        }
    }
}

#[test]
fn a_vip_can_be_added_changed_and_removed() {
    if !require_root() {
        return;
    }
    let slices = endpoints("web", HTTP, &["a", "b"]);
    let mut site = Site::start(&(load_balancer("") + &slices));
    let _outside =
        Outside::start(&site, &["198.51.100.20", "198.51.100.21"], &[(Protocol::Tcp, 80)]);
    let [first, second]: [SocketAddr; 2] =
        ["198.51.100.20:80", "198.51.100.21:80"].map(|to| to.parse().unwrap());
    let (ours, theirs): (&[&str], &[&str]) = (&["a", "b"], &["outside:80"]);

    let steps = [
        ("", theirs, theirs),
        ("{hostname: lb.example.org}", theirs, theirs),
        ("{ip: 198.51.100.20}", ours, theirs),
        ("{ip: 198.51.100.20}, {ip: 198.51.100.21}", ours, ours),
        ("{ip: 198.51.100.21}", theirs, ours),
        ("{ip: 198.51.100.21, ipMode: Proxy}", theirs, theirs),
    ];
    for (ingress, at_first, at_second) in steps {
        site.apply(&(load_balancer(ingress) + &slices));
        for (to, by) in [(first, at_first), (second, at_second)] {
            let seen = if by == ours { Seen::Masqueraded } else { Seen::Own };
            site.served(Sender::Client, Protocol::Tcp, to, by, seen);
        }
        // The cluster address is not affected by these changes.
        site.served(Sender::Pod, Protocol::Tcp, cluster_ip(Family::V4, 10, 80), ours, Seen::Own);
    }
}

#[test]
fn addresses_of_the_node_can_be_external_ips() {
    if !require_root() {
        return;
    }
    // The Service's port is at this address; the node port is at another one.
    let spec = "
        type: NodePort
        externalIPs: [192.0.2.110, '2001:db8::110']
        ports:
        - {name: http, port: 80, targetPort: 8080, nodePort: 30080}";
    let yaml = service("web", 10, spec) + &endpoints("web", HTTP, &["a", "b", "c"]);
    let mut site = Site::start(&(yaml.clone() + NODE));
    let _squatter = squatter(&site);
    let served = |site: &Site, sender, to| {
        site.served(sender, Protocol::Tcp, to, &["a", "b", "c"], Seen::Masqueraded);
    };
    for family in Family::BOTH {
        for sender in Sender::ALL {
            let [external, node_port] =
                [80, 30080].map(|port| SocketAddr::new(family.of(address::NODE_SECOND), port));
            served(&site, sender, external);
            untouched(&site, sender, node_port);
        }
    }
    // Where node ports are at all addresses, this address has both.
    site.apply(&yaml);
    for family in Family::BOTH {
        for sender in Sender::ALL {
            for to in [80, 30080].map(|port| (family.of(address::NODE_SECOND), port).into()) {
                served(&site, sender, to);
            }
        }
    }
}

#[test]
fn a_contested_frontend_belongs_to_the_first_service_by_name() {
    if !require_root() {
        return;
    }
    let spec = "
        type: NodePort
        externalIPs: [198.51.100.30, '2001:db8:5::30']
        ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30080}]";
    let [early, late] = [("early", 11, "a"), ("late", 12, "b")]
        .map(|(name, number, by)| service(name, number, spec) + &endpoints(name, HTTP, &[by]));
    let mut site = Site::start(&late);
    let check = |site: &Site, by: &[&str]| {
        for to in ["198.51.100.30:80", "[2001:db8:5::30]:80", "192.0.2.10:30080"] {
            let to = to.parse().unwrap();
            site.served(Sender::Client, Protocol::Tcp, to, by, Seen::Masqueraded);
        }
    };
    check(&site, &["b"]);
    // The order of creation does not count, so that a restart changes nothing.
    site.apply(&(late.clone() + &early));
    check(&site, &["a"]);
    site = site.restart();
    check(&site, &["a"]);
    // Other frontends of the two Services are not affected.
    for family in Family::BOTH {
        site.served(Sender::Pod, Protocol::Tcp, cluster_ip(family, 11, 80), &["a"], Seen::Own);
        site.served(Sender::Pod, Protocol::Tcp, cluster_ip(family, 12, 80), &["b"], Seen::Own);
    }
    // The Service that takes precedence refuses connections if it has no endpoint; the other one
    // does not take over.
    site.apply(&(late.clone() + &service("early", 11, spec)));
    let disputed = ["198.51.100.30:80", "[2001:db8:5::30]:80", "192.0.2.10:30080"];
    site.refused(&[Sender::Client], &[Protocol::Tcp], &disputed.map(|to| to.parse().unwrap()));
    site.apply(&late);
    check(&site, &["b"]);
}
