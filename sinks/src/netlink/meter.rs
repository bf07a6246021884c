//! How long calls keep the kernel busy with our messages, in processor time of the calling thread:
//! what it waits for, as for a processor on a busy machine or for nf_tables' commit mutex, is not in
//! it. The kernel holds that mutex during a part of such a call, and not between calls.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Measures calls while it is on, because the clock takes a system call.
#[derive(Default)]
pub(crate) struct Meter(Option<Spent>);

/// Processor time in the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// The most that one call took: for nf_tables, a call is a transaction, or a piece of a dump.
    pub longest: Duration,
    /// What all calls took.
    pub total: Duration,
}

impl Meter {
    /// Begins to measure.
    pub(crate) fn start(&mut self) {
        self.0 = Some(Spent::default());
    }

    /// Ends measuring, and returns what was spent since the start.
    pub(crate) fn stop(&mut self) -> Spent {
        self.0.take().unwrap_or_default()
    }

    /// Makes a call.
    pub(crate) fn during<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let Some(spent) = &mut self.0 else { return call() };
        let before = processor_time();
        let done = call();
        let took = processor_time().saturating_sub(before);
        spent.longest = spent.longest.max(took);
        spent.total += took;
        done
    }
}

/// Returns the processor time of this thread. Every Linux has this clock.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    fn work() {
        let started = Instant::now();
        while started.elapsed() < Duration::from_millis(2) {
            std::hint::black_box(started);
        }
    }

    #[test]
    fn it_counts_work_but_no_waiting_while_it_is_on() {
        let mut meter = Meter::default();
        meter.during(work);
        assert_eq!(meter.stop(), Spent::default());
        meter.start();
        meter.during(|| thread::sleep(Duration::from_millis(50)));
        let waited = meter.stop();
        assert!(waited.longest < Duration::from_millis(25), "{waited:?}");
        meter.start();
        meter.during(work);
        meter.during(work);
        let worked = meter.stop();
        assert!(worked.longest > Duration::ZERO && worked.longest < worked.total, "{worked:?}");
        assert_eq!(meter.stop(), Spent::default());
    }
}
