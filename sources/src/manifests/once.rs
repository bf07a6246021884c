//! Reading manifests once, for tools.

use std::path::Path;
use std::time::SystemTime;

use rulec_compiler::Sourced;

use super::scan::Manifests;
use crate::error::SourceError;
use crate::problem::Problem;

/// The content of a directory or a file at one moment.
#[derive(Debug)]
pub struct Reading {
    /// The objects, in order of kind and name.
    pub objects: Vec<Sourced>,
    /// The problems, in order of place.
    pub problems: Vec<Problem>,
}

/// Reads a directory of manifests, or a single one, in the same way as a
/// [`ManifestSource`](crate::ManifestSource) does at its start.
///
/// # Errors
///
/// [`SourceError::Unreadable`] if there is nothing at the path, or it cannot be accessed. Problems
/// of single files are in [`Reading::problems`].
pub fn read(path: &Path) -> Result<Reading, SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        std::fs::read_dir(path).map_err(unreadable)?;
    }
    let mut manifests = Manifests::new(path.to_owned());
    manifests.rescan(SystemTime::now());
    Ok(Reading {
        objects: manifests.objects().cloned().collect(),
        problems: manifests.problems().iter().cloned().collect(),
    })
}
