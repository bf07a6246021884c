//! The daemon's answers to probes, load balancers and Prometheus: the real binary, over HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use rulec_testkit::{Namespace, require_root};
use serde_json::json;

use crate::daemon::{COMMITTED, Daemon, Manifests};
use crate::support::{eventually, file, get, request, service, slice};

const HEALTH: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";

/// Returns fields for the spec of a Service that load balancers probe.
fn balanced(port: u16) -> String {
    format!("  type: LoadBalancer\n  externalTrafficPolicy: Local\n  healthCheckNodePort: {port}\n")
}

/// Returns a slice with endpoints on this node.
fn local_slice(service: &str, addresses: &[&str]) -> String {
    slice(service, addresses).replace("nodeName: nb", "nodeName: na")
}

/// Returns the Node object of this node.
fn node(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Node\nmetadata:\n  name: na\n{spec}")
}

fn web() -> Manifests {
    Manifests::of(&file(&[service("web", "10.96.0.10", ""), slice("web", &["10.50.1.1"])]))
}

/// Returns the status code at an address; 0 if no server listens there.
fn code(namespace: &Namespace, address: &str, path: &str) -> u16 {
    request(namespace, "GET", address, path).map_or(0, |answer| answer.code)
}

/// Waits for a status code.
fn await_code(namespace: &Namespace, address: &str, path: &str, expected: u16) {
    let what = format!("{address}{path} is {expected}");
    eventually(&what, || code(namespace, address, path) == expected);
}

/// Another process that owns our IPv4 table; the table disappears with it.
struct TableOwner(Child);

impl TableOwner {
    fn start(namespace: &Namespace) -> Self {
        let mut child =
            namespace.command("nft", ["-i"]).stdin(Stdio::piped()).spawn().expect("nft starts");
        let script = "delete table ip rulec; add table ip rulec { flags owner; }\n";
        child.stdin.as_mut().expect("stdin is piped").write_all(script.as_bytes()).unwrap();
        Self(child)
    }
}

impl Drop for TableOwner {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn probes_are_answered_as_by_kube_proxy() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("health");
    let manifests = web();
    let _daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    for method in ["GET", "POST"] {
        let answer = request(&namespace, method, HEALTH, "/healthz").unwrap();
        assert_eq!(answer.code, 200, "{}", answer.body);
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let body = answer.json();
        assert_eq!((&body["healthy"], &body["nodeEligible"]), (&json!(true), &json!(true)));
        assert_eq!(body["lastUpdated"], body["currentTime"]);
        for family in ["IPv4", "IPv6"] {
            assert_eq!(body["status"][family]["healthy"], json!(true));
            assert!(body["status"][family]["lastUpdated"].is_string(), "{body}");
        }
    }
    let livez = get(&namespace, HEALTH, "/livez");
    assert_eq!((livez.code, livez.json().get("nodeEligible")), (200, None));
    let readyz = get(&namespace, HEALTH, "/readyz");
    assert_eq!((readyz.code, readyz.body.as_str()), (200, "ok"));
    assert_eq!(get(&namespace, HEALTH, "/metrics").code, 404);

    let healthz = get(&namespace, METRICS, "/healthz");
    assert_eq!((healthz.code, healthz.body.as_str()), (200, "ok"));
    let mode = get(&namespace, METRICS, "/proxyMode");
    assert_eq!((mode.code, mode.body.as_str()), (200, "nftables"));
    assert_eq!(mode.headers["content-type"], "text/plain; charset=utf-8");
    let config = get(&namespace, METRICS, "/configz").json();
    assert_eq!(config["kubeproxy.config.k8s.io"]["healthzBindAddress"], "0.0.0.0:10256");
}

#[test]
fn servers_can_be_moved_and_disabled() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("moved");
    let manifests = web();
    let args = ["--healthz-bind-address", "[::1]:8081", "--metrics-bind-address", ""];
    let _daemon = Daemon::start(&namespace, &manifests.path(), &args);
    assert_eq!(code(&namespace, "[::1]:8081", "/livez"), 200);
    assert_eq!(code(&namespace, HEALTH, "/livez"), 0);
    assert_eq!(code(&namespace, METRICS, "/healthz"), 0);
}

#[test]
fn a_taken_port_is_retried_unless_hard_fail_is_set() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("taken");
    let manifests = web();
    let taken = namespace.run(|| TcpListener::bind("0.0.0.0:10256").unwrap());
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    daemon.wait_for("cannot listen");
    assert_eq!(code(&namespace, METRICS, "/healthz"), 200);
    let fatal = ["--bind-address-hard-fail", "--shared-tables", "--metrics-bind-address", ""];
    let (status, log) = Daemon::spawn(&namespace, &manifests.path(), &fatal).wait();
    assert_eq!(status.code(), Some(3), "{log}");
    assert!(log.contains("healthz: cannot listen on 0.0.0.0:10256"), "{log}");
    drop(taken);
    await_code(&namespace, HEALTH, "/healthz", 200);
}

#[test]
fn silent_clients_do_not_block_others() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("silent");
    let manifests = web();
    let _daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    let mut silent: Vec<TcpStream> =
        namespace.run(|| (0..300).map(|_| TcpStream::connect(HEALTH).unwrap()).collect());
    assert_eq!(get(&namespace, HEALTH, "/livez").code, 200);
    // The oldest of them was closed to make room.
    assert_eq!(said_to_the_end(&mut silent[0]), "");
    // An incomplete request counts as silence, too, and gets no successful answer.
    let last = silent.last_mut().unwrap();
    last.write_all(b"GET /livez HTTP/1.1\r\nHost:").unwrap();
    assert!(!said_to_the_end(last).contains("200 OK"));
}

/// Returns what a server sends until it closes the connection.
fn said_to_the_end(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the connection is not closed: {error}"),
    }
    String::from_utf8(said).unwrap()
}

#[test]
fn a_node_about_to_be_deleted_fails_only_healthz() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("eligible");
    let manifests = web();
    manifests.write(
        "lb.yaml",
        &file(&[service("lb", "10.96.0.20", &balanced(31_000)), local_slice("lb", &["10.50.1.2"])]),
    );
    let _daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    let taints = |key: &str| node(&format!("spec:\n  taints:\n    - {{key: {key}, effect: x}}\n"));
    manifests.write("node.yaml", &taints("ToBeDeletedByClusterAutoscaler"));
    await_code(&namespace, HEALTH, "/healthz", 503);
    let body = get(&namespace, HEALTH, "/healthz").json();
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&json!(true), &json!(false)));
    assert_eq!(code(&namespace, HEALTH, "/livez"), 200);
    assert_eq!(code(&namespace, "127.0.0.1:31000", "/"), 200);
    manifests.write("node.yaml", &taints("node.kubernetes.io/unschedulable"));
    await_code(&namespace, HEALTH, "/healthz", 200);
}

#[test]
fn health_fails_when_the_kernel_cannot_be_programmed() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("stuck");
    let manifests = Manifests::of(&file(&[
        service("lb", "10.96.0.20", &balanced(31_000)),
        local_slice("lb", &["10.50.1.2"]),
    ]));
    let args = ["--shared-tables", "--iptables-sync-period", "1s"];
    let _daemon = Daemon::start(&namespace, &manifests.path(), &args);
    let balancer = "127.0.0.1:31000";
    assert_eq!(code(&namespace, HEALTH, "/livez"), 200);
    await_code(&namespace, balancer, "/", 200);
    {
        let _owner = TableOwner::start(&namespace);
        await_code(&namespace, HEALTH, "/livez", 503);
        let answer = get(&namespace, HEALTH, "/healthz");
        let body = answer.json();
        assert_eq!((answer.code, &body["healthy"]), (503, &json!(false)));
        assert_ne!(body["lastUpdated"], body["currentTime"]);
        assert_eq!(body["status"]["IPv4"]["healthy"], json!(false));
        let answer = get(&namespace, balancer, "/");
        let expected = json!({
            "service": {"namespace": "default", "name": "lb"},
            "localEndpoints": 1,
            "serviceProxyHealthy": false,
        });
        assert_eq!((answer.code, answer.json()), (503, expected));
        // Readiness does not end once reached: the rules are in place for Pods that have started.
        assert_eq!(code(&namespace, HEALTH, "/readyz"), 200);
        let metrics = Metrics::of(&namespace);
        let failures = "kubeproxy_sync_proxy_rules_nftables_sync_failures_total";
        assert!(metrics.value(failures, "{ip_family=\"IPv4\"}") > 0.0);
        assert!(metrics.value("kubeproxy_proxy_livez_total", "{code=\"503\"}") > 0.0);
    }
    await_code(&namespace, HEALTH, "/livez", 200);
    await_code(&namespace, balancer, "/", 200);
}

#[test]
fn readyz_fails_until_the_kernel_holds_the_first_rules() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("unready");
    let manifests = web();
    let first = Daemon::start(&namespace, &manifests.path(), &[]);
    let (health, metrics) = ("127.0.0.1:8081", "127.0.0.1:8082");
    let args = ["--healthz-bind-address", health, "--metrics-bind-address", metrics];
    let mut second = Daemon::spawn(&namespace, &manifests.path(), &args);
    second.wait_for("is owned by another process");
    await_code(&namespace, health, "/readyz", 503);
    let answer = get(&namespace, health, "/readyz");
    assert!(answer.body.contains("waiting for the kernel"), "{}", answer.body);
    // The daemon has a minute before that counts as unhealthy.
    assert_eq!(code(&namespace, health, "/healthz"), 200);
    first.stop();
    await_code(&namespace, health, "/readyz", 200);
}

#[test]
fn health_checks_report_the_number_of_local_endpoints() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("balancers");
    let manifests = Manifests::new();
    let both = "  clusterIPs: [10.96.0.20, \"fd00:96::20\"]\n";
    let lb = |port: u16| service("lb", "10.96.0.20", &(both.to_owned() + &balanced(port)));
    let v6 = local_slice("lb", &["fd00:50::1"]);
    let many = &["10.50.1.1", "10.50.1.2"];
    manifests.write("lb.yaml", &lb(31_000));
    manifests.write("v4.yaml", &local_slice("lb", many));
    manifests.write("v6.yaml", &v6);
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    let ask = |address: &str| {
        let answer = get(&namespace, address, "/any/path");
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let weight = answer.headers["x-load-balancing-endpoint-weight"].clone();
        let local = answer.json()["localEndpoints"].clone();
        assert_eq!(local.to_string(), weight);
        (answer.code, weight)
    };
    let (v4_old, v6_old) = ("127.0.0.1:31000", "[::1]:31000");
    await_code(&namespace, v6_old, "/", 200);
    assert_eq!(ask(v4_old), (200, "2".to_owned()));
    assert_eq!(ask(v6_old), (200, "1".to_owned()));

    // Endpoints on other nodes do not count, and neither do terminating ones.
    daemon.after(|| manifests.write("v4.yaml", &slice("lb", many)));
    eventually("none is here", || ask(v4_old) == (503, "0".to_owned()));
    let terminating = "\n    conditions: {ready: false, serving: true, terminating: true}\n";
    let dying = local_slice("lb", &["10.50.1.3"]).trim_end().to_owned() + terminating;
    daemon.after(|| manifests.write("v4.yaml", &dying));
    assert_eq!(ask(v4_old), (503, "0".to_owned()));
    daemon.after(|| manifests.write("v4.yaml", &local_slice("lb", &["10.50.1.4"])));
    eventually("one is here", || ask(v4_old) == (200, "1".to_owned()));

    // Another port, which is taken for now; other Services are not affected.
    let taken = namespace.run(|| TcpListener::bind("0.0.0.0:31001").unwrap());
    manifests.write("lb.yaml", &lb(31_001));
    await_code(&namespace, v4_old, "/", 0);
    await_code(&namespace, "[::1]:31001", "/", 200);
    assert_eq!(code(&namespace, v6_old, "/"), 0);
    daemon.wait_for("health check of Service default/lb (IPv4)");
    manifests.write(
        "other.yaml",
        &file(&[service("other", "10.96.0.30", &balanced(31_002)), local_slice("other", many)]),
    );
    await_code(&namespace, "127.0.0.1:31002", "/", 200);
    drop(taken);
    await_code(&namespace, "127.0.0.1:31001", "/", 200);

    manifests.remove("lb.yaml");
    await_code(&namespace, "127.0.0.1:31001", "/", 0);
    await_code(&namespace, "[::1]:31001", "/", 0);
    assert_eq!(ask("127.0.0.1:31002"), (200, "2".to_owned()));
}

#[test]
fn health_checks_answer_on_the_node_port_addresses() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("answered");
    namespace.sh("ip addr add 192.0.2.10/32 dev lo; ip addr add 192.0.2.11/32 dev lo
                  ip addr add 198.51.100.10/32 dev lo; ip addr add 2001:db8::10/128 dev lo nodad");
    let manifests = Manifests::new();
    let both = "  clusterIPs: [10.96.0.20, \"fd00:96::20\"]\n";
    let lb = service("lb", "10.96.0.20", &(both.to_owned() + &balanced(31_000)));
    manifests.write("lb.yaml", &file(&[lb, local_slice("lb", &["10.50.1.1"])]));
    let v6 = local_slice("lb", &["fd00:50::1"]);
    manifests.write("v6.yaml", &v6);
    let open = |ip: &str| code(&namespace, &format!("{ip}:31000"), "/") == 200;
    let opens = |ip: &str| eventually(&format!("{ip} answers"), || open(ip));
    let closes = |ip: &str| eventually(&format!("{ip} does not answer"), || !open(ip));
    {
        let networks = ["--nodeport-addresses", "192.0.2.0/24,127.0.0.0/8"];
        let _daemon = Daemon::start(&namespace, &manifests.path(), &networks);
        opens("192.0.2.10");
        opens("192.0.2.11");
        opens("127.0.0.1");
        // Without a network of this family, all of its addresses are used.
        opens("[2001:db8::10]");
        opens("[::1]");
        assert!(!open("198.51.100.10"));
        namespace.sh("ip addr add 192.0.2.12/32 dev lo; ip addr del 192.0.2.11/32 dev lo");
        opens("192.0.2.12");
        // Its server is closed, and not merely unreachable.
        let listening = || namespace.sh("ss -Hltn 'sport = 31000'").contains("192.0.2.11");
        eventually("the server of a removed address closes", || !listening());
    }
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    // No Node object gives the primary address.
    opens("198.51.100.10");
    opens("127.0.0.1");
    let addresses = "status: {addresses: [{type: InternalIP, address: 192.0.2.10}]}\n";
    daemon.after(|| manifests.write("node.yaml", &node(addresses)));
    closes("198.51.100.10");
    closes("127.0.0.1");
    opens("192.0.2.10");
    opens("[::1]");
    assert_eq!(daemon.count("cannot listen"), 0, "{}", daemon.log());
    daemon.after(|| manifests.remove("node.yaml"));
    opens("198.51.100.10");
}

/// Metrics as a scraper reads them.
pub(crate) struct Metrics {
    types: BTreeMap<String, String>,
    /// Values by name and labels.
    samples: BTreeMap<String, f64>,
}

impl Metrics {
    pub(crate) fn of(namespace: &Namespace) -> Self {
        Self::at(namespace, "/metrics")
    }

    fn at(namespace: &Namespace, path: &str) -> Self {
        let answer = get(namespace, METRICS, path);
        assert_eq!(answer.code, 200, "{}", answer.body);
        let content_type = "text/plain; version=0.0.4; charset=utf-8";
        assert_eq!(answer.headers["content-type"], content_type);
        let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
        for line in answer.body.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let before = types.insert(name.to_owned(), kind.to_owned());
                assert_eq!(before, None, "{name} is declared twice");
            } else if !line.starts_with("# HELP ") {
                let (series, value) = line.rsplit_once(' ').unwrap();
                // A sample belongs to a metric that was declared before it.
                let name = series.split('{').next().unwrap();
                let known = ["", "_bucket", "_sum", "_count"]
                    .iter()
                    .filter_map(|suffix| name.strip_suffix(suffix))
                    .any(|name| types.contains_key(name));
                assert!(known, "{line}");
                let before = samples.insert(series.to_owned(), value.parse().unwrap());
                assert_eq!(before, None, "{series} is there twice");
            }
        }
        Self { types, samples }
    }

    pub(crate) fn value(&self, name: &str, labels: &str) -> f64 {
        let series = format!("{name}{labels}");
        *self.samples.get(&series).unwrap_or_else(|| panic!("{series}: {:#?}", self.samples))
    }
}

/// The metrics that there are only if connections are counted.
pub(crate) const OF_TRAFFIC: [(&str, &str); 4] = [
    ("rulec_endpoint_connections_total", "counter"),
    ("rulec_service_connections_total", "counter"),
    ("rulec_traffic_losses_total", "counter"),
    ("rulec_traffic_series_left_out", "gauge"),
];

/// All other exported metrics with their types.
pub(crate) const EXPORTED: [(&str, &str); 65] = [
    ("kubeproxy_conntrack_reconciler_deleted_entries_total", "counter"),
    ("kubeproxy_conntrack_reconciler_sync_duration_seconds", "histogram"),
    ("kubeproxy_network_programming_duration_seconds", "histogram"),
    ("kubeproxy_proxy_healthz_total", "counter"),
    ("kubeproxy_proxy_livez_total", "counter"),
    ("kubeproxy_sync_full_proxy_rules_duration_seconds", "histogram"),
    ("kubeproxy_sync_partial_proxy_rules_duration_seconds", "histogram"),
    ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram"),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge"),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter"),
    ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge"),
    ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge"),
    ("kubeproxy_sync_proxy_rules_nftables_cleanup_failures_total", "counter"),
    ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total", "counter"),
    ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge"),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge"),
    ("kubeproxy_sync_proxy_rules_service_changes_total", "counter"),
    ("process_cpu_seconds_total", "counter"),
    ("process_max_fds", "gauge"),
    ("process_open_fds", "gauge"),
    ("process_resident_memory_bytes", "gauge"),
    ("process_start_time_seconds", "gauge"),
    ("process_virtual_memory_bytes", "gauge"),
    ("process_virtual_memory_max_bytes", "gauge"),
    ("rulec_affinity_limited_endpoints", "gauge"),
    ("rulec_api_errors_total", "counter"),
    ("rulec_api_lists_total", "counter"),
    ("rulec_api_watch_events_total", "counter"),
    ("rulec_api_watched", "gauge"),
    ("rulec_broken_files", "gauge"),
    ("rulec_build_info", "gauge"),
    ("rulec_commit_bytes_total", "counter"),
    ("rulec_compile_seconds", "histogram"),
    ("rulec_config_refused", "gauge"),
    ("rulec_delta_operations_total", "counter"),
    ("rulec_drift_repairs_total", "counter"),
    ("rulec_frontend_conflicts", "gauge"),
    ("rulec_hosts_file_names", "gauge"),
    ("rulec_hosts_file_write_failures_total", "counter"),
    ("rulec_kept_services", "gauge"),
    ("rulec_log_lines_dropped_total", "counter"),
    ("rulec_objects", "gauge"),
    ("rulec_overridden_objects", "gauge"),
    ("rulec_quarantined_services", "gauge"),
    ("rulec_queue_to_ack_seconds", "histogram"),
    ("rulec_recording_bytes_total", "counter"),
    ("rulec_recording_lost_updates_total", "counter"),
    ("rulec_recording_write_failures_total", "counter"),
    ("rulec_records", "gauge"),
    ("rulec_records_limit", "gauge"),
    ("rulec_relay_source_connected", "gauge"),
    ("rulec_relay_source_connections_total", "counter"),
    ("rulec_relay_source_errors_total", "counter"),
    ("rulec_relay_source_received_bytes_total", "counter"),
    ("rulec_relay_source_received_resources_total", "counter"),
    ("rulec_relay_source_refused_resources_total", "counter"),
    ("rulec_relay_source_replaced", "gauge"),
    ("rulec_source_available", "gauge"),
    ("rulec_source_complete", "gauge"),
    ("rulec_source_problems", "gauge"),
    ("rulec_source_stale_seconds", "gauge"),
    ("rulec_state_bytes_total", "counter"),
    ("rulec_state_write_failures_total", "counter"),
    ("rulec_suppressed_changes_total", "counter"),
    ("rulec_transactions_total", "counter"),
];

/// Metrics that are exported only with an API server.
pub(crate) const OF_THE_API: [&str; 2] = ["rulec_api_errors_total", "rulec_api_watched"];

/// Metrics that are exported only with a relay.
pub(crate) const OF_A_RELAY: &str = "rulec_relay_source_";

#[test]
fn metrics_have_the_expected_names_types_and_values() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("metrics");
    let manifests = web();
    let far = service("far", "10.96.0.20", &balanced(31_000));
    manifests.write("far.yaml", &file(&[far, slice("far", &["10.50.2.1"])]));
    let mut daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    // A settled daemon may still be working on an earlier listing of the directory.
    daemon.after(|| {
        let text =
            file(&[service("web", "10.96.0.10", ""), slice("web", &["10.50.1.1", "10.50.1.2"])]);
        manifests.write("all.yaml", &text);
    });
    let first = Metrics::of(&namespace);
    let exported: Vec<(&str, &str)> =
        first.types.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    let here = EXPORTED
        .into_iter()
        .filter(|(name, _)| !OF_THE_API.contains(name) && !name.starts_with(OF_A_RELAY));
    assert_eq!(exported, here.collect::<Vec<_>>());
    // Counters exist from the start, so that rates can be computed, even for events that never
    // occurred.
    for (name, kind) in exported.iter().filter(|(_, kind)| *kind == "counter") {
        assert!(first.samples.keys().any(|series| series.starts_with(name)), "{kind} {name}");
    }
    assert_eq!(
        first.value("rulec_delta_operations_total", "{set=\"endpoints\",op=\"delete\"}"),
        0.0
    );
    assert!(first.value("process_resident_memory_bytes", "") > 1e6);
    assert!(first.value("process_open_fds", "") < first.value("process_max_fds", ""));
    for name in [
        "sync_proxy_rules_duration_seconds",
        "sync_full_proxy_rules_duration_seconds",
        "sync_partial_proxy_rules_duration_seconds",
        "conntrack_reconciler_sync_duration_seconds",
    ] {
        let bounds = bounds(&first, &format!("kubeproxy_{name}"));
        let doubling: Vec<f64> = (0..15).map(|power| 0.001 * f64::from(1 << power)).collect();
        assert_eq!(bounds, doubling, "{name}");
    }
    let programming = bounds(&first, "kubeproxy_network_programming_duration_seconds");
    assert_eq!(programming.len(), 2 + 59 + 12 + 7);
    assert_eq!(programming[..4], [0.25, 0.5, 1.0, 2.0]);
    assert_eq!(programming[72..], [115.0, 120.0, 150.0, 180.0, 210.0, 240.0, 270.0, 300.0]);
    for family in ["IPv4", "IPv6"] {
        // Prometheus compares bounds as strings.
        let labels = format!("{{le=\"1\",ip_family=\"{family}\"}}");
        let name = "kubeproxy_network_programming_duration_seconds_bucket";
        assert_eq!(first.value(name, &labels), 0.0);
    }
    let no_local = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    assert_eq!(first.value(no_local, "{traffic_policy=\"external\",ip_family=\"IPv4\"}"), 1.0);
    assert_eq!(first.value(no_local, "{traffic_policy=\"internal\",ip_family=\"IPv4\"}"), 0.0);
    let objects = |kind: &str| {
        first.value("rulec_objects", &format!("{{kind=\"{kind}\",source=\"manifests\"}}"))
    };
    assert_eq!((objects("Service"), objects("EndpointSlice"), objects("Node")), (2.0, 2.0, 0.0));
    assert_eq!(first.value("rulec_source_complete", "{source=\"manifests\"}"), 1.0);

    // One additional endpoint is one change and one commit.
    daemon.after(|| {
        let text = file(&[
            service("web", "10.96.0.10", ""),
            slice("web", &["10.50.1.1", "10.50.1.2", "10.50.1.3"]),
        ]);
        manifests.write("all.yaml", &text);
    });
    let second = Metrics::of(&namespace);
    let grown = |name: &str, labels: &str| second.value(name, labels) - first.value(name, labels);
    assert_eq!(grown("kubeproxy_sync_proxy_rules_endpoint_changes_total", ""), 1.0);
    assert_eq!(grown("kubeproxy_sync_proxy_rules_service_changes_total", ""), 0.0);
    assert_eq!(second.value("kubeproxy_sync_proxy_rules_endpoint_changes_pending", ""), 0.0);
    let log = daemon.log();
    let committed = log.lines().rfind(|line| line.contains(COMMITTED)).unwrap();
    let logged = |what: &str| -> f64 {
        let value = committed.split(&format!("{what}=")).nth(1).unwrap();
        value.split(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(grown("rulec_transactions_total", ""), logged("transactions"));
    assert_eq!(grown("rulec_commit_bytes_total", ""), logged("bytes"));
    assert_eq!(grown("rulec_queue_to_ack_seconds_count", ""), 1.0);
    assert_eq!(grown("rulec_compile_seconds_count", ""), 1.0);
    assert_eq!(grown("rulec_delta_operations_total", "{set=\"endpoints\",op=\"add\"}"), 1.0);
    assert_eq!(grown("rulec_delta_operations_total", "{set=\"services\",op=\"add\"}"), 1.0);
    for family in ["IPv4", "IPv6"] {
        let labels = format!("{{ip_family=\"{family}\"}}");
        assert_eq!(grown("kubeproxy_sync_proxy_rules_duration_seconds_count", &labels), 1.0);
        assert_eq!(
            grown("kubeproxy_sync_partial_proxy_rules_duration_seconds_count", &labels),
            1.0
        );
        assert_eq!(grown("kubeproxy_sync_full_proxy_rules_duration_seconds_count", &labels), 0.0);
        assert!(grown("kubeproxy_sync_proxy_rules_last_timestamp_seconds", &labels) > 0.0);
        assert!(grown("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", &labels) > 0.0);
    }

    // The same content in another form has no effect.
    let text = file(&[
        service("web", "10.96.0.10", ""),
        slice("web", &["10.50.1.3", "10.50.1.2", "10.50.1.1"]),
    ]);
    manifests.write("all.yaml", &text);
    let suppressed = |metrics: &Metrics| {
        metrics.value("rulec_suppressed_changes_total", "{source=\"manifests\"}")
    };
    let before = suppressed(&second);
    eventually("a change is suppressed", || suppressed(&Metrics::of(&namespace)) > before);
    let third = Metrics::of(&namespace);
    assert_eq!(
        third.value("rulec_transactions_total", ""),
        second.value("rulec_transactions_total", "")
    );
}

#[test]
fn checks_of_the_metrics_server_are_counted_separately() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("slis");
    let manifests = web();
    let _daemon = Daemon::start(&namespace, &manifests.path(), &[]);
    let all = "{name=\"ping\",status=\"success\",type=\"healthz\"}";
    let slis = Metrics::at(&namespace, "/metrics/slis");
    assert_eq!(slis.samples.len(), 1, "no gauge before the first check: {:?}", slis.samples);
    assert_eq!(slis.value("kubernetes_healthchecks_total", all), 0.0);
    for times in [1.0, 2.0] {
        assert_eq!(code(&namespace, METRICS, "/healthz"), 200);
        let slis = Metrics::at(&namespace, "/metrics/slis");
        let types =
            [("kubernetes_healthcheck", "gauge"), ("kubernetes_healthchecks_total", "counter")];
        let exported: Vec<(&str, &str)> =
            slis.types.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
        assert_eq!(exported, types);
        let last = "{name=\"ping\",type=\"healthz\"}";
        assert_eq!(slis.value("kubernetes_healthcheck", last), 1.0);
        assert_eq!(slis.value("kubernetes_healthchecks_total", all), times);
    }
    // Probes of the proxy itself have their own metrics.
    assert_eq!(code(&namespace, HEALTH, "/healthz"), 200);
    let slis = Metrics::at(&namespace, "/metrics/slis");
    assert_eq!(slis.samples.len(), 2, "{:?}", slis.samples);
    assert!(!Metrics::of(&namespace).types.contains_key("kubernetes_healthcheck"));
}

#[test]
fn the_reference_documents_every_metric() {
    let page = include_str!("../../docs/metrics.md");
    for (name, _) in EXPORTED.into_iter().chain(OF_TRAFFIC) {
        assert!(page.contains(&format!("`{name}`")), "docs/metrics.md lacks {name}");
    }
}

/// Returns the bounds of a histogram's buckets, except the last one, which is infinite.
fn bounds(metrics: &Metrics, name: &str) -> Vec<f64> {
    let prefix = format!("{name}_bucket{{");
    let buckets = metrics.samples.keys().filter(|series| series.starts_with(&prefix));
    let mut bounds: Vec<f64> = buckets
        .filter(|series| series.contains("ip_family=\"IPv4\""))
        .map(|series| series.split("le=\"").nth(1).unwrap().split('"').next().unwrap())
        .filter(|bound| *bound != "+Inf")
        .map(|bound| bound.parse().unwrap())
        .collect();
    bounds.sort_by(f64::total_cmp);
    bounds
}
