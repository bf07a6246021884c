//! The objects that changes have touched.

use std::collections::BTreeSet;

use rulec_compiler::name::NamespacedName;

/// The changes since the last call of `take_touched`.
#[derive(Debug, Default)]
pub struct Touched {
    /// Services whose own fields or endpoints may have changed in meaning.
    pub services: BTreeSet<NamespacedName>,
    /// Whether a Node, or an address of this node, has been added, removed or changed.
    pub node: bool,
}
