//! Classes of session affinity that no Service uses.
//!
//! A Service that comes and goes would have its chain and its map of records deleted and created
//! each time. So an unused class stays for a period, in which it may be used again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rulec_compiler::program::AffinityKey;

use crate::periods::Periods;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct IdleAffinities {
    /// How long an unused class stays.
    period: Duration,
    /// The unused classes, each with the time since which it is unused.
    since: BTreeMap<AffinityKey, Instant>,
}

impl IdleAffinities {
    /// Creates the state in which every class is used.
    pub(crate) fn new(periods: &Periods) -> Self {
        Self { period: periods.idle_affinity, since: BTreeMap::new() }
    }

    /// Follows a change of the unused classes in the kernel.
    pub(crate) fn follow(&mut self, idle: impl Iterator<Item = AffinityKey>, now: Instant) {
        let idle: BTreeSet<AffinityKey> = idle.collect();
        self.since.retain(|class, _| idle.contains(class));
        for class in idle {
            self.since.entry(class).or_insert(now);
        }
    }

    /// Takes the classes that have been unused for the period.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<AffinityKey> {
        let period = self.period;
        let due = self.since.extract_if(.., |_, since| now >= *since + period);
        due.map(|(class, _)| class).collect()
    }

    /// Returns when the next class is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.since.values().map(|since| *since + self.period).min()
    }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::net::Family;
    use rulec_compiler::nft::code::Affinity;

    use super::*;
    use crate::tests::started;

    const MINUTE: Duration = Duration::from_secs(60);

    fn classes() -> IdleAffinities {
        IdleAffinities::new(&Periods { idle_affinity: 10 * MINUTE, ..Periods::default() })
    }

    fn class(timeout: u32) -> AffinityKey {
        AffinityKey { family: Family::Ipv4, affinity: Affinity { timeout, map: 1 } }
    }

    #[test]
    fn a_class_is_due_when_it_has_been_unused_for_the_period() {
        let start = started();
        let mut classes = classes();
        assert_eq!(classes.deadline(), None);
        classes.follow([class(1)].into_iter(), start);
        classes.follow([class(1), class(2)].into_iter(), start + MINUTE);
        assert_eq!(classes.deadline(), Some(start + 10 * MINUTE));
        assert_eq!(classes.take_due(start + 9 * MINUTE), []);
        assert_eq!(classes.take_due(start + 10 * MINUTE), [class(1)]);
        assert_eq!(classes.deadline(), Some(start + 11 * MINUTE));
    }

    #[test]
    fn a_class_that_is_used_meanwhile_gets_the_full_period_again() {
        let start = started();
        let mut classes = classes();
        classes.follow([class(1)].into_iter(), start);
        classes.follow([].into_iter(), start + MINUTE);
        assert_eq!(classes.deadline(), None);
        classes.follow([class(1)].into_iter(), start + 2 * MINUTE);
        assert_eq!(classes.deadline(), Some(start + 12 * MINUTE));
    }
}
