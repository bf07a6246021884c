//! Delays of changes, for metrics, until they are taken.

use std::time::{Duration, Instant};

use rulec_compiler::net::Family;

use crate::backlog::Batch;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Delays {
    /// How long acknowledged updates took, each with the number of updates that took so long.
    updates: Vec<(Duration, u32)>,
    /// How long it took from the triggers of changes to their acknowledgement.
    programmed: Vec<(Family, Duration)>,
}

impl Delays {
    /// Notes that the kernel has acknowledged these changes. What was owed to it without an update
    /// does not count.
    pub(crate) fn acknowledged(&mut self, batches: Vec<Batch>, now: Instant) {
        let took = |at| now.saturating_duration_since(at);
        for batch in batches.into_iter().filter(|batch| batch.updates > 0) {
            self.updates.push((took(batch.since), batch.updates));
            let triggers = batch.triggers.into_iter();
            self.programmed.extend(triggers.map(|(family, at)| (family, took(at))));
        }
    }

    /// Takes how long updates took.
    pub(crate) fn take_updates(&mut self) -> Vec<(Duration, u32)> {
        std::mem::take(&mut self.updates)
    }

    /// Takes how long it took from the triggers of changes to their acknowledgement.
    pub(crate) fn take_programmed(&mut self) -> Vec<(Family, Duration)> {
        std::mem::take(&mut self.programmed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::tests::started;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_delay_ends_with_the_acknowledgement_and_is_taken_once() {
        let start = started();
        let mut delays = Delays::default();
        let triggers = vec![(Family::Ipv4, start), (Family::Ipv6, start + 9 * SECOND)];
        let changed = BTreeMap::new();
        let batch = Batch { since: start + SECOND, updates: 3, changed, triggers };
        delays.acknowledged(vec![batch], start + 5 * SECOND);
        assert_eq!(delays.take_updates(), [(4 * SECOND, 3)]);
        let ahead = Duration::ZERO;
        let expected = [(Family::Ipv4, 5 * SECOND), (Family::Ipv6, ahead)];
        assert_eq!(delays.take_programmed(), expected, "a clock that is ahead counts as none");
        assert_eq!((delays.take_updates(), delays.take_programmed()), (vec![], vec![]));
    }

    #[test]
    fn what_is_owed_without_an_update_has_no_delay() {
        let start = started();
        let mut delays = Delays::default();
        let (changed, triggers) = (BTreeMap::new(), Vec::new());
        let batch = Batch { since: start, updates: 0, changed, triggers };
        delays.acknowledged(vec![batch], start + SECOND);
        assert_eq!(delays.take_updates(), []);
    }
}
