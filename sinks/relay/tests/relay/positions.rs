//! Endpoints do not go back in time, whichever relay or server tells of them.
//!
//! The address of the only endpoint counts the changes, and each update that a node sends on is
//! looked at.

use rulec_apiserver::{ApiServer, Credential, Fault, Resource, Scope, Settings};
use rulec_compiler::object::{Object, ServiceCidr};
use rulec_relay::{Position, Standing};
use rulec_sources::{ApiAccess, ApiOptions, ApiTiming, RelayFallback};
use serde_json::json;

use super::*;

/// Services, EndpointSlices, Nodes and ServiceCIDRs.
fn at(versions: [u64; 4]) -> Standing {
    let position = Position { cluster: Some("one".into()), versions: versions.map(Some) };
    Standing { position, ..Standing::default() }
}

/// A world whose endpoint has this number.
fn numbered(number: u8) -> Vec<Object> {
    vec![service("web", 1), slice("web", &[(number, "b")]), node("a"), node("b")]
}

fn number(client: &Client) -> Option<u8> {
    let mut slices = client.model.slices();
    match slices.next()?.object.endpoints.first()?.address {
        IpAddr::V4(address) => Some(address.octets()[3]),
        IpAddr::V6(_) => None,
    }
}

fn has(client: &Client, expected: u8) -> bool {
    number(client) == Some(expected)
}

/// Starts another relay in the place of one.
fn another(server: Server, certificates: &Certificates, standing: Standing, number: u8) -> Server {
    let address = server.address;
    drop(server);
    let mut other = Server::start(certificates.security(), address);
    other.standing = standing;
    other.publish(&numbered(number));
    other
}

#[tokio::test]
async fn a_relay_that_is_behind_takes_nothing_back() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = at([10, 20, 5, 5]);
    server.publish(&numbered(7));
    let mut a = Client::start(certificates.access("a", server.address), "a", None);
    a.until("it has the first state", |it| has(it, 7)).await;

    // It knows more of the Services, and less of the slices.
    let mut other = another(server, &certificates, at([11, 19, 5, 5]), 6);
    let mut objects = numbered(6);
    objects.push(service("new", 2));
    other.publish(&objects);
    let is_new = |it: &Client| it.names().contains(&"Service default/new".to_owned());
    a.until("it has the new Service", is_new).await;
    assert_eq!(number(&a), Some(7), "and the newer endpoints");
    assert_eq!(other.relay.stats().resources(), 1, "only that was sent");

    other.standing = at([11, 21, 5, 5]);
    objects[1] = slice("web", &[(8, "b")]);
    other.publish(&objects);
    a.until("the relay has caught up", |it| has(it, 8)).await;
    a.stop().await;
}

#[tokio::test]
async fn a_state_from_before_a_restart_is_not_taken_back() {
    let certificates = Certificates::new();
    let state = tempfile::tempdir().unwrap();
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = at([10, 20, 5, 5]);
    server.publish(&numbered(7));
    let access = certificates.access("a", server.address);
    let mut a = Client::start(access.clone(), "a", Some(state.path()));
    a.until("it has the first state", |it| has(it, 7)).await;
    a.stop().await;

    let mut other = another(server, &certificates, at([10, 19, 5, 5]), 6);
    let mut a = Client::start(access, "a", Some(state.path()));
    a.until("it has the saved state", |it| it.is_complete() && number(it).is_some()).await;
    assert_eq!(number(&a), Some(7));
    a.during(other.wait("the node follows", |relay| relay.stats().nodes() == 1)).await;
    other.standing = at([10, 22, 5, 5]);
    other.publish(&numbered(8));
    a.until("the relay has caught up", |it| it.last.is_some() && number(it) != Some(7)).await;
    assert_eq!(number(&a), Some(8));
    a.stop().await;
}

fn range() -> Object {
    let cidrs = vec!["10.96.0.0/24".parse().unwrap()];
    Object::ServiceCidr(Arc::new(ServiceCidr { name: "kubernetes".into(), cidrs }))
}

fn has_range(client: &Client) -> bool {
    client.names().contains(&"ServiceCIDR kubernetes".to_owned())
}

#[tokio::test]
async fn what_a_relay_may_not_read_is_not_gone() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = at([10, 20, 5, 5]);
    let mut objects = numbered(7);
    objects.push(range());
    server.publish(&objects);
    let mut a = Client::start(certificates.access("a", server.address), "a", None);
    a.until("it has the first state", has_range).await;
    let address = server.address;
    drop(server);

    let mut other = Server::start(certificates.security(), address);
    other.standing = at([11, 21, 6, 6]);
    other.standing.position.versions[3] = None;
    other.unread[3] = true;
    other.publish(&numbered(8));
    a.until("it follows the other one", |it| has(it, 8)).await;
    assert!(has_range(&a), "{:?}", a.names());
    // Whoever has been there before knows that it is gone.
    other.standing = at([11, 21, 6, 6]);
    other.unread[3] = false;
    other.publish(&numbered(9));
    a.until("it is gone", |it| !has_range(it)).await;
    a.stop().await;
}

#[tokio::test]
async fn a_relay_of_another_cluster_is_followed_at_once() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = at([10, 20, 5, 5]);
    server.publish(&numbered(7));
    let mut a = Client::start(certificates.access("a", server.address), "a", None);
    a.until("it has the first state", |it| has(it, 7)).await;
    let mut new = at([1, 1, 1, 1]);
    new.position.cluster = Some("two".to_owned());
    let _other = another(server, &certificates, new, 6);
    a.until("it has the other state", |it| has(it, 6)).await;
    a.stop().await;
}

#[tokio::test]
async fn a_relay_that_stays_behind_is_followed_in_the_end() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = at([10, 20, 5, 5]);
    server.publish(&numbered(7));
    let access = certificates.access("a", server.address);
    let timing = RelayTiming { behind: Duration::from_millis(200), ..Client::timing() };
    let mut a = Client::of(RelayOptions { timing, ..Client::options(access, "a") });
    a.until("it has the first state", |it| has(it, 7)).await;
    // As after the server was restored from a copy: the same cluster, and older versions.
    let _other = another(server, &certificates, at([1, 1, 1, 1]), 6);
    a.until("it has the other state", |it| has(it, 6)).await;
    a.stop().await;
}

#[tokio::test]
async fn a_relay_that_is_cut_off_says_so() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = at([10, 20, 5, 5]);
    server.publish(&numbered(7));
    let mut a = Client::start(certificates.access("a", server.address), "a", None);
    a.until("it has the first state", |it| has(it, 7)).await;
    server.standing.is_cut_off = true;
    server.publish(&numbered(7));
    let text = "it hears nothing from its API server";
    a.until("it knows", |it| it.problems().iter().any(|it| it.contains(text))).await;
    assert_eq!(number(&a), Some(7));
    server.standing.is_cut_off = false;
    server.publish(&numbered(7));
    a.until("it knows that it is over", |it| it.problems().is_empty()).await;
    a.stop().await;
}

// ---- The API server in the place of the relay ---------------------------------------------------

struct Api {
    server: ApiServer,
    directory: TempDir,
}

impl Api {
    fn new() -> Self {
        let server = ApiServer::with(Settings::default());
        let directory = tempfile::tempdir().unwrap();
        server
            .write_kubeconfig(&directory.path().join("config"), &Credential::Token("token".into()));
        server.apply(&json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        }));
        server.apply(&json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "type": "ClusterIP",
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            },
        }));
        Self { server, directory }
    }

    /// Changes the endpoint. Returns how far the server is.
    fn number(&self, number: u8) -> u64 {
        self.server.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web-1", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": [format!("10.244.0.{number}")], "nodeName": "b",
                "conditions": {"ready": true},
            }],
        }))
    }

    fn fallback(&self) -> RelayFallback {
        let kubeconfig = Some(self.directory.path().join("config"));
        let access = ApiAccess { kubeconfig, master: None };
        let timing = ApiTiming {
            first_retry: Duration::from_millis(20),
            longest_retry: Duration::from_millis(100),
            ..ApiTiming::default()
        };
        let api = ApiOptions { timing, ..ApiOptions::new(access, NodeName::from("a")) };
        RelayFallback { after: Duration::from_millis(50), api }
    }
}

/// Where a relay stands that has everything up to a version of the server. Its cluster is not known
/// here, so it is compared with every other.
fn all_at(version: u64) -> Standing {
    let position = Position { cluster: None, versions: [Some(version); 4] };
    Standing { position, ..Standing::default() }
}

#[tokio::test]
async fn the_api_server_takes_the_place_of_a_relay_and_gives_it_back() {
    let (certificates, api) = (Certificates::new(), Api::new());
    let state = tempfile::tempdir().unwrap();
    let first = api.number(5);
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = all_at(first);
    server.publish(&numbered(5));
    let access = certificates.access("a", server.address);
    let options = |access| RelayOptions {
        state: Some(StateDir::new(state.path().to_owned())),
        fallback: Some(api.fallback()),
        ..Client::options(access, "a")
    };
    let mut a = Client::of(options(access.clone()));
    a.until("it has the relay's state", |it| has(it, 5)).await;
    let address = server.address;
    drop(server);
    let second = api.number(6);
    a.until("it has the server's state", |it| has(it, 6)).await;
    assert!(a.problems().iter().any(|it| it.starts_with("relay: ")), "{:?}", a.problems());

    // A relay that is behind does not get its place back.
    let mut server = Server::start(certificates.security(), address);
    server.standing = all_at(first);
    server.publish(&numbered(5));
    a.during(server.wait("the node follows", |relay| relay.stats().nodes() == 1)).await;
    api.number(7);
    a.until("it still follows the server", |it| has(it, 7)).await;

    // What was seen last survives a restart without either of them.
    a.stop().await;
    drop(server);
    api.server.down();
    let mut a = Client::of(options(access));
    a.until("it has what was saved", |it| number(it).is_some()).await;
    assert_eq!(number(&a), Some(7));

    api.server.up();
    let fourth = api.number(8);
    assert!(fourth > second);
    a.until("it has the server's state", |it| has(it, 8)).await;
    let mut server = Server::start(certificates.security(), address);
    server.standing = all_at(fourth);
    server.publish(&numbered(8));
    let is_served = |api: &ApiServer| api.open_watches(Resource::Services) == 0;
    let left = async {
        while !is_served(&api.server) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    a.during(left).await;
    assert_eq!(number(&a), Some(8));
    server.standing = all_at(fourth + 1);
    server.publish(&numbered(9));
    a.until("it follows the relay", |it| has(it, 9)).await;
    assert_eq!(a.problems(), [""; 0]);
    a.stop().await;
}

/// The API server refuses one type, and has one object that cannot be read.
#[tokio::test]
async fn what_the_api_server_does_not_tell_stays_as_the_relay_has_sent_it() {
    let (certificates, api) = (Certificates::new(), Api::new());
    let refused = Scope::resource(Resource::ServiceCidrs);
    api.server.fault(refused, Fault::status(403));
    let first = api.number(5);
    api.server.apply(&json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "odd", "namespace": "default"},
        "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": "none"},
    }));
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = all_at(first);
    let mut objects = numbered(5);
    objects.extend([range(), service("odd", 9), service("gone", 8)]);
    server.publish(&objects);
    let access = certificates.access("a", server.address);
    let fallback = Some(api.fallback());
    let mut a = Client::of(RelayOptions { fallback, ..Client::options(access, "a") });
    let has_service =
        |it: &Client, name: &str| it.names().contains(&format!("Service default/{name}"));
    a.until("it has the relay's state", |it| has_range(it) && has_service(it, "gone")).await;
    drop(server);
    api.number(6);
    a.until("it has the server's state", |it| has(it, 6)).await;
    assert!(has_range(&a) && has_service(&a, "odd"), "{:?}", a.names());
    assert!(!has_service(&a, "gone"), "that is known to be gone");
    a.stop().await;
}

#[tokio::test]
async fn nothing_takes_the_place_of_a_relay_with_manifests() {
    let (certificates, api) = (Certificates::new(), Api::new());
    let first = api.number(5);
    let mut server = Server::start(certificates.security(), anywhere());
    server.standing = Standing { has_manifests: true, ..all_at(first) };
    let mut objects = numbered(5);
    objects.push(service("manifest", 3));
    server.publish(&objects);
    let access = certificates.access("a", server.address);
    let fallback = Some(api.fallback());
    let mut a = Client::of(RelayOptions { fallback, ..Client::options(access, "a") });
    a.until("it has the relay's state", |it| has(it, 5)).await;
    // On a slow machine, the server was asked before.
    let is_left = async {
        while api.server.open_watches(Resource::Services) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
        sleep(Duration::from_millis(200)).await;
    };
    a.during(is_left).await;
    let asked = api.server.requests().len();
    let address = server.address;
    drop(server);
    a.until("it knows that the relay is away", |it| !it.problems().is_empty()).await;
    // Several times as long as it takes the server to be asked.
    a.during(sleep(Duration::from_millis(500))).await;
    let mut server = Server::start(certificates.security(), address);
    server.standing = Standing { has_manifests: true, ..all_at(first + 9) };
    objects[1] = slice("web", &[(6, "b")]);
    server.publish(&objects);
    a.until("it follows the relay", |it| has(it, 6)).await;
    assert_eq!(api.server.requests().len(), asked, "the server was not asked");
    a.stop().await;
}
