//! Where the threads of all roots send their updates.
//!
//! ```text
//!  root 1 ─▶ Outlet ┐
//!  root 2 ─▶ Outlet ┴─▶ Junction: union ─▶ allocation ─▶ fill ─▶ channel ─▶ engine
//! ```
//!
//! The threads take turns at the junction, which passes on one sequence of updates.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use super::fill::{Fill, Found};
use super::union::Union;
use crate::allocate::Allocation;
use crate::update::Update;

/// Where a root sends its updates.
#[derive(Debug)]
pub(crate) struct Outlet {
    root: usize,
    junction: Arc<Mutex<Junction>>,
    out: mpsc::Sender<Update>,
}

/// Joins the updates of all roots.
#[derive(Debug)]
pub(crate) struct Junction {
    union: Union,
    /// Gives addresses to Pods that have none, if they are found elsewhere.
    fill: Option<Fill>,
    allocation: Allocation,
}

/// The receiver is gone.
#[derive(Debug)]
pub(crate) struct Gone;

impl Outlet {
    /// Returns the outlet of a root that is the only one, and of which nothing is given out.
    pub(crate) fn plain(out: mpsc::Sender<Update>) -> Self {
        let allocation = Allocation::new(None, None, None);
        let junction = Junction { union: Union::new(1), fill: None, allocation };
        Self { root: 0, junction: Arc::new(Mutex::new(junction)), out }
    }

    /// Passes an update on, in the order in which the roots come here.
    pub(crate) fn send(&self, update: Update) -> Result<(), Gone> {
        let mut junction = self.junction.lock().unwrap_or_else(PoisonError::into_inner);
        let update = junction.pass(self.root, update);
        self.out.blocking_send(update).map_err(|_| Gone)
    }

    /// Passes on what is found out about the addresses of Pods.
    pub(crate) fn learn(&self, found: Found) -> Result<(), Gone> {
        if self.out.is_closed() {
            return Err(Gone);
        }
        let mut junction = self.junction.lock().unwrap_or_else(PoisonError::into_inner);
        match junction.learn(found) {
            Some(update) => self.out.blocking_send(update).map_err(|_| Gone),
            None => Ok(()),
        }
    }

    /// Does what is due although the root has nothing to send.
    pub(crate) fn look(&self) -> Result<(), Gone> {
        if self.out.is_closed() {
            return Err(Gone);
        }
        let mut junction = self.junction.lock().unwrap_or_else(PoisonError::into_inner);
        match junction.look() {
            Some(update) => self.out.blocking_send(update).map_err(|_| Gone),
            None => Ok(()),
        }
    }

    /// Resolves when there is no receiver any more.
    pub(crate) async fn closed(&self) {
        self.out.closed().await;
    }

    /// Returns whether there is no receiver any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.out.is_closed()
    }

    /// Returns another handle of it.
    pub(crate) fn share(&self) -> Self {
        Self { root: self.root, junction: Arc::clone(&self.junction), out: self.out.clone() }
    }
}

impl Junction {
    /// Returns an outlet for each of a number of roots.
    pub(crate) fn outlets(
        roots: usize,
        fill: Option<Fill>,
        allocation: Allocation,
        out: &mpsc::Sender<Update>,
    ) -> Vec<Outlet> {
        let junction = Self { union: Union::new(roots), fill, allocation };
        let junction = Arc::new(Mutex::new(junction));
        let outlet = |root| Outlet { root, junction: Arc::clone(&junction), out: out.clone() };
        (0..roots).map(outlet).collect()
    }

    fn pass(&mut self, root: usize, update: Update) -> Update {
        let mut update = self.union.take(root, update);
        let is_whole = update.complete && update.unread == 0 && update.stale.is_none();
        update.changes = self.allocation.pass(update.changes, is_whole);
        if let Some(fill) = &mut self.fill {
            update.changes = fill.pass(update.changes);
        }
        self.complete(update)
    }

    fn learn(&mut self, found: Found) -> Option<Update> {
        let fill = self.fill.as_mut().filter(|fill| *fill.found() != found)?;
        let changes = fill.learn(found);
        let update = self.union.has_begun().then(|| self.union.status())?;
        Some(self.complete(Update { changes, ..update }))
    }

    fn look(&mut self) -> Option<Update> {
        let is_news = self.allocation.look() && self.union.has_begun();
        let update = is_news.then(|| self.union.status())?;
        Some(self.complete(update))
    }

    /// Adds what the stages behind the roots have to say.
    fn complete(&self, mut update: Update) -> Update {
        let found = self.fill.as_ref().map(Fill::found);
        update.unread += found.map_or(0, |found| found.unread);
        let more = found.map(|found| found.problems.clone()).into_iter();
        for more in more.chain([self.allocation.problems()]).filter(|more| !more.is_empty()) {
            update.problems = update.problems.union(more);
        }
        update
    }
}
