//! The daemon under a service manager: its notifications, and the rights that it needs.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use rulec_testkit::{Namespace, require_root, unbroken};
use serde_json::json;
use tempfile::TempDir;

use super::read;
use crate::daemon::{Daemon, Manifests, NODE_NAME, command, rulec};
use crate::support::{RULEC, eventually, listing, service, slice};

/// The time limit for a message; an expected message takes less.
const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed when this value is dropped.
struct Killed(Child);

impl Killed {
    /// Starts a daemon whose log is shown if the test fails.
    fn start(mut command: Command, log: &Path) -> (Self, Log) {
        command.stdout(Stdio::null()).stderr(File::create(log).unwrap());
        (Self(command.spawn().unwrap()), Log(log.to_owned()))
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The log of a daemon.
struct Log(PathBuf);

impl Log {
    fn text(&self) -> String {
        fs::read_to_string(&self.0).unwrap_or_default()
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        #[expect(clippy::print_stderr, reason = "a test that fails shows it")]
        if thread::panicking() {
            eprintln!("The daemon's log:\n{}", self.text());
        }
    }
}

/// Receives the next message.
fn heard(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let length = unbroken(|| manager.recv(&mut bytes)).expect("the daemon says something");
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Receives messages up to one that begins with a state; returns the earlier ones and that one.
fn heard_until(manager: &UnixDatagram, state: &str) -> (Vec<String>, String) {
    let mut before = Vec::new();
    loop {
        let message = heard(manager);
        if message.lines().next() == Some(state) {
            return (before, message);
        }
        before.push(message);
    }
}

#[test]
fn readiness_and_liveness_are_reported_to_the_service_manager() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("notify");
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("socket");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let file = service("web", "172.30.0.1", "") + "---\n" + &slice("web", &["10.50.1.1"]);
    let written = Manifests::of(&file);
    let manifests = written.path();
    // While another process owns the tables, the node cannot be programmed.
    let other = Manifests::new();
    let owner = Daemon::start(&node, &other.path(), &[]);
    let to = manifests.to_str().unwrap();
    let mut daemon = command(&node, &["run", "--manifests", to, "--node-name", NODE_NAME]);
    daemon.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "100000");
    let (mut daemon, _log) = Killed::start(daemon, &directory.path().join("log"));

    assert!(heard(&manager).starts_with("WATCHDOG=1\nSTATUS="));
    for _ in 0..3 {
        let message = heard(&manager);
        assert!(message.starts_with("WATCHDOG=1"), "the watchdog is served: {message}");
    }
    owner.stop();
    let (before, ready) = heard_until(&manager, "READY=1");
    let listed = listing(&node);
    assert!(before.iter().all(|message| message.starts_with("WATCHDOG=1")), "{before:?}");
    let status = "STATUS=programmed; services: 1, problems in the sources: 0";
    assert_eq!(ready, format!("READY=1\n{status}"));
    assert!(listed.contains("172.30.0.1"), "the rules are there by then:\n{listed}");
    let output = rulec(&node, &["diff", "--to", to, "--node-name", NODE_NAME]);
    assert!(output.status.success(), "all rules are there: {output:?}");

    // The watchdog is also served by an idle loop; the status is sent again only when it changes.
    for _ in 0..3 {
        assert_eq!(heard(&manager), "WATCHDOG=1");
    }
    fs::write(manifests.join("broken.yaml"), "kind: Service\n").unwrap();
    let mut message = heard(&manager);
    while message == "WATCHDOG=1" {
        message = heard(&manager);
    }
    assert!(message.contains("problems in the sources: 1"), "{message}");

    let pid = daemon.0.id();
    node.sh(&format!("kill -TERM {pid}"));
    let (before, stopping) = heard_until(&manager, "STOPPING=1");
    assert!(before.iter().all(|message| message.starts_with("WATCHDOG=1")), "{before:?}");
    assert_eq!(stopping, "STOPPING=1\nSTATUS=stopping; the rules stay");
    assert!(daemon.0.wait().unwrap().success());
}

#[test]
fn a_restart_in_place_is_not_reported_as_stopping() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("reload");
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("socket");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let manifests = Manifests::of(&service("web", "172.30.0.1", ""));
    let manifests = manifests.path();
    let config = directory.path().join("config.conf");
    let write = |bit: u8| {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: nftables\nhealthzBindAddress: 127.0.0.1:10256\n\
             nftables: {{ masqueradeBit: {bit} }}\n\
             conntrack: {{ maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s }}\n"
        );
        let draft = directory.path().join("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, &config).unwrap();
    };
    write(14);
    let [manifests, config] = [&manifests, &config].map(|path| path.to_str().unwrap());
    let args = ["run", "--manifests", manifests, "--config", config, "--node-name", NODE_NAME];
    let mut daemon = command(&node, &args);
    daemon.env("NOTIFY_SOCKET", &socket);
    let (_daemon, _log) = Killed::start(daemon, &directory.path().join("log"));
    heard_until(&manager, "READY=1");
    assert!(listing(&node).contains("0x00004000"), "bit 14");
    write(15);
    let (before, _) = heard_until(&manager, "RELOADING=1");
    assert!(!before.iter().any(|message| message.contains("STOPPING")), "{before:?}");
    let (before, _) = heard_until(&manager, "READY=1");
    assert!(!before.iter().any(|message| message.contains("STOPPING")), "{before:?}");
    assert!(listing(&node).contains("0x00008000"), "bit 15");
}

#[test]
fn a_reload_is_reported_from_start_to_end() {
    if !require_root() {
        return;
    }
    let unit = read("deploy/systemd/rulec.service");
    assert!(unit.contains("\nExecReload=/bin/kill -HUP $MAINPID\n"), "{unit}");
    let node = Namespace::new("hangup-told");
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("socket");
    let manager = UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let manifests = Manifests::of(&service("web", "172.30.0.1", ""));
    let path = manifests.path();
    let args = ["run", "--manifests", path.to_str().unwrap(), "--node-name", NODE_NAME];
    let mut daemon = command(&node, &args);
    daemon.env("NOTIFY_SOCKET", &socket);
    let (daemon, _log) = Killed::start(daemon, &directory.path().join("log"));
    heard_until(&manager, "READY=1");
    node.sh(&format!("kill -HUP {}", daemon.0.id()));
    let (before, reloading) = heard_until(&manager, "RELOADING=1");
    assert!(before.iter().all(|message| message.starts_with("WATCHDOG=1")), "{before:?}");
    // `Type=notify-reload` requires the time.
    let time = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(time.unwrap().parse::<u64>().unwrap() > 0, "{reloading}");
    let (_, ready) = heard_until(&manager, "READY=1");
    assert!(ready.contains("STATUS=programmed; services: 1"), "{ready}");
}

#[test]
fn one_capability_is_enough() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("capability");
    let directory = TempDir::new().unwrap();
    let manifests = directory.path().join("manifests");
    fs::create_dir(&manifests).unwrap();
    let file = service("web", "172.30.0.1", "") + "---\n" + &slice("web", &["10.50.1.1"]);
    fs::write(manifests.join("all.yaml"), file).unwrap();
    let program = directory.path().join("rulec");
    fs::copy(RULEC, &program).unwrap();
    // A user other than root must be able to enter the directory.
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let run = |capabilities: &str| {
        let capabilities = format!("-all{capabilities}");
        let mut command = node.command(
            "setpriv",
            ["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"],
        );
        for set in ["--bounding-set", "--inh-caps", "--ambient-caps"] {
            command.args([set, &capabilities]);
        }
        command.arg(&program).args(["run", "--node-name", NODE_NAME, "--manifests"]);
        command
            .env("RULEC_SOCKET", "")
            .arg(&manifests)
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        Killed(command.spawn().unwrap())
    };
    let mut daemon = run("");
    assert_eq!(daemon.0.wait().unwrap().code(), Some(3), "without CAP_NET_ADMIN it fails");
    let _daemon = run(",+net_admin");
    eventually("an ordinary user with CAP_NET_ADMIN programs the node", || {
        rules(&node).contains("172.30.0.1")
    });
}

fn rules(node: &Namespace) -> String {
    let output = node.command("nft", ["list", "table", "ip", "rulec"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// As the unit runs it: root with this one capability. What root owns can be read, and nothing
/// else can be got at.
#[test]
fn root_with_one_capability_reads_what_is_for_root_only() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("root");
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["manifests", "static", "cni"] {
        fs::create_dir(path(name)).unwrap();
        fs::set_permissions(path(name), Permissions::from_mode(0o700)).unwrap();
    }
    // A Service without an address, a static Pod without one, and what CNI says of it.
    let service = |name: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n{address}  \
             selector: {{app: web}}\n  ports: [{{port: 80, targetPort: http}}]\n"
        )
    };
    fs::write(path("manifests/web.yaml"), service("web", "")).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\n  labels: {app: web}\nspec:\n  \
               containers: [{name: web, ports: [{name: http, containerPort: 8080}]}]\n";
    fs::write(path("static/web.yaml"), pod).unwrap();
    let record = json!({
        "kind": "cniCacheV1", "containerId": "c1", "ifName": "eth0", "networkName": "net",
        "cniArgs": [["K8S_POD_NAMESPACE", "default"], ["K8S_POD_NAME", format!("web-{NODE_NAME}")]],
        "result": {"cniVersion": "1.0.0", "ips": [{"address": "10.50.1.7/24"}]},
    });
    fs::write(path("cni/net-c1-eth0"), record.to_string()).unwrap();
    let secret = path("manifests/other.yaml");
    fs::write(&secret, service("other", "  clusterIP: 172.30.0.9\n")).unwrap();
    fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
    chown(&secret, Some(65534), None).unwrap();

    let capabilities = "--bounding-set=-all,+net_admin";
    let mut command = node.command("setpriv", ["--no-new-privs", capabilities, "--inh-caps=-all"]);
    command.arg(RULEC).args(["run", "--node-name", NODE_NAME]);
    command.arg("--socket").arg(path("rulec.sock"));
    command.arg("--manifests").arg(path("manifests"));
    command.arg("--pod-manifest-path").arg(path("static"));
    command.arg("--cni-cache").arg(path("cni"));
    let (_daemon, log) = Killed::start(command, &path("log"));
    eventually("the static Pod is served", || rules(&node).contains("10.50.1.7 . 8080"));
    eventually("the unreadable file is named", || log.text().contains("other.yaml"));
    assert!(!rules(&node).contains("172.30.0.9"), "that file is another user's");
}
