//! A relay and nodes that follow it, over TLS, in one process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "relay/positions.rs"]
mod positions;

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

#[path = "relay/bounds.rs"]
mod bounds;
#[path = "relay/raw.rs"]
mod raw;
#[path = "relay/tokens.rs"]
mod tokens;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{NamespacedName, NodeName, PortName};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::{
    ClusterIps, Endpoint, EndpointSlice, Node, Object, Service, ServicePort, SlicePort, TargetPort,
};
use rulec_compiler::{Change, Model, Origin, Provenance, Sourced};
use rulec_relay::{Catalogue, ELSEWHERE, Standing};
use rulec_relay_server::{Bounds, Relay, Security, TlsFiles, serve};
use rulec_sources::{
    RelayAccess, RelayOptions, RelayReports, RelaySource, RelayTiming, StateDir, Update,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// How long anything may take. No test waits for this unless it fails.
const PATIENCE: Duration = Duration::from_secs(120);

// ---- Certificates -------------------------------------------------------------------------------

struct Certificates {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("authority"), authority.pem()).unwrap();
        let all = Self { directory, authority };
        all.write("server", "system:relays", "relay");
        all
    }

    fn write(&self, file: &str, organization: &str, name: &str) {
        let names: Vec<String> = (1..=PLACES).map(|number| format!("127.1.{number}.1")).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        fs::write(self.path(file), certificate.pem()).unwrap();
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn security(&self) -> Security {
        let files = TlsFiles {
            certificate: self.path("server"),
            key: self.path("server.key"),
            client_authority: Some(self.path("authority")),
        };
        Security::Tls(files, None)
    }

    /// Returns how a node reaches the relay, with a certificate of its own.
    fn access(&self, node: &str, address: SocketAddr) -> RelayAccess {
        self.write(node, "system:nodes", &format!("system:node:{node}"));
        RelayAccess {
            url: format!("https://{address}").parse().unwrap(),
            certificate_authority: Some(self.path("authority")),
            client_certificate: Some(self.path(node)),
            client_key: Some(self.path(&format!("{node}.key"))),
            token: None,
        }
    }
}

// ---- The relay ----------------------------------------------------------------------------------

/// How many relays may be started anew in this process.
const PLACES: u8 = 60;

/// Returns an address that no other relay has: what has ended can be started there again.
fn anywhere() -> SocketAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let number = NEXT.fetch_add(1, Relaxed);
    assert!(number <= PLACES, "the certificate names no more");
    SocketAddr::from(([127, 1, number, 1], 0))
}

/// A relay with a thread of its own. Dropping it is a crash.
struct Server {
    relay: Relay,
    address: SocketAddr,
    model: Model,
    catalogue: Catalogue,
    standing: Standing,
    unread: [bool; 4],
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(security: Security, at: SocketAddr) -> Self {
        Self::start_with(security, at, Bounds::default())
    }

    fn start_with(security: Security, at: SocketAddr, bounds: Bounds) -> Self {
        let relay = Relay::new(bounds);
        let listener = std::net::TcpListener::bind(at).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = relay.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    ended = serve(listener, security, served) => panic!("{ended:?}"),
                    _ = stopped => {}
                }
            });
        });
        Self {
            relay,
            address,
            model: Model::default(),
            catalogue: Catalogue::default(),
            standing: Standing::default(),
            unread: [false; 4],
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Publishes the state in which the relay has these objects and no others.
    fn publish(&mut self, objects: &[Object]) {
        let old = self.model.clone();
        let sourced = |object| Sourced { object, provenance: Provenance("test".into()) };
        let all = objects.iter().cloned().map(sourced).collect();
        self.model.apply(Origin::Api, Change::everything(all));
        self.catalogue.update(&old, &self.model);
        self.relay.publish(self.catalogue.clone(), self.standing.clone(), self.unread);
    }

    /// Waits until a count has a value.
    async fn wait(&self, what: &str, is_so: impl Fn(&Relay) -> bool) {
        let so = async {
            while !is_so(&self.relay) {
                sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(PATIENCE, so).await.is_ok(), "{what}: {:?}", self.relay.stats());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(thread::JoinHandle::join);
        assert!(ended.is_none_or(|ended| ended.is_ok()) || thread::panicking());
    }
}

// ---- The node -----------------------------------------------------------------------------------

struct Client {
    updates: mpsc::Receiver<Update>,
    reports: RelayReports,
    model: Model,
    replaced: usize,
    last: Option<Update>,
    task: JoinHandle<()>,
    state: Option<StateDir>,
}

impl Client {
    fn start(access: RelayAccess, node: &str, state: Option<&Path>) -> Self {
        let state = state.map(|path| StateDir::new(path.to_owned()));
        Self::of(RelayOptions { state, ..Self::options(access, node) })
    }

    fn timing() -> RelayTiming {
        RelayTiming {
            first_retry: Duration::from_millis(20),
            longest_retry: Duration::from_millis(100),
            answer: PATIENCE,
            ..RelayTiming::default()
        }
    }

    fn options(access: RelayAccess, node: &str) -> RelayOptions {
        let (node_name, timing) = (NodeName::from(node), Self::timing());
        RelayOptions { access, node_name, timing, state: None, fallback: None }
    }

    fn of(options: RelayOptions) -> Self {
        let state = options.state.clone();
        let source = RelaySource::new(options);
        let (out, updates) = mpsc::channel(1);
        let reports = source.reports();
        let task = tokio::spawn(async move {
            source.run(out).await.unwrap();
        });
        let model = Model::default();
        Self { updates, reports, model, replaced: 0, last: None, task, state }
    }

    /// Takes over updates until something is so.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            let update = timeout(PATIENCE, self.updates.recv()).await;
            let Ok(Some(mut update)) = update else {
                panic!("{what} is not so: {:?} {:?}", self.names(), self.last);
            };
            for change in std::mem::take(&mut update.changes) {
                self.replaced += usize::from(matches!(change, Change::Replace { .. }));
                self.model.apply(update.origin, change);
            }
            self.last = Some(update);
        }
    }

    /// Takes over updates until something has happened elsewhere: a source whose updates nobody
    /// takes does nothing more.
    async fn during<T>(&mut self, other: impl Future<Output = T>) -> T {
        let mut other = std::pin::pin!(timeout(PATIENCE, other));
        loop {
            tokio::select! {
                done = &mut other => return done.expect("it comes in time"),
                Some(mut update) = self.updates.recv() => {
                    for change in std::mem::take(&mut update.changes) {
                        self.model.apply(update.origin, change);
                    }
                    self.last = Some(update);
                }
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.model.objects().map(|it| it.object.key().to_string()).collect()
    }

    fn problems(&self) -> Vec<String> {
        let last = self.last.iter();
        last.flat_map(|update| &update.problems).map(ToString::to_string).collect()
    }

    fn is_complete(&self) -> bool {
        self.last.as_ref().is_some_and(|update| update.complete)
    }

    /// Ends the source, and waits for its state to be written.
    async fn stop(self) {
        drop(self.updates);
        timeout(PATIENCE, self.task).await.unwrap().unwrap();
        assert!(self.state.is_none_or(|state| state.finish(PATIENCE)));
    }
}

/// Returns what nodes have told a relay that they refuse.
fn told(relay: &Relay) -> BTreeMap<String, Vec<String>> {
    let all = relay.stats().refusals().into_iter();
    let reasons = |of: BTreeMap<String, rulec_relay_server::Refusal>| {
        of.into_values().map(|it| it.reason).collect()
    };
    all.map(|(node, of)| (node.to_string(), reasons(of))).collect()
}

// ---- Objects ------------------------------------------------------------------------------------

fn service(name: &str, last: u8) -> Object {
    Object::Service(Arc::new(Service {
        cluster_ips: ClusterIps { v4: Some(Ipv4Addr::new(10, 96, 0, last)), v6: None },
        ports: vec![ServicePort {
            name: PortName::from("http"),
            protocol: Protocol::Tcp,
            port: NonZeroU16::new(80).unwrap(),
            node_port: None,
            target: TargetPort::Number(NonZeroU16::new(8080).unwrap()),
        }],
        ..Service::new(NamespacedName::new("default", name))
    }))
}

fn slice(name: &str, endpoints: &[(u8, &str)]) -> Object {
    let endpoint = |(last, node): &(u8, &str)| Endpoint {
        node: Some(NodeName::from(*node)),
        ..Endpoint::ready(IpAddr::from([10, 244, 0, *last]))
    };
    Object::EndpointSlice(Arc::new(EndpointSlice {
        key: NamespacedName::new("default", format!("{name}-1").as_str()),
        service: NamespacedName::new("default", name),
        family: Family::Ipv4,
        ports: vec![SlicePort {
            name: PortName::from("http"),
            protocol: Protocol::Tcp,
            port: NonZeroU16::new(8080).unwrap(),
        }],
        endpoints: endpoints.iter().map(endpoint).collect(),
        weight: Weight::default(),
    }))
}

fn node(name: &str) -> Object {
    Object::Node(Arc::new(Node {
        name: NodeName::from(name),
        addresses: vec![[192, 0, 2, 1].into()],
        pod_cidrs: Vec::new(),
        zone: None,
        taints: Vec::new(),
        deleting: false,
    }))
}

fn world() -> Vec<Object> {
    let web = [(1, "a"), (2, "b"), (3, "c")];
    vec![service("web", 1), slice("web", &web), service("dns", 2), node("a"), node("b")]
}

const ALL_OF_A: [&str; 4] =
    ["Service default/dns", "Service default/web", "EndpointSlice default/web-1", "Node a"];

// ---- Tests --------------------------------------------------------------------------------------

#[tokio::test]
async fn a_node_gets_what_it_needs_and_then_only_changes() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.publish(&world());
    let mut a = Client::start(certificates.access("a", server.address), "a", None);
    let mut b = Client::start(certificates.access("b", server.address), "b", None);
    server.wait("both follow", |relay| relay.stats().nodes() == 2).await;
    a.until("it is complete", Client::is_complete).await;
    b.until("it is complete", Client::is_complete).await;
    assert_eq!(a.names(), ALL_OF_A);
    let places = |client: &Client| -> Vec<String> {
        let slices: Vec<_> = client.model.slices().collect();
        let endpoints = slices[0].object.endpoints.iter();
        endpoints.map(|it| it.node.as_ref().unwrap().to_string()).collect()
    };
    assert_eq!(places(&a), ["a", ELSEWHERE, ELSEWHERE]);
    assert_eq!(places(&b), [ELSEWHERE, "b", ELSEWHERE]);
    let first = server.relay.stats().resources();
    assert_eq!(first, 8);

    // A Pod moves from one node to another: that means nothing to these two.
    let mut changed = world();
    changed[1] = slice("web", &[(1, "a"), (2, "b"), (3, "d")]);
    server.publish(&changed);
    changed.push(service("new", 3));
    server.publish(&changed);
    a.until("it has the new Service", |it| it.names().len() == 5).await;
    b.until("it has the new Service", |it| it.names().len() == 5).await;
    server.wait("two more were sent", |relay| relay.stats().resources() == first + 2).await;

    changed.retain(|object| object.key().to_string() != "Service default/dns");
    server.publish(&changed);
    a.until("the Service is gone", |it| it.names().len() == 4).await;
    assert_eq!((a.replaced, a.problems()), (1, Vec::new()));
    a.stop().await;
    server.wait("one follows", |relay| relay.stats().nodes() == 1).await;
}

#[tokio::test]
async fn either_side_may_crash_and_nothing_is_sent_again() {
    let certificates = Certificates::new();
    let state = tempfile::tempdir().unwrap();
    let mut server = Server::start(certificates.security(), anywhere());
    let address = server.address;
    server.publish(&world());
    let access = certificates.access("a", server.address);
    let mut client = Client::start(access.clone(), "a", Some(state.path()));
    client.until("it is complete", Client::is_complete).await;
    client.stop().await;
    assert_eq!(server.relay.stats().resources(), 4);

    // The node comes back, and has everything.
    let mut client = Client::start(access, "a", Some(state.path()));
    client.until("it is complete", Client::is_complete).await;
    assert_eq!(client.names(), ALL_OF_A);
    let is_fresh = |it: &Client| it.last.as_ref().is_some_and(|update| update.stale.is_none());
    client.until("it is not stale", is_fresh).await;
    assert_eq!(server.relay.stats().resources(), 4);
    assert_eq!(server.relay.stats().streams(), 2);

    // Another relay takes over, which has read the same.
    drop(server);
    client.until("the relay is missed", |it| !it.problems().is_empty()).await;
    assert_eq!(client.names(), ALL_OF_A, "what is known stays");
    let mut server = Server::start(certificates.security(), address);
    server.publish(&world());
    client.until("it is found again", |it| it.problems().is_empty()).await;
    assert_eq!(server.relay.stats().resources(), 0);
    let replaced = client.replaced;

    // The next one has read something else.
    drop(server);
    let mut server = Server::start(certificates.security(), address);
    let objects = [service("web", 1), service("other", 4), node("a")];
    server.publish(&objects);
    client.until("it has the other state", |it| it.names().len() == 3).await;
    assert_eq!(client.names(), ["Service default/other", "Service default/web", "Node a"]);
    assert_eq!(client.replaced, replaced + 1, "a gap ends with a complete list");
    // One new Service, and two resources that are gone.
    assert_eq!(server.relay.stats().resources(), 3);
}

#[tokio::test]
async fn what_a_node_cannot_use_is_told_and_its_last_version_stays() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.publish(&world());
    let mut client = Client::start(certificates.access("a", server.address), "a", None);
    client.until("it is complete", Client::is_complete).await;

    let mut broken = world();
    let Object::Service(web) = service("web", 1) else { unreachable!() };
    let cluster_ips = ClusterIps { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
    broken[0] = Object::Service(Arc::new(Service { cluster_ips, ..Service::clone(&web) }));
    broken.push(service("new", 3));
    server.publish(&broken);
    client.until("there is a problem", |it| !it.problems().is_empty()).await;
    let reason = "Service default/web: cluster_ips[0]: 127.0.0.1 cannot be the address of a \
                  Service or an endpoint";
    assert_eq!(client.problems(), [format!("relay: {reason}")]);
    assert_eq!(client.names().len(), 5, "the rest is used");
    let held = client.model.service(&web.key).unwrap();
    assert_eq!(held.object.cluster_ips, web.cluster_ips);
    server.wait("the relay is told", |relay| !relay.stats().refusals().is_empty()).await;
    assert_eq!(told(&server.relay), [("a".to_owned(), vec![reason.to_owned()])].into());

    server.publish(&world());
    client.until("the problem is gone", |it| it.problems().is_empty()).await;
    server.wait("the relay is told", |relay| relay.stats().refusals().is_empty()).await;

    // What the kernel refuses is told as well.
    client.reports.report(Some("default/web: refused".to_owned()));
    server.wait("the relay is told", |relay| !relay.stats().refusals().is_empty()).await;
    assert_eq!(
        told(&server.relay),
        [("a".to_owned(), vec!["default/web: refused".to_owned()])].into()
    );
    client.reports.report(None);
    server.wait("the relay is told", |relay| relay.stats().refusals().is_empty()).await;
}

#[tokio::test]
async fn a_slow_node_misses_what_lies_in_between() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.publish(&world());
    let mut client = Client::start(certificates.access("a", server.address), "a", None);
    server.wait("it follows", |relay| relay.stats().resources() == 4).await;
    for round in 0..500_u16 {
        let mut changed = world();
        changed.push(service(&format!("new-{round}"), 9));
        server.publish(&changed);
    }
    client
        .until("it has the last state", |it| {
            it.names().contains(&"Service default/new-499".to_owned())
        })
        .await;
    assert_eq!(client.names().len(), 5);
    // It took the first update and waited with the next one, so that it answered no more.
    let batches = server.relay.stats().batches();
    assert!(batches <= 10, "{batches} batches");
}

#[tokio::test]
async fn nobody_else_is_let_in() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    server.publish(&world());
    // A node that says that it is another one.
    let mut client = Client::start(certificates.access("b", server.address), "a", None);
    client.until("there is a problem", |it| !it.problems().is_empty()).await;
    assert_eq!(
        client.problems(),
        ["relay: it answers with gRPC status 7: node.id is a, and the certificate that of b"]
    );
    assert!(!client.is_complete());
    client.stop().await;
    let turned_away = server.relay.stats().turned_away();
    assert!(turned_away >= 1);

    // Somebody with a certificate of the authority who is no node, and somebody without one.
    certificates.write("admin", "system:masters", "admin");
    for file in [Some("admin"), None] {
        let access = RelayAccess {
            client_certificate: file.map(|file| certificates.path(file)),
            client_key: file.map(|file| certificates.path(&format!("{file}.key"))),
            ..certificates.access("c", server.address)
        };
        let before = server.relay.stats().turned_away();
        let mut client = Client::start(access, "c", None);
        client.until("there is a problem", |it| !it.problems().is_empty()).await;
        server.wait("it is refused", |relay| relay.stats().turned_away() > before).await;
        client.stop().await;
    }

    // A relay whose certificate is of another authority.
    let other = Certificates::new();
    let mut client = Client::start(other.access("a", server.address), "a", None);
    client.until("there is a problem", |it| !it.problems().is_empty()).await;
    let problems = client.problems();
    assert!(problems[0].starts_with("relay: the connection is not secure: "), "{problems:?}");
    client.stop().await;
    assert_eq!(server.relay.stats().streams(), 0);
}

#[tokio::test]
async fn a_relay_that_talks_nonsense_changes_nothing() {
    let certificates = Certificates::new();
    let mut server = Server::start(Security::None, anywhere());
    let address = server.address;
    server.publish(&world());
    let access = RelayAccess {
        url: format!("http://{address}").parse().unwrap(),
        certificate_authority: None,
        client_certificate: None,
        client_key: None,
        token: None,
    };
    let mut client = Client::start(access, "a", None);
    client.until("it is complete", Client::is_complete).await;
    drop(server);
    let listener = TcpListener::bind(address).await.unwrap();
    for answer in [&b"SSH-2.0-OpenSSH_9.2\r\n"[..], b"", &[0; 4096]] {
        let (mut socket, _) = client.during(listener.accept()).await.unwrap();
        let mut head = [0; 16];
        let _ = socket.read(&mut head).await;
        let _ = socket.write_all(answer).await;
        drop(socket);
        client.until("there is a problem", |it| !it.problems().is_empty()).await;
        assert_eq!(client.names(), ALL_OF_A);
        assert!(client.is_complete());
    }
    drop(listener);
    let mut server = Server::start(Security::None, address);
    server.publish(&world());
    client.until("it is found again", |it| it.problems().is_empty()).await;
    assert_eq!(client.names(), ALL_OF_A);
    drop(certificates);
}

#[tokio::test]
async fn a_relay_that_has_nothing_yet_says_so_at_once() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    let mut client = Client::start(certificates.access("a", server.address), "a", None);
    client.until("there is a problem", |it| !it.problems().is_empty()).await;
    assert_eq!(
        client.problems(),
        ["relay: it answers with gRPC status 14: the sources of the relay have not delivered"]
    );
    assert_eq!(server.relay.stats().streams(), 0);
    server.publish(&world());
    client.until("it is complete", Client::is_complete).await;
    assert_eq!((client.names(), client.problems()), (ALL_OF_A.map(Into::into).into(), Vec::new()));
}

#[tokio::test]
async fn what_a_node_refuses_is_known_while_it_is_away() {
    let certificates = Certificates::new();
    let mut server = Server::start(certificates.security(), anywhere());
    let mut broken = world();
    let Object::Service(web) = service("web", 1) else { unreachable!() };
    let cluster_ips = ClusterIps { v4: Some(Ipv4Addr::LOCALHOST), v6: None };
    broken[0] = Object::Service(Arc::new(Service { cluster_ips, ..Service::clone(&web) }));
    server.publish(&broken);
    let access = certificates.access("a", server.address);
    let mut client = Client::start(access.clone(), "a", None);
    client.until("there is a problem", |it| !it.problems().is_empty()).await;
    server.wait("the relay is told", |relay| !told(relay).is_empty()).await;

    // Another Service of the same type is accepted, which says nothing about this one.
    broken.push(service("new", 3));
    server.publish(&broken);
    client.until("it has the new one", |it| it.names().len() == 4).await;
    // The next one is not sent before that was answered.
    broken.push(service("newer", 4));
    server.publish(&broken);
    client.until("it has the newer one", |it| it.names().len() == 5).await;
    let refused = told(&server.relay);
    assert_eq!(refused["a"].len(), 1, "{refused:?}");
    client.stop().await;
    server.wait("it has gone", |relay| relay.stats().nodes() == 0).await;
    assert_eq!(told(&server.relay), refused);

    // It returns, is sent what it lacks, and can use it.
    server.publish(&world());
    let mut client = Client::start(access, "a", None);
    client.until("it is complete", Client::is_complete).await;
    server.wait("nothing is refused", |relay| told(relay).is_empty()).await;
}
