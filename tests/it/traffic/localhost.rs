//! Node ports on the loopback address of `localhost`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::thread;

use rulec_testkit::{
    Failure, Family, LongServer, Namespace, Options, Protocol, Server, address, ask, flow_with,
    require_root, unbroken,
};
use socket2::{Domain, Socket, Type};

use super::{CLUSTER_CIDR, NODE, PATIENCE, PROTOCOLS, Site, each_of, endpoint, service, slice};

const LOCALHOST: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST);

/// Another loopback address, from which a client can connect.
const OTHER: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(127, 0, 0, 9), Ipv6Addr::LOCALHOST);

/// The Pods that are endpoints.
const PODS: [&str; 2] = ["a", "c"];

const PORTS: &str = "
    type: NodePort
    externalTrafficPolicy: Local
    ports:
    - {name: http, port: 80, targetPort: 8080, nodePort: 30080}
    - {name: dns, port: 53, protocol: UDP, targetPort: 8080, nodePort: 30080}
    - {name: long, port: 70, targetPort: 7070, nodePort: 30070}
    - {name: echo, port: 60, protocol: UDP, targetPort: 6060, nodePort: 30060}
    - {name: gone, port: 90, protocol: UDP, targetPort: 9999, nodePort: 30090}
";

const OF_SLICE: &str = "[{name: http, port: 8080}, {name: dns, protocol: UDP, port: 8080}, \
                        {name: long, port: 7070}, {name: echo, protocol: UDP, port: 6060}, \
                        {name: gone, protocol: UDP, port: 9999}]";

/// Returns a Service with a Pod of this node and one of another and, if it is asked for, a process
/// of the node itself.
fn web(with_host: bool) -> String {
    let of = |family: Family, kind| {
        let host = family.of(address::NODE);
        let host = format!("{{addresses: ['{host}'], nodeName: na, conditions: {{ready: true}}}}");
        let pods = PODS.map(|name| endpoint(family, name, "{ready: true}"));
        let all: Vec<String> = pods.into_iter().chain(with_host.then_some(host)).collect();
        slice(&format!("web-{kind}").to_lowercase(), "web", kind, OF_SLICE, &all)
    };
    service("web", 10, PORTS) + &of(Family::V4, "IPv4") + &of(Family::V6, "IPv6") + NODE
}

/// Starts the daemon with `localhost` among the addresses of node ports.
fn site(yaml: &str) -> Site {
    const ARGS: [&str; 4] =
        [CLUSTER_CIDR[0], CLUSTER_CIDR[1], "--nodeport-addresses", "primary,localhost"];
    Site::start_with(&ARGS, yaml)
}

/// Starts the process of the node that is an endpoint.
fn host_process(node: &Namespace) -> Server {
    let at = |family: Family, protocol| (protocol, SocketAddr::new(family.of(address::NODE), 8080));
    let all = Family::BOTH.map(|family| PROTOCOLS.map(|protocol| at(family, protocol)));
    Server::start_at(node, "host", &all.concat())
}

/// Returns the name of who answers at a port of `localhost`, without a word about the source.
fn answered_by(node: &Namespace, to: SocketAddr) -> String {
    ask(node, Protocol::Tcp, to, Options::default()).unwrap().name
}

fn localhost(family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(family.of(LOCALHOST), port)
}

fn from(source: IpAddr) -> Options {
    Options { source: Some(SocketAddr::new(source, 0)), timeout: PATIENCE }
}

#[test]
fn node_ports_answer_on_localhost_if_it_is_named() {
    if !require_root() {
        return;
    }
    let mut site = site(&web(true));
    let node = &site.world.node;
    let _host = host_process(node);
    // It listens everywhere, at a port of its own and at one of the Service.
    let own = [(Protocol::Tcp, 30081), (Protocol::Tcp, 30080), (Protocol::Udp, 30080)];
    let _squatter = Server::start(node, "squatter", &own);
    let beside = SocketAddr::new(OTHER.0.into(), 30080);
    let _beside = Server::start_at(node, "beside", &[(Protocol::Tcp, beside)]);
    for family in Family::BOTH {
        let to = localhost(family, 30080);
        for protocol in PROTOCOLS {
            for source in [family.of(LOCALHOST), family.of(OTHER)] {
                each_of(&["a", "c", "host"], &format!("{source} -> {protocol} {to}"), || {
                    let answer = ask(node, protocol, to, from(source)).unwrap();
                    assert_eq!(answer.source, family.of(address::NODE), "as from the node");
                    answer
                });
            }
        }
        // What is no node port, and other loopback addresses, are not touched.
        let other = ask(node, Protocol::Tcp, localhost(family, 30081), Options::default()).unwrap();
        assert_eq!((&*other.name, other.source), ("squatter", family.of(LOCALHOST)));
        // A refusal of the endpoint comes through.
        let refused = ask(node, Protocol::Udp, localhost(family, 30090), Options::default());
        assert!(matches!(refused, Err(Failure::Refused)), "{refused:?}");
    }
    assert_eq!(answered_by(node, beside), "beside");
    // Nothing is needed for it that would open the loopback network to neighbours.
    assert_eq!(node.sh("cat /proc/sys/net/ipv4/conf/*/route_localnet | sort -u").trim(), "0");

    // Without the Service, the node's own process answers.
    site.apply(NODE);
    let node = &site.world.node;
    for family in Family::BOTH {
        assert_eq!(answered_by(node, localhost(family, 30080)), "squatter");
    }
    site.apply(&web(true));

    // Started without it, the daemon takes its chains away.
    let before = site.world.node.nft_list();
    assert!(before.contains("chain localhost-reply"), "{before}");
    site.args = CLUSTER_CIDR.to_vec();
    let site = site.restart();
    let after = site.world.node.nft_list();
    assert!(!after.contains("localhost"), "{after}");
    for family in Family::BOTH {
        assert_eq!(answered_by(&site.world.node, localhost(family, 30080)), "squatter");
    }
}

/// Long datagrams and segments, with checksums that are computed and verified in software: between
/// namespaces, they are otherwise neither.
#[test]
fn checksums_are_right_on_the_way_to_localhost_and_back() {
    if !require_root() {
        return;
    }
    let site = site(&web(false));
    let node = &site.world.node;
    for namespace in [node, site.backend("a"), site.backend("c")] {
        namespace.sh("for i in $(ip -o link show type veth | sed 's/^[0-9]*: //; s/[@:].*//'); do
                 ethtool -K $i tx off >/dev/null
             done");
    }
    PODS.into_iter().for_each(|name| echo(site.backend(name)));
    for family in Family::BOTH {
        // The kernel verifies short datagrams when they arrive, and others when they are read.
        for length in [1, 76, 77, 1_400, 5_000] {
            let socket = node.run(|| UdpSocket::bind((family.of(LOCALHOST), 0)).unwrap());
            socket.connect(localhost(family, 30060)).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut buffer = [0; 9000];
            for _ in 0..2 {
                socket.send(&vec![b'x'; length]).unwrap();
                let heard = unbroken(|| socket.recv(&mut buffer));
                let heard = heard.unwrap_or_else(|error| panic!("{family:?} {length}: {error}"));
                assert_eq!(heard, length, "{family:?}");
            }
        }
    }
}

/// Starts servers that send back what they get.
fn echo(namespace: &Namespace) {
    for family in Family::BOTH {
        let any = family.of((Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED));
        let socket = namespace.run(|| {
            let domain = if any.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::DGRAM, None).unwrap();
            if any.is_ipv6() {
                socket.set_only_v6(true).unwrap();
            }
            socket.bind(&SocketAddr::new(any, 6060).into()).unwrap();
            UdpSocket::from(socket)
        });
        thread::spawn(move || {
            let mut buffer = [0; 9000];
            // A refusal that an earlier answer met is no reason to end.
            loop {
                if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                    socket.send_to(&buffer[..length], client).ok();
                }
            }
        });
    }
}

#[test]
fn connections_to_localhost_outlive_the_daemon_and_the_service() {
    if !require_root() {
        return;
    }
    let mut site = site(&web(false));
    let _long = PODS.map(|name| LongServer::start(site.backend(name), name, 7070));
    let node = &site.world.node;
    let mut connections = Vec::new();
    for family in Family::BOTH {
        for source in [LOCALHOST, OTHER] {
            let to = localhost(family, 30070);
            connections.push(flow_with(node, to, from(family.of(source))).unwrap());
        }
    }
    let mut exchange = |when: &str| {
        for connection in &mut connections {
            let answer = connection.exchange(when);
            let answer = answer.unwrap_or_else(|failure| panic!("{when}: {failure:?}"));
            assert!(answer.ends_with(when), "{answer}");
        }
    };
    exchange("at first");
    site = site.crash(|_| {});
    exchange("after a crash");
    site = site.restart();
    exchange("after a restart");
    site.apply(NODE);
    exchange("without the Service");
    for family in Family::BOTH {
        let to = localhost(family, 30070);
        let new = ask(&site.world.node, Protocol::Tcp, to, Options::default());
        assert!(matches!(new, Err(Failure::Refused)), "{new:?}");
    }
}

/// A redirection by others between two ports of `localhost` translates the destination only. And
/// with `route_localnet`, others translate both addresses of connections to loopback addresses.
#[test]
fn redirections_of_others_are_left_alone() {
    if !require_root() {
        return;
    }
    let site = site(&web(true));
    let node = &site.world.node;
    node.nft(
        "table inet others {
             chain redirections {
                 type nat hook output priority -100;
                 ip daddr 127.0.0.1 tcp dport 6000 redirect to :6001
                 ip6 daddr ::1 tcp dport 6000 redirect to :6001
                 ip daddr 127.0.0.2 tcp dport 6000 dnat ip to 10.50.1.5:7070
             }
             chain masquerades {
                 type nat hook postrouting priority 100;
                 ip daddr 10.50.1.5 tcp dport 7070 masquerade
             }
         }\n",
    );
    let _long = LongServer::start(node, "own", 6001);
    for family in Family::BOTH {
        let mut connection = flow_with(node, localhost(family, 6000), Options::default()).unwrap();
        for word in ["one", "two"] {
            assert_eq!(connection.exchange(word).unwrap(), format!("own {word}"));
        }
    }
    node.sh("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    let _pod = LongServer::start(site.backend("a"), "a", 7070);
    let beside = SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), 6000);
    let mut connection = flow_with(node, beside, Options::default()).unwrap();
    for word in ["one", "two"] {
        assert_eq!(connection.exchange(word).unwrap(), format!("a {word}"));
    }
}
