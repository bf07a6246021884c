//! The effect of a change of the model, for the compiler.

use std::collections::{BTreeMap, BTreeSet};

use crate::change::Origin;
use crate::name::{NamespacedName, NodeName};
use crate::object::{Kind, ObjectKey};

/// The effect of a change of the model, for the compiler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose own fields or endpoints may have changed, including Services that are gone.
    pub services: BTreeSet<NamespacedName>,
    /// Nodes whose facts have changed.
    pub nodes: BTreeSet<NodeName>,
    /// True if the addresses of interfaces or the ServiceCIDRs have changed.
    pub surroundings: bool,
    /// Objects that now exist in two sources: the origin that takes precedence, then the overridden
    /// one.
    pub overridden: BTreeSet<(ObjectKey, Origin, Origin)>,
    /// The number of objects that were applied or removed without effect.
    pub unchanged: usize,
    /// The number of objects of each kind that were added, removed, or changed in meaning.
    pub changed: BTreeMap<Kind, usize>,
}

impl Dirty {
    /// Counts a change that had an effect, or had none.
    pub(super) fn count(&mut self, kind: Kind, has_changed: bool) {
        if has_changed {
            *self.changed.entry(kind).or_default() += 1;
        } else {
            self.unchanged += 1;
        }
    }

    /// Returns true if nothing needs compiling.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.nodes.is_empty() && !self.surroundings
    }

    /// Adds what another change has touched.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.nodes.extend(other.nodes);
        self.surroundings |= other.surroundings;
        self.overridden.extend(other.overridden);
        self.unchanged += other.unchanged;
        for (kind, count) in other.changed {
            *self.changed.entry(kind).or_default() += count;
        }
    }
}
