//! The engine itself: passes events to the state machines, and asks them for the next request.

use std::time::Instant;

use rulec_compiler::change::{Change, Origin};
use rulec_compiler::flows::Suspects;
use rulec_compiler::net::Family;
use rulec_compiler::{Delta, Dirty, Program, Settings, State};

use crate::acknowledged::{Acknowledged, Base};
use crate::applied::Applied;
use crate::backlog::{Backlog, Batch};
use crate::backoff::Backoff;
use crate::checks::Checks;
use crate::clock::Clock;
use crate::committed::Committed;
use crate::counts::Counts;
use crate::delays::Delays;
use crate::draining::DrainCheck;
use crate::drift::Drift;
use crate::event::Event;
use crate::flows::FlowChecks;
use crate::idle::IdleAffinities;
use crate::periods::Periods;
use crate::quarantine::Quarantine;
use crate::recovery::Recovery;
use crate::reports;
use crate::request::{Reply, Request};
use crate::sink::DeltaBase;
use crate::touched::Touched;
use crate::wanted::Wanted;

mod commit;
mod queries;
mod reconcile;
mod retire;

use commit::{Commit, Transition};

/// The state machine. See the crate's documentation.
#[derive(Debug)]
pub struct Engine {
    /// True if every source has delivered its first complete list.
    sources_ready: bool,
    wanted: Wanted,
    applied: Applied,
    busy: Option<Busy>,
    /// The kernel's content as it was read, not yet reconciled.
    reading: Option<(State, DeltaBase)>,
    recovery: Recovery,
    checks: Checks,
    drift: Drift,
    quarantine: Quarantine,
    idle_affinities: IdleAffinities,
    draining: DrainCheck,
    backlog: Backlog,
    delays: Delays,
    flows: FlowChecks,
    /// The last commit, until it is taken.
    committed: Option<Committed>,
    /// The change that the kernel has acknowledged, until it is taken.
    acknowledged: Option<Acknowledged>,
    touched: Touched,
    counts: Counts,
}

/// The pending request.
#[derive(Debug)]
enum Busy {
    Reading,
    /// Looking for idle real servers.
    Counting,
    Committing(Box<Commit>),
}

impl Engine {
    /// Creates an engine without any knowledge. The time only starts the kernel's clock, until
    /// `set_clock` says more.
    pub fn new(settings: Settings, periods: Periods, now: Instant) -> Self {
        let backoff = Backoff::new(&periods);
        Self {
            sources_ready: false,
            wanted: Wanted::new(settings),
            applied: Applied::default(),
            busy: None,
            reading: None,
            recovery: Recovery::new(backoff),
            checks: Checks::new(&periods),
            drift: Drift::new(&periods),
            quarantine: Quarantine::new(backoff),
            idle_affinities: IdleAffinities::new(&periods),
            draining: DrainCheck::new(&periods, Clock::new(now, 0)),
            backlog: Backlog::default(),
            delays: Delays::default(),
            flows: FlowChecks::default(),
            committed: None,
            acknowledged: None,
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
            Event::Unread(files) => self.wanted.set_unread(files),
            Event::Reply(Reply::State(result)) => self.state(result, now),
            Event::Reply(Reply::Committed(result)) => self.committed(result, now),
            Event::Reply(Reply::Idle(result)) => self.counted(result),
            Event::Reply(Reply::Checked(result)) => self.checked(result, now),
            Event::Tampered(tampering) => self.drift.tampered(tampering),
        }
    }

    /// Returns the next request to the sink, if any. The sink is busy until its reply is handled;
    /// only a check is requested beside other requests, so call this until there is none.
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
        let Some(applied) = self.applied.program().filter(|_| !is_read_due).cloned() else {
            self.drift.read_begins();
            return Some(self.read());
        };
        if self.checks.begin(now) {
            return Some(Request::Check(Box::new(applied)));
        }
        let wanted = self.compile(&State::default(), now);
        let wanted = self.retire_unused(wanted, now);
        let delta = Delta::between(&applied, &wanted);
        let suspects = Suspects::between(&applied, &wanted);
        let step = Transition {
            delta,
            suspects,
            program: wanted,
            base: DeltaBase::Believed,
            origin: Base::Acknowledged,
        };
        self.commit(step, now).or_else(|| self.count(now))
    }

    /// Returns when `next_request` has something to do even without an event. It always has at the
    /// very start.
    pub fn deadline(&self) -> Option<Instant> {
        if self.busy.is_some() {
            return None;
        }
        self.recovery.deadline().or_else(|| {
            let deadlines = [
                self.checks.deadline(),
                self.drift.deadline(),
                self.quarantine.deadline(),
                self.idle_affinities.deadline().filter(|_| self.quarantine.is_empty()),
                self.draining.deadline(),
            ];
            deadlines.into_iter().flatten().min()
        })
    }

    /// Applies changes of a source to the model.
    fn changes(
        &mut self,
        origin: Origin,
        changes: Vec<Change>,
        triggers: Vec<(Family, Instant)>,
        now: Instant,
    ) {
        let mut dirty = self.wanted.apply(origin, changes);
        self.counts.changed(&dirty);
        reports::overridden(&dirty);
        if dirty.is_empty() {
            return;
        }
        self.touched.changed(&dirty);
        for service in &dirty.services {
            if self.quarantine.release(service) {
                self.drift.want_read();
            }
        }
        if self.sources_ready {
            let changed = std::mem::take(&mut dirty.changed);
            self.backlog.push(Batch { since: now, updates: 1, changed, triggers });
        }
        self.wanted.invalidate(dirty);
    }

    /// Reads the kernel.
    fn read(&mut self) -> Request {
        self.busy = Some(Busy::Reading);
        self.checks.overtaken();
        self.recovery.read()
    }

    /// Brings the wanted program up to date with the model. The first compilation takes its slots
    /// from what the kernel holds.
    fn compile(&mut self, held: &State, now: Instant) -> Program {
        self.backlog.depart();
        self.quarantine.try_changed();
        let clock = self.draining.seconds(now);
        self.wanted.compile(held, clock, |service| self.quarantine.is_held_back(service))
    }

    /// Retries refused Services whose time has come.
    fn retry_refused(&mut self, now: Instant) {
        let retry = self.quarantine.retry(now);
        self.wanted.invalidate(Dirty { services: retry.services, ..Dirty::default() });
        if retry.needs_read {
            self.drift.want_read();
        }
    }
}
