//! A change that the kernel has acknowledged, for whoever keeps a history.

use std::sync::Arc;
use std::time::Duration;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Model, Program};

/// What the kernel holds after a change, and what the change has cost. Programs and models share what
/// they have in common, so this is a few pointers.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    /// The program that the kernel holds now.
    pub program: Program,
    /// The model that it was compiled from.
    pub model: Model,
    /// Where the change began.
    pub base: Base,
    /// What it has cost.
    pub cost: Cost,
    /// The Services that the kernel has refused, and those that it takes again.
    pub verdicts: Verdicts,
}

impl Acknowledged {
    /// Makes one of this and a later one, which nobody has taken in between.
    pub(crate) fn merge(self, later: Self) -> Self {
        let Self { base, cost, verdicts, .. } = self;
        let cost = Cost {
            latency: cost.latency.max(later.cost.latency),
            commit: cost.commit + later.cost.commit,
            operations: cost.operations + later.cost.operations,
            transactions: cost.transactions + later.cost.transactions,
            bytes: cost.bytes + later.cost.bytes,
        };
        let verdicts = verdicts.merge(later.verdicts.clone());
        Self { base: base.max(later.base), cost, verdicts, ..later }
    }
}

/// What the kernel says of Services that it has refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Those that it has refused, each with its error, unless it has said the same before.
    pub refused: Vec<(NamespacedName, Arc<str>)>,
    /// Those that it had refused and holds now, or that are gone.
    pub accepted: Vec<NamespacedName>,
}

impl Verdicts {
    /// Returns whether there is none.
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty() && self.accepted.is_empty()
    }

    /// Of each Service, the later verdict counts.
    fn merge(mut self, later: Self) -> Self {
        let is_later = |service: &NamespacedName| {
            later.accepted.contains(service) || later.refused.iter().any(|(it, _)| it == service)
        };
        self.refused.retain(|(service, _)| !is_later(service));
        self.accepted.retain(|service| !is_later(service));
        self.refused.extend(later.refused);
        self.accepted.extend(later.accepted);
        self
    }
}

/// What a change started from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Base {
    /// What the kernel had acknowledged before.
    Acknowledged,
    /// What was read from the kernel, because that was not known.
    Read,
    /// What was read from the kernel, which differed from what it had acknowledged.
    Tampered,
}

/// What a change has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// The time from the first of its updates to the acknowledgement; `None` without an update.
    pub latency: Option<Duration>,
    /// The part of it from the begin of the compilation; zero if nothing had to be committed.
    pub commit: Duration,
    /// Operations in the kernel.
    pub operations: usize,
    /// Transactions that they took.
    pub transactions: usize,
    /// Bytes of netlink messages in them.
    pub bytes: usize,
}
