//! A server without a network and without a thread: it serves in the runtime of its clients, whose
//! time may be virtual.

use std::io;
use std::sync::{Arc, Mutex};

use tokio::io::{DuplexStream, duplex};
use tokio::task::AbortHandle;

use crate::http::{Shared, converse_over};
use crate::serve::Order;

/// How many bytes may be on their way: more than one write, so that clients see pieces.
const BUFFER: usize = 16 << 10;

/// The connections of such a server.
#[derive(Debug, Default)]
pub(crate) struct Inward {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_down: bool,
    is_deaf: bool,
    connections: Vec<AbortHandle>,
    /// The server's ends of connections on which it says nothing.
    held: Vec<DuplexStream>,
}

impl Inward {
    pub(crate) fn order(&self, order: Order) {
        let mut state = self.state.lock().unwrap();
        match order {
            Order::Down | Order::Drop | Order::Stop => {
                state.is_down |= order != Order::Drop;
                state.held.clear();
                state.connections.drain(..).for_each(|connection| connection.abort());
            }
            Order::Up => state.is_down = false,
            Order::Deaf(whether) => state.is_deaf = whether,
        }
    }

    /// Connects a client, which needs no credentials.
    pub(crate) fn connect(&self, shared: &Arc<Shared>) -> io::Result<DuplexStream> {
        let mut state = self.state.lock().unwrap();
        if state.is_down {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(BUFFER);
        if state.is_deaf {
            state.held.push(ours);
        } else {
            let conversation = converse_over(ours, true, Arc::clone(shared));
            state.connections.retain(|connection| !connection.is_finished());
            state.connections.push(tokio::spawn(conversation).abort_handle());
        }
        Ok(theirs)
    }
}
