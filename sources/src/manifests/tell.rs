//! Makes updates of what a root has found, and saves it for the next start.

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::{Change, Origin};
use tracing::debug;

use super::outlet::{Gone, Outlet};
use super::scan::{Left, Memory, Scan};
use crate::problem::Problem;
use crate::update::Update;

/// See the module's documentation.
pub(super) struct Teller {
    out: Outlet,
    memory: Option<Memory>,
    /// When the content that an earlier run has left was current, while it stands in.
    stale: Option<Timestamp>,
    first: bool,
    /// The number of files that were unread at the last look.
    unread: usize,
    /// Whether a complete list was sent.
    complete: bool,
}

impl Teller {
    pub(super) fn new(out: Outlet, memory: Option<Memory>) -> Self {
        Self { out, memory, stale: None, first: true, unread: 0, complete: false }
    }

    /// Takes what an earlier run has left.
    pub(super) fn left(&mut self) -> Option<Left> {
        let (left, at) = self.memory.as_mut()?.take()?;
        self.stale = Some(at);
        Some(left)
    }

    /// Tells what a look has found. `save` saves what was read.
    pub(super) fn tell(
        &mut self,
        scan: Scan,
        problems: OrdSet<Problem>,
        save: impl FnOnce(&Memory),
    ) -> Result<(), Gone> {
        let news = !scan.changes.is_empty()
            || scan.problems_changed
            || scan.suppressed > 0
            || scan.unread != self.unread;
        self.unread = scan.unread;
        if !scan.held {
            self.stale = None;
            self.memory.as_ref().map(save);
        }
        if !news && !self.first {
            return self.out.look();
        }
        self.first = false;
        let changes = scan.changes;
        let suppressed = scan.suppressed;
        debug!(changes = changes.len(), suppressed, "manifests changed");
        self.complete |= changes.iter().any(|change| matches!(change, Change::Replace { .. }));
        self.out.send(Update {
            origin: Origin::Manifests,
            changes,
            // Files have no annotation of what triggered them.
            triggers: Vec::new(),
            complete: self.complete,
            unread: scan.unread,
            unavailable: scan.held,
            stale: self.stale,
            positions: None,
            suppressed,
            problems,
        })
    }
}
