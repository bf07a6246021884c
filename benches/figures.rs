//! The figures of the project, on this machine's kernel, as a table: `cargo bench`.
//!
//! Measurements on a shared machine are noisy: rows are medians and percentiles of many repetitions
//! in one run, and only rows of the same run can be compared. Needs root; everything happens in
//! separate network namespaces.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod other;
mod table;
mod world;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec::daemon::run::Daemon;
use rulec::daemon::sink_thread::SinkThread;
use rulec_compiler::change::{Change, Origin};
use rulec_compiler::name::NodeName;
use rulec_compiler::net::{Backend, Family};
use rulec_compiler::settings::DetectLocal;
use rulec_compiler::{Delta, Flow, Model, Program, Settings};
use rulec_engine::{Engine, Periods};
use rulec_sinks::conntrack::{Conntrack, Filter, FlowKind};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Sink};
use rulec_sources::Update;
use rulec_testkit::{Namespace, require_root};
use tokio::sync::mpsc;

use crate::other::Other;
use crate::table::{machine, memory, percentiles, row, time, wait_for};
use crate::world::{World, cluster_ip, endpoint, objects, slice};

/// Longer than a bench.
const NEVER: Duration = Duration::from_secs(3_600);

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    println!("\n## Figures\n");
    machine();
    println!("\n| what | setup | figure |\n|---|---|---|");
    for services in [1_000, 10_000, 45_000, 100_000] {
        one_change(services);
    }
    for ownership in [Ownership::Exclusive, Ownership::Shared] {
        channel_to_acknowledgement(45_000, ownership);
    }
    beside_checks(20_000, 10);
    cold_start(20_000, 10);
    unchanged_restart(45_000, 2);
    process(20_000, 10);
    stale_flows(100_000);
    forecast_of_flows(100_000);
    stale_flows_of_ports(1_000, 60_000, 0);
    stale_flows_of_ports(3_000, 12_000, 20_000);
}

/// Adds and removes one endpoint in turn, each time at another Service.
fn one_change(services: usize) {
    let namespace = Namespace::new("bench");
    let (compile, commit) = namespace.run(|| {
        let mut world = install(services, 2);
        let mut compile = Vec::new();
        let mut commit = [Vec::new(), Vec::new()];
        for round in 0..4_000 {
            let service = round / 2 * 7 % services;
            let endpoints = if round % 2 == 0 { 3 } else { 2 };
            let started = Instant::now();
            let delta = world.change(service, endpoints);
            compile.push(started.elapsed());
            assert_eq!(delta.len(), 3, "one slot and the code");
            let started = Instant::now();
            world.commit(&delta);
            commit[round % 2].push(started.elapsed());
        }
        (compile, commit)
    });
    let setup = format!("{services} services × 2");
    let [add, remove] = commit;
    row("one endpoint ±: change → delta", &setup, &percentiles(compile));
    row("one endpoint more: delta → kernel ACK (one transaction)", &setup, &percentiles(add));
    row("one endpoint less: delta → kernel ACK (two)", &setup, &percentiles(remove));
}

/// Measures one change at a time, with a pause between, from the channel of the source through the
/// daemon's loop to the acknowledgement; the next check of the kernel's content begins `verify`
/// after the last one. Also returns how long another user of nf_tables had to wait meanwhile.
fn acknowledged(
    services: usize,
    endpoints: usize,
    ownership: Ownership,
    verify: Duration,
) -> (Vec<Duration>, Duration) {
    let namespace = Namespace::new("bench");
    namespace.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let settings = settings();
            let sink = SinkThread::start(ownership, settings.masquerade_bit.mark(), None).unwrap();
            let periods = Periods { verify, ..Periods::default() };
            let engine = Engine::new(settings, periods, Instant::now());
            let mut daemon = Daemon::new(engine, sink, [Origin::Manifests]);
            let (observer, mut counts) = mpsc::unbounded_channel();
            daemon.observe(observer);
            let (out, updates) = mpsc::channel(16);
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let daemon = tokio::spawn(async move {
                let stopped = async {
                    let _ = stopped.await;
                };
                daemon.run(updates, stopped).await
            });
            // Counts also come after the end of a check.
            let mut acknowledgements = 0;
            let mut next = async || {
                let before = acknowledgements;
                while acknowledgements == before {
                    acknowledgements = counts.recv().await.unwrap().acknowledged;
                }
            };
            let first = Change::everything(objects(services, endpoints));
            out.send(update(first)).await.unwrap();
            next().await;
            let other = Other::start();
            let mut times = Vec::new();
            for round in 0..2_000 {
                let service = round / 2 * 7 % services;
                let endpoints = endpoints + usize::from(round % 2 == 0);
                let change = Change::Apply(slice(service, endpoints));
                tokio::time::sleep(Duration::from_micros(500)).await;
                let started = Instant::now();
                out.send(update(change)).await.unwrap();
                next().await;
                times.push(started.elapsed());
            }
            let waited = other.end();
            stop.send(()).unwrap();
            daemon.await.unwrap().unwrap();
            (times, waited)
        })
    })
}

fn channel_to_acknowledgement(services: usize, ownership: Ownership) {
    let (times, _) = acknowledged(services, 2, ownership, NEVER);
    let tables = match ownership {
        Ownership::Exclusive => "exclusive tables",
        Ownership::Shared => "shared tables, watched",
    };
    let setup = format!("{services} services × 2, {tables}");
    row("change in the channel → kernel ACK", &setup, &percentiles(times));
}

/// Measures changes while the kernel's content is compared all the time, and what they would wait
/// for if they waited for a comparison.
fn beside_checks(services: usize, endpoints: usize) {
    let setup = format!("{services} services × {endpoints}, shared tables");
    for (verify, text) in [(NEVER, "no check runs"), (Duration::ZERO, "a check always runs")] {
        let (times, waited) = acknowledged(services, endpoints, Ownership::Shared, verify);
        let most = time(times.iter().max().copied().unwrap_or_default());
        let times = percentiles(times);
        let figure = format!("{times}, {most} (most); another user waited {}", time(waited));
        row(&format!("change in the channel → kernel ACK, {text}"), &setup, &figure);
    }
    let namespace = Namespace::new("bench");
    let (times, spent, waited) = namespace.run(|| {
        let settings = settings();
        let mark = settings.masquerade_bit.mark();
        let sink = NftSink::open(Ownership::Shared, mark).unwrap();
        let world = World::install(sink, settings, services, endpoints);
        let mut checker = NftSink::open(Ownership::Shared, mark).unwrap();
        let other = Other::start();
        let mut times = Vec::new();
        checker.meter();
        for _ in 0..5 {
            let started = Instant::now();
            assert!(checker.check(world.applied()).unwrap().is_empty());
            times.push(started.elapsed());
        }
        (times, checker.spent(), other.end())
    });
    let figure = format!(
        "{}; longest call of the kernel **{}** of processor time; another user waited {}",
        percentiles(times),
        time(spent.longest),
        time(waited)
    );
    row("one check", &setup, &figure);
}

/// Measures from a complete list to the last acknowledgement, with an empty kernel.
fn cold_start(services: usize, endpoints: usize) {
    let mut times = Vec::new();
    let mut figures = String::new();
    for _ in 0..5 {
        let namespace = Namespace::new("bench");
        let list = objects(services, endpoints);
        let (time, text) = namespace.run(|| {
            let started = Instant::now();
            let mut model = Model::default();
            model.apply(Origin::Manifests, Change::everything(list));
            let settings = Arc::new(settings());
            let mut sink = sink(&settings);
            let (state, base) = sink.adopt().unwrap();
            let program = Program::compile(&model, settings, &state);
            let delta = Delta::reconcile(&state, &program);
            let compiled = started.elapsed();
            let outcome = sink.commit(&delta, base).unwrap();
            let total = started.elapsed();
            let text = format!(
                "{} to compile, {} to commit {} operations in {} transactions, {:.1} MB",
                time(compiled),
                time(total - compiled),
                outcome.ops,
                outcome.transactions,
                outcome.bytes as f64 / 1e6
            );
            (total, text)
        });
        times.push(time);
        figures = text;
    }
    times.sort_unstable();
    let figure = format!("**{}** (median of 5; the last: {figures})", time(times[2]));
    row("cold start, list complete → last ACK", &format!("{services} × {endpoints}"), &figure);
}

/// Measures a second process that adopts what the first has left.
fn unchanged_restart(services: usize, endpoints: usize) {
    let namespace = Namespace::new("bench");
    let list = objects(services, endpoints);
    let (reads, times, ops) = namespace.run(|| {
        drop(install(services, endpoints));
        let mut reads = Vec::new();
        let mut times = Vec::new();
        let mut ops = 0;
        for _ in 0..5 {
            // The daemon reads the kernel while its source reads the manifests.
            let settings = Arc::new(settings());
            let mut sink = sink(&settings);
            let started = Instant::now();
            let (state, _) = sink.adopt().unwrap();
            reads.push(started.elapsed());
            let list = list.clone();
            let started = Instant::now();
            let mut model = Model::default();
            model.apply(Origin::Manifests, Change::everything(list));
            let program = Program::compile(&model, settings, &state);
            ops += Delta::reconcile(&state, &program).len();
            times.push(started.elapsed());
        }
        (reads, times, ops)
    });
    let setup = format!("{services} × {endpoints}");
    row("unchanged restart: read the kernel back", &setup, &percentiles(reads));
    let figure = format!("{}, **{ops} writes**", percentiles(times));
    row("unchanged restart: list complete → known equal", &setup, &figure);
}

/// Starts the real process with a directory of manifests, and waits until they are programmed.
fn start(namespace: &Namespace, manifests: &Path, log: &Path) -> Child {
    let child = namespace
        .command(
            env!("CARGO_BIN_EXE_rulec"),
            ["run", "--node-name", "na", "--cluster-cidr", "10.0.0.0/9", "--log-level", "debug"],
        )
        .env("RULEC_SOCKET", "")
        .arg("--manifests")
        .arg(manifests)
        .stderr(fs::File::create(log).unwrap())
        .spawn()
        .unwrap();
    wait_for(log, "in sync with all sources", 1);
    child
}

/// Measures the real process with a directory of manifests: memory, start, and no-op changes.
fn process(services: usize, endpoints: usize) {
    let namespace = Namespace::new("bench");
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    for file in 0..services / 100 {
        fs::write(manifests.join(format!("{file:04}.yaml")), yaml(file, endpoints)).unwrap();
    }
    let log = directory.path().join("log");
    let started = Instant::now();
    let mut child = start(&namespace, &manifests, &log);
    let setup = format!("{services} × {endpoints}, {} files", services / 100);
    let from_start = time(started.elapsed());
    row("process start → last ACK, YAML included", &setup, &from_start);
    // Wait until the memory allocator and the first rescan have settled.
    std::thread::sleep(Duration::from_secs(25));
    row("memory", &setup, &memory(&child));

    let committed = || fs::read_to_string(&log).unwrap().matches(" committed ").count();
    let before = committed();
    let path = manifests.join("0000.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let edits = 100;
    for edit in 0..edits {
        let text = match edit % 3 {
            0 => format!("# edit {edit}\n{text}"),
            1 => text.replace("metadata:", &format!("metadata:\n  resourceVersion: \"{edit}\"")),
            _ => text.replace("metadata:", &format!("metadata:\n  annotations: {{a: \"{edit}\"}}")),
        };
        let new = manifests.join(".new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        std::thread::sleep(Duration::from_millis(30));
    }
    // A real change proves that the daemon has seen all changes before it.
    fs::write(manifests.join("zz.yaml"), yaml(services / 100, 1)).unwrap();
    wait_for(&log, " committed ", before + 1);
    let writes = committed() - before - 1;
    let figure = format!("**{writes} kernel writes**");
    row("semantic no-ops", &format!("{edits} edits of comments and metadata"), &figure);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Deletes the UDP flows of one frontend to one endpoint, among many others.
fn stale_flows(flows: u32) {
    const PORT: NonZeroU16 = NonZeroU16::new(53).unwrap();
    let vip = |frontend: u32| Ipv4Addr::from(0x0a60_0000 + frontend);
    let target = |pair: u32| Ipv4Addr::from(0x0a3c_0000 + pair);
    let namespace = Namespace::new("bench");
    let mut commands = String::new();
    for flow in 0..flows {
        // A hundred frontends with ten endpoints each.
        let (client, frontend, target) =
            (Ipv4Addr::from(0x0b00_0000 + flow), vip(flow % 100), target(flow % 1_000));
        writeln!(
            commands,
            "-I -p udp -t 3600 -s {client} --sport 4000 -d {frontend} --dport {PORT} -r {target} \
             --reply-port-src {PORT} -q {client} --reply-port-dst 4000"
        )
        .unwrap();
    }
    insert_flows(&namespace, &commands);
    let count = || namespace.sh("conntrack -C").trim().parse::<u32>().unwrap();
    assert_eq!(count(), flows, "the kernel has all of them");
    let times = namespace.run(|| {
        let mut conntrack = Conntrack::open().unwrap();
        let mut times = Vec::new();
        for frontend in 0..20 {
            let backend = Backend { address: target(frontend).into(), port: PORT };
            let destination = Some(vip(frontend));
            let filter =
                Filter { family: Family::Ipv4, kind: FlowKind::Udp, port: Some(PORT), destination };
            let answers = SocketAddr::new(backend.address, PORT.get());
            let is_unwanted = |flow: &Flow| flow.answers == answers;
            let started = Instant::now();
            conntrack.delete(&filter, is_unwanted).unwrap();
            times.push(started.elapsed());
        }
        times
    });
    assert_eq!(count(), flows - flows / 1_000 * 20, "each call deletes the flows of one pair");
    let setup = format!("{} flows of one pair among {flows}", flows / 1_000);
    row("stale UDP flows deleted, beside the commits", &setup, &percentiles(times));
}

/// Removes one of two endpoints of a Service with many UDP ports, which has half of the flows, among
/// other flows; also measures how long the next Service and its flow wait meanwhile.
fn stale_flows_of_ports(ports: u16, flows: u32, others: u32) {
    let [many_ip, next_ip] = [10, 11].map(|host| Ipv4Addr::new(10, 96, 0, host));
    let [stays, goes, next] = [5, 6, 7].map(|host| Ipv4Addr::new(10, 50, 1, host));
    let namespace = Namespace::new("bench");
    let service = |name: &str, address: Ipv4Addr, first: u16, ports: u16, to: &[Ipv4Addr]| {
        let list: Vec<String> = (first..first + ports)
            .map(|port| format!("{{name: p{port}, protocol: UDP, port: {port}}}"))
            .collect();
        let list = list.join(", ");
        let endpoints: Vec<String> = to.iter().map(|to| format!("{{addresses: [{to}]}}")).collect();
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  \
             clusterIP: {address}\n  ports: [{list}]\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-a\n  \
             labels: {{kubernetes.io/service-name: {name}}}\naddressType: IPv4\nports: [{list}]\n\
             endpoints: [{}]\n",
            endpoints.join(", ")
        )
    };
    let directory = tempfile::tempdir().unwrap();
    let manifests = directory.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let write = |name: &str, text: &str| {
        let draft = directory.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(&draft, manifests.join(name)).unwrap();
    };
    write("many.yaml", &service("many", many_ip, 10_000, ports, &[stays, goes]));
    write("next.yaml", &service("next", next_ip, 53, 1, &[next]));
    let log = directory.path().join("log");
    let mut child = start(&namespace, &manifests, &log);
    // The walks of the start are over.
    std::thread::sleep(Duration::from_secs(2));
    let mut commands = String::new();
    let mut flow = |client: Ipv4Addr, to: Ipv4Addr, port: u16, answers: Ipv4Addr| {
        writeln!(
            commands,
            "-I -p udp -t 3600 -s {client} --sport 4000 -d {to} --dport {port} -r {answers} \
             --reply-port-src {port} -q {client} --reply-port-dst 4000"
        )
        .unwrap();
    };
    let client = |number: u32| Ipv4Addr::from(0x0b00_0000 + number);
    for number in 0..flows {
        let port = 10_000 + u16::try_from(number / 2 % u32::from(ports)).unwrap();
        flow(client(number), many_ip, port, if number % 2 == 0 { stays } else { goes });
    }
    for other in 0..others {
        let to = Ipv4Addr::from(0x0808_0000 + other);
        flow(client(other), to, 53, to);
    }
    flow(client(0), next_ip, 53, next);
    insert_flows(&namespace, &commands);
    let count = || namespace.sh("conntrack -C").trim().parse::<u32>().unwrap();
    assert_eq!(count(), flows + others + 1, "the kernel has all of them");
    let committed = fs::read_to_string(&log).unwrap().matches(" committed ").count();
    let before = cpu_of_conntrack(&child);
    write("many.yaml", &service("many", many_ip, 10_000, ports, &[stays]));
    wait_for(&log, " committed ", committed + 1);
    let started = Instant::now();
    write("next.yaml", &service("next", next_ip, 53, 1, &[stays]));
    wait_for(&log, " committed ", committed + 2);
    let commit = started.elapsed();
    let is_there = format!(
        "conntrack -G -p udp -s {} --sport 4000 -d {next_ip} --dport 53 >/dev/null 2>&1 \
         && echo yes || true",
        client(0)
    );
    while !namespace.sh(&is_there).is_empty() {
        assert!(started.elapsed() < Duration::from_secs(120), "{} are left", count());
        std::thread::sleep(Duration::from_millis(2));
    }
    let waited = started.elapsed();
    while count() > flows / 2 + others {
        assert!(started.elapsed() < Duration::from_secs(120), "{} are left", count());
        std::thread::sleep(Duration::from_millis(2));
    }
    let all = started.elapsed();
    // The processor time of the last walk is counted when its thread sleeps.
    std::thread::sleep(Duration::from_millis(100));
    let figure = format!(
        "all gone **{}** after the commit, with **{}** of a core; the next Service was committed {} \
         after it was written, and its flow gone after {}",
        time(all),
        time(cpu_of_conntrack(&child) - before),
        time(commit),
        time(waited)
    );
    let setup = format!("{} of {flows} flows of {ports} ports, {others} others", flows / 2);
    row("a Service of many UDP ports: one of two endpoints goes", &setup, &figure);
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Inserts flows that nobody has sent; the commands are those of conntrack.
fn insert_flows(namespace: &Namespace, commands: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, commands).unwrap();
    namespace.sh(&format!("conntrack -R {} >/dev/null 2>&1", file.path().display()));
}

/// Measures `rulec diff --flows`: half of the flows are to Services, and half of those to endpoints
/// that go.
fn forecast_of_flows(flows: u32) {
    const SERVICES: usize = 100;
    let namespace = Namespace::new("bench");
    namespace.sh("ip link set lo up");
    let directory = tempfile::tempdir().unwrap();
    let yaml = |targets: &[&str]| -> String {
        let service = |number: usize| {
            let endpoints: Vec<String> =
                targets.iter().map(|to| format!("{{addresses: [10.60.{number}.{to}]}}")).collect();
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{number}}}\nspec:\n  \
                 clusterIP: 10.96.1.{number}\n  ports: [{{protocol: UDP, port: 53}}]\n---\n\
                 apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
                 name: s{number}-a\n  labels: {{kubernetes.io/service-name: s{number}}}\n\
                 addressType: IPv4\nports: [{{protocol: UDP, port: 53}}]\nendpoints: [{}]\n",
                endpoints.join(", ")
            )
        };
        (0..SERVICES).map(service).collect()
    };
    let [before, after] = ["before", "after"].map(|name| directory.path().join(name));
    for (path, targets) in [(&before, &["1", "2"][..]), (&after, &["1"])] {
        fs::create_dir(path).unwrap();
        fs::write(path.join("all.yaml"), yaml(targets)).unwrap();
    }
    let log = directory.path().join("log");
    let mut child = start(&namespace, &before, &log);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut commands = String::new();
    for flow in 0..flows {
        let client = Ipv4Addr::from(0x0b00_0000 + flow);
        let service = flow as usize / 4 % SERVICES;
        let (to, answers) = match flow % 4 {
            0 => (format!("10.96.1.{service}"), format!("10.60.{service}.1")),
            1 => (format!("10.96.1.{service}"), format!("10.60.{service}.2")),
            _ => ("198.51.100.1".to_owned(), "198.51.100.1".to_owned()),
        };
        writeln!(
            commands,
            "-I -p udp -t 3600 -s {client} --sport 4000 -d {to} --dport 53 -r {answers} \
             --reply-port-src 53 -q {client} --reply-port-dst 4000"
        )
        .unwrap();
    }
    insert_flows(&namespace, &commands);
    let run = |more: &[&str]| {
        let args = ["diff", "--node-name", "na", "--cluster-cidr", "10.0.0.0/9", "--to"];
        let mut command = namespace.command(env!("CARGO_BIN_EXE_rulec"), args);
        let started = Instant::now();
        let output = command.arg(&after).args(more).output().unwrap();
        (started.elapsed(), String::from_utf8(output.stdout).unwrap())
    };
    let mut times = Vec::new();
    for _ in 0..20 {
        let (took, text) = run(&["--flows"]);
        let total = format!("{} flows to Services: {} move, ", flows / 2, flows / 4);
        assert!(text.contains(&total), "{text}");
        times.push(took);
    }
    let without = percentiles((0..20).map(|_| run(&[]).0).collect());
    let figure = format!("{}; without `--flows` {without}", percentiles(times));
    row(
        "`rulec diff --flows`, the whole command",
        &format!("{flows} flows, half of them to {SERVICES} Services"),
        &figure,
    );
}

/// Returns the processor time that the thread which deletes flows has used.
fn cpu_of_conntrack(child: &Child) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).unwrap();
    let mut paths = tasks.map(|task| task.unwrap().path());
    let is_it = |path: &PathBuf| {
        fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == "rulec-conntrack")
    };
    let stat = fs::read_to_string(paths.find(is_it).unwrap().join("schedstat")).unwrap();
    Duration::from_nanos(stat.split_whitespace().next().unwrap().parse().unwrap())
}

fn install(services: usize, endpoints: usize) -> World<NftSink> {
    let settings = settings();
    let sink = sink(&settings);
    let mut world = World::install(sink, settings, services, endpoints);
    // Make both changes of the bench once before it begins, so that none of them is the first.
    let delta = world.change(0, endpoints + 1);
    world.commit(&delta);
    let delta = world.change(0, endpoints);
    world.commit(&delta);
    world
}

fn settings() -> Settings {
    let detect_local = DetectLocal::ClusterCidr(vec!["10.0.0.0/9".parse().unwrap()]);
    Settings { detect_local, ..Settings::new(NodeName::from("na")) }
}

fn sink(settings: &Settings) -> NftSink {
    NftSink::open(Ownership::Exclusive, settings.masquerade_bit.mark()).unwrap()
}

fn update(change: Change) -> Update {
    Update {
        origin: Origin::Manifests,
        changes: vec![change],
        triggers: Vec::new(),
        complete: true,
        unread: 0,
        unavailable: false,
        stale: None,
        positions: None,
        suppressed: 0,
        problems: Default::default(),
    }
}

/// Returns 100 Services and their slices as a file.
fn yaml(file: usize, endpoints: usize) -> String {
    let mut text = String::new();
    for service in file * 100..(file + 1) * 100 {
        let address = cluster_ip(service);
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: service-{service}\n\
             spec:\n  clusterIP: {address}\n  ports:\n  - {{name: http, port: 80, targetPort: 8080}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: service-{service}-a\n  labels: {{kubernetes.io/service-name: service-{service}}}\n\
             addressType: IPv4\nports:\n- {{name: http, port: 8080, protocol: TCP}}\nendpoints:\n"
        )
        .unwrap();
        for number in 0..endpoints {
            let address = endpoint(service, number);
            writeln!(
                text,
                "- {{addresses: [{address}], nodeName: nb, conditions: {{ready: true}}}}"
            )
            .unwrap();
        }
    }
    text
}
