//! The thread that deletes stale UDP flows.
//!
//! The kernel has no index of flows by frontend: each request walks all of them. So it is done beside
//! the commits, and whatever came in meanwhile is one request.

use std::sync::{Arc, mpsc};
use std::time::Instant;

use rulec_compiler::net::Family;
use rulec_sinks::conntrack::{Conntrack, ConntrackError, Frontend, Stale};

use crate::metrics::Metrics;
use crate::threads::Vital;

/// The thread. Dropping it ends the thread after the request it is at.
#[derive(Debug)]
pub struct Forgetter {
    requests: mpsc::Sender<Vec<Stale>>,
    thread: Vital,
}

impl Forgetter {
    /// Starts the thread, in the network namespace of the caller.
    ///
    /// # Errors
    ///
    /// If there can be no thread.
    pub fn start(metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let thread = Vital::start("rulec-conntrack", move || serve(&inbox, &metrics))?;
        Ok(Self { requests, thread })
    }

    /// Is ready with an error when the thread has died.
    pub async fn death(&mut self) -> anyhow::Error {
        self.thread.death().await
    }

    /// Asks for flows to be deleted, and does not wait for it.
    pub fn forget(&self, stale: Vec<Stale>) {
        if !stale.is_empty() {
            // Without the thread the daemon ends, and its next start finds what is stale.
            let _ = self.requests.send(stale);
        }
    }
}

fn serve(inbox: &mpsc::Receiver<Vec<Stale>>, metrics: &Metrics) {
    let mut conntrack = None;
    while let Ok(mut stale) = inbox.recv() {
        stale.extend(inbox.try_iter().flatten());
        for family in Family::ALL {
            let of_family: Vec<Stale> =
                stale.iter().filter(|stale| family_of(stale) == Some(family)).cloned().collect();
            if !of_family.is_empty() {
                forget(&mut conntrack, family, &of_family, metrics);
            }
        }
    }
}

fn forget(conntrack: &mut Option<Conntrack>, family: Family, stale: &[Stale], metrics: &Metrics) {
    let started = Instant::now();
    // Opened when there is something to do: a node without UDP Services needs none.
    let open = match conntrack.take() {
        Some(open) => Ok(open),
        None => Conntrack::open().map_err(ConntrackError::from),
    };
    let outcome = open.and_then(|mut open| {
        let deleted = open.delete(stale)?;
        // After trouble, a new socket that knows nothing of the old one's.
        *conntrack = Some(open);
        Ok(deleted)
    });
    let took = started.elapsed();
    match outcome {
        Ok(deleted) => {
            metrics.kube_proxy.flows_deleted(family, took, deleted.flows);
            tracing::debug!(
                %family,
                requests = stale.len(),
                flows = deleted.flows,
                uncounted = deleted.uncounted,
                elapsed_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
                "deleted stale UDP flows"
            );
        }
        Err(error) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            tracing::warn!(%error, source, "stale UDP flows go on until they expire");
        }
    }
}

/// The family of the flows. A node port that answers nowhere has none.
fn family_of(stale: &Stale) -> Option<Family> {
    match &stale.frontend {
        Frontend::Address { address, .. } => Some(Family::of(*address)),
        Frontend::NodePort { addresses, .. } => addresses.first().map(|ip| Family::of(*ip)),
    }
}

#[cfg(test)]
impl Forgetter {
    /// One whose thread dies when it is asked for anything.
    pub(crate) fn mortal() -> Self {
        let (requests, inbox) = mpsc::channel::<Vec<Stale>>();
        let body = move || {
            let _ = inbox.recv();
            panic!("on purpose");
        };
        Self { requests, thread: Vital::start("rulec-conntrack", body).unwrap() }
    }

    pub(crate) fn die(&self) {
        self.requests.send(Vec::new()).unwrap();
    }
}
