//! Time limits that can be stretched for slow machines.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

/// The environment variable that holds the factor for all waiting times of tests.
const VARIABLE: &str = "RULEC_TEST_PATIENCE";

/// Multiplies a time limit by `RULEC_TEST_PATIENCE`, which is set on an emulated machine. Waits
/// that expect nothing to happen are stretched by the same factor, so that silence proves as much
/// there as elsewhere.
///
/// # Panics
///
/// When the variable is set to something that is not a number.
#[must_use]
pub fn patience(time: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let number = |text: String| text.parse().unwrap_or_else(|_| panic!("{VARIABLE}={text}"));
        env::var(VARIABLE).map_or(1, number)
    });
    time * *FACTOR
}
