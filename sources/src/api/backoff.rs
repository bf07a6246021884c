//! How long to wait after a failure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Waits that double from failure to failure, with jitter: the nodes of a cluster that lost its API
/// server together must not return to it at the same moment.
#[derive(Debug)]
pub(super) struct Backoff {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(shortest: Duration, longest: Duration) -> Self {
        // Jitter adds at most the wait itself again.
        let builder = ExponentialBuilder::new()
            .with_min_delay(shortest)
            .with_max_delay(longest / 2)
            .without_max_times()
            .with_jitter();
        Self { builder, waits: builder.build(), longest }
    }

    /// Returns the next wait.
    pub(super) fn wait(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.longest).min(self.longest)
    }

    /// Starts with the shortest wait again.
    pub(super) fn reset(&mut self) {
        self.waits = self.builder.build();
    }
}
