//! What a runner has said, and what of it is told.
//!
//! ```text
//!  Event ─▶ listing ─(Listed)─▶ live ─┐
//!           (a list                   ├─▶ the Pod of each name ─▶ told ─▶ Change
//!            under way)         held ─┘
//! ```
//!
//! Nothing is removed on the strength of half a list, or of a Pod that cannot be decoded. A kubelet
//! that begins anew has forgotten its Pods: its first list may lack them, and for a while they have
//! no address and are not ready, although their containers have run all the time. Some are ready, and
//! then not until they are probed. So what was told of them before, also by an earlier run, stays
//! (`held`) for a limited time while they are not ready, unless they are deleted. That it has begun
//! anew is seen by its absence, or by a list: it is empty, or does not state any more whether a Pod
//! is ready.
//!
//! Pure: the time comes from the caller.

use std::collections::BTreeSet;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use im::OrdSet;
use rulec_compiler::Change;
use rulec_compiler::change::{Provenance, Sourced};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::{Kind, Object, ObjectKey, Pod};
use tokio::time::Instant;

use super::live::{Instance, Live};
use super::pod::{self, Raw, Report};
use super::told::{Hold, Told, ToldPod};
use super::{Event, Runner};
use crate::decode::MAX_PROBLEMS;
use crate::decode::intern::Interner;
use crate::problem::{Problem, Severity};

/// See the module's documentation.
#[derive(Debug)]
pub(super) struct Store {
    runner: Runner,
    place: Arc<str>,
    interner: Interner,
    live: Live,
    listing: Option<Listing>,
    held: Hold,
    told: Told,
    /// The UIDs of Pods that were deleted since `told` was brought up to date.
    deleted: BTreeSet<Box<str>>,
    /// The names whose Pods may have changed.
    affected: BTreeSet<NamespacedName>,
    /// Whether a complete list is to be told.
    is_list: bool,
    /// Whether a complete list was told.
    has_told: bool,
    /// What is wrong with Pods whose names are not known.
    nameless: BTreeSet<Problem>,
    /// What else is wrong in the last list.
    notes: BTreeSet<Problem>,
    /// Why the runner cannot be followed.
    trouble: Option<Problem>,
    /// Whether it was away since the last list.
    was_away: bool,
    delivered: bool,
    arrivals: u64,
    problems: OrdSet<Problem>,
}

/// A list that is under way.
#[derive(Debug, Default)]
struct Listing {
    pods: Live,
    nameless: BTreeSet<Problem>,
    notes: BTreeSet<Problem>,
}

/// What there is to tell.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) changes: Vec<Change>,
    /// The number of Pods that were sent without a change of meaning.
    pub(super) suppressed: u64,
    pub(super) problems_changed: bool,
}

impl Store {
    pub(super) fn new(runner: Runner, settle: Duration) -> Self {
        Self {
            runner,
            place: runner.name.into(),
            interner: Interner::default(),
            live: Live::default(),
            listing: None,
            held: Hold::new(settle),
            told: Told::new(),
            deleted: BTreeSet::new(),
            affected: BTreeSet::new(),
            is_list: false,
            has_told: false,
            nameless: BTreeSet::new(),
            notes: BTreeSet::new(),
            trouble: None,
            was_away: false,
            delivered: false,
            arrivals: 0,
            problems: OrdSet::new(),
        }
    }

    /// Takes in an event.
    pub(super) fn take(&mut self, event: Event, now: Instant) {
        match event {
            Event::Listing => self.listing = Some(Listing::default()),
            Event::Pod(raw) => match self.read(raw) {
                Ok(report) => self.put(report),
                Err(problem) => self.note(problem),
            },
            Event::Deleted(raw) => match self.read(raw) {
                Ok(report) => self.delete(report.uid),
                Err(problem) => self.note(problem),
            },
            Event::Note(message) => {
                if let Some(listing) = &mut self.listing {
                    let problem = Problem::of_file(&self.place, Severity::Error, message);
                    listing.notes.insert(problem);
                }
            }
            Event::Listed => self.listed(now),
            Event::Lost(reason) => {
                self.listing = None;
                self.was_away = true;
                // Its next list begins the wait anew.
                self.held.suspend();
                let message = format!("{reason}; its Pods stay as they were");
                self.trouble = Some(Problem::of_file(&self.place, Severity::Error, message));
            }
        }
        self.interner.tidy();
    }

    /// Takes Pods that an earlier run has left for told ones. To be called before the first event.
    pub(super) fn remember(&mut self, pods: Told) {
        self.told = pods;
    }

    /// Uses the Pods that are remembered until the runner delivers.
    pub(super) fn stand_in(&mut self) {
        self.is_list = true;
    }

    /// Returns when to let go of what is held.
    pub(super) fn held_until(&self) -> Option<Instant> {
        self.held.until()
    }

    /// Lets go of what is held.
    pub(super) fn let_go(&mut self) {
        self.affected.extend(self.held.let_go());
    }

    /// Returns whether the runner has delivered a complete list.
    pub(super) fn has_delivered(&self) -> bool {
        self.delivered
    }

    /// Returns whether the runner cannot be followed at the moment.
    pub(super) fn is_away(&self) -> bool {
        self.trouble.is_some()
    }

    /// Returns the number of Pods that could not be read and have no last good state, and one more
    /// while a kubelet that has returned may not have found all of them.
    pub(super) fn unread(&self) -> usize {
        self.live.unread() + self.nameless.len() + usize::from(self.held.until().is_some())
    }

    /// Returns what was told.
    pub(super) fn told(&self) -> &Told {
        &self.told
    }

    /// Returns all current problems.
    pub(super) fn problems(&self) -> &OrdSet<Problem> {
        &self.problems
    }

    /// Returns what has changed since the last call.
    pub(super) fn news(&mut self) -> News {
        let mut news = News::default();
        for key in mem::take(&mut self.affected) {
            let wanted = self.pod_of(&key);
            let old = match &wanted {
                Some(wanted) => self.told.insert(key.clone(), wanted.clone()),
                None => self.told.remove(&key),
            };
            if old.map(|old| old.pod) == wanted.as_ref().map(|wanted| wanted.pod.clone()) {
                news.suppressed += 1;
                continue;
            }
            news.changes.push(match wanted {
                Some(wanted) => Change::Apply(sourced(&wanted, &self.place)),
                None => Change::Remove(ObjectKey::Pod(key)),
            });
        }
        self.deleted.clear();
        if mem::take(&mut self.is_list) {
            let objects = self.told.values().map(|told| sourced(told, &self.place)).collect();
            news.changes = vec![Change::Replace { kinds: &[Kind::Pod], objects }];
            news.suppressed = 0;
            self.has_told = true;
        }
        if !self.has_told {
            // What an earlier run has left was not told by this one.
            news.changes.clear();
        }
        let problems = self.current_problems();
        news.problems_changed = problems != self.problems;
        self.problems = problems;
        news
    }

    fn read(&mut self, raw: Raw) -> Result<Report, Problem> {
        pod::read(raw, &self.place, &mut self.interner)
    }

    fn put(&mut self, report: Report) {
        let Report { uid, name, pod, is_new, problems } = report;
        let (key, pod) = match pod {
            Some(pod) => (pod.key.clone(), Some(pod)),
            None => self.last_good(&uid, &name),
        };
        self.arrivals += 1;
        let arrival = self.live.0.get(&uid).map_or(self.arrivals, |known| known.arrival);
        let instance = Instance { key: key.clone(), name, pod, is_new, problems, arrival };
        match &mut self.listing {
            Some(listing) => drop(listing.pods.0.insert(uid, instance)),
            None => {
                self.affected.insert(key);
                let old = self.live.0.insert(uid, instance);
                self.affected.extend(old.map(|old| old.key));
            }
        }
    }

    /// Returns the name and the last good state of a Pod that cannot be used as it is now.
    fn last_good(&self, uid: &str, name: &NamespacedName) -> (NamespacedName, Option<Arc<Pod>>) {
        if let Some(known) = self.live.find(uid, name) {
            return (known.key.clone(), known.pod.clone());
        }
        let of_uid = self.told.iter().find(|(_, told)| &*told.uid == uid);
        match of_uid.or_else(|| self.told.get_key_value(name)) {
            Some((key, told)) => (key.clone(), Some(told.pod.clone())),
            None => (name.clone(), None),
        }
    }

    /// Believes at once that a Pod is deleted, also in the middle of a list. Another Pod of its name
    /// is not affected, if it has another UID. A static Pod that is made anew of the same file has the
    /// same one, but the kubelet does not begin with it before it has said that the old one is gone.
    fn delete(&mut self, uid: Box<str>) {
        if let Some(listing) = &mut self.listing {
            listing.pods.0.remove(&uid);
        }
        self.affected.extend(self.live.0.remove(&uid).map(|gone| gone.key));
        self.held.delete(&uid);
        let told = self.told.iter().filter(|(_, told)| told.uid == uid);
        self.affected.extend(told.map(|(key, _)| key.clone()));
        self.deleted.insert(uid);
    }

    fn note(&mut self, problem: Problem) {
        let nameless = match &mut self.listing {
            Some(listing) => &mut listing.nameless,
            None => &mut self.nameless,
        };
        if nameless.len() < MAX_PROBLEMS {
            // One that is sent again and again is said once.
            nameless.insert(problem);
        }
    }

    fn listed(&mut self, now: Instant) {
        let Some(Listing { pods, nameless, notes }) = self.listing.take() else { return };
        let old = mem::replace(&mut self.live, pods);
        // Between two polls, a kubelet can be away unnoticed.
        let has_begun_anew = self.was_away
            || !self.delivered
            || self.live.0.is_empty()
            || self.live.has_forgotten(&old);
        self.nameless = nameless;
        self.notes = notes;
        if !self.nameless.is_empty() {
            // One of those without a name may be any that the list does not have.
            for (uid, instance) in old.0 {
                self.live.0.entry(uid).or_insert(instance);
            }
        }
        self.affected.extend(self.told.keys().chain(self.live.keys()).cloned());
        if has_begun_anew {
            self.hold(now);
        }
        self.is_list |= !self.delivered || self.was_away;
        self.delivered = true;
        self.was_away = false;
        self.trouble = None;
    }

    /// Holds what was told, if the kubelet may not have found all of it.
    fn hold(&mut self, now: Instant) {
        let is_held = |(_, told): &(&NamespacedName, &ToldPod)| {
            told.is_ready() && !self.deleted.contains(&told.uid)
        };
        let held = self.told.iter().filter(is_held);
        let held: Told = held.map(|(key, told)| (key.clone(), told.clone())).collect();
        let is_found = |key| {
            let best = self.live.best(key);
            best.is_some_and(|best| best.is_ready() || best.is_terminating())
        };
        // One that was away may also have Pods that were never told.
        if self.was_away || !held.keys().all(is_found) {
            self.held.begin(held, now);
        }
    }

    /// Returns the Pod to tell under a name.
    fn pod_of(&mut self, key: &NamespacedName) -> Option<ToldPod> {
        let best = self.live.best(key);
        match &best {
            Some(best) if best.is_terminating() => self.held.release(key),
            Some(best) if best.is_ready() => self.held.renew(key, best),
            Some(_) | None => {}
        }
        self.held.get(key).cloned().or(best)
    }

    fn current_problems(&self) -> OrdSet<Problem> {
        let others = self.nameless.iter().chain(&self.notes).chain(&self.trouble).cloned();
        self.live.problems(self.runner.called, &self.place).chain(others).collect()
    }
}

fn sourced(told: &ToldPod, place: &Arc<str>) -> Sourced {
    Sourced { object: Object::Pod(told.pod.clone()), provenance: Provenance(place.clone()) }
}
