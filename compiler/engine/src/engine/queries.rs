//! Queries for the rest of the daemon.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec_compiler::Program;
use rulec_compiler::flows::{Rules, Suspects};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::object::Kind;
use rulec_compiler::{Model, Settings};

use super::Engine;
use crate::acknowledged::Acknowledged;
use crate::committed::Committed;
use crate::counts::Counts;
use crate::locals::Locals;
use crate::recovery::Failure;
use crate::touched::Touched;

impl Engine {
    /// Returns the current model.
    pub fn model(&self) -> &Model {
        self.wanted.model()
    }

    /// Returns the program that the sources ask for; `None` before the first compilation.
    pub fn wanted(&self) -> Option<&Program> {
        self.wanted.program()
    }

    /// Returns the program that the kernel has acknowledged and its model, unless they are unknown
    /// at the moment.
    pub fn applied(&self) -> Option<(&Program, &Model)> {
        self.applied.program().map(|program| (program, self.applied.model()))
    }

    /// Returns the Services with a `Local` policy, as the kernel last acknowledged them.
    pub fn applied_locals(&self) -> &Locals {
        self.applied.locals()
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Arc<Settings> {
        self.wanted.settings()
    }

    /// True if the kernel holds all that the sources say.
    pub fn is_settled(&self) -> bool {
        self.sources_ready
            && self.busy.is_none()
            && self.reading.is_none()
            && self.wanted.is_compiled()
            && !self.drift.is_read_wanted()
            && self.applied.program().is_some()
            && self.quarantine.is_empty()
    }

    /// Returns how many Services the kernel keeps although no source names them, because not every
    /// file could be read.
    pub fn kept(&self) -> usize {
        self.wanted.program().map_or(0, |wanted| wanted.kept().count())
    }

    /// Returns the Services that the kernel has refused.
    pub fn quarantined(&self) -> impl Iterator<Item = &NamespacedName> {
        self.quarantine.services()
    }

    /// Returns the Services that the kernel has refused, each with what it said the last time and how
    /// many times in a row it has refused it.
    pub fn refusals(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<str>, u32)> {
        self.quarantine.refusals()
    }

    /// Returns the last time when the kernel could not be read or programmed, if there was any.
    pub fn failure(&self) -> Option<&Failure> {
        self.recovery.last()
    }

    /// Returns when the kernel's content was last compared with what it should hold.
    pub fn compared(&self) -> Option<Instant> {
        self.checks.last()
    }

    /// Returns since when the kernel has been behind the sources; `None` if it is not. Changes that
    /// wait for the first list of a source do not count, nor does a Service that the kernel has
    /// refused.
    pub fn behind_since(&self) -> Option<Instant> {
        self.backlog.oldest()
    }

    /// Returns how many changed objects of a kind the kernel has not acknowledged.
    pub fn pending(&self, kind: Kind) -> usize {
        self.backlog.pending(kind)
    }

    /// Returns the counts since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Takes how long updates took from `handle` to the kernel's acknowledgement, each with the
    /// number of updates that took so long. The first lists are not included: their duration
    /// depends on the size of the cluster.
    pub fn take_latencies(&mut self) -> Vec<(Duration, u32)> {
        self.delays.take_updates()
    }

    /// Takes how long it took from the triggers of changes of EndpointSlices to the kernel's
    /// acknowledgement, by the family of the slice.
    pub fn take_programmed(&mut self) -> Vec<(Family, Duration)> {
        self.delays.take_programmed()
    }

    /// Takes the last commit that the kernel has acknowledged.
    pub fn take_committed(&mut self) -> Option<Committed> {
        self.committed.take()
    }

    /// Takes what the kernel has acknowledged since the last call, as one change.
    pub fn take_acknowledged(&mut self) -> Option<Acknowledged> {
        self.acknowledged.take()
    }

    /// Takes what has changed since the last call.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Takes the flows to check, and the rules that the kernel has now.
    pub fn take_suspects(&mut self) -> Option<(Suspects, Rules)> {
        self.flows.take()
    }
}
