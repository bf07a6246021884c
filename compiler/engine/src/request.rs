//! Requests to the sink, and its replies.

use rulec_compiler::ipvs::Draining;
use rulec_compiler::{Delta, State};

use crate::sink::{DeltaBase, Outcome, Sink, SinkError};

/// A request to the sink, one at a time.
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
}

/// Has a sink handle one request.
pub fn answer(sink: &mut (impl Sink + ?Sized), request: Request) -> Reply {
    match request {
        Request::Adopt => Reply::State(sink.adopt()),
        Request::Read => Reply::State(sink.read()),
        Request::Commit { delta, base } => Reply::Committed(sink.commit(&delta, base)),
        Request::Idle(draining) => Reply::Idle(sink.idle(&draining)),
    }
}
