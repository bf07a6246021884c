//! Pods as whatever runs them on this node tells of them: what the kubelet and podman have in
//! common.
//!
//! ```text
//!           ┌─▶ pod (proto ─▶ decode)
//!  Event ─▶ store ─▶ tell ─▶ Update { changes, problems }
//! ```
//!
//! A source says which Pods there are, in complete lists and in changes after them ([`Event`]).
//! `store` has the Pods that exist (`live`) and what was told of them (`told`), and knows nothing
//! of connections. `saved` keeps state for the next start.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod live;
pub(crate) mod pod;
mod proto;
mod saved;
mod store;
mod tell;
mod told;

#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use rulec_compiler::Origin;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{debug, info};

use crate::backoff::Backoff;
use crate::error::chain;
use crate::state::StateDir;
use crate::update::Update;
use pod::Raw;
use saved::Memory;
use store::Store;
use tell::Teller;

pub(crate) use proto::{EventType, WatchPodsEvent};

/// How many events may wait to be compared.
const EVENTS: usize = 256;

/// What runs the Pods.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Runner {
    /// The source of its Pods.
    pub(crate) origin: Origin,
    /// Its name as a place of objects, and of the state file.
    pub(crate) name: &'static str,
    /// What messages call it.
    pub(crate) called: &'static str,
}

/// How long to wait for a runner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The shortest wait after a failure.
    pub(crate) first_retry: Duration,
    /// The longest wait after a failure.
    pub(crate) longest_retry: Duration,
    /// How long the first list is waited for at a start.
    pub(crate) grace: Duration,
    /// How long Pods stay that one that has begun anew does not have, or not yet. Zero if it knows
    /// all of them at once.
    pub(crate) settle: Duration,
}

/// What a runner says.
#[derive(Debug)]
pub(crate) enum Event {
    /// A complete list begins.
    Listing,
    /// A Pod of the list, or one that is new or has changed.
    Pod(Raw),
    /// A Pod is gone.
    Deleted(Raw),
    /// Something is wrong in the list that is under way, but with no Pod that could be served.
    Note(String),
    /// The list is complete.
    Listed,
    /// The runner cannot be followed any more, and why.
    Lost(String),
}

/// Nobody listens any more.
pub(crate) struct Gone;

pub(crate) async fn say(out: &mpsc::Sender<Event>, event: Event) -> Result<(), Gone> {
    out.send(event).await.map_err(|_| Gone)
}

/// A connection to a runner.
pub(crate) trait Follow {
    /// Why it cannot be followed.
    type Fault: std::error::Error + 'static;

    /// Follows it until that fails, and returns the reason.
    ///
    /// # Errors
    ///
    /// [`Gone`] if nobody listens any more.
    fn follow(
        &mut self,
        out: &mpsc::Sender<Event>,
    ) -> impl Future<Output = Result<Self::Fault, Gone>> + Send;
}

/// Sends the Pods of a runner that is found at `from` and then their changes, until the receiver is
/// dropped.
pub(crate) async fn run(
    runner: Runner,
    from: &str,
    patience: Patience,
    state: Option<StateDir>,
    out: mpsc::Sender<Update>,
    connection: impl Follow,
) {
    info!(from, "following {}", runner.called);
    let memory = state.map(|state| Memory::load(&state, runner, from));
    let (events, received) = mpsc::channel(EVENTS);
    let store = Store::new(runner, patience.settle);
    let teller = Teller::new(runner, store, memory, out);
    // One task for both, so that all that has arrived is told at once.
    tokio::select! {
        () = follow(runner, patience, &events, connection) => {}
        () = teller.run(received, patience.grace) => {}
    }
}

/// Follows a runner, again after each failure, until nobody listens any more.
async fn follow(
    runner: Runner,
    patience: Patience,
    out: &mpsc::Sender<Event>,
    mut connection: impl Follow,
) {
    let mut backoff = Backoff::new(patience.first_retry, patience.longest_retry);
    loop {
        let begun = Instant::now();
        let Ok(fault) = connection.follow(out).await else { return };
        let reason = chain(&fault);
        debug!(reason, "{} cannot be followed", runner.called);
        if say(out, Event::Lost(reason)).await.is_err() {
            return;
        }
        if begun.elapsed() > patience.longest_retry {
            backoff.reset();
        }
        sleep(backoff.wait()).await;
    }
}
