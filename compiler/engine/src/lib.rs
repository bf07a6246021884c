//! The engine: owns the model, decides what to request from the kernel, and never waits.
//!
//! It is a state machine without I/O or a clock of its own: each event comes with its time, and at
//! most one request to the sink is pending. Events that arrive meanwhile form the next batch, so
//! that a change is committed at once when the sink is idle, and coalesced when it is busy.
//!
//! `applied` is what the kernel has acknowledged, `wanted` is what the sources say, and the delta
//! always leads from one to the other. So a failed commit loses nothing: the kernel is read back,
//! and the next delta starts from what it holds. Start, recovery and drift take that same path.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im::OrdMap;
use rulec_compiler::change::{Change, Origin};
use rulec_compiler::ipvs::Draining;
use rulec_compiler::name::{NamespacedName, NodeName};
use rulec_compiler::net::Family;
use rulec_compiler::nft::flows::{Rules, Suspects};
use rulec_compiler::nft::program::PickId;
use rulec_compiler::nft::{Delta, MAX_AFFINITY_BACKENDS, Program, State};
use rulec_compiler::object::Kind;
use rulec_compiler::resolve;
use rulec_compiler::resolve::local::{LocalView, local_view};
use rulec_compiler::{Dirty, Model, Settings};

mod backlog;
mod clock;
mod committed;
mod counts;
mod event;
pub mod fake;
mod periods;
mod request;
pub mod sink;
#[cfg(test)]
mod tests;
mod touched;

use backlog::{Backlog, Batch};
pub use clock::Clock;
pub use committed::Committed;
pub use counts::Counts;
pub use event::Event;
pub use periods::Periods;
pub use request::{Reply, Request, answer};
pub use sink::{Culprit, DeltaBase, Outcome, Owner, Refusal, Sink, SinkError, Tampering};
pub use touched::Touched;

/// Services with a `Local` policy.
pub type Locals = OrdMap<NamespacedName, LocalView>;

/// How many past snapshots of the model are kept. Each costs as much memory as has changed since.
const HISTORY: usize = 16;

/// The longest pause between repairs of tables that another process keeps changing: short, because
/// connections wait for the repair, but long enough not to occupy a core.
const MAX_REPAIR_PAUSE: Duration = Duration::from_millis(250);

/// A repair that lasts this long has succeeded.
const REPAIR_SUCCESS_TIME: Duration = Duration::from_secs(1);

/// How many failures, or repairs, in a row are followed by the next try without a pause.
const IMMEDIATE_RETRIES: u32 = 3;

/// A Service that the kernel has refused.
#[derive(Debug)]
struct Quarantine {
    attempts: u32,
    /// `None` while it is being retried.
    retry_at: Option<Instant>,
    /// Whether `applied` says what the kernel holds of it. It does not if the Service was refused
    /// in the commit after a read.
    is_known: bool,
}

/// The pending request.
#[derive(Debug)]
enum Busy {
    Reading,
    /// Looking for idle real servers.
    Counting,
    /// Committing; what is applied if it succeeds.
    Committing(Box<Commit>),
}

/// A pending commit.
#[derive(Debug)]
struct Commit {
    program: Program,
    /// The model it was compiled from.
    model: Model,
    /// The Services of that model with a `Local` policy.
    locals: Locals,
    /// The flows that may contradict the rules after it.
    suspects: Suspects,
    started: Instant,
    repair: bool,
}

/// A step from what the kernel holds to what it should hold.
struct Step {
    delta: Delta,
    /// The flows that may contradict the rules afterwards.
    suspects: Suspects,
    /// The program that the kernel holds afterwards.
    program: Program,
    base: DeltaBase,
    repair: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    periods: Periods,
    model: Model,
    history: VecDeque<Model>,
    sources_ready: bool,
    /// The number of files that could not be read.
    unread: usize,
    dirty: Dirty,
    wanted: Option<Program>,
    applied: Option<Program>,
    /// The model that `applied` was compiled from.
    applied_model: Model,
    /// The Services with a `Local` policy, as compiled with `wanted`.
    locals: Locals,
    /// The same as of the kernel's last acknowledgement.
    applied_locals: Locals,
    backlog: Backlog,
    /// How long acknowledged updates took, each with the number of updates that took so long. Not
    /// yet taken.
    latencies: Vec<(Duration, u32)>,
    /// How long it took from the triggers of changes to their acknowledgement. Not yet taken.
    programmed: Vec<(Family, Duration)>,
    busy: Option<Busy>,
    /// The kernel's content as it was read, not yet reconciled.
    reading: Option<(State, DeltaBase)>,
    /// The first read adopts tables, as does every read after a failure.
    adopt: bool,
    failures: u32,
    not_before: Option<Instant>,
    verify_at: Option<Instant>,
    read_wanted: bool,
    /// No read before this time: another process undoes our repairs.
    read_after: Option<Instant>,
    /// How many repairs in a row did not last.
    disputes: u32,
    culprit: Option<Tampering>,
    quarantine: BTreeMap<NamespacedName, Quarantine>,
    idle_picks: BTreeMap<PickId, Instant>,
    clock: Clock,
    /// When to check next whether draining real servers are idle.
    drain_at: Option<Instant>,
    /// Real servers that were found idle.
    drained: Vec<Draining>,
    /// Flows to check, and the rules to check them by. Not yet taken.
    suspects: Option<(Suspects, Rules)>,
    /// Frontends that were removed by commits with an unknown outcome.
    uncertain: Suspects,
    /// The last commit, until it is taken.
    told: Option<Committed>,
    /// Addresses of Services that belong to other Nodes, as far as they were logged.
    elsewhere: BTreeMap<NamespacedName, BTreeSet<(IpAddr, NodeName)>>,
    touched: Touched,
    counts: Counts,
}

impl Engine {
    /// Creates an engine without any knowledge. The time only starts the kernel's clock, until
    /// `set_clock` says more.
    pub fn new(settings: Settings, periods: Periods, now: Instant) -> Self {
        Self {
            settings: Arc::new(settings),
            periods,
            model: Model::default(),
            history: VecDeque::new(),
            sources_ready: false,
            unread: 0,
            dirty: Dirty::default(),
            wanted: None,
            applied: None,
            applied_model: Model::default(),
            locals: Locals::new(),
            applied_locals: Locals::new(),
            backlog: Backlog::default(),
            latencies: Vec::new(),
            programmed: Vec::new(),
            busy: None,
            reading: None,
            adopt: true,
            failures: 0,
            not_before: None,
            verify_at: None,
            read_wanted: false,
            read_after: None,
            disputes: 0,
            culprit: None,
            quarantine: BTreeMap::new(),
            idle_picks: BTreeMap::new(),
            clock: Clock::new(now, 0),
            drain_at: None,
            drained: Vec::new(),
            suspects: None,
            uncertain: Suspects::default(),
            told: None,
            elsewhere: BTreeMap::new(),
            touched: Touched::default(),
            counts: Counts::default(),
        }
    }

    /// Sets the kernel's clock.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Takes in an event. Call `next_request` after the last of the available events.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Changes(origin, changes, triggers) => {
                self.changes(origin, changes, triggers, now);
            }
            Event::SourcesReady => {
                self.sources_ready = true;
                // Changes until now had to wait for other sources: delays count only from here on.
                self.backlog.owe(now);
            }
            Event::Unread(files) => self.unread = files,
            Event::Reply(Reply::State(result)) => self.state(result, now),
            Event::Reply(Reply::Committed(result)) => self.committed(result, now),
            Event::Reply(Reply::Idle(result)) => self.counted(result),
            Event::Tampered(tampering) => {
                self.read_wanted = true;
                self.culprit = Some(tampering);
            }
        }
    }

    /// Returns the next request to the sink, if any. The sink is busy until its reply is handled.
    pub fn next_request(&mut self, now: Instant) -> Option<Request> {
        let waiting = self.not_before.is_some_and(|at| now < at);
        if self.busy.is_some() || waiting {
            return None;
        }
        self.not_before = None;
        if !self.sources_ready {
            // The kernel can be read while the sources deliver their first lists, but nothing is
            // written before they are complete.
            let is_first = self.reading.is_none();
            return is_first.then(|| {
                self.busy = Some(Busy::Reading);
                Request::Adopt
            });
        }
        if let Some((state, base)) = self.reading.take_if(|_| !self.read_wanted) {
            return self.reconcile(&state, base, now);
        }
        self.reading = None;
        self.release(now);
        // While the next read of a disputed table is put off, changes continue from `applied`.
        let may_read = self.read_after.is_none_or(|at| now >= at);
        if self.verify_at.is_some_and(|at| now >= at) {
            self.read_wanted = true;
        }
        let read_now = self.read_wanted && may_read;
        let Some(applied) = self.applied.clone().filter(|_| !read_now) else {
            self.busy = Some(Busy::Reading);
            self.read_wanted = false;
            return Some(if self.adopt { Request::Adopt } else { Request::Read });
        };
        let wanted = self.compile(&State::default(), now);
        let wanted = self.retire_picks(wanted, now);
        let wanted = self.retire_reals(wanted, now);
        let delta = Delta::between(&applied, &wanted);
        let suspects = Suspects::between(&applied, &wanted);
        let step =
            Step { delta, suspects, program: wanted, base: DeltaBase::Believed, repair: false };
        self.commit(step, now).or_else(|| self.count(now))
    }

    /// Returns when `next_request` has something to do even without an event. It always has at the
    /// very start.
    pub fn deadline(&self) -> Option<Instant> {
        if self.busy.is_some() {
            return None;
        }
        if let Some(at) = self.not_before {
            return Some(at);
        }
        let read = self.read_after.filter(|_| self.read_wanted);
        let verify = self.verify_at.filter(|at| self.read_after.is_none_or(|after| *at >= after));
        let retries = self.quarantine.values().filter_map(|quarantine| quarantine.retry_at);
        let picks = self.idle_picks.values().map(|since| *since + self.periods.idle_pick);
        let retries = retries.chain(self.drain_at);
        retries.chain(picks).chain(verify).chain(read).min()
    }

    /// Returns the current model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns past models, the oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Model> {
        self.history.iter()
    }

    /// Returns the program that the kernel has acknowledged and its model, unless they are unknown
    /// at the moment.
    pub fn applied(&self) -> Option<(&Program, &Model)> {
        self.applied.as_ref().map(|program| (program, &self.applied_model))
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// True if the kernel holds all that the sources say.
    pub fn is_settled(&self) -> bool {
        self.sources_ready
            && self.busy.is_none()
            && self.reading.is_none()
            && self.dirty.is_empty()
            && !self.read_wanted
            && self.applied.is_some()
            && self.quarantine.is_empty()
    }

    /// Returns how many Services the kernel keeps although no source names them, because not every
    /// file could be read.
    pub fn kept(&self) -> usize {
        self.wanted.as_ref().map_or(0, |wanted| wanted.kept().count())
    }

    /// Returns the Services that the kernel has refused.
    pub fn quarantined(&self) -> impl Iterator<Item = &NamespacedName> {
        self.quarantine.keys()
    }

    /// Returns since when the kernel has been behind the sources; `None` if it is not. Changes that
    /// wait for the first list of a source do not count, nor does a Service that the kernel has
    /// refused.
    pub fn behind_since(&self) -> Option<Instant> {
        self.backlog.oldest()
    }

    /// Returns how many changed objects of a kind the kernel has not acknowledged.
    pub fn pending(&self, kind: Kind) -> usize {
        self.backlog.pending(kind)
    }

    /// Takes how long updates took from `handle` to the kernel's acknowledgement, each with the
    /// number of updates that took so long. The first lists are not included: their duration
    /// depends on the size of the cluster.
    pub fn take_latencies(&mut self) -> Vec<(Duration, u32)> {
        std::mem::take(&mut self.latencies)
    }

    /// Takes how long it took from the triggers of changes of EndpointSlices to the kernel's
    /// acknowledgement, by the family of the slice.
    pub fn take_programmed(&mut self) -> Vec<(Family, Duration)> {
        std::mem::take(&mut self.programmed)
    }

    /// Returns the Services with a `Local` policy, as the kernel last acknowledged them.
    pub fn applied_locals(&self) -> &Locals {
        &self.applied_locals
    }

    /// Returns the program that the sources ask for; `None` before the first compilation.
    pub fn wanted(&self) -> Option<&Program> {
        self.wanted.as_ref()
    }

    /// Returns the counts since the start.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn changes(
        &mut self,
        origin: Origin,
        changes: Vec<Change>,
        triggers: Vec<(Family, Instant)>,
        now: Instant,
    ) {
        let before = self.model.clone();
        let mut dirty = Dirty::default();
        for change in changes {
            dirty.merge(self.model.apply(origin, change));
        }
        self.counts.suppressed += dirty.unchanged;
        for (kind, count) in &dirty.changed {
            match kind {
                Kind::Service => self.counts.service_changes += count,
                Kind::EndpointSlice | Kind::Pod => self.counts.endpoint_changes += count,
                Kind::Node | Kind::ServiceCidr | Kind::InterfaceAddresses => {}
            }
        }
        for (key, winner, loser) in &dirty.overridden {
            tracing::warn!(
                object = %key,
                %winner,
                %loser,
                "two sources have this object; one takes precedence"
            );
        }
        if !dirty.is_empty() {
            self.touched.services.extend(dirty.services.iter().cloned());
            self.touched.node |= !dirty.nodes.is_empty() || dirty.surroundings;
            // A refused Service may be accepted once it has changed.
            for service in &dirty.services {
                let held = self.quarantine.remove(service);
                self.read_wanted |= held.is_some_and(|held| !held.is_known);
            }
            self.history.push_back(before);
            if self.history.len() > HISTORY {
                self.history.pop_front();
            }
            if self.sources_ready {
                let changed = std::mem::take(&mut dirty.changed);
                self.backlog.push(Batch { since: now, updates: 1, changed, triggers });
            }
            self.dirty.merge(dirty);
        }
    }

    /// Brings `wanted` up to date with the model. The first compilation takes its slots from the
    /// kernel.
    fn compile(&mut self, seed: &State, now: Instant) -> Program {
        let seconds = self.clock.seconds(now);
        let mut dirty = std::mem::take(&mut self.dirty);
        self.backlog.depart();
        dirty.services.retain(|service| !self.is_held_back(service));
        self.update_locals(&dirty);
        let wanted = match self.wanted.take() {
            Some(mut wanted) => {
                if !dirty.is_empty() {
                    wanted.set_clock(seconds);
                    wanted.update(&self.model, &dirty);
                    self.report_left_out(&wanted, dirty.services.iter());
                    self.report_conflicts(&wanted, &dirty);
                    self.report_elsewhere(Some(&dirty.services));
                }
                if self.unread == 0 && wanted.kept().next().is_some() {
                    let services = wanted.kept().count();
                    tracing::info!(services, "all files read; removing Services without a source");
                    wanted.let_go(&self.model);
                }
                wanted
            }
            None => {
                let settings = Arc::clone(&self.settings);
                let mut wanted = Program::compile_at(&self.model, settings, seed, seconds);
                if self.unread > 0 {
                    wanted.keep(&self.model, seed);
                    self.report_kept(&wanted);
                }
                let services = self.model.services().map(|entry| &entry.object.key);
                self.report_left_out(&wanted, services);
                self.report_elsewhere(None);
                for conflict in wanted.conflicts() {
                    tracing::warn!(
                        frontend = %conflict.frontend,
                        winner = %conflict.winner,
                        losers = ?conflict.losers,
                        "conflicting claims on a frontend"
                    );
                }
                wanted
            }
        };
        self.wanted = Some(wanted.clone());
        wanted
    }

    /// Brings `locals` up to date with the model.
    fn update_locals(&mut self, dirty: &Dirty) {
        let Self { model, settings, locals, .. } = self;
        let mut update = |service: &NamespacedName| match local_view(model, settings, service) {
            Some(view) => {
                locals.insert(service.clone(), view);
            }
            None => {
                locals.remove(service);
            }
        };
        match self.wanted {
            Some(_) => dirty.services.iter().for_each(update),
            None => model.services().for_each(|entry| update(&entry.object.key)),
        }
    }

    fn report_left_out<'a>(
        &self,
        wanted: &Program,
        services: impl Iterator<Item = &'a NamespacedName>,
    ) {
        for entry in services.filter_map(|key| self.model.service(key)) {
            let service = &entry.object.key;
            for (port, endpoints) in wanted.left_out(service) {
                let most = MAX_AFFINITY_BACKENDS;
                let what = "more endpoints than session affinity supports";
                tracing::warn!(%port, left_out = endpoints, most, "{what}");
            }
        }
    }

    fn report_kept(&self, wanted: &Program) {
        const SHOWN: usize = 10;
        let names: Vec<String> = wanted.kept().take(SHOWN).map(ToString::to_string).collect();
        if !names.is_empty() {
            tracing::warn!(
                files = self.unread,
                services = wanted.kept().count(),
                first = %names.join(", "),
                "some files could not be read; keeping Services in the kernel that no source names"
            );
        }
    }

    /// Logs addresses of these Services, or of all, that belong to other Nodes; each only once
    /// while it lasts.
    fn report_elsewhere(&mut self, services: Option<&BTreeSet<NamespacedName>>) {
        let Self { model, settings, elsewhere, .. } = self;
        if settings.ipvs().is_none() {
            return;
        }
        let mut report = |key: &NamespacedName| {
            let found = model.service(key).into_iter().flat_map(|entry| {
                let found = resolve::elsewhere(model, settings, &entry.object);
                found.map(|(address, node)| (address, node.clone()))
            });
            let found: BTreeSet<(IpAddr, NodeName)> = found.collect();
            let told = elsewhere.remove(key).unwrap_or_default();
            for (address, node) in found.difference(&told) {
                let what = "not served at this address: it belongs to another node";
                tracing::warn!(service = %key, %address, %node, "{what}");
            }
            if !found.is_empty() {
                elsewhere.insert(key.clone(), found);
            }
        };
        match services {
            Some(services) => services.iter().for_each(report),
            None => model.services().for_each(|entry| report(&entry.object.key)),
        }
    }

    fn report_conflicts(&self, wanted: &Program, dirty: &Dirty) {
        for service in &dirty.services {
            for (frontend, winner) in wanted.lost_frontends(service) {
                tracing::warn!(%service, %frontend, %winner, "another Service takes precedence");
            }
        }
    }

    fn commit(&mut self, step: Step, now: Instant) -> Option<Request> {
        let Step { delta, suspects, program, base, repair } = step;
        if delta.is_empty() {
            self.failures = 0;
            self.quarantine.retain(|_, quarantine| quarantine.retry_at.is_some());
            self.suspect(&program, suspects, BTreeSet::new());
            self.acknowledged(program, self.model.clone(), self.locals.clone(), now);
            return None;
        }
        for op in delta.ops().filter(|_| tracing::enabled!(tracing::Level::TRACE)) {
            tracing::trace!(?op);
        }
        let model = self.model.clone();
        self.busy = Some(Busy::Committing(Box::new(Commit {
            program,
            model,
            locals: self.locals.clone(),
            suspects,
            started: now,
            repair,
        })));
        Some(Request::Commit { delta, base })
    }

    fn state(&mut self, result: Result<(State, DeltaBase), SinkError>, now: Instant) {
        self.busy = None;
        match result {
            Ok(reading) => self.reading = Some(reading),
            // This was only a check: nothing says that `applied` is wrong, and if it is, the next
            // commit will be refused.
            Err(error @ SinkError::Unavailable(_)) if self.applied.is_some() => {
                let pause = self.periods.verify.min(self.periods.backoff_max);
                self.verify_at = Some(now + pause);
                tracing::warn!(%error, retry_in = ?pause, "cannot compare the kernel's content");
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// Continues from the content that was read from the kernel.
    fn reconcile(&mut self, state: &State, base: DeltaBase, now: Instant) -> Option<Request> {
        self.adopt = false;
        self.verify_at = Some(now + self.periods.verify);
        let culprit = self.culprit.take().and_then(|tampering| tampering.culprit);
        // A difference from `applied` is drift; changes that arrived meanwhile are not.
        let believed = self.applied.take();
        let repair = believed.map(|believed| (Delta::reconcile(state, &believed), believed));
        let drift = repair.as_ref().map_or(0, |(repair, _)| repair.len());
        // A process that undoes every repair at once gets repairs less and less often.
        let is_disputed =
            drift > 0 && self.read_after.is_some_and(|at| now < at + REPAIR_SUCCESS_TIME);
        self.disputes = if is_disputed { self.disputes + 1 } else { 0 };
        let wait = self
            .disputes
            .checked_sub(IMMEDIATE_RETRIES)
            .map_or(Duration::ZERO, |n| self.pause(n + 1));
        let wait = wait.min(MAX_REPAIR_PAUSE);
        self.read_after = (drift > 0).then(|| now + wait);
        if drift > 0 {
            match culprit {
                Some(culprit) => tracing::warn!(
                    operations = drift,
                    process = %culprit.name,
                    pid = culprit.pid,
                    "another process has changed our tables; repairing"
                ),
                None => tracing::warn!(
                    operations = drift,
                    "our tables are not as we left them; repairing"
                ),
            }
        }
        // If others commit all the time, waiting for a generation that lasts would never end.
        let base = match base {
            DeltaBase::Read { .. } if self.failures >= IMMEDIATE_RETRIES => {
                DeltaBase::Read { generation: None }
            }
            DeltaBase::Read { .. } | DeltaBase::Believed => base,
        };
        let first = self.wanted.is_none();
        self.release(now);
        let mut wanted = self.compile(state, now);
        wanted.drain_as_held(&state.ipvs);
        self.wanted = Some(wanted.clone());
        let is_held_back = |service: &NamespacedName| self.is_held_back(service);
        let mut suspects = match &repair {
            // If the kernel held what `applied` says, the flows follow from what changes now.
            Some((repair, believed)) if repair.is_empty() => Suspects::between(believed, &wanted),
            Some((_, believed)) => {
                let mut suspects = Suspects::everywhere(state, &wanted, is_held_back);
                suspects.keep_gone(&Suspects::between(believed, &wanted));
                suspects
            }
            None => Suspects::everywhere(state, &wanted, is_held_back),
        };
        suspects.merge(std::mem::take(&mut self.uncertain));
        let mut delta = match repair {
            // Comparing a whole state takes long, and usually nothing else has changed.
            Some((repair, believed)) if Delta::between(&believed, &wanted).is_empty() => repair,
            Some(_) | None => Delta::reconcile(state, &wanted),
        };
        // The kernel's content of a refused Service stays as it is until the Service is retried.
        delta.groups.retain(|group| !self.is_held_back(&group.service));
        if first {
            tracing::info!(operations = delta.len(), "adopted the kernel's content");
        }
        self.commit(Step { delta, suspects, program: wanted, base, repair: drift > 0 }, now)
    }

    fn committed(&mut self, result: Result<Outcome, SinkError>, now: Instant) {
        let Some(Busy::Committing(commit)) = self.busy.take() else { return };
        let Commit { mut program, model, mut locals, suspects, started, repair } = *commit;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                // A part of it may have been committed.
                self.uncertain.keep_gone(&suspects);
                return self.failed(&error, now);
            }
        };
        self.failures = 0;
        self.counts.transactions += outcome.transactions;
        self.counts.operations += outcome.ops;
        self.counts.bytes += outcome.bytes;
        self.counts.failures += outcome.refused.len();
        self.counts.repairs += usize::from(repair);
        for refusal in &outcome.refused {
            let service = &refusal.service;
            let attempts = self.quarantine.get(service).map_or(0, |known| known.attempts) + 1;
            let pause = self.pause(attempts);
            let retry_at = Some(now + pause);
            tracing::error!(
                %service,
                error = %refusal.error,
                retry_in = ?pause,
                "the kernel refused this Service; the others are not affected"
            );
            let known = self.quarantine.get(service).is_none_or(|known| known.is_known);
            let is_known = known && self.applied.is_some();
            self.quarantine.insert(service.clone(), Quarantine { attempts, retry_at, is_known });
            let empty = Program::new(Arc::clone(&self.settings));
            let held = self.applied.as_ref().unwrap_or(&empty);
            program.restore(service, held);
            if let Some(wanted) = &mut self.wanted {
                wanted.restore(service, held);
            }
            // Load balancers must not be told of endpoints that are not programmed.
            for locals in [&mut locals, &mut self.locals] {
                restore(locals, service, &self.applied_locals);
            }
        }
        // Services that were retried and not refused again are accepted.
        self.quarantine.retain(|_, quarantine| quarantine.retry_at.is_some());
        tracing::debug!(
            operations = outcome.ops,
            transactions = outcome.transactions,
            bytes = outcome.bytes,
            elapsed_us = u64::try_from((now - started).as_micros()).unwrap_or(u64::MAX),
            "committed"
        );
        let before = self.applied.clone();
        let after = program.clone();
        self.told = Some(Committed { before, after, operations: outcome.ops });
        let refused = outcome.refused.iter().map(|refusal| refusal.service.clone()).collect();
        self.suspect(&program, suspects, refused);
        self.acknowledged(program, model, locals, now);
        if !outcome.refused.is_empty() {
            // An element that a refused Service shares with others was left out with it, although
            // the others need it, so the kernel has to be read.
            self.applied = None;
        }
    }

    /// Takes the last commit that the kernel has acknowledged.
    pub fn take_committed(&mut self) -> Option<Committed> {
        self.told.take()
    }

    /// Takes what has changed since the last call.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Takes the flows to check, and the rules that the kernel has now.
    pub fn take_suspects(&mut self) -> Option<(Suspects, Rules)> {
        self.suspects.take()
    }

    /// Notes flows that may contradict the rules, now that the kernel holds the program. For
    /// refused Services the program still has what they had before: their flows wait for the next
    /// try.
    fn suspect(
        &mut self,
        program: &Program,
        suspects: Suspects,
        mut unknown: BTreeSet<NamespacedName>,
    ) {
        if suspects.is_empty() && self.suspects.is_none() {
            return;
        }
        let held_back = self.quarantine.iter().filter(|(_, it)| it.retry_at.is_some());
        unknown.extend(held_back.map(|(service, _)| service.clone()));
        let addresses = Family::ALL.map(|family| self.node_port_ips(program, family));
        let addresses = addresses.into_iter().flatten().collect();
        let rules = Rules::new(program, addresses, unknown);
        let (mut all, _) =
            self.suspects.take().unwrap_or_else(|| (Suspects::default(), rules.clone()));
        all.merge(suspects);
        self.suspects = Some((all, rules));
    }

    /// Returns the addresses that node ports answer on.
    fn node_port_ips(&self, program: &Program, family: Family) -> BTreeSet<IpAddr> {
        if let Some(some) = program.node_port_ips(family) {
            return some.into_iter().collect();
        }
        let all = self.model.interface_addresses();
        let all = all.into_iter().flat_map(|entry| entry.object.addresses.iter().copied());
        all.filter(|ip| Family::of(*ip) == family && !ip.is_loopback()).collect()
    }

    fn acknowledged(&mut self, program: Program, model: Model, locals: Locals, now: Instant) {
        self.applied = Some(program);
        self.applied_model = model;
        self.applied_locals = locals;
        self.counts.acknowledged += 1;
        for batch in self.backlog.arrive().into_iter().filter(|batch| batch.updates > 0) {
            self.latencies.push((now - batch.since, batch.updates));
            let took = |at| now.saturating_duration_since(at);
            self.programmed
                .extend(batch.triggers.into_iter().map(|(family, at)| (family, took(at))));
        }
        self.note_idle_picks(now);
        self.note_draining(now);
    }

    /// After a failure the kernel's content is unknown: it is read, and the next step continues
    /// from there.
    fn failed(&mut self, error: &SinkError, now: Instant) {
        self.applied = None;
        self.reading = None;
        self.adopt = true;
        self.failures += 1;
        self.counts.failures += 1;
        self.backlog.turn_back();
        if self.sources_ready {
            self.backlog.owe(now);
        }
        let pause = match error {
            // `applied` was wrong, not the kernel: read at once, unless this keeps happening.
            SinkError::Stale | SinkError::Unknown(_) if self.failures <= IMMEDIATE_RETRIES => {
                Duration::ZERO
            }
            SinkError::Stale
            | SinkError::Unknown(_)
            | SinkError::Refused(_)
            | SinkError::Owned { .. }
            | SinkError::Unavailable(_) => self.pause(self.failures),
        };
        self.not_before = Some(now + pause);
        let source = std::error::Error::source(error).map(ToString::to_string);
        match error {
            SinkError::Stale | SinkError::Unknown(_) => {
                tracing::warn!(%error, source, retry_in = ?pause, "reading the kernel back");
            }
            SinkError::Refused(_) | SinkError::Owned { .. } | SinkError::Unavailable(_) => {
                tracing::error!(%error, source, retry_in = ?pause, "cannot program the kernel");
            }
        }
    }

    fn pause(&self, attempts: u32) -> Duration {
        let doubled = self.periods.backoff.saturating_mul(1 << attempts.min(16).saturating_sub(1));
        doubled.min(self.periods.backoff_max)
    }

    /// Returns whether a Service was refused and waits for its next try.
    fn is_held_back(&self, service: &NamespacedName) -> bool {
        self.quarantine.get(service).is_some_and(|quarantine| quarantine.retry_at.is_some())
    }

    /// Retries refused Services whose time has come.
    fn release(&mut self, now: Instant) {
        for (service, quarantine) in &mut self.quarantine {
            if quarantine.retry_at.is_some_and(|at| now >= at) {
                quarantine.retry_at = None;
                self.read_wanted |= !quarantine.is_known;
                self.dirty.services.insert(service.clone());
            }
        }
    }

    fn note_idle_picks(&mut self, now: Instant) {
        let Some(applied) = &self.applied else { return };
        let idle: Vec<PickId> = applied.idle_picks().collect();
        self.idle_picks.retain(|pick, _| idle.contains(pick));
        for pick in idle {
            self.idle_picks.entry(pick).or_insert(now);
        }
    }

    /// Removes draining real servers that have no connections any more, or whose time is over.
    fn retire_reals(&mut self, mut wanted: Program, now: Instant) -> Program {
        let seconds = self.clock.seconds(now);
        let over = wanted.draining().filter(|(_, until)| *until <= seconds).map(|(real, _)| real);
        let gone: Vec<Draining> = over.chain(self.drained.drain(..)).collect();
        for real in gone {
            wanted.retire_real(real);
        }
        self.wanted = Some(wanted.clone());
        wanted
    }

    /// Asks which draining real servers have no connections, if it is time for that.
    fn count(&mut self, now: Instant) -> Option<Request> {
        if self.drain_at.is_none_or(|at| now < at) {
            return None;
        }
        let draining = self.applied.as_ref()?.draining().map(|(real, _)| real).collect();
        self.busy = Some(Busy::Counting);
        self.drain_at = Some(now + self.periods.drain);
        Some(Request::Idle(draining))
    }

    fn counted(&mut self, result: Result<Vec<Draining>, SinkError>) {
        self.busy = None;
        match result {
            Ok(idle) => self.drained = idle,
            // They are removed when their time is over.
            Err(error) => tracing::warn!(%error, "cannot count the connections of real servers"),
        }
    }

    /// Sets when to check draining real servers next.
    fn note_draining(&mut self, now: Instant) {
        let Some(applied) = &self.applied else { return };
        let first = applied.draining().map(|(_, until)| self.clock.instant(until)).min();
        let look = self.drain_at.unwrap_or(now + self.periods.drain);
        self.drain_at = first.map(|first| first.min(look));
    }

    /// Removes pick chains that have been unused for a long time.
    fn retire_picks(&mut self, mut wanted: Program, now: Instant) -> Program {
        let period = self.periods.idle_pick;
        self.idle_picks.retain(|pick, since| {
            let due = now >= *since + period;
            if due {
                wanted.retire(*pick);
            }
            !due
        });
        self.wanted = Some(wanted.clone());
        wanted
    }
}

/// Restores the previous view of a Service.
fn restore(locals: &mut Locals, service: &NamespacedName, from: &Locals) {
    match from.get(service) {
        Some(view) => {
            locals.insert(service.clone(), view.clone());
        }
        None => {
            locals.remove(service);
        }
    }
}
