//! The costs of mode ipvs. Needs root and a kernel with `ip_vs`: `tests/vm/run --bench`. Everything
//! that is compared is measured in one run, because a virtual machine without KVM shows only
//! ratios.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

mod table;
mod world;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec_compiler::change::{Change, Origin};
use rulec_compiler::ipvs::{Op, RealServer, VirtualServer};
use rulec_compiler::name::NodeName;
use rulec_compiler::net::{Backend, Protocol};
use rulec_compiler::settings::{DetectLocal, IpvsSettings, ProxyMode};
use rulec_compiler::{Delta, Model, Program, Settings};
use rulec_sinks::ipvs::{Ipvs, IpvsSink, Options};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{NftSink, Sink};
use rulec_testkit::{Namespace, require_root};

use crate::table::{machine, percentiles, row, time};
use crate::world::{World, cluster_ip, objects, port};

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    println!("\n## Mode ipvs\n");
    machine();
    println!("\n| what | setup | figure |\n|---|---|---|");
    for services in [1_000, 20_000] {
        one_real_server(services);
    }
    cold_start(5_000, 10);
}

/// Adds and removes one real server in turn: the whole path of the change, its netlink message
/// alone, and a process of `ipvsadm`.
fn one_real_server(services: usize) {
    let namespace = Namespace::new("bench");
    let [compile, add, remove, message, process] = namespace.run(|| {
        let mut world = World::install(sink(), settings(), services, 2);
        let mut ipvs = Ipvs::open(Options::default()).unwrap();
        let [mut compile, mut add, mut remove, mut message, mut process] =
            <[Vec<Duration>; 5]>::default();
        for round in 0..1_000 {
            let service = round / 2 * 7 % services;
            let endpoints = if round % 2 == 0 { 3 } else { 2 };
            let started = Instant::now();
            let delta = world.change(service, endpoints);
            compile.push(started.elapsed());
            assert_eq!(delta.len(), 1, "one real server");
            let started = Instant::now();
            world.commit(&delta);
            if round % 2 == 0 { &mut add } else { &mut remove }.push(started.elapsed());

            let (server, real) = pair(service);
            let started = Instant::now();
            let refused = ipvs.apply(&[Op::AddReal(server, real, RealServer::ACTIVE)]).unwrap();
            message.push(started.elapsed());
            assert!(refused.is_empty());
            assert!(ipvs.apply(&[Op::DeleteReal(server, real)]).unwrap().is_empty());
            // A process takes long, and a few samples are enough.
            if round % 10 == 0 {
                process.push(by_process(service));
                assert!(ipvs.apply(&[Op::DeleteReal(server, real)]).unwrap().is_empty());
            }
        }
        [compile, add, remove, message, process]
    });
    let setup = format!("{services} services × 2");
    let median = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        times[times.len() / 2]
    };
    let all = median(&compile) + median(&add);
    let ratio = |peer: &[Duration]| all.as_secs_f64() / median(peer).as_secs_f64();
    let figure = format!(
        "**{:.2}** of its netlink message alone, **{:.4}** of `ipvsadm -a`",
        ratio(&message),
        ratio(&process)
    );
    row("one real server more: change → kernel ACK", &setup, &figure);
    row("… change → delta", &setup, &percentiles(compile));
    row("… delta → kernel ACK", &setup, &percentiles(add));
    row("one real server less (weight 0): delta → kernel ACK", &setup, &percentiles(remove));
    row("its netlink message alone", &setup, &percentiles(message));
    row("`ipvsadm -a`", &setup, &percentiles(process));
}

/// Returns a virtual server, and a real server that it does not have.
fn pair(service: usize) -> (VirtualServer, Backend) {
    let address = IpAddr::V4(cluster_ip(service));
    let server = VirtualServer { address, protocol: Protocol::Tcp, port: port(80) };
    (server, Backend { address: Ipv4Addr::new(10, 127, 0, 1).into(), port: port(8080) })
}

fn by_process(service: usize) -> Duration {
    let (server, real) = pair(service);
    let server = format!("{}:{}", server.address, server.port);
    let started = Instant::now();
    let status = std::process::Command::new("ipvsadm")
        .args(["-a", "-t", &server, "-r", &real.to_string(), "-m", "-w", "1"])
        .status()
        .unwrap();
    let took = started.elapsed();
    assert!(status.success());
    took
}

/// Measures from a complete list to the last acknowledgement, with an empty kernel, then with a
/// full one.
fn cold_start(services: usize, endpoints: usize) {
    let namespace = Namespace::new("bench");
    let list = objects(services, endpoints);
    let (cold, ops, restart, writes) = namespace.run(|| {
        let compile = |sink: &mut IpvsSink| {
            let mut model = Model::default();
            model.apply(Origin::Manifests, Change::everything(list.clone()));
            let (state, base) = sink.adopt().unwrap();
            let program = Program::compile(&model, Arc::new(settings()), &state);
            (Delta::reconcile(&state, &program), base)
        };
        let mut first = sink();
        let started = Instant::now();
        let (delta, base) = compile(&mut first);
        let ops = first.commit(&delta, base).unwrap().ops;
        let cold = started.elapsed();
        drop(first);
        let mut second = sink();
        let started = Instant::now();
        let (delta, _) = compile(&mut second);
        (cold, ops, started.elapsed(), delta.len())
    });
    let setup = format!("{services} × {endpoints}");
    let figure = format!("**{}**, {ops} operations", time(cold));
    row("cold start, list complete → last ACK", &setup, &figure);
    let figure = format!("**{}**, **{writes} writes**", time(restart));
    row("unchanged restart: kernel read, list complete → known equal", &setup, &figure);
}

fn settings() -> Settings {
    let detect_local = DetectLocal::ClusterCidr(vec!["10.0.0.0/9".parse().unwrap()]);
    let proxy_mode = ProxyMode::Ipvs(IpvsSettings::default());
    Settings { detect_local, proxy_mode, ..Settings::new(NodeName::from("na")) }
}

fn sink() -> IpvsSink {
    let nft = NftSink::open(Ownership::Exclusive, settings().masquerade_bit.mark()).unwrap();
    IpvsSink::new(nft, Ipvs::open(Options::default()).unwrap())
}
