//! Where a relay learns of objects, and how they become resources.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rulec_compiler::name::NodeName;
use rulec_compiler::object::Kind;
use rulec_compiler::{Change, Model, Origin};
use rulec_relay::{Catalogue, Standing, Topic};
use rulec_relay_server::Relay;
use rulec_sources::{
    ApiAccess, ApiOptions, ApiSource, ApiStatus, ManifestOptions, ManifestRoots, Positions,
    Problem, Severity, SourceError, TokenReviews, Update,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::cli::relay::RelayServerArgs;
use crate::daemon::problems::{Line, Problems};

/// How many updates may wait.
const UPDATES: usize = 256;

/// How often to look whether the API server is followed.
const LOOK: Duration = Duration::from_secs(1);

/// How long it is not followed before nodes are told. Watches end and begin again now and then.
const CUT_OFF: Duration = Duration::from_secs(10);

/// What a relay holds, which can be read at any time.
#[derive(Debug, Default)]
pub(super) struct Held {
    is_complete: AtomicBool,
    publications: AtomicU64,
    is_cut_off: AtomicBool,
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

    /// Returns whether nothing is heard from the API server.
    pub(super) fn is_cut_off(&self) -> bool {
        self.is_cut_off.load(Relaxed)
    }

    /// Returns the number of resources of a type, for all nodes together.
    pub(super) fn count(&self, topic: Topic) -> u64 {
        self.counts[topic.index()].load(Relaxed)
    }
}

/// What is known of following the API server.
struct Api {
    status: Arc<ApiStatus>,
    /// Since when nothing is followed.
    away: Option<Instant>,
    /// How much of its changes is in the model; `None` before all was listed.
    positions: Option<Positions>,
}

impl Api {
    /// Returns whether nothing was heard for so long that nodes should know.
    fn is_cut_off(&mut self, now: Instant) -> bool {
        if self.status.is_connected() {
            self.away = None;
            return false;
        }
        now.duration_since(*self.away.get_or_insert(now)) >= CUT_OFF
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
    api: Option<Api>,
    /// What nodes are told of where this relay stands.
    standing: Standing,
    /// The types that the API server does not let us read.
    unread: [bool; Topic::ALL.len()],
    complete: BTreeMap<Origin, bool>,
    /// Whether the Nodes are still to be listed. Without them, each node would lose its own.
    lacks_nodes: bool,
    problems: Problems,
    /// Whether it was said that Pods are not sent.
    is_told_of_pods: bool,
    /// Who asks the API server about tokens, if there is one.
    reviews: Option<TokenReviews>,
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
            api: None,
            standing: Standing { has_manifests: !args.manifests.is_empty(), ..Standing::default() },
            complete: BTreeMap::new(),
            unread: Default::default(),
            lacks_nodes: false,
            problems: Problems::new(Instant::now()),
            is_told_of_pods: false,
            reviews: None,
        };
        if !args.manifests.is_empty() {
            let source = ManifestRoots::new(args.manifests.clone(), ManifestOptions::default());
            upstream.spawn(Origin::Manifests, source.run(out.clone()));
        }
        if is_named || in_cluster {
            let access =
                ApiAccess { kubeconfig: args.kubeconfig.clone(), master: args.master.clone() };
            let options = ApiOptions {
                all_nodes: true,
                tells_positions: true,
                ..ApiOptions::new(access, NodeName::from("relay"))
            };
            let source = ApiSource::new(options);
            upstream.api = Some(Api { status: source.status(), away: None, positions: None });
            upstream.lacks_nodes = true;
            upstream.reviews = Some(source.reviews());
            upstream.spawn(Origin::Api, source.run(out));
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

    /// Returns who asks the API server about tokens, if there is one.
    pub(super) fn reviews(&self) -> Option<TokenReviews> {
        self.reviews.clone()
    }

    /// Returns what can be read at any time.
    pub(super) fn status(&self) -> Arc<Held> {
        self.held.clone()
    }

    /// Publishes what the sources say, until one of them ends, which none does on its own. Returns
    /// the reason.
    pub(super) async fn run(mut self) -> anyhow::Error {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.problems.deadline();
            let tick = async {
                match due {
                    Some(at) => sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = looks.tick(), if self.api.is_some() => self.look(),
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

    /// Looks whether the API server is followed, and tells nodes if that has changed.
    fn look(&mut self) {
        let Some(api) = &mut self.api else { return };
        let is_cut_off = api.is_cut_off(Instant::now());
        if is_cut_off == self.standing.is_cut_off {
            return;
        }
        if is_cut_off {
            let error = api.status.last_error().map(|(_, error)| error.to_string());
            tracing::warn!(error, "nothing is heard from the API server, nodes are told");
        } else {
            tracing::info!("the API server is followed again, nodes are told");
        }
        self.standing.is_cut_off = is_cut_off;
        self.held.is_cut_off.store(is_cut_off, Relaxed);
        if self.held.is_complete() {
            self.relay.publish(self.catalogue.clone(), self.standing.clone(), self.unread);
        }
    }

    fn take(&mut self, update: Update) {
        let Update { origin, changes, complete, unread, positions, problems, .. } = update;
        if let (Some(api), Some(positions)) = (&mut self.api, positions) {
            api.positions = Some(positions);
        }
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
        let has_position = self.api.as_ref().is_none_or(|api| api.positions.is_some());
        let is_complete = self.complete.values().all(|it| *it) && !self.lacks_nodes && has_position;
        let is_first = is_complete && !self.held.is_complete();
        let positions = self.api.as_ref().and_then(|api| api.positions.clone()).unwrap_or_default();
        let (position, unread) = (positions.seen, positions.unread);
        let is_further = position != self.standing.position || unread != self.unread;
        if !(is_first || is_complete && (changed > 0 || is_further)) {
            return;
        }
        self.standing.position = position;
        self.unread = unread;
        if is_first {
            tracing::info!("all sources have delivered, nodes are served");
        }
        for topic in Topic::ALL {
            let count = self.catalogue.count(topic);
            self.held.counts[topic.index()].store(count as u64, Relaxed);
        }
        if is_first || changed > 0 {
            self.held.publications.fetch_add(1, Relaxed);
        }
        self.held.is_complete.store(true, Relaxed);
        self.relay.publish(self.catalogue.clone(), self.standing.clone(), self.unread);
    }
}
