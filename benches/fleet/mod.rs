//! Many nodes that follow one relay: what it costs, and whether they ever lose anything.
//!
//! ```text
//!  API server (a thread) ──▶ rulec relay (a process) ──▶ nodes (one thread, no kernels)
//! ```
//!
//! Call it inside a network namespace of its own: ports are fixed, and bytes are counted.
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod certificates;
mod cluster;
mod nodes;
mod relay;

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::task::LocalSet;
use tokio::time::sleep;

use cluster::Cluster;
use nodes::{Fleet, until};
use relay::{RelayProcess, Traffic, memory, processor, traffic};

/// How many there are, and how long things take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: usize,
    pub(crate) services: usize,
    /// Endpoints of each Service, at most 16.
    pub(crate) endpoints: usize,
    pub(crate) changes: usize,
    /// How long the API server is away.
    pub(crate) away: Duration,
    /// How long a relay is left alone before its memory is read.
    pub(crate) rest: Duration,
}

/// What was measured, in order: what it is, and the figure.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<(&'static str, String)>);

impl Report {
    fn add(&mut self, what: &'static str, figure: String) {
        self.0.push((what, figure));
    }

    /// Returns the figures.
    pub(crate) fn rows(&self) -> &[(&'static str, String)] {
        &self.0
    }
}

/// Measures a fleet with or without TLS.
///
/// # Panics
///
/// If a node ever loses a Service or gets an older one, if anything is sent to a node that has it, or
/// if the API server sees more than one watch of a kind.
pub(crate) fn measure(size: Size, is_secure: bool) -> Report {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // The relay inherits it.
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let cluster = Cluster::start(size);
    if is_secure {
        certificates::write(cluster.directory.path(), size.nodes);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bench = Bench { cluster, size, is_secure, report: Report::default() };
    LocalSet::new().block_on(&runtime, bench.run())
}

struct Bench {
    cluster: Cluster,
    size: Size,
    is_secure: bool,
    report: Report,
}

/// What a relay needs before a node connects.
#[derive(Clone, Copy)]
struct Empty {
    memory: u64,
    processor: Duration,
}

impl Bench {
    async fn run(mut self) -> Report {
        self.direct_watches().await;
        let (relay, empty) = self.relay_alone().await;
        let fleet = self.first_start(&relay, empty).await;
        self.changes(&relay, &fleet).await;
        self.api_server_away(&relay, &fleet).await;
        let relay = self.killed_under_change(relay, &fleet).await;
        self.all_return(relay, &fleet, empty).await;
        let (lost, older) = fleet.faults();
        self.report.add(
            "at any node at any time: objects lost, older objects",
            format!("**{lost}** and **{older}**"),
        );
        assert_eq!((lost, older), (0, 0), "no node loses a Service or serves an older one");
        self.report
    }

    /// Starts a relay, and waits until it serves.
    async fn start(&self) -> RelayProcess {
        let relay = RelayProcess::start(&self.cluster, self.is_secure);
        until("the relay serves", || relay.is_ready()).await;
        relay
    }

    fn api(&self) -> Traffic {
        traffic(self.cluster.server.address().port())
    }

    /// What the API server sends to one client at its start, while there is one node.
    async fn direct_watches(&mut self) {
        let relay = self.start().await;
        until("the watches are open", || self.cluster.watches() == [1; 4]).await;
        let bytes = self.api().sent;
        let nodes = self.size.nodes as u64;
        self.report.add(
            "on paper: a start of all nodes at the API server itself",
            format!("{} each, {} together", data(bytes), data(bytes * nodes)),
        );
        relay.kill();
        until("its watches are closed", || self.cluster.watches() == [0; 4]).await;
        self.cluster.add_nodes();
    }

    async fn relay_alone(&mut self) -> (RelayProcess, Empty) {
        let started = Instant::now();
        let relay = self.start().await;
        let time = started.elapsed();
        sleep(self.size.rest).await;
        let empty = Empty { memory: relay.memory(), processor: relay.processor() };
        self.report.add(
            "a relay without nodes: start, memory",
            format!("{}, {}", millis(time), data(empty.memory)),
        );
        (relay, empty)
    }

    async fn first_start(&mut self, relay: &RelayProcess, empty: Empty) -> Fleet {
        let before = (own_memory(), own_processor());
        let started = Instant::now();
        let fleet = Fleet::start(self.cluster.directory.path(), self.size, self.is_secure);
        let serials = self.cluster.serials();
        until("all nodes have everything", || {
            fleet.are_current(&vec![0; self.size.nodes]) && fleet.hold(&serials)
        })
        .await;
        let time = started.elapsed();
        let spent = (relay.processor() - empty.processor, own_processor() - before.1);
        self.report.add(
            "all nodes start at once, and know nothing: until all are current",
            format!("**{}**; {}; {} failures", millis(time), both(spent), fleet.errors()),
        );
        let bytes = traffic(18000);
        self.report.add("… sent to a node, received from it", self.each(bytes));
        sleep(self.size.rest).await;
        let more = relay.memory().saturating_sub(empty.memory);
        let most = relay.most_memory().saturating_sub(empty.memory);
        self.report.add(
            "… memory of the relay for each node; at the most, during the start",
            format!("**{}**; {}", self.share(more), self.share(most)),
        );
        let own = own_memory().saturating_sub(before.0);
        self.report.add("… memory of a node, beside its kernel and program", self.share(own));
        fleet
    }

    async fn changes(&mut self, relay: &RelayProcess, fleet: &Fleet) {
        let (mut each, mut all) = (Vec::new(), Vec::new());
        let processors = (relay.processor(), own_processor());
        let (api, nodes) = (self.api().sent, traffic(18000));
        for round in 0..self.size.changes {
            let service = round * 7 % self.size.services;
            let serial = self.cluster.next(service);
            let times = fleet.wave(service, serial, || self.cluster.change(service)).await;
            all.push(*times.iter().max().unwrap());
            each.extend(times);
            // The answers of the nodes belong to the change.
            sleep(Duration::from_millis(50)).await;
        }
        let count = self.size.changes as u32;
        let spent =
            ((relay.processor() - processors.0) / count, (own_processor() - processors.1) / count);
        self.report.add("one endpoint's readiness → a node", spread(each));
        self.report.add("one endpoint's readiness → all nodes", spread(all));
        self.report.add("… processor time", both(spent));
        let api = self.api().sent.saturating_sub(api) / u64::from(count);
        let now = traffic(18000);
        let of = |now: u64, before: u64| now.saturating_sub(before) / u64::from(count);
        let sent = of(now.sent, nodes.sent);
        let received = of(now.received, nodes.received);
        self.report.add(
            "… sent to all nodes, received from them",
            format!("{}, {}", data(sent), data(received)),
        );
        self.report.add(
            "on paper: the same change from the API server itself",
            format!(
                "{} each, {} together: **{:.1} times** as much",
                data(api),
                data(api * self.size.nodes as u64),
                (api * self.size.nodes as u64) as f64 / sent as f64
            ),
        );
        let watches = self.cluster.watches();
        self.report.add("watches that the API server serves, of each kind", format!("{watches:?}"));
        assert_eq!(watches, [1; 4], "one watch for each kind");
    }

    async fn api_server_away(&mut self, relay: &RelayProcess, fleet: &Fleet) {
        let memory = relay.memory();
        let before = (fleet.errors(), fleet.updates());
        self.cluster.server.down();
        sleep(self.size.away).await;
        let memory = relay.memory().saturating_sub(memory);
        // After 10 s, nodes are told that the relay is cut off.
        let after = (fleet.errors(), fleet.updates());
        self.report.add(
            "the API server is away: more memory of the relay, failures and updates of nodes",
            format!(
                "{} after {}, **{}** and **{}**",
                data(memory),
                millis(self.size.away),
                after.0 - before.0,
                after.1 - before.1
            ),
        );
        self.cluster.server.up();
        let service = self.size.services - 1;
        let serial = self.cluster.next(service);
        let times = fleet.wave(service, serial, || self.cluster.change(service)).await;
        let last = times.into_iter().max().unwrap();
        self.report.add("… it is back with a change → all nodes", millis(last));
    }

    /// Kills the relay and starts another one at once, while changes go on.
    async fn killed_under_change(&mut self, relay: RelayProcess, fleet: &Fleet) -> RelayProcess {
        let connections = fleet.connections();
        let change = async |round: usize| {
            self.cluster.change(round * 3 % self.size.services);
            sleep(Duration::from_millis(20)).await;
        };
        for round in 0..10 {
            change(round).await;
        }
        let killed = Instant::now();
        relay.kill();
        let relay = RelayProcess::start(&self.cluster, self.is_secure);
        for round in 10..40 {
            change(round).await;
        }
        until("the relay serves", || relay.is_ready()).await;
        let ready = killed.elapsed();
        let serials = self.cluster.serials();
        let is_settled = || fleet.are_current(&connections) && fleet.hold(&serials);
        until("all nodes have returned", is_settled).await;
        self.report.add(
            "the relay is killed under change, another one starts: until all nodes are current",
            format!("**{}**, of which {} without a relay", millis(killed.elapsed()), millis(ready)),
        );
        relay
    }

    /// Kills the relay while nothing changes, so that all nodes come to the next one.
    async fn all_return(&mut self, relay: RelayProcess, fleet: &Fleet, empty: Empty) {
        let (connections, errors) = (fleet.connections(), fleet.errors());
        let own = own_processor();
        let killed = Instant::now();
        relay.kill();
        let relay = self.start().await;
        let ready = killed.elapsed();
        until("all nodes have returned", || fleet.are_current(&connections)).await;
        let time = killed.elapsed();
        let spent = (relay.processor().saturating_sub(empty.processor), own_processor() - own);
        self.report.add(
            "all nodes come to a new relay at once, nothing has changed: until all are current",
            format!(
                "**{}**, of which {} without a relay; {}",
                millis(time),
                millis(ready),
                both(spent)
            ),
        );
        let failures = (fleet.errors() - errors) as f64 / self.size.nodes as f64;
        self.report.add("… failures of a node, until then", format!("{failures:.1}"));
        let resources = relay.metric("rulec_relay_resources_total");
        self.report.add("… resources sent", format!("**{resources}**"));
        assert_eq!(resources, 0, "all nodes have everything");
        self.report.add("… sent to a node, received from it", self.each(traffic(18000)));
        sleep(self.size.rest).await;
        let more = relay.memory().saturating_sub(empty.memory);
        self.report.add("… memory of the relay for each node", format!("**{}**", self.share(more)));
        assert_eq!(relay.metric("rulec_relay_nodes"), self.size.nodes as u64);
    }

    fn share(&self, bytes: u64) -> String {
        data(bytes / self.size.nodes as u64)
    }

    fn each(&self, traffic: Traffic) -> String {
        let connections = traffic.connections.max(1);
        format!("{}, {}", data(traffic.sent / connections), data(traffic.received / connections))
    }
}

fn own_memory() -> u64 {
    memory(Path::new("/proc/self"))
}

/// Returns the processor time of this thread, which is that of all nodes.
fn own_processor() -> Duration {
    processor(Path::new("/proc/thread-self"))
}

fn both((relay, nodes): (Duration, Duration)) -> String {
    format!("processor time {} of the relay, {} of all nodes", millis(relay), millis(nodes))
}

/// Returns the median, the 99th percentile, and the most.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() as f64 * share) as usize).min(times.len() - 1)];
    let all = [at(0.5), at(0.99), at(1.0)].map(millis);
    format!("{} (p50), **{}** (p99), {} (most)", all[0], all[1], all[2])
}

fn millis(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}

fn data(bytes: u64) -> String {
    match bytes as f64 {
        bytes if bytes < 1e3 => format!("{bytes} B"),
        bytes if bytes < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.1} GB", bytes / 1e9),
    }
}
