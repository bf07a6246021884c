//! The thread that deletes flows that contradict the rules.
//!
//! The kernel has no index of flows by frontend, so finding some means walking all of them. This is
//! done beside the commits, in rounds. A round walks the flows at most once for each family and
//! kind, whatever the number of frontends and backends. All requests that arrive during a round
//! become one round afterwards, by the newest rules, so that none waits for more than the round
//! under way and its own. What failed is retried.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rulec_compiler::flows::{FlowKind, Pair, Rules, Which};
use rulec_compiler::net::Family;
use rulec_compiler::{Flow, Frontend, Suspects};
use rulec_sinks::conntrack::{Conntrack, ConntrackError, Filter};
use rulec_sources::retry_pause;

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
    /// How many rounds in a row have failed.
    failures: u32,
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
        Self::run(move |shared| {
            let mut conntrack = None;
            serve(shared, |filter, is_unwanted| {
                walk(&mut conntrack, filter, is_unwanted, &metrics)
            });
        })
    }

    fn run(body: impl FnOnce(&Shared) + Send + 'static) -> anyhow::Result<Self> {
        let shared =
            Arc::new(Shared { orders: Mutex::new(Orders::default()), changed: Condvar::new() });
        let ours = Arc::clone(&shared);
        let thread = Vital::start("rulec-conntrack", move || {
            // Also when it dies, so that no other thread waits for it.
            let _ended = Ended(&ours);
            body(&ours);
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
        self.failures = self.failures.saturating_add(1);
        let pause = retry_pause(first, longest, self.failures);
        self.not_before = Some(now + pause);
        if !suspects.lost.is_empty() {
            self.lost_at.get_or_insert(now + pause);
        }
        self.remember(suspects);
        pause
    }
}

/// Does the pending work until the end. `walk` deletes those flows of a filter that are unwanted.
fn serve(
    shared: &Shared,
    mut walk: impl FnMut(&Filter, &dyn Fn(&Flow) -> bool) -> Result<(), ConntrackError>,
) {
    while let Some((suspects, rules)) = shared.next() {
        let mut failed = Suspects::default();
        let mut error = None;
        for kind in [FlowKind::Udp, FlowKind::Unanswered] {
            let Err(failure) = walk_families(&mut walk, kind, suspects.of(kind), &rules) else {
                continue;
            };
            error = Some(failure);
            match kind {
                FlowKind::Udp => failed.udp = suspects.udp.clone(),
                FlowKind::Unanswered => {
                    failed.came = suspects.came.clone();
                    failed.lost = suspects.lost.clone();
                }
            }
        }
        let mut orders = shared.orders();
        let Some(error) = error else {
            (orders.failures, orders.not_before) = (0, None);
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

/// Walks the flows of a kind once for each family that is concerned.
fn walk_families(
    walk: &mut impl FnMut(&Filter, &dyn Fn(&Flow) -> bool) -> Result<(), ConntrackError>,
    kind: FlowKind,
    suspects: Pair<'_>,
    rules: &Rules,
) -> Result<(), ConntrackError> {
    let Pair { translated, untranslated } = suspects;
    for family in Family::ALL {
        if !translated.concerns(family) && !untranslated.concerns(family) {
            continue;
        }
        let filter = narrowest(family, kind, [translated, untranslated]);
        walk(&filter, &|flow| rules.rule_out(flow, suspects))?;
    }
    Ok(())
}

fn walk(
    conntrack: &mut Option<Conntrack>,
    filter: &Filter,
    is_unwanted: &dyn Fn(&Flow) -> bool,
    metrics: &Metrics,
) -> Result<(), ConntrackError> {
    let started = Instant::now();
    // The socket is opened on first use. After a failure a new one is opened, which has nothing
    // left of the old one's state.
    let mut open = match conntrack.take() {
        Some(open) => open,
        None => Conntrack::open()?,
    };
    let flows = open.delete(filter, is_unwanted)?;
    *conntrack = Some(open);
    let took = started.elapsed();
    let Filter { family, kind, .. } = *filter;
    metrics.kube_proxy.flows_deleted(family, took, flows);
    let elapsed_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(%family, ?kind, flows, elapsed_us, "deleted flows that contradict the rules");
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
        let body = |shared: &Shared| {
            let mut orders = shared.orders();
            while !orders.is_ending {
                orders = shared.wait(orders, None);
            }
            drop(orders);
            panic!("on purpose");
        };
        Self::run(body).unwrap()
    }

    pub(crate) fn die(&self) {
        self.shared.orders().is_ending = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::sync::mpsc::{self, RecvTimeoutError};

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

    /// The rules of a node without Services: what was translated to a gone frontend contradicts.
    fn rules() -> Rules {
        let program = Program::new(Arc::new(Settings::new(NodeName::from("na"))));
        Rules::new(&program, BTreeSet::new(), BTreeSet::new())
    }

    fn orders() -> Orders {
        Orders { rules: Some(rules()), ..Orders::default() }
    }

    fn gone(ports: std::ops::Range<u16>) -> Suspects {
        let gone = ports.map(frontend).collect();
        Suspects { udp: Which { gone, ..Which::default() }, ..Suspects::default() }
    }

    /// Returns how many of these ports have a flow that is unwanted.
    fn unwanted(is_unwanted: &dyn Fn(&Flow) -> bool, ports: std::ops::Range<u16>) -> usize {
        let flow = |port| Flow {
            protocol: Protocol::Udp,
            destination: SocketAddr::new([10, 96, 0, 1].into(), port),
            answers: SocketAddr::new([10, 50, 1, 1].into(), port),
        };
        ports.filter(|port| is_unwanted(&flow(*port))).count()
    }

    #[test]
    fn a_round_takes_one_walk_per_family_and_kind() {
        let of = |address: IpAddr, protocol| {
            let ports = (1..=1_000).filter_map(NonZeroU16::new);
            ports.map(move |port| Frontend::Address { address, protocol, port })
        };
        // Two addresses of each family, so that no filter but that by family and kind finds all.
        let which = |protocol| {
            let addresses = ["10.96.0.1", "10.96.0.2", "fd00:96::1", "fd00:96::2"];
            let frontends = addresses.iter().flat_map(|it| of(it.parse().unwrap(), protocol));
            Which { frontends: frontends.collect(), ..Which::default() }
        };
        let shared = Shared { orders: Mutex::new(orders()), changed: Condvar::new() };
        let lost = which(Protocol::Tcp);
        let came = which(Protocol::Sctp);
        shared.orders().remember(Suspects { udp: which(Protocol::Udp), came, lost });
        shared.orders().lost_at = Some(Instant::now());
        shared.orders().is_ending = true;
        let mut walks = Vec::new();
        serve(&shared, |filter, _| {
            walks.push(*filter);
            Ok(())
        });
        let (udp, unanswered) = (FlowKind::Udp, FlowKind::Unanswered);
        let expected = [(udp, Family::Ipv4), (udp, Family::Ipv6)]
            .into_iter()
            .chain([(unanswered, Family::Ipv4), (unanswered, Family::Ipv6)])
            .map(|(kind, family)| Filter { family, kind, port: None, destination: None });
        assert_eq!(walks, expected.collect::<Vec<_>>());
    }

    #[test]
    fn requests_that_arrive_during_a_walk_share_the_next_one() {
        // The thread tells which flows each walk would delete, and then waits.
        let (began, walks) = mpsc::channel();
        let (finish, finished) = mpsc::channel();
        let thread = ConntrackThread::run(move |shared| {
            serve(shared, |_, is_unwanted| {
                began.send(unwanted(is_unwanted, 1..2_000)).unwrap();
                finished.recv().unwrap();
                Ok(())
            });
        });
        let thread = thread.unwrap();
        let patience = Duration::from_secs(60);
        thread.check(gone(1..2), rules());
        assert_eq!(walks.recv_timeout(patience), Ok(1));
        for port in 2..1_002 {
            thread.check(gone(port..port + 1), rules());
        }
        assert!(walks.try_recv().is_err(), "the first walk is under way");
        finish.send(()).unwrap();
        assert_eq!(walks.recv_timeout(patience), Ok(1_000), "all of them, and not the first again");
        finish.send(()).unwrap();
        drop(thread);
        assert_eq!(walks.recv_timeout(patience), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_failed_walk_of_one_kind_does_not_repeat_the_other() {
        let shared = Shared { orders: Mutex::new(orders()), changed: Condvar::new() };
        shared.orders().remember(Suspects { came: which(2..3), ..gone(1..2) });
        shared.orders().is_ending = true;
        serve(&shared, |filter, _| match filter.kind {
            FlowKind::Udp => Err(std::io::Error::other("refused").into()),
            FlowKind::Unanswered => Ok(()),
        });
        assert_eq!(shared.orders().suspects, gone(1..2));
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
