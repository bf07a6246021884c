//! Commits, and their outcomes.

use std::sync::Arc;
use std::time::Instant;

use rulec_compiler::flows::Suspects;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Delta, Program};

use super::{Busy, Engine};
use crate::acknowledged::{Acknowledged, Base, Cost, Verdicts};
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
    /// Where the step starts.
    pub(super) origin: Base,
}

/// A pending commit.
#[derive(Debug)]
pub(super) struct Commit {
    /// The kernel's content if the commit succeeds.
    wanted: Snapshot,
    suspects: Suspects,
    started: Instant,
    origin: Base,
}

impl Engine {
    /// Commits a step, unless the kernel already holds what it should.
    pub(super) fn commit(&mut self, step: Transition, now: Instant) -> Option<Request> {
        let Transition { delta, suspects, program, base, origin } = step;
        let wanted = self.wanted.snapshot(program);
        if delta.is_empty() {
            self.recovery.succeeded();
            let accepted = self.quarantine.release_accepted();
            let verdicts = Verdicts { accepted, ..Verdicts::default() };
            self.acknowledged(wanted, suspects, origin, None, verdicts, now);
            return None;
        }
        for op in delta.ops().filter(|_| tracing::enabled!(tracing::Level::TRACE)) {
            tracing::trace!(?op);
        }
        self.checks.committing(&delta);
        let commit = Commit { wanted, suspects, started: now, origin };
        self.busy = Some(Busy::Committing(Box::new(commit)));
        Some(Request::Commit { delta, base })
    }

    /// Takes in the outcome of a commit.
    pub(super) fn committed(&mut self, result: Result<Outcome, SinkError>, now: Instant) {
        let Some(Busy::Committing(commit)) = self.busy.take() else { return };
        let Commit { mut wanted, suspects, started, origin } = *commit;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                self.flows.failed(&suspects);
                return self.failed(&error, now);
            }
        };
        self.recovery.succeeded();
        self.counts.committed(&outcome, origin == Base::Tampered);
        let refused = self.refused(&outcome.refused, &mut wanted, now);
        let verdicts = Verdicts { refused, accepted: self.quarantine.release_accepted() };
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
        let cost = Cost {
            latency: None,
            commit: now.saturating_duration_since(started),
            operations: outcome.ops,
            transactions: outcome.transactions,
            bytes: outcome.bytes,
        };
        self.acknowledged(wanted, suspects, origin, Some(cost), verdicts, now);
        if !outcome.refused.is_empty() {
            // An element that a refused Service shares with others was left out with it, although
            // the others need it, so the kernel has to be read.
            self.applied.forget();
        }
    }

    /// Holds refused Services back, and returns those of which the kernel says something new. It still
    /// has what it had of them.
    fn refused(
        &mut self,
        refused: &[Refusal],
        wanted: &mut Snapshot,
        now: Instant,
    ) -> Vec<(NamespacedName, Arc<str>)> {
        if refused.is_empty() {
            return Vec::new();
        }
        let is_known = self.applied.program().is_some();
        let held = self.applied.fallback(self.wanted.settings());
        let mut news = Vec::new();
        for refusal in refused {
            let error = self.quarantine.refuse(refusal, is_known, now);
            news.extend(error.map(|error| (refusal.service.clone(), error)));
            wanted.restore(&refusal.service, &held);
            self.wanted.restore(&refusal.service, &held);
        }
        news
    }

    /// Notes that the kernel holds the wanted program. `cost` is that of the commit, if one was needed.
    fn acknowledged(
        &mut self,
        held: Snapshot,
        suspects: Suspects,
        base: Base,
        cost: Option<Cost>,
        verdicts: Verdicts,
        now: Instant,
    ) {
        let program = &held.program;
        let (model, held_back) = (self.wanted.model(), self.quarantine.held_back());
        self.flows.acknowledged(suspects, program, model, held_back);
        self.idle_affinities.follow(program.idle_affinities(), now);
        self.draining.follow(program.draining(), now);
        let batches = self.backlog.arrive();
        if cost.is_some() || !batches.is_empty() || !verdicts.is_empty() {
            let mut cost = cost.unwrap_or_default();
            let first = batches.iter().find(|batch| batch.updates > 0);
            cost.latency = first.map(|batch| now.saturating_duration_since(batch.since));
            let (program, model) = (program.clone(), held.model.clone());
            let later = Acknowledged { program, model, base, cost, verdicts };
            self.acknowledged = Some(match self.acknowledged.take() {
                Some(earlier) => earlier.merge(later),
                None => later,
            });
        }
        self.delays.acknowledged(batches, now);
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
