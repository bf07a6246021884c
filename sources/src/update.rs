//! The message that all sources send.

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::net::Family;
use rulec_compiler::{Change, Origin};
use rulec_relay::{Position, Topic};

use crate::problem::Problem;

/// One message of a source.
#[derive(Debug)]
pub struct Update {
    /// Which source it is.
    pub origin: Origin,
    /// The changes. There may be none. The first change of a kind is a `Replace`; until then the
    /// source has not delivered that kind.
    pub changes: Vec<Change>,
    /// The triggers of the changes of EndpointSlices, where noted. They are for measuring only, and
    /// no part of what the objects mean.
    pub triggers: Vec<Trigger>,
    /// Whether the source has delivered the first complete list of everything it must deliver. This
    /// holds for an empty source too, once it knows that it is empty.
    pub complete: bool,
    /// The number of files that could not be read for the first list and have no last good content
    /// either. Kernel content that no source names may belong to them, so it stays until this is 0.
    pub unread: usize,
    /// Whether the source is unavailable, so that everything it has delivered stays as it was.
    pub unavailable: bool,
    /// When the delivered content was last known to be current, if it comes from the state of an
    /// earlier run because the source has not answered yet.
    pub stale: Option<Timestamp>,
    /// How much of the API server's changes this and the updates before have, if it can be told.
    pub positions: Option<Positions>,
    /// The number of objects that were written to without a change of meaning.
    pub suppressed: u64,
    /// All current problems of the source's objects, in order of place. It shares memory with the
    /// update before.
    pub problems: OrdSet<Problem>,
}

/// How much of the API server's changes a source has delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The versions up to which all changes are known. They advance without changes, too.
    pub seen: Position,
    /// Those of the last change or list: what is not behind them has everything.
    pub changed: Position,
    /// The types that could not be read, so that nothing is known of their objects.
    pub unread: [bool; Topic::ALL.len()],
}

/// The trigger of a change of an EndpointSlice: the change of a Pod or Service, as noted by the
/// endpoints controller (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The family of the slice.
    pub family: Family,
    /// When it happened, by the clock of the controller.
    pub at: Timestamp,
}
