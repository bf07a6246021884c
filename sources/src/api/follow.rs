//! Following one resource: list, watch, and begin again where it broke off.
//!
//! ```text
//!            ┌──── list in pages ─────┐
//!  Unlisted ─┤                        ├─▶ Listed(version) ──▶ watch ──┐
//!     ▲      └─ streaming list ───────┘        ▲                      │ ends, breaks, falls silent
//!     │        (goes on as a watch)            └──────────────────────┤
//!     └── 410 Gone; twice nothing readable ───────────────────────────┘
//! ```
//!
//! # Recovery
//!
//! A watch goes on from the last version it reached, so a broken connection costs nothing but time. A
//! list is asked for only when the server no longer knows what has happened since, or what it sends
//! cannot be read. After each failure comes a wait that doubles from one to the next and starts over
//! once a watch has brought something.
//!
//! # How new a list must be
//!
//! As with client-go's reflector. As long as nothing is known, whatever the server has in its cache will
//! do (`resourceVersion=0`); from then on nothing older than what was reached, which the cache has as
//! well; so no list goes back in time, whichever of several servers answers. Only when the server says
//! that it cannot, because it lags behind or was restored from a copy, the newest is asked for, which may
//! cost a read of etcd. A streaming list is the newest from the start: the cache waits for it.

use std::rc::Rc;

use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep, timeout};
use tracing::debug;

use super::absent;
use super::access::Access;
use super::answer::{Age, Answer, Query, ask};
use super::backoff::Backoff;
use super::fault::Fault;
use super::resource::Resource;
use super::saved::Position;
use super::wire::{self, Heard, ListReader};
use crate::manifest::Document;

pub(crate) use super::wire::Item;

/// Objects in a page, as client-go asks for.
const PAGE: u32 = 500;

/// How often something that can be done without is asked for as after any failure, before it is left
/// alone for longer. A server that starts refuses everything until it knows the roles; one that has given
/// what is required knows them, so that nothing waits for the answer (`Holdings::is_complete`).
const REFUSALS: u32 = 8;

/// A server that no longer knows the version that a watch is to go on from begins the watch all the same,
/// and says so on it at once. Whoever has not heard of that for so long goes on.
const REFUSAL: Duration = Duration::from_millis(100);

/// A watch that ends sooner, and without a word, is no watch.
const SHORTEST: Duration = Duration::from_secs(1);

/// What is told of a resource.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) resource: Resource,
    pub(crate) what: What,
}

/// What happened.
#[derive(Debug)]
pub(crate) enum What {
    /// A complete list begins. If an earlier one has not ended, it never will.
    Begin,
    /// Some of its items.
    Items(Vec<Item>),
    /// The list is complete.
    End,
    /// An object is new or different.
    Apply(Box<Document>),
    /// An object is gone.
    Delete(Box<Document>),
    /// It has failed more than once, or has never worked yet.
    Failing(String),
    /// There is no such object: what to say of it.
    Absent(String),
    /// We may not see it, and do without.
    Refused(String),
    /// It works again.
    Fine,
    /// What an earlier run has left is what the server has: the watch goes on from there.
    Resumed,
    /// What was said is everything up to this version.
    Reached(String),
    /// Which cluster it is, if that can be seen.
    Cluster(Option<String>),
}

/// Follows one resource.
pub(super) struct Follower {
    resource: Resource,
    access: Rc<Access>,
    events: mpsc::Sender<Event>,
    /// Up to where everything is known; nothing if a complete list is needed.
    version: Option<String>,
    /// How far it had come when it was forgotten where it was: no list may be older.
    floor: Option<String>,
    /// Whether the server had nothing that is new enough at hand, so that the newest is asked for.
    newest: bool,
    /// Whether there has ever been a complete list.
    listed: bool,
    /// Failures since a watch last brought something.
    failures: u32,
    /// Whether the last failure was that the server no longer knew where we were.
    expired: bool,
    /// Whether the last word was one of failure.
    complained: bool,
    /// Whether the server is one that sends bookmarks.
    bookmarked: bool,
    /// Whether the next list is read in pages although the server may stream.
    paged: bool,
    /// Whether what was tried last was a list that streams.
    streaming: bool,
    /// Objects in a page; nothing if they did not come fast enough to be of one list.
    page: Option<u32>,
    /// Where an earlier run was, until it is known whether the server goes on from there.
    position: Option<Position>,
    backoff: Backoff,
}

impl Follower {
    /// One that begins with a list, or goes on from where an earlier run was.
    pub(super) fn new(
        resource: Resource,
        access: Rc<Access>,
        events: mpsc::Sender<Event>,
        position: Option<Position>,
    ) -> Self {
        let timing = access.options.timing;
        Self {
            resource,
            access,
            events,
            version: position.as_ref().map(|position| position.version.clone()),
            floor: None,
            newest: false,
            listed: false,
            failures: 0,
            expired: false,
            complained: false,
            bookmarked: false,
            paged: false,
            streaming: false,
            page: Some(PAGE),
            position,
            backoff: Backoff::new(timing.first_retry, timing.longest_retry),
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            if let Err(fault) = self.step().await {
                self.recover(fault).await;
            }
        }
    }

    async fn tell(&self, what: What) {
        // If nobody listens any more, the whole source is about to be dropped.
        let _ = self.events.send(Event { resource: self.resource, what }).await;
    }

    async fn step(&mut self) -> Result<(), Fault> {
        let (client, generation) = self.access.client().await?;
        let outcome = self.attempt(&client).await;
        if let Err(fault) = &outcome
            && fault.is_about_access()
        {
            self.access.doubt(generation, fault);
        }
        outcome
    }

    async fn attempt(&mut self, client: &Client) -> Result<(), Fault> {
        if let Some(position) = &self.position
            && !self.access.knows(client, self.resource, position).await?
        {
            self.position = None;
            self.version = None;
        }
        let version = self.version.clone();
        self.streaming = version.is_none() && self.access.streams() && !self.paged;
        match version {
            Some(version) => self.watch(client, &version).await,
            None if self.streaming => self.stream(client).await,
            None => self.list(client).await,
        }
    }

    async fn ask(&self, client: &Client, query: Query<'_>) -> Result<Answer, Fault> {
        ask(&self.access, client, self.resource, query).await
    }

    /// How old a list may be.
    fn age(&self) -> Age<'_> {
        match &self.floor {
            Some(version) if !self.newest => Age::NotOlderThan(version),
            None if !self.newest => Age::Any,
            Some(_) | None => Age::Newest,
        }
    }

    /// Reads the list: what the server has in its cache as a whole, the newest in pages.
    async fn list(&mut self, client: &Client) -> Result<(), Fault> {
        let patience = self.access.options.timing.answer;
        let mut token: Option<String> = None;
        let mut count = 0;
        self.tell(What::Begin).await;
        loop {
            let query = match token.as_deref() {
                Some(token) => Query::Page { limit: self.page, token },
                None => Query::List { limit: self.page, age: self.age() },
            };
            let mut answer = self.ask(client, query).await?;
            let mut reader = ListReader::default();
            let mut items = Vec::new();
            while let Some(text) = answer.chunk(patience).await? {
                reader.read(&text, &mut items)?;
                if items.len() >= PAGE as usize {
                    count += items.len();
                    self.tell(What::Items(std::mem::take(&mut items))).await;
                }
            }
            let (version, continue_token) = reader.finish()?;
            count += items.len();
            self.tell(What::Items(items)).await;
            if continue_token.is_none() {
                self.complete(client, version).await;
                self.tell_of_absence(client, count).await;
                return Ok(());
            }
            token = continue_token;
        }
    }

    /// Reads the list as events, and goes on watching.
    async fn stream(&mut self, client: &Client) -> Result<(), Fault> {
        // At first the newest, as client-go asks for, although any would do.
        let age = match self.age() {
            Age::Any => Age::Newest,
            age @ (Age::NotOlderThan(_) | Age::Newest) => age,
        };
        let mut answer = self.ask(client, Query::Stream { age }).await?;
        let patience = self.access.options.timing.answer;
        let mut items = Vec::new();
        let mut count = 0;
        self.tell(What::Begin).await;
        loop {
            let Some(line) = answer.line(patience).await? else {
                return Err(Fault::garbled("a streaming list ended before it was complete"));
            };
            match wire::event(line)? {
                Heard::Apply(document, _) => {
                    count += 1;
                    items.push(Ok(document));
                }
                Heard::Bookmark { version, end: true } => {
                    self.bookmarked = true;
                    self.tell(What::Items(items)).await;
                    self.complete(client, version).await;
                    self.tell_of_absence(client, count).await;
                    return self.follow(answer).await;
                }
                Heard::Bookmark { end: false, .. } => {}
                // The list is of the moment when the server began; what happens meanwhile comes before
                // the bookmark, too.
                Heard::Delete(document, _) => {
                    self.tell(What::Items(std::mem::take(&mut items))).await;
                    self.tell(What::Delete(document)).await;
                }
            }
            if items.len() >= PAGE as usize || !answer.has_line() {
                self.tell(What::Items(std::mem::take(&mut items))).await;
            }
        }
    }

    async fn complete(&mut self, client: &Client, version: String) {
        debug!(resource = %self.resource, version, "listed");
        self.version = Some(version.clone());
        self.floor = None;
        self.newest = false;
        self.listed = true;
        self.position = None;
        self.paged = false;
        self.page = Some(PAGE);
        self.access.status.count_list();
        self.tell(What::End).await;
        self.tell(What::Reached(version)).await;
        // Afterwards: who is refused something now is refused it by a server that has given this.
        self.access.reached.notify_waiters();
        if self.resource == Resource::Services
            && let Some(cluster) = self.access.cluster(client).await
        {
            self.tell(What::Cluster(cluster)).await;
        }
    }

    /// The watch from where an earlier run was is not refused.
    async fn resumed(&mut self) {
        debug!(resource = %self.resource, version = self.version, "goes on from the state");
        self.position = None;
        self.listed = true;
        self.tell(What::Resumed).await;
        self.access.reached.notify_waiters();
    }

    /// Says so at once if our Node is not there, by what there is instead. Of the others, there may be any
    /// number.
    async fn tell_of_absence(&self, client: &Client, count: usize) {
        if self.resource == Resource::Nodes && count == 0 {
            self.tell(What::Absent(absent::message(&self.access, client).await)).await;
        }
    }

    async fn watch(&mut self, client: &Client, version: &str) -> Result<(), Fault> {
        let answer = self.ask(client, Query::Watch { version }).await?;
        self.follow(answer).await
    }

    /// Takes in events until there are no more.
    async fn follow(&mut self, mut answer: Answer) -> Result<(), Fault> {
        let timing = self.access.options.timing;
        let opened = Instant::now();
        let mut heard = false;
        self.access.status.watch(self.resource, true);
        if std::mem::take(&mut self.complained) {
            self.tell(What::Fine).await;
        }
        loop {
            let patience = timing.watch.saturating_add(timing.slack);
            let line = if self.position.is_none() {
                answer.line(patience).await
            } else if let Ok(line) = timeout(REFUSAL, answer.line(patience)).await {
                line
            } else {
                self.resumed().await;
                continue;
            };
            // That it has lasted is as good as a word.
            if opened.elapsed() >= timing.longest_retry {
                self.progress();
            }
            let Some(line) = line? else { break };
            let event = wire::event(line)?;
            if self.position.is_some() {
                self.resumed().await;
            }
            self.access.status.count_event();
            let (version, what) = match event {
                Heard::Apply(document, version) => (version, Some(What::Apply(document))),
                Heard::Delete(document, version) => (version, Some(What::Delete(document))),
                Heard::Bookmark { version, .. } => {
                    self.bookmarked = true;
                    (version.clone(), Some(What::Reached(version)))
                }
            };
            if let Some(reached) = self.version.as_ref().filter(|held| is_before(&version, held)) {
                let fault = format!("a watch from {reached} came to {version}");
                self.forget();
                return Err(Fault::Garbled(fault));
            }
            heard = true;
            self.progress();
            self.version = Some(version);
            if let Some(what) = what {
                self.tell(what).await;
            }
        }
        let lasted = opened.elapsed();
        if !heard && lasted < SHORTEST {
            return Err(Fault::garbled("a watch that ended as soon as it began"));
        }
        self.progress();
        // A server whose etcd was restored from a copy counts from further back. It sends nothing at
        // all, not even bookmarks, until it has counted up to where we are.
        if !heard && self.bookmarked && lasted >= timing.watch / 2 {
            debug!(resource = %self.resource, "listed anew: not a word, from a server that had some");
            self.forget();
        }
        Ok(())
    }

    /// Needs a complete list, of what the server has had since.
    fn relist(&mut self) {
        self.floor = self.version.take().or(self.floor.take());
    }

    /// Needs a complete list of a server that has gone back: what it counted to means nothing any more.
    fn forget(&mut self) {
        self.version = None;
        self.floor = None;
        self.newest = true;
    }

    fn progress(&mut self) {
        self.failures = 0;
        self.expired = false;
        self.backoff.reset();
    }

    /// Decides what a failure means, and waits.
    async fn recover(&mut self, fault: Fault) {
        let Self { resource, .. } = *self;
        let status = &self.access.status;
        status.watch(resource, false);
        status.count_error(fault.kind());
        let listing = self.version.is_none();
        // Others may have found out meanwhile that the server does not stream.
        let streaming = listing && std::mem::take(&mut self.streaming);
        if streaming && matches!(fault.code(), Some(400 | 422)) {
            // Servers that cannot say no do not know the parameters.
            self.access.streams_not(&fault);
            return;
        }
        if fault.is_too_new() && !self.newest {
            debug!(%resource, %fault, "the newest is asked for");
            if listing {
                self.newest = true;
            } else {
                self.forget();
            }
            return;
        }
        // One whose etcd cannot tell how far it has come says 500 to every streaming list, also of those
        // that stream by default. That is no problem until the list in pages is one.
        let is_refused = matches!(fault, Fault::Status { code: 500.., retry_after: None, .. });
        if streaming && (is_refused || matches!(fault, Fault::Garbled(_))) {
            debug!(%resource, %fault, "listed in another way");
            self.paged = true;
            return;
        }
        self.failures += 1;
        let expired_again = std::mem::replace(&mut self.expired, fault.is_expired());
        if resource.is_missing(&fault) {
            self.do_without().await;
            return;
        }
        if !resource.is_required() && fault.code() == Some(403) {
            self.give_up(&fault).await;
            return;
        }
        match fault {
            // What was asked for is no longer there: a token of the list, or the version it may not be
            // older than.
            Fault::Status { code: 410, .. } if listing && self.newest => self.page = None,
            Fault::Status { code: 410, .. } if listing => self.newest = true,
            Fault::Status { code: 410, .. } => self.relist(),
            Fault::Status { code: 500.., .. } | Fault::Silence(_) if streaming => self.paged = true,
            Fault::Garbled(_) if self.failures > 1 => self.relist(),
            Fault::Config(_)
            | Fault::Plugin(_)
            | Fault::Connection(_)
            | Fault::Silence(_)
            | Fault::Status { .. }
            | Fault::Garbled(_) => {}
        }
        debug!(%resource, %fault, failures = self.failures, "failed");
        // The server answers, and what is missing is a list: also after an outage, nothing is won by
        // waiting. One that expires whatever it is asked is another matter.
        if fault.is_expired() && !expired_again {
            return;
        }
        // A connection that breaks once is nothing to be told of.
        if self.failures > 1 || !self.listed {
            self.complained = true;
            self.tell(What::Failing(fault.to_string())).await;
        }
        let wait = self.backoff.wait().max(fault.retry_after().unwrap_or_default());
        if matches!(fault, Fault::Connection(_)) {
            // A server that another list has reached can be reached.
            let _ = timeout(wait, self.access.reached.notified()).await;
        } else {
            sleep(wait).await;
        }
    }

    /// Goes without something that the server does not have.
    async fn do_without(&mut self) {
        debug!(resource = %self.resource, "the server does not have it");
        self.forget();
        self.tell(What::Begin).await;
        self.tell(What::End).await;
        sleep(self.access.options.timing.refused).await;
    }

    /// Goes without something that we may not see. It is asked for again when a list has come that is
    /// allowed, and soon for a while: roles may be on their way.
    async fn give_up(&mut self, fault: &Fault) {
        debug!(resource = %self.resource, %fault, failures = self.failures, "refused");
        self.complained = true;
        self.tell(What::Refused(format!("{fault}; {}", self.resource.needed_rights()))).await;
        if self.failures > REFUSALS {
            sleep(self.access.options.timing.refused).await;
        } else {
            let wait = self.backoff.wait();
            let _ = timeout(wait, self.access.reached.notified()).await;
        }
    }
}

/// Whether a resource version is older than another. They are numbers (KEP-5504); of those that are
/// not, nothing is known. A server that goes back has lost its memory, and we must forget ours.
pub(super) fn is_before(version: &str, other: &str) -> bool {
    match (version.parse::<u64>(), other.parse::<u64>()) {
        (Ok(version), Ok(other)) => version < other,
        _ => false,
    }
}
