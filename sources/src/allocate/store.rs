//! Keeps what is given out on disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::Change;
use rulec_compiler::frontend::PortKey;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::ledger::{Grant, Value};
use super::ranges::Ranges;
use super::stage::Stage;
use crate::problem::{Problem, Severity};
use crate::state::{StateDir, StateError};

/// The name of the state file.
pub(super) const NAME: &str = "allocations.state";

/// The shortest time between two looks for what can be taken back, which also try again what has
/// failed. A look is part of a look at the manifests, so that it may come later.
const PERIOD: Duration = Duration::from_secs(5);

/// Finds out what Service ports have now, if the state cannot be read.
pub type Recall = Box<dyn FnOnce() -> Vec<(Arc<PortKey>, Value)> + Send>;

/// Everything that is given out.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) given: Vec<Grant>,
}

/// The stage, and its state on disk.
#[derive(Debug)]
pub(crate) struct Allocation {
    stage: Stage,
    /// The directory of the state; `None` if there is none, or nothing is given out.
    state: Option<StateDir>,
    /// Whether what an earlier run has given out has been read. Until then nothing is written:
    /// that would destroy what could not be read.
    is_read: bool,
    /// Why the state cannot be used at the moment.
    trouble: Option<Problem>,
    /// Whether it was said that there is no state.
    has_told: bool,
    next_look: Instant,
}

impl Allocation {
    /// Gives out values of these ranges, or none, and takes over what is in the state; or, if that
    /// cannot be read, what is recalled.
    pub(crate) fn new(
        ranges: Option<Ranges>,
        state: Option<&StateDir>,
        recall: Option<Recall>,
    ) -> Self {
        let state = state.filter(|_| ranges.is_some()).cloned();
        let next_look = Instant::now() + PERIOD;
        let stage = Stage::new(ranges);
        let mut allocation =
            Self { stage, state, is_read: false, trouble: None, has_told: false, next_look };
        allocation.read();
        if let Some(recall) = recall.filter(|_| allocation.trouble.is_some()) {
            allocation.stage.recall(recall(), Timestamp::now());
        }
        allocation
    }

    /// Completes the objects of an update, and does what is due. What is given out is on disk when
    /// this returns.
    pub(crate) fn pass(&mut self, changes: Vec<Change>, is_whole: bool) -> Vec<Change> {
        self.look();
        let passed = self.stage.pass(changes, is_whole, Timestamp::now());
        for it in &passed.moves {
            warn!("{it}");
        }
        if passed.has_given {
            if self.state.is_none() && !std::mem::replace(&mut self.has_told, true) {
                info!(
                    "addresses are given out by name alone: there is no --state-dir to keep them"
                );
            }
            self.write();
        }
        passed.changes
    }

    /// Does what is due, if the last time was long enough ago: takes back values, and tries again to
    /// read and write. Returns whether the problems have changed.
    pub(crate) fn look(&mut self) -> bool {
        let now = Instant::now();
        if now < self.next_look {
            return false;
        }
        self.next_look = now + PERIOD;
        let before = self.trouble.clone();
        self.stage.expire(Timestamp::now());
        if !self.is_read {
            self.read();
        }
        if self.stage.is_changed() {
            self.write();
        }
        self.trouble != before
    }

    /// Returns the current problems.
    pub(crate) fn problems(&self) -> OrdSet<Problem> {
        let mut problems = self.stage.problems().clone();
        problems.extend(self.trouble.clone());
        problems
    }

    /// Makes the next look due, however long ago the last one was.
    #[cfg(test)]
    pub(super) fn make_due(&mut self) {
        self.next_look = Instant::now();
    }

    fn read(&mut self) {
        let Some(state) = &self.state else { return };
        match load(state) {
            Ok(grants) => {
                self.stage.adopt(grants, Timestamp::now());
                self.is_read = true;
                self.trouble = None;
            }
            Err(error) => {
                let message = format!(
                    "{error}; what the kernel holds stays, and what is given out is not saved, until \
                     it can be read or is removed"
                );
                self.trouble = Some(self.problem(message));
            }
        }
    }

    fn write(&mut self) {
        let Some(state) = self.state.as_ref().filter(|_| self.is_read) else { return };
        match state.write(NAME, &Saved { given: self.stage.grants() }) {
            Ok(()) => {
                self.stage.saved();
                self.trouble = None;
            }
            Err(error) => {
                let path = state.path().join(NAME);
                let message = format!(
                    "{}: cannot be written: {error}; what is given out now may be another address \
                     after a restart",
                    path.display()
                );
                self.trouble = Some(self.problem(message));
            }
        }
    }

    fn problem(&self, message: String) -> Problem {
        let path = self.state.as_ref().map_or(PathBuf::new(), |state| state.path().join(NAME));
        Problem::of_file(&path.display().to_string().into(), Severity::Error, message)
    }
}

pub(super) fn load(state: &StateDir) -> Result<Vec<Grant>, StateError> {
    Ok(state.load::<Saved>(NAME)?.map(|saved| saved.given).unwrap_or_default())
}
