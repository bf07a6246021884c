//! The difference between two states of the kernel, as operations.
//!
//! - `between`: from one program to another;
//! - `reconcile`: from the state that was read from a kernel;
//! - `builder`: collects operations by Service;
//! - `stage`: the stage in which each operation takes effect;
//! - `pieces`: where the operations of a Service can be cut.

use std::sync::Arc;

use crate::frontend::PortKey;
use crate::name::NamespacedName;
use crate::nft::element::{Element, OwnedElement};
use crate::op::Op;
use crate::state::{State, Violation};

mod between;
mod builder;
mod pieces;
mod reconcile;
pub mod stage;

pub use pieces::Pieces;
use stage::Whole;
pub use stage::{IpvsOp, Staged, Step, Tables};

/// The operations for one Service, which belong in one transaction for each stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The Service.
    pub service: NamespacedName,
    /// Its operations.
    pub ops: Staged,
}

impl Group {
    /// Returns the group of a Service with these operations, which are in a valid order.
    pub fn new(service: NamespacedName, ops: Vec<Op>) -> Self {
        let with_ipvs = ops.iter().any(|op| op.as_ipvs().is_some());
        Self { service, ops: Staged::of_service(ops, &Whole { with_ipvs, ..Whole::default() }) }
    }
}

/// The operations from one state of the kernel to another, in a valid order: a thing is added
/// before others refer to it. The value of an element cannot be changed in place (nf_tables refuses
/// it for data maps), so a new value is a deletion and an addition, which take effect together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// True if traffic would be interrupted if the delta were cut: a table is replaced.
    pub atomic: bool,
    /// Operations that belong to no Service.
    pub shared: Staged,
    /// Operations by Service, the most important Service first.
    pub groups: Vec<Group>,
}

impl Delta {
    /// Returns all operations in a valid order: what Services share is there before they use it,
    /// and goes after they have stopped.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let [prepare, switch, retire] = self.shared.stages();
        let groups = self.groups.iter().flat_map(|group| group.ops.iter());
        prepare.iter().chain(switch).chain(groups).chain(retire)
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        let groups: usize = self.groups.iter().map(|group| group.ops.len()).sum();
        self.shared.len() + groups
    }

    /// Returns true if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    /// Applies a delta, operation by operation.
    ///
    /// # Errors
    ///
    /// Returns the first operation that a kernel would refuse. Unlike a kernel's, the state is then
    /// half changed: use a copy.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Violation> {
        delta.ops().try_for_each(|op| self.apply_op(op))
    }
}

fn sorted(mut elements: Vec<Element>, owner: &Arc<PortKey>) -> Vec<OwnedElement> {
    elements.sort_unstable_by_key(|element| element.key);
    let owned = |element| OwnedElement { element, owner: Some(Arc::clone(owner)) };
    elements.into_iter().map(owned).collect()
}
