//! The last good content of each file, for the next start.
//!
//! With it, a file that is broken when the daemon starts still has a last good content, and so has
//! a directory that does not exist yet.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use im::OrdMap;
use jiff::Timestamp;
use rulec_compiler::object::Object;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tracing::{info, warn};

use crate::state::{Saver, StateDir};

/// The content of a file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct SavedFile {
    /// Its name in the directory.
    pub(super) name: String,
    /// The blake3 hash of its last good content, in hexadecimal digits.
    pub(super) hash: String,
    /// The objects in force.
    pub(super) objects: Vec<Object>,
}

/// All files by name. A copy is cheap, so that they can be saved while changes go on.
pub(super) type Files = OrdMap<String, Arc<SavedFile>>;

/// The content of a path.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::manifests) struct Saved {
    path: PathBuf,
    /// When it was last known to be current.
    at: Timestamp,
    #[serde(with = "in_a_row")]
    files: Files,
}

/// The state for the next start, and the state that an earlier run has left.
pub(crate) struct Memory {
    path: PathBuf,
    saver: Option<Saver<Saved>>,
    left: Option<Saved>,
}

impl Memory {
    /// Returns the name of the state file of a root of a kind.
    pub(crate) fn name(kind: &str, position: usize) -> String {
        match position {
            0 => format!("{kind}.state"),
            _ => format!("{kind}-{}.state", position + 1),
        }
    }

    /// Reads what an earlier run has left of a path. State that cannot be used is reported and
    /// ignored.
    pub(crate) fn load(state: &StateDir, name: &str, path: &Path) -> Self {
        let left = match state.load::<Saved>(name) {
            Ok(Some(saved)) if saved.path == path => Some(saved),
            Ok(Some(saved)) => {
                let (file, of) = (state.path().join(name), saved.path);
                info!(file = %file.display(), of = %of.display(), "ignored: state of another path");
                None
            }
            Ok(None) => None,
            Err(error) => {
                warn!("starting without the state of the last run: {error}");
                None
            }
        };
        let saver = state.saver(name);
        let saver = saver.inspect_err(|error| warn!(%error, "no state saved for the next start"));
        Self { path: path.to_owned(), saver: saver.ok(), left }
    }

    /// Takes what an earlier run has left, and when that was current. Returns it only once.
    pub(crate) fn take(&mut self) -> Option<(Left, Timestamp)> {
        self.left.take().map(|saved| (Left(saved.files), saved.at))
    }

    /// Saves the files: soon if they have changed, and otherwise at the end.
    pub(crate) fn save(&self, files: &Left, is_news: bool) {
        let Some(saver) = &self.saver else { return };
        let (path, at) = (self.path.clone(), Timestamp::now());
        let saved = Saved { path, at, files: files.0.clone() };
        if is_news { saver.save(saved) } else { saver.keep(saved) }
    }
}

/// Files as they were when they were last good.
#[derive(Clone, Debug, Default)]
pub(crate) struct Left(pub(super) Files);

/// Serializes the files as a list, since their keys are in them.
mod in_a_row {
    use super::{Arc, Deserialize, Deserializer, Files, SavedFile, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        files: &Files,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(files.values().map(|file| Borrowed(file)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Files, D::Error> {
        let files = Vec::<SavedFile>::deserialize(deserializer)?;
        Ok(files.into_iter().map(|file| (file.name.clone(), Arc::new(file))).collect())
    }

    struct Borrowed<'a>(&'a SavedFile);

    impl Serialize for Borrowed<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.0.serialize(serializer)
        }
    }
}
