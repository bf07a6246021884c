//! The engine: owns the model, decides what to request from the kernel, and never waits.
//!
//! It is a state machine without I/O or a clock of its own: each event comes with its time, and at
//! most one request to the sink is pending. Events that arrive meanwhile form the next batch, so
//! that a change is committed at once when the sink is idle, and coalesced when it is busy. Only
//! checks of the kernel's content run beside the other requests.
//!
//! `applied` is what the kernel has acknowledged, `wanted` is what the sources say, and the delta
//! always leads from one to the other. So a failed commit loses nothing: the kernel is read back,
//! and the next delta starts from what it holds. Start, recovery and drift take that same path.
//!
//! [`Engine`] consists of smaller state machines, one for each decision. Each timer and each memory
//! belongs to one of them: `recovery` (pauses after failures), `checks` (periodic comparisons with
//! the kernel), `drift` (reads and repairs),
//! `quarantine` (retries of refused Services), `idle` and `draining` (removal of what is no longer
//! used), `backlog` and `delays` (how far the kernel is behind), and `flows` (flows to check).

mod acknowledged;
mod applied;
mod backlog;
mod backoff;
mod checks;
mod clock;
mod committed;
mod counts;
mod delays;
mod draining;
mod drift;
mod elsewhere;
mod engine;
mod event;
pub mod fake;
mod flows;
mod idle;
mod locals;
mod periods;
mod quarantine;
mod recovery;
mod reports;
mod request;
pub mod sink;
#[cfg(test)]
mod tests;
mod touched;
mod wanted;

pub use acknowledged::{Acknowledged, Base, Cost, Verdicts};
pub use clock::Clock;
pub use committed::Committed;
pub use counts::Counts;
pub use engine::Engine;
pub use event::Event;
pub use locals::Locals;
pub use periods::Periods;
pub use recovery::Failure;
pub use request::{Reply, Request, answer};
pub use sink::{Culprit, DeltaBase, Outcome, Owner, Refusal, Sink, SinkError, Tampering};
pub use touched::Touched;
