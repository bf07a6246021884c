//! Thousands of nodes that follow one relay, as a table: `cargo bench --bench fleet`.
//!
//! `cargo bench --bench fleet -- nodes=500 services=100` measures another size; `only=plain` and
//! `only=tls` one of both. The API server is the one of the tests. It and all nodes are in this
//! process, on the same cores as the relay. Needs root; everything happens in a network namespace.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints, and one that cannot go on has failed"
)]

#[path = "mod.rs"]
mod fleet;
#[path = "../table/mod.rs"]
mod table;

use std::time::Duration;

use fleet::{Report, Size, measure};
use rulec_testkit::{Namespace, require_root};

fn main() {
    // `cargo test --benches` builds and starts benches too, to check that they start.
    if std::env::args().any(|argument| argument == "--test") || !require_root() {
        return;
    }
    let mut size = Size {
        nodes: 5_000,
        services: 250,
        endpoints: 10,
        changes: 60,
        away: Duration::from_secs(5),
        rest: Duration::from_secs(3),
    };
    let mut ways = vec![("without TLS", false), ("with TLS", true)];
    for argument in std::env::args().skip(1) {
        let Some((key, value)) = argument.split_once('=') else { continue };
        let number = || value.parse().unwrap();
        match key {
            "nodes" => size.nodes = number(),
            "services" => size.services = number(),
            "endpoints" => size.endpoints = number(),
            "changes" => size.changes = number(),
            "away" => size.away = Duration::from_secs(number() as u64),
            "only" => ways.retain(|(_, is_secure)| *is_secure == (value == "tls")),
            _ => panic!("there is no {key}"),
        }
    }
    println!("\n## {} nodes that follow one relay\n", size.nodes);
    table::machine();
    println!(
        "{} Services of {} endpoints, {} changes.",
        size.services, size.endpoints, size.changes
    );
    for (way, is_secure) in ways {
        print(way, &Namespace::new("bench").run(|| measure(size, is_secure)));
    }
}

fn print(way: &str, report: &Report) {
    println!("\n| {way} | figure |\n|---|---|");
    for (what, figure) in report.rows() {
        println!("| {what} | {figure} |");
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap();
    println!("\nLoad of the machine afterwards: {}", load.split_whitespace().next().unwrap());
}
