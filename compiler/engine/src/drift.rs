//! Drift: differences between what the kernel holds and what it has acknowledged.
//!
//! Another process may change our tables. This decides when to read the kernel to repair them: when
//! the watcher has seen such a change, when a check has found one, and when another part of the
//! engine has a reason.
//!
//! A process that undoes each repair would occupy a core together with the engine. So repairs that
//! do not last lead to pauses between reads. The pauses are short, and changes of the sources are
//! committed meanwhile, as if the kernel had been left alone.

use std::time::{Duration, Instant};

use crate::backoff::{Backoff, IMMEDIATE_RETRIES};
use crate::periods::Periods;
use crate::sink::Tampering;

/// The longest pause between repairs of tables that another process keeps changing: short, because
/// connections wait for the repair, but long enough not to occupy a core.
const MAX_REPAIR_PAUSE: Duration = Duration::from_millis(250);

/// A repair that lasts this long has succeeded.
const REPAIR_SUCCESS_TIME: Duration = Duration::from_secs(1);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Drift {
    backoff: Backoff,
    /// True if there is a reason to read.
    read_wanted: bool,
    /// No read before this time: the content was repaired just before.
    read_after: Option<Instant>,
    /// How many repairs in a row did not last.
    disputes: u32,
    /// The last change by another process that the watcher has seen since the last read.
    tampering: Option<Tampering>,
}

impl Drift {
    /// Creates a state in which there is no reason to read.
    pub(crate) fn new(periods: &Periods) -> Self {
        Self {
            backoff: Backoff::new(periods),
            read_wanted: false,
            read_after: None,
            disputes: 0,
            tampering: None,
        }
    }

    /// Notes that another process has changed our tables.
    pub(crate) fn tampered(&mut self, tampering: Tampering) {
        self.read_wanted = true;
        self.tampering = Some(tampering);
    }

    /// Asks for a read.
    pub(crate) fn want_read(&mut self) {
        self.read_wanted = true;
    }

    /// Returns true if there is a reason to read, even if the read is put off.
    pub(crate) fn is_read_wanted(&self) -> bool {
        self.read_wanted
    }

    /// Returns true if there is a reason to read, and the read is not put off.
    pub(crate) fn is_read_due(&self, now: Instant) -> bool {
        self.read_wanted && self.read_after.is_none_or(|at| now >= at)
    }

    /// Notes that the kernel is being read. What happens from now on is a reason for another read.
    pub(crate) fn read_begins(&mut self) {
        self.read_wanted = false;
    }

    /// Notes that the kernel has been read, and how many operations repair its content.
    pub(crate) fn compared(&mut self, operations: usize, now: Instant) {
        let culprit = self.tampering.take().and_then(|tampering| tampering.culprit);
        if operations == 0 {
            self.disputes = 0;
            self.read_after = None;
            return;
        }
        // A process that undoes each repair at once gets repairs less and less often.
        let is_disputed = self.read_after.is_some_and(|at| now < at + REPAIR_SUCCESS_TIME);
        self.disputes = if is_disputed { self.disputes + 1 } else { 0 };
        self.read_after = Some(now + self.pause());
        match culprit {
            Some(culprit) => tracing::warn!(
                operations,
                process = %culprit.name,
                pid = culprit.pid,
                "another process has changed our tables; repairing"
            ),
            None => tracing::warn!(operations, "our tables are not as we left them; repairing"),
        }
    }

    /// Returns the pause after a repair.
    fn pause(&self) -> Duration {
        let repeated = self.disputes.checked_sub(IMMEDIATE_RETRIES);
        let pause = repeated.map_or(Duration::ZERO, |n| self.backoff.pause(n + 1));
        pause.min(MAX_REPAIR_PAUSE)
    }

    /// Returns when a read that is put off becomes due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.read_after.filter(|_| self.read_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::started;

    fn drift() -> Drift {
        Drift::new(&Periods {
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            ..Periods::default()
        })
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// Returns the pauses after repairs, each found this long after the previous pause.
    fn pauses(drift: &mut Drift, lasting: Duration, repairs: usize) -> Vec<u128> {
        let mut now = started();
        let mut pauses = Vec::new();
        for _ in 0..repairs {
            drift.compared(1, now);
            drift.want_read();
            let due = drift.deadline().unwrap();
            pauses.push((due - now).as_millis());
            now = due + lasting;
            assert!(drift.is_read_due(now));
            drift.read_begins();
        }
        pauses
    }

    #[test]
    fn tampering_is_a_reason_to_read_at_once_and_once() {
        let start = started();
        let mut drift = drift();
        drift.compared(0, start);
        assert!(!drift.is_read_due(start));
        drift.tampered(Tampering { culprit: None });
        assert!(drift.is_read_wanted());
        assert!(drift.is_read_due(start));
        drift.read_begins();
        assert!(!drift.is_read_wanted());
        assert!(!drift.is_read_due(start));
    }

    #[test]
    fn tampering_during_a_read_is_a_reason_for_another() {
        let start = started();
        let mut drift = drift();
        drift.want_read();
        drift.read_begins();
        drift.tampered(Tampering { culprit: None });
        assert!(drift.is_read_due(start));
    }

    #[test]
    fn repairs_that_are_undone_become_rarer_up_to_a_limit() {
        let undone = pauses(&mut drift(), millis(1), 8);
        assert_eq!(undone, [0, 0, 0, 100, 200, 250, 250, 250]);
    }

    #[test]
    fn repairs_that_last_a_second_are_followed_by_no_pause() {
        assert_eq!(pauses(&mut drift(), REPAIR_SUCCESS_TIME, 8), [0; 8]);
    }

    #[test]
    fn a_read_without_drift_ends_a_dispute() {
        let mut drift = drift();
        assert_eq!(pauses(&mut drift, millis(1), 5), [0, 0, 0, 100, 200]);
        drift.compared(0, started());
        assert_eq!(pauses(&mut drift, millis(1), 4), [0, 0, 0, 100]);
    }

    #[test]
    fn a_read_that_is_put_off_stays_wanted() {
        let start = started();
        let mut drift = drift();
        pauses(&mut drift, millis(1), 8);
        drift.compared(1, start);
        drift.tampered(Tampering { culprit: None });
        assert!(!drift.is_read_due(start));
        assert!(drift.is_read_wanted());
        assert!(drift.is_read_due(drift.deadline().unwrap()));
    }
}
