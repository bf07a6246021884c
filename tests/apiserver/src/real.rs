//! A real kube-apiserver with a real etcd, each a separate process.
//!
//! ```text
//!  client ──▶ relay ──▶ kube-apiserver ──▶ etcd
//!                           ▲
//!  test ────────────────────┘
//! ```
//!
//! The relay copies bytes between clients and the server, so that they can lose contact while the
//! test still writes objects. Clients authenticate with the role of `deploy/kubernetes`, and have
//! no further rights. Their requests are read from the server's audit log.
//!
//! There is no controller manager, no scheduler and no kubelet: apart from what the server creates
//! itself (`default/kubernetes`, its ServiceCIDR), there are only the objects of the test.

mod assets;
mod audit;
mod client;
mod process;
mod role;
mod stored;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use crate::handle::Settings;
use crate::journal::Request;
use crate::kubeconfig::{Credential, kubeconfig};
use crate::resource::Resource;
use crate::serve::{Order, Port, Serving};
use crate::server::Server;
use crate::tls::Tls;
pub use assets::Assets;
use audit::Audit;
use client::{Answer, Client};
use process::{ApiProcess, Etcd};

/// The time limit for any operation of a server on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The token with which the test itself writes.
const ADMIN: &str = "admin";

/// A kube-apiserver with an etcd; both stop when this value is dropped.
#[derive(Debug)]
pub struct RealServer {
    // Fields are dropped in this order.
    relay: Serving,
    client: Client,
    api: Mutex<ApiProcess>,
    etcd: Etcd,
    tls: Tls,
    audit: Audit,
    forbidden: Mutex<Vec<Resource>>,
    directory: TempDir,
}

impl RealServer {
    /// Returns the requests of clients that were refused for lack of rights.
    #[must_use]
    pub fn forbidden_requests(&self) -> Vec<String> {
        self.audit.answered(403)
    }

    /// Returns a token of the ServiceAccount of `deploy/kubernetes`, requested like the kubelet
    /// does.
    #[must_use]
    pub fn service_account_token(&self) -> String {
        let path = "/api/v1/namespaces/kube-system/serviceaccounts/rulec/token";
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": { "expirationSeconds": 3600 },
        });
        let answer = self.insist(Method::POST, path, Some(&request));
        let token = answer.body["status"]["token"].as_str();
        token.unwrap_or_else(|| panic!("no token: {answer:?}")).to_owned()
    }

    fn restart(&self) {
        self.crash();
        self.wait_until_ready();
    }

    /// Sends a request until the answer does not depend on the server's own state.
    fn insist(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let end = Instant::now() + PATIENCE;
        loop {
            let answer = self.client.send(method.clone(), path, body);
            if let Ok(answer) = &answer
                && !is_about_the_server(answer)
            {
                return answer.clone();
            }
            assert!(
                Instant::now() < end,
                "{method} {path}: {answer:?}; the server's log ends:\n{}",
                self.api.lock().unwrap().log_end()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn must(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = self.insist(method.clone(), path, body);
        assert!(answer.is_success(), "{method} {path}: {answer:?}; {body:?}");
        answer
    }

    /// Replaces an object at its path in a collection; creates it if it does not exist.
    fn put(&self, collection: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("the object has a name");
        let path = format!("{collection}/{name}");
        let replaced = self.insist(Method::PUT, &path, Some(object));
        if !replaced.is_success() {
            // A PUT can create Services, so that it may find the address taken, too.
            assert!(
                replaced.code == 404 || self.frees_address(&replaced, object),
                "{path}: {replaced:?}"
            );
            self.create(collection, object);
        } else if object["kind"] == "Node" && object.get("status").is_some() {
            self.must(Method::PUT, &format!("{path}/status"), Some(object));
        }
    }

    /// Creates an object; replaces it if it exists.
    fn create(&self, collection: &str, object: &Value) {
        let end = Instant::now() + PATIENCE;
        loop {
            let created = self.insist(Method::POST, collection, Some(object));
            if created.is_success() {
                return;
            }
            if created.code == 409 {
                // The answer to the first attempt was lost with the server.
                return self.put(collection, object);
            }
            assert!(self.frees_address(&created, object), "{collection}: {created:?}; {object}");
            assert!(Instant::now() < end, "{collection}: {created:?}; {object}");
        }
    }

    /// Deletes the record of a Service's address. A server that is killed while it deletes a
    /// Service may leave the record behind, which its own controller would find after a minute.
    /// Returns false if the refusal has another reason.
    fn frees_address(&self, refusal: &Answer, service: &Value) -> bool {
        let address = service["spec"]["clusterIP"].as_str();
        let taken = refusal.code == 422 && refusal.body.to_string().contains("already allocated");
        let Some(address) = address.filter(|_| taken) else { return false };
        let path = format!("/apis/networking.k8s.io/v1/ipaddresses/{address}");
        self.insist(Method::DELETE, &path, None);
        true
    }

    /// Waits until the server reports that it is ready.
    fn wait_until_ready(&self) {
        let end = Instant::now() + PATIENCE;
        let path = "/api/v1/namespaces/default/services/kubernetes";
        loop {
            self.api.lock().unwrap().assert_runs();
            let is = |path| self.client.send(Method::GET, path, None).is_ok_and(|a| a.is_success());
            if is("/readyz") && is(path) {
                return;
            }
            assert!(
                Instant::now() < end,
                "kube-apiserver does not get ready; its log ends:\n{}",
                self.api.lock().unwrap().log_end()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes the role without the forbidden rules, and waits until it is in force.
    fn write_role(&self) {
        let forbidden = self.forbidden.lock().unwrap().clone();
        for (collection, object) in role::objects(&forbidden) {
            self.put(collection, &object);
        }
        let end = Instant::now() + PATIENCE;
        for resource in
            [Resource::Services, Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs]
        {
            while self.lets_see(resource) == forbidden.contains(&resource) {
                assert!(Instant::now() < end, "the role does not come into force");
                thread::sleep(Duration::from_millis(10));
            }
        }
    }

    fn lets_see(&self, resource: Resource) -> bool {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": role::USER,
                "resourceAttributes": {
                    "verb": "list", "group": resource.group(), "resource": resource.plural(),
                },
            },
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        self.must(Method::POST, path, Some(&review)).body["status"]["allowed"] == true
    }
}

impl Server for RealServer {
    fn with(settings: Settings) -> Self {
        let assets = Assets::named().expect("the test asks first whether there are any");
        let Settings { listen, names, tokens, streaming_lists } = settings;
        let directory = TempDir::new().expect("a temporary directory is made");
        let own = Port::reserve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .expect("a port of the loopback address is free");
        let front = Port::reserve(listen).expect("the test's address can be bound");
        let tls = Tls::of(listen.ip(), names);
        let address = own.address();
        let relay = Serving::start(front, move |client| relay(client, address));

        let etcd = Etcd::start(&assets, directory.path());
        let tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
        role::write_tokens(directory.path(), ADMIN, &tokens);
        let audit = Audit::new(directory.path());
        let api = ApiProcess::new(&assets, directory.path(), own, &etcd, &tls, streaming_lists);
        let text =
            kubeconfig(&format!("https://{address}"), &tls, &Credential::Token(ADMIN.to_owned()));
        let server = Self {
            relay,
            client: Client::with_kubeconfig(&text),
            api: Mutex::new(api),
            etcd,
            tls,
            audit,
            forbidden: Mutex::default(),
            directory,
        };
        server.api.lock().unwrap().start(&server.client);
        server.wait_until_ready();
        server.write_role();
        server
    }

    fn git_version(&self) -> String {
        let answer = self.must(Method::GET, "/version", None);
        answer.body["gitVersion"].as_str().expect("a server knows its version").to_owned()
    }

    fn streams(&self) -> bool {
        let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                     &allowWatchBookmarks=true&timeoutSeconds=1";
        let answer = self.insist(Method::GET, &format!("/api/v1/nodes?{query}"), None);
        // Some versions refuse the request; others accept it and then send an ERROR.
        answer.is_success() && answer.body["type"] != "ERROR"
    }

    fn url(&self) -> String {
        format!("https://{}", self.relay.address())
    }

    fn write_kubeconfig(&self, path: &Path, credential: &Credential) {
        let text = kubeconfig(&self.url(), &self.tls, credential);
        std::fs::write(path, text).expect("a kubeconfig is written");
    }

    fn set_tokens(&self, tokens: &[&str]) {
        role::write_tokens(self.directory.path(), ADMIN, tokens);
        // The server reads the tokens only at start.
        self.restart();
    }

    fn its_own(&self) -> Vec<Value> {
        let paths = [
            "/api/v1/namespaces/default/services/kubernetes",
            "/apis/networking.k8s.io/v1/servicecidrs/kubernetes",
        ];
        paths.into_iter().map(|path| self.must(Method::GET, path, None).body).collect()
    }

    fn apply(&self, object: &Value) {
        self.put(&collection_of(object), object);
    }

    /// Writes to etcd directly: the server takes 70 ms to create a Service when it has 25,000
    /// (1.36).
    fn apply_all(&self, objects: &[Value]) {
        self.etcd.put_all(objects.iter().flat_map(stored::of));
    }

    fn delete(&self, resource: Resource, namespace: &str, name: &str) {
        let path = format!("{}/{name}", collection(resource, namespace));
        let answer = self.insist(Method::DELETE, &path, None);
        assert!(answer.is_success() || answer.code == 404, "DELETE {path}: {answer:?}");
    }

    fn forget(&self) {
        // The server still has in its watch cache what etcd has forgotten.
        self.etcd.compact();
        self.restart();
    }

    fn forbid(&self, resource: Resource) {
        self.forbidden.lock().unwrap().push(resource);
        self.write_role();
    }

    fn allow(&self, resource: Resource) {
        self.forbidden.lock().unwrap().retain(|other| *other != resource);
        self.write_role();
    }

    fn down(&self) {
        self.relay.order(Order::Down);
    }

    fn up(&self) {
        self.relay.order(Order::Up);
    }

    fn drop_connections(&self) {
        self.relay.order(Order::Drop);
    }

    fn crash(&self) {
        let mut api = self.api.lock().unwrap();
        api.kill();
        self.audit.begin_anew();
        api.start(&self.client);
    }

    fn requests(&self) -> Vec<Request> {
        self.audit.requests()
    }

    fn open_watches(&self, resource: Resource) -> usize {
        self.audit.open_watches(resource)
    }
}

/// Returns whether a refusal is due to the server's state and not to the request: a server that has
/// just started knows neither the roles nor, for a while, the range of cluster addresses.
fn is_about_the_server(answer: &Answer) -> bool {
    match answer.code {
        401 | 403 | 429 | 500.. => true,
        422 => answer.body.to_string().contains("does not match the current range"),
        _ => false,
    }
}

/// Copies one connection of a client, until either side ends it.
async fn relay(mut client: TcpStream, server: SocketAddr) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    let _best_effort = (client.set_nodelay(true), server.set_nodelay(true));
    let _ended = copy_bidirectional(&mut client, &mut server).await;
}

/// Returns the path at which an object is created.
fn collection_of(object: &Value) -> String {
    let resource = Resource::of(object).expect("the object is of a kind that is served");
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    collection(resource, namespace)
}

/// Returns the path of the objects of a kind.
fn collection(resource: Resource, namespace: &str) -> String {
    let group = match resource.group() {
        "" => "/api/v1".to_owned(),
        group => format!("/apis/{group}/v1"),
    };
    if resource.namespaced() {
        format!("{group}/namespaces/{namespace}/{}", resource.plural())
    } else {
        format!("{group}/{}", resource.plural())
    }
}
