//! Pick chains that no Service uses.
//!
//! A Service whose endpoints come and go would have its pick chain deleted and created each time.
//! So an unused chain stays for a period, in which it may be used again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rulec_compiler::program::PickId;

use crate::periods::Periods;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct IdlePicks {
    /// How long an unused chain stays.
    period: Duration,
    /// The unused chains, each with the time since which it is unused.
    since: BTreeMap<PickId, Instant>,
}

impl IdlePicks {
    /// Creates the state in which every chain is used.
    pub(crate) fn new(periods: &Periods) -> Self {
        Self { period: periods.idle_pick, since: BTreeMap::new() }
    }

    /// Follows a change of the unused chains in the kernel.
    pub(crate) fn follow(&mut self, idle: impl Iterator<Item = PickId>, now: Instant) {
        let idle: BTreeSet<PickId> = idle.collect();
        self.since.retain(|pick, _| idle.contains(pick));
        for pick in idle {
            self.since.entry(pick).or_insert(now);
        }
    }

    /// Takes the chains that have been unused for the period.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<PickId> {
        let period = self.period;
        let due = self.since.extract_if(.., |_, since| now >= *since + period);
        due.map(|(pick, _)| pick).collect()
    }

    /// Returns when the next chain is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.values().map(|since| *since + self.period).min()
    }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::net::Family;
    use rulec_compiler::nft::pick::Pick;
    use rulec_compiler::nft::set::{Scope, View};

    use super::*;
    use crate::tests::started;

    const MINUTE: Duration = Duration::from_secs(60);

    fn picks() -> IdlePicks {
        IdlePicks::new(&Periods { idle_pick: 10 * MINUTE, ..Periods::default() })
    }

    fn pick(backends: u32) -> PickId {
        let pick = Pick { backends, ..Pick::DROP };
        PickId { family: Family::Ipv4, scope: Scope::Address, view: View::Cluster, pick }
    }

    #[test]
    fn a_chain_is_due_when_it_has_been_unused_for_the_period() {
        let start = started();
        let mut picks = picks();
        assert_eq!(picks.deadline(), None);
        picks.follow([pick(1)].into_iter(), start);
        picks.follow([pick(1), pick(2)].into_iter(), start + MINUTE);
        assert_eq!(picks.deadline(), Some(start + 10 * MINUTE));
        assert_eq!(picks.take_due(start + 9 * MINUTE), []);
        assert_eq!(picks.take_due(start + 10 * MINUTE), [pick(1)]);
        assert_eq!(picks.deadline(), Some(start + 11 * MINUTE));
    }

    #[test]
    fn a_chain_that_is_used_meanwhile_gets_the_full_period_again() {
        let start = started();
        let mut picks = picks();
        picks.follow([pick(1)].into_iter(), start);
        picks.follow([].into_iter(), start + MINUTE);
        assert_eq!(picks.deadline(), None);
        picks.follow([pick(1)].into_iter(), start + 2 * MINUTE);
        assert_eq!(picks.deadline(), Some(start + 12 * MINUTE));
    }
}
