//! How long to wait after a failure.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Waits that double from failure to failure, each with some chance in it: the nodes of a cluster that
/// lost its API server together must not come back to it together.
#[derive(Debug)]
pub(super) struct Backoff {
    builder: ExponentialBuilder,
    waits: ExponentialBackoff,
    longest: Duration,
}

impl Backoff {
    pub(super) fn new(shortest: Duration, longest: Duration) -> Self {
        // Chance adds up to as much again.
        let builder = ExponentialBuilder::new()
            .with_min_delay(shortest)
            .with_max_delay(longest / 2)
            .without_max_times()
            .with_jitter();
        Self { builder, waits: builder.build(), longest }
    }

    /// The next wait.
    pub(super) fn wait(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.longest).min(self.longest)
    }

    /// Begins with the shortest again.
    pub(super) fn reset(&mut self) {
        self.waits = self.builder.build();
    }
}
