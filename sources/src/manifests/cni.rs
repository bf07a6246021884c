//! The cache of CNI plugins as the last resort for the addresses of Pods: where a manifest has none,
//! the container runtime has noted which address its network plugin gave to the Pod.
//!
//! ```text
//!  inotify ─▶ watch ─▶ cache ─▶ record          roots ─▶ union
//!  (a hint)   (when)   (files)  (one file)                 │
//!                        └────────addresses──────▶ fill ◀──┘
//! ```
//!
//! - `record` reads what a file says. `cache` knows all files of the directory.
//! - `watch` decides when to look, in a thread of its own.
//! - `manifests/fill` gives addresses to Pods on their way out.

mod cache;
mod record;
mod watch;

use std::path::PathBuf;

use rulec_compiler::Sourced;
use rulec_compiler::name::NodeName;

use super::fill::Fill;
use crate::problem::Problem;

use cache::Cache;
pub(super) use watch::CniSource;

/// Where the addresses of Pods are found if nothing else has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CniCache {
    /// The directory of the results of CNI plugins.
    pub directory: PathBuf,
    /// This node: the kubelet appends its name to that of a static Pod.
    pub node_name: NodeName,
}

impl CniCache {
    /// Gives addresses to Pods that were read once, as a daemon would. Returns the objects, and the
    /// problems in order of place.
    pub fn fill(&self, objects: Vec<Sourced>) -> (Vec<Sourced>, Vec<Problem>) {
        let found = CniSource::look(self);
        let mut fill = Fill::new(&self.node_name, found);
        let objects = objects.into_iter().map(|object| fill.take(object)).collect();
        (objects, fill.found().problems.iter().cloned().collect())
    }
}

/// Reads a file of the cache, for `fuzzing`.
#[cfg(feature = "fuzzing")]
pub(super) fn read_record(bytes: &[u8]) {
    let _ = record::read(bytes);
}
