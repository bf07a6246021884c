//! Which files of a directory are manifests.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::manifests::file::is_manifest;

/// The names in a directory: those that are read, and others.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Files that may be manifests; their type is checked when they are read.
    pub(super) names: BTreeSet<OsString>,
    /// Other files that a user may take for manifests.
    pub(super) left_out: BTreeSet<OsString>,
}

impl Listing {
    /// Lists a directory. An error half way fails the listing: half a list would look like
    /// removals.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let mut listing = Self::default();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            if is_manifest(&name) {
                listing.names.insert(name);
            } else if !is_passing(&name) {
                listing.left_out.insert(name);
            }
        }
        Ok(listing)
    }

    /// Returns the message about the files that are left out, which names a few of them.
    pub(super) fn what_is_left_out(&self) -> Option<String> {
        const NAMED: usize = 5;
        if self.left_out.is_empty() {
            return None;
        }
        let names = self.left_out.iter().take(NAMED).map(|name| name.to_string_lossy());
        let mut message = format!(
            "not read, since their names do not end in .yaml, .yml or .json: {}",
            names.collect::<Vec<_>>().join(", ")
        );
        match self.left_out.len().saturating_sub(NAMED) {
            0 => {}
            more => message += &format!(" and {more} more"),
        }
        Some(message)
    }
}

/// Returns whether it is hidden, or a temporary file of an editor: a user does not take it for a
/// manifest.
fn is_passing(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let endings: [&[u8]; 3] = [b"~", b".swp", b".tmp"];
    let is_auto_saved = name.starts_with(b"#") && name.ends_with(b"#");
    name.starts_with(b".") || is_auto_saved || endings.iter().any(|end| name.ends_with(end))
}
