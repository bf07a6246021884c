//! Makes updates of events, and decides how long a start waits for the runner.

use std::future::pending;
use std::mem;
use std::pin::pin;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, warn};

use super::saved::Memory;
use super::store::Store;
use super::{Event, Runner};
use crate::update::Update;

/// See the module's documentation.
pub(super) struct Teller {
    runner: Runner,
    store: Store,
    memory: Option<Memory>,
    /// When the Pods that an earlier run has left were current, until they stand in.
    left: Option<Timestamp>,
    /// When the Pods were last known to be current, while the runner is away.
    stale: Option<Timestamp>,
    /// Whether the first list is not waited for any more.
    complete: bool,
    out: mpsc::Sender<Update>,
}

impl Teller {
    pub(super) fn new(
        runner: Runner,
        mut store: Store,
        mut memory: Option<Memory>,
        out: mpsc::Sender<Update>,
    ) -> Self {
        let mut left = None;
        if let Some((pods, at)) = memory.as_mut().and_then(Memory::take) {
            store.remember(pods);
            left = Some(at);
        }
        Self { runner, store, memory, left, stale: None, complete: false, out }
    }

    /// Combines events into updates: each has all events that have arrived when it is made.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>, grace: Duration) {
        let mut grace = pin!(sleep(grace));
        let mut suppressed = 0;
        let mut unread = 0;
        loop {
            let mut is_news = false;
            let held_until = self.store.held_until();
            let settled = async {
                match held_until {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.out.closed() => return,
                () = settled => self.store.let_go(),
                () = &mut grace, if !self.complete => {
                    self.do_without();
                    is_news = true;
                }
                event = events.recv() => match event {
                    Some(event) => {
                        is_news |= self.take(event);
                        while let Ok(event) = events.try_recv() {
                            is_news |= self.take(event);
                        }
                    }
                    None => return,
                },
            }
            let news = self.store.news();
            suppressed += news.suppressed;
            is_news |= !news.changes.is_empty() || news.problems_changed;
            let unread_before = mem::replace(&mut unread, self.unread());
            is_news |= unread != unread_before;
            let is_current = self.store.has_delivered() && !self.store.is_away();
            if let Some(memory) = self.memory.as_ref().filter(|_| is_current) {
                memory.save(self.store.told(), !news.changes.is_empty());
            }
            if !is_news {
                continue;
            }
            debug!(changes = news.changes.len(), suppressed, "changes from {}", self.runner.called);
            let update = Update {
                origin: self.runner.origin,
                changes: news.changes,
                triggers: Vec::new(),
                complete: self.complete,
                unread,
                unavailable: self.store.is_away(),
                stale: self.stale,
                positions: None,
                suppressed: mem::take(&mut suppressed),
                problems: self.store.problems().clone(),
            };
            if self.out.send(update).await.is_err() {
                return;
            }
        }
    }

    /// Takes in an event; returns whether it must be told even if no Pod has changed.
    fn take(&mut self, event: Event) -> bool {
        let was_away = self.store.is_away();
        self.store.take(event, Instant::now());
        let is_away = self.store.is_away();
        if is_away && !was_away && self.store.has_delivered() {
            self.stale = Some(Timestamp::now());
        } else if !is_away && self.store.has_delivered() {
            self.stale = None;
        }
        let completed = !self.complete && self.store.has_delivered();
        self.complete |= completed;
        completed || is_away != was_away
    }

    /// Stops to wait for the first list.
    fn do_without(&mut self) {
        self.complete = true;
        let called = self.runner.called;
        if let Some(at) = self.left.take() {
            let age = Timestamp::now().duration_since(at).as_secs();
            let what = "has not delivered in time, using the state of the last run";
            warn!(%at, age, "{called} {what}");
            self.store.stand_in();
            self.stale = Some(at);
        } else {
            warn!("{called} has not delivered in time, starting without its Pods");
        }
    }

    /// Returns how many things the kernel's content may come from that no source names.
    fn unread(&self) -> usize {
        let is_missing = !self.store.has_delivered() && self.stale.is_none();
        self.store.unread() + usize::from(is_missing)
    }
}
