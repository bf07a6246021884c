//! The kernel's monotonic clock, as far as the engine knows it.
//!
//! Deadlines in the kernel's content outlive the process, so they cannot be `Instant`s. This clock
//! converts between both, without asking the kernel again.

use std::time::{Duration, Instant};

/// The time of the kernel's monotonic clock at an instant. This clock outlives the process, so
/// deadlines in the kernel's content are given by it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at: Instant,
    seconds: u32,
}

impl Clock {
    /// Creates a clock that shows `seconds` at an instant.
    pub fn new(at: Instant, seconds: u32) -> Self {
        Self { at, seconds }
    }

    /// Returns what the clock shows at an instant.
    pub(crate) fn seconds(self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.at).as_secs();
        self.seconds.saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }

    /// Returns the instant when the clock shows `seconds`.
    pub(crate) fn instant(self, seconds: u32) -> Instant {
        self.at + Duration::from_secs(seconds.saturating_sub(self.seconds).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::started;

    #[test]
    fn an_instant_is_converted_to_seconds_and_back() {
        let start = started();
        let clock = Clock::new(start, 5_000);
        let later = start + Duration::from_millis(7_900);
        assert_eq!(clock.seconds(later), 5_007);
        assert_eq!(clock.instant(5_007), start + Duration::from_secs(7));
    }

    #[test]
    fn a_time_before_the_start_is_the_start() {
        let start = started();
        let clock = Clock::new(start + Duration::from_secs(10), 5_000);
        assert_eq!(clock.seconds(start), 5_000);
        assert_eq!(clock.instant(4_000), start + Duration::from_secs(10));
    }

    #[test]
    fn the_seconds_do_not_overflow() {
        let start = started();
        let clock = Clock::new(start, u32::MAX - 1);
        assert_eq!(clock.seconds(start + Duration::from_secs(60)), u32::MAX);
    }
}
