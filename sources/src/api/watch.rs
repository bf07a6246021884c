//! Follows one resource: lists, watches, and continues where a watch broke off.
//!
//! ```text
//!            ┌──── list in pages ─────┐
//!  Unlisted ─┤                        ├─▶ Listed(version) ──▶ watch ──┐
//!     ▲      └─ streaming list ───────┘        ▲                      │ ends, breaks, falls silent
//!     │        (goes on as a watch)            └──────────────────────┤
//!     └── 410 Gone; unreadable twice ─────────────────────────────────┘
//! ```
//!
//! # Recovery
//!
//! A watch continues from the last version it reached, so a broken connection costs only time. A
//! list is requested only if the server no longer knows the changes since that version, or if its
//! events cannot be read. After each failure there is a wait, which doubles each time and starts
//! over once a watch has brought an event.
//!
//! # How new a list must be
//!
//! As with client-go's reflector. As long as no version is known, any version in the server's cache
//! is accepted (`resourceVersion=0`). After that, nothing older than the last version reached is
//! accepted, which the cache has as well; so no list goes back in time, whichever of several
//! servers answers. Only if the server answers that it does not have that version, because it lags
//! behind or was restored from a copy, the newest list is requested, which may cost a read from
//! etcd. A streaming list is always the newest: the cache waits for it.

use std::rc::Rc;

use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep, timeout};
use tracing::debug;

use super::absent;
use super::access::Access;
use super::answer::{Age, BodyLines, Query, ask};
use super::fault::Fault;
use super::position::Position;
use super::resource::Resource;
use super::version::is_before;
use super::wire::{self, Heard, ListReader};
use crate::backoff::Backoff;
use crate::decode::document::Document;

pub(crate) use super::wire::Item;

/// Objects in a page, as client-go asks for.
const PAGE: u32 = 500;

/// How often an optional resource that is refused is retried as after any failure, before the
/// pauses get longer. A starting server refuses everything until it knows the roles; a server that
/// has delivered the required resources knows them, so that nothing waits for the retries
/// (`Store::is_complete`).
const REFUSALS: u32 = 8;

/// How long a resumed watch must last to count as accepted. A server that no longer knows the
/// version to continue from still begins the watch, and sends an error on it at once.
const REFUSAL: Duration = Duration::from_millis(100);

/// A watch that ends sooner than this, without an event, is a failure.
const MIN_WATCH_TIME: Duration = Duration::from_secs(1);

/// An event of a resource.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) resource: Resource,
    pub(crate) what: What,
}

/// The content of an event.
#[derive(Debug)]
pub(crate) enum What {
    /// A complete list begins. An earlier one that has not ended is abandoned.
    Begin,
    /// Some of its items.
    Items(Vec<Item>),
    /// The list is complete, with its version; without one, the server does not have the resource.
    End(Option<String>),
    /// An object is new or different.
    Apply(Box<Document>),
    /// An object is gone.
    Delete(Box<Document>),
    /// Requests have failed more than once, or have never succeeded; the reason.
    Failing(String),
    /// The object does not exist; the message about that.
    Absent(String),
    /// We lack the permission and continue without it; the reason.
    Refused(String),
    /// Requests succeed again.
    Fine,
    /// The server has accepted the version of an earlier run, whose objects are current: the watch
    /// continues from there.
    Resumed,
    /// All changes up to this version have been sent.
    Reached(String),
    /// The cluster that it belongs to, if that can be seen.
    Cluster(Option<String>),
}

/// Follows one resource.
pub(super) struct Follower {
    resource: Resource,
    access: Rc<Access>,
    events: mpsc::Sender<Event>,
    /// The version up to which all changes are known; `None` if a complete list is needed.
    version: Option<String>,
    /// The last version that was reached before a list became necessary: no list may be older.
    pub(super) floor: Option<String>,
    /// Whether the server's cache had no list that is new enough, so that the newest is requested.
    newest: bool,
    /// Whether there has ever been a complete list.
    listed: bool,
    /// The number of failures since a watch last brought an event.
    failures: u32,
    /// Whether the last failure was that the server no longer knew our version.
    expired: bool,
    /// Whether a failure was reported last.
    complained: bool,
    /// Whether the server has sent bookmarks.
    bookmarked: bool,
    /// Whether the next list is read in pages although the server may support streaming.
    paged: bool,
    /// Whether the last attempt was a streaming list.
    streaming: bool,
    /// The number of objects in a page; `None` after pages came too slowly to belong to one list.
    page: Option<u32>,
    /// The position of an earlier run, until it is known whether the server continues from there.
    position: Option<Position>,
    backoff: Backoff,
}

impl Follower {
    /// Creates one that begins with a list, or continues from the position of an earlier run.
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
        // If the receiver is gone, the whole source is about to be dropped.
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

    async fn ask(&self, client: &Client, query: Query<'_>) -> Result<BodyLines, Fault> {
        ask(&self.access, client, self.resource, query).await
    }

    /// Returns how old a list may be.
    fn age(&self) -> Age<'_> {
        match &self.floor {
            Some(version) if !self.newest => Age::NotOlderThan(version),
            None if !self.newest => Age::Any,
            Some(_) | None => Age::Newest,
        }
    }

    /// Reads the list: from the server's cache as a whole, or the newest in pages.
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

    /// Reads the list as events, and continues with the watch.
    async fn stream(&mut self, client: &Client) -> Result<(), Fault> {
        // The first list is the newest, as with client-go, although any would do.
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
                // The list is of the moment when the server began it; later changes come before the
                // bookmark as well.
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
        self.tell(What::End(Some(version))).await;
        // Notify only now: a request that is refused after this is refused by a server that has
        // delivered a list.
        self.access.reached.notify_waiters();
        if self.resource == Resource::Services
            && let Some(cluster) = self.access.cluster(client).await
        {
            self.tell(What::Cluster(cluster)).await;
        }
    }

    /// Notes that the server has accepted the watch from the position of an earlier run.
    async fn resumed(&mut self) {
        debug!(resource = %self.resource, version = self.version, "continuing from saved state");
        self.position = None;
        self.listed = true;
        self.tell(What::Resumed).await;
        self.access.reached.notify_waiters();
    }

    /// Reports at once if our Node does not exist, with the names of existing ones. Other resources
    /// may have any number of objects, also none.
    async fn tell_of_absence(&self, client: &Client, count: usize) {
        let follows_one = !self.access.options.all_nodes;
        if self.resource == Resource::Nodes && count == 0 && follows_one {
            self.tell(What::Absent(absent::message(&self.access, client).await)).await;
        }
    }

    async fn watch(&mut self, client: &Client, version: &str) -> Result<(), Fault> {
        let answer = self.ask(client, Query::Watch { version }).await?;
        self.follow(answer).await
    }

    /// Reads events until the watch ends.
    async fn follow(&mut self, mut answer: BodyLines) -> Result<(), Fault> {
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
            // A watch that has lasted this long counts as progress, even without an event.
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
                let fault = format!("a watch from version {reached} went back to {version}");
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
        if !heard && lasted < MIN_WATCH_TIME {
            return Err(Fault::garbled("the watch ended as soon as it began"));
        }
        self.progress();
        // A server whose etcd was restored from a copy continues from an older version. It sends
        // nothing, not even bookmarks, until it has reached our version again.
        if !heard && self.bookmarked && lasted >= timing.watch / 2 {
            debug!(resource = %self.resource, "no more bookmarks from this server, listing again");
            self.forget();
        }
        Ok(())
    }

    /// Requests a complete list that is not older than the version reached.
    fn relist(&mut self) {
        self.floor = self.version.take().or(self.floor.take());
    }

    /// Requests a complete list of a server that has gone back: its versions cannot be compared
    /// with those before.
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

    /// Handles a failure: decides how to continue, and waits.
    async fn recover(&mut self, fault: Fault) {
        let Self { resource, .. } = *self;
        let status = &self.access.status;
        status.watch(resource, false);
        status.count_error(fault.kind());
        status.fail(resource, &fault);
        let listing = self.version.is_none();
        // Another follower may have found out meanwhile that the server does not stream, so the
        // flag of this attempt counts.
        let streaming = listing && std::mem::take(&mut self.streaming);
        if streaming && matches!(fault.code(), Some(400 | 422)) {
            // A server that does not support streaming lists refuses their parameters.
            self.access.streams_not(&fault);
            return;
        }
        if fault.is_too_new() && !self.newest {
            debug!(%resource, %fault, "requesting the newest list");
            if listing {
                self.newest = true;
            } else {
                self.forget();
            }
            return;
        }
        // A server whose etcd cannot report its progress answers 500 to every streaming list, even
        // if it streams by default. That is a problem only if the list in pages fails too.
        let is_refused = matches!(fault, Fault::Status { code: 500.., retry_after: None, .. });
        if streaming && (is_refused || matches!(fault, Fault::Garbled(_))) {
            debug!(%resource, %fault, "listing in pages instead");
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
            // The server no longer has the requested version: that of a token of the list, or the
            // oldest allowed version.
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
        // The server answers and only a list is missing, so there is no need to wait, also after an
        // outage. A server that answers 410 to every request must not be asked without pauses.
        if fault.is_expired() && !expired_again {
            return;
        }
        // A connection that breaks once is not reported.
        if self.failures > 1 || !self.listed {
            self.complained = true;
            self.tell(What::Failing(fault.to_string())).await;
        }
        let wait = self.backoff.wait().max(fault.retry_after().unwrap_or_default());
        if matches!(fault, Fault::Connection(_)) {
            // If another list has reached the server, retry at once.
            let _ = timeout(wait, self.access.reached.notified()).await;
        } else {
            sleep(wait).await;
        }
    }

    /// Continues without a resource that the server does not have.
    async fn do_without(&mut self) {
        debug!(resource = %self.resource, "the server does not have this resource");
        self.forget();
        self.tell(What::Begin).await;
        self.tell(What::End(None)).await;
        sleep(self.access.options.timing.refused).await;
    }

    /// Continues without a resource that we lack the permission for. It is requested again soon for
    /// a while, and whenever another list has succeeded: the roles may be created later.
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
