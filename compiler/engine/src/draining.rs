//! Removal of draining real servers of IPVS.
//!
//! A real server that no Service wants any more keeps its connections until it has none left, or
//! until its end. The program says which real servers drain and when each ends; this decides when
//! to count their connections, and which are to be removed.

use std::time::{Duration, Instant};

use rulec_compiler::ipvs::Draining;

use crate::clock::Clock;
use crate::periods::Periods;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct DrainCheck {
    /// The ends are given by this clock.
    clock: Clock,
    /// Between two counts of connections.
    period: Duration,
    /// The time of the next count; `None` while nothing drains.
    count_at: Option<Instant>,
    /// The real servers that the last count found without connections.
    idle: Vec<Draining>,
}

impl DrainCheck {
    /// Creates the state in which nothing drains.
    pub(crate) fn new(periods: &Periods, clock: Clock) -> Self {
        Self { clock, period: periods.drain, count_at: None, idle: Vec::new() }
    }

    /// Sets the kernel's clock.
    pub(crate) fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Returns what the kernel's clock shows.
    pub(crate) fn seconds(&self, now: Instant) -> u32 {
        self.clock.seconds(now)
    }

    /// Follows a change of the real servers that drain in the kernel. An end is waited for like a
    /// count if it comes earlier.
    pub(crate) fn follow(&mut self, draining: impl Iterator<Item = (Draining, u32)>, now: Instant) {
        let first = draining.map(|(_, until)| self.clock.instant(until)).min();
        let count = self.count_at.unwrap_or(now + self.period);
        self.count_at = first.map(|first| first.min(count));
    }

    /// Returns true if it is time to count connections; the next count is then a period later.
    pub(crate) fn begin_count(&mut self, now: Instant) -> bool {
        let is_due = self.count_at.is_some_and(|at| now >= at);
        if is_due {
            self.count_at = Some(now + self.period);
        }
        is_due
    }

    /// Takes in the real servers that have no connections.
    pub(crate) fn counted(&mut self, idle: Vec<Draining>) {
        self.idle = idle;
    }

    /// Takes the real servers that are to be removed: those of these whose end has come, and those
    /// that were found without connections.
    pub(crate) fn take_gone(
        &mut self,
        draining: impl Iterator<Item = (Draining, u32)>,
        now: Instant,
    ) -> Vec<Draining> {
        let seconds = self.seconds(now);
        let over = draining.filter(|(_, until)| *until <= seconds).map(|(real, _)| real);
        over.chain(self.idle.drain(..)).collect()
    }

    /// Returns when to count connections, or to remove a real server whose end has come.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.count_at
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use rulec_compiler::ipvs::VirtualServer;
    use rulec_compiler::net::{Backend, Protocol};

    use super::*;
    use crate::tests::started;

    const SECOND: Duration = Duration::from_secs(1);

    fn check(start: Instant) -> DrainCheck {
        DrainCheck::new(
            &Periods { drain: 2 * SECOND, ..Periods::default() },
            Clock::new(start, 100),
        )
    }

    fn real(number: u8) -> Draining {
        let port = NonZeroU16::MIN;
        let address = IpAddr::from([10, 96, 0, 1]);
        let server = VirtualServer { address, protocol: Protocol::Tcp, port };
        Draining { server, backend: Backend { address: IpAddr::from([10, 244, 0, number]), port } }
    }

    #[test]
    fn connections_are_counted_periodically_while_something_drains() {
        let start = started();
        let mut check = check(start);
        check.follow([].into_iter(), start);
        assert_eq!(check.deadline(), None);
        check.follow([(real(1), 160)].into_iter(), start);
        assert_eq!(check.deadline(), Some(start + 2 * SECOND));
        assert!(!check.begin_count(start + SECOND));
        assert!(check.begin_count(start + 2 * SECOND));
        assert_eq!(check.deadline(), Some(start + 4 * SECOND));
        check.follow([].into_iter(), start);
        assert_eq!(check.deadline(), None);
    }

    #[test]
    fn a_change_does_not_put_off_the_next_count() {
        let start = started();
        let mut check = check(start);
        check.follow([(real(1), 160)].into_iter(), start);
        check.follow([(real(1), 160), (real(2), 161)].into_iter(), start + SECOND);
        assert_eq!(check.deadline(), Some(start + 2 * SECOND));
    }

    #[test]
    fn an_end_before_the_next_count_is_waited_for() {
        let start = started();
        let mut check = check(start);
        check.follow([(real(1), 160), (real(2), 101)].into_iter(), start);
        assert_eq!(check.deadline(), Some(start + SECOND));
    }

    #[test]
    fn real_servers_go_at_their_end_or_without_connections() {
        let start = started();
        let mut check = check(start);
        let draining = || [(real(1), 101), (real(2), 160), (real(3), 160)].into_iter();
        assert_eq!(check.take_gone(draining(), start), []);
        assert_eq!(check.take_gone(draining(), start + SECOND), [real(1)]);
        check.counted(vec![real(3)]);
        assert_eq!(check.take_gone(draining(), start), [real(3)]);
        assert_eq!(check.take_gone(draining(), start), [], "a count is used once");
    }

    #[test]
    fn ends_follow_the_clock_that_was_set_last() {
        let start = started();
        let mut check = check(start);
        check.set_clock(Clock::new(start, 5_000));
        assert_eq!(check.seconds(start + SECOND), 5_001);
        assert_eq!(check.take_gone([(real(1), 160)].into_iter(), start), [real(1)]);
    }
}
