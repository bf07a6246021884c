//! The API server as a source.
//!
//! ```text
//!  access ─▶ answer ─▶ watch ───Event──▶ store ──▶ Update { changes, problems }
//!  (client)  (bytes)   (list, watch,     (meaning: what
//!                       one per resource) changed, what is broken)
//! ```
//!
//! `saved` keeps state for the next start, which reads it before it asks the server for anything.
//!
//! `watch` knows the protocol but not the meaning of objects; `store` knows what objects mean
//! but not the connections. All of it runs on a thread of its own: decoding a large cluster, asking
//! a resolver and running a credential plugin must not delay a change on its way to the kernel.
//!
//! Lists and watches are our own and not those of `kube::runtime::watcher`: its streaming list
//! accepts any resource version, so that a server that lags behind can take endpoints back in time;
//! it continues after an event it could not read, so that the change is lost; and it hides the
//! bookmarks, which show that a quiet watch is alive.
//!
//! # Permissions
//!
//! `list` and `watch` of `services`, `endpointslices.discovery.k8s.io` and
//! `servicecidrs.networking.k8s.io`; `get`, `list` and `watch` of `nodes`, at least for the node's
//! own name; `create` and `patch` of `events.events.k8s.io`. The role `system:node-proxier` has
//! these. Reviews of tokens, for which only a relay asks, need `create` of
//! `tokenreviews.authentication.k8s.io`: the role `system:auth-delegator`.

mod absent;
mod access;
mod answer;
#[cfg(feature = "simulation")]
mod dialer;
mod events;
mod fault;
mod faults;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod identify;
#[cfg(feature = "measuring")]
pub(crate) mod measuring;
mod plugin;
mod position;
mod proxy;
mod record;
mod resource;
mod reviews;
mod saved;
#[cfg(feature = "simulation")]
pub(crate) mod simulation;
mod status;
mod store;
mod version;
mod watch;
mod wire;

#[cfg(test)]
mod tests;

use std::future::pending;
use std::mem;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::name::NodeName;
use rulec_relay::Position;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::error::SourceError;
use crate::state::StateDir;
use crate::update::{Positions, Update};
use access::Access;
use plugin::Leash;
use resource::Resource;
use saved::Memory;
use store::{News, Store};
use watch::Follower;

pub use events::{Note, Notes};
pub use fault::ErrorKind;
pub use proxy::{ProxyVariables, Variable};
pub(crate) use record::{Objects, by_key};
pub use reviews::{TokenReview, TokenReviews};
pub use status::ApiStatus;
pub(crate) use watch::{Event, Item, What};

/// How many events may wait to be compared. A page is one event, so this bounds the memory that a
/// fast server can use.
const EVENTS: usize = 64;

/// The most events in one update, so that a steady flow of events cannot delay it for ever.
const BATCH: usize = 10_000;

/// The address of the API server, and how it is accessed.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// How to reach it.
    pub access: ApiAccess,
    /// This node: its Node object is followed, and no other.
    pub node_name: NodeName,
    /// Whether all Nodes are followed instead. The name above is then that of the reporter in Events.
    pub all_nodes: bool,
    /// The proxy variables of the environment. A kubeconfig's `proxy-url` takes precedence.
    pub proxies: ProxyVariables,
    /// How long to wait for answers and between retries.
    pub timing: ApiTiming,
    /// Where the state of the server is saved for the next start, if it is.
    pub state: Option<StateDir>,
    /// What is known of the server's changes from elsewhere: no list may be older.
    pub floor: Position,
    /// Whether [`Update::positions`] are sent when nothing else has changed.
    pub tells_positions: bool,
}

impl ApiOptions {
    /// Returns options with the default timing, and the proxies of this process's environment.
    pub fn new(access: ApiAccess, node_name: NodeName) -> Self {
        let proxies = ProxyVariables::from_environment();
        Self {
            access,
            node_name,
            all_nodes: false,
            proxies,
            timing: ApiTiming::default(),
            state: None,
            floor: Position::default(),
            tells_positions: false,
        }
    }
}

/// How to reach the API server. If neither field is set, it is reached as from a Pod: by the
/// environment and the files of the service account.
#[derive(Clone, Debug, Default)]
pub struct ApiAccess {
    /// A kubeconfig, of which the current context is used. This file and the files it names are
    /// read again when the server cannot be reached or refuses the credentials.
    pub kubeconfig: Option<PathBuf>,
    /// The URL of the server, instead of the one in the kubeconfig. Without a kubeconfig, the URL
    /// of a server that needs no credentials.
    pub master: Option<String>,
}

/// How long to wait for answers and between retries.
#[derive(Clone, Copy, Debug)]
pub struct ApiTiming {
    /// How long a watch lasts before it is opened again, in whole seconds. The server is asked for
    /// this.
    pub watch: Duration,
    /// How much longer than that a watch may be silent. Servers send bookmarks about once a minute,
    /// so a silent watch is a dead connection.
    pub slack: Duration,
    /// How long a server may take to begin an answer, or to continue it.
    pub answer: Duration,
    /// The shortest wait after a failure.
    pub first_retry: Duration,
    /// The longest wait after a failure.
    pub longest_retry: Duration,
    /// When to ask again for an optional resource that the server does not have or that we lack the
    /// permission for.
    pub refused: Duration,
    /// How long a credential plugin may take.
    pub plugin: Duration,
    /// How long the first complete list waits for a Node that the server says does not exist. A new
    /// node registers itself soon; a wrong name stays wrong.
    pub absent: Duration,
    /// How long the first complete list waits for the Node to have an address, and for the
    /// ServiceCIDRs.
    pub optional: Duration,
    /// How long the server may take at a start before the state of an earlier run stands in for it.
    pub grace: Duration,
}

impl Default for ApiTiming {
    fn default() -> Self {
        Self {
            watch: Duration::from_secs(290),
            slack: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            first_retry: Duration::from_millis(800),
            longest_retry: Duration::from_secs(30),
            refused: Duration::from_secs(300),
            plugin: Duration::from_secs(60),
            absent: Duration::from_secs(5),
            optional: Duration::from_secs(30),
            grace: Duration::from_secs(1),
        }
    }
}

/// Follows the objects of an API server.
#[derive(Debug)]
pub struct ApiSource {
    options: ApiOptions,
    status: Arc<ApiStatus>,
    notes: Notes,
    left: mpsc::Receiver<Note>,
    reviews: TokenReviews,
    questions: mpsc::Receiver<reviews::Question>,
}

impl ApiSource {
    /// Opens no connection yet. The server need not be available.
    pub fn new(options: ApiOptions) -> Self {
        Self::with_status(options, Arc::default())
    }

    /// Like `new`, with a status that goes on from another source.
    pub(crate) fn with_status(options: ApiOptions, status: Arc<ApiStatus>) -> Self {
        let (notes, left) = Notes::new();
        let (reviews, questions) = TokenReviews::new();
        Self { options, status, notes, left, reviews, questions }
    }

    /// Returns the sender of notes, which become Events of the API while the source runs.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// Returns who asks the server whose a token is, while the source runs.
    pub fn reviews(&self) -> TokenReviews {
        self.reviews.clone()
    }

    /// Returns the status of the source, which can be read at any time and from any thread.
    pub fn status(&self) -> Arc<ApiStatus> {
        self.status.clone()
    }

    /// Sends the objects of the server and then their changes, until the receiver is dropped.
    ///
    /// The first change of each kind is a `Replace`. Empty updates are not sent, and no object is
    /// removed because the server cannot be reached: the last known state stays, and
    /// [`Update::problems`] has the reason.
    ///
    /// # Errors
    ///
    /// [`SourceError::Thread`] if no thread can be started, [`SourceError::Ended`] if it ends on
    /// its own. A server that is unavailable, slow, or refuses requests is no error, and neither is
    /// a kubeconfig that cannot be read: these are retried.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let (ended, end) = oneshot::channel();
        // Dropped with this future, which tells the thread to end.
        let (_wanted, unwanted) = oneshot::channel::<()>();
        // Ends a credential plugin as well: the thread may not get to that before the process ends.
        let leash = Leash::default();
        let _end = End(leash.clone());
        let updates = out.clone();
        let Self { options, status, left, questions, .. } = self;
        std::thread::Builder::new()
            .name("rulec-api".to_owned())
            .spawn(move || {
                let _ = ended.send(block_on(async {
                    let access = Access::new(options, status, leash);
                    tokio::select! {
                        () = follow(access, updates, left, questions) => {}
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

struct End(Leash);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
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

/// Follows all resources until the receiver is dropped.
async fn follow(
    access: Access,
    out: mpsc::Sender<Update>,
    left: mpsc::Receiver<Note>,
    questions: mpsc::Receiver<reviews::Question>,
) {
    let ApiOptions { timing, state, .. } = &access.options;
    let ApiTiming { optional: patience, absent, grace, .. } = *timing;
    // The time starts when this is first polled.
    let patience = async move { sleep(patience).await };
    let state = state.clone();
    let access = Rc::new(access);
    info!(server = %access.name(), "following the API server");
    let memory = state.map(|state| Memory::load(&state, grace, &access));
    let (events, received) = mpsc::channel(EVENTS);
    // Each follower is a task of its own, so that an event wakes only that task.
    let local = LocalSet::new();
    let mut tasks = JoinSet::new();
    let tells_positions = access.options.tells_positions;
    for (resource, floor) in Resource::ALL.into_iter().zip(access.options.floor.versions) {
        let position = memory.as_ref().and_then(|memory| memory.position(resource));
        let mut follower = Follower::new(resource, access.clone(), events.clone(), position);
        follower.floor = floor.map(|version| version.to_string());
        tasks.spawn_local_on(follower.run(), &local);
    }
    if memory.as_ref().is_none_or(|memory| memory.held.is_none()) {
        tasks.spawn_local_on(tell_of_circle(access.clone()), &local);
    }
    let answering = {
        let access = access.clone();
        async move {
            reviews::answer(access, questions).await;
            pending().await
        }
    };
    tasks.spawn_local_on(answering, &local);
    let writing = async move {
        events::write(access, left).await;
        pending().await
    };
    tasks.spawn_local_on(writing, &local);
    let work = async {
        tokio::select! {
            () = tell(received, patience, absent, memory, tells_positions, out) => {}
            // No task ends by itself.
            _ = tasks.join_next() => {}
        }
    };
    local.run_until(work).await;
}

/// How long the server may be unreachable before the warning about its address.
const UNREACHED: Duration = Duration::from_secs(5);

/// Warns if the server is unreachable and its address is that of a Service: only this daemon can
/// make such an address work, and it needs the server for that. Never ends.
async fn tell_of_circle(access: Rc<Access>) {
    sleep(UNREACHED).await;
    if access.status.silence().is_none()
        && let Some(host) = access.host().await
        && is_service(&host, std::env::var("KUBERNETES_SERVICE_HOST").ok().as_deref())
    {
        warn!(
            server = host,
            "the API server cannot be reached at the address of the Service default/kubernetes, \
             which works only after this daemon has heard from the server: set the server's own \
             address (--master, --kubeconfig or KUBERNETES_SERVICE_HOST), and --state-dir, so \
             that the next start can use the saved state"
        );
    }
    pending().await
}

/// Returns whether this is the host by which Pods reach the server.
fn is_service(host: &str, of_pods: Option<&str>) -> bool {
    let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
    of_pods.is_some_and(|of_pods| bare(of_pods) == bare(host))
        || host == "kubernetes"
        || host.starts_with("kubernetes.default")
}

/// How long the count of events that change nothing may be delayed: waking the receiver for each
/// would be most of the cost of such an event.
const QUIET: Duration = Duration::from_secs(1);

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn tell_of_stale(at: Option<Timestamp>) {
    let Some(at) = at else { return };
    let age = Timestamp::now().duration_since(at).as_secs();
    warn!(%at, age, "the API server has not delivered in time, using the state of the last run");
}

/// Combines events into updates: each has all events that have arrived when the receiver takes it.
/// Once only the Node or the ServiceCIDRs are missing, they are waited for no longer than
/// `patience`.
async fn tell(
    mut events: mpsc::Receiver<Event>,
    patience: impl Future<Output = ()>,
    absent: Duration,
    mut memory: Option<Memory>,
    tells_positions: bool,
    out: mpsc::Sender<Update>,
) {
    let mut patience = pin!(patience);
    let mut patient = true;
    let mut store = Store::default();
    let left = memory.as_mut().and_then(|memory| Some((memory.held.take()?, memory.grace)));
    let mut grace = left.as_ref().map(|(_, grace)| *grace);
    if let Some((left, _)) = left {
        store.take_over(left);
    }
    let mut was_stale = false;
    let mut complete = false;
    // The number of events that changed nothing and are not reported yet.
    let mut untold = 0;
    let mut telling: Option<Instant> = None;
    let mut told: Option<Positions> = None;
    // Until when to wait for a Node that is known not to exist.
    let mut registering: Option<Instant> = None;
    loop {
        let mut news = News { suppressed: mem::take(&mut untold), ..News::default() };
        let mut is_due = false;
        let due = until(telling);
        let over = until(grace);
        let registered = until(registering.filter(|_| !complete));
        tokio::select! {
            biased;
            () = out.closed() => return,
            () = due => is_due = true,
            () = registered => {
                registering = None;
                store.do_without_node();
            }
            () = &mut patience, if patient && store.waits_for_optional() => {
                patient = false;
                store.lose_patience();
            }
            () = over => {
                grace = None;
                if store.stand_in(&mut news) {
                    tell_of_stale(store.stale());
                }
            }
            event = events.recv() => match event {
                Some(event) => store.take(event, &mut news),
                None => return,
            },
        }
        for _ in 0..BATCH {
            match events.try_recv() {
                Ok(event) => store.take(event, &mut news),
                Err(_) => break,
            }
        }
        store.tidy();
        if store.is_node_absent() {
            registering.get_or_insert_with(|| Instant::now() + absent);
        } else {
            registering = None;
        }
        let completed = !complete && store.is_complete();
        complete |= completed;
        let problems_changed = store.problems_changed();
        let stale = store.stale();
        let freshened = std::mem::replace(&mut was_stale, stale.is_some()) && stale.is_none();
        if freshened {
            info!("the API server has delivered, the state of the last run is no longer used");
        }
        if let Some(memory) = &memory {
            memory.remember(&store, !news.changes.is_empty() || problems_changed || completed);
        }
        let is_news = !news.changes.is_empty() || problems_changed || completed || freshened;
        let positions = store.positions();
        if !is_news && !is_due {
            if news.suppressed > 0 || tells_positions && told != positions {
                untold = news.suppressed;
                telling.get_or_insert_with(|| Instant::now() + QUIET);
            }
            continue;
        }
        telling = None;
        told.clone_from(&positions);
        let News { changes, triggers, suppressed } = news;
        debug!(changes = changes.len(), suppressed, complete, "changes from the API server");
        let problems = store.problems().clone();
        let origin = Origin::Api;
        let update = Update {
            origin,
            changes,
            triggers,
            complete,
            unread: 0,
            unavailable: false,
            stale,
            positions,
            suppressed,
            problems,
        };
        if out.send(update).await.is_err() {
            return;
        }
    }
}
