//! The figures of the node daemon with an API server, as a table: `cargo bench --bench api`.
//!
//! The server is the one of the tests, in this process, and then a real one if one is named
//! (`rulec_apiserver::Assets`). It runs on the same cores as the daemon, so that the latencies
//! include its work. Needs root; everything happens in separate network namespaces.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod table;

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rulec::daemon::run::Daemon;
use rulec::daemon::sink_thread::SinkThread;
use rulec_apiserver::{
    ApiServer, Assets, Credential, RealServer, Server, Settings as ServerSettings,
};
use rulec_compiler::name::NodeName;
use rulec_compiler::{Origin, Settings};
use rulec_engine::{Engine, Periods};
use rulec_sinks::nft::Ownership;
use rulec_sources::{ApiAccess, ApiOptions, ApiSource, Pace};
use rulec_testkit::{Namespace, require_root};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::table::{memory, percentiles, row, time, wait_for};

const NODE: &str = "na";

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    println!("\n## Figures with an API server");
    // `cargo bench --bench api -- state` runs only the last part.
    if std::env::args().any(|argument| argument == "state") {
        println!("\n| what | setup | figure |\n|---|---|---|");
        state(20_000, 10);
        return;
    }
    measure::<ApiServer>();
    if Assets::named().is_some() {
        measure::<RealServer>();
    }
}

fn measure<S: Server + 'static>() {
    let namespace = Namespace::new("bench");
    let version = namespace.run(S::start).git_version();
    println!("\nThe server: {version}.\n\n| what | setup | figure |\n|---|---|---|");
    for services in [1_000, 10_000, 45_000] {
        event_to_acknowledgement::<S>(services);
    }
    // With streaming lists, and with one compressed answer per list from the server's cache.
    process::<S>(20_000, 10, true);
    process::<S>(20_000, 10, false);
    state(20_000, 10);
}

/// A server with a number of Services.
struct Cluster<S> {
    server: S,
    directory: tempfile::TempDir,
}

impl<S: Server> Cluster<S> {
    fn start(services: usize, endpoints: usize, streaming_lists: bool) -> Self {
        let server = S::with(ServerSettings { streaming_lists, ..ServerSettings::default() });
        let cluster = Self { server, directory: tempfile::tempdir().unwrap() };
        cluster.server.write_kubeconfig(&cluster.kubeconfig(), &Credential::Token("token".into()));
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
        });
        cluster.server.apply(&node);
        let objects = |number| [service(number), slice(number, endpoints)];
        cluster.server.apply_all(&(0..services).flat_map(objects).collect::<Vec<_>>());
        cluster
    }

    fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }
}

/// Measures one change at a time, from the write to the server to its answer, and to the kernel's
/// acknowledgement.
fn event_to_acknowledgement<S: Server + 'static>(services: usize) {
    let namespace = Namespace::new("bench");
    namespace.sh("ip link set lo up");
    let (answers, times) = namespace.run(|| {
        let cluster = Arc::new(Cluster::<S>::start(services, 2, true));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = Settings::new(NodeName::from(NODE));
            let mark = settings.masquerade_bit.mark();
            let sink = SinkThread::start(Ownership::Exclusive, mark, None).unwrap();
            let engine = Engine::new(settings, Periods::default(), Instant::now());
            let mut daemon = Daemon::new(engine, sink, [Origin::Api]);
            let (acknowledged, mut acknowledgements) = mpsc::unbounded_channel();
            daemon.observe(acknowledged);
            let (out, updates) = mpsc::channel(256);
            let access = ApiAccess { kubeconfig: Some(cluster.kubeconfig()), master: None };
            let source = ApiSource::new(ApiOptions::new(access, NodeName::from(NODE)));
            let source = tokio::spawn(source.run(out));
            let daemon =
                tokio::spawn(async move { daemon.run(updates, std::future::pending()).await });
            // The first install may take several batches: an address, a frontend and two endpoints
            // for each Service.
            let mut done = 0;
            while done < services * 4 {
                done = acknowledgements.recv().await.unwrap().operations;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
            while acknowledgements.try_recv().is_ok() {}
            let (mut answers, mut times) = (Vec::new(), Vec::new());
            for round in 0..1_000 {
                let (number, endpoints) =
                    (round / 2 * 7 % services, if round % 2 == 0 { 3 } else { 2 });
                let object = slice(number, endpoints);
                tokio::time::sleep(Duration::from_millis(5)).await;
                // Late acknowledgements of the previous round must not count for this one.
                while acknowledgements.try_recv().is_ok() {}
                let cluster = Arc::clone(&cluster);
                let started = Instant::now();
                let written = tokio::task::spawn_blocking(move || {
                    cluster.server.apply(&object);
                    started.elapsed()
                });
                acknowledgements.recv().await.unwrap();
                times.push(started.elapsed());
                answers.push(written.await.unwrap());
            }
            daemon.abort();
            source.abort();
            (answers, times)
        })
    });
    let setup = format!("{services} services × 2");
    row("written to the server → its answer", &setup, &percentiles(answers));
    row("written to the server → kernel ACK", &setup, &percentiles(times));
}

/// Measures the real process: start, memory, and its work when nothing changes.
fn process<S: Server>(services: usize, endpoints: usize, streaming: bool) {
    let namespace = Namespace::new("bench");
    namespace.sh("ip link set lo up");
    let cluster = namespace.run(|| Cluster::<S>::start(services, endpoints, streaming));
    let received = || namespace.run(received);
    let before = received();
    let log = cluster.directory.path().join("log");
    let started = Instant::now();
    let mut child = namespace
        .command(env!("CARGO_BIN_EXE_rulec"), ["run", "--node-name", NODE, "--kubeconfig"])
        .env("RULEC_LOG", "info,rulec_engine=debug")
        .env("RULEC_SOCKET", "")
        .arg(cluster.kubeconfig())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    wait_for(&log, "in sync with all sources", 1);
    let way = if streaming { "streaming lists" } else { "lists from the cache" };
    let setup = format!("{services} × {endpoints}, {way}");
    row("process start → last ACK", &setup, &time(started.elapsed()));
    let seconds = cpu_seconds(&child);
    let bytes = (received() - before) as f64 / 1e6;
    let figure = format!("**{bytes:.1} MB** over the network, **{seconds:.2} s** of a core");
    row("what a start costs", &setup, &figure);
    sleep(Duration::from_secs(20));
    row("memory", &setup, &memory(&child));
    if !streaming {
        // After the start, there is no difference to streaming lists.
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }

    let committed = || fs::read_to_string(&log).unwrap().matches(" committed ").count();
    let before = committed();
    let idle = share_of_a_core(&child, || sleep(Duration::from_secs(20)));
    row("CPU while idle", &setup, &format!("**{idle:.2} %** of a core"));
    let noisy = share_of_a_core(&child, || {
        let started = Instant::now();
        for update in 0..2_000_u32 {
            let mut object = slice(update as usize % services, endpoints);
            object["metadata"]["annotations"] = json!({"update": update.to_string()});
            cluster.server.apply(&object);
            sleep(
                (started + Duration::from_millis(10) * update)
                    .saturating_duration_since(Instant::now()),
            );
        }
    });
    let writes = committed() - before;
    let figure = format!("**{noisy:.2} %** of a core, **{writes} kernel writes**");
    row("CPU under 100 no-op updates a second", &setup, &figure);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Measures the costs of the state on disk, and its benefit.
fn state(services: usize, endpoints: usize) {
    let namespace = Namespace::new("bench");
    namespace.sh("ip link set lo up");
    let cluster = namespace.run(|| Cluster::<ApiServer>::start(services, endpoints, true));
    let setup = format!("{services} × {endpoints}");
    let (path, log) =
        (cluster.directory.path().join("state"), cluster.directory.path().join("log"));
    let file = path.join("api.state");
    let start = || {
        let child = namespace
            .command(env!("CARGO_BIN_EXE_rulec"), ["run", "--node-name", NODE, "--kubeconfig"])
            .env("RULEC_SOCKET", "")
            .arg(cluster.kubeconfig())
            .args(["--log-level", "info,rulec_sources::state=debug", "--state-dir"])
            .arg(&path)
            .stderr(fs::File::create(&log).unwrap())
            .spawn();
        (child.unwrap(), Instant::now())
    };
    let stop = |mut child: Child| {
        namespace.sh(&format!("kill -TERM {}", child.id()));
        assert!(child.wait().unwrap().success());
    };
    let settled = "in sync with all sources";

    let (child, _) = start();
    wait_for(&log, settled, 1);
    wait_for(&log, "wrote the state", 1);
    let size = fs::metadata(&file).unwrap().len();
    row("state on disk", &setup, &format!("**{:.2} MB**", size as f64 / 1e6));
    let minute = Duration::from_secs(60);
    let busy = share_of_a_core(&child, || {
        let started = Instant::now();
        let mut update = 0;
        while started.elapsed() < minute {
            let (number, more) =
                (update as usize % services, (update as usize / services).is_multiple_of(2));
            cluster.server.apply(&slice(number, endpoints - usize::from(more)));
            update += 1;
            let next = started + Duration::from_millis(10) * update;
            sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    let text = fs::read_to_string(&log).unwrap();
    let bytes = text.lines().filter(|line| line.contains("wrote the state")).filter_map(|line| {
        line.split_once("bytes=")?.1.split_whitespace().next()?.parse::<u64>().ok()
    });
    let (writes, bytes) = bytes.fold((0, 0), |(writes, sum), bytes| (writes + 1, sum + bytes));
    // Each write is followed by a pause in proportion, so that a minute may contain one write more
    // than its share.
    let most = Pace::default().bytes_per_second * 3600;
    let figure = format!(
        "**{writes} writes, {:.1} MB** in the minute after the start; at most {:.0} MB an hour; {busy:.1} % of a core",
        bytes as f64 / 1e6,
        most as f64 / 1e6
    );
    row("state written at 100 changes a second", &setup, &figure);
    stop(child);

    let lists = || {
        let requests = cluster.server.requests();
        let is_list = |query: &str| {
            query.contains("sendInitialEvents")
                || !(query.contains("watch=") || query.contains("kubernetes"))
        };
        requests.iter().filter(|it| it.resource.is_some() && is_list(&it.query)).count()
    };
    let before = lists();
    let (child, started) = start();
    wait_for(&log, settled, 1);
    let figure = format!("{}, **{} lists**", time(started.elapsed()), lists() - before);
    row("restart inside the watch window → in agreement", &setup, &figure);
    stop(child);

    let cleanup = namespace.command(env!("CARGO_BIN_EXE_rulec"), ["cleanup"]).status();
    assert!(cleanup.unwrap().success());
    cluster.server.down();
    let (child, started) = start();
    wait_for(&log, settled, 1);
    let after = started.elapsed().saturating_sub(Duration::from_secs(1));
    row("reboot without the server: grace over → last ACK", &setup, &time(after));
    row("memory after that", &setup, &memory(&child));
    stop(child);
}

/// Returns the share of a core that a process used while `during` ran, in per cent.
fn share_of_a_core(child: &Child, during: impl FnOnce()) -> f64 {
    let (before, started) = (cpu_seconds(child), Instant::now());
    during();
    100.0 * (cpu_seconds(child) - before) / started.elapsed().as_secs_f64()
}

/// Returns the processor time of a process so far, in seconds.
fn cpu_seconds(child: &Child) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // utime and stime are fields 14 and 15; the field after the name is the third.
    let of = |field: usize| -> f64 {
        fields.split_whitespace().nth(field - 3).unwrap().parse().unwrap()
    };
    // In ticks of a hundredth of a second (USER_HZ).
    (of(14) + of(15)) / 100.0
}

/// Returns the bytes received on the loopback device of this network namespace, nearly all of them
/// from the server.
fn received() -> u64 {
    let devices = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("lo:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn service(number: usize) -> Value {
    let address = Ipv4Addr::from(0x0a5a_0100 + u32::try_from(number).unwrap());
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("service-{number}"), "namespace": "default"},
        "spec": {
            "clusterIP": address.to_string(),
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        },
    })
}

fn slice(number: usize, endpoints: usize) -> Value {
    let address = |n: usize| Ipv4Addr::from(0x0a00_0000 + u32::try_from(number * 16 + n).unwrap());
    let endpoints: Vec<Value> = (0..endpoints)
        .map(|n| {
            json!({
                "addresses": [address(n).to_string()], "nodeName": "nb",
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("service-{number}-a"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("service-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}
