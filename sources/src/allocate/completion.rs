//! Gives out what is needed to sets of objects that are only looked at.

use std::sync::Arc;

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::{Change, Sourced};

use super::ledger::Value;
use super::ranges::Ranges;
use super::sides::{Sides, services};
use super::stage::{Stage, written};
use super::store::{NAME, load};
use crate::problem::{Problem, Severity};
use crate::state::StateDir;

/// Completes one set of objects after the other: the sides of a comparison. A Service that is in
/// several has the same in each, and none has what another one has on another side. Nothing is
/// written.
#[derive(Debug)]
pub struct Completion {
    stage: Stage,
    sides: Sides,
    /// Why the state of the daemon cannot be used, until that was told.
    trouble: Option<Problem>,
}

impl Completion {
    /// Gives out values of these ranges, and what a daemon with this state has given out.
    pub fn new(ranges: Ranges, state: Option<&StateDir>) -> Self {
        let mut stage = Stage::new(Some(ranges));
        let mut trouble = None;
        if let Some(state) = state {
            match load(state) {
                Ok(grants) => stage.adopt(grants, Timestamp::now()),
                Err(error) => {
                    let path = state.path().join(NAME).display().to_string().into();
                    let message =
                        format!("{error}; the addresses shown are given out by name alone");
                    trouble = Some(Problem::of_file(&path, Severity::Warning, message));
                }
            }
        }
        Self { stage, sides: Sides::default(), trouble }
    }

    /// Takes over what Service ports have elsewhere, as far as it can have been given out.
    pub fn recall(&mut self, held: Vec<(Arc<PortKey>, Value)>) {
        self.stage.recall(held, Timestamp::now());
    }

    /// Notes what a set of objects writes, before any is completed. A daemon learns of a new address
    /// only when a file changes, and then moves whoever has it. Here nobody has anything yet.
    pub fn note(&mut self, objects: &[Sourced]) {
        self.stage.reserve(services(objects).flat_map(written));
        self.sides.note(objects);
    }

    /// Completes a set of objects. Returns them, and the problems in order of place.
    pub fn complete(&mut self, mut objects: Vec<Sourced>) -> (Vec<Sourced>, Vec<Problem>) {
        self.sides.fill(&mut objects);
        let whole = vec![Change::everything(objects)];
        let passed = self.stage.pass(whole, false, Timestamp::now());
        let objects = passed.changes.into_iter().flat_map(|change| match change {
            Change::Replace { objects, .. } => objects,
            // A change of everything names all that it affects.
            Change::Apply(_) | Change::Remove(_) => Vec::new(),
        });
        let objects: Vec<Sourced> = objects.collect();
        self.stage.reserve(services(&objects).flat_map(written));
        // Without anything to give out, the state does not matter.
        let trouble = self.trouble.take_if(|_| !self.stage.grants().is_empty());
        let problems = self.stage.problems().iter().cloned().chain(trouble);
        (objects, problems.collect::<OrdSet<_>>().into_iter().collect())
    }
}
