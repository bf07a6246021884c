//! The kernel's monotonic clock.

use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

use crate::engine::Clock;

/// What it shows now: seconds since the machine has started, without the time that it was suspended.
///
/// # Errors
///
/// If the kernel has none.
pub(crate) fn monotonic() -> nix::Result<Clock> {
    Ok(Clock::new(Instant::now(), seconds()?))
}

/// The same in seconds.
///
/// # Errors
///
/// If the kernel has none.
pub(crate) fn seconds() -> nix::Result<u32> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    // Until then, 136 years are left.
    Ok(u32::try_from(time.tv_sec()).unwrap_or(u32::MAX))
}

/// The same in microseconds, as a service manager reads it.
///
/// # Errors
///
/// If the kernel has none.
pub(crate) fn micros() -> nix::Result<u64> {
    let time = std::time::Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
