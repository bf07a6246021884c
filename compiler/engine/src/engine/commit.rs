//! Commits, and their outcomes.

use std::time::Instant;

use rulec_compiler::flows::Suspects;
use rulec_compiler::{Delta, Program};

use super::{Busy, Engine};
use crate::applied::Snapshot;
use crate::committed::Committed;
use crate::request::Request;
use crate::sink::{DeltaBase, Outcome, Refusal, SinkError};

/// A step from what the kernel holds to what it should hold.
pub(super) struct Transition {
    pub(super) delta: Delta,
    /// The flows that may contradict the rules afterwards.
    pub(super) suspects: Suspects,
    /// The program that the kernel holds afterwards.
    pub(super) program: Program,
    pub(super) base: DeltaBase,
    /// True if the kernel's content differed from what it had acknowledged.
    pub(super) repair: bool,
}

/// A pending commit.
#[derive(Debug)]
pub(super) struct Commit {
    /// The kernel's content if the commit succeeds.
    wanted: Snapshot,
    suspects: Suspects,
    started: Instant,
    repair: bool,
}

impl Engine {
    /// Commits a step, unless the kernel already holds what it should.
    pub(super) fn commit(&mut self, step: Transition, now: Instant) -> Option<Request> {
        let Transition { delta, suspects, program, base, repair } = step;
        let wanted = self.wanted.snapshot(program);
        if delta.is_empty() {
            self.recovery.succeeded();
            self.quarantine.release_accepted();
            self.acknowledged(wanted, suspects, now);
            return None;
        }
        for op in delta.ops().filter(|_| tracing::enabled!(tracing::Level::TRACE)) {
            tracing::trace!(?op);
        }
        let commit = Commit { wanted, suspects, started: now, repair };
        self.busy = Some(Busy::Committing(Box::new(commit)));
        Some(Request::Commit { delta, base })
    }

    /// Takes in the outcome of a commit.
    pub(super) fn committed(&mut self, result: Result<Outcome, SinkError>, now: Instant) {
        let Some(Busy::Committing(commit)) = self.busy.take() else { return };
        let Commit { mut wanted, suspects, started, repair } = *commit;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                self.flows.failed(&suspects);
                return self.failed(&error, now);
            }
        };
        self.recovery.succeeded();
        self.counts.committed(&outcome, repair);
        self.refused(&outcome.refused, &mut wanted, now);
        self.quarantine.release_accepted();
        tracing::debug!(
            operations = outcome.ops,
            transactions = outcome.transactions,
            bytes = outcome.bytes,
            elapsed_us = u64::try_from((now - started).as_micros()).unwrap_or(u64::MAX),
            "committed"
        );
        self.committed = Some(Committed {
            before: self.applied.program().cloned(),
            after: wanted.program.clone(),
            operations: outcome.ops,
        });
        self.acknowledged(wanted, suspects, now);
        if !outcome.refused.is_empty() {
            // An element that a refused Service shares with others was left out with it, although
            // the others need it, so the kernel has to be read.
            self.applied.forget();
        }
    }

    /// Holds refused Services back. The kernel still has what it had of them.
    fn refused(&mut self, refused: &[Refusal], wanted: &mut Snapshot, now: Instant) {
        if refused.is_empty() {
            return;
        }
        let is_known = self.applied.program().is_some();
        let held = self.applied.fallback(self.wanted.settings());
        for refusal in refused {
            self.quarantine.refuse(refusal, is_known, now);
            wanted.restore(&refusal.service, &held);
            self.wanted.restore(&refusal.service, &held);
        }
    }

    /// Notes that the kernel holds the wanted program.
    fn acknowledged(&mut self, held: Snapshot, suspects: Suspects, now: Instant) {
        let program = &held.program;
        let (model, held_back) = (self.wanted.model(), self.quarantine.held_back());
        self.flows.acknowledged(suspects, program, model, held_back);
        self.idle_picks.follow(program.idle_picks(), now);
        self.draining.follow(program.draining(), now);
        self.delays.acknowledged(self.backlog.arrive(), now);
        self.counts.acknowledged += 1;
        self.applied.acknowledged(held);
    }

    /// Notes a failure. The kernel's content is unknown after it: it is read, and the next step
    /// continues from there.
    pub(super) fn failed(&mut self, error: &SinkError, now: Instant) {
        self.applied.forget();
        self.reading = None;
        self.counts.failures += 1;
        self.backlog.turn_back();
        if self.sources_ready {
            self.backlog.owe(now);
        }
        self.recovery.failed(error, now);
    }
}
