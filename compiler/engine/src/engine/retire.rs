//! Removal of classes of session affinity and real servers that are no longer used.

use std::time::Instant;

use rulec_compiler::Program;
use rulec_compiler::ipvs::Draining;

use super::{Busy, Engine};
use crate::request::Request;
use crate::sink::SinkError;

impl Engine {
    /// Removes from the wanted program the classes of session affinity and the real servers that are
    /// no longer used.
    pub(super) fn retire_unused(&mut self, mut wanted: Program, now: Instant) -> Program {
        // What a refused Service has in the kernel may still use a class.
        if self.quarantine.is_empty() {
            for class in self.idle_affinities.take_due(now) {
                wanted.retire(class);
            }
        }
        for real in self.draining.take_gone(wanted.draining(), now) {
            wanted.retire_real(real);
        }
        self.wanted.replace(wanted.clone());
        wanted
    }

    /// Asks which draining real servers have no connections, if it is time for that.
    pub(super) fn count(&mut self, now: Instant) -> Option<Request> {
        let applied = self.applied.program()?;
        if !self.draining.begin_count(now) {
            return None;
        }
        self.busy = Some(Busy::Counting);
        Some(Request::Idle(applied.draining().map(|(real, _)| real).collect()))
    }

    /// Takes in the real servers that have no connections.
    pub(super) fn counted(&mut self, result: Result<Vec<Draining>, SinkError>) {
        self.busy = None;
        match result {
            Ok(idle) => self.draining.counted(idle),
            // They are removed when their time is over.
            Err(error) => tracing::warn!(%error, "cannot count the connections of real servers"),
        }
    }
}
