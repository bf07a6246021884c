//! A relay as a source: it stands for the API server, and sends only what this node needs.
//!
//! ```text
//!  session ──DeltaResponse──▶ store ──▶ Update { changes, problems }
//!  (TLS, gRPC, answers)       (what was sent, by version)
//! ```
//!
//! A relay that is away can be replaced by the API server itself for a while (`substitute`).
//!
//! The objects are those of the API server, so they have its origin. A batch of responses ends with
//! a position: until then, nothing of it is used, so that a connection that breaks in between leaves
//! no half of a change. The versions of all resources are known at both ends, so that a new
//! connection, also to another relay, begins with what has changed.
//!
//! `session` knows the protocol but not the meaning of resources; `store` knows what they mean but
//! not the connections. `saved` keeps the state for the next start.

mod codec;
mod fault;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
#[cfg(feature = "measuring")]
pub(crate) mod measuring;
mod saved;
mod session;
mod status;
mod store;
mod substitute;

#[cfg(test)]
mod tests;

use std::mem;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::name::NodeName;
use rulec_relay::Position;
use rulec_relay::discovery::DeltaResponse;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::api::ApiStatus;
use crate::backoff::Backoff;
use crate::error::{SourceError, chain};
use crate::state::StateDir;
use crate::update::Update;
use fault::Fault;
use saved::Memory;
use session::{First, Session};
use store::Store;
use substitute::Substitute;

pub use status::RelayStatus;
pub use substitute::RelayFallback;

/// The port of a relay whose address names none: the usual one of such servers.
pub const RELAY_PORT: u16 = 18000;

/// How to reach a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAccess {
    /// Its address: `https`, or `http` for one that asks nobody who they are.
    pub url: Uri,
    /// The file with the certificates that the relay's is verified by.
    pub certificate_authority: Option<PathBuf>,
    /// The file with the certificate that we show.
    pub client_certificate: Option<PathBuf>,
    /// The file with its key.
    pub client_key: Option<PathBuf>,
    /// The file with a token that we show instead, of a service account. Only over `https`.
    pub token: Option<PathBuf>,
}

/// How long to wait for a relay.
#[derive(Clone, Copy, Debug)]
pub struct RelayTiming {
    /// How long a connection and the first answer may take.
    pub answer: Duration,
    /// How long a connection may be silent before the relay is asked whether it is still there, and
    /// how long that may take.
    pub ping: Duration,
    /// The shortest wait after a failure.
    pub first_retry: Duration,
    /// The longest wait after a failure.
    pub longest_retry: Duration,
    /// How long the first complete state waits for the Node to have an address.
    pub optional: Duration,
    /// How long the relay may take at a start before the state of an earlier run stands in for it.
    pub grace: Duration,
    /// How long a relay may know less than this node does before it is followed all the same. API
    /// servers tell about once a minute how far they are, so one that needs longer has gone back, as
    /// after a restore.
    pub behind: Duration,
}

impl Default for RelayTiming {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            ping: Duration::from_secs(20),
            first_retry: Duration::from_millis(800),
            longest_retry: Duration::from_secs(30),
            optional: Duration::from_secs(30),
            grace: Duration::from_secs(1),
            behind: Duration::from_secs(180),
        }
    }
}

/// The relay, this node, and what is kept.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// How to reach it.
    pub access: RelayAccess,
    /// This node.
    pub node_name: NodeName,
    /// How long to wait.
    pub timing: RelayTiming,
    /// Where the state is saved for the next start, if it is.
    pub state: Option<StateDir>,
    /// What takes its place while it is away, if anything does.
    pub fallback: Option<RelayFallback>,
}

/// Tells the relay which Services this node does not program, and why. Only the newest word counts.
#[derive(Clone, Debug)]
pub struct RelayReports(Arc<watch::Sender<Option<String>>>);

impl RelayReports {
    /// Reports what is wrong; `None` if nothing is any more.
    pub fn report(&self, what: Option<String>) {
        self.0.send_if_modified(|held| mem::replace(held, what.clone()) != what);
    }
}

/// Follows the resources of a relay.
#[derive(Debug)]
pub struct RelaySource {
    options: RelayOptions,
    status: Arc<RelayStatus>,
    api_status: Arc<ApiStatus>,
    reports: RelayReports,
}

impl RelaySource {
    /// Opens no connection yet. The relay need not be available.
    pub fn new(options: RelayOptions) -> Self {
        let reports = RelayReports(Arc::new(watch::Sender::new(None)));
        let status = Arc::new(RelayStatus::new(options.access.url.to_string()));
        Self { options, status, api_status: Arc::default(), reports }
    }

    /// Returns the status of the source, which can be read at any time and from any thread.
    pub fn status(&self) -> Arc<RelayStatus> {
        self.status.clone()
    }

    /// Returns the status of the API server in its place.
    pub fn api_status(&self) -> Arc<ApiStatus> {
        self.api_status.clone()
    }

    /// Returns the sender of reports to the relay.
    pub fn reports(&self) -> RelayReports {
        self.reports.clone()
    }

    /// Sends the objects of the relay and then their changes, until the receiver is dropped.
    ///
    /// The first change of each kind, and the first after a gap, is a `Replace`. No object is removed
    /// because the relay cannot be reached: the last known state stays, and [`Update::problems`] has
    /// the reason.
    ///
    /// # Errors
    ///
    /// [`SourceError::Thread`] if no thread can be started, [`SourceError::Ended`] if it ends on its
    /// own. A relay that is unavailable is no error.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let (ended, end) = oneshot::channel();
        // Dropped with this future, which tells the thread to end.
        let (_wanted, unwanted) = oneshot::channel::<()>();
        let updates = out.clone();
        std::thread::Builder::new()
            .name("rulec-relay".to_owned())
            .spawn(move || {
                let _ = ended.send(block_on(async {
                    tokio::select! {
                        () = Follower::new(self, updates).run() => {}
                        _ = unwanted => {}
                    }
                }));
            })
            .map_err(SourceError::Thread)?;
        tokio::select! {
            () = out.closed() => Ok(()),
            outcome = end => match outcome {
                Ok(Err(error)) => Err(SourceError::Thread(error)),
                Ok(Ok(())) | Err(_) if out.is_closed() => Ok(()),
                Ok(Ok(())) | Err(_) => Err(SourceError::Ended),
            },
        }
    }
}

/// Runs a task on this thread.
fn block_on(task: impl Future<Output = ()>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(task);
    // A resolver may still be waiting for an answer; do not wait for it.
    runtime.shutdown_background();
    Ok(())
}

/// The connection, or the way to one.
enum Link {
    Pause(Instant),
    Opening(Pin<Box<dyn Future<Output = Result<Session, Fault>>>>),
    Open(Box<Session>),
}

/// What has happened to the connection.
enum Step {
    Due,
    Opened(Box<Session>),
    Response(DeltaResponse),
    Failed(Fault),
}

impl Link {
    /// Waits for what happens next. Nothing is lost if this future is dropped.
    async fn step(&mut self) -> Step {
        match self {
            Self::Pause(until) => {
                sleep_until(*until).await;
                Step::Due
            }
            Self::Opening(opening) => match opening.await {
                Ok(session) => Step::Opened(Box::new(session)),
                Err(fault) => Step::Failed(fault),
            },
            Self::Open(session) => match session.next().await {
                Ok(response) => Step::Response(response),
                Err(fault) => Step::Failed(fault),
            },
        }
    }
}

struct Follower {
    options: RelayOptions,
    status: Arc<RelayStatus>,
    reports: watch::Receiver<Option<String>>,
    /// Keeps the channel of reports open.
    _reports: RelayReports,
    out: mpsc::Sender<Update>,
    store: Store,
    memory: Option<Memory>,
    link: Link,
    backoff: Backoff,
    substitute: Substitute,
    /// Which of several addresses is next. Nodes begin with different ones.
    turn: usize,
    /// What the relay must know, on this connection.
    asked: Position,
    /// Until when the relay may know less than this node.
    behind: Option<Instant>,
    /// When to connect anew, to learn how far the relay is.
    again: Option<Instant>,
    /// Until when the state of an earlier run is not used.
    grace: Option<Instant>,
    /// Until when the Node is waited for.
    patience: Option<Instant>,
    was_complete: bool,
    was_stale: bool,
}

impl Follower {
    fn new(source: RelaySource, out: mpsc::Sender<Update>) -> Self {
        let RelaySource { options, status, api_status, reports } = source;
        let timing = options.timing;
        Self {
            reports: reports.0.subscribe(),
            _reports: reports,
            out,
            store: Store::new(options.node_name.clone()),
            memory: None,
            link: Link::Pause(Instant::now()),
            backoff: Backoff::new(timing.first_retry, timing.longest_retry),
            substitute: Substitute::new(options.fallback.clone(), api_status),
            turn: usize::from(blake3::hash(options.node_name.as_str().as_bytes()).as_bytes()[1]),
            asked: Position::default(),
            behind: None,
            again: None,
            grace: None,
            patience: None,
            was_complete: false,
            was_stale: false,
            options,
            status,
        }
    }

    async fn run(mut self) {
        info!(relay = %self.options.access.url, "following the relay");
        if let Some(state) = &self.options.state {
            let (memory, held) = Memory::load(state, &self.options.node_name);
            if let Some(held) = held {
                self.store.take_over(held);
                self.grace = Some(Instant::now() + self.options.timing.grace);
            }
            self.memory = Some(memory);
        }
        let out = self.out.clone();
        loop {
            // What only the relay has must not go with it.
            self.substitute.note(self.is_heard() || self.store.has_manifests());
            let (grace, patience) = (until(self.grace), until(self.patience));
            let (behind, again) = (until(self.behind), until(self.again));
            let is_open = matches!(self.link, Link::Open(_));
            tokio::select! {
                biased;
                () = out.closed() => return,
                () = grace => {
                    self.grace = None;
                    if self.store.stand_in() {
                        tell_of_stale(self.store.stale());
                    }
                }
                () = patience => {
                    self.patience = None;
                    self.store.lose_patience();
                }
                () = behind, if is_open => self.lower_floor(),
                () = again => self.ask_again(),
                step = self.link.step() => self.proceed(step).await,
                step = self.substitute.step() => self.replace(step),
                Ok(()) = self.reports.changed(), if is_open => self.report().await,
            }
            if !self.tell().await {
                return;
            }
        }
    }

    async fn proceed(&mut self, step: Step) {
        match step {
            Step::Due => {
                let RelayOptions { access, node_name, timing, .. } = &self.options;
                let known = self.store.known();
                let floor = self.floor();
                self.asked.clone_from(&floor);
                let (access, node) = (access.clone(), node_name.clone());
                let status = self.status.clone();
                let turn = self.turn;
                self.turn = turn.wrapping_add(1);
                let opening =
                    session::open(access, node, *timing, First { known, floor }, turn, status);
                self.link = Link::Opening(Box::pin(opening));
            }
            Step::Opened(session) => {
                self.store.begin(self.asked.clone());
                self.link = Link::Open(session);
                let has_report = self.reports.borrow_and_update().is_some();
                if has_report {
                    self.report().await;
                }
            }
            Step::Response(response) => {
                self.status.hear(&response);
                let nonce = response.nonce.clone();
                let type_url = response.type_url.clone();
                let outcome = self.store.take(response);
                let Link::Open(session) = &mut self.link else { return };
                match outcome {
                    Ok(refused) => {
                        self.status.refuse(refused.len());
                        session.answer(type_url, nonce, &refused).await;
                        if self.store.has_news() || self.store.is_current() {
                            self.backoff.reset();
                            self.status.connect(self.is_heard());
                        }
                        self.compare();
                    }
                    Err(fault) => self.fail(fault),
                }
            }
            Step::Failed(fault) => self.fail(fault),
        }
        if self.store.waits_for_node() && self.patience.is_none() {
            self.patience = Some(Instant::now() + self.options.timing.optional);
        }
    }

    fn fail(&mut self, fault: Fault) {
        let reason = chain(&fault);
        let wait = self.backoff.wait();
        debug!(%reason, ?wait, "the relay cannot be followed");
        if fault.is_about_length() {
            self.store.start_over();
        }
        self.status.fail(&reason);
        self.status.connect(false);
        self.store.hinder(&reason, self.substitute.serves());
        self.again = None;
        self.link = Link::Pause(Instant::now() + wait);
    }

    /// Returns how much of the API server's changes the receiver has.
    fn floor(&self) -> Position {
        let mut floor = self.store.floor().clone();
        if let Some(other) = self.substitute.floor() {
            floor.advance(other);
        }
        floor
    }

    /// Returns whether the relay has sent everything and is not cut off itself.
    fn is_heard(&self) -> bool {
        let is_open = matches!(self.link, Link::Open(_));
        is_open && self.store.is_current() && !self.store.standing().is_cut_off
    }

    /// Compares what the relay knows with what this node has.
    fn compare(&mut self) {
        let is_heard = self.is_heard();
        let position = &self.store.standing().position;
        let is_behind = is_heard && position.is_behind_in_any(&self.asked);
        if is_behind {
            self.behind.get_or_insert(Instant::now() + self.options.timing.behind);
        } else if is_heard {
            self.behind = None;
        }
        if !self.substitute.serves() || !is_heard || is_behind {
            return;
        }
        if !position.is_behind_in_any(&self.floor()) {
            info!(relay = %self.options.access.url, "the relay is back");
            self.again = None;
            self.substitute.end();
            self.store.replace();
        } else if self.again.is_none() {
            // The server has gone on meanwhile. The relay tells how far it is with the next change;
            // without one, it tells at the beginning of a connection.
            self.again = Some(Instant::now() + self.options.timing.ping);
        }
    }

    /// Connects anew, so that the relay tells how far it is.
    fn ask_again(&mut self) {
        self.again = None;
        self.status.connect(false);
        self.link = Link::Pause(Instant::now() + self.backoff.wait());
    }

    /// Follows a relay that knows less than this node has for too long.
    fn lower_floor(&mut self) {
        self.behind = None;
        if self.substitute.serves() {
            if self.substitute.is_heard() {
                return;
            }
            // It may never come to the versions that the server has had.
            self.leave_substitute();
        }
        warn!(
            relay = %self.options.access.url,
            known = ?self.store.standing().position,
            held = ?self.asked,
            "the relay does not get to what is known of the API server, following it nevertheless"
        );
        self.store.lower_floor();
        self.ask_again();
    }

    /// Ends following the API server, whose objects stay until the relay has sent newer ones.
    fn leave_substitute(&mut self) {
        if let Some(floor) = self.substitute.floor() {
            self.store.leave_to(floor);
        }
        self.substitute.end();
    }

    /// Goes on with what the API server says in the place of the relay.
    fn replace(&mut self, step: substitute::Step) {
        match step {
            substitute::Step::Due => {
                warn!(relay = %self.options.access.url, "the relay is away, asking the API server");
                self.substitute.start(self.floor());
            }
            substitute::Step::Update(update) => {
                let held = |topic| self.store.objects_of(topic);
                if self.substitute.take(*update, held) {
                    info!("the API server has taken the place of the relay");
                }
            }
            // It is started again as after the relay has gone.
            substitute::Step::Ended => {
                warn!("following the API server has ended");
                self.leave_substitute();
            }
        }
    }

    async fn report(&mut self) {
        let report = self.reports.borrow_and_update().clone();
        if let Link::Open(session) = &mut self.link {
            session.report(report).await;
        }
    }

    /// Sends what is new. Returns false if nobody receives it any more.
    async fn tell(&mut self) -> bool {
        let serves = self.substitute.serves();
        self.status.replace(serves);
        let complete = self.was_complete || self.store.is_complete() || serves;
        let completed = !mem::replace(&mut self.was_complete, complete) && complete;
        let stale = self.store.stale().filter(|_| !serves);
        let freshened = mem::replace(&mut self.was_stale, stale.is_some()) && stale.is_none();
        if freshened {
            let who = if serves { "the API server" } else { "the relay" };
            info!("{who} has delivered, the state of the last run is no longer used");
        }
        let problems_changed = self.store.problems_changed() | self.substitute.has_news();
        let changes = self.store.changes();
        let changes = if serves { self.substitute.changes() } else { changes };
        let is_news = !changes.is_empty() || problems_changed || completed || freshened;
        let whole = || match self.substitute.saved(self.store.floor()) {
            None if self.store.is_current() => Some(self.store.saved()),
            whole => whole,
        };
        if let Some(memory) = self.memory.as_ref().filter(|_| is_news)
            && let Some(whole) = whole()
        {
            memory.remember(whole);
        }
        if !is_news {
            return true;
        }
        debug!(changes = changes.len(), complete, "changes from the relay");
        let update = Update {
            origin: Origin::Api,
            changes,
            triggers: Vec::new(),
            complete,
            // What the kernel holds of them stays.
            unread: if serves { 0 } else { self.store.unread() },
            unavailable: false,
            stale,
            positions: None,
            suppressed: 0,
            problems: self.store.problems().clone().union(self.substitute.problems()),
        };
        self.out.send(update).await.is_ok()
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn tell_of_stale(at: Option<Timestamp>) {
    let Some(at) = at else { return };
    let age = Timestamp::now().duration_since(at).as_secs();
    warn!(%at, age, "the relay has not delivered in time, using the state of the last run");
}
