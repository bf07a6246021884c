//! Events that wake the watching thread.
//!
//! Events are merged here instead of queued: a million of them take as little memory as one, and a
//! waiter sees all that came since it last asked.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::writers::Writers;

/// The most names that are kept apart; beyond it, the whole directory is listed.
const MAX_NAMES: usize = 4096;

/// The files and paths that may have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Entries of the directory.
    pub(crate) names: BTreeSet<OsString>,
    /// Something in the directory, not known what.
    pub(crate) listing: bool,
    /// The path may lead to another directory or file now.
    pub(crate) moved: bool,
    /// Events were lost.
    pub(crate) lost: bool,
}

impl Touched {
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds the name of an entry.
    pub(crate) fn add(&mut self, name: OsString) {
        if self.names.len() < MAX_NAMES {
            self.names.insert(name);
        } else if !self.names.contains(&name) {
            self.listing = true;
        }
    }
}

/// Events on their way to the watching thread.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<SignalState>,
    wake: Condvar,
    /// The files that are being written to, by the events so far. It is updated before a waiter is
    /// woken.
    pub(crate) writers: Arc<Writers>,
}

#[derive(Debug, Default)]
struct SignalState {
    touched: Touched,
    /// Counts events, so that a waiter sees that more came.
    count: u64,
    stopped: bool,
    /// Whether the thread that receives events has died.
    deaf: bool,
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Event,
    Time,
    Stop,
}

impl Signal {
    /// Reports something that may have changed.
    pub(crate) fn touch(&self, change: impl FnOnce(&mut Touched)) {
        let mut state = self.lock();
        change(&mut state.touched);
        state.count += 1;
        self.wake.notify_all();
    }

    /// Tells the waiting thread to end.
    pub(crate) fn stop(&self) {
        self.lock().stopped = true;
        self.wake.notify_all();
    }

    /// Reports that no event will come any more. The waiting thread ends: if it went on by polling
    /// only, it would seem healthy and stay slow for ever.
    pub(crate) fn fail(&self) {
        self.lock().deaf = true;
        self.stop();
    }

    /// Returns whether no event can come any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.lock().deaf
    }

    /// Takes what was touched since the last call, with the number of events up to now.
    pub(crate) fn take(&self) -> (Touched, u64) {
        let mut state = self.lock();
        (std::mem::take(&mut state.touched), state.count)
    }

    /// Returns the number of events so far.
    pub(crate) fn count(&self) -> u64 {
        self.lock().count
    }

    /// Waits until more than `count` events have come, or until a point in time.
    pub(crate) fn wait(&self, count: u64, until: Instant) -> Woken {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return Woken::Stop;
            }
            if state.count > count {
                return Woken::Event;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Time;
            }
            let waited = self.wake.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, SignalState> {
        // The value behind the lock is valid at any moment, so a panic elsewhere does not matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
