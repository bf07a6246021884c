//! The thread that deletes stale UDP flows.
//!
//! The kernel has no index of flows by frontend: each request walks all of them. So it is done beside
//! the commits, and whatever came in meanwhile is one request.

use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::Context;
use rulec_sinks::conntrack::{Conntrack, ConntrackError, Stale};

/// The thread. Dropping it ends the thread after the request it is at.
#[derive(Debug)]
pub struct Forgetter(mpsc::Sender<Vec<Stale>>);

impl Forgetter {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn start() -> anyhow::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        thread::Builder::new()
            .name("rulec-conntrack".to_owned())
            .spawn(move || serve(&inbox))
            .context("starting a thread")?;
        Ok(Self(requests))
    }

    /// Asks for flows to be deleted, and does not wait for it.
    pub fn forget(&self, stale: Vec<Stale>) {
        if !stale.is_empty() && self.0.send(stale).is_err() {
            tracing::error!("the conntrack thread died: stale UDP flows go on until they expire");
        }
    }
}

fn serve(inbox: &mpsc::Receiver<Vec<Stale>>) {
    let mut conntrack = None;
    while let Ok(mut stale) = inbox.recv() {
        stale.extend(inbox.try_iter().flatten());
        let started = Instant::now();
        let outcome = match &mut conntrack {
            Some(open) => Conntrack::delete(open, &stale),
            // Opened when there is something to do: a node without UDP Services needs none.
            none => Conntrack::open()
                .map_err(ConntrackError::from)
                .and_then(|opened| none.insert(opened).delete(&stale)),
        };
        match outcome {
            Ok(deleted) => tracing::debug!(
                requests = stale.len(),
                flows = deleted.flows,
                uncounted = deleted.uncounted,
                elapsed_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX),
                "deleted stale UDP flows"
            ),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, source, "stale UDP flows go on until they expire");
                // A new socket knows nothing of the old one's trouble.
                conntrack = None;
            }
        }
    }
}
