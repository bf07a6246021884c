//! Tests of deleting conntrack entries in the real kernel: the right ones are deleted, and no
//! others.
//!
//! Real sockets and a handwritten table create the flows; `conntrack` lists them, and inserts flows
//! that sockets would not create.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use rulec_compiler::Flow;
use rulec_compiler::net::Backend;
use rulec_compiler::net::Protocol;
use rulec_sinks::Conntrack;
use rulec_sinks::conntrack::{Filter, FlowKind};
use rulec_testkit::{Connection, Family, Namespace, Options, flow_with, require_root, unbroken};

use crate::support::eventually;

/// The ports of frontends, backends and node ports.
const PORT: u16 = 53;
const TARGET: u16 = 5353;
const NODE_PORT: u16 = 30053;

/// Whether the kernel is asked for as few flows as possible, or for all UDP flows.
const METHODS: [Method; 2] = [Method::Narrow, Method::All];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Narrow,
    All,
}

/// UDP flows to delete.
struct Stale {
    /// The destination addresses of the flows.
    addresses: BTreeSet<IpAddr>,
    port: u16,
    gone: Gone,
}

#[derive(Clone)]
enum Gone {
    Backend(Backend),
    Untranslated,
    AllBut(Arc<BTreeSet<Backend>>),
}

impl Stale {
    fn covers(&self, flow: &Flow) -> bool {
        let backend = Backend { address: flow.answers.ip(), port: port(flow.answers.port()) };
        assert_eq!(flow.protocol, Protocol::Udp);
        flow.destination.port() == self.port
            && self.addresses.contains(&flow.destination.ip())
            && match &self.gone {
                Gone::Backend(gone) => *gone == backend,
                Gone::Untranslated => !flow.is_translated(),
                Gone::AllBut(but) => !but.contains(&backend),
            }
    }
}

/// A namespace in which all addresses are routed to `lo`, for one family.
struct Site {
    namespace: Namespace,
    family: Family,
}

impl Site {
    fn new(family: Family) -> Self {
        let namespace = Namespace::new("conntrack");
        namespace.sh("ip addr add 10.50.1.0/24 dev lo
             ip addr add 192.0.2.10/32 dev lo
             ip addr add 192.0.2.11/32 dev lo
             ip addr add 2001:db8:50:1::b1/128 dev lo nodad
             ip addr add 2001:db8:50:1::b2/128 dev lo nodad
             ip addr add 2001:db8:50:1::c/128 dev lo nodad
             ip addr add 2001:db8::10/128 dev lo nodad
             ip addr add 2001:db8::11/128 dev lo nodad
             ip route add local 10.96.0.0/16 dev lo
             ip route add local 198.51.100.0/24 dev lo
             ip route add local fd00:96::/64 dev lo
             ip route add local 2001:db8:100::/64 dev lo
             # Longer than any test takes.
             echo 3600 > /proc/sys/net/netfilter/nf_conntrack_udp_timeout");
        Self { namespace, family }
    }

    fn of(&self, v4: [u8; 4], v6: &str) -> IpAddr {
        self.family.of((Ipv4Addr::from(v4), v6.parse::<Ipv6Addr>().unwrap()))
    }

    fn client(&self) -> IpAddr {
        self.of([10, 50, 1, 200], "2001:db8:50:1::c")
    }

    fn vip(&self) -> IpAddr {
        self.of([10, 96, 0, 1], "fd00:96::1")
    }

    fn other_vip(&self) -> IpAddr {
        self.of([10, 96, 0, 2], "fd00:96::2")
    }

    fn backend(&self, number: u8) -> IpAddr {
        self.of([10, 50, 1, number], &format!("2001:db8:50:1::b{number}"))
    }

    fn node(&self) -> IpAddr {
        self.of([192, 0, 2, 10], "2001:db8::10")
    }

    fn second_node_address(&self) -> IpAddr {
        self.of([192, 0, 2, 11], "2001:db8::11")
    }

    /// A host outside the cluster.
    fn outside(&self) -> IpAddr {
        self.of([198, 51, 100, 4], "2001:db8:100::4")
    }

    /// Another one, whose packets a foreign rule translates to our backend.
    fn redirected(&self) -> IpAddr {
        self.of([198, 51, 100, 5], "2001:db8:100::5")
    }

    /// Translates packets to these addresses and ports, from these source ports.
    fn translate(&self, rules: &[(&str, SocketAddr, u16, SocketAddr)]) {
        let ip = match self.family {
            Family::V4 => "ip",
            Family::V6 => "ip6",
        };
        let mut script =
            format!("table {ip} t\ndelete table {ip} t\ntable {ip} t {{ chain out {{\n");
        script += "type nat hook output priority -100;\n";
        for (protocol, to, from_port, backend) in rules {
            script += &format!(
                "{ip} daddr {} {protocol} dport {} {protocol} sport {from_port} dnat to {backend}\n",
                to.ip(),
                to.port()
            );
        }
        self.namespace.nft(&(script + "}\n}\n"));
    }

    /// Sends a datagram from a port of the client.
    fn send(&self, from_port: u16, to: IpAddr, port: u16) {
        let from = SocketAddr::new(self.client(), from_port);
        // A process that another test is starting inherits this namespace's previous socket until
        // it calls exec.
        let mut socket = None;
        eventually("the port is free", || {
            socket = self.namespace.run(|| UdpSocket::bind(from)).ok();
            socket.is_some()
        });
        let (socket, to) = (socket.unwrap(), SocketAddr::new(to, port));
        // On a busy machine a flow was sometimes missing; the cause is unknown.
        let flow = format!("udp {from} to {to}, ");
        eventually("the flow is there", || {
            socket.send_to(b"?", to).unwrap();
            self.flows().iter().any(|shown| shown.starts_with(&flow))
        });
    }

    /// Inserts a flow that sockets would not create.
    fn insert(
        &self,
        protocol: &str,
        from: SocketAddr,
        to: SocketAddr,
        reply: SocketAddr,
        more: &str,
    ) {
        self.namespace.sh(&format!(
            "conntrack -I -p {protocol} -t 3600 -s {} --sport {} -d {} --dport {} \
             -r {} --reply-port-src {} -q {} --reply-port-dst {} {more} 2>/dev/null",
            from.ip(),
            from.port(),
            to.ip(),
            to.port(),
            reply.ip(),
            reply.port(),
            from.ip(),
            from.port(),
        ));
    }

    /// Returns all flows of both families: protocol, source, destination, answering address, zone.
    /// The address that the server sees as the client is left out: the kernel changes its port if
    /// two flows would collide.
    fn flows(&self) -> BTreeSet<String> {
        let listing = self.namespace.sh("conntrack -L -f ipv4; conntrack -L -f ipv6");
        let flow = |line: &str| {
            let protocol = line.split_whitespace().next().unwrap();
            let all = |key| line.split_whitespace().filter_map(move |word| word.strip_prefix(key));
            let [from, answers] = [0, 1].map(|nth| {
                let address = all("src=").nth(nth).unwrap().parse().unwrap();
                at(address, all("sport=").nth(nth).unwrap().parse().unwrap())
            });
            let to = all("dst=").next().unwrap().parse().unwrap();
            let to = at(to, all("dport=").next().unwrap().parse().unwrap());
            let zone = all("zone=").next().map(|zone| format!(" zone {zone}"));
            any_flow(protocol, from, to, answers) + &zone.unwrap_or_default()
        };
        listing.lines().map(flow).collect()
    }

    /// Deletes the stale flows, and returns the flows that are gone.
    fn delete(&self, method: Method, stale: &[Stale]) -> BTreeSet<String> {
        let before = self.flows();
        let mut ports = stale.iter().map(|stale| stale.port);
        let first = ports.next().filter(|first| ports.all(|port| port == *first));
        let mut addresses = stale.iter().flat_map(|stale| &stale.addresses);
        let address = addresses.next().filter(|first| addresses.all(|address| address == *first));
        let family = match self.family {
            Family::V4 => rulec_compiler::net::Family::Ipv4,
            Family::V6 => rulec_compiler::net::Family::Ipv6,
        };
        let any = Filter { family, kind: FlowKind::Udp, port: None, destination: None };
        let filter = match (method, address) {
            (Method::All, _) => any,
            (Method::Narrow, Some(IpAddr::V4(address))) => {
                Filter { port: first.map(port), destination: Some(*address), ..any }
            }
            (Method::Narrow, _) => Filter { port: first.map(port), ..any },
        };
        let deleted = self.namespace.run(|| {
            let mut conntrack = Conntrack::open().unwrap();
            conntrack.delete(&filter, |flow| stale.iter().any(|stale| stale.covers(flow))).unwrap()
        });
        let after = self.flows();
        assert!(after.is_subset(&before), "nothing new");
        let gone: BTreeSet<String> = before.difference(&after).cloned().collect();
        assert_eq!(deleted, gone.len() as u64, "{gone:?}");
        gone
    }

    /// Returns the flow of the client's datagram in the form of `flows`.
    fn flow(&self, from_port: u16, to: SocketAddr, reply: SocketAddr) -> String {
        any_flow("udp", SocketAddr::new(self.client(), from_port), to, reply)
    }
}

fn any_flow(protocol: &str, from: SocketAddr, to: SocketAddr, answers: SocketAddr) -> String {
    format!("{protocol} {from} to {to}, answers from {answers}")
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

fn port(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn backend(address: IpAddr) -> Backend {
    Backend { address, port: port(TARGET) }
}

fn address(address: IpAddr, gone: Gone) -> Stale {
    Stale { addresses: BTreeSet::from([address]), port: PORT, gone }
}

fn node_port(addresses: impl IntoIterator<Item = IpAddr>, gone: Gone) -> Stale {
    Stale { addresses: addresses.into_iter().collect(), port: NODE_PORT, gone }
}

fn all_but(backends: impl IntoIterator<Item = Backend>) -> Gone {
    Gone::AllBut(Arc::new(backends.into_iter().collect()))
}

/// Runs a test for every family and method.
fn everywhere(test: impl Fn(&Site, Method)) {
    if !require_root() {
        return;
    }
    for family in Family::BOTH {
        for method in METHODS {
            test(&Site::new(family), method);
        }
    }
}

/// Creates flows of two frontends and a node port, to two backends, and flows that resemble them.
/// The returned values keep the TCP flow open.
fn busy(site: &Site) -> (TcpListener, Connection) {
    let [one, two] = [1, 2].map(|number| at(site.backend(number), TARGET));
    let frontends = [
        at(site.vip(), PORT),
        at(site.other_vip(), PORT),
        at(site.node(), NODE_PORT),
        at(site.second_node_address(), NODE_PORT),
        at(site.redirected(), NODE_PORT),
    ];
    let mut rules = Vec::new();
    for frontend in frontends {
        rules.push(("udp", frontend, 4001, one));
        rules.push(("udp", frontend, 4002, two));
    }
    rules.push(("udp", at(site.vip(), PORT), 4003, at(site.backend(1), 9999)));
    rules.push(("tcp", at(site.vip(), PORT), 4001, one));
    site.translate(&rules);
    for frontend in frontends {
        site.send(4001, frontend.ip(), frontend.port());
        site.send(4002, frontend.ip(), frontend.port());
        // This port is not translated.
        site.send(4004, frontend.ip(), frontend.port());
    }
    site.send(4001, site.outside(), NODE_PORT);
    // Another port of the same backend; another port of the frontend; and a flow without a Service.
    site.send(4003, site.vip(), PORT);
    site.send(4001, site.vip(), 54);
    site.send(4001, site.backend(1), TARGET);
    // Frontend and backend of one flow are client and server of the other.
    let stranger = at(site.client(), 4009);
    site.insert("udp", at(site.vip(), PORT), one, stranger, "");
    site.insert("udp", one, at(site.vip(), PORT), stranger, "");
    // The same addresses and ports as the flow of 4001, in another zone, and with another protocol.
    let client = at(site.client(), 4001);
    site.insert("udp", client, at(site.vip(), PORT), one, "-w 5");
    site.insert(
        "sctp",
        client,
        at(site.vip(), PORT),
        one,
        "--state ESTABLISHED --orig-vtag 1 --reply-vtag 2",
    );
    // A client of the other family, of a frontend with the same port.
    let other = match site.family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    };
    let twin = Site { family: other, namespace: Namespace::new("names-only") };
    let (client, vip, one_of_twin) = (twin.client(), twin.vip(), twin.backend(1));
    site.namespace.sh(&format!(
        "conntrack -I -p udp -t 3600 -s {client} --sport 4001 -d {vip} --dport {PORT} \
         -r {one_of_twin} --reply-port-src {TARGET} -q {client} --reply-port-dst 4001 2>/dev/null"
    ));
    let listener = site.namespace.run(|| TcpListener::bind(one).unwrap());
    let options = Options { source: Some(at(site.client(), 4001)), ..Options::default() };
    let connection = flow_with(&site.namespace, at(site.vip(), PORT), options).unwrap();
    (listener, connection)
}

#[test]
fn only_flows_of_the_removed_backend_are_deleted() {
    everywhere(|site, method| {
        let _tcp = busy(site);
        let tcp = any_flow(
            "tcp",
            at(site.client(), 4001),
            at(site.vip(), PORT),
            at(site.backend(1), TARGET),
        );
        assert!(site.flows().contains(&tcp), "{:#?}", site.flows());
        assert_eq!(site.flows().len(), 25, "{:#?}", site.flows());
        let stale = [address(site.vip(), Gone::Backend(backend(site.backend(1))))];
        let gone = site.delete(method, &stale);
        let pair = site.flow(4001, at(site.vip(), PORT), at(site.backend(1), TARGET));
        assert_eq!(gone, BTreeSet::from([pair]), "{method:?}");
        // A second call finds nothing, which is not an error.
        assert_eq!(site.delete(method, &stale), BTreeSet::new());
    });
}

#[test]
fn node_port_flows_are_deleted_only_at_node_addresses() {
    everywhere(|site, method| {
        let _tcp = busy(site);
        let one = at(site.backend(1), TARGET);
        let gone = Gone::Backend(backend(one.ip()));
        let found = site.delete(method, &[node_port([site.node()], gone.clone())]);
        let flow = |address| site.flow(4001, at(address, NODE_PORT), one);
        assert_eq!(found, BTreeSet::from([flow(site.node())]));

        let addresses = [site.node(), site.second_node_address()];
        let found = site.delete(method, &[node_port(addresses, gone.clone())]);
        assert_eq!(found, BTreeSet::from([flow(site.second_node_address())]));
        assert!(site.flows().contains(&flow(site.redirected())), "somebody else's");

        let found = site.delete(method, &[node_port([], gone)]);
        assert_eq!(found, BTreeSet::new(), "at no address");
    });
}

#[test]
fn untranslated_flows_are_deleted() {
    everywhere(|site, method| {
        let _tcp = busy(site);
        let stale =
            [address(site.vip(), Gone::Untranslated), node_port([site.node()], Gone::Untranslated)];
        let gone = site.delete(method, &stale);
        let flow = |to| site.flow(4004, to, to);
        let expected = [at(site.vip(), PORT), at(site.node(), NODE_PORT)].map(flow);
        assert_eq!(gone, BTreeSet::from(expected));
    });
}

#[test]
fn flows_to_other_than_current_endpoints_are_deleted() {
    everywhere(|site, method| {
        let _tcp = busy(site);
        // Both kinds of frontend in one call. The twin's endpoints are named, too, as for a Service
        // of both families.
        let twin: IpAddr = match site.family {
            Family::V4 => "2001:db8:50:1::b1".parse().unwrap(),
            Family::V6 => "10.50.1.1".parse().unwrap(),
        };
        let now = all_but([backend(site.backend(2)), backend(twin)]);
        let addresses = [site.node(), site.second_node_address()];
        let stale = [address(site.vip(), now.clone()), node_port(addresses, now)];
        let gone = site.delete(method, &stale);
        let one = at(site.backend(1), TARGET);
        let vip = at(site.vip(), PORT);
        let mut expected = BTreeSet::from([
            site.flow(4001, vip, one),
            site.flow(4003, vip, at(site.backend(1), 9999)),
            site.flow(4004, vip, vip),
            // The client is a backend, and the answers come from another host.
            any_flow("udp", one, vip, at(site.client(), 4009)),
        ]);
        for address in addresses {
            let frontend = at(address, NODE_PORT);
            expected.insert(site.flow(4001, frontend, one));
            expected.insert(site.flow(4004, frontend, frontend));
        }
        assert_eq!(gone, expected);
    });
}

#[test]
fn the_next_packet_reaches_another_endpoint() {
    everywhere(|site, method| {
        let vip = at(site.vip(), PORT);
        let servers: Vec<UdpSocket> = [1, 2]
            .map(|number| {
                site.namespace.run(|| {
                    let server = UdpSocket::bind(at(site.backend(number), TARGET)).unwrap();
                    server.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                    server
                })
            })
            .into();
        let lead_to = |number| {
            site.translate(&[("udp", vip, 4001, at(site.backend(number), TARGET))]);
        };
        let client = site.namespace.run(|| UdpSocket::bind(at(site.client(), 4001)).unwrap());
        let reaches = |server: &UdpSocket| {
            client.send_to(b"?", vip).unwrap();
            let (_, from) = unbroken(|| server.recv_from(&mut [0; 8])).unwrap();
            assert_eq!(from, at(site.client(), 4001));
        };
        lead_to(1);
        reaches(&servers[0]);
        // The rules name another backend, but the flow keeps the old one; only deleting it moves
        // the client.
        lead_to(2);
        reaches(&servers[0]);
        let stale = [address(site.vip(), Gone::Backend(backend(site.backend(1))))];
        site.delete(method, &stale);
        reaches(&servers[1]);
        site.delete(method, &stale);
        assert_eq!(site.flows().len(), 1, "the new flow stays");
    });
}

#[test]
fn many_flows_are_deleted_during_the_dump() {
    everywhere(|site, _| {
        let [one, two] = [1, 2].map(|number| at(site.backend(number), TARGET));
        let vip = at(site.vip(), PORT);
        // Even source ports are sent to the first backend, odd ones to the second.
        let ip = if site.family == Family::V4 { "ip" } else { "ip6" };
        site.namespace.nft(&format!(
            "table {ip} t {{ chain out {{ type nat hook output priority -100;
             {ip} daddr {} udp dport {PORT} th sport & 1 == 0 dnat to {one}
             {ip} daddr {} udp dport {PORT} dnat to {two}\n}}\n}}",
            site.vip(),
            site.vip()
        ));
        // More flows than fit in one message of the kernel.
        site.namespace.run(|| {
            for from_port in 10_000..13_000 {
                let socket = UdpSocket::bind(at(site.client(), from_port)).unwrap();
                socket.send_to(b"?", vip).unwrap();
            }
        });
        let stale = [address(site.vip(), Gone::Backend(backend(one.ip())))];
        let gone = site.delete(Method::All, &stale);
        assert_eq!(gone.len(), 1_500);
        let left = site.flows();
        assert_eq!(left.len(), 1_500);
        for from_port in (10_001..13_000).step_by(2) {
            assert!(left.contains(&site.flow(from_port, vip, two)), "{from_port}");
        }
    });
}

#[test]
fn many_pairs_are_deleted_in_one_call() {
    everywhere(|site, method| {
        let _tcp = busy(site);
        // Most of them have no flows, and there are too many to dump the table once for each.
        let stale: Vec<Stale> = (1..=200)
            .map(|number| site.of([10, 50, 1, number], &format!("2001:db8:50:1::b{number:x}")))
            .flat_map(|address| {
                [site.vip(), site.other_vip()]
                    .map(|vip| self::address(vip, Gone::Backend(backend(address))))
            })
            .collect();
        let gone = site.delete(method, &stale);
        let mut expected = BTreeSet::new();
        for vip in [site.vip(), site.other_vip()] {
            for number in [1, 2] {
                let to = at(site.backend(number), TARGET);
                expected.insert(site.flow(4000 + u16::from(number), at(vip, PORT), to));
            }
        }
        assert_eq!(gone, expected);
    });
}

#[test]
fn nothing_is_deleted_without_flows() {
    everywhere(|site, method| {
        assert_eq!(site.delete(method, &[]), BTreeSet::new());
        let stale = [
            address(site.vip(), all_but([])),
            node_port([site.node()], all_but([backend(site.backend(1))])),
        ];
        assert_eq!(site.delete(method, &stale), BTreeSet::new());
    });
}

#[test]
fn only_unanswered_connection_attempts_are_judged() {
    if !require_root() {
        return;
    }
    for family in Family::BOTH {
        let site = Site::new(family);
        let _established = busy(&site);
        let vip = at(site.vip(), PORT);
        let backend = at(site.backend(1), TARGET);
        let from = |port| at(site.client(), port);
        site.insert("tcp", from(5001), vip, backend, "--state SYN_SENT");
        site.insert("tcp", from(5002), vip, vip, "--state SYN_SENT");
        site.insert("tcp", from(5003), vip, backend, "--state SYN_RECV");
        // Picked up midstream: without a reply, and established nevertheless.
        site.insert("tcp", from(5004), vip, backend, "--state ESTABLISHED");
        site.insert("tcp", from(5005), vip, backend, "--state SYN_SENT --status SEEN_REPLY");
        site.insert(
            "sctp",
            from(5006),
            vip,
            backend,
            "--state COOKIE_WAIT --orig-vtag 1 --reply-vtag 2",
        );
        let before = site.flows();
        let family = match family {
            Family::V4 => rulec_compiler::net::Family::Ipv4,
            Family::V6 => rulec_compiler::net::Family::Ipv6,
        };
        let filter = Filter { family, kind: FlowKind::Unanswered, port: None, destination: None };
        let mut asked = BTreeSet::new();
        let deleted = site.namespace.run(|| {
            let mut conntrack = Conntrack::open().unwrap();
            let is_unwanted = |flow: &Flow| {
                assert_ne!(flow.protocol, Protocol::Udp);
                asked.insert((flow.protocol, flow.is_translated()));
                true
            };
            conntrack.delete(&filter, is_unwanted).unwrap()
        });
        let tcp = Protocol::Tcp;
        let expected = BTreeSet::from([(tcp, true), (tcp, false), (Protocol::Sctp, true)]);
        assert_eq!((deleted, asked), (3, expected));
        let gone: BTreeSet<String> = before.difference(&site.flows()).cloned().collect();
        let expected = [
            any_flow("tcp", from(5001), vip, backend),
            any_flow("tcp", from(5002), vip, vip),
            any_flow("sctp", from(5006), vip, backend),
        ];
        assert_eq!(gone, BTreeSet::from(expected));
    }
}
