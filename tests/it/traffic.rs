//! The effect of the rules of a running daemon on packets: which backend answers, and which source
//! address it sees.
//!
//! Every test describes a cluster in YAML, as its users would, and then checks only traffic. The
//! world is always the same:
//!
//! | name | where | address |
//! |------|-------|---------|
//! | `a`  | a pod of the node | `10.50.1.5`, `2001:db8:50:1::5` |
//! | `b`  | a pod of the node | `10.50.1.6`, `2001:db8:50:1::6` |
//! | `c`  | a pod of another node | `10.50.2.5`, `2001:db8:50:2::5` |
//! | `d`, `e`, `f` | more pods of the node, only in [`balancing`] | `10.50.1.8` to `.10`, `2001:db8:50:1::8` to `::10` |
//!
//! They listen on 8080 and 9090. The clients are [`Sender`].
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

mod affinity;
mod balancing;
mod changes;
mod churn;
mod cluster_ip;
mod counted;
mod endpoints;
mod external;
mod flows;
mod invalid;
mod local;
mod localhost;
mod node_port_addresses;
mod pods;
mod priority;
mod udp;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use rulec_testkit::{
    Answer, Failure, Family, Namespace, Options, Protocol, Server, World, WorldSpec, address, ask,
    sctp_supported,
};

use crate::daemon::{Daemon, Manifests};

/// The networks of all pods.
const CLUSTER_CIDR: [&str; 2] = ["--cluster-cidr", "10.50.0.0/16,2001:db8:50::/48"];

/// The Node under test as the API server would return it.
const NODE: &str = "---
apiVersion: v1
kind: Node
metadata: {name: na}
status:
  addresses:
  - {type: Hostname, address: na}
  - {type: InternalIP, address: 192.0.2.10}
  - {type: InternalIP, address: '2001:db8::10'}
";

/// TCP and UDP, the protocols of most tests.
const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The ports of an EndpointSlice of most tests.
const HTTP: &str = "[{name: http, port: 8080}]";

/// The time limit for an answer or a refusal; only an overloaded machine exceeds it.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client waits for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);

/// A client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    /// A pod of the node that is not a backend.
    Pod,
    /// The node itself, with its second address as the source, to tell it from the first, to which
    /// packets are masqueraded.
    Host,
    /// A machine outside the cluster.
    Client,
}

impl Sender {
    const ALL: [Self; 3] = [Self::Pod, Self::Host, Self::Client];

    fn ip(self, family: Family) -> IpAddr {
        family.of(match self {
            Self::Pod => address::pod(2),
            Self::Host => address::NODE_SECOND,
            Self::Client => address::CLIENT,
        })
    }

    fn of(self, world: &World) -> &Namespace {
        match self {
            Self::Pod => &world.pod(2).namespace,
            Self::Host => &world.node,
            Self::Client => &world.client,
        }
    }

    fn ask(self, world: &World, protocol: Protocol, to: SocketAddr) -> Result<Answer, Failure> {
        ask(self.of(world), protocol, to, self.options(family_of(to)))
    }

    fn options(self, family: Family) -> Options {
        Options { source: Some(SocketAddr::new(self.ip(family), 0)), timeout: PATIENCE }
    }
}

/// The source address that the backends see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// The client's own address.
    Own,
    /// The node's address.
    Masqueraded,
}

impl Seen {
    fn ip(self, sender: Sender, family: Family) -> IpAddr {
        match self {
            Self::Own => sender.ip(family),
            Self::Masqueraded => family.of(address::NODE),
        }
    }
}

/// A world with its backends, and a daemon on the node.
#[derive(Debug)]
struct Site {
    // Fields are dropped in this order: the daemon must end before its world.
    daemon: Daemon,
    manifests: Manifests,
    args: Vec<&'static str>,
    servers: BTreeMap<&'static str, Server>,
    world: World,
}

impl Site {
    /// Starts everything with the pods' networks as cluster CIDR, and waits until the manifests are
    /// served.
    fn start(yaml: &str) -> Self {
        Self::start_with(&CLUSTER_CIDR, yaml)
    }

    /// Like `start`, with other arguments for the daemon.
    fn start_with(args: &[&'static str], yaml: &str) -> Self {
        let world = World::new(WorldSpec { local_pods: 3, remote_pods: 1 });
        Self::start_in(world, &BACKENDS, args, yaml)
    }

    /// Like `start_with`, in another world and with other backends.
    fn start_in(
        world: World,
        backends: &[&'static str],
        args: &[&'static str],
        yaml: &str,
    ) -> Self {
        let serve = |name: &str| Server::start(namespace_of(&world, name), name, &everywhere());
        let servers = backends.iter().map(|name| (*name, serve(name))).collect();
        let manifests = Manifests::of(yaml);
        let daemon = Daemon::start(&world.node, &manifests.path(), args);
        Self { daemon, manifests, args: args.to_vec(), servers, world }
    }

    /// Replaces the manifests, and waits until the kernel is in sync with them.
    fn apply(&mut self, yaml: &str) {
        self.manifests.write("all.yaml", yaml);
        self.settle();
    }

    /// Waits until the kernel is in sync with the manifests.
    fn settle(&mut self) {
        self.daemon.settle(&self.world.node, &self.manifests.path(), &self.args);
    }

    /// Stops the daemon with SIGTERM, and starts it again.
    fn restart(self) -> Self {
        let Self { daemon, manifests, args, servers, world } = self;
        daemon.stop();
        let daemon = Daemon::start(&world.node, &manifests.path(), &args);
        Self { daemon, manifests, args, servers, world }
    }

    /// Kills the daemon, lets the manifests change, and starts it again.
    fn crash(self, meanwhile: impl FnOnce(&Manifests)) -> Self {
        let Self { daemon, manifests, args, servers, world } = self;
        daemon.kill9();
        meanwhile(&manifests);
        let daemon = Daemon::start(&world.node, &manifests.path(), &args);
        Self { daemon, manifests, args, servers, world }
    }

    fn backend(&self, name: &str) -> &Namespace {
        namespace_of(&self.world, name)
    }

    /// Asserts that exactly these backends answer, and which source address they see.
    ///
    /// A backend is a name, or `name:port` if the port is not 8080.
    #[track_caller]
    fn served(&self, sender: Sender, protocol: Protocol, to: SocketAddr, by: &[&str], seen: Seen) {
        let source = seen.ip(sender, family_of(to));
        let what = format!("{sender:?} -> {protocol} {to}");
        each_of(by, &what, || {
            let answer = sender.ask(&self.world, protocol, to);
            let answer = answer.unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
            assert_eq!(answer.source, source, "{what}: the source is not {seen:?}: {answer:?}");
            answer
        });
    }

    /// Asserts that the clients' connections to every address are refused.
    #[track_caller]
    fn refused(&self, sender: &[Sender], protocols: &[Protocol], to: &[SocketAddr]) {
        self.each(sender, protocols, to, PATIENCE, "refused", |outcome| {
            matches!(outcome, Err(Failure::Refused))
        });
    }

    /// Asserts that there is neither an answer nor a refusal, as if there were no rules.
    #[track_caller]
    fn silent(&self, sender: &[Sender], protocols: &[Protocol], to: &[SocketAddr]) {
        // On a busy machine the gateway may not answer neighbour discovery in time; the sender's
        // own kernel then reports it as unreachable, which our rules have no part in.
        self.each(sender, protocols, to, SILENCE, "silent", |outcome| {
            matches!(outcome, Err(Failure::TimedOut | Failure::Unreachable))
        });
    }

    /// Makes one flow of each kind, all at once, because most of them only wait.
    #[track_caller]
    fn each(
        &self,
        sender: &[Sender],
        protocols: &[Protocol],
        to: &[SocketAddr],
        timeout: Duration,
        wanted: &str,
        is_wanted: fn(&Result<Answer, Failure>) -> bool,
    ) {
        let mut wrong = String::new();
        thread::scope(|scope| {
            let mut flows = Vec::new();
            for &sender in sender {
                for &protocol in protocols {
                    for &to in to {
                        let options = Options { timeout, ..sender.options(family_of(to)) };
                        let flow =
                            scope.spawn(move || ask(sender.of(&self.world), protocol, to, options));
                        flows.push((sender, protocol, to, flow));
                    }
                }
            }
            assert!(!flows.is_empty(), "nothing was asked");
            for (sender, protocol, to, flow) in flows {
                let outcome = flow.join().expect("a flow does not panic");
                if !is_wanted(&outcome) {
                    writeln!(wrong, "{sender:?} -> {protocol} {to}: {outcome:?}")
                        .expect("writing to a string succeeds");
                }
            }
        });
        assert!(wrong.is_empty(), "not {wanted}:\n{wrong}");
    }
}

/// The backends of the world.
const BACKENDS: [&str; 3] = ["a", "b", "c"];

fn namespace_of<'w>(world: &'w World, backend: &str) -> &'w Namespace {
    match backend {
        "a" => &world.pod(0).namespace,
        "b" => &world.pod(1).namespace,
        "c" => &world.remote_pod(0).namespace,
        "d" => &world.pod(3).namespace,
        "e" => &world.pod(4).namespace,
        "f" => &world.pod(5).namespace,
        other => panic!("no backend is named {other}"),
    }
}

/// Returns the ports of the backends.
fn everywhere() -> Vec<(Protocol, u16)> {
    let sctp = sctp_supported().then_some(Protocol::Sctp);
    let protocols = PROTOCOLS.into_iter().chain(sctp);
    protocols.flat_map(|protocol| [(protocol, 8080), (protocol, 9090)]).collect()
}

/// Sends requests until each of the backends has answered, and some more; no other may answer.
#[track_caller]
fn each_of(by: &[&str], what: &str, mut ask: impl FnMut() -> Answer) {
    // One of three backends is not among 120 answers once in 10^21 times.
    const MAX_ANSWERS: usize = 120;
    const MORE: usize = 8;
    let mut missing: Vec<(&str, u16)> = by.iter().map(|backend| backend_port(backend)).collect();
    let all = missing.clone();
    assert!(!all.is_empty(), "at least one backend is expected");
    for _ in 0..MAX_ANSWERS {
        let answer = ask();
        let backend = (answer.name.as_str(), answer.port);
        assert!(all.contains(&backend), "{what}: {answer:?} is not from {by:?}");
        missing.retain(|it| *it != backend);
        if missing.is_empty() {
            break;
        }
    }
    assert!(missing.is_empty(), "{what}: {missing:?} never answered");
    for _ in 0..MORE {
        let answer = ask();
        let backend = (answer.name.as_str(), answer.port);
        assert!(all.contains(&backend), "{what}: {answer:?} is not of {by:?}");
    }
}

fn backend_port(backend: &str) -> (&str, u16) {
    match backend.split_once(':') {
        Some((name, port)) => (name, port.parse().expect("a port is a number")),
        None => (backend, 8080),
    }
}

/// Returns a Service with a cluster address of each family, see [`cluster_ip`]; `spec` is the rest
/// of its spec.
fn service(name: &str, number: u8, spec: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
    clusterIP: 10.90.0.{number}
    clusterIPs: [10.90.0.{number}, 'fd90::{number}']
{}",
        indent(spec)
    )
}

/// Returns the cluster address of a family with a port: `10.90.0.<number>` or `fd90::<number>`.
fn cluster_ip(family: Family, number: u8, port: u16) -> SocketAddr {
    let ip = match family {
        Family::V4 => format!("10.90.0.{number}"),
        Family::V6 => format!("fd90::{number}"),
    };
    SocketAddr::new(ip.parse().expect("it is an address"), port)
}

/// Returns the EndpointSlices of a Service, one for each family, with these backends ready.
fn endpoints(service: &str, ports: &str, backends: &[&str]) -> String {
    let of = |family: Family| -> Vec<String> {
        backends.iter().map(|backend| endpoint(family, backend, "{ready: true}")).collect()
    };
    let v4 = slice(&format!("{service}-v4"), service, "IPv4", ports, &of(Family::V4));
    v4 + &slice(&format!("{service}-v6"), service, "IPv6", ports, &of(Family::V6))
}

/// Returns an entry of `endpoints` in an EndpointSlice.
fn endpoint(family: Family, backend: &str, conditions: &str) -> String {
    let (ips, node) = match backend {
        "a" => (address::pod(0), "na"),
        "b" => (address::pod(1), "na"),
        "c" => (address::remote_pod(0), "nb"),
        "d" => (address::pod(3), "na"),
        "e" => (address::pod(4), "na"),
        "f" => (address::pod(5), "na"),
        other => panic!("no backend is named {other}"),
    };
    let ip = family.of(ips);
    format!("{{addresses: ['{ip}'], nodeName: {node}, conditions: {conditions}}}")
}

/// Returns an EndpointSlice; `ports` and the endpoints are YAML.
fn slice(
    name: &str,
    service: &str,
    address_type: &str,
    ports: &str,
    endpoints: &[impl AsRef<str>],
) -> String {
    let endpoints: Vec<&str> = endpoints.iter().map(AsRef::as_ref).collect();
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {address_type}
ports: {ports}
endpoints: [{}]
",
        endpoints.join(", ")
    )
}

/// Indents a text like the fields of a `spec`, whatever its indentation in the test.
fn indent(text: &str) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let margin = lines().map(|line| line.len() - line.trim_start().len()).min().unwrap_or(0);
    lines().map(|line| format!("    {}\n", &line[margin..])).collect()
}

/// Returns socket addresses with one port and several addresses of one family.
fn at(family: Family, port: u16, addresses: &[(Ipv4Addr, Ipv6Addr)]) -> Vec<SocketAddr> {
    addresses.iter().map(|pair| SocketAddr::new(family.of(*pair), port)).collect()
}

fn family_of(address: SocketAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// Returns the number of packets that a counter of an inet table has seen.
fn packets(namespace: &Namespace, table: &str, counter: &str) -> u64 {
    let listed = namespace.sh(&format!("nft list counter inet {table} {counter}"));
    let mut words = listed.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}
