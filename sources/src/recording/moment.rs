//! Adds the entries of a recording up to the state at a time.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use rulec_compiler::change::Sourced;
use rulec_compiler::object::ObjectKey;
use rulec_compiler::{Change, Model, Origin};

use super::entry::{Entry, Held, Recorded, RecordedChange, Status, What, Whole, WholeReason};
use crate::problem::Problem;
use crate::update::Update;

/// What the sources had sent at a time.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    model: Model,
    sources: BTreeMap<Origin, Status>,
    /// The sources that have not yet said everything since the daemon has started again, and what they
    /// have said: until then, what they had before stays, as in the kernel of the daemon.
    again: BTreeMap<Origin, BTreeSet<ObjectKey>>,
    time: Option<Timestamp>,
}

impl Moment {
    /// Adds the next entry.
    pub fn add(&mut self, entry: &Entry) {
        self.updates(entry);
    }

    /// Adds the next entry, and returns it as updates of the sources.
    pub(super) fn updates(&mut self, entry: &Entry) -> Vec<Update> {
        self.time = Some(entry.time);
        match &entry.what {
            What::Whole(Whole { reason, sources }) => {
                sources.iter().map(|held| self.held(*reason, held)).collect()
            }
            What::Update(recorded) => vec![self.recorded(recorded)],
        }
    }

    /// What a source had before stays until the complete list: it is the same daemon that has started
    /// again, and its kernel has that, too.
    fn held(&mut self, reason: WholeReason, held: &Held) -> Update {
        let Held { origin, said, problems, objects } = held;
        let problems = problems.iter().cloned().collect();
        let mut status = Status { said: *said, problems };
        if let (WholeReason::Start, Some(before)) = (reason, self.sources.get(origin)) {
            // It has not looked yet: as many files as before may be unreadable.
            status.said.unread = before.said.unread;
            self.again.insert(*origin, BTreeSet::new());
        }
        self.sources.insert(*origin, status);
        let changes = match said.complete {
            true => vec![Change::everything(objects.clone())],
            false => objects.iter().cloned().map(Change::Apply).collect(),
        };
        self.update(*origin, changes, 0)
    }

    fn recorded(&mut self, recorded: &Recorded) -> Update {
        let Recorded { origin, said, suppressed, problems, changes } = recorded;
        let status = self.sources.entry(*origin).or_default();
        status.said = *said;
        if let Some(problems) = problems {
            status.problems = problems.iter().cloned().collect();
        }
        let changes = changes.iter().cloned().flat_map(RecordedChange::changes).collect();
        self.update(*origin, changes, *suppressed)
    }

    fn update(&mut self, origin: Origin, changes: Vec<Change>, suppressed: u64) -> Update {
        let Status { said, problems } = self.sources.get(&origin).cloned().unwrap_or_default();
        let is_all = said.complete && said.unread == 0;
        let mut changes = match self.again.get_mut(&origin) {
            Some(seen) => {
                let changes = changes.into_iter().flat_map(|it| note(seen, it, said.unread > 0));
                changes.collect()
            }
            None => changes,
        };
        for change in &changes {
            self.model.apply(origin, change.clone());
        }
        if let Some(seen) = is_all.then(|| self.again.remove(&origin)).flatten() {
            for key in self.keys(origin).difference(&seen) {
                self.model.apply(origin, Change::Remove(key.clone()));
                changes.push(Change::Remove(key.clone()));
            }
        }
        Update {
            origin,
            changes,
            triggers: Vec::new(),
            complete: said.complete,
            unread: said.unread,
            unavailable: said.unavailable,
            stale: said.stale,
            positions: None,
            suppressed,
            problems,
        }
    }

    /// Returns the objects of a source.
    fn keys(&self, origin: Origin) -> BTreeSet<ObjectKey> {
        let overridden = self.model.overridden().map(|(sourced, origin)| (origin, sourced.clone()));
        let all = self.model.objects_by_origin().chain(overridden);
        let of_it = all.filter(|(holder, _)| *holder == origin);
        of_it.map(|(_, Sourced { object, .. })| object.key()).collect()
    }

    /// Returns all objects.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the time of the last entry, if there was any.
    pub fn time(&self) -> Option<Timestamp> {
        self.time
    }

    /// Returns the problems of all sources.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.sources.values().flat_map(|status| &status.problems)
    }

    /// Returns the sources that have not delivered their first complete lists.
    pub fn incomplete(&self) -> impl Iterator<Item = Origin> {
        let mut all = self.sources.iter();
        std::iter::from_fn(move || all.find(|(_, it)| !it.said.complete).map(|(origin, _)| *origin))
    }

    /// Returns it as the first entry of a recording.
    pub fn whole(&self) -> Whole {
        let sources = self.sources.iter().map(|(origin, status)| (*origin, status));
        Whole::of(WholeReason::Part, &self.model, sources)
    }
}

/// Notes what a source has said since a start. While objects may be missing, a list removes nothing.
fn note(seen: &mut BTreeSet<ObjectKey>, change: Change, is_partial: bool) -> Vec<Change> {
    match change {
        Change::Apply(sourced) => {
            seen.insert(sourced.object.key());
            vec![Change::Apply(sourced)]
        }
        Change::Remove(key) => {
            seen.remove(&key);
            vec![Change::Remove(key)]
        }
        Change::Replace { kinds, objects } => {
            seen.retain(|key| !kinds.contains(&key.kind()));
            seen.extend(objects.iter().map(|sourced| sourced.object.key()));
            match is_partial {
                true => objects.into_iter().map(Change::Apply).collect(),
                false => vec![Change::Replace { kinds, objects }],
            }
        }
    }
}
