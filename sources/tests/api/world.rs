//! A server, a source that follows it, and what that has told.

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

/// The node that sources are of.
pub(crate) const NODE: &str = "node-1";

const PATIENCE: Duration = Duration::from_secs(60);

/// What a server may have of its own accord, besides what the test gives it.
const ITS_OWN: [&str; 2] = ["Service default/kubernetes", "ServiceCIDR kubernetes"];

/// A server with the Node, and files to reach it with.
pub(crate) struct World<S = ApiServer> {
    pub(crate) server: S,
    directory: TempDir,
}

impl World {
    /// With the server in this process, for what only that one does.
    pub(crate) fn new() -> Self {
        Self::of(true)
    }
}

impl<S: Server> World<S> {
    /// With a server that streams lists, or one that does not.
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

    /// Writes the token by renaming, as the kubelet does.
    pub(crate) fn write_token(&self, token: &str) {
        let new = self.directory.path().join("token.new");
        std::fs::write(&new, token).unwrap();
        std::fs::rename(new, self.token()).unwrap();
    }

    /// Writes a kubeconfig that trusts the server as it is now.
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

    /// Starts a source and waits until it has told everything.
    pub(crate) async fn following(&self) -> Following {
        let mut following = self.follow();
        following.complete().await;
        // The lists that are not waited for come when they come.
        while following.changes_since(0).iter().filter(|change| change.contains(" = ")).count() < 4
        {
            following.next().await;
        }
        // Lists in pages are followed by a watch, which has to be there before it can be broken.
        self.until(|server| {
            Resource::ALL
                .into_iter()
                .filter(|resource| *resource != Resource::Events)
                .all(|resource| server.open_watches(resource) > 0)
        })
        .await;
        following
    }

    /// Waits for the server to have seen something.
    pub(crate) async fn until(&self, condition: impl Fn(&S) -> bool) {
        let wait = async {
            while !condition(&self.server) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the server never saw it");
    }

    /// Shows that the source is there and at the newest: it hears of a new Service.
    pub(crate) async fn probe(&self, following: &mut Following) {
        let name = format!("probe-{}", following.probes);
        following.probes += 1;
        self.server.apply(&service(&name, 80));
        following.until(|known| known.contains_key(&format!("Service default/{name}"))).await;
        self.server.delete(Resource::Services, "default", &name);
        following.until(|known| !known.contains_key(&format!("Service default/{name}"))).await;
    }
}

/// What a source has told, by kind and name.
pub(crate) type Known = BTreeMap<String, Object>;

/// A source that runs.
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

    /// Takes in the next update.
    pub(crate) async fn next(&mut self) -> &Update {
        let update = tokio::time::timeout(PATIENCE, self.updates.recv()).await;
        let Ok(update) = update else {
            panic!("nothing more was told; known: {:?}; {:?}", self.names(), self.problems());
        };
        let update = update.expect("the source ended");
        assert_eq!(update.origin, Origin::Api);
        for change in &update.changes {
            match change {
                Change::Apply(sourced) => self.take(sourced),
                Change::Remove(key) => {
                    let gone = self.known.remove(&key.to_string());
                    assert!(gone.is_some(), "{key} was removed and not there");
                }
                Change::Replace { kinds, objects } => {
                    self.known.retain(|_, object| !kinds.contains(&object.key().kind()));
                    objects.iter().for_each(|sourced| self.take(sourced));
                }
            }
        }
        self.seen.push(update);
        self.seen.last().unwrap()
    }

    fn take(&mut self, sourced: &Sourced) {
        assert_eq!(sourced.provenance.to_string(), "API server");
        let key = sourced.object.key().to_string();
        if !ITS_OWN.contains(&key.as_str()) {
            self.known.insert(key, sourced.object.clone());
        }
    }

    /// Waits until something is known.
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

    /// Waits for that, and for the lists that it does not wait for.
    pub(crate) async fn listed(&mut self) {
        self.complete().await;
        while self.changes_since(0).iter().filter(|change| change.contains(" = ")).count() < 4 {
            self.next().await;
        }
    }

    /// Waits for what is wrong to be as it should be.
    pub(crate) async fn problems_until(&mut self, condition: impl Fn(&[String]) -> bool) {
        while !condition(&self.problems()) {
            self.next().await;
        }
    }

    /// Everything that is wrong.
    pub(crate) fn problems(&self) -> Vec<String> {
        let problems = self.seen.last().into_iter().flat_map(|update| &update.problems);
        problems.map(ToString::to_string).collect()
    }

    pub(crate) fn names(&self) -> Vec<&str> {
        self.known.keys().map(String::as_str).collect()
    }

    /// The Services known, without those of probes.
    pub(crate) fn services(&self) -> Vec<&str> {
        let names = self.known.keys().filter_map(|key| key.strip_prefix("Service default/"));
        names.filter(|name| !name.starts_with("probe-")).collect()
    }

    /// The port of a Service.
    pub(crate) fn port(&self, name: &str) -> Option<u16> {
        let Object::Service(service) = self.known.get(&format!("Service default/{name}"))? else {
            panic!("{name} is no Service")
        };
        service.ports.first().map(|port| port.port.get())
    }

    /// All changes told since an update, in short, without those of probes.
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

    /// Objects that were written to without meaning, since an update.
    pub(crate) fn suppressed_since(&self, update: usize) -> u64 {
        self.seen.iter().skip(update).map(|update| update.suppressed).sum()
    }

    /// Drops the receiver and waits for the source to end.
    pub(crate) async fn stop(self) -> Result<(), SourceError> {
        drop(self.updates);
        tokio::time::timeout(PATIENCE, self.task).await.expect("it goes on").unwrap()
    }
}
