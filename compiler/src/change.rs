//! Messages of a source: objects that changed, or the complete list of its objects.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::object::{Kind, Object, ObjectKey};

/// A source of objects. If several sources have an object of the same kind and name, the first in
/// this order takes precedence: the kubelet and podman know the address and the state of a Pod whose
/// manifest only says what is to run, and manifests that an operator has put on the node are meant
/// for this node. (podman does not know the names of ports: those are the manifest's.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Origin {
    /// The kubelet of this node, which reports the Pods that it runs.
    Kubelet,
    /// podman, which reports the Pods and containers that it runs.
    Podman,
    /// Manifest files of this node.
    Manifests,
    /// The API server.
    Api,
    /// The kernel of this node, which reports the addresses of its interfaces.
    Kernel,
}

impl Origin {
    /// All sources, in order of precedence.
    pub const ALL: [Self; 5] =
        [Self::Kubelet, Self::Podman, Self::Manifests, Self::Api, Self::Kernel];
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kubelet => "kubelet",
            Self::Podman => "podman",
            Self::Manifests => "manifests",
            Self::Api => "API server",
            Self::Kernel => "kernel",
        })
    }
}

/// The place an object was read from, for people: a path below the manifest directory. It is not
/// part of an object's meaning.
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
    /// The place it was read from.
    pub provenance: Provenance,
}

/// One message of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The object is new, or its meaning has changed.
    Apply(Sourced),
    /// The object is gone.
    Remove(ObjectKey),
    /// The complete list of the source's objects of these kinds: an object that is not in it is
    /// gone. A first list, a relist and a rescan after lost events all arrive as this variant, so
    /// that a missed deletion event cannot leave a stale object behind.
    Replace {
        /// The kinds that are listed.
        kinds: &'static [Kind],
        /// All objects of these kinds. Objects of other kinds among them are treated as applied.
        objects: Vec<Sourced>,
    },
}

impl Change {
    /// Returns a change that lists everything the source has, of all kinds.
    pub fn everything(objects: Vec<Sourced>) -> Self {
        Self::Replace { kinds: &Kind::ALL, objects }
    }
}
