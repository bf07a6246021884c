//! Where a relay learns of objects, and how they become resources.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use anyhow::{Context, bail};
use rulec_compiler::name::NodeName;
use rulec_compiler::object::Kind;
use rulec_compiler::{Change, Model, Origin};
use rulec_relay::{Catalogue, Topic};
use rulec_relay_server::Relay;
use rulec_sources::{
    ApiAccess, ApiOptions, ApiSource, ManifestOptions, ManifestRoots, Problem, Severity,
    SourceError, Update,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

use crate::cli::relay::RelayServerArgs;
use crate::daemon::problems::{Line, Problems};

/// How many updates may wait.
const UPDATES: usize = 256;

/// What a relay holds, which can be read at any time.
#[derive(Debug, Default)]
pub(super) struct Held {
    is_complete: AtomicBool,
    publications: AtomicU64,
    counts: [AtomicU64; Topic::ALL.len()],
}

impl Held {
    /// Returns whether all sources have delivered, so that nodes are served.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Relaxed)
    }

    /// Returns how many states were published.
    pub(super) fn publications(&self) -> u64 {
        self.publications.load(Relaxed)
    }

    /// Returns the number of resources of a type, for all nodes together.
    pub(super) fn count(&self, topic: Topic) -> u64 {
        self.counts[topic.index()].load(Relaxed)
    }
}

/// The sources of a relay, and what they have said.
pub(super) struct Upstream {
    tasks: JoinSet<(Origin, Result<(), SourceError>)>,
    updates: mpsc::Receiver<Update>,
    relay: Relay,
    held: Arc<Held>,
    model: Model,
    catalogue: Catalogue,
    complete: BTreeMap<Origin, bool>,
    /// Whether the Nodes are still to be listed. Without them, each node would lose its own.
    lacks_nodes: bool,
    problems: Problems,
    /// Whether it was said that Pods are not sent.
    is_told_of_pods: bool,
}

impl Upstream {
    /// Starts the sources.
    pub(super) fn start(args: &RelayServerArgs, relay: Relay) -> anyhow::Result<Self> {
        let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        let is_named = args.kubeconfig.is_some() || args.master.is_some();
        let (out, updates) = mpsc::channel(UPDATES);
        let mut upstream = Self {
            tasks: JoinSet::new(),
            updates,
            relay,
            held: Arc::default(),
            model: Model::default(),
            catalogue: Catalogue::default(),
            complete: BTreeMap::new(),
            lacks_nodes: false,
            problems: Problems::new(Instant::now()),
            is_told_of_pods: false,
        };
        if !args.manifests.is_empty() {
            let source = ManifestRoots::new(args.manifests.clone(), ManifestOptions::default());
            upstream.spawn(Origin::Manifests, source.run(out.clone()));
        }
        if is_named || in_cluster {
            let access =
                ApiAccess { kubeconfig: args.kubeconfig.clone(), master: args.master.clone() };
            let options =
                ApiOptions { all_nodes: true, ..ApiOptions::new(access, NodeName::from("relay")) };
            upstream.lacks_nodes = true;
            upstream.spawn(Origin::Api, ApiSource::new(options).run(out));
        }
        if upstream.complete.is_empty() {
            bail!(
                "there is no source: give --kubeconfig, --master or --manifests, or run it in a Pod"
            );
        }
        Ok(upstream)
    }

    fn spawn(
        &mut self,
        origin: Origin,
        source: impl Future<Output = Result<(), SourceError>> + Send + 'static,
    ) {
        self.complete.insert(origin, false);
        self.tasks.spawn(async move { (origin, source.await) });
    }

    /// Returns what can be read at any time.
    pub(super) fn status(&self) -> Arc<Held> {
        self.held.clone()
    }

    /// Publishes what the sources say, until one of them ends, which none does on its own. Returns
    /// the reason.
    pub(super) async fn run(mut self) -> anyhow::Error {
        loop {
            let due = self.problems.deadline();
            let tick = async {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(update) = self.updates.recv() => {
                    let before = self.model.clone();
                    self.take(update);
                    // All updates that are already there become one state.
                    while let Ok(update) = self.updates.try_recv() {
                        self.take(update);
                    }
                    self.publish(&before);
                }
                () = tick => {
                    let lines = self.problems.due(Instant::now());
                    lines.iter().for_each(Line::log);
                }
                Some(ended) = self.tasks.join_next() => return match ended {
                    Err(error) => anyhow::Error::new(error).context("a source died"),
                    Ok((origin, outcome)) => {
                        let ended = outcome.context("it ended").err();
                        let ended = ended.unwrap_or_else(|| anyhow::anyhow!("it ended"));
                        ended.context(format!("the source {origin}"))
                    }
                },
            }
        }
    }

    fn take(&mut self, update: Update) {
        let Update { origin, changes, complete, unread, problems, .. } = update;
        for change in changes {
            let is_list = |kinds: &[Kind]| origin == Origin::Api && kinds.contains(&Kind::Node);
            if matches!(&change, Change::Replace { kinds, .. } if is_list(kinds)) {
                self.lacks_nodes = false;
            }
            self.model.apply(origin, change);
        }
        // A file or an object of a manifest that cannot be read may be one that nodes hold: they
        // keep what they have.
        let is_broken = |problem: &Problem| problem.severity == Severity::Error;
        let is_read = origin != Origin::Manifests || !problems.iter().any(is_broken);
        let held = self.complete.entry(origin).or_default();
        if complete && self.lacks_nodes && !*held {
            tracing::warn!("no node is served before the Nodes are listed");
        }
        *held |= complete && unread == 0 && is_read;
        let lines = self.problems.replace(origin, problems, Instant::now());
        lines.iter().for_each(Line::log);
    }

    fn publish(&mut self, before: &Model) {
        let changed = self.catalogue.update(before, &self.model);
        if !self.is_told_of_pods && self.model.count(Kind::Pod) > 0 {
            self.is_told_of_pods = true;
            tracing::warn!("Pods of manifests are not sent to nodes: only EndpointSlices are");
        }
        let is_complete = self.complete.values().all(|it| *it) && !self.lacks_nodes;
        let is_first = is_complete && !self.held.is_complete();
        if !(is_first || is_complete && changed > 0) {
            return;
        }
        if is_first {
            tracing::info!("all sources have delivered, nodes are served");
        }
        for topic in Topic::ALL {
            let count = self.catalogue.count(topic);
            self.held.counts[topic.index()].store(count as u64, Relaxed);
        }
        let number = self.held.publications.fetch_add(1, Relaxed) + 1;
        self.held.is_complete.store(true, Relaxed);
        self.relay.publish(self.catalogue.clone(), number.to_string());
    }
}
