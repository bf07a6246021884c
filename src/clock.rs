//! The kernel's monotonic clock.

use std::time::Instant;

use nix::time::{ClockId, clock_gettime};

use rulec_engine::Clock;

/// Returns the current time: seconds since the machine started, not counting suspension.
///
/// # Errors
///
/// If the kernel has no such clock.
pub(crate) fn monotonic() -> nix::Result<Clock> {
    Ok(Clock::new(Instant::now(), seconds()?))
}

/// Returns the same time in seconds.
///
/// # Errors
///
/// If the kernel has no such clock.
pub(crate) fn seconds() -> nix::Result<u32> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    // A u32 lasts for 136 years.
    Ok(u32::try_from(time.tv_sec()).unwrap_or(u32::MAX))
}

/// Returns the same time in microseconds, as a service manager expects it.
///
/// # Errors
///
/// If the kernel has no such clock.
pub(crate) fn micros() -> nix::Result<u64> {
    let time = std::time::Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
}
