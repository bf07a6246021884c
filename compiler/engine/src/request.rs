//! Requests to the sink, and its replies.

use rulec_compiler::ipvs::Draining;
use rulec_compiler::{Delta, Program, State};

use crate::sink::{DeltaBase, Outcome, Sink, SinkError};

/// A request to the sink: one at a time, and at most one check beside it.
#[derive(Debug)]
pub enum Request {
    /// Adopt what an earlier process has left, and read it.
    Adopt,
    /// Read the kernel's content.
    Read,
    /// Commit a delta.
    Commit {
        /// The delta.
        delta: Delta,
        /// The base of the delta.
        base: DeltaBase,
    },
    /// Report which of these real servers have no connections.
    Idle(Vec<Draining>),
    /// Compare the kernel's content with this program, beside the other requests.
    Check(Box<Program>),
}

impl Request {
    /// Returns true if other requests do not wait for the reply.
    pub fn is_beside(&self) -> bool {
        matches!(self, Self::Check(_))
    }
}

/// The reply of the sink to a request.
#[derive(Debug)]
pub enum Reply {
    /// The kernel's content.
    State(Result<(State, DeltaBase), SinkError>),
    /// The outcome of a commit.
    Committed(Result<Outcome, SinkError>),
    /// The real servers that have no connections.
    Idle(Result<Vec<Draining>, SinkError>),
    /// The delta from the kernel's content to the program; see `Sink::check`.
    Checked(Result<Delta, SinkError>),
}

/// Has a sink handle one request.
pub fn answer(sink: &mut (impl Sink + ?Sized), request: Request) -> Reply {
    match request {
        Request::Adopt => Reply::State(sink.adopt()),
        Request::Read => Reply::State(sink.read()),
        Request::Commit { delta, base } => Reply::Committed(sink.commit(&delta, base)),
        Request::Idle(draining) => Reply::Idle(sink.idle(&draining)),
        Request::Check(program) => Reply::Checked(sink.check(&program)),
    }
}
