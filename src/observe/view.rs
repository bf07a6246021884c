//! The state of the daemon at one moment, for whoever asks.
//!
//! The daemon's loop returns pointers and continues: the model and the programs are persistent maps.
//! Counting and printing happen on other threads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use im::OrdSet;
use ipnet::IpNet;
use jiff::Timestamp;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::Kind;
use rulec_compiler::{Model, Origin, Program, Settings};
use rulec_engine::{Counts, Engine, Failure, Locals};
use rulec_sources::Problem;
use tokio::sync::{mpsc, oneshot};

use crate::observe::followed::Followed;
use crate::observe::health::Health;

/// A request for a view, with the channel for the answer.
pub type Ask = oneshot::Sender<View>;

/// How many requests may be queued; further ones wait.
const ASKS: usize = 4;

/// The state of the daemon at one moment.
#[derive(Debug)]
pub struct View {
    pub(crate) model: Model,
    pub(crate) settings: Arc<Settings>,
    pub(crate) wanted: Option<Program>,
    /// What the kernel has acknowledged, unless that is unknown.
    pub(crate) applied: Option<Program>,
    pub(crate) locals: Locals,
    /// The Services that the kernel has refused, each with what it said and how often.
    pub(crate) refused: Vec<(NamespacedName, Arc<str>, u32)>,
    pub(crate) pending_services: usize,
    pub(crate) pending_endpoints: usize,
    pub(crate) is_settled: bool,
    pub(crate) failure: Option<Failure>,
    pub(crate) compared: Option<Instant>,
    pub(crate) counts: Counts,
    pub(crate) sources: BTreeMap<Origin, SourceStatus>,
    pub(crate) followed: Followed,
    /// What only the daemon around the engine knows.
    pub(crate) about: About,
}

/// What the daemon knows beside its engine.
#[derive(Clone, Debug)]
pub struct About {
    /// When it started.
    pub(crate) started: Timestamp,
    /// When the kernel last took a transaction.
    pub(crate) committed: Option<Timestamp>,
    pub(crate) health: Health,
    /// The current problems of the sources.
    pub(crate) problems: BTreeMap<Origin, OrdSet<Problem>>,
    /// The networks that Services have addresses of.
    pub(crate) networks: BTreeSet<IpNet>,
}

/// The state of a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceStatus {
    /// Whether it has delivered its first complete lists.
    pub is_complete: bool,
    /// Whether it is unavailable, so that all that it delivered is held.
    pub is_unavailable: bool,
    /// When the source was last heard from.
    pub heard: Option<Instant>,
    /// The time of the saved state that is used for it, if it is.
    pub stale: Option<Timestamp>,
    /// Since when it has been so.
    pub since: Option<Timestamp>,
}

impl SourceStatus {
    /// Changes it, and notes when it has become something else.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Self)) {
        let of = |it: &Self| (it.is_complete, it.is_unavailable, it.stale.is_some());
        let before = of(self);
        change(self);
        if self.since.is_none() || of(self) != before {
            self.since = Some(Timestamp::now());
        }
    }
}

impl View {
    /// Returns the state of an engine and its sources.
    pub fn of(
        engine: &Engine,
        sources: BTreeMap<Origin, SourceStatus>,
        followed: Followed,
        about: About,
    ) -> Self {
        let endpoints = [Kind::EndpointSlice, Kind::Pod].map(|kind| engine.pending(kind));
        let refused = engine.refusals();
        Self {
            model: engine.model().clone(),
            settings: Arc::clone(engine.settings()),
            wanted: engine.wanted().cloned(),
            applied: engine.applied().map(|(program, _)| program.clone()),
            locals: engine.applied_locals().clone(),
            refused: refused.map(|(key, error, n)| (key.clone(), Arc::clone(error), n)).collect(),
            pending_services: engine.pending(Kind::Service),
            pending_endpoints: endpoints.iter().sum(),
            is_settled: engine.is_settled(),
            failure: engine.failure().cloned(),
            compared: engine.compared(),
            counts: engine.counts(),
            sources,
            followed,
            about,
        }
    }
}

/// Requests views from the daemon.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Ask>);

impl Asker {
    /// Creates one, and the receiver for the daemon.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (daemon, asks) = mpsc::channel(ASKS);
        (Self(daemon), asks)
    }

    /// Waits for the view of this moment.
    ///
    /// # Errors
    ///
    /// If the daemon is ending.
    pub async fn ask(&self) -> anyhow::Result<View> {
        let (ask, view) = oneshot::channel();
        self.0.send(ask).await.ok().context("the daemon is ending")?;
        view.await.context("the daemon is ending")
    }
}
