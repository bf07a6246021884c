//! What a source says: objects that changed, or the complete list of what it has.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::object::{Kind, Object, ObjectKey};

/// A source of objects. When several have an object of the same kind and name, the first in this
/// order has the say: what an operator has written on the node is meant for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// Manifest files of this node.
    Manifests,
    /// The API server.
    Api,
    /// The kernel of this node: what addresses its interfaces have.
    Kernel,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manifests => "manifests",
            Self::Api => "API server",
            Self::Kernel => "kernel",
        })
    }
}

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
    /// Of these kinds, this is everything the source has: what it does not name is gone. A first list,
    /// a relist and a rescan after lost events are all this, so that a deletion nobody saw cannot be
    /// missed.
    Replace {
        /// The kinds that are listed.
        kinds: &'static [Kind],
        /// All objects of these kinds; those of other kinds among them count as applied.
        objects: Vec<Sourced>,
    },
}

impl Change {
    /// Everything the source has, of all kinds.
    pub fn everything(objects: Vec<Sourced>) -> Self {
        Self::Replace { kinds: &Kind::ALL, objects }
    }
}
