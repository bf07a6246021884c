//! The names of manifests, and reading one file without blocking on it.

use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::fcntl::OFlag;

/// The largest file that is read, in bytes.
pub(crate) const LARGEST: u64 = 10 << 20;

/// Metadata of a file by which to tell, without reading it, that it was probably not written to.
///
/// Two writes of the same length within one tick of the clock have the same stamp. The hash of the
/// content decides; a stamp only saves reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Returns whether the file was modified less than `age` before a look began, or since then.
    ///
    /// A time further in the future than any look takes was set on purpose; such a file is not
    /// young.
    pub(crate) fn is_younger(&self, age: Duration, look: SystemTime) -> bool {
        const AHEAD: i128 = -10_000_000_000;
        let (seconds, nanos) = self.modified;
        let modified = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let nanos = |duration: Duration| i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX);
        let look = look.duration_since(SystemTime::UNIX_EPOCH).map_or(0, nanos);
        (AHEAD..nanos(age)).contains(&(look - modified))
    }
}

/// The result of reading a file.
#[derive(Debug)]
pub(crate) enum Content {
    /// Its bytes, with its stamps from before and after they were read.
    Bytes { bytes: Vec<u8>, before: Stamp, after: Stamp },
    /// There is no such file, or a dangling symbolic link.
    Missing,
    /// It is a directory.
    Directory,
    /// It is a pipe, a socket or a device; these are not read, since that could take forever.
    Special,
    /// It is larger than [`LARGEST`].
    TooLarge,
}

/// Reads a file. Symbolic links are followed.
///
/// # Errors
///
/// Those of the system, except that a missing file is [`Content::Missing`].
pub(crate) fn read(path: &Path) -> io::Result<Content> {
    // Opening a pipe waits for its other end unless `O_NONBLOCK` is set. The type is checked again
    // after opening, since the path may lead to another file by then.
    let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
    // Some devices act on being opened, so the type is checked before as well. Sockets cannot be
    // opened at all.
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => return Ok(Content::Directory),
        Ok(metadata) if !metadata.is_file() => return Ok(Content::Special),
        Ok(_) => {}
        Err(error) => return missing(error),
    }
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) => return missing(error),
    };
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Ok(Content::Directory);
    }
    if !metadata.is_file() {
        return Ok(Content::Special);
    }
    read_open(file, &metadata)
}

fn read_open(file: File, metadata: &Metadata) -> io::Result<Content> {
    let before = Stamp::of(metadata);
    if metadata.len() > LARGEST {
        return Ok(Content::TooLarge);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0) + 1);
    (&file).take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Ok(Content::TooLarge);
    }
    let after = Stamp::of(&file.metadata()?);
    Ok(Content::Bytes { bytes, before, after })
}

fn missing(error: io::Error) -> io::Result<Content> {
    match is_missing(&error) {
        true => Ok(Content::Missing),
        false => Err(error),
    }
}

/// Returns whether an error means that there is nothing at a path.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Returns whether a file of this name is read. Copies that are kept beside a manifest
/// (`web.yaml.orig`, `web.yaml.20261128`) are not to be served, and a list of endings to ignore
/// would never be complete.
pub(crate) fn is_manifest(name: &OsStr) -> bool {
    let extension = Path::new(name).extension();
    !name.as_bytes().starts_with(b".")
        && extension.is_some_and(|extension| {
            ["yaml", "yml", "json"].iter().any(|known| extension.eq_ignore_ascii_case(known))
        })
}
