//! The thread that keeps the routes to Services (`--service-route`).
//!
//! The first routes are there when it has started. Afterwards it follows the networks of Services,
//! and looks once a minute whether others have deleted a route: the kernel does so itself while `lo`
//! is down.

use std::collections::BTreeSet;
use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use ipnet::IpNet;
use rulec_sinks::{Added, ServiceRoutes};

use crate::host::service_routes;
use crate::threads::Vital;

/// How often it looks although nothing has changed.
const PERIOD: Duration = Duration::from_secs(60);

/// A handle of the thread. Dropping it ends the thread; the routes stay.
#[derive(Debug)]
pub struct RoutesThread {
    networks: mpsc::Sender<BTreeSet<IpNet>>,
    thread: Vital,
}

impl RoutesThread {
    /// Starts the thread, and waits until it has made routes to the first networks. No route to
    /// others is removed: they may be of a source that has not delivered yet.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn start(first: BTreeSet<IpNet>) -> anyhow::Result<Self> {
        let (networks, inbox) = mpsc::channel();
        let (made, ready) = mpsc::channel();
        let thread = Vital::start("rulec-routes", move || {
            let mut keeper = Keeper { wanted: first, ..Keeper::default() };
            keeper.work();
            drop(made);
            keeper.run(&inbox);
        })?;
        // It sends nothing, and only drops its end.
        let _: Result<(), _> = ready.recv();
        Ok(Self { networks, thread })
    }

    /// Keeps routes to these networks, and to no others, without waiting.
    pub fn keep(&self, networks: BTreeSet<IpNet>) {
        // If the thread has died, the daemon ends.
        let _ = self.networks.send(networks);
    }

    /// Resolves with an error when the thread has died.
    pub async fn death(&mut self) -> anyhow::Error {
        self.thread.death().await
    }
}

/// Removes the routes that an earlier run has left, beside everything else.
pub fn remove_routes() {
    tokio::task::spawn_blocking(|| match service_routes::remove() {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => tracing::info!(networks = list(&gone), "removed the route to Services"),
        Err(error) => tracing::warn!("{error:#}"),
    });
}

#[derive(Default)]
struct Keeper {
    /// `None` until the routes of an earlier run have been read.
    routes: Option<ServiceRoutes>,
    wanted: BTreeSet<IpNet>,
    /// Whether the wanted networks are all there are.
    is_complete: bool,
    /// What could not be done last time: each failure is logged once.
    failed: BTreeSet<Failure>,
}

/// What can fail, and does not keep the rest from being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Read,
    Add(IpNet),
    Remove,
}

impl Keeper {
    fn run(mut self, inbox: &mpsc::Receiver<BTreeSet<IpNet>>) {
        loop {
            match inbox.recv_timeout(PERIOD) {
                Ok(networks) => (self.wanted, self.is_complete) = (networks, true),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.work();
        }
    }

    fn work(&mut self) {
        let failures = self.try_to();
        for (failure, error) in &failures {
            if self.failed.contains(failure) {
                continue;
            }
            match failure {
                Failure::Read => tracing::warn!(%error, "cannot read routes, will keep retrying"),
                Failure::Add(network) => tracing::warn!(
                    %error, %network, "cannot set the route to Services, will keep retrying"
                ),
                Failure::Remove => tracing::warn!(
                    %error, "cannot remove the route to Services, will keep retrying"
                ),
            }
        }
        self.failed = failures.into_iter().map(|(failure, _)| failure).collect();
    }

    fn try_to(&mut self) -> Vec<(Failure, io::Error)> {
        let routes = match &mut self.routes {
            Some(routes) => routes,
            none => match ServiceRoutes::open() {
                Ok(routes) => none.insert(routes),
                Err(error) => return vec![(Failure::Read, error)],
            },
        };
        let Added { networks, failed } = routes.add(&self.wanted);
        if !networks.is_empty() {
            tracing::info!(networks = list(&networks), "set the route to Services");
        }
        let failed = failed.into_iter().map(|(network, error)| (Failure::Add(network), error));
        let mut failures: Vec<_> = failed.collect();
        if self.is_complete {
            match routes.keep_only(&self.wanted) {
                Ok(gone) if gone.is_empty() => {}
                Ok(gone) => {
                    tracing::info!(networks = list(&gone), "removed the route to Services");
                }
                Err(error) => failures.push((Failure::Remove, error)),
            }
        }
        failures
    }
}

fn list(networks: &BTreeSet<IpNet>) -> String {
    networks.iter().map(IpNet::to_string).collect::<Vec<_>>().join(",")
}
