//! The server of a relay: each node follows the resources that it needs, over gRPC and TLS.
//!
//! ```text
//!  Catalogue ──publish──▶ watch ──▶ stream (one per node) ──▶ grpc ──▶ HTTP/2, TLS
//!                                     ▲ what it has been sent
//!                                     └──── answers of the node
//! ```
//!
//! A stream remembers the state that its node has been sent, which is a pointer into persistent
//! maps, and sends the difference to the newest state once the node has answered. So a slow node
//! misses what lies in between, and there is no queue that could grow. Bytes that several nodes get
//! are encoded once.
//!
//! Nobody can keep the relay from serving others: `bounds` has what each may take, `door` decides
//! which connections stay, `seats` which stream of a node does, and `intake` how long a request is.
//!
//! A node proves who it is by its certificate, or by a token that somebody else reviews (`tokens`).
//!
//! The server knows nothing of where its resources come from.
#![forbid(unsafe_code)]

mod bounds;
mod call;
mod certificate;
mod door;
mod grpc;
mod intake;
mod peer;
mod refusals;
mod seats;
mod serve;
mod stats;
mod stream;
mod tls;
mod tokens;

use std::sync::{Arc, OnceLock};

use rulec_relay::{Catalogue, Standing, Topic};
use tokio::sync::{Semaphore, watch};

use door::Door;
use seats::Seats;

pub use bounds::Bounds;
pub use certificate::node_of_certificate;
pub use refusals::Refusal;
pub use serve::{Security, serve};
pub use stats::Stats;
pub use tls::{Clients, TlsError, TlsFiles};
pub use tokens::{Review, Reviewer, Reviewing, Tokens};

/// What the first requests of a node may name beside twice the resources that there are: those that
/// have gone while it was away, and those of another relay.
const NAMES_GONE: usize = 2 << 20;

/// What is published, shared by all connections.
#[derive(Clone, Debug)]
pub struct Relay {
    state: Arc<watch::Sender<Option<Arc<Published>>>>,
    bounds: Bounds,
    door: Arc<Door>,
    seats: Arc<Seats>,
    beginners: Arc<Semaphore>,
    stats: Arc<Stats>,
}

/// A state.
#[derive(Debug)]
struct Published {
    catalogue: Catalogue,
    standing: Standing,
    unread: [bool; Topic::ALL.len()],
    /// The length of all names and versions, once somebody has asked.
    length: OnceLock<usize>,
}

impl Published {
    /// Returns how long the first requests of a node may plausibly be, all together.
    fn longest_request(&self) -> usize {
        2 * self.length.get_or_init(|| self.catalogue.known_length()) + NAMES_GONE
    }
}

impl Default for Relay {
    fn default() -> Self {
        Self::new(Bounds::default())
    }
}

impl Relay {
    /// Creates a relay that has nothing to send yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            state: Arc::new(watch::Sender::new(None)),
            bounds,
            door: Arc::new(Door::new(bounds)),
            seats: Arc::default(),
            beginners: Arc::new(Semaphore::new(bounds.beginners)),
            stats: Arc::default(),
        }
    }

    /// Publishes a state. Until the first one, nodes are sent away: a relay that has just started
    /// knows of nothing, and must not say that there is nothing.
    ///
    /// Types that could not be read are not served: nodes keep what they have of them.
    pub fn publish(
        &self,
        catalogue: Catalogue,
        standing: Standing,
        unread: [bool; Topic::ALL.len()],
    ) {
        let length = OnceLock::new();
        let published = Published { catalogue, standing, unread, length };
        self.state.send_replace(Some(Arc::new(published)));
    }

    /// Returns the counts of what nodes do.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }

    /// Returns how many connections there are.
    pub fn connections(&self) -> usize {
        self.door.open()
    }
}
