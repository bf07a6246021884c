//! Which files are being written to.
//!
//! A file that is truncated and then written over seconds is well-formed long before it is whole:
//! what it lacks until then must not be taken for removed. Nothing in a file says whether more is to
//! come, but inotify does: whoever writes is told of as a modification (the truncation by `open`
//! is one) and ends with `IN_CLOSE_WRITE` (inotify(7)). In between a file is not believed.
//!
//! A read lease (`F_SETLEASE`) would say the same of any file at any time, also of one whose writer
//! was there before us. But no safe wrapper of it is kept by anyone; and a lease that is broken while
//! it is held, however shortly, makes a writer wait, fails one that opens with `O_NONBLOCK`, and sends
//! a SIGIO, which ends a process that did not prepare for it.
//!
//! What is not known here costs protection, and what is wrongly known costs [`LONGEST`]: writers
//! from before the watch was made and those of other machines are not told of; `truncate(2)` and a close
//! that got lost in an overflow have no end; and of two writers, the first that closes counts.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};

use crate::scan::is_manifest;

/// How long a file that is being written to is left alone. Then it is read as it is: some writers
/// never close, and nothing must stay as it was for ever.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// More names than are worth protecting.
const MOST_NAMES: usize = 4096;

/// Files that were modified and not closed or replaced since.
#[derive(Debug, Default)]
pub(crate) struct Writers {
    files: Mutex<BTreeMap<OsString, Writing>>,
}

#[derive(Clone, Copy, Debug)]
enum Writing {
    Since(Instant),
    /// For too long. It stays so until the file is closed: whoever never closes is not waited for
    /// with every write anew.
    TooLong,
}

impl Writers {
    /// Whether somebody is known to be writing to a file, who may still be waited for.
    pub(crate) fn has(&self, name: &OsStr) -> bool {
        matches!(self.lock().get(name), Some(Writing::Since(_)))
    }

    /// Learns from an event in the directory `root`, or of the file `root`.
    pub(crate) fn learn(&self, root: &Path, event: &Event, now: Instant) {
        let begins = match event.kind {
            EventKind::Modify(ModifyKind::Data(_)) => true,
            // Whatever has the name now is another file, or none.
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
                // A single file is closed, or all of a directory is another one.
                self.lock().clear();
            } else if path.parent() == Some(root) {
                self.lock().remove(name);
            }
        }
    }

    /// Notes that a file was modified, unless that is known.
    pub(crate) fn begin(&self, name: &OsStr, now: Instant) {
        let mut files = self.lock();
        if files.len() < MOST_NAMES && !files.contains_key(name) {
            files.insert(name.to_owned(), Writing::Since(now));
        }
    }

    /// Gives up on the writers that were waited for long enough, and names their files.
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

    /// When to give up on the next writer.
    pub(crate) fn next_end(&self) -> Option<Instant> {
        self.lock().values().filter_map(|writing| writing.ends()).min()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<OsString, Writing>> {
        // What is behind the lock is valid at any moment, so a panic elsewhere does not matter.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writing {
    /// When it is to be given up.
    fn ends(self) -> Option<Instant> {
        match self {
            Self::Since(since) => Some(since + LONGEST),
            Self::TooLong => None,
        }
    }
}
