//! How full the maps are that packets write: the kernel is asked at a scrape, but never for long.

use std::io;
use std::time::{Duration, Instant};

use rulec_sinks::nft::records::{Maps, Records};

use super::own::Own;

/// How much longer than a look the pause after it lasts: looks take at most one per cent of the
/// time, also where the kernel lists all records to count them.
const PAUSE: u32 = 99;

/// When to look again, and whether the last look has failed.
#[derive(Debug, Default)]
pub(super) struct RecordsLook {
    not_before: Option<Instant>,
    has_failed: bool,
}

impl RecordsLook {
    /// Sets the metrics, unless the last look was too recent.
    pub(super) fn look(&mut self, own: &Own) {
        let started = Instant::now();
        if self.not_before.is_some_and(|due| started < due) {
            return;
        }
        // The socket is for one look: scrapes are seldom, and not always on the same thread.
        let read = Records::open().and_then(|mut records| records.read());
        own.records(self.tell(&read).unwrap_or(&Maps::new()));
        self.not_before = Some(Self::next(started, started.elapsed()));
    }

    /// Returns when the next look may begin.
    fn next(started: Instant, took: Duration) -> Instant {
        started + took.saturating_mul(1 + PAUSE)
    }

    /// Logs the first of several failures, and returns what was read.
    fn tell<'a>(&mut self, read: &'a io::Result<Maps>) -> Option<&'a Maps> {
        let failed_before = std::mem::replace(&mut self.has_failed, read.is_err());
        match read {
            Ok(maps) => Some(maps),
            Err(error) => {
                if !failed_before {
                    tracing::warn!(%error, "cannot count affinity records; metrics lack them");
                }
                None
            }
        }
    }
}
