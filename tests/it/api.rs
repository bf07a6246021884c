//! The daemon with an API server: the kernel follows the server's objects through all its failures.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use jiff::Timestamp;
use rulec_apiserver::{
    ApiServer, Assets, Credential, Fault, RealServer, RecordedEvent, Resource, Scope, Server, Verb,
    on_both_servers,
};
use rulec_testkit::{Namespace, require_root};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Daemon, LOG, Manifests, NODE_NAME, SETTLED, rulec};
use crate::health::Metrics;
use crate::log::above_info;
use crate::support::{Dice, RULEC, eventually};

mod state;
mod watch;

/// A node and an API server, both in the node's namespace.
struct Cluster<S> {
    // Fields are dropped in this order.
    daemon: Option<Daemon>,
    server: S,
    node: Namespace,
    directory: TempDir,
}

impl<S: Server> Cluster<S> {
    fn new(name: &str) -> Self {
        let node = Namespace::new(name);
        node.sh("ip link set lo up");
        let server = node.run(S::start);
        let directory = TempDir::new().unwrap();
        let cluster = Self { daemon: None, server, node, directory };
        cluster.server.apply(&node_object());
        cluster
            .server
            .write_kubeconfig(&cluster.path("kubeconfig"), &Credential::Token("token".into()));
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts the daemon with additional arguments.
    fn start(&mut self, args: &[&str]) {
        let kubeconfig = self.path("kubeconfig");
        let kubeconfig = ["--kubeconfig", kubeconfig.to_str().unwrap()];
        self.daemon = Some(Daemon::spawn_with(&self.node, &[&kubeconfig, args].concat()));
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("the daemon runs")
    }

    /// Waits until the kernel holds what a fresh compilation of these objects yields, together with
    /// the objects that the server creates itself.
    fn holds(&mut self, objects: &[Value]) {
        let objects = [objects, &self.server.its_own()].concat();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let path = self.path("expected.json");
        fs::write(&path, list.to_string()).unwrap();
        // The server has given out everything.
        let given = ["--service-cidr=", "--service-node-port-range="];
        let args = ["diff", "--to", path.to_str().unwrap(), "--node-name", NODE_NAME];
        let args = [&args[..], &given].concat();
        let mut last = None;
        let node = &self.node;
        let daemon = self.daemon.as_mut().expect("the daemon runs");
        let same = daemon.wait_until(|_| {
            let output = rulec(node, &args);
            let same = output.status.success();
            last = Some(output);
            same
        });
        assert!(same, "the kernel differs: {last:?}; the log:\n{}", daemon.log());
    }
}

fn node_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
    })
}

fn service(number: usize, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("web-{number}"), "namespace": "default"},
        "spec": {
            "clusterIP": format!("10.90.{}.{}", number / 250 + 1, number % 250 + 1),
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        },
    })
}

fn slice(number: usize, endpoints: usize) -> Value {
    let endpoints: Vec<Value> = (1..=endpoints)
        .map(|n| json!({"addresses": [format!("10.50.{}.{n}", number % 250)], "conditions": {"ready": true}}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("web-{number}-a"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("web-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

on_both_servers!(
    the_kernel_follows_the_server,
    rules_are_kept_while_the_server_is_unavailable,
    nothing_is_removed_before_all_sources_are_ready,
    a_long_history_equals_a_fresh_start,
);

fn the_kernel_follows_the_server<S: Server>() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-follow");
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);

    cluster.server.apply(&slice(1, 3));
    cluster.server.apply(&service(2, 80));
    cluster.holds(&[node_object(), service(1, 80), slice(1, 3), service(2, 80)]);

    // Changes without effect on the program are not written.
    let before = cluster.daemon().committed();
    let mut noisy = slice(1, 3);
    noisy["metadata"]["annotations"] = json!({"note": "nothing of this matters"});
    cluster.server.apply(&noisy);
    cluster.server.apply(&service(3, 80));
    cluster.holds(&[node_object(), service(1, 80), slice(1, 3), service(2, 80), service(3, 80)]);
    assert_eq!(cluster.daemon().committed(), before + 1, "a change without effect was written");
}

fn rules_are_kept_while_the_server_is_unavailable<S: Server>() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-away");
    for object in [service(1, 80), slice(1, 2), service(2, 80), slice(2, 2)] {
        cluster.server.apply(&object);
    }
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    cluster.server.down();
    // Objects that are deleted while the daemon is disconnected are gone when it reconnects.
    cluster.server.delete(Resource::Services, "default", "web-2");
    cluster.server.apply(&slice(1, 4));
    cluster.server.forget();
    cluster.daemon().wait_for("API server");
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2), service(2, 80), slice(2, 2)]);
    cluster.server.up();
    cluster.holds(&[node_object(), service(1, 80), slice(1, 4), slice(2, 2)]);
}

fn nothing_is_removed_before_all_sources_are_ready<S: Server>() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-both");
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&[]);
    // Including the ServiceCIDRs, for which a start does not wait.
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);
    drop(cluster.daemon.take());

    // Another run, with manifests in addition to the server, which does not answer yet.
    cluster.server.down();
    let manifests = Manifests::of(&service(2, 80).to_string());
    let path = manifests.path();
    cluster.start(&["--manifests", path.to_str().unwrap()]);
    cluster.daemon().wait_for("watching manifests");
    thread::sleep(Duration::from_millis(300));
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);
    assert_eq!(cluster.daemon().committed(), 0);
    cluster.server.up();
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2), service(2, 80)]);

    // The same object in both sources: the node's own file takes precedence, which is logged.
    manifests.write("other.json", &service(1, 8000).to_string());
    cluster.holds(&[node_object(), service(1, 8000), slice(1, 2), service(2, 80)]);
    cluster.daemon().wait_for("two sources have this object");
    manifests.remove("other.json");
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2), service(2, 80)]);
}

#[test]
fn a_health_check_that_cannot_listen_causes_an_event() {
    if !require_root() {
        return;
    }
    let balanced = |port: u16| {
        let mut balanced = service(1, 80);
        let spec = balanced["spec"].as_object_mut().unwrap();
        spec.insert("type".to_owned(), "LoadBalancer".into());
        spec.insert("externalTrafficPolicy".to_owned(), "Local".into());
        spec.insert("healthCheckNodePort".to_owned(), port.into());
        balanced
    };
    let mut cluster = Cluster::<ApiServer>::new("api-events");
    let _taken = cluster
        .node
        .run(|| [31_000, 31_001, 31_002].map(|port| TcpListener::bind(("0.0.0.0", port)).unwrap()));
    // An address of the node, at which node ports are reachable.
    cluster.node.sh("ip addr add 192.0.2.10/32 dev lo");
    cluster.server.apply(&balanced(31_000));
    // Events that are refused for a while do not delay anything.
    cluster.server.fault_times(2, Scope::resource(Resource::Events), Fault::status(503));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    let events = |cluster: &Cluster<ApiServer>, n: usize| {
        let patience = Duration::from_secs(30);
        let there = cluster.server.wait_until(patience, |server| server.events().len() >= n);
        assert!(there, "{:?}", cluster.server.events());
        cluster.server.events().swap_remove(n - 1)
    };
    let RecordedEvent { verb, namespace, object } = events(&cluster, 1);
    assert_eq!((verb, namespace.as_str()), (Verb::Create, "default"));
    let words = ["reason", "action", "type", "reportingController", "reportingInstance"];
    assert_eq!(
        words.map(|word| object[word].as_str().unwrap()),
        ["FailedToStartServiceHealthcheck", "Listen", "Warning", "rulec", "rulec-na"]
    );
    assert_eq!(
        object["regarding"],
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "default", "name": "web-1"})
    );
    let note = object["note"].as_str().unwrap();
    let expected = "node na failed to start healthcheck default/web-1 on 192.0.2.10:31000: ";
    assert!(note.starts_with(expected), "{note}");
    let time: Timestamp = object["eventTime"].as_str().unwrap().parse().unwrap();
    assert!(Timestamp::now().duration_since(time).as_secs() < 60, "{object}");

    // Further conflicts of the same kind increase the count of the existing Event.
    cluster.server.apply(&balanced(31_001));
    let RecordedEvent { verb, object, .. } = events(&cluster, 2);
    assert_eq!((verb, &object["series"]["count"]), (Verb::Patch, &json!(2)));
    assert!(object["series"]["lastObservedTime"].is_string(), "{object}");
    cluster.holds(&[node_object(), balanced(31_001)]);

    // Unless that Event no longer exists; here the kind seems not to be served.
    let patches = Scope::resource(Resource::Events).verb(Verb::Patch);
    cluster.server.fault_times(1, patches, Fault::NotServed);
    cluster.server.apply(&balanced(31_002));
    assert_eq!(events(&cluster, 3).verb, Verb::Create);
}

#[test]
fn a_normal_start_logs_only_info_and_metrics_describe_the_server() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("api-quiet");
    cluster.node.sh("ip route add default dev lo; sysctl -qw net.ipv4.ip_forward=1");
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&["--log-level", "info"]);
    cluster.daemon().wait_for(SETTLED);
    let node = cluster.node.name().to_owned();
    let resources = ["Service", "EndpointSlice", "Node", "ServiceCIDR"];
    let watched = |metrics: &Metrics, kind: &str| {
        metrics.value("rulec_api_watched", &format!("{{resource=\"{kind}\"}}"))
    };
    eventually(&format!("{node} watches everything"), || {
        let metrics = Metrics::of(&cluster.node);
        resources.iter().all(|kind| watched(&metrics, kind) == 1.0)
    });
    let metrics = Metrics::of(&cluster.node);
    assert_eq!(metrics.value("rulec_api_lists_total", ""), 4.0);
    let errors = |metrics: &Metrics, kind: &str| {
        metrics.value("rulec_api_errors_total", &format!("{{kind=\"{kind}\"}}"))
    };
    for kind in ["config", "connection", "unauthorized", "forbidden", "expired", "garbled"] {
        assert_eq!(errors(&metrics, kind), 0.0, "{kind}");
    }
    let log = cluster.daemon().log();
    assert_eq!(above_info(&log), Vec::<&str>::new(), "{log}");

    // The server rejects the token from now on, and closes the connections.
    cluster.server.set_tokens(["another"]);
    cluster.server.drop_connections();
    eventually("nothing is watched, and errors are counted", || {
        let metrics = Metrics::of(&cluster.node);
        watched(&metrics, "Service") == 0.0 && errors(&metrics, "unauthorized") > 0.0
    });
}

#[test]
fn a_pod_finds_the_server_by_its_service_account() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("api-pod");
    cluster.server.apply(&service(1, 80));
    let account = cluster.path("run/secrets/kubernetes.io/serviceaccount");
    cluster.server.write_service_account(&account, "token");
    let address = cluster.server.address();
    // A /run of its own, which contains nothing else.
    let script = "mount --bind \"$0\" /run; exec \"$@\"";
    let run = cluster.path("run");
    let args = ["--mount", "sh", "-ec", script, run.to_str().unwrap()];
    let rulec = [RULEC, "run", "--node-name", NODE_NAME];
    let mut command = cluster.node.command("unshare", args.into_iter().chain(rulec));
    command.env("RULEC_LOG", LOG).env("NO_COLOR", "1").env("RULEC_SOCKET", "");
    command.env("KUBERNETES_SERVICE_HOST", address.ip().to_string());
    command.env("KUBERNETES_SERVICE_PORT", address.port().to_string());
    cluster.daemon = Some(Daemon::of(command));
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&[node_object(), service(1, 80)]);

    // The token is replaced, and the old one is no longer accepted.
    cluster.server.set_tokens(["next"]);
    cluster.server.write_service_account(&account, "next");
    cluster.server.drop_connections();
    cluster.server.apply(&slice(1, 2));
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);

    // The authority is replaced, before the files contain the new one.
    cluster.server.rotate_authority();
    cluster.server.drop_connections();
    cluster.server.apply(&slice(1, 3));
    cluster.daemon().wait_for("certificate");
    cluster.server.set_tokens(["last"]);
    cluster.server.write_service_account(&account, "last");
    cluster.holds(&[node_object(), service(1, 80), slice(1, 3)]);
}

#[test]
fn endpoint_changes_are_timed_from_their_trigger() {
    if !require_root() {
        return;
    }
    let triggered = |endpoints, at: &str| {
        let mut slice = slice(1, endpoints);
        let annotation = "endpoints.kubernetes.io/last-change-trigger-time";
        slice["metadata"]["annotations"] = json!({annotation: at});
        slice
    };
    let now = || Timestamp::now().to_string();
    let mut cluster = Cluster::<ApiServer>::new("api-trigger");
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&triggered(1, &now()));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    let mut reach = |object: Value| {
        cluster.server.apply(&object);
        cluster.holds(&[node_object(), service(1, 80), object]);
        // The daemon's loop answers a scrape only after it has processed the kernel's
        // acknowledgement.
        let metrics = Metrics::of(&cluster.node);
        let name = "kubeproxy_network_programming_duration_seconds";
        let of = |part, family| {
            metrics.value(&format!("{name}_{part}"), &format!("{{ip_family=\"{family}\"}}"))
        };
        assert_eq!(of("count", "IPv6"), 0.0);
        (of("count", "IPv4"), of("sum", "IPv4"))
    };
    // Without the annotation, with an invalid one, and with one from before the daemon's start.
    for (endpoints, noted) in [(2, ""), (3, "just now"), (4, "2026-01-01T00:00:00Z")] {
        assert_eq!(reach(triggered(endpoints, noted)), (0.0, 0.0), "{noted:?}");
    }
    // The measured time includes controller, server and network.
    let noted = Timestamp::now();
    thread::sleep(Duration::from_millis(200));
    let (count, sum) = reach(triggered(5, &noted.to_string()));
    let passed = Timestamp::now().duration_since(noted).as_secs_f64();
    assert_eq!(count, 1.0);
    assert!(sum >= 0.15 && sum <= passed, "{sum} of {passed}");
    // The next annotation is on a slice without an effective change.
    assert_eq!(reach(triggered(5, &now())), (1.0, sum));
    assert_eq!(reach(slice(1, 6)), (1.0, sum));
    // An annotation from a clock that is ahead of ours.
    let ahead = Timestamp::now() + Duration::from_secs(3_600);
    assert_eq!(reach(triggered(7, &ahead.to_string())).0, 2.0);
}

/// The state `api` is what the server has at this moment.
#[test]
fn tools_read_an_api_server() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("api-tools");
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    let kubeconfig = cluster.path("kubeconfig");
    let of_server = ["--kubeconfig", kubeconfig.to_str().unwrap(), "--node-name", NODE_NAME];
    let run = |args: &[&str]| rulec(&cluster.node, &[args, &of_server].concat());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let same = run(&["diff", "--from", "api"]);
    assert_eq!(same.status.code(), Some(0), "{same:?}");
    let shown = run(&["show", "services", "--state", "api"]);
    assert!(text(&shown.stdout).contains("10.90.1.2"), "{shown:?}");
    let explained = run(&["explain", "10.90.1.2:80", "--from=192.0.2.1", "--state", "api"]);
    assert!(text(&explained.stdout).contains("10.50.1.2:8080"), "{explained:?}");

    // A manifest that is to be applied is compared with what is there.
    let next = cluster.path("next.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [service(1, 81), slice(1, 2)]});
    fs::write(&next, list.to_string()).unwrap();
    let different = run(&["diff", "--from", "api", "--to", next.to_str().unwrap()]);
    assert_eq!(different.status.code(), Some(1), "{different:?}");
    assert!(text(&different.stdout).contains("10.90.1.2:81/TCP"), "{different:?}");

    // What the server refuses to list is missing in the comparison.
    cluster.server.forbid(Resource::ServiceCidrs);
    let partly = run(&["diff", "--from", "api"]);
    assert_eq!(partly.status.code(), Some(2), "{partly:?}");
    assert!(text(&partly.stdout).contains("refused, continuing without"), "{partly:?}");

    // Without permission, without a server and without an address.
    cluster.server.set_tokens(["another"]);
    let refused = run(&["diff", "--from", "api"]);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(text(&refused.stderr).contains("401"), "{refused:?}");
    let nobody = ["diff", "--from", "api", "--master", "http://127.0.0.1:9"];
    let nobody = rulec(&cluster.node, &nobody);
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
    assert!(text(&nobody.stderr).contains("--from api: "), "{nobody:?}");
    let mut unknown = crate::daemon::command(&cluster.node, &["diff", "--from", "api"]);
    let unknown = unknown.env("HOME", "/nonexistent").env_remove("KUBECONFIG").output().unwrap();
    assert_eq!(unknown.status.code(), Some(3), "{unknown:?}");
    assert!(text(&unknown.stderr).contains("no API server is known"), "{unknown:?}");
}

/// A disturbance of the server after a given number of objects has been written.
#[derive(Clone, Copy)]
enum Disturbance {
    Down,
    Up,
    Crash,
    Forget,
    Drop,
}

/// The number of objects written so far; the maximum once the writer has ended.
struct Writing<'a>(&'a AtomicUsize);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.store(usize::MAX, Ordering::Release);
    }
}

/// A long random history with a server that goes down and up, crashes while objects are written,
/// and compacts its history.
fn a_long_history_equals_a_fresh_start<S: Server>() {
    const EVENTS: usize = 10_000;
    const ROUND: usize = 2_500;
    const SERVICES: u64 = 200;
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<S>::new("api-chaos");
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    let server = &cluster.server;
    let written = AtomicUsize::new(0);
    let mut held: BTreeMap<(Resource, usize), Value> = BTreeMap::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..EVENTS / ROUND {
                for (when, blow) in [
                    (600, Disturbance::Down),
                    (900, Disturbance::Up),
                    (1_200, Disturbance::Crash),
                    (1_500, Disturbance::Forget),
                    (1_800, Disturbance::Drop),
                ] {
                    while written.load(Ordering::Acquire) < round * ROUND + when {
                        thread::sleep(Duration::from_millis(1));
                    }
                    match blow {
                        Disturbance::Down => server.down(),
                        Disturbance::Up => server.up(),
                        Disturbance::Crash => server.crash(),
                        Disturbance::Forget => server.forget(),
                        Disturbance::Drop => server.drop_connections(),
                    }
                }
            }
        });
        // If this thread fails, the other one must not wait for more objects.
        let writing = Writing(&written);
        let mut dice = Dice::new(11);
        let mut roll = |sides: u64| usize::try_from(dice.roll(sides)).unwrap();
        for event in 0..EVENTS {
            let number = roll(SERVICES);
            let (resource, object) = match roll(8) {
                0 => (Resource::Services, Some(service(number, 80))),
                1 => (Resource::Services, Some(service(number, 81))),
                2 => (Resource::Services, None),
                3 => (Resource::EndpointSlices, None),
                more => (Resource::EndpointSlices, Some(slice(number, more - 3))),
            };
            let suffix = if resource == Resource::Services { "" } else { "-a" };
            let name = format!("web-{number}{suffix}");
            match object {
                Some(object) => {
                    server.apply(&object);
                    held.insert((resource, number), object);
                }
                None => {
                    server.delete(resource, "default", &name);
                    held.remove(&(resource, number));
                }
            }
            writing.0.store(event + 1, Ordering::Release);
            if event % 50 == 0 {
                thread::sleep(Duration::from_millis(5));
            }
        }
    });
    let all: Vec<Value> = std::iter::once(node_object()).chain(held.into_values()).collect();
    assert!(all.len() > 100, "too few objects are left to compare");
    cluster.holds(&all);
}

/// Uses a token of the ServiceAccount of `deploy/kubernetes`.
#[test]
fn the_deployed_role_suffices_on_the_real_server() {
    if Assets::named().is_none() || !require_root() {
        return;
    }
    let mut cluster = Cluster::<RealServer>::new("api-role");
    let credential = Credential::Token(cluster.server.service_account_token());
    cluster.server.write_kubeconfig(&cluster.path("kubeconfig"), &credential);
    cluster.server.apply(&service(1, 80));
    cluster.server.apply(&slice(1, 2));
    cluster.start(&[]);
    cluster.daemon().wait_for(SETTLED);
    cluster.holds(&[node_object(), service(1, 80), slice(1, 2)]);
    let requests = cluster.server.requests();
    let asked: BTreeSet<_> = requests.iter().map(|it| (it.resource, it.verb)).collect();
    let wanted =
        [Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs, Resource::Services];
    let verbs: &[Verb] =
        if cluster.server.streams() { &[Verb::Watch] } else { &[Verb::List, Verb::Watch] };
    let each = wanted.iter().flat_map(|kind| verbs.iter().map(|verb| (Some(*kind), *verb)));
    assert_eq!(asked, each.collect());
    assert_eq!(cluster.server.forbidden_requests(), [""; 0]);
}

/// SIGTERM ends the daemon in time, together with a credential plugin that hangs and its children.
#[test]
fn a_hung_plugin_is_killed_with_the_daemon() {
    if !require_root() {
        return;
    }
    let mut cluster = Cluster::<ApiServer>::new("api-plugin");
    let (plugin, kubeconfig) = (cluster.path("plugin"), cluster.path("kubeconfig"));
    let [own, child] = ["own", "child"].map(|name| cluster.path(name));
    let script = format!(
        "#!/bin/sh\nsleep 1000 &\necho $! >{}\necho $$ >{}\nwait\n",
        child.display(),
        own.display()
    );
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    let mut config: Value = serde_json::from_slice(&fs::read(&kubeconfig).unwrap()).unwrap();
    config["users"][0]["user"] = json!({"exec": {
        "apiVersion": "client.authentication.k8s.io/v1", "command": plugin,
        "interactiveMode": "Never",
    }});
    fs::write(&kubeconfig, config.to_string()).unwrap();
    cluster.start(&[]);
    let process = |file: &Path| {
        let mut process = None;
        eventually("the plugin runs", || {
            let said = fs::read_to_string(file).unwrap_or_default();
            process = said.strip_suffix('\n').map(|pid| Path::new("/proc").join(pid));
            process.is_some()
        });
        process.unwrap()
    };
    let processes = [process(&own), process(&child)];
    assert!(processes.iter().all(|process| process.exists()));
    cluster.daemon.take().unwrap().stop();
    eventually("the plugin is gone", || !processes.iter().any(|process| is_running(process)));
}

/// Returns whether a process still runs. A zombie, which has ended but was not waited for, does
/// not.
fn is_running(process: &Path) -> bool {
    fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
