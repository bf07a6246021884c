//! The engine: owns the model, decides what to request from the kernel, and never waits.
//!
//! It is a state machine without I/O or a clock of its own: each event comes with its time, and at
//! most one request to the sink is pending. Events that arrive meanwhile form the next batch, so
//! that a change is committed at once when the sink is idle, and coalesced when it is busy.
//!
//! `applied` is what the kernel has acknowledged, `wanted` is what the sources say, and the delta
//! always leads from one to the other. So a failed commit loses nothing: the kernel is read back,
//! and the next delta starts from what it holds. Start, recovery and drift take that same path.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use im::OrdMap;
use rulec_compiler::change::{Change, Origin};
use rulec_compiler::ipvs::Draining;
use rulec_compiler::name::{NamespacedName, NodeName};
use rulec_compiler::net::Family;
use rulec_compiler::nft::flows::{Rules, Suspects};
use rulec_compiler::nft::{Delta, MAX_AFFINITY_BACKENDS, Program, State};
use rulec_compiler::object::Kind;
use rulec_compiler::resolve;
use rulec_compiler::resolve::local::{LocalView, local_view};
use rulec_compiler::{Dirty, Model, Settings};

mod backlog;
mod backoff;
mod clock;
mod committed;
mod counts;
mod delays;
mod draining;
mod drift;
mod event;
pub mod fake;
mod flows;
mod history;
mod idle;
mod periods;
mod quarantine;
mod recovery;
mod request;
pub mod sink;
#[cfg(test)]
mod tests;
mod touched;

use backlog::{Backlog, Batch};
use backoff::Backoff;
pub use clock::Clock;
pub use committed::Committed;
pub use counts::Counts;
use delays::Delays;
use draining::DrainCheck;
use drift::Drift;
pub use event::Event;
use flows::FlowChecks;
use history::History;
use idle::IdlePicks;
pub use periods::Periods;
use quarantine::Quarantine;
use recovery::Recovery;
pub use request::{Reply, Request, answer};
pub use sink::{Culprit, DeltaBase, Outcome, Owner, Refusal, Sink, SinkError, Tampering};
pub use touched::Touched;

/// Services with a `Local` policy.
pub type Locals = OrdMap<NamespacedName, LocalView>;

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
    model: Model,
    history: History,
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
    delays: Delays,
    busy: Option<Busy>,
    /// The kernel's content as it was read, not yet reconciled.
    reading: Option<(State, DeltaBase)>,
    recovery: Recovery,
    drift: Drift,
    quarantine: Quarantine,
    idle_picks: IdlePicks,
    draining: DrainCheck,
    flows: FlowChecks,
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
        let backoff = Backoff::new(&periods);
        Self {
            settings: Arc::new(settings),
            model: Model::default(),
            history: History::default(),
            sources_ready: false,
            unread: 0,
            dirty: Dirty::default(),
            wanted: None,
            applied: None,
            applied_model: Model::default(),
            locals: Locals::new(),
            applied_locals: Locals::new(),
            backlog: Backlog::default(),
            delays: Delays::default(),
            busy: None,
            reading: None,
            recovery: Recovery::new(backoff),
            drift: Drift::new(&periods),
            quarantine: Quarantine::new(backoff),
            idle_picks: IdlePicks::new(&periods),
            draining: DrainCheck::new(&periods, Clock::new(now, 0)),
            flows: FlowChecks::default(),
            told: None,
            elsewhere: BTreeMap::new(),
            touched: Touched::default(),
            counts: Counts::default(),
        }
    }

    /// Sets the kernel's clock.
    pub fn set_clock(&mut self, clock: Clock) {
        self.draining.set_clock(clock);
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
            Event::Tampered(tampering) => self.drift.tampered(tampering),
        }
    }

    /// Returns the next request to the sink, if any. The sink is busy until its reply is handled.
    pub fn next_request(&mut self, now: Instant) -> Option<Request> {
        if self.busy.is_some() || !self.recovery.may_request(now) {
            return None;
        }
        if !self.sources_ready {
            // The kernel can be read while the sources deliver their first lists, but nothing is
            // written before they are complete.
            return self.reading.is_none().then(|| self.read());
        }
        if let Some((state, base)) = self.reading.take_if(|_| !self.drift.is_read_wanted()) {
            return self.reconcile(&state, base, now);
        }
        self.reading = None;
        self.retry_refused(now);
        // While a read is put off, changes continue from `applied`.
        let is_read_due = self.drift.is_read_due(now);
        let Some(applied) = self.applied.clone().filter(|_| !is_read_due) else {
            self.drift.read_begins();
            return Some(self.read());
        };
        let wanted = self.compile(&State::default(), now);
        let wanted = self.retire_unused(wanted, now);
        let delta = Delta::between(&applied, &wanted);
        let suspects = Suspects::between(&applied, &wanted);
        let step =
            Step { delta, suspects, program: wanted, base: DeltaBase::Believed, repair: false };
        self.commit(step, now).or_else(|| self.count(now))
    }

    /// Reads the kernel.
    fn read(&mut self) -> Request {
        self.busy = Some(Busy::Reading);
        self.recovery.read()
    }

    /// Returns when `next_request` has something to do even without an event. It always has at the
    /// very start.
    pub fn deadline(&self) -> Option<Instant> {
        if self.busy.is_some() {
            return None;
        }
        self.recovery.deadline().or_else(|| {
            let deadlines = [
                self.drift.deadline(),
                self.quarantine.deadline(),
                self.idle_picks.deadline(),
                self.draining.deadline(),
            ];
            deadlines.into_iter().flatten().min()
        })
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
            && !self.drift.is_read_wanted()
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
        self.quarantine.services()
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
        self.delays.take_updates()
    }

    /// Takes how long it took from the triggers of changes of EndpointSlices to the kernel's
    /// acknowledgement, by the family of the slice.
    pub fn take_programmed(&mut self) -> Vec<(Family, Duration)> {
        self.delays.take_programmed()
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
                if self.quarantine.release(service) {
                    self.drift.want_read();
                }
            }
            self.history.push(before);
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
        let seconds = self.draining.seconds(now);
        let mut dirty = std::mem::take(&mut self.dirty);
        self.backlog.depart();
        dirty.services.retain(|service| !self.quarantine.is_held_back(service));
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
            self.recovery.succeeded();
            self.quarantine.release_accepted();
            self.acknowledged(program, self.model.clone(), self.locals.clone(), suspects, now);
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
                self.drift.read_failed(&error, now);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    /// Continues from the content that was read from the kernel.
    fn reconcile(&mut self, state: &State, base: DeltaBase, now: Instant) -> Option<Request> {
        self.recovery.adopted();
        // A difference from `applied` is drift; changes that arrived meanwhile are not.
        let believed = self.applied.take();
        let repair = believed.map(|believed| (Delta::reconcile(state, &believed), believed));
        let drift = repair.as_ref().map_or(0, |(repair, _)| repair.len());
        self.drift.compared(drift, now);
        let base = self.recovery.base(base);
        let first = self.wanted.is_none();
        self.retry_refused(now);
        let mut wanted = self.compile(state, now);
        wanted.drain_as_held(&state.ipvs);
        self.wanted = Some(wanted.clone());
        let is_held_back = |service: &NamespacedName| self.quarantine.is_held_back(service);
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
        suspects.merge(self.flows.take_uncertain());
        let mut delta = match repair {
            // Comparing a whole state takes long, and usually nothing else has changed.
            Some((repair, believed)) if Delta::between(&believed, &wanted).is_empty() => repair,
            Some(_) | None => Delta::reconcile(state, &wanted),
        };
        // The kernel's content of a refused Service stays as it is until the Service is retried.
        delta.groups.retain(|group| !self.quarantine.is_held_back(&group.service));
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
                self.flows.failed(&suspects);
                return self.failed(&error, now);
            }
        };
        self.recovery.succeeded();
        self.counts.transactions += outcome.transactions;
        self.counts.operations += outcome.ops;
        self.counts.bytes += outcome.bytes;
        self.counts.failures += outcome.refused.len();
        self.counts.repairs += usize::from(repair);
        for refusal in &outcome.refused {
            let service = &refusal.service;
            self.quarantine.refuse(refusal, self.applied.is_some(), now);
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
        self.quarantine.release_accepted();
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
        self.acknowledged(program, model, locals, suspects, now);
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
        self.flows.take()
    }

    fn acknowledged(
        &mut self,
        program: Program,
        model: Model,
        locals: Locals,
        suspects: Suspects,
        now: Instant,
    ) {
        self.flows.acknowledged(suspects, &program, &self.model, self.quarantine.held_back());
        self.idle_picks.follow(program.idle_picks(), now);
        self.draining.follow(program.draining(), now);
        self.applied = Some(program);
        self.applied_model = model;
        self.applied_locals = locals;
        self.counts.acknowledged += 1;
        self.delays.acknowledged(self.backlog.arrive(), now);
    }

    /// After a failure the kernel's content is unknown: it is read, and the next step continues
    /// from there.
    fn failed(&mut self, error: &SinkError, now: Instant) {
        self.applied = None;
        self.reading = None;
        self.counts.failures += 1;
        self.backlog.turn_back();
        if self.sources_ready {
            self.backlog.owe(now);
        }
        self.recovery.failed(error, now);
    }

    /// Retries refused Services whose time has come.
    fn retry_refused(&mut self, now: Instant) {
        let retry = self.quarantine.retry(now);
        self.dirty.services.extend(retry.services);
        if retry.needs_read {
            self.drift.want_read();
        }
    }

    /// Removes pick chains and real servers that are no longer used from the wanted program.
    fn retire_unused(&mut self, mut wanted: Program, now: Instant) -> Program {
        for pick in self.idle_picks.take_due(now) {
            wanted.retire(pick);
        }
        for real in self.draining.take_gone(wanted.draining(), now) {
            wanted.retire_real(real);
        }
        self.wanted = Some(wanted.clone());
        wanted
    }

    /// Asks which draining real servers have no connections, if it is time for that.
    fn count(&mut self, now: Instant) -> Option<Request> {
        let applied = self.applied.as_ref()?;
        if !self.draining.begin_count(now) {
            return None;
        }
        self.busy = Some(Busy::Counting);
        Some(Request::Idle(applied.draining().map(|(real, _)| real).collect()))
    }

    fn counted(&mut self, result: Result<Vec<Draining>, SinkError>) {
        self.busy = None;
        match result {
            Ok(idle) => self.draining.counted(idle),
            // They are removed when their time is over.
            Err(error) => tracing::warn!(%error, "cannot count the connections of real servers"),
        }
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
