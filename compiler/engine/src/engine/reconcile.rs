//! Reads and checks of the kernel, and the step from what was read to what is wanted.

use std::time::Instant;

use rulec_compiler::flows::Suspects;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Delta, State};

use super::Engine;
use super::commit::Transition;
use crate::acknowledged::Base;
use crate::request::Request;
use crate::sink::{DeltaBase, SinkError};

impl Engine {
    /// Takes in the kernel's content. It is compared when the next request is due.
    pub(super) fn state(&mut self, result: Result<(State, DeltaBase), SinkError>, now: Instant) {
        self.busy = None;
        match result {
            Ok(reading) => self.reading = Some(reading),
            // It only looked for drift, as a check does: nothing says that `applied` is wrong, and
            // if it is, the next commit will be refused.
            Err(error @ SinkError::Unavailable(_)) if self.applied.program().is_some() => {
                self.checks.failed(&error, now);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// Takes in what a check has found. It is repaired from a reading, which no commit disturbs.
    pub(super) fn checked(&mut self, result: Result<Delta, SinkError>, now: Instant) {
        let Some(found) = self.checks.checked(result, now) else { return };
        if !self.without_refused(found).is_empty() {
            self.drift.want_read();
        }
    }

    /// Continues from the content that was read from the kernel.
    pub(super) fn reconcile(
        &mut self,
        state: &State,
        base: DeltaBase,
        now: Instant,
    ) -> Option<Request> {
        self.recovery.adopted();
        // A difference from `applied` is drift; changes that arrived meanwhile are not.
        let believed = self.applied.forget();
        self.retry_refused(now);
        let repair = believed
            .map(|believed| (self.without_refused(Delta::reconcile(state, &believed)), believed));
        let drift = repair.as_ref().map_or(0, |(repair, _)| repair.len());
        let origin = match &repair {
            None => Base::Read,
            Some(_) if drift > 0 => Base::Tampered,
            Some(_) => Base::Acknowledged,
        };
        self.drift.compared(drift, now);
        self.checks.compared(now);
        let base = self.recovery.base(base);
        let is_first = self.wanted.program().is_none();
        let mut wanted = self.compile(state, now);
        wanted.drain_as_held(&state.ipvs);
        self.wanted.replace(wanted.clone());
        let is_held_back = |service: &NamespacedName| self.quarantine.is_held_back(service);
        let mut suspects = match &repair {
            // If the kernel held what `applied` says, the flows follow from what changes now.
            Some((repair, believed)) if repair.is_empty() => Suspects::between(believed, &wanted),
            Some((_, believed)) => {
                let mut suspects = Suspects::everywhere(state, &wanted, is_held_back);
                suspects.keep_gone(&Suspects::between(believed, &wanted));
                suspects
            }
            None => Suspects::everywhere(state, &wanted, is_held_back),
        };
        suspects.merge(self.flows.take_uncertain());
        let delta = match repair {
            // Comparing a whole state takes long, and usually nothing else has changed.
            Some((repair, believed)) if Delta::between(&believed, &wanted).is_empty() => repair,
            Some(_) | None => self.without_refused(Delta::reconcile(state, &wanted)),
        };
        if is_first {
            tracing::info!(operations = delta.len(), "adopted the kernel's content");
        }
        self.commit(Transition { delta, suspects, program: wanted, base, origin }, now)
    }

    /// Leaves refused Services out: the kernel's content of them stays as it is until they are
    /// retried. What was refused halfway is neither the old content nor the new one.
    fn without_refused(&mut self, mut delta: Delta) -> Delta {
        delta.groups.retain(|group| !self.quarantine.differs(&group.service));
        delta
    }
}
