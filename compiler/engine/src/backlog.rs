//! The changes that the kernel has not acknowledged, in the order of their arrival.
//!
//! Changes wait until they are compiled, and are then on the way until the kernel acknowledges
//! them; a failure puts them back to the waiting ones. Invariant: the oldest come first.

use std::collections::BTreeMap;
use std::time::Instant;

use rulec_compiler::net::Family;
use rulec_compiler::object::Kind;

/// How many batches are kept apart. A kernel that cannot be programmed for hours must not cost
/// memory for every change. Beyond this number, later changes count as if they had arrived
/// together, and no more than this many of their triggers are kept.
const MAX_BATCHES: usize = 4096;

/// Changes that arrived together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    /// When they arrived.
    pub(super) since: Instant,
    /// How many updates they were. 0 for what is owed to the kernel without a change: everything at
    /// the start, and the wanted program after a failure.
    pub(super) updates: u32,
    /// How many objects of each kind have changed.
    pub(super) changed: BTreeMap<Kind, usize>,
    /// When the events that triggered them happened, as far as that is known.
    pub(super) triggers: Vec<(Family, Instant)>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    waiting: Vec<Batch>,
    on_the_way: Vec<Batch>,
}

impl Backlog {
    /// Adds changes that have just arrived.
    pub(super) fn push(&mut self, batch: Batch) {
        let is_full = self.waiting.len() >= MAX_BATCHES;
        match self.waiting.last_mut() {
            Some(last) if is_full => {
                last.updates = last.updates.saturating_add(batch.updates);
                for (kind, count) in batch.changed {
                    *last.changed.entry(kind).or_default() += count;
                }
                let room = MAX_BATCHES.saturating_sub(last.triggers.len());
                last.triggers.extend(batch.triggers.into_iter().take(room));
            }
            Some(_) | None => self.waiting.push(batch),
        }
    }

    /// Notes that the kernel is owed something from now on, even if no change follows.
    pub(super) fn owe(&mut self, now: Instant) {
        if self.oldest().is_none() {
            let (changed, triggers) = (BTreeMap::new(), Vec::new());
            self.push(Batch { since: now, updates: 0, changed, triggers });
        }
    }

    /// Everything that waits is compiled and on its way to the kernel.
    pub(super) fn depart(&mut self) {
        self.on_the_way.append(&mut self.waiting);
    }

    /// Takes what was on the way: the kernel holds it.
    pub(super) fn arrive(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.on_the_way)
    }

    /// Puts back what was on the way: the kernel's content is unknown.
    pub(super) fn turn_back(&mut self) {
        let later = std::mem::replace(&mut self.waiting, std::mem::take(&mut self.on_the_way));
        later.into_iter().for_each(|batch| self.push(batch));
    }

    /// Returns since when the kernel has been behind; `None` if it is not.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.on_the_way.first().or_else(|| self.waiting.first()).map(|batch| batch.since)
    }

    /// Returns how many changed objects of a kind the kernel has not acknowledged.
    pub(super) fn pending(&self, kind: Kind) -> usize {
        let all = self.on_the_way.iter().chain(&self.waiting);
        all.filter_map(|batch| batch.changed.get(&kind)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tests::started;

    fn batch(since: Instant) -> Batch {
        let changed = BTreeMap::from([(Kind::Service, 2)]);
        Batch { since, updates: 1, changed, triggers: vec![(Family::Ipv4, since)] }
    }

    #[test]
    fn batches_pushed_during_a_commit_stay_in_the_backlog() {
        let start = started();
        let later = start + Duration::from_secs(1);
        let mut backlog = Backlog::default();
        assert_eq!(backlog.oldest(), None);
        backlog.push(batch(start));
        backlog.depart();
        backlog.push(batch(later));
        assert_eq!((backlog.oldest(), backlog.pending(Kind::Service)), (Some(start), 4));
        assert_eq!(backlog.arrive(), [batch(start)]);
        assert_eq!((backlog.oldest(), backlog.pending(Kind::Service)), (Some(later), 2));
        assert_eq!(backlog.pending(Kind::EndpointSlice), 0);
    }

    #[test]
    fn a_failed_commit_keeps_its_batches() {
        let start = started();
        let later = start + Duration::from_secs(1);
        let mut backlog = Backlog::default();
        backlog.push(batch(start));
        backlog.depart();
        backlog.push(batch(later));
        backlog.turn_back();
        backlog.owe(later);
        backlog.depart();
        assert_eq!(backlog.arrive(), [batch(start), batch(later)]);
        assert_eq!(backlog.oldest(), None);
    }

    #[test]
    fn the_backlog_is_bounded_while_the_kernel_does_not_answer() {
        let start = started();
        let mut backlog = Backlog::default();
        for _ in 0..3 {
            backlog.depart();
            for _ in 0..MAX_BATCHES + 10 {
                backlog.push(batch(start));
            }
            backlog.turn_back();
            assert_eq!(backlog.waiting.len(), MAX_BATCHES);
        }
        let all = 3 * (MAX_BATCHES + 10);
        assert_eq!(backlog.pending(Kind::Service), 2 * all);
        backlog.depart();
        let arrived = backlog.arrive();
        let updates: u32 = arrived.iter().map(|batch| batch.updates).sum();
        assert_eq!(usize::try_from(updates).unwrap(), all);
        let triggers: usize = arrived.iter().map(|batch| batch.triggers.len()).sum();
        assert_eq!(triggers, 2 * MAX_BATCHES - 1);
    }
}
