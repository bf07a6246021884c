//! What is told of a comparison, whatever the format.

use std::collections::BTreeMap;

use rulec_compiler::Op;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::plural::counted;
use serde::Serialize;

use super::change::Change;
use super::changes;
use super::comparison::Comparison;
use crate::history::change::Presence;

/// A difference, in the order in which it is told.
pub(super) struct Report<'a> {
    /// The Services that change, in the order of their names.
    pub(super) services: Vec<ServiceReport<'a>>,
    /// Operations that belong to no Service.
    pub(super) base: Vec<&'a Op>,
    /// What could not be compared, with its side.
    pub(super) incomplete: Vec<String>,
    /// Claims that lose, if nobody knows whether they did before. They are no difference.
    pub(super) refused: Vec<Refusal>,
}

/// The frontends that a Service asks for and another one has.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) holder: String,
    pub(super) frontends: Vec<String>,
}

/// A Service that changes.
pub(super) struct ServiceReport<'a> {
    pub(super) service: NamespacedName,
    pub(super) presence: Presence,
    pub(super) changes: Vec<Change>,
    /// Its operations, in order.
    pub(super) ops: Vec<&'a Op>,
}

impl<'a> Report<'a> {
    pub(super) fn of(comparison: &'a Comparison, incomplete: Vec<String>) -> Self {
        let delta = &comparison.delta;
        let mut ops: BTreeMap<NamespacedName, Vec<&Op>> = BTreeMap::new();
        for group in &delta.groups {
            let service = comparison.meant_service(&group.service);
            ops.entry(service).or_default().extend(group.ops.iter());
        }
        let services = changes::all(comparison).into_iter().map(|(service, changes)| {
            let presence = match comparison.presence(&service) {
                [false, true] => Presence::Added,
                [true, false] => Presence::Removed,
                _ => Presence::Changed,
            };
            let ops = ops.remove(&service).unwrap_or_default();
            ServiceReport { service, presence, changes, ops }
        });
        Self {
            services: services.collect(),
            base: delta.shared.iter().collect(),
            incomplete,
            refused: refused(comparison),
        }
    }

    /// Returns whether there is nothing to tell.
    pub(super) fn is_equal(&self) -> bool {
        self.services.is_empty() && self.base.is_empty() && self.incomplete.is_empty()
    }

    /// Returns how many Services come, go, or change otherwise.
    pub(super) fn count(&self, presence: Presence) -> usize {
        self.services.iter().filter(|it| it.presence == presence).count()
    }

    /// Returns the changes that are dangerous, with their Services. A frontend that moves is named
    /// once, with the Service that loses it.
    pub(super) fn dangers(&self) -> impl Iterator<Item = (&NamespacedName, &Change)> {
        let all = self.services.iter();
        let all = all.flat_map(|it| it.changes.iter().map(move |change| (&it.service, change)));
        all.filter(|(service, Change { kind, .. })| {
            let is_winner = kind.moved.as_ref().is_some_and(|moved| moved.to == **service);
            kind.what.is_dangerous() && !is_winner
        })
    }

    /// Returns all operations.
    pub(super) fn ops(&self) -> impl Iterator<Item = &'a Op> {
        let of_services = self.services.iter().flat_map(|it| it.ops.iter().copied());
        self.base.iter().copied().chain(of_services)
    }
}

fn refused(comparison: &Comparison) -> Vec<Refusal> {
    let mut found: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for ((loser, frontend), holder) in comparison.standing_refused().into_iter().flatten() {
        let key = (&loser.service, &holder.service);
        found.entry(key).or_default().push(frontend.to_string());
    }
    let all = found.into_iter().map(|((loser, holder), frontends)| Refusal {
        namespace: loser.namespace.to_string(),
        name: loser.name.to_string(),
        holder: holder.to_string(),
        frontends,
    });
    all.collect()
}

/// The numbers of operations.
pub(super) struct Counts {
    pub(super) added: usize,
    pub(super) deleted: usize,
    on_ipvs: usize,
    on_tables: usize,
}

impl Counts {
    pub(super) fn of<'a>(ops: impl Iterator<Item = &'a Op>) -> Self {
        let mut counts = Self { added: 0, deleted: 0, on_ipvs: 0, on_tables: 0 };
        for op in ops {
            let count = if op.added().is_some() {
                &mut counts.added
            } else if op.deleted().is_some() {
                &mut counts.deleted
            } else if op.as_ipvs().is_some() {
                &mut counts.on_ipvs
            } else {
                &mut counts.on_tables
            };
            *count += 1;
        }
        counts
    }

    /// Returns the number of operations on other things than elements.
    pub(super) fn others(&self) -> usize {
        self.on_ipvs + self.on_tables
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { added, deleted, on_ipvs, on_tables } = *self;
        let total = counted(added + deleted, "element operation");
        write!(f, "{total}: {added} added, {deleted} deleted")?;
        for (number, what) in
            [(on_tables, "tables, sets and chains"), (on_ipvs, "IPVS and addresses")]
        {
            if number > 0 {
                write!(f, ", {} on {what}", counted(number, "operation"))?;
            }
        }
        Ok(())
    }
}
