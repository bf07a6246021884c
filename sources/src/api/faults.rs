//! The problems of objects of the server.

use std::collections::BTreeMap;

use rulec_compiler::object::ObjectKey;
use serde::{Deserialize, Serialize};

use crate::problem::Problem;

/// The most problems that are kept of objects without a readable name.
const MAX_NAMELESS: usize = 100;

/// The problems of objects, whether these are in use or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Faults {
    #[serde(with = "pairs")]
    named: BTreeMap<ObjectKey, Vec<Problem>>,
    /// Problems of objects whose names cannot be read.
    pub(super) nameless: Vec<Problem>,
}

/// Serializes a map as pairs, since JSON has only strings as keys.
mod pairs {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{BTreeMap, ObjectKey, Problem};

    type Named = BTreeMap<ObjectKey, Vec<Problem>>;

    pub(super) fn serialize<S: Serializer>(named: &Named, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(named)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Named, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

impl Faults {
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> + Clone {
        self.nameless.iter().chain(self.named.values().flatten())
    }

    /// Records the current problems of an object, if any. Returns the problems that were replaced,
    /// and those that were recorded.
    pub(super) fn add(
        &mut self,
        key: Option<ObjectKey>,
        problems: Vec<Problem>,
    ) -> [Vec<Problem>; 2] {
        match key {
            Some(key) if problems.is_empty() => {
                [self.named.remove(&key).unwrap_or_default(), problems]
            }
            Some(key) => [self.named.insert(key, problems.clone()).unwrap_or_default(), problems],
            None => {
                let room = MAX_NAMELESS.saturating_sub(self.nameless.len());
                let new: Vec<Problem> = problems.into_iter().take(room).collect();
                self.nameless.extend(new.iter().cloned());
                [Vec::new(), new]
            }
        }
    }
}
