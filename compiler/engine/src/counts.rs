//! Counts for metrics.

use rulec_compiler::Dirty;
use rulec_compiler::object::Kind;

use crate::sink::Outcome;

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions that the kernel has acknowledged.
    pub transactions: usize,
    /// Operations in them.
    pub operations: usize,
    /// Bytes of netlink messages in them.
    pub bytes: usize,
    /// Times that the kernel came to hold the wanted program, also without a transaction.
    pub acknowledged: usize,
    /// Times that the kernel could not be read or programmed, or refused a Service.
    pub failures: usize,
    /// Services that were added, removed, or changed in meaning.
    pub service_changes: usize,
    /// EndpointSlices and Pods, likewise.
    pub endpoint_changes: usize,
    /// Changes of objects that changed nothing in the kernel.
    pub suppressed: usize,
    /// Times that the kernel's content differed from what it should be, and was repaired.
    pub repairs: usize,
}

impl Counts {
    /// Counts the objects that changes have touched.
    pub(crate) fn changed(&mut self, dirty: &Dirty) {
        self.suppressed += dirty.unchanged;
        for (kind, count) in &dirty.changed {
            match kind {
                Kind::Service => self.service_changes += count,
                Kind::EndpointSlice | Kind::Pod => self.endpoint_changes += count,
                Kind::Node | Kind::ServiceCidr | Kind::InterfaceAddresses => {}
            }
        }
    }

    /// Counts a commit that the kernel has acknowledged.
    pub(crate) fn committed(&mut self, outcome: &Outcome, is_repair: bool) {
        self.transactions += outcome.transactions;
        self.operations += outcome.ops;
        self.bytes += outcome.bytes;
        self.failures += outcome.refused.len();
        self.repairs += usize::from(is_repair);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use super::*;
    use crate::sink::Refusal;
    use crate::tests::key;

    #[test]
    fn slices_and_pods_are_changes_of_endpoints() {
        let kinds = [(Kind::Service, 1), (Kind::EndpointSlice, 2), (Kind::Pod, 4), (Kind::Node, 8)];
        let dirty = Dirty { unchanged: 16, changed: BTreeMap::from(kinds), ..Dirty::default() };
        let mut counts = Counts::default();
        counts.changed(&dirty);
        let found = (counts.service_changes, counts.endpoint_changes, counts.suppressed);
        assert_eq!(found, (1, 6, 16));
    }

    #[test]
    fn a_refused_service_is_a_failure_of_a_commit_that_counts() {
        let refused = vec![Refusal { service: key(1), error: io::Error::other("injected") }];
        let outcome = Outcome { transactions: 1, ops: 2, bytes: 3, refused };
        let mut counts = Counts::default();
        counts.committed(&outcome, true);
        counts.committed(&Outcome::default(), false);
        let found = (counts.transactions, counts.operations, counts.bytes);
        assert_eq!(found, (1, 2, 3));
        assert_eq!((counts.failures, counts.repairs), (1, 1));
    }
}
