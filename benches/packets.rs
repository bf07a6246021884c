//! The costs of the rules for a new connection: `cargo bench --bench packets`.
//!
//! Each row has a client, a node and a Pod, each a network namespace. The rows take turns in short
//! rounds, so that other load on the machine affects all of them alike. Needs root.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod first;
mod kube_proxy;
mod network;
mod table;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use rulec_testkit::require_root;
use socket2::SockRef;

use crate::network::{
    Network, OUTSIDE, POD_CLIENT, PODS, balancer, cluster_ip, node_port, one_rule, yaml,
};
use crate::table::{machine, time};

const ROUNDS: usize = 60;
const BATCH: usize = 250;

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    println!("\n## What the rules cost a new connection\n");
    machine();
    first::first_packets();
    connections();
}

/// Measures and prints the table of whole connections.
fn connections() {
    let mut setups = [
        Setup::by_hand("routed, without any rule", "", PODS[0]),
        Setup::by_hand("**one DNAT rule, written by hand**", &one_rule(), cluster_ip(0)),
        Setup::rulec("1 Service", 1, POD_CLIENT, "", cluster_ip),
        Setup::rulec("1,000 Services", 1_000, POD_CLIENT, "", cluster_ip),
        Setup::rulec("20,000 Services", 20_000, POD_CLIENT, "", cluster_ip),
        Setup::rulec("… with session affinity", 20_000, POD_CLIENT, AFFINITY, cluster_ip),
        Setup::rulec("… by 1,000 node ports, from outside", 20_000, OUTSIDE, "", node_port),
        Setup::rulec(
            "… by load balancers, policy Local, source ranges",
            20_000,
            OUTSIDE,
            RANGES,
            balancer,
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

/// A row: its world, and the measurements.
struct Setup {
    what: &'static str,
    network: Network,
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
        setup.network.node.nft(rules);
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
        setup.network.program("off", (0..services).map(|service| yaml(service, more)));
        setup
    }

    fn new(what: &'static str, from: Ipv4Addr, targets: Vec<SocketAddrV4>) -> Self {
        let network = Network::new(from);
        for pod in PODS {
            let (listener, socket) = network
                .pods
                .run(|| (TcpListener::bind(pod).unwrap(), UdpSocket::bind(pod).unwrap()));
            thread::spawn(move || listener.incoming().for_each(drop));
            thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], peer);
                }
            });
        }
        let (rounds, first) = (Vec::new(), Vec::new());
        Self { what, network, targets, next: 0, rounds, first }
    }

    /// Each connection goes to another Service, whose elements are in no cache of the processor.
    fn round(&mut self) {
        let targets: Vec<SocketAddrV4> = (0..BATCH)
            .map(|number| self.targets[(self.next + number) * 7_919 % self.targets.len()])
            .collect();
        self.next += BATCH;
        let (round, first) = self.network.client.run(|| {
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
