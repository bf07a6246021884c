//! The resources that this process uses, with the names that all of Prometheus' own clients have
//! for them.
//!
//! They are read on each scrape. Values that cannot be read are left out.

use std::fmt;
use std::fs;

use nix::time::{ClockId, clock_gettime};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The kernel's unit of time in /proc (`USER_HZ`), which is part of its interface.
const TICKS: f64 = 100.0;

/// Reads /proc/self.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut to: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut put =
            |name: &str, help: &str, metric: &dyn EncodeAny| metric.put(&mut to, name, help);
        if let Some(seconds) = cpu_seconds() {
            let help = "CPU time spent in user space and in the kernel";
            put("process_cpu_seconds", help, &ConstCounter::new(seconds))?;
        }
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let gauges = [
            ("process_open_fds", "Open file descriptors", open_fds()),
            ("process_max_fds", "The limit of open files", limit(&limits, "Max open files")),
            ("process_resident_memory_bytes", "Memory in use", kibibytes(&status, "VmRSS")),
            ("process_virtual_memory_bytes", "Address space in use", kibibytes(&status, "VmSize")),
            (
                "process_virtual_memory_max_bytes",
                "The limit of address space; -1 if unlimited",
                Some(limit(&limits, "Max address space").unwrap_or(-1.0)),
            ),
            ("process_start_time_seconds", "When the process started", started()),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                put(name, help, &ConstGauge::new(value))?;
            }
        }
        Ok(())
    }
}

/// A metric of any type that can be encoded under a name.
trait EncodeAny {
    fn put(&self, to: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result;
}

impl<M: EncodeMetric> EncodeAny for M {
    fn put(&self, to: &mut DescriptorEncoder<'_>, name: &str, help: &str) -> fmt::Result {
        self.encode(to.encode_descriptor(name, help, None, self.metric_type())?)
    }
}

fn cpu_seconds() -> Option<f64> {
    let time = clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).ok()?;
    Some(std::time::Duration::from(time).as_secs_f64())
}

fn open_fds() -> Option<f64> {
    // One of them is open for this count.
    let fds = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    u32::try_from(fds).ok().map(f64::from)
}

/// Parses a line of /proc/self/status such as `VmRSS:     7232 kB`.
fn kibibytes(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

/// Returns the soft limit in a line of /proc/self/limits; `None` if it is unlimited.
fn limit(limits: &str, name: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the start of the process in seconds since the epoch.
fn started() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program is in brackets and may contain any bytes; the 22nd field is the 20th
    // after it.
    let ticks: f64 = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
    let boot = fs::read_to_string("/proc/stat").ok()?;
    let boot = boot.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(boot.trim().parse::<f64>().ok()? + ticks / TICKS)
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn all_process_metrics_can_be_read() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") > 0.0);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_open_fds") < value("process_max_fds"));
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_resident_memory_bytes") < value("process_virtual_memory_bytes"));
        assert!(value("process_virtual_memory_max_bytes") >= -1.0);
        let now = jiff::Timestamp::now().as_duration().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age} seconds old");
    }

    #[test]
    fn lines_of_procfs_are_parsed() {
        let status = "VmPeak:\t   99 kB\nVmSize:\t   20 kB\nVmRSS:\t    7 kB\n";
        assert_eq!(kibibytes(status, "VmRSS"), Some(7.0 * 1024.0));
        assert_eq!(kibibytes(status, "VmSwap"), None);
        let limits = "Max address space         unlimited            unlimited            bytes\n\
                      Max open files            1024                 1048576              files\n";
        assert_eq!(limit(limits, "Max open files"), Some(1024.0));
        assert_eq!(limit(limits, "Max address space"), None);
    }
}
