//! The current state of the daemon, looked up on each scrape.
//!
//! The daemon's loop returns a view of its state, which is pointers, and continues; counting and
//! printing happen on another thread.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rulec_compiler::Program;
use rulec_compiler::net::Family;
use rulec_compiler::object::Kind;
use tokio::sync::Mutex;

use super::Metrics;
use super::kube_proxy::NoLocal;
use super::records::RecordsLook;
use crate::observe::telemetry;
use crate::observe::traffic::{CountersAsker, TrafficReport};
use crate::observe::view::{Asker, View};

impl View {
    /// Sets the metrics of the current state.
    fn count(&self, metrics: &Metrics, now: Instant) {
        let own = &metrics.own;
        own.log_lines_dropped(telemetry::lost());
        match (&self.followed.relay, &self.followed.api) {
            (None, Some(api)) => own.api(api),
            (Some(relay), api) => own.relay(relay, api.as_deref()),
            (None, None) => {}
        }
        own.quarantined(self.refused.len());
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

/// Renders the metrics, one scrape at a time, so that many at once are handled one after the other.
#[derive(Clone, Debug)]
pub struct Scraper {
    daemon: Asker,
    traffic: Option<CountersAsker>,
    records: Arc<Mutex<RecordsLook>>,
}

impl Scraper {
    /// Creates a scraper that asks a daemon, and reads its counters of connections, if it has some.
    pub fn new(daemon: Asker, traffic: Option<CountersAsker>) -> Self {
        Self { daemon, traffic, records: Arc::default() }
    }

    /// Returns all metrics as text.
    ///
    /// # Errors
    ///
    /// If the daemon is ending.
    pub async fn scrape(&self, metrics: Arc<Metrics>) -> anyhow::Result<String> {
        let mut records = Arc::clone(&self.records).lock_owned().await;
        let view = self.daemon.ask().await?;
        let traffic = self.traffic.clone();
        let count = move || {
            view.count(&metrics, Instant::now());
            records.look(&metrics.own);
            if let Some(counters) = &traffic {
                metrics.traffic.set(TrafficReport::of(&view, counters));
            }
            Ok(metrics.text()?)
        };
        tokio::task::spawn_blocking(count).await?
    }
}
