//! What there is, looked up when somebody asks.
//!
//! The daemon's loop hands out a view of its state, which is pointers, and goes on; counting and
//! printing is done on another thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use rulec_compiler::net::Family;
use rulec_compiler::nft::Program;
use rulec_compiler::object::Kind;
use rulec_compiler::{Model, Origin};
use rulec_sources::ApiStatus;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::Metrics;
use super::kube_proxy::NoLocal;
use crate::engine::{Engine, Locals};
use crate::telemetry;

/// Who asks is sent a view.
pub type Ask = oneshot::Sender<View>;

/// How many may ask at once; the others wait.
const ASKS: usize = 4;

/// What the daemon has at one moment.
#[derive(Debug)]
pub struct View {
    model: Model,
    wanted: Option<Program>,
    locals: Locals,
    quarantined: usize,
    pending_services: usize,
    pending_endpoints: usize,
    sources: BTreeMap<Origin, Source>,
    api: Option<Arc<ApiStatus>>,
}

/// What is known of a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct Source {
    /// Whether it has delivered its first complete lists.
    pub is_complete: bool,
    /// Whether it cannot be looked at, so that all it has told stays as it was.
    pub is_unavailable: bool,
    /// When it was last heard of.
    pub heard: Option<Instant>,
    /// When what an earlier run has left was true, if that stands in for it.
    pub stale: Option<Timestamp>,
}

impl View {
    /// What an engine and its sources are at.
    pub fn of(
        engine: &Engine,
        sources: &BTreeMap<Origin, Source>,
        api: Option<&Arc<ApiStatus>>,
    ) -> Self {
        let endpoints = [Kind::EndpointSlice, Kind::Pod].map(|kind| engine.pending(kind));
        Self {
            model: engine.model().clone(),
            wanted: engine.wanted().cloned(),
            locals: engine.applied_locals().clone(),
            quarantined: engine.quarantined().count(),
            pending_services: engine.pending(Kind::Service),
            pending_endpoints: endpoints.iter().sum(),
            sources: sources.clone(),
            api: api.cloned(),
        }
    }

    /// Brings the metrics of what there is up to date.
    fn count(&self, metrics: &Metrics, now: Instant) {
        let own = &metrics.own;
        own.log_lines_dropped(telemetry::lost());
        if let Some(api) = &self.api {
            own.api(api);
        }
        own.quarantined(self.quarantined);
        own.kept(self.wanted.as_ref().map_or(0, |wanted| wanted.kept().count()));
        own.overridden(self.model.overridden().count());
        let wanted = self.wanted.as_ref();
        own.conflicts(wanted.map_or(0, |wanted| wanted.conflicts().len()));
        let left_out = |wanted: &Program| -> usize {
            let services = wanted.services();
            services.flat_map(|(service, _)| wanted.left_out(service)).map(|(_, n)| n).sum()
        };
        own.affinity_limited(wanted.map_or(0, left_out));
        for kind in Kind::ALL {
            let counts = self.model.origins(kind);
            for origin in self.sources.keys() {
                own.objects(kind, *origin, counts.get(origin).copied().unwrap_or_default());
            }
        }
        for (origin, source) in &self.sources {
            let silent = match source.stale {
                // It was heard of by an earlier run.
                Some(at) => Duration::try_from(Timestamp::now().duration_since(at)).ok(),
                None => source.heard.map(|heard| now.saturating_duration_since(heard)),
            };
            own.available(*origin, !source.is_unavailable);
            own.source_is(*origin, source.is_complete, silent);
        }
        metrics.kube_proxy.pending(self.pending_services, self.pending_endpoints);
        for family in Family::ALL {
            let mut ports = NoLocal::default();
            for view in self.locals.values().filter_map(|view| view.families.get(&family)) {
                ports.internal += view.dropped_internal;
                ports.external += view.dropped_external;
            }
            metrics.kube_proxy.no_local(family, ports);
        }
    }
}

/// How to ask the daemon.
#[derive(Clone, Debug)]
pub struct Scraper {
    daemon: mpsc::Sender<Ask>,
    /// One at a time: whoever asks a hundred times at once gets it one after the other.
    turn: Arc<Mutex<()>>,
}

impl Scraper {
    /// A scraper, and where the daemon is asked.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (daemon, asks) = mpsc::channel(ASKS);
        (Self { daemon, turn: Arc::default() }, asks)
    }

    /// All metrics as text.
    ///
    /// # Errors
    ///
    /// If the daemon is ending.
    pub async fn scrape(&self, metrics: Arc<Metrics>) -> anyhow::Result<String> {
        let _turn = self.turn.lock().await;
        let (ask, view) = oneshot::channel();
        self.daemon.send(ask).await.ok().context("the daemon is ending")?;
        let view = view.await.context("the daemon is ending")?;
        let count = move || {
            view.count(&metrics, Instant::now());
            metrics.text()
        };
        Ok(tokio::task::spawn_blocking(count).await??)
    }
}
