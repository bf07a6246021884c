//! What the socket serves: how the daemon is, all that it knows, and the names of it.
//!
//! The loop gives pointers; this makes documents of them, on another thread and one at a time, so
//! that neither many readers nor slow ones cost it anything.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use rulec_compiler::{Model, Program};
use rulec_sources::Problem;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, mpsc};

use super::changes::Changes;
use super::http::{HttpAnswer, Site};
use super::names::Names;
use super::settings::{DaemonSettings, SETTINGS};
use super::status::{API_VERSION, Status};
use super::traffic::{CountersAsker, OFF, TRAFFIC, TrafficReport};
use super::view::{Asker, View};
use crate::history::History;
use crate::snapshot::{SavedObject, Snapshot};

/// The path of a `Status`.
pub const STATUS: &str = "/v1alpha1/status";

/// The path of a `DaemonState`.
pub const STATE: &str = "/v1alpha1/state";

/// The path of `Names`.
pub const NAMES: &str = "/v1alpha1/names";

/// All that the daemon knows at one moment.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonState {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) status: Status,
    /// Whether `snapshot` has what the kernel has acknowledged; otherwise that is not known at the
    /// moment, and it has what the kernel should hold.
    pub(crate) is_acknowledged: bool,
    /// The settings, the objects of all sources, and what the kernel holds.
    pub(crate) snapshot: Snapshot,
    /// All problems of the sources.
    pub(crate) problems: Vec<Problem>,
}

impl DaemonState {
    /// Returns the objects.
    ///
    /// # Errors
    ///
    /// If what the daemon says cannot be used.
    pub(crate) fn into_model(self) -> anyhow::Result<Option<Model>> {
        Ok(self.snapshot.checked().context("what the daemon says")?.model())
    }

    /// Returns all that a daemon knows. This takes time in proportion to it.
    pub fn of(view: &View) -> Self {
        let nothing = || Program::new(Arc::clone(&view.settings));
        let known = view.applied.as_ref().or(view.wanted.as_ref()).cloned();
        let program = known.unwrap_or_else(nothing);
        let objects = Some(SavedObject::all(&view.model));
        Self {
            api_version: API_VERSION.to_owned(),
            kind: "DaemonState".to_owned(),
            status: Status::of(view),
            is_acknowledged: view.applied.is_some(),
            snapshot: Snapshot::new(&program.state(), &view.settings, objects),
            problems: view.about.problems.values().flatten().cloned().collect(),
        }
    }
}

/// The content of the socket.
#[derive(Clone, Debug)]
pub struct StateSite {
    daemon: Asker,
    settings: Arc<DaemonSettings>,
    changes: Changes,
    /// The counters of connections, if they are counted.
    traffic: Option<CountersAsker>,
    /// Allows one document at a time.
    turn: Arc<Mutex<()>>,
}

impl StateSite {
    /// Creates one that asks a daemon, and has its settings, its history and its counters.
    pub fn new(
        daemon: Asker,
        settings: DaemonSettings,
        history: History,
        traffic: Option<CountersAsker>,
    ) -> Self {
        let (settings, changes) = (Arc::new(settings), Changes::new(history));
        Self { daemon, settings, changes, traffic, turn: Arc::default() }
    }

    async fn document<T: Serialize + Send>(
        &self,
        of: impl FnOnce(&View) -> T + Send + 'static,
    ) -> HttpAnswer {
        self.tried(move |view| Ok(of(view))).await
    }

    /// Answers with what is made of the view, or with why it cannot be made.
    async fn tried<T: Serialize + Send>(
        &self,
        of: impl FnOnce(&View) -> anyhow::Result<T> + Send + 'static,
    ) -> HttpAnswer {
        let _turn = self.turn.lock().await;
        let unavailable =
            |error: String| HttpAnswer::text(StatusCode::SERVICE_UNAVAILABLE, error + "\n");
        match self.daemon.ask().await {
            Ok(view) => {
                let make = move || match of(&view) {
                    Ok(document) => HttpAnswer::json(StatusCode::OK, &document),
                    Err(error) => unavailable(format!("{error:#}")),
                };
                let made = tokio::task::spawn_blocking(make).await;
                made.unwrap_or_else(|error| unavailable(error.to_string()))
            }
            Err(error) => unavailable(format!("{error:#}")),
        }
    }
}

impl Site for StateSite {
    fn allows(&self, method: &Method, _: &str) -> bool {
        *method == Method::GET
    }

    async fn answer(&self, path: &str, _: &str) -> HttpAnswer {
        match path {
            STATUS => self.document(Status::of).await,
            STATE => self.document(DaemonState::of).await,
            SETTINGS => HttpAnswer::json(StatusCode::OK, &*self.settings),
            NAMES => self.document(Names::of).await,
            TRAFFIC => match self.traffic.clone() {
                Some(counters) => self.tried(move |view| TrafficReport::of(view, &counters)).await,
                None => HttpAnswer::text(StatusCode::GONE, OFF),
            },
            _ => self.changes.answer(path).await,
        }
    }

    async fn follow(&self, path: &str, follows: &Arc<AtomicBool>) -> Option<mpsc::Receiver<Bytes>> {
        self.changes.follow(path, follows)
    }
}
