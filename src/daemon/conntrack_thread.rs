//! The thread that deletes flows that contradict the rules.
//!
//! The kernel has no index of flows by frontend, so finding some means walking all of them. This is
//! done beside the commits; all requests that arrive during a walk become one walk afterwards, by
//! the newest rules. What failed is retried.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rulec_compiler::flows::{Rules, Which};
use rulec_compiler::net::Family;
use rulec_compiler::{Frontend, Suspects};
use rulec_sinks::conntrack::{Conntrack, ConntrackError, Filter, FlowKind};

use crate::observe::metrics::Metrics;
use crate::threads::Vital;

/// How long an endpoint that has gone has time to answer a client that was sent there just before.
/// Without an answer, a client retries after a second at the earliest. It also limits how often
/// connections are looked at.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The first and the longest pause after a failure.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// How long the end of the process waits for the flows of frontends that have just gone: a later
/// start does not know of them.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle of the thread. Dropping it waits a moment for pending requests.
#[derive(Debug)]
pub struct ConntrackThread {
    shared: Arc<Shared>,
    thread: Vital,
}

#[derive(Debug)]
struct Shared {
    orders: Mutex<Orders>,
    changed: Condvar,
}

/// The pending work.
#[derive(Debug, Default)]
struct Orders {
    /// The newest rules.
    rules: Option<Rules>,
    /// The suspects to look at now, except `lost`, which is looked at later.
    suspects: Suspects,
    /// When to look at `lost`.
    lost_at: Option<Instant>,
    /// The time before which nothing is tried.
    not_before: Option<Instant>,
    /// The length of the last pause after a failure.
    pause: Option<Duration>,
    is_ending: bool,
    has_ended: bool,
}

impl ConntrackThread {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let shared =
            Arc::new(Shared { orders: Mutex::new(Orders::default()), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        let thread = Vital::start("rulec-conntrack", move || {
            // Also when it dies, so that no other thread waits for it.
            let _ended = Ended(&ours);
            serve(&ours, &metrics);
        })?;
        Ok(Self { shared, thread })
    }

    /// Resolves with an error when the thread has died.
    pub async fn death(&mut self) -> anyhow::Error {
        self.thread.death().await
    }

    /// Requests that flows be checked against these rules, without waiting. If the thread has died,
    /// the daemon ends, and its next start looks at all flows.
    pub fn check(&self, suspects: Suspects, rules: Rules) {
        let mut orders = self.shared.orders();
        orders.rules = Some(rules);
        if !suspects.lost.is_empty() {
            orders.lost_at.get_or_insert_with(|| Instant::now() + ANSWER_TIME);
        }
        orders.remember(suspects);
        drop(orders);
        self.shared.changed.notify_all();
    }
}

impl Drop for ConntrackThread {
    fn drop(&mut self) {
        let mut orders = self.shared.orders();
        orders.is_ending = true;
        self.shared.changed.notify_all();
        let deadline = Instant::now() + SHUTDOWN_TIMEOUT;
        while !orders.has_ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!("flows that contradict the rules remain until the next start");
                return;
            }
            orders = self.shared.wait(orders, Some(left));
        }
    }
}

/// Notes that the thread has ended, for whatever reason.
struct Ended<'a>(&'a Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.orders().has_ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        orders: MutexGuard<'a, Orders>,
        time: Option<Duration>,
    ) -> MutexGuard<'a, Orders> {
        match time {
            None => self.changed.wait(orders).unwrap_or_else(PoisonError::into_inner),
            Some(time) => {
                let outcome = self.changed.wait_timeout(orders, time);
                outcome.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }

    /// Returns the next work; `None` at the end.
    fn next(&self) -> Option<(Suspects, Rules)> {
        let mut orders = self.orders();
        loop {
            let now = Instant::now();
            if let Some(next) = orders.take(now) {
                return Some(next);
            }
            if orders.is_ending {
                return None;
            }
            let wake = orders.deadline().map(|at| at.saturating_duration_since(now));
            orders = self.wait(orders, wake);
        }
    }
}

impl Orders {
    fn remember(&mut self, suspects: Suspects) {
        let left_out = self.suspects.merge(suspects);
        if left_out > 0 {
            tracing::error!(
                frontends = left_out,
                "too many frontends were removed while flows could not be deleted; \
                 their flows remain until they expire"
            );
        }
    }

    fn has_urgent(&self) -> bool {
        !self.suspects.udp.is_empty() || !self.suspects.came.is_empty()
    }

    fn deadline(&self) -> Option<Instant> {
        let now = self.has_urgent().then(Instant::now);
        now.into_iter().chain(self.lost_at).min().map(|at| at.max(self.not_before.unwrap_or(at)))
    }

    fn take(&mut self, now: Instant) -> Option<(Suspects, Rules)> {
        // At the end there is one more try, for what cannot wait for the next start.
        if !self.is_ending && self.not_before.is_some_and(|at| now < at) {
            return None;
        }
        let lost_is_due = self.lost_at.is_some_and(|at| now >= at);
        if !self.has_urgent() && !lost_is_due {
            return None;
        }
        let rules = self.rules.clone()?;
        let mut suspects = std::mem::take(&mut self.suspects);
        if lost_is_due {
            self.lost_at = None;
        } else {
            self.suspects.lost = std::mem::take(&mut suspects.lost);
        }
        Some((suspects, rules))
    }

    /// Puts back what failed, and returns the pause before the next try.
    fn put_back(&mut self, suspects: Suspects, now: Instant) -> Duration {
        let (first, longest) = RETRY_PAUSES;
        let pause = self.pause.map_or(first, |pause| (pause * 2).min(longest));
        self.pause = Some(pause);
        self.not_before = Some(now + pause);
        if !suspects.lost.is_empty() {
            self.lost_at.get_or_insert(now + pause);
        }
        self.remember(suspects);
        pause
    }
}

fn serve(shared: &Shared, metrics: &Metrics) {
    let mut conntrack = None;
    while let Some((suspects, rules)) = shared.next() {
        let Suspects { udp, came, lost } = suspects;
        let mut failed = Suspects::default();
        let mut error = None;
        let udp_done =
            walk(&mut conntrack, FlowKind::Udp, [&udp, &Which::default()], &rules, metrics);
        if let Err(failure) = udp_done {
            failed.udp = udp;
            error = Some(failure);
        }
        let done = walk(&mut conntrack, FlowKind::Unanswered, [&lost, &came], &rules, metrics);
        if let Err(failure) = done {
            (failed.came, failed.lost) = (came, lost);
            error = Some(failure);
        }
        let mut orders = shared.orders();
        let Some(error) = error else {
            (orders.pause, orders.not_before) = (None, None);
            continue;
        };
        let pause = orders.put_back(failed, Instant::now());
        let is_ending = orders.is_ending;
        drop(orders);
        let source = std::error::Error::source(&error).map(ToString::to_string);
        tracing::warn!(%error, source, retry_in = ?pause, "cannot delete flows; will retry");
        if is_ending {
            return;
        }
    }
}

/// Walks the flows of a kind once for each family that is concerned. A translated flow is judged if
/// it is among `translated`, another one if it is among `untranslated`; for UDP, `translated`
/// applies to both.
fn walk(
    conntrack: &mut Option<Conntrack>,
    kind: FlowKind,
    [translated, untranslated]: [&Which; 2],
    rules: &Rules,
    metrics: &Metrics,
) -> Result<(), ConntrackError> {
    let untranslated = match kind {
        FlowKind::Udp => translated,
        FlowKind::Unanswered => untranslated,
    };
    for family in Family::ALL {
        if !translated.concerns(family) && !untranslated.concerns(family) {
            continue;
        }
        let started = Instant::now();
        // The socket is opened on first use. After a failure a new one is opened, which has nothing
        // left of the old one's state.
        let mut open = match conntrack.take() {
            Some(open) => open,
            None => Conntrack::open()?,
        };
        let filter = narrowest(family, kind, [translated, untranslated]);
        let flows = open.delete(&filter, |flow| {
            let which = if flow.is_translated() { translated } else { untranslated };
            rules.contradict(flow, which)
        })?;
        *conntrack = Some(open);
        let took = started.elapsed();
        metrics.kube_proxy.flows_deleted(family, took, flows);
        let elapsed_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(%family, ?kind, flows, elapsed_us, "deleted flows that contradict the rules");
    }
    Ok(())
}

/// Returns the narrowest filter that finds all flows that are looked for.
fn narrowest(family: Family, kind: FlowKind, which: [&Which; 2]) -> Filter {
    let any = Filter { family, kind, port: None, destination: None };
    if which.iter().any(|which| which.all) {
        return any;
    }
    let named = || {
        let named = which.iter().flat_map(|which| which.named());
        named.filter(|frontend| frontend.family() == family)
    };
    Filter {
        port: same(named().map(port_of)),
        destination: same(named().map(|frontend| match frontend {
            Frontend::Address { address: IpAddr::V4(address), .. } => Some(address),
            Frontend::Address { .. } | Frontend::NodePort { .. } => None,
        }))
        .flatten(),
        ..any
    }
}

fn port_of(frontend: Frontend) -> NonZeroU16 {
    match frontend {
        Frontend::Address { port, .. } | Frontend::NodePort { port, .. } => port,
    }
}

/// Returns the common value, if all are the same.
fn same<T: PartialEq>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

#[cfg(test)]
impl ConntrackThread {
    /// A handle whose thread dies when `die` is called.
    pub(crate) fn mortal() -> Self {
        let shared =
            Arc::new(Shared { orders: Mutex::new(Orders::default()), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        let body = move || {
            let _ended = Ended(&ours);
            let mut orders = ours.orders();
            while !orders.is_ending {
                orders = ours.wait(orders, None);
            }
            drop(orders);
            panic!("on purpose");
        };
        Self { shared, thread: Vital::start("rulec-conntrack", body).unwrap() }
    }

    pub(crate) fn die(&self) {
        self.shared.orders().is_ending = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rulec_compiler::name::NodeName;
    use rulec_compiler::net::Protocol;
    use rulec_compiler::{Program, Settings};

    use super::*;

    fn frontend(port: u16) -> Frontend {
        let port = NonZeroU16::new(port).unwrap();
        Frontend::Address { address: [10, 96, 0, 1].into(), protocol: Protocol::Udp, port }
    }

    fn which(ports: std::ops::Range<u16>) -> Which {
        Which { frontends: ports.map(frontend).collect(), ..Which::default() }
    }

    fn orders() -> Orders {
        let program = Program::new(Arc::new(Settings::new(NodeName::from("na"))));
        let rules = Rules::new(&program, BTreeSet::new(), BTreeSet::new());
        Orders { rules: Some(rules), ..Orders::default() }
    }

    #[test]
    fn waiting_orders_are_merged_and_failed_ones_retried() {
        let now = Instant::now();
        let mut orders = orders();
        orders.remember(Suspects { udp: which(1..2_000), ..Suspects::default() });
        orders.remember(Suspects { udp: which(1_000..3_001), ..Suspects::default() });
        let (taken, _) = orders.take(now).unwrap();
        assert_eq!(taken.udp.frontends.len(), 3_000);
        assert!(orders.take(now).is_none(), "that was all");

        let pauses: Vec<Duration> = (0..12).map(|_| orders.put_back(taken.clone(), now)).collect();
        assert_eq!((pauses[0], pauses[1]), (RETRY_PAUSES.0, RETRY_PAUSES.0 * 2));
        assert_eq!(pauses[11], RETRY_PAUSES.1);
        assert!(orders.take(now).is_none(), "not yet");
        let (again, _) = orders.take(now + RETRY_PAUSES.1).unwrap();
        assert_eq!(again, taken);
    }

    #[test]
    fn removed_endpoints_have_time_to_answer() {
        let now = Instant::now();
        let mut orders = Orders { lost_at: Some(now + ANSWER_TIME), ..orders() };
        let (came, lost) = (which(1..2), which(2..3));
        orders.remember(Suspects { came: came.clone(), lost: lost.clone(), ..Suspects::default() });
        let (first, _) = orders.take(now).unwrap();
        assert_eq!(first, Suspects { came, ..Suspects::default() });
        assert!(orders.take(now).is_none());
        assert_eq!(orders.deadline(), Some(now + ANSWER_TIME));
        let (then, _) = orders.take(now + ANSWER_TIME).unwrap();
        assert_eq!(then, Suspects { lost, ..Suspects::default() });
        assert_eq!(orders.deadline(), None);
    }

    #[test]
    fn the_number_of_remembered_frontends_is_limited() {
        let mut orders = orders();
        for third in 0..3_u8 {
            let of = |port| {
                let Frontend::Address { protocol, port, .. } = frontend(port) else { return None };
                Some(Frontend::Address { address: [10, 96, 1, third].into(), protocol, port })
            };
            let gone: BTreeSet<Frontend> = (1..=40_000).filter_map(of).collect();
            let udp = Which { frontends: gone.clone(), gone, all: false };
            orders.remember(Suspects { udp, ..Suspects::default() });
        }
        let udp = &orders.suspects.udp;
        assert!(udp.all && udp.frontends.is_empty(), "then each flow is looked at");
        assert_eq!(udp.gone.len(), 65_536);
    }

    #[test]
    fn the_filter_is_as_narrow_as_possible() {
        let none = Which::default();
        let filter = |which: &Which| narrowest(Family::Ipv4, FlowKind::Udp, [which, &none]);
        let one = filter(&which(53..54));
        assert_eq!(one.port, NonZeroU16::new(53));
        assert_eq!(one.destination, Some([10, 96, 0, 1].into()));
        let some = filter(&which(53..55));
        assert_eq!((some.port, some.destination), (None, Some([10, 96, 0, 1].into())));
        let all = filter(&Which { all: true, ..which(53..54) });
        assert_eq!((all.port, all.destination), (None, None));
    }
}
