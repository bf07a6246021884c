//! The handle that a test holds.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::DuplexStream;

use crate::faults::{Fault, FaultId, Faults, Injection, Scope};
use crate::http::{Shared, converse};
use crate::inward::Inward;
use crate::journal::{RecordedEvent, Request};
use crate::kubeconfig::{Credential, kubeconfig};
use crate::options::{Expiry, Features};
use crate::resource::{Resource, Verb};
use crate::serve::{Order, Port, Serving};
use crate::store::{Key, Message, Restart, Store};
use crate::tls::Tls;

/// The configuration of a server.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The address to listen on; with port 0, any free port. The default is a free port of
    /// 127.0.0.1.
    pub listen: SocketAddr,
    /// Names and addresses in the certificate, in addition to that address, `localhost` and
    /// `kubernetes.default.svc`.
    pub names: Vec<String>,
    /// The bearer tokens accepted. The default is `token`.
    pub tokens: BTreeSet<String>,
    /// Whether lists can be streamed as watches (the feature `WatchList`). True by default.
    pub streaming_lists: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            names: Vec::new(),
            tokens: BTreeSet::from(["token".to_owned()]),
            streaming_lists: true,
        }
    }
}

/// A server, which stops when this value is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    reached: Reached,
}

/// How clients reach it.
#[derive(Debug)]
enum Reached {
    /// By TLS over TCP.
    Outside { tls: Arc<Mutex<Tls>>, serving: Serving },
    /// In their own runtime.
    Inside(Inward),
}

impl ApiServer {
    /// Starts with the default settings.
    ///
    /// # Panics
    ///
    /// As [`ApiServer::with`].
    #[must_use]
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    /// Starts a server; it listens when this returns.
    ///
    /// # Panics
    ///
    /// When the address cannot be bound.
    #[must_use]
    pub fn with(settings: Settings) -> Self {
        let Settings { listen, names, tokens, streaming_lists } = settings;
        let port = Port::reserve(listen).expect("the test's address can be bound");
        let tls = Arc::new(Mutex::new(Tls::of(port.address().ip(), names)));
        let shared = Self::shared(tokens, streaming_lists);
        let (its_tls, its_shared) = (Arc::clone(&tls), Arc::clone(&shared));
        let serving = Serving::start(port, move |stream| {
            let config = its_tls.lock().unwrap().config();
            converse(stream, config.into(), Arc::clone(&its_shared))
        });
        Self { shared, reached: Reached::Outside { tls, serving } }
    }

    /// Creates a server without a network, which serves in the runtime of its clients:
    /// [`connect`](Self::connect) them. It has no URL and no certificates.
    #[must_use]
    pub fn inside() -> Self {
        let shared = Self::shared(BTreeSet::new(), true);
        Self { shared, reached: Reached::Inside(Inward::default()) }
    }

    fn shared(tokens: BTreeSet<String>, streaming_lists: bool) -> Arc<Shared> {
        Arc::new(Shared {
            store: Mutex::new(Store::new()),
            faults: Arc::new(Faults::new()),
            journal: Arc::default(),
            tokens: Mutex::new(tokens),
            reviews: Mutex::default(),
            features: Mutex::new(Features { streaming_lists, expiry: Expiry::Event }),
        })
    }

    /// Connects a client in the runtime of the caller. It needs no credentials.
    ///
    /// # Errors
    ///
    /// If the server is down.
    ///
    /// # Panics
    ///
    /// If the server is reached by the network.
    pub fn connect(&self) -> std::io::Result<DuplexStream> {
        match &self.reached {
            Reached::Inside(inward) => inward.connect(&self.shared),
            Reached::Outside { .. } => panic!("this server is reached by the network"),
        }
    }

    fn order(&self, order: Order) {
        match &self.reached {
            Reached::Outside { serving, .. } => serving.order(order),
            Reached::Inside(inward) => inward.order(order),
        }
    }

    fn tls(&self) -> MutexGuard<'_, Tls> {
        match &self.reached {
            Reached::Outside { tls, .. } => tls.lock().unwrap(),
            Reached::Inside(_) => panic!("a server without a network has no certificates"),
        }
    }

    // Addresses and credentials.

    /// Returns the address that the server listens on.
    ///
    /// # Panics
    ///
    /// If it is not reached by the network.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match &self.reached {
            Reached::Outside { serving, .. } => serving.address(),
            Reached::Inside(_) => panic!("a server without a network has no address"),
        }
    }

    /// Returns `https://` and the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address())
    }

    /// Returns the certificate of the authority that signed the server's, in PEM.
    #[must_use]
    pub fn authority_pem(&self) -> String {
        self.tls().authority_pem()
    }

    /// Returns a certificate and key for a client, in PEM.
    #[must_use]
    pub fn client_certificate(&self, common_name: &str) -> (String, String) {
        self.tls().client(common_name)
    }

    /// Writes a kubeconfig that trusts the current authority.
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    pub fn write_kubeconfig(&self, path: &Path, credential: &Credential) {
        let text = kubeconfig(&self.url(), &self.tls(), credential);
        fs::write(path, text).expect("a kubeconfig is written");
    }

    /// Writes the files that a Pod finds in the directory of its service account. As the kubelet
    /// does it, all of them are replaced at once, by a symbolic link.
    ///
    /// # Panics
    ///
    /// When a file cannot be written.
    pub fn write_service_account(&self, directory: &Path, token: &str) {
        let write = || {
            let version = format!("..{token}");
            let path = directory.join(&version);
            fs::create_dir_all(&path)?;
            let files = [
                ("ca.crt", self.authority_pem()),
                ("namespace", "kube-system".to_owned()),
                ("token", token.to_owned()),
            ];
            for (name, content) in files {
                fs::write(path.join(name), content)?;
                if !directory.join(name).is_symlink() {
                    symlink(Path::new("..data").join(name), directory.join(name))?;
                }
            }
            symlink(version, directory.join("..data.new"))?;
            fs::rename(directory.join("..data.new"), directory.join("..data"))
        };
        write().expect("the files of a service account are written");
    }

    /// Sets the bearer tokens that are accepted from now on.
    pub fn set_tokens<'a>(&self, tokens: impl IntoIterator<Item = &'a str>) {
        *self.shared.tokens.lock().unwrap() = tokens.into_iter().map(str::to_owned).collect();
    }

    /// Sets what reviews of a token answer from now on: the `status` of a TokenReview. Any other
    /// token is not authenticated.
    pub fn set_review(&self, token: &str, status: Option<Value>) {
        let mut reviews = self.shared.reviews.lock().unwrap();
        match status {
            Some(status) => reviews.insert(token.to_owned(), status),
            None => reviews.remove(token),
        };
    }

    // Objects.

    /// Creates or replaces an object, and returns its version, which stays the same if nothing
    /// changes.
    ///
    /// # Panics
    ///
    /// When `kind` and `apiVersion` are not those of a [`Resource`], or a name is missing.
    pub fn apply(&self, object: &Value) -> u64 {
        let resource = Resource::of(object).expect("the object is of a kind that is served");
        let key = Key::of(resource, object).expect("the object has its name and namespace");
        let stored = self.shared.store.lock().unwrap().apply(resource, key, object);
        let version = stored["metadata"]["resourceVersion"].as_str();
        version.and_then(|text| text.parse().ok()).expect("stored objects have a version")
    }

    /// Deletes an object and returns the version of the deletion; `None` if there is no such
    /// object.
    ///
    /// The namespace is ignored for kinds that have none.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> Option<u64> {
        let key = Key::new(resource, namespace, name);
        self.shared.store.lock().unwrap().delete(resource, key)
    }

    /// Returns the latest version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.store.lock().unwrap().version()
    }

    /// Increases the version, as writes of kinds that are not served do.
    pub fn advance(&self, versions: u64) {
        self.shared.store.lock().unwrap().advance(versions);
    }

    /// Forgets all versions but the latest: requests for older ones get 410. Open watches continue.
    pub fn compact(&self) {
        self.shared.store.lock().unwrap().compact();
    }

    // Records of clients' requests.

    /// Returns all requests, in the order in which they arrived.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.journal.requests()
    }

    /// Returns the number of requests with the verb for the kind.
    #[must_use]
    pub fn count(&self, verb: Verb, resource: Resource) -> usize {
        let wanted =
            |request: &&Request| (request.verb, request.resource) == (verb, Some(resource));
        self.requests().iter().filter(wanted).count()
    }

    /// Returns the number of open watches of the kind. A watch whose client is gone counts until
    /// the server notices, and a frozen or stalled one counts, too.
    #[must_use]
    pub fn open_watches(&self, resource: Resource) -> usize {
        self.shared.journal.open_watches(resource)
    }

    /// Returns the number of lists of the kind that were sent compressed.
    #[must_use]
    pub fn packed(&self, resource: Resource) -> usize {
        self.shared.journal.packed(resource)
    }

    /// Returns the Events that clients wrote.
    #[must_use]
    pub fn events(&self) -> Vec<RecordedEvent> {
        self.shared.journal.events()
    }

    /// Waits until a condition holds, and returns whether it did within the time.
    ///
    /// This blocks the thread: a client in the same asynchronous runtime would not make progress.
    #[must_use]
    pub fn wait_until(&self, within: Duration, condition: impl Fn(&Self) -> bool) -> bool {
        let end = Instant::now() + within;
        while !condition(self) {
            if Instant::now() >= end {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        true
    }

    // Messages to watches other than changes.

    /// Sends a bookmark of the latest version to all watches of the kind that asked for bookmarks.
    pub fn bookmark(&self, resource: Resource) {
        let mut store = self.shared.store.lock().unwrap();
        let message = Message::Bookmark(store.version());
        store.tell(Some(resource), &message);
    }

    /// Inserts something into all open watches of the kind, and returns their number.
    pub fn inject(&self, resource: Resource, injection: Injection) -> usize {
        let mut store = self.shared.store.lock().unwrap();
        store.tell(Some(resource), &Message::Inject(injection))
    }

    // Faults.

    /// Activates a fault until it is lifted.
    pub fn fault(&self, scope: Scope, fault: Fault) -> FaultId {
        self.shared.faults.add(scope, fault, None)
    }

    /// Activates a fault for the next `times` requests; [`Fault::Duplicates`] for as many events.
    /// [`Fault::Stall`] does not count down.
    pub fn fault_times(&self, times: u32, scope: Scope, fault: Fault) -> Option<FaultId> {
        (times > 0).then(|| self.shared.faults.add(scope, fault, Some(times)))
    }

    /// Lifts a fault. Its effects so far remain.
    pub fn lift(&self, fault: FaultId) {
        self.shared.faults.lift(Some(fault));
    }

    /// Lifts a fault by its value, regardless of its id.
    pub fn lift_same(&self, scope: Scope, fault: &Fault) {
        self.shared.faults.lift_all_of(scope, fault);
    }

    /// Lifts all faults.
    pub fn lift_all(&self) {
        self.shared.faults.lift(None);
    }

    /// Silences the lists and watches in progress for ever: their connections stay open, as if the
    /// peer had vanished without closing them, but new ones work. Returns their number.
    pub fn freeze(&self, scope: Scope) -> usize {
        self.shared.faults.freeze(scope)
    }

    /// Returns whether lists are streamed to clients that ask for it.
    #[must_use]
    pub fn streams(&self) -> bool {
        self.shared.features.lock().unwrap().streaming_lists
    }

    /// Switches streaming lists (the feature `WatchList`) on or off.
    pub fn set_streaming_lists(&self, on: bool) {
        self.shared.features.lock().unwrap().streaming_lists = on;
    }

    /// Sets how watches from a compacted version are refused; initially by an event.
    pub fn set_expiry(&self, expiry: Expiry) {
        self.shared.features.lock().unwrap().expiry = expiry;
    }

    /// Refuses connections and closes all open ones. The port stays reserved.
    pub fn down(&self) {
        self.order(Order::Down);
    }

    /// Listens again, on the same port.
    pub fn up(&self) {
        self.order(Order::Up);
    }

    /// Goes down, loses the data that `what` says, and comes up.
    pub fn restart(&self, what: Restart) {
        self.down();
        self.shared.store.lock().unwrap().restart(what);
        self.up();
    }

    /// While it is deaf, the server accepts connections but sends nothing on them, not even in the
    /// TLS handshake. Connections accepted meanwhile stay silent for good.
    pub fn set_deaf(&self, deaf: bool) {
        self.order(Order::Deaf(deaf));
    }

    /// Closes all connections; new ones are accepted.
    pub fn drop_connections(&self) {
        self.order(Order::Drop);
    }

    /// Presents a new certificate of the same authority on new connections.
    pub fn rotate_certificate(&self) {
        self.tls().rotate_certificate();
    }

    /// Presents a certificate of a new authority on new connections. Kubeconfigs written earlier do
    /// not trust it; clients' certificates stay valid.
    pub fn rotate_authority(&self) {
        self.tls().rotate_authority();
    }
}
