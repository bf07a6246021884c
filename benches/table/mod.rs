//! Measuring and printing of figures, the same in every bench.
#![allow(dead_code, reason = "not every bench needs all of it")]

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// Prints the processor and kernel of this machine.
pub(crate) fn machine() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
    let n = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let release = read("/proc/sys/kernel/osrelease");
    println!("{n} ×{}, Linux {}", model.trim_start_matches(['\t', ' ', ':']), release.trim());
}

/// Prints a row of the table.
pub(crate) fn row(what: &str, setup: &str, figure: &str) {
    println!("| {what} | {setup} | {figure} |");
}

/// Returns the median, and from a hundred times on also the 90th and 99th percentile.
pub(crate) fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let position = (times.len() as f64 * share) as usize;
        time(times[position.min(times.len() - 1)])
    };
    if times.len() < 100 {
        return format!("**{}** (median of {})", at(0.5), times.len());
    }
    format!("**{}** (p50), {} (p90), {} (p99)", at(0.5), at(0.9), at(0.99))
}

/// Formats a time in a suitable unit.
pub(crate) fn time(time: Duration) -> String {
    let microseconds = time.as_secs_f64() * 1e6;
    match microseconds {
        us if us < 1_000.0 => format!("{us:.1} µs"),
        us if us < 1_000_000.0 => format!("{:.1} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Returns the resident memory of a process, current and maximum.
pub(crate) fn memory(child: &Child) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("");
        let kib: f64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").parse().unwrap();
        kib / 1024.0
    };
    format!("**{:.0} MB** resident ({:.0} MB at the most)", of("VmRSS"), of("VmHWM"))
}

/// Waits until a log contains a text a number of times.
pub(crate) fn wait_for(log: &Path, text: &str, count: usize) {
    let limit = Instant::now() + Duration::from_secs(300);
    while fs::read_to_string(log).unwrap().matches(text).count() < count {
        assert!(Instant::now() < limit, "{}", fs::read_to_string(log).unwrap());
        std::thread::sleep(Duration::from_millis(5));
    }
}
