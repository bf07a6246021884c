//! Tells of what is there and has no effect, as long as that lasts.
//!
//! Objects that belong together come one after the other, so what is new has a while to come right before
//! it is told of. What is so when the first lists are complete, and what is said of this node, is told at
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rulec_compiler::name::NamespacedName;
use rulec_compiler::remark::{self, Remark};
use rulec_compiler::{Model, Settings};

use crate::engine::Touched;

/// How long what is new may take to come right.
const GRACE: Duration = Duration::from_secs(5);

/// How many are told of at a time. The rest is counted.
const MOST: usize = 20;

/// What has no effect now.
#[derive(Debug, Default)]
pub(crate) struct Remarks {
    of_services: BTreeMap<NamespacedName, Vec<Remark>>,
    of_node: Vec<Remark>,
    /// What has been told.
    told: BTreeSet<Remark>,
    /// When to tell, if it has not come right by then.
    due: Option<Instant>,
    begun: bool,
}

impl Remarks {
    /// Looks at everything, and tells. Before that, it is not known what is still to come.
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

    /// Looks again at what has changed, and tells of what is due.
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
            // Where the host's network is may be known now, or no longer.
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

    /// When to ask again although nothing has changed.
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
        for remark in new.take(MOST) {
            tracing::warn!("{remark}");
        }
        for remark in over.take(MOST) {
            tracing::info!("no longer: {remark}");
        }
        let (more, less) = (count.saturating_sub(MOST), gone.saturating_sub(MOST));
        if more > 0 {
            tracing::warn!("{more} more of this kind; `rulec diff` tells of all");
        }
        if less > 0 {
            tracing::info!("no longer: {less} more of this kind");
        }
        self.told = now;
    }
}
