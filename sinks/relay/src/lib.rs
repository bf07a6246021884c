//! The server of a relay: each node follows the resources that it needs, over gRPC and TLS.
//!
//! ```text
//!  Catalogue ──publish──▶ watch ──▶ stream (one per node) ──▶ codec ──▶ HTTP/2, TLS
//!                                     ▲ what it has been sent
//!                                     └──── answers of the node
//! ```
//!
//! A stream remembers the state that its node has been sent, which is a pointer into persistent
//! maps, and sends the difference to the newest state once the node has answered. So a slow node
//! misses what lies in between, and there is no queue that could grow. Bytes that several nodes get
//! are encoded once.
//!
//! The server knows nothing of where its resources come from.
#![forbid(unsafe_code)]

mod certificate;
mod codec;
mod peer;
mod serve;
mod stats;
mod stream;
mod tls;

use std::sync::Arc;

use rulec_relay::{Catalogue, Standing};
use tokio::sync::{Semaphore, watch};

pub use certificate::node_of_certificate;
pub use serve::{Security, serve};
pub use stats::{Refusal, Stats};
pub use tls::{TlsError, TlsFiles};

/// How many nodes may read and send their first state at once: these need memory for all names.
const SYNCING: usize = 32;

/// What is published, shared by all connections.
#[derive(Clone, Debug)]
pub struct Relay {
    state: Arc<watch::Sender<Option<Arc<Published>>>>,
    syncing: Arc<Semaphore>,
    stats: Arc<Stats>,
}

/// A state.
#[derive(Debug)]
struct Published {
    catalogue: Catalogue,
    standing: Standing,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            state: Arc::new(watch::Sender::new(None)),
            syncing: Arc::new(Semaphore::new(SYNCING)),
            stats: Arc::default(),
        }
    }
}

impl Relay {
    /// Publishes a state. Until the first one, nodes wait: a relay that has just started knows of
    /// nothing, and must not say that there is nothing.
    pub fn publish(&self, catalogue: Catalogue, standing: Standing) {
        self.state.send_replace(Some(Arc::new(Published { catalogue, standing })));
    }

    /// Returns the counts of what nodes do.
    pub fn stats(&self) -> &Arc<Stats> {
        &self.stats
    }
}
