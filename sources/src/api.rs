//! The API server as a source.
//!
//! ```text
//!  access ─▶ answer ─▶ follow ──Event──▶ holdings ──▶ Update { changes, problems }
//!  (client)  (bytes)   (list, watch,     (meaning: what
//!                       one per resource) changed, what is broken)
//! ```
//!
//! `saved` is what is left for the next start, which reads it before it asks the server for anything.
//!
//! `follow` knows the protocol and nothing of Services; `holdings` knows what objects mean and
//! nothing of connections. All of it runs on a thread of its own: decoding a large cluster, asking a
//! resolver and running a credential plugin must not keep a change from the kernel.
//!
//! Lists and watches are our own and not those of `kube::runtime::watcher`, whose streaming list
//! accepts any resource version, so that a server that lags behind can take endpoints back in time;
//! which goes on after an event it could not read, so that the change is lost; and which hides the
//! bookmarks, by which it is known that a quiet watch is alive.
//!
//! # Permissions
//!
//! `list` and `watch` of `services`, `endpointslices.discovery.k8s.io` and
//! `servicecidrs.networking.k8s.io`; `get`, `list` and `watch` of `nodes`, for the node's own name at
//! least; `create` and `patch` of `events.events.k8s.io`. This is what the role `system:node-proxier` has.

mod absent;
mod access;
mod answer;
mod backoff;
mod fault;
mod follow;
mod holdings;
mod notes;
mod plugin;
mod proxy;
mod resource;
mod saved;
mod status;
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
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::error::SourceError;
use crate::state::StateDir;
use crate::update::Update;
use access::Access;
use follow::Follower;
use holdings::{Holdings, News};
use plugin::Leash;
use resource::Resource;
use saved::Memory;

pub(crate) use follow::{Event, Item, What};
pub use notes::{Note, Notes};
pub use proxy::{ProxyVariables, Variable};
pub use status::{ApiStatus, ErrorKind};

/// How many events may wait to be compared. A page is one event, so this bounds the memory that a
/// fast server can take.
const EVENTS: usize = 64;

/// How many events may become one update, so that one that never ends is never waited for.
const BATCH: usize = 10_000;

/// Where the API server is, and how it is treated.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// How to reach it.
    pub access: ApiAccess,
    /// This node: its Node object is followed, and no other.
    pub node_name: NodeName,
    /// What the environment says of proxies; a kubeconfig's `proxy-url` comes before it.
    pub proxies: ProxyVariables,
    /// How long to wait for what.
    pub timing: ApiTiming,
    /// Where what the server had is kept for the next start, if anywhere.
    pub state: Option<StateDir>,
}

impl ApiOptions {
    /// Options with the usual timing, and the proxies of this process's environment.
    pub fn new(access: ApiAccess, node_name: NodeName) -> Self {
        let proxies = ProxyVariables::from_environment();
        Self { access, node_name, proxies, timing: ApiTiming::default(), state: None }
    }
}

/// How to reach the API server. With neither field, as a Pod does: by the environment and the files
/// of its service account.
#[derive(Clone, Debug, Default)]
pub struct ApiAccess {
    /// A kubeconfig; its current context counts. The file, and those it names, are read again when the
    /// server cannot be reached or refuses the credentials.
    pub kubeconfig: Option<PathBuf>,
    /// The URL of the server, instead of the one in the kubeconfig; without a kubeconfig, the URL of a
    /// server that asks for no credentials.
    pub master: Option<String>,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct ApiTiming {
    /// How long a watch lasts before it is opened anew; whole seconds, asked of the server.
    pub watch: Duration,
    /// How much longer than that a watch may be silent. Servers send bookmarks about once a minute, so
    /// a watch without a word is a connection to nobody.
    pub slack: Duration,
    /// How long a server may take to begin an answer, or to go on with it.
    pub answer: Duration,
    /// The shortest wait after a failure.
    pub first_retry: Duration,
    /// The longest one.
    pub longest_retry: Duration,
    /// When to ask again for something that the server does not have or that we may not see, and that
    /// can be done without.
    pub refused: Duration,
    /// How long a credential plugin may take.
    pub plugin: Duration,
    /// How long the first complete list waits for a Node that the server says it does not have. A node
    /// that has just begun registers itself; a name that is wrong stays wrong.
    pub absent: Duration,
    /// How long the first complete list waits for the Node to have an address, and for the ServiceCIDRs.
    pub optional: Duration,
    /// How long the server may take at a start before what an earlier run has left stands in for it.
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

/// Follows what an API server has.
#[derive(Debug)]
pub struct ApiSource {
    options: ApiOptions,
    status: Arc<ApiStatus>,
    notes: Notes,
    left: mpsc::Receiver<Note>,
}

impl ApiSource {
    /// Touches nothing yet. The server need not be there.
    pub fn new(options: ApiOptions) -> Self {
        let (notes, left) = Notes::new();
        Self { options, status: Arc::new(ApiStatus::default()), notes, left }
    }

    /// Where notes are left that become Events of the API while the source runs.
    pub fn notes(&self) -> Notes {
        self.notes.clone()
    }

    /// How the source fares; can be asked at any time, from anywhere.
    pub fn status(&self) -> Arc<ApiStatus> {
        self.status.clone()
    }

    /// Sends what the server has, and from then on what changes, until the receiver is dropped.
    ///
    /// The first change of each kind is a `Replace`. Nothing is sent that says nothing, and nothing is
    /// taken away because the server cannot be reached: the last known state stays, and
    /// [`Update::problems`] says what is wrong.
    ///
    /// # Errors
    ///
    /// [`SourceError::Thread`] if no thread can be started, [`SourceError::Ended`] if it ends on its
    /// own. A server that is away, slow, or refuses is no error, and neither is a kubeconfig that
    /// cannot be read: they are tried again.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        let (ended, end) = oneshot::channel();
        // Dropped with this future, which tells the thread that nobody wants more.
        let (_wanted, unwanted) = oneshot::channel::<()>();
        // Nor does a credential plugin outlive it: the thread may not come to that before the process ends.
        let leash = Leash::default();
        let _end = End(leash.clone());
        let updates = out.clone();
        let Self { options, status, left, .. } = self;
        std::thread::Builder::new()
            .name("rulec-api".to_owned())
            .spawn(move || {
                let _ = ended.send(block_on(async {
                    tokio::select! {
                        () = follow(options, status, updates, left, leash) => {}
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
    // A resolver may still be waiting for an answer: nothing waits for it.
    runtime.shutdown_background();
    Ok(())
}

/// Follows all resources until nobody listens.
async fn follow(
    options: ApiOptions,
    status: Arc<ApiStatus>,
    out: mpsc::Sender<Update>,
    left: mpsc::Receiver<Note>,
    leash: Leash,
) {
    let patience = options.timing.optional;
    let absent = options.timing.absent;
    // From when it is waited for.
    let patience = async move { sleep(patience).await };
    let (state, grace) = (options.state.clone(), options.timing.grace);
    let access = Rc::new(Access::new(options, status, leash));
    info!(server = %access.name(), "following the API server");
    let memory = state.map(|state| Memory::load(&state, grace, &access));
    let (events, received) = mpsc::channel(EVENTS);
    // Tasks of their own: an event wakes the one that it is for.
    let local = LocalSet::new();
    let mut tasks = JoinSet::new();
    for resource in Resource::ALL {
        let position = memory.as_ref().and_then(|memory| memory.position(resource));
        let follower = Follower::new(resource, access.clone(), events.clone(), position);
        tasks.spawn_local_on(follower.run(), &local);
    }
    if memory.as_ref().is_none_or(|memory| memory.held.is_none()) {
        tasks.spawn_local_on(tell_of_circle(access.clone()), &local);
    }
    let writing = async move {
        notes::write(access, left).await;
        pending().await
    };
    tasks.spawn_local_on(writing, &local);
    let work = async {
        tokio::select! {
            () = tell(received, patience, absent, memory, out) => {}
            // None of them ends by itself.
            _ = tasks.join_next() => {}
        }
    };
    local.run_until(work).await;
}

/// How long the server may not be reached before it is said that nobody leads to it.
const UNREACHED: Duration = Duration::from_secs(5);

/// Says it if the server is to be reached by a Service, of which nobody but us can know the way, and we
/// would have to ask the server. Never ends.
async fn tell_of_circle(access: Rc<Access>) {
    sleep(UNREACHED).await;
    if access.status.silence().is_none()
        && let Some(host) = access.host().await
        && is_service(&host, std::env::var("KUBERNETES_SERVICE_HOST").ok().as_deref())
    {
        warn!(
            server = host,
            "the API server cannot be reached, and its address is the one that Pods are given: that of the              Service default/kubernetes, to which nothing leads before this daemon has heard from the              server. Give its own address (--master, --kubeconfig or KUBERNETES_SERVICE_HOST), and              --state-dir, by which the next start knows the way"
        );
    }
    pending().await
}

/// Whether Pods know the server by this host.
fn is_service(host: &str, of_pods: Option<&str>) -> bool {
    let bare = |host: &str| host.trim_matches(['[', ']']).to_owned();
    of_pods.is_some_and(|of_pods| bare(of_pods) == bare(host))
        || host == "kubernetes"
        || host.starts_with("kubernetes.default")
}

/// How long it may take until the receiver hears of what changes nothing: to wake it for each would be
/// most of what such an event costs.
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
    warn!(%at, age, "the API server has not delivered in time; what it had when the last run saw it stands in for it");
}

/// Makes updates of events: whatever has arrived by the time that the receiver takes one. If nothing is
/// missing but the Node or the ServiceCIDRs, and then `patience` is over, they are no longer waited for.
async fn tell(
    mut events: mpsc::Receiver<Event>,
    patience: impl Future<Output = ()>,
    absent: Duration,
    mut memory: Option<Memory>,
    out: mpsc::Sender<Update>,
) {
    let mut patience = pin!(patience);
    let mut patient = true;
    let mut holdings = Holdings::default();
    let left = memory.as_mut().and_then(|memory| Some((memory.held.take()?, memory.grace)));
    let mut grace = left.as_ref().map(|(_, grace)| *grace);
    if let Some((left, _)) = left {
        holdings.take_over(left);
    }
    let mut was_stale = false;
    let mut complete = false;
    // What means the same, and is still to be told.
    let mut untold = 0;
    let mut telling: Option<Instant> = None;
    // Until when a Node is waited for that is known not to be there.
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
                holdings.do_without_node();
            }
            () = &mut patience, if patient && holdings.waits_for_optional() => {
                patient = false;
                holdings.lose_patience();
            }
            () = over => {
                grace = None;
                if holdings.stand_in(&mut news) {
                    tell_of_stale(holdings.stale());
                }
            }
            event = events.recv() => match event {
                Some(event) => holdings.take(event, &mut news),
                None => return,
            },
        }
        for _ in 0..BATCH {
            match events.try_recv() {
                Ok(event) => holdings.take(event, &mut news),
                Err(_) => break,
            }
        }
        holdings.tidy();
        if holdings.is_node_absent() {
            registering.get_or_insert_with(|| Instant::now() + absent);
        } else {
            registering = None;
        }
        let completed = !complete && holdings.is_complete();
        complete |= completed;
        let problems_changed = holdings.problems_changed();
        let stale = holdings.stale();
        let freshened = std::mem::replace(&mut was_stale, stale.is_some()) && stale.is_none();
        if freshened {
            info!("the API server has delivered; the state no longer stands in for it");
        }
        if let Some(memory) = &memory {
            memory.remember(&holdings, !news.changes.is_empty() || problems_changed || completed);
        }
        let is_news = !news.changes.is_empty() || problems_changed || completed || freshened;
        if !is_news && !is_due {
            if news.suppressed > 0 {
                untold = news.suppressed;
                telling.get_or_insert_with(|| Instant::now() + QUIET);
            }
            continue;
        }
        telling = None;
        let News { changes, triggers, suppressed } = news;
        debug!(changes = changes.len(), suppressed, complete, "the API server has news");
        let problems = holdings.problems().clone();
        let origin = Origin::Api;
        let update = Update {
            origin,
            changes,
            triggers,
            complete,
            unread: 0,
            unavailable: false,
            stale,
            suppressed,
            problems,
        };
        if out.send(update).await.is_err() {
            return;
        }
    }
}
