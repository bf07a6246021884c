//! The objects that changes have touched.

use std::collections::BTreeSet;

use rulec_compiler::Dirty;
use rulec_compiler::name::NamespacedName;

/// The changes since the last call of `take_touched`.
#[derive(Debug, Default)]
pub struct Touched {
    /// Services whose own fields or endpoints may have changed in meaning.
    pub services: BTreeSet<NamespacedName>,
    /// True if a Node, or an address of this node, has been added, removed or changed.
    pub node: bool,
}

impl Touched {
    /// Adds what changes have touched.
    pub(crate) fn changed(&mut self, dirty: &Dirty) {
        self.services.extend(dirty.services.iter().cloned());
        self.node |= !dirty.nodes.is_empty() || dirty.surroundings;
    }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::name::NodeName;

    use super::*;
    use crate::tests::key;

    #[test]
    fn touched_services_accumulate() {
        let mut touched = Touched::default();
        for name in [1, 2, 1] {
            let services = BTreeSet::from([key(name)]);
            touched.changed(&Dirty { services, ..Dirty::default() });
        }
        assert_eq!(touched.services, BTreeSet::from([key(1), key(2)]));
        assert!(!touched.node);
    }

    #[test]
    fn a_node_is_touched_by_its_object_and_by_its_addresses() {
        let nodes = BTreeSet::from([NodeName::from("na")]);
        let of_node = Dirty { nodes, ..Dirty::default() };
        let of_addresses = Dirty { surroundings: true, ..Dirty::default() };
        for dirty in [of_node, of_addresses] {
            let mut touched = Touched::default();
            touched.changed(&dirty);
            touched.changed(&Dirty::default());
            assert!(touched.node);
        }
    }
}
