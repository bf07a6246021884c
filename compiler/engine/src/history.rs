//! Past snapshots of the model.
//!
//! Models share what they have in common, so a snapshot costs as much memory as has changed since.

use std::collections::VecDeque;

use rulec_compiler::Model;

/// How many snapshots are kept.
const MAX_SNAPSHOTS: usize = 16;

/// The last snapshots, the oldest first. See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct History {
    snapshots: VecDeque<Model>,
}

impl History {
    /// Adds the model as it was before a change. The oldest snapshot makes room if necessary.
    pub(crate) fn push(&mut self, before: Model) {
        if self.snapshots.len() == MAX_SNAPSHOTS {
            self.snapshots.pop_front();
        }
        self.snapshots.push_back(before);
    }

    /// Returns the snapshots, the oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Model> {
        self.snapshots.iter()
    }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::change::{Change, Origin};
    use rulec_compiler::object::Kind;

    use super::*;
    use crate::tests::service;

    #[test]
    fn the_last_snapshots_are_kept_in_order() {
        let mut history = History::default();
        let mut model = Model::default();
        for name in 0..20 {
            history.push(model.clone());
            model.apply(Origin::Manifests, Change::Apply(service(name)));
        }
        let services = history.iter().map(|model| model.count(Kind::Service));
        assert!(services.eq(4..20));
    }
}
