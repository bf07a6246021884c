//! The daemon and the state on disk. A reboot is simulated by removing all that the kernel holds.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rulec_apiserver::{ApiServer, Credential, Resource, Server, Settings, on_both_servers};
use rulec_testkit::{Namespace, require_root};
use serde_json::json;
use tempfile::TempDir;

use super::{Cluster, node_object, service, slice};
use crate::daemon::{Daemon, NODE_NAME, SETTLED, command, rulec};
use crate::health::Metrics;
use crate::support::{eventually, get};

const HEALTH: &str = "127.0.0.1:10256";

/// Logged when the server has not delivered its objects in time.
const STANDS_IN: &str = "using the state of the last run";

/// Logged when the server has delivered them.
const DELIVERED: &str = "the state of the last run is no longer used";

on_both_servers!(a_reboot_without_the_server_serves_the_saved_state);

impl<S: Server> Cluster<S> {
    fn state(&self) -> String {
        self.path("state").to_str().unwrap().to_owned()
    }

    fn start_with_state(&mut self) {
        let state = self.state();
        self.start(&["--state-dir", &state]);
    }

    /// Stops the daemon, and removes all that the kernel holds.
    fn reboot(&mut self) {
        self.daemon.take().expect("the daemon runs").stop();
        let output = rulec(&self.node, &["cleanup"]);
        assert!(output.status.success(), "{output:?}");
    }
}

fn a_reboot_without_the_server_serves_the_saved_state<S: Server>() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("state-reboot");
    let before = [node_object(), service(1, 80), slice(1, 2), service(2, 80), slice(2, 2)];
    before.iter().for_each(|object| cluster.server.apply(object));
    cluster.start_with_state();
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&before);
    assert_eq!(get(&cluster.node, HEALTH, "/readyz").body, "ok");
    cluster.reboot();

    cluster.server.down();
    let started = Instant::now();
    cluster.start_with_state();
    cluster.daemon().wait_for(STANDS_IN);
    assert!(started.elapsed() >= Duration::from_secs(1), "the server gets a second first");
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&before);
    // The staleness is reported by probes, by status and by metrics.
    let ready = get(&cluster.node, HEALTH, "/readyz");
    assert_eq!(ready.code, 200, "it serves");
    assert!(ready.body.starts_with("ok\nstale: the API server, as of 20"), "{}", ready.body);
    let health = get(&cluster.node, HEALTH, "/livez").json();
    assert!(health["staleSince"]["api"].is_string(), "{health}");
    let stale = |cluster: &Cluster<S>| {
        let metrics = Metrics::of(&cluster.node);
        metrics.value("rulec_source_stale_seconds", "{source=\"api\"}")
    };
    assert!(stale(&cluster) >= 1.0);
    assert_eq!(Metrics::of(&cluster.node).value("rulec_state_write_failures_total", ""), 0.0);

    // When the server is back, only the changes made meanwhile are applied.
    cluster.server.delete(Resource::Services, "default", "web-2");
    cluster.server.apply(&slice(1, 3));
    let committed = cluster.daemon().committed();
    assert_eq!(committed, 1, "nothing was removed, nothing is added");
    cluster.server.up();
    cluster.holds(&[node_object(), service(1, 80), slice(1, 3), slice(2, 2)]);
    cluster.daemon().wait_for(DELIVERED);
    eventually("/readyz is plain again", || get(&cluster.node, HEALTH, "/readyz").body == "ok");
    assert!(!get(&cluster.node, HEALTH, "/livez").body.contains("staleSince"));
}

#[test]
fn a_start_without_the_server_removes_nothing() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("state-start");
    let objects = [node_object(), service(1, 80), slice(1, 2)];
    for object in &objects {
        cluster.server.apply(object);
    }
    cluster.start_with_state();
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&objects);
    cluster.daemon.take().unwrap().stop();
    cluster.server.down();
    // The kernel holds what the state contains, so that nothing is written.
    cluster.start_with_state();
    cluster.daemon().wait_for(SETTLED);
    assert_eq!(cluster.daemon().committed(), 0);
    cluster.holds(&objects);
    cluster.daemon.take().unwrap().stop();

    // A damaged file is reported, and the daemon starts as if there were none: it waits.
    let path = cluster.path("state").join("api.state");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    cluster.start_with_state();
    let refusal = format!("saved state ignored: {}: is damaged: ", path.display());
    cluster.daemon().wait_for(&refusal);
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(cluster.daemon().committed(), 0);
    assert_eq!(cluster.daemon().count(SETTLED), 0);
    cluster.holds(&objects);
    cluster.server.up();
    cluster.daemon().wait_for(SETTLED);
}

#[test]
fn an_unwritable_state_directory_does_not_stop_the_daemon() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("state-disk");
    // A file, not a directory.
    fs::write(cluster.path("state"), "").unwrap();
    cluster.server.apply(&service(1, 80));
    cluster.start_with_state();
    cluster.daemon().wait_for(SETTLED);
    let path = cluster.path("state").join("api.state");
    cluster.daemon().wait_for("cannot write state, will keep retrying");
    let said = format!("path={}", path.display());
    assert!(cluster.daemon().log().contains(&said), "{}", cluster.daemon().log());
    let failures = |cluster: &Cluster<ApiServer>| {
        Metrics::of(&cluster.node).value("rulec_state_write_failures_total", "")
    };
    eventually("writing the state is retried", || failures(&cluster) >= 2.0);
    cluster.server.apply(&service(2, 80));
    cluster.holds(&[node_object(), service(1, 80), service(2, 80)]);
    assert_eq!(cluster.daemon().count("cannot write state, will keep retrying"), 1, "once");
    fs::remove_file(cluster.path("state")).unwrap();
    cluster.daemon().wait_for("state can be written again");
    assert!(path.exists());
    assert!(Metrics::of(&cluster.node).value("rulec_state_bytes_total", "") > 100.0);
}

/// The file is replaced atomically, so that it is valid whenever the daemon dies.
#[test]
fn a_crash_at_any_time_leaves_a_readable_state() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("state-crash");
    cluster.server.apply(&service(1, 80));
    let path = cluster.path("state").join("api.state");
    for round in 0..8u64 {
        cluster.start_with_state();
        cluster.daemon().wait_for(SETTLED);
        if round > 0 {
            cluster.daemon().wait_for("read the state of the API server");
        }
        assert_eq!(cluster.daemon().count("saved state ignored"), 0);
        eventually("the first state is there", || path.exists());
        let until = Instant::now() + Duration::from_millis(130 * (round + 1));
        let mut port = 1000;
        while Instant::now() < until {
            port += 1;
            cluster.server.apply(&service(1, port));
        }
        cluster.daemon.take().unwrap().kill9();
    }
}

/// A cluster in which the API server's address is a Service that only the daemon translates, as in
/// every cluster where the daemon finds the server as Pods do.
struct Circle {
    daemon: Option<Daemon>,
    server: ApiServer,
    node: Namespace,
    directory: TempDir,
}

impl Circle {
    const SERVICE: &str = "10.96.0.1";

    fn new(name: &str) -> Self {
        let node = Namespace::new(name);
        node.sh("ip link set lo up; ip addr add 192.0.2.10/32 dev lo");
        // The route for cluster addresses; packets that are not translated end at `lo`.
        node.sh("ip route add 10.96.0.0/12 dev lo src 192.0.2.10");
        let listen = SocketAddr::from(([192, 0, 2, 10], 0));
        let names = vec![Self::SERVICE.to_owned()];
        let settings = Settings { listen, names, ..Settings::default() };
        let server = node.run(|| ApiServer::with(settings));
        let circle = Self { daemon: None, server, node, directory: TempDir::new().unwrap() };
        let port = circle.server.address().port();
        circle.server.apply(&node_object());
        circle.server.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": Self::SERVICE, "ports": [{"name": "https", "port": 443}]},
        }));
        circle.server.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": ["192.0.2.10"], "conditions": {"ready": true}}],
        }));
        circle.server.apply(&service(1, 80));
        circle
    }

    /// Writes the kubeconfig, with the server's own address or with that of the Service.
    fn write_kubeconfig(&self, by_service: bool) -> String {
        let path = self.directory.path().join("kubeconfig");
        self.server.write_kubeconfig(&path, &Credential::Token("token".into()));
        if by_service {
            let text = fs::read_to_string(&path).unwrap();
            let own = self.server.url();
            assert!(text.contains(&own));
            fs::write(&path, text.replace(&own, &format!("https://{}", Self::SERVICE))).unwrap();
        }
        path.to_str().unwrap().to_owned()
    }

    fn start(&mut self, by_service: bool, args: &[&str]) -> &mut Daemon {
        let kubeconfig = self.write_kubeconfig(by_service);
        let own = ["run", "--node-name", NODE_NAME, "--kubeconfig", &kubeconfig];
        let mut command = command(&self.node, &[&own, args].concat());
        // The kubelet sets these variables for Pods.
        command.env("KUBERNETES_SERVICE_HOST", Self::SERVICE).env("KUBERNETES_SERVICE_PORT", "443");
        self.daemon.insert(Daemon::of(command))
    }

    fn reboot(&mut self) {
        self.daemon.take().expect("the daemon runs").stop();
        let output = rulec(&self.node, &["cleanup"]);
        assert!(output.status.success(), "{output:?}");
    }
}

#[test]
fn saved_state_makes_the_server_reachable_by_its_service() {
    if !require_root() {
        return;
    }
    let mut circle = Circle::new("state-circle");
    let state = circle.directory.path().join("state").to_str().unwrap().to_owned();
    circle.start(false, &["--state-dir", &state]).wait_for(SETTLED);
    circle.reboot();
    let daemon = circle.start(true, &["--state-dir", &state]);
    daemon.wait_for(STANDS_IN);
    daemon.wait_for(SETTLED);
    daemon.wait_for(DELIVERED);
    let before = daemon.committed();
    circle.server.apply(&service(2, 80));
    circle.daemon.as_mut().unwrap().wait_for_count(" committed ", before + 1);
}

#[test]
fn an_unreachable_server_is_reported_if_there_is_no_state() {
    if !require_root() {
        return;
    }
    let mut circle = Circle::new("state-none");
    let daemon = circle.start(true, &[]);
    daemon.wait_for(
        "the API server cannot be reached at the address of the Service default/kubernetes",
    );
    daemon.wait_for("--state-dir");
    assert_eq!(daemon.committed(), 0);
}
