//! Reading manifests once, for tools.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rulec_compiler::{Change, Sourced};

use super::scan::{Manifests, Page, Shared};
use super::union::{Union, first};
use crate::error::SourceError;
use crate::problem::Problem;

/// The content of a directory or a file at one moment.
#[derive(Debug)]
pub struct Reading {
    /// The objects, in order of kind and name.
    pub objects: Vec<Sourced>,
    /// The problems, in order of place.
    pub problems: Vec<Problem>,
    /// Those of the problems that tell of what is not read: sub-directories, what is left to
    /// kustomize, values that are skipped. The rest is used, but something may be missing.
    pub unread: Vec<Problem>,
}

impl Reading {
    fn new(objects: Vec<Sourced>, problems: Vec<Problem>, mut unread: Vec<Problem>) -> Self {
        unread.extend(problems.iter().filter(|problem| problem.skips).cloned());
        Self { objects, problems, unread }
    }
}

/// Reads a directory of manifests, or a single one, in the same way as a
/// [`ManifestSource`](crate::ManifestSource) does at its start.
///
/// # Errors
///
/// [`SourceError::Unreadable`] if there is nothing at the path, it is neither a directory nor a
/// file, or it cannot be accessed. Problems of the files in a directory are in
/// [`Reading::problems`].
pub fn read(path: &Path) -> Result<Reading, SourceError> {
    one(Manifests::new(path.to_owned()), path)
}

fn one(manifests: Manifests, path: &Path) -> Result<Reading, SourceError> {
    let manifests = look(manifests, path)?;
    let problems = manifests.problems().iter().cloned();
    let problems = problems.chain(emptiness(&manifests, path)).collect();
    let objects = manifests.objects().cloned().collect();
    Ok(Reading::new(objects, problems, manifests.unread().to_vec()))
}

/// Reads a text that is not in a file. `name` stands for the file.
pub fn read_text(name: &str, bytes: &[u8]) -> Reading {
    let mut page = Page::new(name.into());
    let objects = page.receive(bytes).changes.into_iter().flat_map(|change| match change {
        Change::Replace { objects, .. } => objects,
        Change::Apply(sourced) => vec![sourced],
        Change::Remove(_) => Vec::new(),
    });
    Reading::new(objects.collect(), page.faults().cloned().collect(), Vec::new())
}

/// Reads several paths, in the same way as [`ManifestRoots`](crate::ManifestRoots).
///
/// # Errors
///
/// As for [`read`].
pub fn read_all(paths: &[PathBuf]) -> Result<Reading, SourceError> {
    read_sharing(paths, &Arc::default())
}

/// Reads several paths, and decodes no content that another reader has decoded.
///
/// # Errors
///
/// As for [`read`].
pub fn read_sharing(paths: &[PathBuf], shared: &Arc<Shared>) -> Result<Reading, SourceError> {
    if let [path] = paths {
        return one(Manifests::new(path.clone()).sharing(Arc::clone(shared)), path);
    }
    let mut union = Union::new(paths.len());
    let mut objects = Vec::new();
    let (mut unread, mut empty) = (Vec::new(), Vec::new());
    let roots: Arc<[PathBuf]> = paths.into();
    for (root, path) in paths.iter().enumerate() {
        let manifests = Manifests::new(path.clone()).named_in_full().among(roots.clone());
        let manifests = manifests.sharing(Arc::clone(shared));
        let manifests = look(manifests, path)?;
        empty.extend(emptiness(&manifests, path));
        unread.extend(manifests.unread().iter().cloned());
        let update = first(manifests.objects().cloned().collect(), manifests.problems().clone());
        for change in union.take(root, update).changes {
            if let Change::Replace { objects: all, .. } = change {
                objects = all;
            }
        }
    }
    let problems = union.status().problems.iter().cloned().chain(empty).collect();
    Ok(Reading::new(objects, problems, unread))
}

/// Returns what is wrong with a file in which nothing is read: who names it expects something of
/// it. In a directory, it is one among others.
fn emptiness(manifests: &Manifests, path: &Path) -> Option<Problem> {
    if path.is_file() { manifests.emptiness() } else { None }
}

fn look(mut manifests: Manifests, path: &Path) -> Result<Manifests, SourceError> {
    let unreadable = |source| SourceError::Unreadable { path: path.to_owned(), source };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        std::fs::read_dir(path).map_err(unreadable)?;
    } else if metadata.is_file() {
        std::fs::File::open(path).map_err(unreadable)?;
    } else {
        let reason = "it is neither a directory nor a regular file";
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    manifests.rescan(SystemTime::now());
    // It was there a moment ago.
    match manifests.obstacle() {
        Some(obstacle) => Err(unreadable(io::Error::other(obstacle.message.clone()))),
        None => Ok(manifests),
    }
}
