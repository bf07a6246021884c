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

use std::rc::Rc;

use kube::Client;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep, timeout};
use tracing::{debug, warn};

use super::absent;
use super::access::Access;
use super::answer::{Answer, Query, ask};
use super::backoff::Backoff;
use super::fault::Fault;
use super::resource::Resource;
use super::wire::{self, Heard, Page};
use crate::manifest::Document;

pub(crate) use super::wire::Item;

/// Objects in a page, as client-go asks for.
const PAGE: u32 = 500;

/// How often something that can be done without is asked for as after any failure, before it is left
/// alone for longer. A server that starts refuses everything until it knows the roles.
const REFUSALS: u32 = 8;

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
}

/// Follows one resource.
pub(super) struct Follower {
    resource: Resource,
    access: Rc<Access>,
    events: mpsc::Sender<Event>,
    /// Up to where everything is known; nothing if a complete list is needed.
    version: Option<String>,
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
    backoff: Backoff,
}

impl Follower {
    pub(super) fn new(resource: Resource, access: Rc<Access>, events: mpsc::Sender<Event>) -> Self {
        let timing = access.options.timing;
        Self {
            resource,
            access,
            events,
            version: None,
            listed: false,
            failures: 0,
            expired: false,
            complained: false,
            bookmarked: false,
            paged: false,
            streaming: false,
            page: Some(PAGE),
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
        let version = self.version.clone();
        self.streaming = version.is_none() && self.access.streams() && !self.paged;
        let outcome = match version {
            Some(version) => self.watch(&client, &version).await,
            None if self.streaming => self.stream(&client).await,
            None => self.list(&client).await,
        };
        if outcome.as_ref().is_err_and(Fault::is_about_access) {
            self.access.doubt(generation);
        }
        outcome
    }

    async fn ask(&self, client: &Client, query: Query<'_>) -> Result<Answer, Fault> {
        ask(&self.access, client, self.resource, query).await
    }

    /// Reads the list in pages.
    async fn list(&mut self, client: &Client) -> Result<(), Fault> {
        let mut token: Option<String> = None;
        let mut count = 0;
        self.tell(What::Begin).await;
        loop {
            let query = Query::List { limit: self.page, continue_token: token.as_deref() };
            let answer = self.ask(client, query).await?;
            let text = answer.text(self.access.options.timing.answer).await?;
            let Page { items, version, continue_token } = wire::page(&text)?;
            drop(text);
            count += items.len();
            self.tell(What::Items(items)).await;
            if continue_token.is_none() {
                self.complete(version).await;
                self.tell_of_absence(client, count).await;
                return Ok(());
            }
            token = continue_token;
        }
    }

    /// Reads the list as events, and goes on watching.
    async fn stream(&mut self, client: &Client) -> Result<(), Fault> {
        let mut answer = self.ask(client, Query::Stream).await?;
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
                    self.complete(version).await;
                    self.tell_of_absence(client, count).await;
                    return self.follow(answer).await;
                }
                Heard::Bookmark { end: false, .. } => {}
                // Nothing that is listed as of one moment can be gone.
                Heard::Delete(..) => return Err(Fault::garbled("a list with a deletion in it")),
            }
            if items.len() >= PAGE as usize || !answer.has_line() {
                self.tell(What::Items(std::mem::take(&mut items))).await;
            }
        }
    }

    async fn complete(&mut self, version: String) {
        debug!(resource = %self.resource, version, "listed");
        self.version = Some(version);
        self.listed = true;
        self.paged = false;
        self.page = Some(PAGE);
        self.access.status.count_list();
        self.access.reached.notify_waiters();
        self.tell(What::End).await;
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
            let line = answer.line(timing.watch.saturating_add(timing.slack)).await;
            // That it has lasted is as good as a word.
            if opened.elapsed() >= timing.longest_retry {
                self.progress();
            }
            let Some(line) = line? else { break };
            let event = wire::event(line)?;
            self.access.status.count_event();
            let (version, what) = match event {
                Heard::Apply(document, version) => (version, Some(What::Apply(document))),
                Heard::Delete(document, version) => (version, Some(What::Delete(document))),
                Heard::Bookmark { version, .. } => {
                    self.bookmarked = true;
                    (version, None)
                }
            };
            if let Some(reached) = self.version.as_ref().filter(|held| is_before(&version, held)) {
                let fault = format!("a watch from {reached} came to {version}");
                self.version = None;
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
            self.version = None;
        }
        Ok(())
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
        self.failures += 1;
        let expired_again = std::mem::replace(&mut self.expired, fault.is_expired());
        if resource.is_missing(&fault) {
            self.do_without().await;
            return;
        }
        if !resource.is_required() && fault.code() == Some(403) && self.failures > REFUSALS {
            self.give_up(&fault).await;
            return;
        }
        match fault {
            Fault::Status { code: 410, .. } if listing => self.page = None,
            Fault::Status { code: 410, .. } => self.version = None,
            // One whose etcd cannot tell how far it has come says 500 to every streaming list, also of
            // those that stream by default.
            Fault::Status { code: 500.., .. } | Fault::Garbled(_) | Fault::Silence(_)
                if streaming =>
            {
                self.paged = true;
            }
            Fault::Garbled(_) if self.failures > 1 => self.version = None,
            Fault::Config(_)
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
        self.version = None;
        self.tell(What::Begin).await;
        self.tell(What::End).await;
        sleep(self.access.options.timing.refused).await;
    }

    /// Goes without something that we may not see.
    async fn give_up(&mut self, fault: &Fault) {
        warn!(resource = %self.resource, %fault, "done without");
        self.complained = true;
        self.tell(What::Refused(fault.to_string())).await;
        sleep(self.access.options.timing.refused).await;
    }
}

/// Whether a resource version is older than another. They are numbers (KEP-5504); of those that are
/// not, nothing is known. A server that goes back has lost its memory, and we must forget ours.
fn is_before(version: &str, other: &str) -> bool {
    match (version.parse::<u64>(), other.parse::<u64>()) {
        (Ok(version), Ok(other)) => version < other,
        _ => false,
    }
}
