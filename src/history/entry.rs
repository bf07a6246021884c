//! A change as the daemon keeps it: pointers to the states before and after.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use jiff::Timestamp;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Model, Program};
use rulec_engine::Verdicts;

use super::Tell;
use super::change::{API_VERSION, Accepted, Change, Cost, Event, KIND, Refused};
use super::timeline::Stamp;

/// How many Services are named that the kernel has refused, and how many that it takes again.
const NAMED: usize = 100;

/// What the kernel held at a moment, and the objects that it was compiled from.
#[derive(Clone, Debug)]
pub struct Point {
    /// What the kernel held.
    pub program: Program,
    /// The objects.
    pub model: Model,
}

/// The states around a change.
#[derive(Debug)]
pub struct Around {
    /// The state before; `None` at a start.
    pub before: Option<Arc<Point>>,
    /// The state after.
    pub after: Arc<Point>,
    /// The settings of the start before, if they are known. Only of a start.
    pub settings_before: Option<serde_json::Value>,
}

/// A change.
#[derive(Debug)]
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// When the kernel acknowledged it.
    pub time: Timestamp,
    /// How long the machine had been running then; `None` of a change of an earlier process.
    uptime: Option<Duration>,
    /// What happened.
    pub event: Event,
    /// What it has cost.
    pub cost: Cost,
    /// The states; `None` of a change of an earlier process, and if they are on disk only.
    pub around: Option<Around>,
    /// What the kernel says of Services that it has refused.
    verdicts: Verdicts,
    /// What it means, once somebody has asked.
    told: OnceLock<Arc<Change>>,
}

impl Entry {
    /// Creates a change of this process.
    pub(super) fn new(
        id: u64,
        Stamp { time, uptime }: Stamp,
        event: Event,
        cost: Cost,
        around: Around,
        verdicts: Verdicts,
    ) -> Self {
        let (around, told) = (Some(around), OnceLock::new());
        Self { id, time, uptime, event, cost, around, verdicts, told }
    }

    /// A change from one state to another.
    #[cfg(test)]
    pub(crate) fn for_test(before: Point, after: Point) -> Self {
        let (before, after) = (Some(Arc::new(before)), Arc::new(after));
        let around = Around { before, after, settings_before: None };
        let (cost, verdicts) = Default::default();
        let stamp = Stamp { time: Timestamp::UNIX_EPOCH, uptime: None };
        Self::new(1, stamp, Event::Changed, cost, around, verdicts)
    }

    /// Creates one of an earlier process.
    pub(super) fn recalled(change: Change) -> Self {
        let Change { id, time, event, cost, .. } = change;
        let told = OnceLock::from(Arc::new(change));
        let (uptime, around, verdicts) = (None, None, Verdicts::default());
        Self { id, time, uptime, event, cost, around, verdicts, told }
    }

    /// Returns the change without the states around it, if it is known what it means.
    pub(super) fn without_states(&self) -> Option<Self> {
        let Self { id, time, uptime, event, cost, .. } = *self;
        let told = OnceLock::from(Arc::clone(self.told.get()?));
        let (around, verdicts) = (None, Verdicts::default());
        Some(Self { id, time, uptime, event, cost, around, verdicts, told })
    }

    /// Returns what the clocks showed.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { time: self.time, uptime: self.uptime }
    }

    /// Returns whether it is known what it means.
    pub(super) fn is_told(&self) -> bool {
        self.told.get().is_some()
    }

    /// Returns what it means.
    pub(super) fn told(&self, tell: Tell) -> Arc<Change> {
        // A fault there must not end the daemon.
        let told = || catch_unwind(AssertUnwindSafe(|| tell(self)));
        let told = || {
            told().unwrap_or_else(|_| {
                tracing::error!(change = self.id, "it cannot be told what a change means");
                self.untold()
            })
        };
        Arc::clone(self.told.get_or_init(|| Arc::new(told())))
    }

    /// Returns a change of which is told only that it happened, at which cost, and what the kernel has
    /// refused.
    pub(crate) fn untold(&self) -> Change {
        let text = |it: &NamespacedName| (it.namespace.to_string(), it.name.to_string());
        let Verdicts { refused, accepted } = &self.verdicts;
        let refused_names = refused.iter().take(NAMED).map(|(service, error)| {
            let (namespace, name) = text(service);
            Refused { namespace, name, error: error.to_string() }
        });
        // One that is gone is none that the kernel holds.
        let is_there = |service: &&NamespacedName| {
            self.around.as_ref().is_some_and(|it| it.after.model.service(service).is_some())
        };
        let accepted: Vec<_> = accepted.iter().filter(is_there).map(text).collect();
        Change {
            refused: refused_names.collect(),
            more_refused: refused.len().saturating_sub(NAMED),
            more_accepted: accepted.len().saturating_sub(NAMED),
            accepted: accepted
                .into_iter()
                .take(NAMED)
                .map(|(namespace, name)| Accepted { namespace, name })
                .collect(),
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            id: self.id,
            time: self.time,
            event: self.event,
            cost: self.cost,
            causes: Vec::new(),
            more_causes: 0,
            services: Vec::new(),
            more_services: 0,
            settings: None,
        }
    }

    /// Returns the settings of a start.
    pub(super) fn settings(&self) -> Option<serde_json::Value> {
        self.told.get()?.settings.clone()
    }
}
