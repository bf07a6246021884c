//! How long to wait, on machines that are slower than others by far.

use std::env;
use std::sync::LazyLock;
use std::time::Duration;

/// The variable that says how many times longer tests wait than they would by themselves.
const VARIABLE: &str = "RULEC_TEST_PATIENCE";

/// The time that something may take, stretched for this machine: an emulated one sets
/// `RULEC_TEST_PATIENCE` to how many times as long it shall be. What is waited for in vain is waited
/// for as much longer, so that silence means as much there as elsewhere.
///
/// # Panics
///
/// When the variable is set, and is no number.
#[must_use]
pub fn patience(time: Duration) -> Duration {
    static FACTOR: LazyLock<u32> = LazyLock::new(|| {
        let number = |text: String| text.parse().unwrap_or_else(|_| panic!("{VARIABLE}={text}"));
        env::var(VARIABLE).map_or(1, number)
    });
    time * *FACTOR
}
