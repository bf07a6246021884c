//! Recovery from failures of the sink.
//!
//! After a failure it is unknown what the kernel holds. There is one way on: to read the kernel,
//! and to continue from there. The read adopts tables, because they may have been created anew
//! meanwhile. The first read of a process is no different: it continues from what an earlier
//! process has left.
//!
//! Repeated failures lead to longer and longer pauses. During a pause nothing is requested.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backoff::{Backoff, IMMEDIATE_RETRIES};
use crate::request::Request;
use crate::sink::{DeltaBase, SinkError};

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Recovery {
    backoff: Backoff,
    /// The number of failures since the last success.
    failures: u32,
    /// The end of the pause.
    not_before: Option<Instant>,
    /// True if the next read adopts tables.
    adopt: bool,
    /// The last failure, also after the kernel was programmed again.
    last: Option<Failure>,
}

/// A time when the kernel could not be read or programmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was.
    pub at: Instant,
    /// What went wrong.
    pub error: Arc<str>,
    /// Whether the kernel has not been programmed since.
    pub lasts: bool,
}

impl Recovery {
    /// Creates the state of a start: without failures, and with tables to adopt.
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { backoff, failures: 0, not_before: None, adopt: true, last: None }
    }

    /// Notes a failure, and begins a pause.
    pub(crate) fn failed(&mut self, error: &SinkError, now: Instant) {
        self.adopt = true;
        self.failures += 1;
        let pause = match error {
            // The engine's belief was wrong, not the kernel: it is read at once, unless this keeps
            // happening.
            SinkError::Stale | SinkError::Unknown(_) if self.failures <= IMMEDIATE_RETRIES => {
                Duration::ZERO
            }
            SinkError::Stale
            | SinkError::Unknown(_)
            | SinkError::Refused(_)
            | SinkError::Owned { .. }
            | SinkError::Unavailable(_) => self.backoff.pause(self.failures),
        };
        self.not_before = Some(now + pause);
        let source = error.source().map(ToString::to_string);
        let cause = source.as_ref().map(|source| format!(": {source}")).unwrap_or_default();
        self.last = Some(Failure { at: now, error: format!("{error}{cause}").into(), lasts: true });
        match error {
            SinkError::Stale | SinkError::Unknown(_) => {
                tracing::warn!(%error, source, retry_in = ?pause, "reading the kernel back");
            }
            SinkError::Refused(_) | SinkError::Owned { .. } | SinkError::Unavailable(_) => {
                tracing::error!(%error, source, retry_in = ?pause, "cannot program the kernel");
            }
        }
    }

    /// Notes that the kernel holds the wanted program.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
        if let Some(last) = &mut self.last {
            last.lasts = false;
        }
    }

    /// Returns the last failure, if there was any.
    pub(crate) fn last(&self) -> Option<&Failure> {
        self.last.as_ref()
    }

    /// Notes that the engine continues from what was read.
    pub(crate) fn adopted(&mut self) {
        self.adopt = false;
    }

    /// Ends a pause whose time is over. Returns false during a pause.
    pub(crate) fn may_request(&mut self, now: Instant) -> bool {
        self.not_before = self.not_before.filter(|at| now < *at);
        self.not_before.is_none()
    }

    /// Returns the request that reads the kernel.
    pub(crate) fn read(&self) -> Request {
        if self.adopt { Request::Adopt } else { Request::Read }
    }

    /// Returns the base of a delta that is computed from what was read. If others commit all the
    /// time, waiting for a generation that lasts would never end, so after some failures the
    /// generation does not matter any more.
    pub(crate) fn base(&self, read: DeltaBase) -> DeltaBase {
        match read {
            DeltaBase::Read { .. } if self.failures >= IMMEDIATE_RETRIES => {
                DeltaBase::Read { generation: None }
            }
            DeltaBase::Read { .. } | DeltaBase::Believed => read,
        }
    }

    /// Returns the end of the pause, until which nothing is requested.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.not_before
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::periods::Periods;
    use crate::tests::started;

    fn recovery() -> Recovery {
        let backoff = Duration::from_secs(1);
        Recovery::new(Backoff::new(&Periods { backoff, ..Periods::default() }))
    }

    fn unavailable() -> SinkError {
        SinkError::Unavailable(io::Error::other("injected"))
    }

    #[test]
    fn a_wrong_belief_is_corrected_at_once_but_not_forever() {
        let start = started();
        let mut recovery = recovery();
        for seconds in [0, 0, 0, 8, 16] {
            recovery.failed(&SinkError::Stale, start);
            assert_eq!(recovery.deadline(), Some(start + Duration::from_secs(seconds)));
        }
    }

    #[test]
    fn an_unavailable_kernel_is_retried_after_a_doubling_pause() {
        let start = started();
        let mut recovery = recovery();
        for seconds in [1, 2, 4] {
            recovery.failed(&unavailable(), start);
            assert_eq!(recovery.deadline(), Some(start + Duration::from_secs(seconds)));
        }
        assert!(recovery.last().is_some_and(|last| last.lasts && last.at == start));
        recovery.succeeded();
        assert!(recovery.last().is_some_and(|last| !last.lasts));
        recovery.failed(&unavailable(), start);
        assert_eq!(recovery.deadline(), Some(start + Duration::from_secs(1)));
    }

    #[test]
    fn nothing_is_requested_during_a_pause() {
        let start = started();
        let mut recovery = recovery();
        assert!(recovery.may_request(start));
        recovery.failed(&unavailable(), start);
        assert!(!recovery.may_request(start + Duration::from_millis(999)));
        assert!(recovery.may_request(start + Duration::from_secs(1)));
        assert_eq!(recovery.deadline(), None);
    }

    #[test]
    fn the_first_read_and_each_after_a_failure_adopts_tables() {
        let mut recovery = recovery();
        assert!(matches!(recovery.read(), Request::Adopt));
        recovery.adopted();
        assert!(matches!(recovery.read(), Request::Read));
        recovery.failed(&unavailable(), started());
        assert!(matches!(recovery.read(), Request::Adopt));
    }

    #[test]
    fn a_generation_that_never_lasts_is_ignored_after_three_failures() {
        let mut recovery = recovery();
        let read = DeltaBase::Read { generation: Some(7) };
        for _ in 0..3 {
            assert_eq!(recovery.base(read), read);
            recovery.failed(&SinkError::Stale, started());
        }
        assert_eq!(recovery.base(read), DeltaBase::Read { generation: None });
        assert_eq!(recovery.base(DeltaBase::Believed), DeltaBase::Believed);
    }
}
