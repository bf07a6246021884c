//! What the rules cost the first packet of a flow, one way: the time that `send` takes.
//!
//! Between network namespaces, a packet passes the node and arrives at the receiver's socket before
//! `send` returns, so that its time is that of the whole way and of nothing else: no thread has to
//! wake up. What has not arrived by then is not counted.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::kube_proxy;
use crate::network::{
    ELSEWHERE, NODE, Network, POD_CLIENT, PODS, cluster_ip, one_rule, without_endpoints, yaml,
};

const ROUNDS: usize = 400;
const BATCH: usize = 50;
/// The Services that are called.
const SERVED: usize = 5_000;
/// Beside them, some without endpoints, and as many whose load balancer has source ranges.
const OTHERS: usize = 50;
/// The port of what is no Service.
const PORT: u16 = 9_999;

/// A destination: of each flow, by its number.
type Target = fn(usize) -> SocketAddrV4;

const TARGETS: [(&str, Target); 3] = [
    ("a Service", |flow| cluster_ip(flow * 7_919 % SERVED)),
    ("another machine", |_| SocketAddrV4::new(ELSEWHERE, PORT)),
    ("the node itself", |_| SocketAddrV4::new(NODE, PORT)),
];

/// Measures and prints the table.
pub(crate) fn first_packets() {
    let restricted = SERVED..SERVED + OTHERS;
    let unserved = SERVED + OTHERS..SERVED + 2 * OTHERS;
    let mut rules = [
        Rules::new("no rule", |_| ()),
        Rules::new("one DNAT rule", |it| it.node.nft(&one_rule())),
        Rules::new("kube-proxy's shape", |it| {
            it.node.nft(&kube_proxy::table(0..SERVED, unserved.clone(), restricted.clone()));
        }),
        Rules::new("rulec", |it| program(it, "off", &restricted, &unserved)),
        Rules::new("rulec that counts", |it| program(it, "endpoints", &restricted, &unserved)),
    ];
    // Without a rule for it, a Service leads nowhere; and one rule is for one Service.
    rules[0].targets[0] = |_| PODS[0];
    rules[1].targets[0] = |_| cluster_ip(0);
    for _ in 0..ROUNDS {
        for rules in &mut rules {
            rules.round();
        }
    }
    println!(
        "\nThe first packet of a flow, one way, with {SERVED} Services of {} endpoints for TCP and \
         UDP, {OTHERS} without endpoints and {OTHERS} with source ranges: p10 / p50 in ns of {} \
         flows each.\n",
        PODS.len(),
        ROUNDS * BATCH
    );
    let names: Vec<&str> = rules.iter().map(|it| it.name).collect();
    println!("| to | {} | rulec to kube-proxy's shape | counting to not |", names.join(" | "));
    println!("|---|---|---|---|---|---|---|---|");
    for (target, (what, _)) in TARGETS.iter().enumerate() {
        let of = |percent| rules.each_ref().map(|it| it.at(target, percent));
        let (p10, p50) = (of(10), of(50));
        let ratio = |times: &[f64; 5]| times[3] / times[2];
        let counting = |times: &[f64; 5]| times[4] / times[3];
        let cells: Vec<String> =
            p10.iter().zip(&p50).map(|(p10, p50)| format!("{p10:.0} / {p50:.0}")).collect();
        println!(
            "| {what} | {} | **{:.2}** / {:.2} | **{:.3}** / {:.3} |",
            cells.join(" | "),
            ratio(&p10),
            ratio(&p50),
            counting(&p10),
            counting(&p50)
        );
    }
}

/// Makes the rules of all Services.
fn program(network: &Network, traffic: &str, restricted: &Range<usize>, unserved: &Range<usize>) {
    const RANGES: &str = "loadBalancerSourceRanges: [203.0.113.0/24, 198.18.0.0/15]";
    let served = (0..SERVED).map(|service| yaml(service, ""));
    let restricted = restricted.clone().map(|service| yaml(service, RANGES));
    let unserved = unserved.clone().map(|service| without_endpoints(service, ""));
    network.program(traffic, served.chain(restricted).chain(unserved));
}

/// A network with one set of rules.
struct Rules {
    name: &'static str,
    network: Network,
    receivers: Vec<UdpSocket>,
    targets: [Target; 3],
    flows: usize,
    /// The times of each target.
    times: [Vec<Duration>; 3],
}

impl Rules {
    fn new(name: &'static str, load: impl FnOnce(&Network)) -> Self {
        let network = Network::new(POD_CLIENT);
        load(&network);
        let elsewhere = SocketAddrV4::new(ELSEWHERE, PORT);
        let bind = |addresses: &[SocketAddrV4]| -> Vec<UdpSocket> {
            let all = addresses.iter().map(|it| UdpSocket::bind(it).unwrap());
            all.inspect(|it| it.set_nonblocking(true).unwrap()).collect()
        };
        let mut receivers = network.pods.run(|| bind(&[&PODS[..], &[elsewhere]].concat()));
        receivers.extend(network.node.run(|| bind(&[SocketAddrV4::new(NODE, PORT)])));
        let targets = TARGETS.map(|(_, target)| target);
        Self { name, network, receivers, targets, flows: 0, times: Default::default() }
    }

    fn round(&mut self) {
        for (target, times) in self.targets.iter().zip(&mut self.times) {
            let first = self.flows;
            self.flows += BATCH;
            let receivers = &self.receivers;
            times.extend(self.network.client.run(|| {
                let flows = first..first + BATCH;
                flows.filter_map(|flow| send(target(flow), receivers)).collect::<Vec<_>>()
            }));
        }
    }

    /// Returns a percentile of the times to a target, in ns.
    fn at(&self, target: usize, percent: usize) -> f64 {
        let mut times = self.times[target].clone();
        assert!(times.len() > ROUNDS * BATCH / 2, "{}: most packets arrive in time", self.name);
        times.sort_unstable();
        times[times.len() * percent / 100].as_secs_f64() * 1e9
    }
}

/// Returns how long it takes to send the first packet of a flow, if it has arrived by then.
fn send(target: SocketAddrV4, receivers: &[UdpSocket]) -> Option<Duration> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let started = Instant::now();
    socket.send_to(b"?", target).unwrap();
    let time = started.elapsed();
    let mut arrived = 0;
    for receiver in receivers {
        match receiver.recv(&mut [0; 8]) {
            Ok(_) => arrived += 1,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{target}: {error}"),
        }
    }
    (arrived == 1).then_some(time)
}
