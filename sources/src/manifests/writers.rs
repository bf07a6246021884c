//! Which files are being written to.
//!
//! A file that is truncated and then written over seconds is well-formed long before it is
//! complete: objects that it lacks until then must not be taken for removed. A file itself does not
//! show that more is to come, but inotify does: writes are reported as modifications (so is the
//! truncation by `open`), and the last event is `IN_CLOSE_WRITE` (inotify(7)). A file is not read
//! in between.
//!
//! A read lease (`F_SETLEASE`) would tell the same for any file at any time, also for a writer that
//! opened the file before we watched it. But there is no maintained safe wrapper; and a lease that
//! is broken while it is held, however briefly, makes the writer wait, fails a writer that opens
//! with `O_NONBLOCK`, and sends a SIGIO, which ends a process that has not prepared for it.
//!
//! A writer that is not known here means no protection; a writer that is known wrongly delays
//! reading by [`MAX_WRITE_TIME`]. Writers that opened the file before the watch began and those on
//! other machines are not reported; `truncate(2)` and a close that got lost in an overflow have no
//! end; and of two writers, the first that closes ends the wait.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};

use super::file::is_manifest;

/// How long a file that is being written to is left alone. It is then read as it is: some writers
/// never close the file, and it must not be ignored for ever.
pub(crate) const MAX_WRITE_TIME: Duration = Duration::from_secs(60);

/// The most names that are remembered; files beyond it are not protected.
const MAX_NAMES: usize = 4096;

/// Files that were modified and not closed or replaced since.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    files: Mutex<BTreeMap<OsString, Writing>>,
}

#[derive(Clone, Copy, Debug)]
enum Writing {
    Since(Instant),
    /// It was written to for too long. It stays so until the file is closed, so that a writer that
    /// never closes the file is not waited for again after every write.
    TooLong,
}

impl Writers {
    /// Returns whether a file is known to be written to, and its writer is still waited for.
    pub(crate) fn has(&self, name: &OsStr) -> bool {
        matches!(self.lock().get(name), Some(Writing::Since(_)))
    }

    /// Updates the writers from an event in the directory `root`, or of the file `root`.
    pub(crate) fn learn(&self, root: &Path, event: &Event, now: Instant) {
        let begins = match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => true,
            // The name now belongs to another file, or to none.
            EventKind::Access(AccessKind::Close(AccessMode::Write))
            | EventKind::Modify(ModifyKind::Name(_))
            | EventKind::Create(_)
            | EventKind::Remove(_) => false,
            EventKind::Any | EventKind::Access(_) | EventKind::Modify(_) | EventKind::Other => {
                return;
            }
        };
        for path in &event.paths {
            let Some(name) = path.file_name() else { continue };
            if begins && (path == root || (path.parent() == Some(root) && is_manifest(name))) {
                self.begin(name, now);
            } else if path == root {
                // A single file was closed, or the whole directory was replaced.
                self.lock().clear();
            } else if path.parent() == Some(root) {
                self.lock().remove(name);
            }
        }
    }

    /// Notes that a file was modified, unless that is known already.
    pub(crate) fn begin(&self, name: &OsStr, now: Instant) {
        let mut files = self.lock();
        if files.len() < MAX_NAMES && !files.contains_key(name) {
            files.insert(name.to_owned(), Writing::Since(now));
        }
    }

    /// Stops waiting for the writers that have taken too long, and returns the names of their
    /// files.
    pub(crate) fn give_up(&self, now: Instant) -> Vec<OsString> {
        let mut given_up = Vec::new();
        for (name, writing) in self.lock().iter_mut() {
            if writing.ends().is_some_and(|end| end <= now) {
                *writing = Writing::TooLong;
                given_up.push(name.clone());
            }
        }
        given_up
    }

    /// Returns when to stop waiting for the next writer.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.lock().values().filter_map(|writing| writing.ends()).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OsString, Writing>> {
        // The value behind the lock is valid at any moment, so a panic elsewhere does not matter.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    /// Returns when to stop waiting for it.
    fn ends(self) -> Option<Instant> {
        match self {
            Self::Since(since) => Some(since + MAX_WRITE_TIME),
            Self::TooLong => None,
        }
    }
}
