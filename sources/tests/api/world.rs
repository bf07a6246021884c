//! A server, a source that follows it, and the updates it has sent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rulec_apiserver::{ApiServer, Credential, Resource, Server, Settings};
use rulec_compiler::name::NodeName;
use rulec_compiler::object::Object;
use rulec_compiler::{Change, Origin, Sourced};
use rulec_sources::{ApiAccess, ApiOptions, ApiSource, ApiStatus, ApiTiming, SourceError, Update};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::objects::{node, service};

/// The node of the sources.
pub(crate) const NODE: &str = "node-1";

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Objects that a server may create itself, besides those of the test.
const ITS_OWN: [&str; 2] = ["Service default/kubernetes", "ServiceCIDR kubernetes"];

/// A server with the Node, and files to access it.
pub(crate) struct World<S = ApiServer> {
    pub(crate) server: S,
    directory: TempDir,
}

impl World {
    /// Starts the server in this process, for tests that need its special features.
    pub(crate) fn new() -> Self {
        Self::of(true)
    }
}

impl<S: Server> World<S> {
    /// Starts a server that streams lists, or one that does not.
    pub(crate) fn of(streaming_lists: bool) -> Self {
        let server = S::with(Settings { streaming_lists, ..Settings::default() });
        server.apply(&node(NODE, "192.0.2.1"));
        let world = Self { server, directory: TempDir::new().unwrap() };
        world.write_token("token");
        world.write_kubeconfig();
        world
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub(crate) fn token(&self) -> PathBuf {
        self.directory.path().join("token")
    }

    /// Writes the token by renaming a file, as the kubelet does.
    pub(crate) fn write_token(&self, token: &str) {
        let new = self.directory.path().join("token.new");
        std::fs::write(&new, token).unwrap();
        std::fs::rename(new, self.token()).unwrap();
    }

    /// Writes a kubeconfig that trusts the server's current certificate.
    pub(crate) fn write_kubeconfig(&self) {
        self.server.write_kubeconfig(&self.kubeconfig(), &Credential::TokenFile(self.token()));
    }

    pub(crate) fn options(&self) -> ApiOptions {
        let access = ApiAccess { kubeconfig: Some(self.kubeconfig()), master: None };
        let timing = ApiTiming {
            first_retry: Duration::from_millis(5),
            longest_retry: Duration::from_millis(50),
            refused: Duration::from_millis(50),
            ..ApiTiming::default()
        };
        ApiOptions { timing, ..ApiOptions::new(access, NodeName::from(NODE)) }
    }

    /// Starts a source.
    pub(crate) fn follow(&self) -> Following {
        Following::with(self.options())
    }

    /// Starts a source and waits until it has sent everything.
    pub(crate) async fn following(&self) -> Following {
        let mut following = self.follow();
        following.complete().await;
        // The optional lists come later.
        while following.changes_since(0).iter().filter(|change| change.contains(" = ")).count() < 4
        {
            following.next().await;
        }
        // Lists in pages are followed by a watch, which has to exist before it can be broken.
        self.until(|server| {
            Resource::ALL
                .into_iter()
                .filter(|resource| *resource != Resource::Events)
                .all(|resource| server.open_watches(resource) > 0)
        })
        .await;
        following
    }

    /// Waits until the server has seen something.
    pub(crate) async fn until(&self, condition: impl Fn(&S) -> bool) {
        let wait = async {
            while !condition(&self.server) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("timed out waiting for the server");
    }

    /// Shows that the source is alive and up to date: it reports a new Service.
    pub(crate) async fn probe(&self, following: &mut Following) {
        let name = format!("probe-{}", following.probes);
        following.probes += 1;
        self.server.apply(&service(&name, 80));
        following.until(|known| known.contains_key(&format!("Service default/{name}"))).await;
        self.server.delete(Resource::Services, "default", &name);
        following.until(|known| !known.contains_key(&format!("Service default/{name}"))).await;
    }
}

/// The objects that a source has sent, by kind and name.
pub(crate) type Known = BTreeMap<String, Object>;

/// A running source.
pub(crate) struct Following {
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<Result<(), SourceError>>,
    pub(crate) status: Arc<ApiStatus>,
    pub(crate) known: Known,
    /// All updates, in order.
    pub(crate) seen: Vec<Update>,
    probes: u32,
}

impl Following {
    pub(crate) fn with(options: ApiOptions) -> Self {
        let (out, updates) = mpsc::channel(256);
        let source = ApiSource::new(options);
        let status = source.status();
        let task = tokio::spawn(source.run(out));
        Self { updates, task, status, known: Known::new(), seen: Vec::new(), probes: 0 }
    }

    /// Processes the next update.
    pub(crate) async fn next(&mut self) -> &Update {
        let update = tokio::time::timeout(PATIENCE, self.updates.recv()).await;
        let Ok(update) = update else {
            panic!("no further update; known: {:?}; {:?}", self.names(), self.problems());
        };
        let update = update.expect("the source ended");
        assert_eq!(update.origin, Origin::Api);
        for change in &update.changes {
            match change {
                Change::Apply(sourced) => {
                    let place = sourced.provenance.to_string();
                    let version = place.strip_prefix("API server, resourceVersion ");
                    assert!(version.is_some_and(|it| it.parse::<u64>().is_ok()), "{place}");
                    self.take(sourced);
                }
                Change::Remove(key) => {
                    let gone = self.known.remove(&key.to_string());
                    assert!(gone.is_some(), "{key} was removed but not known");
                }
                Change::Replace { kinds, objects } => {
                    self.known.retain(|_, object| !kinds.contains(&object.key().kind()));
                    for sourced in objects {
                        assert_eq!(sourced.provenance.to_string(), "API server");
                        self.take(sourced);
                    }
                }
            }
        }
        self.seen.push(update);
        self.seen.last().unwrap()
    }

    fn take(&mut self, sourced: &Sourced) {
        let key = sourced.object.key().to_string();
        if !ITS_OWN.contains(&key.as_str()) {
            self.known.insert(key, sourced.object.clone());
        }
    }

    /// Waits until the known objects fulfil a condition.
    pub(crate) async fn until(&mut self, condition: impl Fn(&Known) -> bool) {
        while !condition(&self.known) {
            self.next().await;
        }
    }

    /// Waits for the first complete list of everything.
    pub(crate) async fn complete(&mut self) {
        while !self.seen.last().is_some_and(|update| update.complete) {
            self.next().await;
        }
    }

    /// Waits for that, and for the optional lists.
    pub(crate) async fn listed(&mut self) {
        self.complete().await;
        while self.changes_since(0).iter().filter(|change| change.contains(" = ")).count() < 4 {
            self.next().await;
        }
    }

    /// Waits until the problems fulfil a condition.
    pub(crate) async fn problems_until(&mut self, condition: impl Fn(&[String]) -> bool) {
        while !condition(&self.problems()) {
            self.next().await;
        }
    }

    /// Returns all current problems.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.seen.last().into_iter().flat_map(|update| &update.problems);
        problems.map(ToString::to_string).collect()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.known.keys().map(String::as_str).collect()
    }

    /// Returns the known Services, without those of probes.
    pub(crate) fn services(&self) -> Vec<&str> {
        let names = self.known.keys().filter_map(|key| key.strip_prefix("Service default/"));
        names.filter(|name| !name.starts_with("probe-")).collect()
    }

    /// Returns the port of a Service.
    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        let Object::Service(service) = self.known.get(&format!("Service default/{name}"))? else {
            panic!("{name} is not a Service")
        };
        service.ports.first().map(|port| port.port.get())
    }

    /// Returns all changes since an update, in short form, without those of probes.
    pub(crate) fn changes_since(&self, update: usize) -> Vec<String> {
        let changes = self.seen.iter().skip(update).flat_map(|update| &update.changes);
        let all = changes.map(|change| match change {
            Change::Apply(sourced) => format!("+ {}", sourced.object.key()),
            Change::Remove(key) => format!("- {key}"),
            Change::Replace { kinds, objects } => {
                let keys = objects.iter().map(|sourced| sourced.object.key().to_string());
                let keys: Vec<String> =
                    keys.filter(|key| !ITS_OWN.contains(&key.as_str())).collect();
                format!("{kinds:?} = {}", keys.join(", "))
            }
        });
        all.filter(|change| !change.contains("probe-")).collect()
    }

    /// Returns the number of objects since an update that were written to without a change of
    /// meaning.
    pub(crate) fn suppressed_since(&self, update: usize) -> u64 {
        self.seen.iter().skip(update).map(|update| update.suppressed).sum()
    }

    /// Drops the receiver and waits for the source to end.
    pub(crate) async fn stop(self) -> Result<(), SourceError> {
        drop(self.updates);
        tokio::time::timeout(PATIENCE, self.task).await.expect("the source does not end").unwrap()
    }
}
