//! The content of a URL: what it answered last, and its last good content.

use std::ffi::OsStr;
use std::sync::Arc;

use im::OrdSet;
use rulec_compiler::object::ObjectKey;
use rulec_compiler::{Change, Provenance, Sourced};

use super::entry::{FileEntry, News};
use super::{Left, Scan, what_stays};
use crate::decode::intern::Interner;
use crate::problem::{Problem, Problems, Severity};

/// The name of the only file in the state of a URL.
const NAME: &str = "url";

/// See the module's documentation. Invariant: between calls, the receiver of all changes has the
/// objects of the entry.
#[derive(Debug)]
pub(crate) struct Page {
    entry: FileEntry,
    problems: Problems,
    /// The problems that are in `problems`.
    told: Vec<Problem>,
    /// Whether a complete list was delivered.
    delivered: bool,
    /// Whether what an earlier run has left stands in for the URL.
    stands_in: bool,
    saved: Left,
    interner: Interner,
}

impl Page {
    /// Knows nothing yet. `name` is the URL, for people.
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            entry: FileEntry::new(OsStr::new(NAME), name),
            problems: Problems::default(),
            told: Vec::new(),
            delivered: false,
            stands_in: false,
            saved: Left::default(),
            interner: Interner::default(),
        }
    }

    /// Takes over the content that an earlier run has saved.
    pub(crate) fn take_over(&mut self, left: Left) {
        if let Some(file) = left.0.get(NAME) {
            self.entry = FileEntry::left(file, self.entry.path().clone());
            self.stands_in = true;
        }
        self.saved = left;
    }

    /// Returns all current problems, in order of place.
    pub(crate) fn problems(&self) -> &OrdSet<Problem> {
        self.problems.all()
    }

    /// Returns the problems of the content, in order of place.
    pub(crate) fn faults(&self) -> impl Iterator<Item = &Problem> {
        self.entry.problems()
    }

    /// Returns the last good content, and whether it has changed since the last call.
    pub(crate) fn saved(&mut self) -> (&Left, bool) {
        let is_known = self.entry.is_saved_as(self.saved.0.get(NAME).map(|known| &**known));
        // One that lacks an object must not count as complete in a later run.
        let is_news = !is_known && !self.entry.is_unread();
        if is_news && let Some(file) = self.entry.saved() {
            self.saved.0.insert(NAME.to_owned(), Arc::new(file));
        }
        (&self.saved, is_news)
    }

    /// Returns whether its answer is no manifest, so that it has its last good content.
    pub(crate) fn is_garbled(&self) -> bool {
        self.entry.is_garbled()
    }

    /// Takes a complete answer.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Scan {
        let news = self.entry.receive(bytes, !self.delivered, &mut self.interner);
        self.interner.tidy();
        self.finish(news, None)
    }

    /// Takes note that the URL answers as before.
    pub(crate) fn confirm(&mut self) -> Scan {
        self.finish(News::default(), None)
    }

    /// Keeps everything as it is: a URL that cannot be read is no reason to remove Services.
    pub(crate) fn hold(&mut self, reason: &str) -> Scan {
        self.finish(News::default(), Some(reason))
    }

    fn finish(&mut self, news: News, reason: Option<&str>) -> Scan {
        let garbled = self.entry.is_garbled().then_some("its answer is no manifest");
        let obstacle = reason.or(garbled).map(|reason| self.obstacle(reason));
        let held = obstacle.is_some();
        let sourced = |key: &ObjectKey| {
            let provenance = Provenance(self.entry.path().clone());
            Some(Sourced { object: self.entry.object(key)?.clone(), provenance })
        };
        let changes = if self.delivered {
            let applied = news.new.iter().chain(&news.changed).filter_map(sourced);
            let applied: Vec<Change> = applied.map(Change::Apply).collect();
            news.gone.into_iter().map(Change::Remove).chain(applied).collect()
        } else if !held || self.stands_in {
            let all = self.entry.keys().filter_map(sourced).collect();
            self.delivered = true;
            vec![Change::everything(all)]
        } else {
            Vec::new()
        };
        let all: Vec<Problem> =
            obstacle.into_iter().chain(self.entry.problems().cloned()).collect();
        self.problems.replace(&self.told, all.iter());
        self.told = all;
        Scan {
            changes,
            suppressed: news.suppressed,
            problems_changed: self.problems.changed(),
            unsettled: false,
            unread: usize::from(self.entry.is_unread()),
            held,
        }
    }

    fn obstacle(&self, reason: &str) -> Problem {
        let is_there = self.delivered || self.stands_in;
        let stays = what_stays(is_there.then(|| self.entry.keys()));
        let message = format!("{reason}; {stays}");
        Problem::of_file(self.entry.path(), Severity::Error, message)
    }
}
