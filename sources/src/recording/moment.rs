//! Adds the entries of a recording up to the state at a time.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rulec_compiler::{Change, Model, Origin};

use super::entry::{Entry, Held, Recorded, RecordedChange, Status, What, Whole, WholeReason};
use crate::problem::Problem;
use crate::update::Update;

/// What the sources had sent at a time.
#[derive(Clone, Debug, Default)]
pub struct Moment {
    model: Model,
    sources: BTreeMap<Origin, Status>,
    time: Option<Timestamp>,
}

impl Moment {
    /// Adds the next entry.
    pub fn add(&mut self, entry: &Entry) {
        for update in self.updates(entry) {
            for change in update.changes {
                self.model.apply(update.origin, change);
            }
        }
        self.time = Some(entry.time);
    }

    /// Returns an entry as updates of the sources, and notes how these are.
    pub(super) fn updates(&mut self, entry: &Entry) -> Vec<Update> {
        match &entry.what {
            What::Whole(whole) => whole.sources.iter().map(|held| self.held(held)).collect(),
            What::Update(recorded) => vec![self.recorded(recorded)],
        }
    }

    /// What a source had before stays until the complete list: it is the same daemon that has started
    /// again, and its kernel has that, too.
    fn held(&mut self, held: &Held) -> Update {
        let Held { origin, said, problems, objects } = held;
        let problems = problems.iter().cloned().collect();
        self.sources.insert(*origin, Status { said: *said, problems });
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

    fn update(&self, origin: Origin, changes: Vec<Change>, suppressed: u64) -> Update {
        let Status { said, problems } = self.sources.get(&origin).cloned().unwrap_or_default();
        Update {
            origin,
            changes,
            triggers: Vec::new(),
            complete: said.complete,
            unread: said.unread,
            unavailable: said.unavailable,
            stale: said.stale,
            suppressed,
            problems,
        }
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
