//! How long to wait after a failure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Returns the pause after this many failures in a row: the first one, doubled from failure to
/// failure, and at most the longest.
pub fn retry_pause(first: Duration, longest: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest)
}

/// Waits that double from failure to failure, with jitter: the nodes of a cluster that lost its API
/// server together must not return to it at the same moment.
#[derive(Debug)]
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    pub(crate) fn new(shortest: Duration, longest: Duration) -> Self {
        // Jitter adds at most the wait itself again.
        let builder = ExponentialBuilder::new()
            .with_min_delay(shortest)
            .with_max_delay(longest / 2)
            .without_max_times()
            .with_jitter();
        Self { builder, waits: builder.build(), longest }
    }

    /// Returns the next wait.
    pub(crate) fn wait(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.longest).min(self.longest)
    }

    /// Starts with the shortest wait again.
    pub(crate) fn reset(&mut self) {
        self.waits = self.builder.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_the_maximum_and_resets() {
        let (shortest, longest) = (Duration::from_millis(800), Duration::from_secs(30));
        let mut backoff = Backoff::new(shortest, longest);
        for _ in 0..3 {
            let waits: Vec<Duration> = (0..20).map(|_| backoff.wait()).collect();
            assert!(waits[0] >= shortest && waits[0] < 2 * shortest, "{waits:?}");
            assert!(waits.iter().all(|wait| *wait <= longest), "{waits:?}");
            assert!(waits[19] >= longest / 2, "{waits:?}");
            backoff.reset();
        }
    }

    #[test]
    fn backoff_differs_between_nodes() {
        let waits = || {
            let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
            (0..8).map(|_| backoff.wait()).collect::<Vec<Duration>>()
        };
        assert_ne!(waits(), waits());
    }

    #[test]
    fn pauses_grow_up_to_a_limit() {
        let (first, longest) = (Duration::from_millis(250), Duration::from_secs(30));
        let pauses = [1, 2, 3, 8, 9, u32::MAX].map(|failures| {
            let pause = retry_pause(first, longest, failures);
            assert!((first..=longest).contains(&pause));
            pause.as_millis()
        });
        assert_eq!(pauses, [250, 500, 1000, 30_000, 30_000, 30_000]);
        assert_eq!(retry_pause(Duration::MAX, Duration::MAX, 9), Duration::MAX);
    }
}
