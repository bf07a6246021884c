//! The costs of the rules for a new connection: `cargo bench --bench packets`.
//!
//! Each row has a client, a node and a Pod, each a network namespace. The rows take turns in short
//! rounds, so that other load on the machine affects all of them alike. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod table;

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use rulec_testkit::{Namespace, require_root};
use socket2::SockRef;

use crate::table::{machine, time, wait_for};

const ROUNDS: usize = 60;
const BATCH: usize = 250;

/// A client that is a Pod of the node: its connections are not masqueraded.
const POD_CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 9);
/// A client outside the cluster.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const POD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 2, 5), 8080);
const NODE_PORTS: u16 = 30_000;

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    println!("\n## What the rules cost a new connection\n");
    machine();
    let mut setups = [
        Setup::by_hand("routed, without any rule", "", POD),
        Setup::by_hand("**one DNAT rule, written by hand**", &rule(), cluster_ip(0)),
        Setup::rulec("1 Service", 1, POD_CLIENT, "", cluster_ip),
        Setup::rulec("1,000 Services", 1_000, POD_CLIENT, "", cluster_ip),
        Setup::rulec("20,000 Services", 20_000, POD_CLIENT, "", cluster_ip),
        Setup::rulec("… with session affinity", 20_000, POD_CLIENT, AFFINITY, cluster_ip),
        Setup::rulec("… by 1,000 node ports, from outside", 20_000, OUTSIDE, "", |service| {
            SocketAddrV4::new(NODE, NODE_PORTS + u16::try_from(service % 1_000).unwrap())
        }),
        Setup::rulec(
            "… by load balancers, policy Local, source ranges",
            20_000,
            OUTSIDE,
            RANGES,
            |service| SocketAddrV4::new(balancer(service), 80),
        ),
    ];
    for _ in 0..ROUNDS {
        for setup in &mut setups {
            setup.round();
        }
    }
    println!(
        "\n| a new connection meets | connections a second | against one rule | first packet, there \
         and back |\n|---|---|---|---|"
    );
    let floor = setups[1].connections_a_second();
    for setup in &mut setups {
        let rate = setup.connections_a_second();
        setup.first.sort_unstable();
        let at = |percent: usize| time(setup.first[setup.first.len() * percent / 100]);
        println!(
            "| {} | **{rate:.0}** | {:.2} | **{}** (p50), {} (p90), {} (p99) |",
            setup.what,
            rate / floor,
            at(50),
            at(90),
            at(99)
        );
    }
}

const AFFINITY: &str = "sessionAffinity: ClientIP";

const RANGES: &str =
    "externalTrafficPolicy: Local, loadBalancerSourceRanges: [203.0.113.0/24, 198.18.0.0/15]";

fn rule() -> String {
    format!(
        "table ip floor {{
             chain prerouting {{
                 type nat hook prerouting priority dstnat
                 ip daddr {} meta l4proto {{ tcp, udp }} th dport {} dnat to {POD}
             }}
         }}",
        cluster_ip(0).ip(),
        cluster_ip(0).port(),
    )
}

/// A row: its world, and the measurements.
struct Setup {
    what: &'static str,
    client: Namespace,
    node: Namespace,
    _pod: Namespace,
    /// The destinations of connections, used one after the other.
    targets: Vec<SocketAddrV4>,
    next: usize,
    /// The duration of each round.
    rounds: Vec<Duration>,
    /// The times from the first packet of a UDP flow to the answer.
    first: Vec<Duration>,
}

impl Setup {
    fn by_hand(what: &'static str, rules: &str, target: SocketAddrV4) -> Self {
        let setup = Self::new(what, POD_CLIENT, vec![target]);
        setup.node.nft(rules);
        setup
    }

    fn rulec(
        what: &'static str,
        services: usize,
        client: Ipv4Addr,
        more: &str,
        target: fn(usize) -> SocketAddrV4,
    ) -> Self {
        let setup = Self::new(what, client, (0..services).map(target).collect());
        let directory = tempfile::tempdir().unwrap();
        let [manifests, log] = ["manifests", "log"].map(|name| directory.path().join(name));
        fs::create_dir(&manifests).unwrap();
        for service in 0..services {
            fs::write(manifests.join(format!("{service}.yaml")), yaml(service, more)).unwrap();
        }
        let args = ["run", "--node-name", "na", "--cluster-cidr", "10.0.0.0/10"];
        let mut command = setup.node.command(env!("CARGO_BIN_EXE_rulec"), args);
        command.args(["--nodeport-addresses", "192.0.2.0/24", "--manifests"]).arg(&manifests);
        let mut daemon = command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        wait_for(&log, "in sync with all sources", 1);
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains("ERROR"), "{said}");
        // The rules stay, and the daemon does not run while the rows take turns.
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        setup
    }

    fn new(what: &'static str, from: Ipv4Addr, targets: Vec<SocketAddrV4>) -> Self {
        let [client, node, pod] = ["client", "node", "pod"].map(Namespace::new);
        for (other, address) in [(&client, from), (&pod, *POD.ip())] {
            let label = if address == from { "client" } else { "pod" };
            node.sh(&format!(
                "ip link add {label} type veth peer name eth0 netns {}
                 ip link set {label} up
                 ip addr add 169.254.1.1/32 dev {label}",
                other.name()
            ));
            other.sh(&format!(
                "ip link set eth0 up
                 ip addr add {address}/32 dev eth0
                 ip route add 169.254.1.1 dev eth0
                 ip route add default via 169.254.1.1 src {address}"
            ));
            node.sh(&format!("ip route add {address} dev {label}"));
        }
        // Entries of finished connections expire soon, so that all rounds are alike.
        node.sh(&format!(
            "ip addr add {NODE}/32 dev lo
             sysctl -qw net.ipv4.ip_forward=1
             sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=1
             sysctl -qw net.netfilter.nf_conntrack_udp_timeout=1
             sysctl -qw net.netfilter.nf_conntrack_udp_timeout_stream=1"
        ));
        let (listener, socket) =
            pod.run(|| (TcpListener::bind(POD).unwrap(), UdpSocket::bind(POD).unwrap()));
        thread::spawn(move || listener.incoming().for_each(drop));
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], peer);
            }
        });
        let (rounds, first) = (Vec::new(), Vec::new());
        Self { what, client, node, _pod: pod, targets, next: 0, rounds, first }
    }

    /// Each connection goes to another Service, whose elements are in no cache of the processor.
    fn round(&mut self) {
        let targets: Vec<SocketAddrV4> = (0..BATCH)
            .map(|number| self.targets[(self.next + number) * 7_919 % self.targets.len()])
            .collect();
        self.next += BATCH;
        let (round, first) = self.client.run(|| {
            let started = Instant::now();
            targets.iter().copied().for_each(connect);
            (started.elapsed(), targets.iter().copied().map(ask).collect::<Vec<_>>())
        });
        self.rounds.push(round);
        self.first.extend(first);
    }

    /// Returns the rate in the median round.
    fn connections_a_second(&mut self) -> f64 {
        self.rounds.sort_unstable();
        BATCH as f64 / self.rounds[self.rounds.len() / 2].as_secs_f64()
    }
}

/// Opens and closes a connection.
fn connect(target: SocketAddrV4) {
    let stream = TcpStream::connect_timeout(&target.into(), Duration::from_secs(5))
        .unwrap_or_else(|error| panic!("{target}: {error}"));
    // A reset leaves no TIME_WAIT state at either end.
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Returns the time until the first packet of a flow is answered.
fn ask(target: SocketAddrV4) -> Duration {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let started = Instant::now();
    socket.send_to(b"?", target).unwrap();
    loop {
        match socket.recv(&mut [0; 64]) {
            Ok(_) => return started.elapsed(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("{target}: {error}"),
        }
    }
}

fn cluster_ip(service: usize) -> SocketAddrV4 {
    SocketAddrV4::new(offset(Ipv4Addr::new(10, 128, 0, 0), service), 80)
}

fn balancer(service: usize) -> Ipv4Addr {
    offset(Ipv4Addr::new(198, 51, 0, 0), service)
}

fn offset(base: Ipv4Addr, number: usize) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(base) + u32::try_from(number).unwrap())
}

/// Returns a Service and its slice as YAML, for TCP and UDP, with more fields of its spec.
fn yaml(service: usize, more: &str) -> String {
    let (address, balancer) = (cluster_ip(service).ip().to_owned(), balancer(service));
    let node_port = match u16::try_from(service) {
        Ok(number) if number < 1_000 => format!(", nodePort: {}", NODE_PORTS + number),
        Ok(_) | Err(_) => String::new(),
    };
    let mut text = format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: service-{service}}}\n\
         spec: {{type: LoadBalancer, clusterIP: {address}, {more}{}ports: [",
        if more.is_empty() { "" } else { ", " }
    );
    for protocol in ["TCP", "UDP"] {
        let name = protocol.to_lowercase();
        let port = format!("name: {name}, protocol: {protocol}, port: 80{node_port}");
        write!(text, "{{{port}}}, ").unwrap();
    }
    write!(
        text,
        "]}}\nstatus: {{loadBalancer: {{ingress: [{{ip: {balancer}}}]}}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: service-{service}-a, labels: {{kubernetes.io/service-name: service-{service}}}}}\n\
         addressType: IPv4\n\
         ports: [{{name: tcp, port: {0}, protocol: TCP}}, {{name: udp, port: {0}, protocol: UDP}}]\n\
         endpoints: [{{addresses: [{1}], nodeName: na, conditions: {{ready: true}}}}]\n",
        POD.port(),
        POD.ip()
    )
    .unwrap();
    text
}
