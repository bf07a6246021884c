//! Looks at podman when an event says so, and now and then without one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::PodmanTiming;
use super::events::{self, Happened};
use super::fault::Fault;
use super::look::Looker;
use crate::pods::{Event, Follow, Gone, say};

/// How long after an event its containers are looked at again: podman may send an event before its
/// lists say what has happened.
const AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_millis(700)];

/// The shortest time from one look to the next. A container may be restarted many times a second.
const PAUSE: Duration = Duration::from_millis(100);

/// A podman that is followed.
pub(super) struct Connection {
    timing: PodmanTiming,
    looker: Looker,
    /// What is to be looked at again, and when.
    again: BTreeMap<Instant, Batch>,
    /// When everything is described anew, whatever has happened until then.
    whole: Instant,
}

/// What there is to look at.
#[derive(Clone, Debug, Default)]
struct Batch {
    /// The containers and Pods that events have named.
    named: BTreeSet<String>,
    /// Whether more has happened than health checks.
    has_more_than_checks: bool,
}

impl Batch {
    fn of(happened: Vec<Happened>) -> Self {
        let has_more_than_checks = happened.iter().any(|it| !it.is_health_check());
        let named = happened.into_iter().map(|it| it.actor.id).collect();
        Self { named, has_more_than_checks }
    }

    fn add(&mut self, other: &Self) {
        self.named.extend(other.named.iter().cloned());
        self.has_more_than_checks |= other.has_more_than_checks;
    }
}

type Events = mpsc::Receiver<Result<Happened, Fault>>;

impl Connection {
    pub(super) fn new(socket: PathBuf, timing: PodmanTiming) -> Self {
        let looker = Looker::new(socket, timing.answer);
        Self { timing, looker, again: BTreeMap::new(), whole: Instant::now() }
    }

    /// Tells of everything. `named` are the containers to be described anew; without it, all are.
    async fn tell(
        &mut self,
        named: Option<&BTreeSet<String>>,
        note: Option<String>,
        out: &mpsc::Sender<Event>,
    ) -> Result<Result<(), Fault>, Gone> {
        if named.is_none() {
            self.whole = Instant::now() + self.timing.period;
        }
        let told = match self.looker.look(named).await {
            Ok(world) => world.events(),
            Err(fault) => return Ok(Err(fault)),
        };
        let told = match told {
            Ok(told) => told,
            Err(source) => return Ok(Err(Fault::Garbled { path: "a Pod".to_owned(), source })),
        };
        let note = note.map(Event::Note);
        let all = [Event::Listing].into_iter().chain(told).chain(note).chain([Event::Listed]);
        for event in all {
            say(out, event).await?;
        }
        Ok(Ok(()))
    }

    /// Looks whenever something happens, until that fails.
    async fn watch(
        &mut self,
        mut happened: Events,
        out: &mpsc::Sender<Event>,
    ) -> Result<Fault, Gone> {
        // podman may have begun to listen after the first look.
        self.look_again_at(&Batch { has_more_than_checks: true, ..Batch::default() });
        let mut named = None;
        loop {
            if let Err(fault) = self.tell(named.as_ref(), None, out).await? {
                return Ok(fault);
            }
            named = match self.wait(&mut happened).await {
                Ok(named) => named,
                Err(fault) => return Ok(fault),
            };
        }
    }

    /// Looks now and then, because there are no events, and says so.
    async fn poll(&mut self, why: &str, out: &mpsc::Sender<Event>) -> Result<Option<Fault>, Gone> {
        let until = Instant::now() + self.timing.period;
        while Instant::now() < until {
            let every = self.timing.longest_retry;
            let note =
                format!("it has no events: {why}; it is looked at every {} s", every.as_secs_f64());
            if let Err(fault) = self.tell(None, Some(note), out).await? {
                return Ok(Some(fault));
            }
            tokio::time::sleep(every).await;
        }
        Ok(None)
    }

    /// Waits until there is something to look at, and returns the containers that may have changed;
    /// `None` if all may, because the last look at everything was long ago.
    async fn wait(&mut self, happened: &mut Events) -> Result<Option<BTreeSet<String>>, Fault> {
        let earliest = Instant::now() + PAUSE;
        loop {
            let next = self.again.first_key_value().map_or(self.whole, |(at, _)| *at);
            let mut batch = tokio::select! {
                biased;
                first = happened.recv() => {
                    let batch = Batch::of(vec![first.unwrap_or(Err(Fault::Ended))?]);
                    self.look_again_at(&batch);
                    batch
                }
                () = sleep_until(next.min(self.whole)) => Batch::default(),
            };
            sleep_until(earliest).await;
            // Both are due also if there is always another event.
            let now = Instant::now();
            if now >= self.whole {
                return Ok(None);
            }
            while let Some(due) = self.again.first_entry().filter(|it| *it.key() <= now) {
                batch.add(&due.remove());
            }
            let mut more = Vec::new();
            while let Ok(next) = happened.try_recv() {
                more.push(next?);
            }
            if !more.is_empty() {
                let more = Batch::of(more);
                self.look_again_at(&more);
                batch.add(&more);
            }
            if batch.has_more_than_checks || self.looker.has_changed(&batch.named).await? {
                return Ok(Some(batch.named));
            }
        }
    }

    fn look_again_at(&mut self, batch: &Batch) {
        let now = Instant::now();
        for delay in AGAIN {
            // Some are looked at together.
            let later = self.again.range_mut(now + delay..now + delay + delay).next();
            match later {
                Some((_, known)) => known.add(batch),
                None => drop(self.again.insert(now + delay + delay / 2, batch.clone())),
            }
        }
    }
}

impl Follow for Connection {
    type Fault = Fault;

    async fn follow(&mut self, out: &mpsc::Sender<Event>) -> Result<Fault, Gone> {
        self.again.clear();
        loop {
            let fault = match self.looker.listen().await {
                Ok(answer) => {
                    let (heard, happened) = mpsc::channel(events::WAITING);
                    let reader = events::hear(answer, heard);
                    tokio::select! {
                        fault = self.watch(happened, out) => fault?,
                        // What has been heard is still to be looked at.
                        () = async { reader.await; std::future::pending().await } => Fault::Ended,
                    }
                }
                Err(fault) => fault,
            };
            let Fault::NoEvents(why) = fault else { return Ok(fault) };
            if let Some(fault) = self.poll(&why, out).await? {
                return Ok(fault);
            }
        }
    }
}
