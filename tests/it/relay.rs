//! A relay between the API server and a node: the kernel holds what the server says.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod chaos;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rulec_apiserver::{ApiServer, Credential, Fault, Resource, Scope};
use rulec_testkit::{Namespace, require_root};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::daemon::{Daemon, NODE_NAME, command, rulec};
use crate::health::Metrics;
use crate::support::{eventually, get, request};

/// A node with an API server, a relay and a daemon.
struct Place {
    // Fields are dropped in this order.
    daemon: Option<Daemon>,
    relay: Option<Daemon>,
    server: ApiServer,
    node: Namespace,
    directory: TempDir,
}

const ADDRESS: &str = "127.0.0.1:18000";

impl Place {
    fn new(name: &str) -> Self {
        let node = Namespace::new(name);
        node.sh("ip link set lo up");
        let server = node.run(ApiServer::start);
        let directory = TempDir::new().unwrap();
        let place = Self { daemon: None, relay: None, server, node, directory };
        place
            .server
            .write_kubeconfig(&place.path("kubeconfig"), &Credential::Token("token".to_owned()));
        place.make_certificates();
        for node in [NODE_NAME, "nb"] {
            place.server.apply(&json!({
                "apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
            }));
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn make_certificates(&self) {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        fs::write(self.path("authority"), authority.pem()).unwrap();
        let node = format!("system:node:{NODE_NAME}");
        for (file, organization, name) in
            [("server", "relays", "relay"), ("node", "system:nodes", node.as_str())]
        {
            let mut params =
                CertificateParams::new(["127.0.0.1", "localhost"].map(str::to_owned)).unwrap();
            params.distinguished_name.push(DnType::OrganizationName, organization);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &authority).unwrap();
            fs::write(self.path(file), certificate.pem()).unwrap();
            fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
        }
    }

    fn apply(&self, objects: &[Value]) {
        for object in objects {
            self.server.apply(object);
        }
    }

    fn start_relay(&mut self) {
        self.start_relay_with(&[]);
    }

    /// Starts a relay, which may not have delivered yet.
    fn spawn_relay(&self, listen: &str, more: &[&str]) -> Daemon {
        let (kubeconfig, server) = (self.text("kubeconfig"), self.text("server"));
        let (key, authority) = (self.text("server.key"), self.text("authority"));
        let args = ["relay", "--listen", listen, "--kubeconfig", &kubeconfig];
        let tls = ["--certificate", &server, "--key", &key];
        let clients = ["--client-certificate-authority", &authority];
        let all = [&args[..], &tls, &clients, more].concat();
        Daemon::of(command(&self.node, &all))
    }

    fn start_relay_with(&mut self, more: &[&str]) {
        let mut relay = self.spawn_relay(ADDRESS, more);
        relay.wait_for("all sources have delivered, nodes are served");
        self.relay = Some(relay);
    }

    /// Returns what shows the relay which node this is.
    fn own(&self) -> Vec<String> {
        let (certificate, key) = (self.text("node"), self.text("node.key"));
        ["--relay-client-certificate", &certificate, "--relay-client-key", &key]
            .map(str::to_owned)
            .into()
    }

    fn start_daemon(&mut self) {
        self.start_daemon_at(ADDRESS, &self.own(), &[]);
    }

    fn start_daemon_at(&mut self, relay: &str, own: &[String], more: &[&str]) {
        let (authority, state) = (self.text("authority"), self.text("state"));
        let own: Vec<&str> = own.iter().map(String::as_str).collect();
        let args = ["--relay", relay, "--relay-certificate-authority", &authority];
        let all = [&args[..], &own, &["--state-dir", &state], more].concat();
        self.daemon = Some(Daemon::spawn_with(&self.node, &all));
    }

    /// Waits until the kernel holds what the objects of the server compile to.
    fn holds(&mut self, objects: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects});
        let path = self.path("expected.json");
        fs::write(&path, list.to_string()).unwrap();
        let given = ["--service-cidr=", "--service-node-port-range="];
        let args = ["diff", "--to", path.to_str().unwrap(), "--node-name", NODE_NAME];
        let args = [&args[..], &given].concat();
        let mut last = None;
        let (node, daemon) = (&self.node, self.daemon.as_mut().unwrap());
        let same = daemon.wait_until(|_| {
            let output = rulec(node, &args);
            let same = output.status.success();
            last = Some(output);
            same
        });
        assert!(same, "the kernel differs: {last:?}; the log:\n{}", daemon.log());
    }

    /// Returns a metric of the relay.
    fn metric(&self, name: &str) -> u64 {
        let answer = get(&self.node, "127.0.0.1:18001", "/metrics");
        let line = answer.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap().parse().unwrap()
    }
}

fn service(number: u8) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": format!("web-{number}"), "namespace": "default"},
        "spec": {
            "type": "NodePort",
            "clusterIP": format!("10.90.0.{number}"),
            "externalTrafficPolicy": "Local",
            "ports": [{
                "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30000 + u16::from(number),
            }],
        },
    })
}

fn slice(number: u8, nodes: &[&str]) -> Value {
    let endpoint = |(index, node): (usize, &&str)| {
        json!({
            "addresses": [format!("10.50.{number}.{}", index + 1)],
            "conditions": {"ready": true}, "nodeName": node,
        })
    };
    let endpoints: Vec<Value> = nodes.iter().enumerate().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": format!("web-{number}-x"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": format!("web-{number}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn node_object() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE_NAME},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.10"}]},
    })
}

#[test]
fn the_kernel_follows_the_server_through_a_relay() {
    if !require_root() {
        return;
    }
    let mut place = Place::new("relay");
    let nodes = [NODE_NAME, "nb", "nc"];
    let mut objects =
        vec![node_object(), service(1), slice(1, &nodes), service(2), slice(2, &["nb"])];
    for object in &objects {
        place.server.apply(object);
    }
    place.start_relay();
    place.start_daemon();
    place.holds(&objects);
    assert_eq!(get(&place.node, "127.0.0.1:18002", "/readyz").code, 200);
    eventually("the node is counted", || place.metric("rulec_relay_nodes") == 1);
    assert_eq!(place.metric("rulec_relay_connections"), 1);
    assert_eq!(place.metric("rulec_relay_nodes_refusing"), 0);
    let first = place.metric("rulec_relay_resources_total");
    assert_eq!(first, 5, "two Services, two slices, and one of the two Nodes");

    // A change of an endpoint, a Service that is gone, and one that is new.
    place.server.apply(&slice(1, &["nb", NODE_NAME]));
    place.server.delete(Resource::Services, "default", "web-2").unwrap();
    place.server.apply(&service(3));
    objects[2] = slice(1, &["nb", NODE_NAME]);
    objects[3] = service(3);
    place.holds(&objects);

    // The relay goes. What the kernel holds stays, also over a restart of the daemon.
    place.relay.take().unwrap().kill9();
    place.daemon.take().unwrap().stop();
    place.start_daemon();
    place.daemon.as_mut().unwrap().wait_for("the state of the last run");
    place.holds(&objects);

    // Another one comes, which has nothing to send: the node has everything.
    place.start_relay();
    let has_delivered = |daemon: &Daemon| daemon.count("the relay has delivered") > 0;
    let daemon = place.daemon.as_mut().unwrap();
    assert!((0..4).any(|_| daemon.wait_until(has_delivered)), "{}", daemon.log());
    assert_eq!(place.metric("rulec_relay_resources_total"), 0);
    place.server.apply(&service(4));
    objects.push(service(4));
    place.holds(&objects);
    assert_eq!(place.metric("rulec_relay_resources_total"), 1);
    let log = place.relay.take().unwrap().stop();
    assert!(!log.contains(" WARN ") && !log.contains("ERROR"), "{log}");
}

/// Returns what an API server says of a token of a Pod on a node.
fn review(node: &str) -> Value {
    json!({
        "authenticated": true,
        "user": {
            "username": "system:serviceaccount:kube-system:rulec",
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/node-name": [node],
                "authentication.kubernetes.io/pod-name": ["rulec-x"],
            },
        },
        "audiences": ["rulec-relay"],
    })
}

#[test]
fn a_node_with_a_token_follows_a_relay_that_has_it_reviewed() {
    if !require_root() {
        return;
    }
    let mut place = Place::new("relay-token");
    let objects = [node_object(), service(1), slice(1, &[NODE_NAME])];
    for object in &objects {
        place.server.apply(object);
    }
    place.server.set_review("of-this-node", Some(review(NODE_NAME)));
    place.server.set_review("of-another", Some(review("nb")));
    let token = place.path("node-token");
    fs::write(&token, "of-another\n").unwrap();
    place.start_relay_with(&["--token-audience", "rulec-relay"]);
    let token = token.to_str().unwrap().to_owned();
    place.start_daemon_at(ADDRESS, &["--relay-token".to_owned(), token.clone()], &[]);
    let message = format!("node.id is {NODE_NAME}, and the token that of nb");
    place.daemon.as_mut().unwrap().wait_for(&message);
    // A projected token is replaced, and read again.
    fs::write(&token, "of-this-node\n").unwrap();
    place.holds(&objects);
    assert_eq!(place.metric("rulec_relay_token_reviews_total{outcome=\"accepted\"}"), 2);
    let log = place.relay.take().unwrap().stop();
    let daemon = place.daemon.take().unwrap().stop();
    assert!(!log.contains("of-this-node") && !daemon.contains("of-this-node"), "{log} {daemon}");
}

#[test]
fn the_api_server_takes_the_place_of_a_relay_that_is_away() {
    if !require_root() {
        return;
    }
    let mut place = Place::new("relay-away");
    let mut objects = vec![node_object(), service(1), slice(1, &["nb"])];
    place.apply(&objects[1..]);
    place.start_relay();
    let kubeconfig = place.text("kubeconfig");
    let more = ["--kubeconfig", &kubeconfig, "--relay-fallback-seconds", "1"];
    place.start_daemon_at(ADDRESS, &place.own(), &more);
    place.holds(&objects);
    let replaced = |place: &Place| {
        let metrics = Metrics::of(&place.node);
        let label = "{relay=\"https://127.0.0.1:18000/\"}";
        ["rulec_relay_source_replaced", "rulec_relay_source_connected"]
            .map(|name| metrics.value(name, label))
    };
    // A slow machine may need more than a second for the relay's first state.
    let is_one = |place: &Place| place.server.open_watches(Resource::Services) == 1;
    eventually("it follows the relay", || replaced(&place) == [0.0, 1.0] && is_one(&place));
    let daemon = place.daemon.as_ref().unwrap();
    let taken = "the API server has taken the place of the relay";
    let (taken_before, back_before) = (daemon.count(taken), daemon.count("the relay is back"));

    place.relay.take().unwrap().kill9();
    let daemon = place.daemon.as_mut().unwrap();
    daemon.wait_for_count(taken, taken_before + 1);
    objects.extend([service(2), slice(2, &["nb"])]);
    place.apply(&objects[3..]);
    place.holds(&objects);
    eventually("it says so", || replaced(&place) == [1.0, 0.0]);
    let is_followed = |server: &ApiServer| server.open_watches(Resource::Services) == 1;
    let within = Duration::from_secs(60);
    assert!(place.server.wait_until(within, is_followed), "by the daemon");
    let warnings = "{source=\"api\",severity=\"warning\"}";
    assert_eq!(Metrics::of(&place.node).value("rulec_source_problems", warnings), 1.0);

    place.start_relay();
    // Its next try may be half a minute away.
    let daemon = place.daemon.as_mut().unwrap();
    let is_back = |daemon: &Daemon| daemon.count("the relay is back") > back_before;
    assert!((0..4).any(|_| daemon.wait_until(is_back)), "{}", daemon.log());
    assert!(place.server.wait_until(within, is_followed), "only by the relay");
    objects.extend([service(3), slice(3, &[NODE_NAME])]);
    place.apply(&objects[5..]);
    place.holds(&objects);
    eventually("it says so", || replaced(&place) == [0.0, 1.0]);
}

#[test]
fn a_relay_serves_a_cluster_without_service_cidrs() {
    if !require_root() {
        return;
    }
    let mut place = Place::new("relay-older");
    place.server.fault(Scope::resource(Resource::ServiceCidrs), Fault::NotServed);
    let objects = [node_object(), service(1), slice(1, &["nb"])];
    place.apply(&objects[1..]);
    place.start_relay();
    place.start_daemon();
    place.holds(&objects);
}

#[test]
fn a_relay_that_is_cut_off_tells_its_nodes() {
    if !require_root() {
        return;
    }
    let mut place = Place::new("relay-cut-off");
    let objects = [node_object(), service(1), slice(1, &["nb"])];
    place.apply(&objects[1..]);
    place.start_relay();
    place.start_daemon();
    place.holds(&objects);
    let relay = |place: &mut Place, text: &str| place.relay.as_mut().unwrap().wait_for(text);
    let state = |place: &Place| {
        let metrics = Metrics::of(&place.node);
        let warnings = "{source=\"api\",severity=\"warning\"}";
        let label = "{relay=\"https://127.0.0.1:18000/\"}";
        let connected = metrics.value("rulec_relay_source_connected", label);
        (metrics.value("rulec_source_problems", warnings), connected)
    };
    assert_eq!((place.metric("rulec_relay_upstream_cut_off"), state(&place)), (0, (0.0, 1.0)));
    place.server.down();
    relay(&mut place, "nothing is heard from the API server, nodes are told");
    assert_eq!(place.metric("rulec_relay_upstream_cut_off"), 1);
    eventually("the node knows", || state(&place) == (1.0, 0.0));
    place.holds(&objects);
    place.server.up();
    relay(&mut place, "the API server is followed again, nodes are told");
    eventually("the node knows that it is over", || state(&place) == (0.0, 1.0));
    assert_eq!(place.metric("rulec_relay_upstream_cut_off"), 0);
}

/// Returns a slice with 100 endpoints as the endpoints controller writes it, of which one may be
/// unready.
fn large_slice(unready: Option<usize>) -> Value {
    let endpoint = |index: usize| {
        let pod = format!("web-1-7d9c5bf6d8-{index:05}");
        let is_ready = unready != Some(index);
        json!({
            "addresses": [format!("10.244.{index}.17")],
            "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
            "nodeName": format!("worker-{index:03}.example.com"),
            "targetRef": {
                "kind": "Pod", "name": pod, "namespace": "default",
                "uid": format!("3c1f1c6e-0f3a-4a57-9a62-{index:012}"),
            },
            "zone": "zone-a",
        })
    };
    let mut slice = slice(1, &[]);
    slice["endpoints"] = (0..100).map(endpoint).collect();
    slice
}

#[test]
fn a_change_costs_a_node_a_small_part_of_what_the_server_sends() {
    if !require_root() {
        return;
    }
    let mut place = Place::new("relay-bytes");
    let objects = [node_object(), service(1), large_slice(None)];
    for object in &objects {
        place.server.apply(object);
    }
    place.start_relay();
    place.start_daemon();
    place.holds(&objects);
    let before = place.metric("rulec_relay_sent_bytes_total");
    let changed = large_slice(Some(3));
    place.server.apply(&changed);
    place.holds(&[node_object(), service(1), changed.clone()]);
    let bytes = place.metric("rulec_relay_sent_bytes_total") - before;
    // The server's event has the whole object, and the names of fields in each endpoint.
    let event = json!({"type": "MODIFIED", "object": changed}).to_string().len() as u64;
    assert!(bytes < 900, "{bytes} bytes");
    assert!(event > 25 * bytes, "{bytes} of {event} bytes");
}

#[test]
fn a_relay_is_alive_before_it_is_ready() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("relay-ready");
    node.sh("ip link set lo up");
    // Nothing answers there.
    let args = ["relay", "--insecure", "--listen", ADDRESS, "--master", "http://127.0.0.1:1"];
    let mut relay = Daemon::of(command(&node, &args));
    relay.wait_for("serving whoever asks");
    // The address for probes is not the one for numbers: a kubelet reaches only the former.
    let status = |address: &str, path: &str| get(&node, address, path).code;
    assert!(relay.wait_until(|_| request(&node, "GET", "127.0.0.1:18002", "/livez").is_ok()));
    assert_eq!(status("127.0.0.1:18002", "/livez"), 200);
    assert_eq!(status("127.0.0.1:18002", "/readyz"), 503);
    assert_eq!(status("127.0.0.1:18002", "/metrics"), 404);
    relay.stop();
}

#[test]
fn a_relay_that_cannot_run_says_why() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("relay-not");
    let said = |args: &[&str]| {
        let output = rulec(&node, &[&["relay"], args].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    let (code, text) = said(&["--insecure"]);
    assert_eq!(code, Some(3));
    assert!(
        text.contains("there is no source: give --kubeconfig, --master or --manifests"),
        "{text}"
    );
    let (code, text) = said(&[
        "--certificate=/none",
        "--key=/none",
        "--client-certificate-authority=/none",
        "--master=http://127.0.0.1:1",
    ]);
    assert_eq!(code, Some(3));
    assert!(text.contains("/none: "), "{text}");
    let place = Place::new("relay-not-token");
    let (server, key) = (place.text("server"), place.text("server.key"));
    let (code, text) = said(&[
        "--certificate",
        &server,
        "--key",
        &key,
        "--token-audience=rulec-relay",
        "--manifests=/none",
    ]);
    assert_eq!(code, Some(3));
    assert!(text.contains("--token-audience needs an API server, which reviews tokens"), "{text}");
    let (code, text) = said(&["--master=http://127.0.0.1:1"]);
    assert_eq!(code, Some(3));
    assert!(text.contains("--certificate <FILE>"), "{text}");
}
