//! The input of the engine.

use std::time::Instant;

use rulec_compiler::change::{Change, Origin};
use rulec_compiler::net::Family;

use crate::request::Reply;
use crate::sink::Tampering;

/// Everything that can wake the engine, except the passing of time.
#[derive(Debug)]
pub enum Event {
    /// Changes from a source; with them, for changes of EndpointSlices, the times of the events
    /// that triggered them and the families of the slices.
    Changes(Origin, Vec<Change>, Vec<(Family, Instant)>),
    /// Every source has delivered its first complete list: from now on, objects that no source
    /// names may be removed.
    SourcesReady,
    /// How many files could not be read. At the start, content of the kernel that no source names
    /// stays until there are none.
    Unread(usize),
    /// The sink has handled a request.
    Reply(Reply),
    /// Another process has changed our tables.
    Tampered(Tampering),
}
