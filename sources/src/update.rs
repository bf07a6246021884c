//! What every source sends.

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::net::Family;
use rulec_compiler::{Change, Origin};

use crate::problem::Problem;

/// One message of a source.
#[derive(Debug)]
pub struct Update {
    /// Which source it is.
    pub origin: Origin,
    /// What changed. The first change of a kind is a `Replace`; until then the source has not delivered
    /// it. It may be empty.
    pub changes: Vec<Change>,
    /// What set off those of EndpointSlices, where that was noted. To measure with: it is no part of
    /// what the objects mean.
    pub triggers: Vec<Trigger>,
    /// Whether the source has by now delivered the first complete list of everything it must deliver.
    /// An empty source has, once it knows that it is empty.
    pub complete: bool,
    /// How many files could not be read for the first list and have no last good content either. What
    /// the kernel holds and no source names may be theirs, so it stays until this is 0.
    pub unread: usize,
    /// Whether the source could not be looked at, so that all it has told stays as it was.
    pub unavailable: bool,
    /// When what was told was last known to be true, if it is an earlier run's state that stands in for a
    /// source which cannot speak yet.
    pub stale: Option<Timestamp>,
    /// The number of objects that were written to without changing what they mean.
    pub suppressed: u64,
    /// Everything that is wrong with the source's objects at the moment, in order of place. What it shares
    /// with the update before costs nothing.
    pub problems: OrdSet<Problem>,
}

/// What set off a change of an EndpointSlice: the change of a Pod or Service, as the endpoints controller
/// noted it (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The family of the slice.
    pub family: Family,
    /// When it happened, by the clock of whoever noted it.
    pub at: Timestamp,
}
