//! Logs what is present but has no effect, and when that is resolved.
//!
//! Objects that belong together arrive one after the other, so a new remark gets some time to
//! resolve itself before it is logged. Remarks that exist when the first lists are complete, and
//! remarks about this node, are logged at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rulec_compiler::name::NamespacedName;
use rulec_compiler::remark::{self, Remark};
use rulec_compiler::{Model, Settings};

use rulec_engine::Touched;

/// How long a new remark may take to resolve itself.
const GRACE: Duration = Duration::from_secs(5);

/// How many remarks are logged at a time. The rest are counted.
const MAX_REMARKS: usize = 20;

/// The remarks that hold now.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    of_services: BTreeMap<NamespacedName, Vec<Remark>>,
    of_node: Vec<Remark>,
    /// The remarks that have been logged.
    told: BTreeSet<Remark>,
    /// When to log the new ones, if they still hold then.
    due: Option<Instant>,
    begun: bool,
}

impl Remarks {
    /// Looks at everything and logs it. It is not called earlier because more objects may still
    /// come.
    pub(crate) fn begin(&mut self, model: &Model, settings: &Settings) {
        self.begun = true;
        self.of_node = remark::of_node(model, settings);
        let of_services = model.services().map(|entry| entry.object.key.clone());
        let of_slices = model.slices().map(|entry| entry.object.service.clone());
        for service in of_services.chain(of_slices).collect::<BTreeSet<_>>() {
            self.look(model, settings, service);
        }
        self.tell();
    }

    /// Looks again at what has changed, and logs what is due.
    pub(crate) fn follow(
        &mut self,
        model: &Model,
        settings: &Settings,
        touched: Touched,
        now: Instant,
    ) {
        if !self.begun {
            return;
        }
        let Touched { mut services, node } = touched;
        if node {
            self.of_node = remark::of_node(model, settings);
            // A change of the node can make the host's network known, or unknown again.
            services.extend(self.of_services.keys().cloned());
        }
        let is_any = !services.is_empty();
        for service in services {
            self.look(model, settings, service);
        }
        if node || self.due.is_some_and(|due| now >= due) {
            self.tell();
        } else if is_any && self.due.is_none() && !self.is_told() {
            self.due = Some(now + GRACE);
        }
    }

    /// Returns when to call `follow` even if nothing has changed.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.due
    }

    fn look(&mut self, model: &Model, settings: &Settings, service: NamespacedName) {
        let remarks = remark::of_service(model, settings, &service);
        if remarks.is_empty() {
            self.of_services.remove(&service);
        } else {
            self.of_services.insert(service, remarks);
        }
    }

    fn all(&self) -> impl Iterator<Item = &Remark> {
        self.of_node.iter().chain(self.of_services.values().flatten())
    }

    fn is_told(&self) -> bool {
        self.all().count() == self.told.len() && self.all().all(|it| self.told.contains(it))
    }

    fn tell(&mut self) {
        self.due = None;
        let now: BTreeSet<Remark> = self.all().cloned().collect();
        let (new, over) = (now.difference(&self.told), self.told.difference(&now));
        let (count, gone) = (new.clone().count(), over.clone().count());
        for remark in new.take(MAX_REMARKS) {
            tracing::warn!("{remark}");
        }
        for remark in over.take(MAX_REMARKS) {
            tracing::info!("resolved: {remark}");
        }
        let (more, less) = (count.saturating_sub(MAX_REMARKS), gone.saturating_sub(MAX_REMARKS));
        if more > 0 {
            tracing::warn!("{more} more of this kind; `rulec diff` shows all");
        }
        if less > 0 {
            tracing::info!("resolved: {less} more of this kind");
        }
        self.told = now;
    }
}
