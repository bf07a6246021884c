//! Connects the daemon's loop with the servers that report its state.
//!
//! ```text
//!  loop ──counts, times──▶ Monitor ──▶ Metrics ◀────── /metrics ──Ask──▶ loop
//!                             ├─watch─▶ Health ◀────── /healthz, /livez, /readyz
//!                             ├───────▶ HealthChecks ◀ load balancers
//!                             └─Asker─▶ StateSite ◀─── rulec show, rulec status, and others
//! ```
//!
//! The cost of a turn of the loop here does not depend on the number of objects.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use im::OrdSet;
use ipnet::IpNet;
use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_engine::{Counts, Engine, Reply, Request};
use rulec_sinks::DeltaBase;
use rulec_sources::{Problem, StateDir};
use tokio::sync::{mpsc, watch};

use crate::config::Mode;
use crate::history::History;
use crate::observe::endpoints::{HealthSite, MetricsSite};
use crate::observe::followed::Followed;
use crate::observe::health::check::{self, HealthChecks};
use crate::observe::health::{Health, is_eligible};
use crate::observe::metrics::Metrics;
use crate::observe::metrics::own::Tally;
use crate::observe::metrics::scrape::Scraper;
use crate::observe::page::{PageSite, Render};
use crate::observe::settings::DaemonSettings;
use crate::observe::state::StateSite;
use crate::observe::traffic::CountersAsker;
use crate::observe::view::{About, Ask, Asker, SourceStatus, View};

/// See the module's documentation.
#[derive(Debug)]
pub struct Monitor {
    metrics: Arc<Metrics>,
    health: watch::Sender<Health>,
    /// The servers for load balancers.
    pub checks: HealthChecks,
    asker: Asker,
    /// Requests for the current state. Each is answered with `tell`.
    pub asks: mpsc::Receiver<Ask>,
    sources: BTreeMap<Origin, SourceStatus>,
    /// What tells of the objects of the API.
    pub followed: Followed,
    /// Where the state for the next start is written, if anywhere.
    pub state: Option<StateDir>,
    /// The counters of connections, if they are counted.
    pub traffic: Option<CountersAsker>,
    under_way: Option<Commit>,
    counts: Counts,
    /// When the kernel last took a transaction.
    committed: Option<Timestamp>,
}

/// The commit that the sink works on.
#[derive(Debug)]
struct Commit {
    started: Instant,
    /// Whether its delta comes from a comparison with the content read from the kernel.
    is_full: bool,
    tally: Tally,
}

impl Monitor {
    /// Creates a monitor of a daemon with these sources, which is unhealthy when the kernel is
    /// behind for `staleness`.
    pub fn new(staleness: Duration, sources: impl IntoIterator<Item = Origin>) -> Self {
        let metrics = Arc::new(Metrics::default());
        let sources: BTreeMap<Origin, SourceStatus> =
            sources.into_iter().map(|origin| (origin, SourceStatus::default())).collect();
        sources.keys().for_each(|origin| metrics.own.source(*origin));
        let (health, watched) = watch::channel(Health::new(staleness, Timestamp::now()));
        let (asker, asks) = Asker::new();
        Self {
            metrics,
            health,
            checks: HealthChecks::new(watched),
            asker,
            asks,
            sources,
            followed: Followed::default(),
            state: None,
            traffic: None,
            under_way: None,
            counts: Counts::default(),
            committed: None,
        }
    }

    /// Returns the metrics, for what is measured elsewhere.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Returns the content of the health server.
    pub fn health_site(&self) -> HealthSite {
        HealthSite { health: self.health.subscribe(), metrics: Arc::clone(&self.metrics) }
    }

    /// Returns the content of the metrics server, with the effective configuration.
    pub fn metrics_site(&self, mode: Mode, config: serde_json::Value) -> MetricsSite {
        // Keyed by component, as everywhere in Kubernetes.
        let config = serde_json::json!({ "kubeproxy.config.k8s.io": config });
        MetricsSite {
            metrics: Arc::clone(&self.metrics),
            scraper: Scraper::new(self.asker.clone(), self.traffic.clone()),
            mode,
            config: Arc::new(config),
            page: None,
        }
    }

    /// Returns the page for people, made by a function.
    pub fn page_site(&self, history: History, render: Render) -> PageSite {
        let (metrics, counters) = (Arc::clone(&self.metrics), self.traffic.clone());
        PageSite::new(self.asker.clone(), metrics, history, counters, render)
    }

    /// Returns the content of the socket, with the settings of the daemon and its history.
    pub fn state_site(&self, settings: DaemonSettings, history: History) -> StateSite {
        StateSite::new(self.asker.clone(), settings, history, self.traffic.clone())
    }

    /// Notes an update of a source, and how many of its changes had no effect.
    pub fn heard(&mut self, origin: Origin, is_complete: bool, suppressed: u64, now: Instant) {
        let source = self.sources.entry(origin).or_default();
        source.change(|source| {
            source.is_complete |= is_complete;
            source.heard = Some(now);
        });
        self.metrics.kube_proxy.queued(Timestamp::now());
        self.metrics.own.suppressed(origin, suppressed);
    }

    /// Notes whether a source is available.
    pub fn available(&mut self, origin: Origin, is_available: bool) {
        let source = self.sources.entry(origin).or_default();
        source.change(|source| source.is_unavailable = !is_available);
    }

    /// Notes whether a source is served from the state of an earlier run, and the time of that
    /// state.
    pub fn stands_in(&mut self, origin: Origin, stale: Option<Timestamp>) {
        self.sources.entry(origin).or_default().change(|source| source.stale = stale);
    }

    /// Notes a request to the sink, and when the engine began to compute it.
    pub fn requested(&mut self, request: &Request, started: Instant, now: Instant) {
        let Request::Commit { delta, base } = request else { return };
        self.metrics.own.compiled(now.saturating_duration_since(started));
        let is_full = match base {
            DeltaBase::Read { .. } => true,
            DeltaBase::Believed => false,
        };
        self.under_way = Some(Commit { started, is_full, tally: Tally::of(delta) });
    }

    /// Notes the reply of the sink.
    pub fn replied(&mut self, reply: &Reply, now: Instant) {
        let Reply::Committed(outcome) = reply else { return };
        let Some(commit) = self.under_way.take() else { return };
        if outcome.is_ok() {
            let took = now.saturating_duration_since(commit.started);
            self.metrics.kube_proxy.synced(took, commit.is_full);
            self.metrics.own.committed(&commit.tally);
        }
    }

    /// Brings everything up to date with the engine. Must be called from within a runtime.
    pub fn follow(&mut self, engine: &mut Engine) {
        let counts = engine.counts();
        let before = std::mem::replace(&mut self.counts, counts);
        let Metrics { kube_proxy, own, .. } = &*self.metrics;
        kube_proxy.changed(
            counts.service_changes - before.service_changes,
            counts.endpoint_changes - before.endpoint_changes,
        );
        kube_proxy.failed(counts.failures - before.failures);
        own.cost(
            counts.transactions - before.transactions,
            counts.bytes - before.bytes,
            counts.repairs - before.repairs,
        );
        if counts.transactions > before.transactions {
            self.committed = Some(Timestamp::now());
        }
        for (took, updates) in engine.take_latencies() {
            own.acknowledged(took, updates);
        }
        for (family, took) in engine.take_programmed() {
            kube_proxy.programmed(family, took);
        }
        let updated = (counts.acknowledged > before.acknowledged).then(Timestamp::now);
        if let Some(wall) = updated {
            kube_proxy.up_to_date(wall);
            self.checks.listen_on(check::addresses(engine.model(), engine.settings()));
        }
        self.checks.follow(engine.applied_locals());
        let behind_since = engine.behind_since();
        let node = engine.model().node(&engine.settings().node_name);
        let has_api = self.sources.contains_key(&Origin::Api);
        let is_eligible = is_eligible(node.map(|entry| &*entry.object), has_api);
        let awaited = self.awaited(counts);
        let stale =
            self.sources.iter().filter_map(|(origin, source)| Some((*origin, source.stale?)));
        let stale: BTreeMap<Origin, Timestamp> = stale.collect();
        self.health.send_if_modified(|health| {
            let updated = updated.unwrap_or(health.updated);
            let staleness = health.staleness;
            let new = Health { staleness, behind_since, updated, is_eligible, awaited, stale };
            let is_news = *health != new;
            *health = new;
            is_news
        });
    }

    /// Answers a request for the current state.
    pub fn tell(
        &self,
        ask: Ask,
        engine: &Engine,
        started: Timestamp,
        problems: BTreeMap<Origin, OrdSet<Problem>>,
        networks: BTreeSet<IpNet>,
    ) {
        let now = Instant::now();
        if let Some(state) = &self.state {
            self.metrics.own.state(state);
        }
        let mut sources = self.sources.clone();
        for (origin, source) in &mut sources {
            source.heard = match origin {
                Origin::Api => {
                    let silence = self.followed.silence();
                    silence.and_then(|silence| now.checked_sub(silence))
                }
                // The other sources are on this node: they are followed as long as the process
                // runs.
                Origin::Kubelet | Origin::Podman | Origin::Manifests | Origin::Kernel => {
                    source.heard.map(|_| now)
                }
            };
        }
        // The requester may be gone.
        let about = About {
            started,
            committed: self.committed,
            health: self.health.borrow().clone(),
            problems,
            networks,
        };
        let _ = ask.send(View::of(engine, sources, self.followed.clone(), about));
    }

    fn awaited(&self, counts: Counts) -> Vec<String> {
        let incomplete = self.sources.iter().filter(|(_, source)| !source.is_complete);
        let mut awaited: Vec<String> =
            incomplete.map(|(origin, _)| format!("the first list of the {origin}")).collect();
        if counts.acknowledged == 0 {
            awaited.push("the kernel to take the first rules".to_owned());
        }
        awaited
    }
}
