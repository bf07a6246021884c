//! The relay: the real program, in a process of its own, so that what it needs is measured apart.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::cluster::Cluster;

/// Where nodes connect.
pub(super) const LISTEN: &str = "127.0.0.1:18000";

/// Where it has its metrics.
const METRICS: &str = "127.0.0.1:18001";

/// A running relay. Dropping it is a crash.
pub(super) struct RelayProcess(Child);

/// What went over connections, in bytes of TCP.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) connections: u64,
}

impl RelayProcess {
    /// Starts one, which does not serve yet.
    pub(super) fn start(cluster: &Cluster, is_secure: bool) -> Self {
        let directory = cluster.directory.path();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rulec"));
        command.args(["relay", "--listen", LISTEN, "--metrics-bind-address", METRICS]);
        command.arg("--kubeconfig").arg(cluster.kubeconfig());
        if is_secure {
            let files = [
                ("certificate", "relay"),
                ("key", "key"),
                ("client-certificate-authority", "authority"),
            ];
            for (option, file) in files {
                command.arg(format!("--{option}")).arg(directory.join(file));
            }
        } else {
            command.arg("--insecure");
        }
        let log = File::options().create(true).append(true).open(directory.join("log")).unwrap();
        Self(command.stderr(log).spawn().unwrap())
    }

    /// Kills it, and waits for its end.
    pub(super) fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Returns whether it serves nodes.
    pub(super) fn is_ready(&self) -> bool {
        get("/healthz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Returns a metric.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let answer = get("/metrics").unwrap();
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().trim().parse().unwrap()
    }

    /// Returns its resident memory, in bytes.
    pub(super) fn memory(&self) -> u64 {
        memory(Path::new(&format!("/proc/{}", self.0.id())))
    }

    /// Returns the most that its resident memory has been, in bytes.
    pub(super) fn most_memory(&self) -> u64 {
        field(Path::new(&format!("/proc/{}/status", self.0.id())), "VmHWM:")
    }

    /// Returns its processor time so far.
    pub(super) fn processor(&self) -> Duration {
        processor(Path::new(&format!("/proc/{}", self.0.id())))
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the resident memory of a process, in bytes.
pub(super) fn memory(process: &Path) -> u64 {
    field(&process.join("smaps_rollup"), "Rss:")
}

fn field(file: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// Returns the processor time of a process or thread so far.
pub(super) fn processor(process: &Path) -> Duration {
    let stat = fs::read_to_string(process.join("stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // utime and stime are fields 14 and 15; the field after the name is the third. Their unit is a
    // hundredth of a second (USER_HZ).
    let of = |field: usize| -> u64 {
        fields.split_whitespace().nth(field - 3).unwrap().parse().unwrap()
    };
    Duration::from_millis(10 * (of(14) + of(15)))
}

/// Returns what went over the open connections of the server at a port, as the server sees it.
pub(super) fn traffic(port: u16) -> Traffic {
    let port = format!(":{port}");
    let output =
        Command::new("ss").args(["-tinH", "state", "established", "sport", "=", &port]).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    let sum = |key: &str| -> u64 {
        let values = text.split_whitespace().filter_map(|word| word.strip_prefix(key));
        values.map(|value| value.parse::<u64>().unwrap()).sum()
    };
    Traffic {
        sent: sum("bytes_sent:"),
        received: sum("bytes_received:"),
        connections: text.matches(" cwnd:").count() as u64,
    }
}

fn get(path: &str) -> io::Result<String> {
    let mut socket = TcpStream::connect(METRICS)?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    socket.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}
