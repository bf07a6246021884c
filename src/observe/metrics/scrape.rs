//! The current state of the daemon, looked up on each scrape.
//!
//! The daemon's loop returns a view of its state, which is pointers, and continues; counting and
//! printing happen on another thread.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::Timestamp;
use rulec_compiler::Program;
use rulec_compiler::net::Family;
use rulec_compiler::object::Kind;
use rulec_compiler::{Model, Origin};
use rulec_engine::{Engine, Locals};
use rulec_sources::ApiStatus;
use tokio::sync::{Mutex, mpsc, oneshot};

use super::Metrics;
use super::kube_proxy::NoLocal;

use crate::observe::telemetry;

/// A request for a view, with the channel for the answer.
pub type Ask = oneshot::Sender<View>;

/// How many requests may be queued; further ones wait.
const ASKS: usize = 4;

/// The state of the daemon at one moment.
#[derive(Debug)]
pub struct View {
    model: Model,
    wanted: Option<Program>,
    locals: Locals,
    quarantined: usize,
    pending_services: usize,
    pending_endpoints: usize,
    sources: BTreeMap<Origin, SourceStatus>,
    api: Option<Arc<ApiStatus>>,
}

/// The state of a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceStatus {
    /// Whether it has delivered its first complete lists.
    pub is_complete: bool,
    /// Whether it is unavailable, so that all that it delivered is held.
    pub is_unavailable: bool,
    /// When the source was last heard from.
    pub heard: Option<Instant>,
    /// The time of the saved state that is used for it, if it is.
    pub stale: Option<Timestamp>,
}

impl View {
    /// Returns the state of an engine and its sources.
    pub fn of(
        engine: &Engine,
        sources: &BTreeMap<Origin, SourceStatus>,
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

    /// Sets the metrics of the current state.
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
                // An earlier run heard from it.
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

/// Requests views from the daemon.
#[derive(Clone, Debug)]
pub struct Scraper {
    daemon: mpsc::Sender<Ask>,
    /// Allows one scrape at a time, so that many at once are handled one after the other.
    turn: Arc<Mutex<()>>,
}

impl Scraper {
    /// Creates a scraper, and the receiver for the daemon.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (daemon, asks) = mpsc::channel(ASKS);
        (Self { daemon, turn: Arc::default() }, asks)
    }

    /// Returns all metrics as text.
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
