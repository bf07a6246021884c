//! Checks: periodic comparisons of the kernel's content with the program that it acknowledged.
//!
//! Reading a large cluster back takes as long as thousands of changes, so no change waits for it: a
//! check runs beside the commits, and what it compares with is the program of the moment when it
//! began. What it finds at a place that a commit has touched since then says nothing. Anything else
//! that it finds is a reason to read the kernel between two commits, and to repair it.
//!
//! A check never ends early, so it ends also while changes go on all the time. There is at most one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rulec_compiler::{Delta, Place};

use crate::backoff::Backoff;
use crate::periods::Periods;
use crate::sink::SinkError;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Checks {
    backoff: Backoff,
    /// From a comparison to the next check.
    period: Duration,
    /// The time of the next check; `None` before the first comparison.
    next: Option<Instant>,
    /// The check that runs now.
    running: Option<Running>,
    /// How many comparisons in a row have failed.
    failures: u32,
    /// When the kernel was last compared.
    last: Option<Instant>,
}

/// A check that runs.
#[derive(Debug, Default)]
struct Running {
    /// The places that commits have touched since it began.
    touched: BTreeSet<Place>,
    /// True if the kernel was read meanwhile: that comparison counts.
    is_overtaken: bool,
}

impl Checks {
    /// Creates a state in which no check is due.
    pub(crate) fn new(periods: &Periods) -> Self {
        let backoff = Backoff::new(periods);
        Self { backoff, period: periods.verify, next: None, running: None, failures: 0, last: None }
    }

    /// Begins a check if it is time for one. No commit may be pending.
    pub(crate) fn begin(&mut self, now: Instant) -> bool {
        let is_due = self.running.is_none() && self.next.is_some_and(|at| now >= at);
        if is_due {
            self.running = Some(Running::default());
        }
        is_due
    }

    /// Notes that a delta is being committed.
    pub(crate) fn committing(&mut self, delta: &Delta) {
        if let Some(running) = &mut self.running {
            running.touched.extend(delta.places());
        }
    }

    /// Notes that the kernel is being read.
    pub(crate) fn overtaken(&mut self) {
        if let Some(running) = &mut self.running {
            running.is_overtaken = true;
        }
    }

    /// Takes in what a check has found, and returns what says something about the kernel.
    pub(crate) fn checked(
        &mut self,
        found: Result<Delta, SinkError>,
        now: Instant,
    ) -> Option<Delta> {
        let running = self.running.take()?;
        if running.is_overtaken {
            return None;
        }
        match found {
            Ok(mut found) => {
                self.compared(now);
                let is_touched = |place: Place| running.touched.contains(&place);
                let is_news =
                    |place: Place| !is_touched(place) && !place.whole().is_some_and(is_touched);
                found.groups.retain(|group| group.ops.iter().any(|op| is_news(op.place())));
                let is_shared = found.shared.iter().any(|op| is_news(op.place()));
                let differs = is_shared || !found.groups.is_empty();
                let touched = running.touched.len();
                tracing::debug!(touched, differs, "compared the kernel's content");
                differs.then_some(found)
            }
            Err(error) => {
                self.failed(&error, now);
                None
            }
        }
    }

    /// Notes that the kernel's content was compared.
    pub(crate) fn compared(&mut self, now: Instant) {
        self.failures = 0;
        self.last = Some(now);
        self.next = Some(now + self.period);
    }

    /// Notes that a comparison failed. The next one comes earlier, after a pause.
    pub(crate) fn failed(&mut self, error: &SinkError, now: Instant) {
        self.failures += 1;
        let pause = self.backoff.pause(self.failures).min(self.period);
        self.next = Some(now + pause);
        tracing::warn!(%error, retry_in = ?pause, "cannot compare the kernel's content");
    }

    /// Returns when the kernel was last compared; `None` before the first comparison.
    pub(crate) fn last(&self) -> Option<Instant> {
        self.last
    }

    /// Returns when the next check is due; `None` while one runs.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.next.filter(|_| self.running.is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use rulec_compiler::ipvs::{self, RealServer, VirtualServer};
    use rulec_compiler::net::{Backend, Protocol};
    use rulec_compiler::nft::{Element, Key, Value};
    use rulec_compiler::{Group, Op};

    use super::*;
    use crate::tests::{key, started};

    fn checks() -> Checks {
        Checks::new(&Periods { verify: Duration::from_secs(60), ..Periods::default() })
    }

    /// A delta of one operation for each of these Services.
    fn delta(names: &[u8]) -> Delta {
        let group = |name: &u8| {
            let element =
                Element::new(Key::ClusterIp(IpAddr::from([10, 96, 0, *name])), Value::Present);
            Group::new(key(*name), vec![Op::add(element)])
        };
        Delta { groups: names.iter().map(group).collect(), ..Delta::default() }
    }

    fn services(found: Option<Delta>) -> Vec<u8> {
        let names = |delta: Delta| {
            (0..10).filter(|name| delta.groups.iter().any(|it| it.service == key(*name))).collect()
        };
        found.map(names).unwrap_or_default()
    }

    #[test]
    fn a_check_is_due_a_period_after_the_last_comparison() {
        let start = started();
        let mut checks = checks();
        assert!(!checks.begin(start), "the kernel has not been read");
        assert_eq!(checks.last(), None);
        checks.compared(start);
        assert_eq!(checks.last(), Some(start));
        let due = start + Duration::from_secs(60);
        assert_eq!(checks.deadline(), Some(due));
        assert!(!checks.begin(due - Duration::from_millis(1)));
        assert!(checks.begin(due));
        assert_eq!(checks.deadline(), None);
        assert!(!checks.begin(due), "one at a time");
        assert!(checks.checked(Ok(Delta::default()), due).is_none());
        assert_eq!(checks.deadline(), Some(due + Duration::from_secs(60)));
    }

    #[test]
    fn only_what_no_commit_has_touched_says_something() {
        let start = started();
        let mut checks = checks();
        checks.compared(start);
        checks.committing(&delta(&[1]));
        let now = start + Duration::from_secs(60);
        assert!(checks.begin(now));
        checks.committing(&delta(&[2]));
        checks.committing(&delta(&[3]));
        assert_eq!(services(checks.checked(Ok(delta(&[1, 2, 3, 4])), now)), [1, 4]);
        let now = now + Duration::from_secs(60);
        assert!(checks.begin(now));
        assert_eq!(services(checks.checked(Ok(delta(&[2])), now)), [2], "in the next check");
    }

    #[test]
    fn what_is_shared_says_something_without_any_service() {
        let start = started();
        let mut checks = checks();
        checks.compared(start);
        let now = start + Duration::from_secs(60);
        let ops: Vec<Op> = delta(&[1]).ops().cloned().collect();
        let shared = Delta { shared: ops.into(), ..Delta::default() };
        assert!(checks.begin(now));
        assert!(checks.checked(Ok(shared.clone()), now).is_some());
        let now = now + Duration::from_secs(60);
        assert!(checks.begin(now));
        checks.committing(&delta(&[1]));
        assert!(checks.checked(Ok(shared), now).is_none());
    }

    #[test]
    fn a_commit_to_one_real_server_says_nothing_about_the_others() {
        let start = started();
        let server = VirtualServer {
            address: IpAddr::from([10, 96, 0, 1]),
            protocol: Protocol::Tcp,
            port: NonZeroU16::MIN,
        };
        let set = |last: u8| {
            let address = IpAddr::from([10, 0, 0, last]);
            let backend = Backend { address, port: NonZeroU16::MIN };
            Op::from(ipvs::Op::SetReal(server, backend, RealServer::ACTIVE))
        };
        let of = |op: Op| Delta { groups: vec![Group::new(key(1), vec![op])], ..Delta::default() };
        let mut checks = checks();
        checks.compared(start);
        let mut now = start;
        let mut found_beside = |committed: Op, found: Op| {
            now += Duration::from_secs(60);
            assert!(checks.begin(now));
            checks.committing(&of(committed));
            checks.checked(Ok(of(found)), now).is_some()
        };
        assert!(found_beside(set(1), set(2)));
        assert!(!found_beside(set(2), set(2)));
        // A virtual server goes with all its real servers.
        assert!(!found_beside(ipvs::Op::DeleteServer(server).into(), set(2)));
    }

    #[test]
    fn a_reading_overtakes_the_check_that_runs() {
        let start = started();
        let mut checks = checks();
        checks.overtaken();
        checks.compared(start);
        let due = start + Duration::from_secs(60);
        assert!(checks.begin(due));
        checks.overtaken();
        checks.compared(due);
        let later = due + Duration::from_secs(1);
        assert!(checks.checked(Ok(delta(&[1])), later).is_none());
        assert_eq!(checks.deadline(), Some(due + Duration::from_secs(60)));
    }

    #[test]
    fn a_check_that_fails_is_repeated_after_a_doubling_pause() {
        let mut now = started();
        let mut checks = checks();
        checks.compared(now);
        now += Duration::from_secs(60);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            assert!(checks.begin(now));
            let error = SinkError::Unavailable(io::Error::other("injected"));
            assert!(checks.checked(Err(error), now).is_none());
            let next = checks.deadline().unwrap();
            pauses.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(pauses[..4], [100, 200, 400, 800]);
        assert_eq!(pauses[11], 30_000);
        assert!(checks.begin(now));
        assert!(checks.checked(Ok(Delta::default()), now).is_none());
        assert_eq!(checks.deadline(), Some(now + Duration::from_secs(60)));
    }
}
