//! Which files of a directory are manifests.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The names in a directory that may be manifests; what they are shows when they are read.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) names: BTreeSet<OsString>,
}

impl Listing {
    /// Lists a directory. An error half way is an error: half a list would look like removals.
    pub(super) fn of(directory: &Path) -> io::Result<Self> {
        let mut names = BTreeSet::new();
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_manifest(&name) && !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                names.insert(name);
            }
        }
        Ok(Self { names })
    }
}

/// Whether a file of this name is read: it is not hidden, and not what editors leave behind.
pub(crate) fn is_manifest(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let leftovers: [&[u8]; 4] = [b"~", b".swp", b".tmp", b".bak"];
    !name.starts_with(b".") && !leftovers.iter().any(|end| name.ends_with(end))
}
