//! What has changed, when, why and at which cost, for `rulec watch`, `rulec history` and `rulec diff`.
//!
//! ```text
//!  engine ─Acknowledged─▶ loop ─note─▶ Ring ◀─ Entry (states before and after, as pointers)
//!                                       │ ├──▶ socket: list, one, follow; states
//!                                       │ └──▶ keeper's thread ─▶ history.jsonl, states-N.jsonl
//! ```
//!
//! The daemon's loop is the only one that notes a change, and only keeps pointers for it: programs
//! and models are persistent maps. What a change means is found when somebody asks, from the states
//! before and after it, by the function that is given here: the comparison of `rulec diff`. The
//! `ring` is bounded by number and by an estimate of its memory, which the `keeper` finds (`weight`);
//! it also drops what leaves the ring, because that may be much. With a state directory, the keeper also
//! writes what each change meant to `disk`, and the state after it to `states`, so that both outlive
//! the process. States are read there when somebody asks.
//!
//! `change` is a change as a document, `moment` names a past state, and `timeline` finds which it is.

pub mod change;
mod disk;
pub mod entry;
pub mod keeper;
pub mod moment;
mod ring;
mod states;
#[cfg(test)]
mod tests;
mod timeline;
mod weight;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rulec_engine::Acknowledged;
use rulec_sources::StateDir;
use tokio::sync::watch;

use change::Change;
use disk::Found;
use entry::{Entry, Point};
use keeper::Keeper;
use moment::Moment;
pub use ring::{Limits, Next};
use ring::{Ring, Whereabouts};
use states::After;
use timeline::Stamp;

use crate::snapshot::Snapshot;

/// After how many changes without the keeper others do its work.
const UNTIDIED: usize = 256;

/// Finds what a change means. It may take long.
pub type Tell = fn(&Entry) -> Change;

/// The history of a daemon. Clones share it.
#[derive(Clone, Debug)]
pub struct History {
    ring: Arc<Mutex<Ring>>,
    /// The number of the newest change.
    newest: watch::Sender<u64>,
    /// Where states of earlier processes are.
    states: Arc<OnceLock<PathBuf>>,
    tell: Tell,
}

/// A state of the past.
#[derive(Debug)]
pub enum Past {
    /// One since the start, as pointers.
    Held(Arc<Point>),
    /// One that is on disk, at the most: one from before the start, or that memory has no room for.
    Stored(Stored),
}

/// A state that has to be read.
#[derive(Debug)]
pub struct Stored {
    history: History,
    moment: Moment,
    after: After,
}

impl Stored {
    /// Reads it, which waits for the disk.
    ///
    /// # Errors
    ///
    /// If it is not there, or cannot be read; the error says which are kept in memory.
    pub fn read(&self) -> Result<Snapshot, String> {
        let read = match self.history.states.get() {
            Some(directory) => states::read(directory, self.after),
            None => Err("states are kept only in memory".to_owned()),
        };
        read.map_err(|why| self.but(&why))
    }

    /// Returns what is said if it cannot be had, for this reason.
    pub fn but(&self, why: &str) -> String {
        let Self { history, moment, after: After { id, time } } = self;
        let kept = history.lock().kept();
        let change = format!("change @{id} of {time:.0}");
        format!("{moment}: {change} is no longer in memory, and {why}{kept}")
    }
}

impl History {
    /// Starts without changes.
    pub fn new(limits: Limits, tell: Tell) -> Self {
        let ring = Arc::new(Mutex::new(Ring::new(limits)));
        Self { ring, newest: watch::Sender::new(0), states: Arc::default(), tell }
    }

    /// Starts the thread that drops what is no longer kept, and that keeps what changes meant in a
    /// file of a state directory, if there is one. It takes over what is in it first: changes get their
    /// numbers when it has read that.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started. A file that cannot be used is said and replaced.
    pub fn keep(&self, directory: Option<StateDir>) -> anyhow::Result<Keeper> {
        Keeper::start(self.clone(), directory)
    }

    /// Notes a change. The cost does not depend on its size, unless it changes nothing in the kernel.
    pub fn note(&self, acknowledged: Acknowledged) {
        if !self.is_kept() {
            return;
        }
        self.note_at(acknowledged, Stamp::now());
    }

    fn note_at(&self, acknowledged: Acknowledged, stamp: Stamp) {
        let ready = self.lock().ready(acknowledged, stamp);
        self.add(ready);
        let untidied = self.lock().untidied();
        if untidied > 0 && untidied.is_multiple_of(UNTIDIED) {
            self.tidy_elsewhere();
        }
    }

    /// Adds changes that need not wait. Only one thread does at a time: the daemon's, or the keeper's while
    /// that of the daemon has its changes wait.
    fn add(&self, ready: Vec<(Acknowledged, Stamp)>) {
        for (acknowledged, stamp) in ready {
            // The objects are compared outside of the lock.
            let latest = self.lock().latest();
            if !Ring::is_nothing(latest.as_deref(), &acknowledged) {
                let newest = self.lock().note(acknowledged, stamp);
                self.newest.send_replace(newest);
            }
        }
    }

    /// Takes over changes of earlier processes; returns whether it was soon enough.
    fn recall(&self, found: Found) -> bool {
        if !self.lock().recall(found) {
            return false;
        }
        let newest = self.lock().newest();
        self.newest.send_replace(newest);
        // More may begin to wait meanwhile.
        loop {
            let waiting = self.lock().take_waiting();
            if waiting.is_empty() {
                return true;
            }
            self.add(waiting);
        }
    }

    /// Has changes wait no longer for those of earlier processes, which come too late from now on.
    fn give_up(&self) {
        self.recall(Found::default());
    }

    /// Does the work of the keeper's thread, which may wait for a disk for long.
    fn tidy_elsewhere(&self) {
        let history = self.clone();
        let started =
            std::thread::Builder::new().name("rulec-tidy".to_owned()).spawn(move || history.tidy());
        if started.is_err() {
            self.tidy();
        }
    }

    /// Finds how much memory the newest changes take, and drops what is no longer kept: both in
    /// proportion to the changes.
    pub fn tidy(&self) {
        // None of it under the lock.
        let unweighed = self.lock().unweighed();
        for entry in unweighed {
            // A fault there must not end the daemon either.
            let bytes = catch_unwind(AssertUnwindSafe(|| weight::of(&entry)));
            let bytes = bytes.unwrap_or(weight::ENTRY);
            self.lock().weigh(entry.id, bytes);
        }
        let garbage = self.lock().take_garbage();
        drop(garbage);
    }

    /// Returns the changes that are kept, the oldest first.
    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.lock().all().cloned().collect()
    }

    /// Returns a change, if it is kept.
    pub fn find(&self, id: u64) -> Option<Arc<Entry>> {
        self.lock().find(id).cloned()
    }

    /// Returns the first change after one of this number, if there is any.
    pub fn next(&self, after: u64) -> Option<Next> {
        self.lock().next(after)
    }

    /// Returns the state at a past moment, without waiting for the disk.
    ///
    /// # Errors
    ///
    /// If it is not kept, or if the clock was set back, so that it is not known which it is; the error
    /// says which are.
    pub fn state(&self, moment: Moment) -> Result<Past, String> {
        let whereabouts = self.lock().state(moment, Stamp::now())?;
        Ok(match whereabouts {
            Whereabouts::Here(point) => Past::Held(point),
            Whereabouts::There(after) => {
                Past::Stored(Stored { history: self.clone(), moment, after })
            }
        })
    }

    /// Returns what a change means. Takes as long as the comparison of its states, the first time.
    pub fn told(&self, entry: &Entry) -> Arc<Change> {
        let is_first = !entry.is_told();
        let change = entry.told(self.tell);
        if is_first {
            let bytes = weight::of_change(&change);
            self.lock().grow(entry.id, bytes);
        }
        change
    }

    /// Returns whether changes of earlier processes are being read, so that newer ones have no number.
    pub fn is_reading(&self) -> bool {
        self.lock().is_waiting()
    }

    /// Returns when the numbers of the changes began: others are of another history.
    pub fn since(&self) -> Timestamp {
        self.lock().since()
    }

    /// Returns the number of the newest change, and its changes.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Returns whether changes are kept at all.
    pub fn is_kept(&self) -> bool {
        self.lock().is_kept()
    }

    /// Held for a few moves of pointers only.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a stop waits for the file.
pub const FINISH: Duration = Duration::from_secs(5);
