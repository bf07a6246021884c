//! The resources of a relay, saved for the next start.
//!
//! Their versions are hashes of their content, so that any relay can continue from them.

use std::collections::BTreeMap;

use im::OrdMap;
use jiff::Timestamp;
use rulec_compiler::name::NodeName;
use rulec_relay::{Standing, Topic};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::api::{Objects, by_key};
use crate::state::{Saver, StateDir};

/// The name of the state file.
const NAME: &str = "relay.state";

/// The version of this program. Another version may read fields that this one ignores: its objects
/// can stand in for the relay, but are asked for again.
const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// All resources of a relay.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Saved {
    pub(super) program: String,
    /// The node that they were sent to: another one gets others.
    pub(super) node: String,
    /// When all of it was last known to be current.
    pub(super) at: Timestamp,
    #[serde(with = "by_key")]
    pub(super) objects: Objects,
    #[serde(with = "by_url")]
    pub(super) versions: AllVersions,
    /// Where the relay stood, as it says it.
    #[serde(default)]
    pub(super) standing: String,
}

/// What is saved of a moment. It shares memory with what is held: a copy for each change would cost as
/// much as everything that there is.
pub(super) struct Whole {
    pub(super) objects: Objects,
    /// Those of the relay, if the objects are its.
    pub(super) versions: AllVersions,
    pub(super) standing: Standing,
}

/// The versions of the resources of a type, by name.
pub(super) type Versions = OrdMap<String, String>;

/// Those of all types, in their order.
pub(super) type AllVersions = [Versions; Topic::ALL.len()];

/// Serializes versions by the URLs of their types: another program may have others.
mod by_url {
    use serde::ser::{Serialize, Serializer};
    use serde::{Deserialize, Deserializer};

    use super::{AllVersions, BTreeMap, Topic, Versions};

    struct ByName<'a>(&'a Versions);

    impl Serialize for ByName<'_> {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.collect_map(self.0.iter())
        }
    }

    pub(super) fn serialize<S: Serializer>(all: &AllVersions, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(Topic::ALL.iter().zip(all).map(|(topic, it)| (topic.url(), ByName(it))))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<AllVersions, D::Error> {
        let mut all = BTreeMap::<String, BTreeMap<String, String>>::deserialize(from)?;
        let mut of = |topic: Topic| all.remove(topic.url()).unwrap_or_default();
        Ok(Topic::ALL.map(|topic| of(topic).into_iter().collect()))
    }
}

/// Saves the state of this run.
pub(super) struct Memory {
    saver: Option<Saver<Saved>>,
    node: String,
}

impl Memory {
    /// Reads the state of an earlier run. If it cannot be used, the start continues without it.
    pub(super) fn load(state: &StateDir, node: &NodeName) -> (Self, Option<Saved>) {
        let path = state.path().join(NAME);
        let path = path.display();
        let mut held = match state.load::<Saved>(NAME) {
            Ok(held) => held,
            Err(error) => {
                warn!("saved state ignored: {error}");
                None
            }
        };
        if let Some(other) = held.take_if(|held| held.node != node.as_str()) {
            warn!("saved state ignored: {path}: it is of the node {}, not {node}", other.node);
        }
        if let Some(held) = &mut held {
            info!(%path, objects = held.objects.len(), at = %held.at, "read the state of the relay");
            if held.program != PROGRAM {
                held.versions = AllVersions::default();
            }
        }
        let saver = match state.saver(NAME) {
            Ok(saver) => Some(saver),
            Err(error) => {
                warn!("no state is saved: {path}: {error}");
                None
            }
        };
        (Self { saver, node: node.to_string() }, held)
    }

    /// Saves the state.
    pub(super) fn remember(&self, whole: Whole) {
        let Some(saver) = &self.saver else { return };
        let Whole { objects, versions, standing } = whole;
        let (program, node) = (PROGRAM.to_owned(), self.node.clone());
        let standing = standing.to_string();
        saver.save(Saved { program, node, at: Timestamp::now(), objects, versions, standing });
    }
}
