//! The daemon's log, and that the daemon does not wait for its reader.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{BufRead, BufReader, Read as _};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rulec_testkit::{Namespace, patience, require_root};

use crate::daemon::{Daemon, Manifests, NODE_NAME, command};
use crate::health::Metrics;
use crate::support::{eventually, file, get, request, service, slice};

const HEALTH: &str = "127.0.0.1:10256";

/// A daemon whose stderr is a pipe; killed on drop.
struct Piped(Child);

impl Piped {
    fn start(node: &Namespace, manifests: &Manifests, level: &str) -> Self {
        let path = manifests.path();
        let args = ["run", "--node-name", NODE_NAME, "--manifests", path.to_str().unwrap()];
        let mut command = command(node, &args);
        command.env("RULEC_LOG", level).stdout(Stdio::null()).stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn terminate(&self) {
        let kill = Command::new("kill").arg(self.0.id().to_string()).status().unwrap();
        assert!(kill.success());
    }

    /// Waits for its end, and returns the status and the time that it took.
    fn ended(&mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        eventually("it ends", || self.0.try_wait().unwrap().is_some());
        (self.0.wait().unwrap(), started.elapsed())
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns Services with a range of numbers, each with one endpoint.
fn services(numbers: std::ops::Range<usize>) -> String {
    let one = |n: usize| {
        let (name, address) = (format!("s{n}"), format!("10.97.{}.{}", n / 250, n % 250 + 1));
        file(&[service(&name, &address, ""), slice(&name, &["10.50.1.1"])])
    };
    let all: Vec<String> = numbers.map(one).collect();
    file(&all)
}

#[test]
fn an_unread_log_does_not_block_the_daemon() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("unread");
    let manifests = Manifests::of(&services(0..1));
    let mut daemon = Piped::start(&node, &manifests, "trace");
    let dropped = || Metrics::of(&node).value("rulec_log_lines_dropped_total", "");
    eventually("it answers", || {
        request(&node, "GET", HEALTH, "/readyz").is_ok_and(|it| it.code == 200)
    });
    assert_eq!(dropped(), 0.0, "the queue holds the lines of a start");
    // Far more lines than fit into the pipe and into the queue before it.
    for round in 0.. {
        let first = 1 + 500 * (round % 2);
        manifests.write("many.yaml", &services(first..first + 500));
        let last = format!("10.97.{}.{} ", (first + 499) / 250, (first + 499) % 250 + 1);
        eventually("they are programmed", || node.nft_list().contains(&last));
        if dropped() > 0.0 {
            break;
        }
        assert!(round < 50, "no line was dropped");
    }
    manifests
        .write("web.yaml", &file(&[service("web", "10.98.0.1", ""), slice("web", &["10.50.1.2"])]));
    eventually("a Service is programmed", || node.nft_list().contains("10.98.0.1"));
    assert_eq!(get(&node, HEALTH, "/livez").code, 200);

    // When the reader continues, the lines are in order, and the number of lost lines is reported.
    let mut lines = BufReader::new(daemon.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(" INFO starting ")));
    let said = lines.find(|line| line.contains("log lines were lost")).unwrap();
    assert!(said.contains(" WARN ") && said.contains("lines="), "{said}");

    // The reader stops again.
    manifests.write("many.yaml", &services(1..2));
    daemon.terminate();
    let (status, took) = daemon.ended();
    assert!(status.success(), "{status}");
    assert!(took < patience(Duration::from_secs(10)), "{took:?}");
}

#[test]
fn a_daemon_with_closed_or_full_stderr_can_be_stopped() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("closed");
    let manifests = Manifests::of(&services(0..500));
    for is_closed in [true, false] {
        let mut daemon = Piped::start(&node, &manifests, "trace");
        if is_closed {
            drop(daemon.0.stderr.take());
        }
        eventually("it is programmed", || node.nft_list().contains("10.97.1.250"));
        daemon.terminate();
        let (status, _) = daemon.ended();
        assert!(status.success(), "{status}");
    }
    // So can one that fails at its start: it does not wait for its reader either.
    let mut daemon = Piped::start(&node, &manifests, "info,nonsense=loud");
    let mut said = String::new();
    daemon.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(daemon.ended().0.code(), Some(3));
    assert!(said.contains("--log-level"), "{said}");
}

#[test]
fn the_line_of_a_commit_describes_the_change() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("commit");
    let web =
        |endpoints: &[&str]| file(&[service("web", "10.96.0.10", ""), slice("web", endpoints)]);
    let manifests = Manifests::of(&web(&["10.88.0.6", "10.88.0.7"]));
    let mut daemon = Daemon::start(&node, &manifests.path(), &["--log-level", "info"]);
    manifests.write("all.yaml", &web(&["10.88.0.7"]));
    daemon.wait_for("committed: default/web: −1 backend 10.88.0.6:8080, 1 left");
    manifests.write("all.yaml", &web(&["10.88.0.7", "10.88.0.8"]));
    daemon.wait_for("committed: default/web: +1 backend 10.88.0.8:8080, 2 now");
    manifests.remove("all.yaml");
    daemon.wait_for("committed: default/web: gone");
    let log = daemon.stop();
    assert!(!log.contains("bytes="), "there are no sizes at level info: {log}");
}

#[test]
fn repeated_problems_are_logged_a_few_times() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("again");
    let manifests = Manifests::of(&services(0..1));
    let mut daemon = Daemon::start(&node, &manifests.path(), &[]);
    let problems = |severity: &str| {
        let labels = format!("{{source=\"manifests\",severity=\"{severity}\"}}");
        Metrics::of(&node).value("rulec_source_problems", &labels)
    };
    assert_eq!((problems("error"), problems("warning")), (0.0, 0.0));
    for round in 0..40 {
        manifests.write("bad.yaml", &service("bad", &format!("10.96.0.{}", 300 + round), ""));
        eventually("the broken file is counted", || problems("error") == 1.0);
        manifests.remove("bad.yaml");
        eventually("the removed file is not counted", || problems("error") == 0.0);
    }
    let lines = daemon.count("bad.yaml");
    assert!((2..12).contains(&lines), "{lines}: {}", daemon.log());
    // Many problems at once are counted in the log, and the metrics include all of them.
    for number in 0..200 {
        manifests.write(&format!("bad-{number}.yaml"), "kind: [\n");
    }
    eventually("all are broken", || problems("error") == 200.0);
    assert_eq!(Metrics::of(&node).value("rulec_broken_files", ""), 200.0);
    daemon.wait_for(" more problem");
    assert!(daemon.count("not YAML") <= 100, "{}", daemon.log());
}

/// Returns the lines with a level above INFO.
pub(crate) fn above_info(log: &str) -> Vec<&str> {
    log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect()
}

#[test]
fn a_normal_start_from_manifests_logs_nothing_above_info() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("quiet");
    node.sh("ip route add default dev lo; sysctl -qw net.ipv4.ip_forward=1");
    let object = "apiVersion: v1\nkind: Node\nmetadata: {name: na}\nstatus:\n  addresses:\n    \
                  - {type: InternalIP, address: 192.0.2.10}\n";
    let manifests = Manifests::of(&(services(0..10) + "---\n" + object));
    let args = ["--cluster-cidr", "10.50.0.0/16", "--log-level", "info"];
    let daemon = Daemon::start(&node, &manifests.path(), &args);
    let log = daemon.stop();
    assert_eq!(above_info(&log), Vec::<&str>::new(), "{log}");
    assert!(!log.contains("oom_score_adj"), "{log}");
}
