//! How much nodes, and whoever else connects, may take of a relay.

use std::time::Duration;

/// The bounds of a server. Each is there so that nobody can keep the relay from serving others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How many connections there may be. More are closed at once.
    pub connections: usize,
    /// How many of them may not have proved yet whose they are. For each more, the one that has
    /// taken the longest is closed: a node's takes little time.
    pub strangers: usize,
    /// How long none of these is closed for a newer one, which waits to be accepted. When all nodes
    /// come at once, they would else push out each other, again and again; and whoever says nothing
    /// keeps others waiting for no longer than this.
    pub grace: Duration,
    /// How many connections a node may have. For each more, its oldest is closed.
    pub of_node: usize,
    /// How long a connection may take to prove whose it is, and then to begin a call.
    pub proof: Duration,
    /// How long a call may take until the first bytes of a request.
    pub request: Duration,
    /// How many nodes may send their first requests and read their first state at once. These need
    /// memory for the names of all resources.
    pub beginners: usize,
    /// For how long a node may be one of them.
    pub turn: Duration,
    /// How long a node may take for a response, and how long to answer the last one of a batch.
    pub answer: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 16_384,
            strangers: 1_024,
            grace: Duration::from_secs(1),
            of_node: 2,
            proof: Duration::from_secs(10),
            request: Duration::from_secs(10),
            beginners: 32,
            turn: Duration::from_secs(30),
            answer: Duration::from_secs(60),
        }
    }
}
