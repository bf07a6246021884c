//! Pauses that double with each attempt, up to a limit.
//!
//! Something that fails once often works at once again. Something that keeps failing must not
//! occupy a core.

use std::time::Duration;

use crate::periods::Periods;

/// How many failures, or repairs, in a row are followed by the next try without a pause.
pub(crate) const IMMEDIATE_RETRIES: u32 = 3;

/// See the module's documentation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// Creates the backoff that these periods ask for.
    pub(crate) fn new(periods: &Periods) -> Self {
        Self { first: periods.backoff, max: periods.backoff_max }
    }

    /// Returns the pause after this number of attempts.
    pub(crate) fn pause(self, attempts: u32) -> Duration {
        let doubled = self.first.saturating_mul(1 << attempts.min(16).saturating_sub(1));
        doubled.min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_with_each_attempt_up_to_the_longest() {
        let backoff = Backoff::new(&Periods {
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(1),
            ..Periods::default()
        });
        let pauses = [1, 2, 3, 4, 5, u32::MAX].map(|n| backoff.pause(n).as_millis());
        assert_eq!(pauses, [100, 200, 400, 800, 1000, 1000]);
    }
}
