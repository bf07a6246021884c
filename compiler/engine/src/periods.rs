//! The intervals of the engine's periodic work.

use std::time::Duration;

/// The intervals of the engine's periodic work.
#[derive(Clone, Copy, Debug)]
pub struct Periods {
    /// From a comparison of the kernel's content with the program to the next check.
    pub verify: Duration,
    /// How long an unused class of session affinity stays.
    pub idle_affinity: Duration,
    /// The first pause after a failure; it doubles up to `backoff_max`.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Between two checks whether draining real servers still have connections.
    pub drain: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Self {
            verify: Duration::from_secs(60),
            idle_affinity: Duration::from_secs(600),
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            drain: Duration::from_secs(2),
        }
    }
}
