//! Which files of a directory are manifests.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::manifests::file::is_manifest;

/// The names in a directory: those that are read, and others.
#[derive(Debug, Default)]
pub(in crate::manifests) struct Listing {
    /// Files that may be manifests; their type is checked when they are read.
    pub(in crate::manifests) names: BTreeSet<OsString>,
    /// Other files that a user may take for manifests.
    pub(in crate::manifests) left_out: BTreeSet<OsString>,
    /// Sub-directories, which may hold manifests.
    pub(in crate::manifests) directories: BTreeSet<OsString>,
    /// Links that lead nowhere, and so may be sub-directories, and why.
    pub(in crate::manifests) astray: BTreeMap<OsString, String>,
    /// What tells kustomize how to make the manifests of these and other files.
    pub(in crate::manifests) kustomizations: BTreeSet<OsString>,
}

impl Listing {
    /// Lists a directory. An error half way fails the listing: half a list would look like
    /// removals.
    pub(in crate::manifests) fn of(directory: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_directory = match entry.file_type() {
                Ok(kind) if !kind.is_symlink() => Ok(kind.is_dir()),
                _ => std::fs::metadata(entry.path()).map(|metadata| metadata.is_dir()),
            };
            if matches!(is_directory, Ok(true)) {
                if !is_internal(&name) {
                    listing.directories.insert(name);
                }
            } else if is_kustomization(&name) {
                listing.kustomizations.insert(name);
            } else if is_manifest(&name) {
                listing.names.insert(name);
            } else if is_passing(&name) {
                // Also a link: the locks of some editors lead nowhere.
            } else if let Err(error) = is_directory {
                listing.astray.insert(name, error.to_string());
            } else {
                listing.left_out.insert(name);
            }
        }
        Ok(listing)
    }

    /// Returns the messages about what stands for manifests that are not read.
    pub(super) fn what_is_unread(&self) -> impl Iterator<Item = String> {
        let directories = listed(&self.directories)
            .map(|names| format!("sub-directories are not read: {names}; name them, too"));
        let kustomizations = self.kustomizations.iter().map(|name| {
            let name = name.to_string_lossy();
            format!("{name} is not applied: name a file with the output of kustomize build")
        });
        let astray = self.astray.iter().map(|(name, error)| {
            format!("{} cannot be followed: {error}; it may be a directory", name.display())
        });
        directories.into_iter().chain(kustomizations).chain(astray)
    }

    /// Returns the message about the files that are left out, which names a few of them.
    pub(in crate::manifests) fn what_is_left_out(&self) -> Option<String> {
        let names = listed(&self.left_out)?;
        Some(format!("not read, since their names do not end in .yaml, .yml or .json: {names}"))
    }
}

/// Lists a few names; `None` if there are none.
fn listed(names: &BTreeSet<OsString>) -> Option<String> {
    const NAMED: usize = 5;
    let first: Vec<_> = names.iter().take(NAMED).map(|name| name.to_string_lossy()).collect();
    match names.len().checked_sub(NAMED) {
        _ if first.is_empty() => None,
        None | Some(0) => Some(first.join(", ")),
        Some(more) => Some(format!("{} and {more} more", first.join(", "))),
    }
}

/// Returns whether a directory of this name has no manifests of its own: that of Git, and those of
/// mounted ConfigMaps, to which links lead.
fn is_internal(name: &OsStr) -> bool {
    name == ".git" || name.as_bytes().starts_with(b"..")
}

/// Returns whether a file of this name tells kustomize what to make of other files.
pub(super) fn is_kustomization(name: &OsStr) -> bool {
    ["kustomization.yaml", "kustomization.yml", "Kustomization"].iter().any(|it| name == *it)
}

/// Returns whether a file is hidden, or a temporary one of an editor: a user does not take it for a
/// manifest.
fn is_passing(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let endings: [&[u8]; 3] = [b"~", b".swp", b".tmp"];
    let is_auto_saved = name.starts_with(b"#") && name.ends_with(b"#");
    name.starts_with(b".") || is_auto_saved || endings.iter().any(|end| name.ends_with(end))
}
