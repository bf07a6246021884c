//! The engine: owns the model, decides what to ask of the kernel, and never waits.
//!
//! It is a state machine without I/O or a clock of its own: events come in with the time they came
//! at, and at most one request to the sink is under way. Whatever arrives meanwhile forms the next
//! batch, so that a change is committed at once when idle and coalesced when busy.
//!
//! `applied` is what the kernel has acknowledged, `wanted` what the sources say; the delta always
//! leads from one to the other. So a failed commit loses nothing: the kernel is read back, and the
//! next delta leads from what it holds. Start, recovery and drift are that same path.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im::OrdMap;
use rulec_compiler::change::{Change, Origin};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::nft::flows::{Rules, Suspects};
use rulec_compiler::nft::program::{Draining, PickId};
use rulec_compiler::nft::{Delta, MAX_AFFINITY_BACKENDS, Program, State};
use rulec_compiler::object::Kind;
use rulec_compiler::resolve::local::{LocalView, local_view};
use rulec_compiler::{Dirty, Model, Settings};
use rulec_sinks::nft::watch::Tampering;
use rulec_sinks::{Base, Outcome, SinkError};

mod backlog;
#[cfg(test)]
mod tests;

use backlog::{Backlog, Batch};

/// Services with a `Local` policy.
pub type Locals = OrdMap<NamespacedName, LocalView>;

/// How many past snapshots of the model are kept. Each costs what has changed since.
const HISTORY: usize = 16;

/// The longest pause before a table that somebody disputes is repaired again: short for those whose
/// connections wait for it, long enough not to fill a core.
const DISPUTE: Duration = Duration::from_millis(250);

/// A repair that holds for so long was one.
const LASTING: Duration = Duration::from_secs(1);

/// How often in a row a wrong belief is corrected at once.
const PATIENCE: u32 = 3;

/// The times the engine keeps.
#[derive(Clone, Copy, Debug)]
pub struct Periods {
    /// Between two looks at whether the kernel still holds what it should.
    pub verify: Duration,
    /// How long a pick chain stays when nobody uses it.
    pub idle_pick: Duration,
    /// The first pause after a failure; it doubles up to `backoff_max`.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Between two looks at whether real servers on their way out still have connections.
    pub drain: Duration,
}

impl Default for Periods {
    fn default() -> Self {
        Self {
            verify: Duration::from_secs(60),
            idle_pick: Duration::from_secs(600),
            backoff: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            drain: Duration::from_secs(2),
        }
    }
}

/// What the kernel's monotonic clock shows at an instant. It outlives the process, so that what a
/// kernel holds can say when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    at: Instant,
    seconds: u32,
}

impl Clock {
    /// A clock that shows so many seconds at an instant.
    pub fn new(at: Instant, seconds: u32) -> Self {
        Self { at, seconds }
    }

    /// What it shows.
    fn seconds(self, now: Instant) -> u32 {
        let since = now.saturating_duration_since(self.at).as_secs();
        self.seconds.saturating_add(u32::try_from(since).unwrap_or(u32::MAX))
    }

    /// When it shows so many seconds.
    fn instant(self, seconds: u32) -> Instant {
        self.at + Duration::from_secs(seconds.saturating_sub(self.seconds).into())
    }
}

/// Everything that can wake the engine, but for the passing of time.
#[derive(Debug)]
pub enum Event {
    /// A source has something to say. Beside it, when what set off changes of EndpointSlices happened,
    /// and their families.
    Changes(Origin, Vec<Change>, Vec<(Family, Instant)>),
    /// Every source has delivered its first complete list: from now on, what no source names may be
    /// removed.
    SourcesReady,
    /// The sink has done what it was asked.
    Reply(Reply),
    /// Somebody else has changed our tables.
    Tampered(Tampering),
}

/// What the engine asks of the sink, one at a time.
#[derive(Debug)]
pub enum Request {
    /// Take over what an earlier process has left, and read it.
    Adopt,
    /// Read what the kernel holds.
    Read,
    /// Commit a delta.
    Commit {
        /// The delta.
        delta: Delta,
        /// What it leads from.
        base: Base,
    },
    /// Say which of these real servers have no connections.
    Idle(Vec<Draining>),
}

/// What the sink says when it is done.
#[derive(Debug)]
pub enum Reply {
    /// What the kernel holds.
    State(Result<(State, Base), SinkError>),
    /// What was committed.
    Committed(Result<Outcome, SinkError>),
    /// The real servers that have no connections.
    Idle(Result<Vec<Draining>, SinkError>),
}

/// Counts of what has happened, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Transactions the kernel has acknowledged.
    pub transactions: usize,
    /// Operations in them.
    pub operations: usize,
    /// Bytes of netlink they took.
    pub bytes: usize,
    /// Times the kernel came to hold what was wanted, also when that took no transaction.
    pub acknowledged: usize,
    /// Times the kernel could not be read or programmed, or refused a Service.
    pub failures: usize,
    /// Services that have come, gone, or changed what they mean.
    pub service_changes: usize,
    /// EndpointSlices and Pods, likewise.
    pub endpoint_changes: usize,
    /// Changes of objects that changed nothing in the kernel.
    pub suppressed: usize,
    /// Times the kernel was found to hold something else than it should, and was repaired.
    pub repairs: usize,
}

/// A Service the kernel has refused.
#[derive(Debug)]
struct Quarantine {
    attempts: u32,
    /// `None` while it is being tried again.
    retry_at: Option<Instant>,
    /// Whether `applied` says what the kernel holds of it. It does not if it was refused on the way
    /// from what was read.
    is_known: bool,
}

/// What the sink is busy with.
#[derive(Debug)]
enum Busy {
    Reading,
    /// Looking for idle real servers.
    Counting,
    /// Committing: this is what is applied when it succeeds.
    Committing(Box<Commit>),
}

/// What is under way.
#[derive(Debug)]
struct Commit {
    program: Program,
    /// What it was compiled from.
    model: Model,
    /// Its Services with a `Local` policy.
    locals: Locals,
    /// The flows that may contradict it then.
    suspects: Suspects,
    started: Instant,
    repair: bool,
}

/// A way from what the kernel holds to what it shall hold.
struct Step {
    delta: Delta,
    /// The flows that may contradict the rules afterwards.
    suspects: Suspects,
    /// What the kernel holds afterwards.
    program: Program,
    base: Base,
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
    dirty: Dirty,
    wanted: Option<Program>,
    applied: Option<Program>,
    /// What `applied` was compiled from.
    applied_model: Model,
    /// The Services with a `Local` policy, as compiled with `wanted`.
    locals: Locals,
    /// The same as the kernel last acknowledged it.
    applied_locals: Locals,
    backlog: Backlog,
    /// How long acknowledged updates took, and how many took so long. Not yet asked for.
    latencies: Vec<(Duration, u32)>,
    /// How long it took from what set off acknowledged changes. Not yet asked for.
    programmed: Vec<(Family, Duration)>,
    busy: Option<Busy>,
    /// What the kernel was found to hold, not yet looked at.
    reading: Option<(State, Base)>,
    /// The first reading takes tables over, as does every one after trouble.
    adopt: bool,
    failures: u32,
    not_before: Option<Instant>,
    verify_at: Option<Instant>,
    read_wanted: bool,
    /// Not to read before: somebody undoes what we repair.
    read_after: Option<Instant>,
    /// Repairs in a row, none of which lasted.
    disputes: u32,
    culprit: Option<Tampering>,
    quarantine: BTreeMap<NamespacedName, Quarantine>,
    idle_picks: BTreeMap<PickId, Instant>,
    clock: Clock,
    /// When to look next whether real servers that drain are idle.
    drain_at: Option<Instant>,
    /// Real servers that were found idle.
    drained: Vec<Draining>,
    /// Flows to look at, by these rules. Not yet asked for.
    suspects: Option<(Suspects, Rules)>,
    /// Frontends that went with commits of which it is not known what became of them.
    uncertain: Suspects,
    counts: Counts,
}

impl Engine {
    /// An engine that knows nothing yet.
    pub fn new(settings: Settings, periods: Periods) -> Self {
        Self {
            settings: Arc::new(settings),
            periods,
            model: Model::default(),
            history: VecDeque::new(),
            sources_ready: false,
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
            clock: Clock::new(Instant::now(), 0),
            drain_at: None,
            drained: Vec::new(),
            suspects: None,
            uncertain: Suspects::default(),
            counts: Counts::default(),
        }
    }

    /// Goes by the kernel's clock.
    pub fn set_clock(&mut self, clock: Clock) {
        self.clock = clock;
    }

    /// Takes in an event. Call `next_request` after the last of those that are there.
    pub fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Changes(origin, changes, triggers) => {
                self.changes(origin, changes, triggers, now);
            }
            Event::SourcesReady => {
                self.sources_ready = true;
                // What came until now had to wait for the others: nobody is late but from here on.
                self.backlog.owe(now);
            }
            Event::Reply(Reply::State(result)) => self.state(result, now),
            Event::Reply(Reply::Committed(result)) => self.committed(result, now),
            Event::Reply(Reply::Idle(result)) => self.counted(result),
            Event::Tampered(tampering) => {
                self.read_wanted = true;
                self.culprit = Some(tampering);
            }
        }
    }

    /// What to ask of the sink now, if anything. It is busy until its reply is handled.
    pub fn next_request(&mut self, now: Instant) -> Option<Request> {
        let waiting = self.not_before.is_some_and(|at| now < at);
        if self.busy.is_some() || waiting {
            return None;
        }
        self.not_before = None;
        if !self.sources_ready {
            // What the kernel holds can be read while the sources are at their first lists. Nothing
            // is written before they are complete.
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
        // One that waits for a disputed table to come to rest goes on from what it believes.
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
        let step = Step { delta, suspects, program: wanted, base: Base::Believed, repair: false };
        self.commit(step, now).or_else(|| self.count(now))
    }

    /// When `next_request` has something to ask even if no event comes. It has something to ask at the
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

    /// The model as it is now.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Past models, the oldest first.
    pub fn history(&self) -> impl Iterator<Item = &Model> {
        self.history.iter()
    }

    /// What the kernel has acknowledged and what that was compiled from, unless that is not known at
    /// the moment.
    pub fn applied(&self) -> Option<(&Program, &Model)> {
        self.applied.as_ref().map(|program| (program, &self.applied_model))
    }

    /// The settings.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Whether the kernel holds all that the sources say.
    pub fn is_settled(&self) -> bool {
        self.sources_ready
            && self.busy.is_none()
            && self.reading.is_none()
            && self.dirty.is_empty()
            && !self.read_wanted
            && self.applied.is_some()
            && self.quarantine.is_empty()
    }

    /// The Services the kernel has refused.
    pub fn quarantined(&self) -> impl Iterator<Item = &NamespacedName> {
        self.quarantine.keys()
    }

    /// Since when the kernel has not held what the sources say; `None` if it does. What waits for a
    /// source's first list does not count, nor does a Service that the kernel has refused.
    pub fn behind_since(&self) -> Option<Instant> {
        self.backlog.oldest()
    }

    /// How many objects of a kind have changed without the kernel's acknowledgement.
    pub fn pending(&self, kind: Kind) -> usize {
        self.backlog.pending(kind)
    }

    /// How long updates took from `handle` to the kernel's acknowledgement, each with the number of
    /// those that took so long, since this was last asked. The first lists are not among them: how
    /// long they take is a matter of the whole cluster.
    pub fn take_latencies(&mut self) -> Vec<(Duration, u32)> {
        std::mem::take(&mut self.latencies)
    }

    /// How long it took from what set off changes of EndpointSlices to the kernel's acknowledgement, by
    /// the family of the slice, since this was last asked.
    pub fn take_programmed(&mut self) -> Vec<(Family, Duration)> {
        std::mem::take(&mut self.programmed)
    }

    /// The Services with a `Local` policy, as the kernel last acknowledged them.
    pub fn applied_locals(&self) -> &Locals {
        &self.applied_locals
    }

    /// What the sources say, compiled; `None` before the first compilation.
    pub fn wanted(&self) -> Option<&Program> {
        self.wanted.as_ref()
    }

    /// What has happened so far.
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
            tracing::warn!(object = %key, %winner, %loser, "two sources have this object; one counts");
        }
        if !dirty.is_empty() {
            // A refused Service that has changed is another Service.
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

    /// Brings `wanted` up to date with the model. Slots of a first compilation come from the kernel.
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
                }
                wanted
            }
            None => {
                let settings = Arc::clone(&self.settings);
                let wanted = Program::compile_at(&self.model, settings, seed, seconds);
                let services = self.model.services().map(|entry| &entry.object.key);
                self.report_left_out(&wanted, services);
                for conflict in wanted.conflicts() {
                    tracing::warn!(
                        frontend = %conflict.frontend,
                        winner = %conflict.winner,
                        losers = ?conflict.losers,
                        "several Services ask for one frontend"
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
                let what = "more endpoints than session affinity has room for";
                tracing::warn!(%port, left_out = endpoints, most, "{what}");
            }
        }
    }

    fn report_conflicts(&self, wanted: &Program, dirty: &Dirty) {
        for service in &dirty.services {
            for (frontend, winner) in wanted.lost_frontends(service) {
                tracing::warn!(%service, %frontend, %winner, "another Service has this frontend");
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

    fn state(&mut self, result: Result<(State, Base), SinkError>, now: Instant) {
        self.busy = None;
        match result {
            Ok(reading) => self.reading = Some(reading),
            // Only a look: nothing says that what we believe is wrong, and if it is, the next commit
            // is refused and says so.
            Err(error @ SinkError::Unavailable(_)) if self.applied.is_some() => {
                let pause = self.periods.verify.min(self.periods.backoff_max);
                self.verify_at = Some(now + pause);
                tracing::warn!(%error, retry_in = ?pause, "cannot compare the kernel");
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// Goes on from what the kernel was found to hold.
    fn reconcile(&mut self, state: &State, base: Base, now: Instant) -> Option<Request> {
        self.adopt = false;
        self.verify_at = Some(now + self.periods.verify);
        let culprit = self.culprit.take().and_then(|tampering| tampering.culprit);
        // A difference to what we believed is drift; changes that came in meanwhile are not.
        let believed = self.applied.take();
        let repair = believed.map(|believed| (Delta::reconcile(state, &believed), believed));
        let drift = repair.as_ref().map_or(0, |(repair, _)| repair.len());
        // Who undoes every repair at once gets it more and more seldom.
        let is_disputed = drift > 0 && self.read_after.is_some_and(|at| now < at + LASTING);
        self.disputes = if is_disputed { self.disputes + 1 } else { 0 };
        let wait =
            self.disputes.checked_sub(PATIENCE).map_or(Duration::ZERO, |n| self.pause(n + 1));
        let wait = wait.min(DISPUTE);
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
        // Where others commit all the time, waiting for a moment without would be for ever.
        let base = match base {
            Base::Read { .. } if self.failures >= PATIENCE => Base::Read { generation: None },
            Base::Read { .. } | Base::Believed => base,
        };
        let first = self.wanted.is_none();
        self.release(now);
        let mut wanted = self.compile(state, now);
        wanted.drain_as_held(&state.ipvs);
        self.wanted = Some(wanted.clone());
        let is_held_back = |service: &NamespacedName| self.is_held_back(service);
        let mut suspects = match &repair {
            // Where the kernel held what we believed, flows follow from what changes now.
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
            // Comparing a whole kernel takes its time, and mostly nothing else has changed.
            Some((repair, believed)) if Delta::between(&believed, &wanted).is_empty() => repair,
            Some(_) | None => Delta::reconcile(state, &wanted),
        };
        // What the kernel holds of a refused Service stays as it is until it is tried again.
        delta.groups.retain(|group| !self.is_held_back(&group.service));
        if first {
            tracing::info!(operations = delta.len(), "took over what the kernel holds");
        }
        self.commit(Step { delta, suspects, program: wanted, base, repair: drift > 0 }, now)
    }

    fn committed(&mut self, result: Result<Outcome, SinkError>, now: Instant) {
        let Some(Busy::Committing(commit)) = self.busy.take() else { return };
        let Commit { mut program, model, mut locals, suspects, started, repair } = *commit;
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => {
                // Some of it may have been done.
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
            // Load balancers must not be sent to what is not there.
            for locals in [&mut locals, &mut self.locals] {
                restore(locals, service, &self.applied_locals);
            }
        }
        // Those that were tried again and not refused are well.
        self.quarantine.retain(|_, quarantine| quarantine.retry_at.is_some());
        tracing::info!(
            operations = outcome.ops,
            transactions = outcome.transactions,
            bytes = outcome.bytes,
            elapsed_us = u64::try_from((now - started).as_micros()).unwrap_or(u64::MAX),
            "committed"
        );
        let refused = outcome.refused.iter().map(|refusal| refusal.service.clone()).collect();
        self.suspect(&program, suspects, refused);
        self.acknowledged(program, model, locals, now);
        if !outcome.refused.is_empty() {
            // An element that a refused Service shares with others was left out with it, though the
            // others need it: the kernel tells.
            self.applied = None;
        }
    }

    /// Flows to look at, and the rules that the kernel has now.
    pub fn take_suspects(&mut self) -> Option<(Suspects, Rules)> {
        self.suspects.take()
    }

    /// Notes flows that may contradict the rules now that the kernel holds the program. It still leads to
    /// what refused Services had: their flows wait for the next try.
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

    /// The addresses that node ports answer on.
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

    /// After any failure, what the kernel holds is not known: read it, and go on from there.
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
            // Belief was wrong, not the kernel: look at once, unless it keeps happening.
            SinkError::Stale | SinkError::Unknown(_) if self.failures <= PATIENCE => Duration::ZERO,
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

    /// Whether a Service waits, refused, for its next try.
    fn is_held_back(&self, service: &NamespacedName) -> bool {
        self.quarantine.get(service).is_some_and(|quarantine| quarantine.retry_at.is_some())
    }

    /// Refused Services whose time has come are tried again.
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

    /// Real servers go when they have no connections any more, or when their time is over.
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

    /// Asks which real servers on their way out have no connections, if it is time for that.
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
            // They go when their time is over.
            Err(error) => tracing::warn!(%error, "cannot count the connections of real servers"),
        }
    }

    /// Sets when to look at real servers on their way out.
    fn note_draining(&mut self, now: Instant) {
        let Some(applied) = &self.applied else { return };
        let first = applied.draining().map(|(_, until)| self.clock.instant(until)).min();
        let look = self.drain_at.unwrap_or(now + self.periods.drain);
        self.drain_at = first.map(|first| first.min(look));
    }

    /// Pick chains that nobody has used for long go.
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

/// Puts back what was known of a Service.
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
