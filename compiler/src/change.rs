//! What a source says: objects that changed, or the complete list of what it has.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::object::{Object, ObjectKey};

/// Where an object was read, for people: a path below the manifest directory. Not part of an
/// object's meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Provenance(pub Arc<str>);

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object together with the place it was read from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sourced {
    /// The object.
    pub object: Object,
    /// Where it was read.
    pub provenance: Provenance,
}

/// One message of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is new or means something else than before.
    Apply(Sourced),
    /// The object is gone.
    Remove(ObjectKey),
    /// This is everything the source has: what it does not name is gone. A first list, a relist and
    /// a rescan after lost events are all this, so that a deletion nobody saw cannot be missed.
    Replace(Vec<Sourced>),
}
