//! The API server in the place of a relay that is away.
//!
//! ```text
//!  Idle ──the relay is not heard──▶ Due ──after a time──▶ Running ──all lists──▶ it serves
//!   ▲ ◀──────it is heard──────────── ┘                       │                      │
//!   └────────it is heard────────────────────────────────────┴── and not behind ────┘
//! ```
//!
//! The lists are no older than what the relay has sent, and the relay serves again once it knows no
//! less than what the server has sent: endpoints never go back in time.

use std::collections::BTreeSet;
use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use im::OrdSet;
use rulec_compiler::object::Object;
use rulec_compiler::{Change, Provenance, Sourced};
use rulec_relay::{Position, Standing, Topic};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::saved::{AllVersions, Whole};
use super::store::KINDS;
use crate::api::{ApiOptions, ApiSource, ApiStatus, Objects};
use crate::error::SourceError;
use crate::problem::Problem;
use crate::update::{Positions, Update};

/// The name that stands for a file in provenances, as in those of the server itself.
const PLACE: &str = "API server";

/// How many updates of the server may wait.
const UPDATES: usize = 16;

/// The API server that takes the place of a relay, and when.
#[derive(Clone, Debug)]
pub struct RelayFallback {
    /// How long the relay must not be heard. Up to a quarter is added, differently for each node: all
    /// of them lose a relay at the same moment.
    pub after: Duration,
    /// How the server is followed.
    pub api: ApiOptions,
}

pub(super) struct Substitute {
    fallback: Option<RelayFallback>,
    /// What is added to the time.
    spread: Duration,
    status: Arc<ApiStatus>,
    state: State,
    changes: Vec<Change>,
    has_news: bool,
}

enum State {
    Idle,
    Due(Instant),
    Running(Box<Server>),
}

struct Server {
    updates: mpsc::Receiver<Update>,
    /// Follows the server until it is dropped.
    _task: JoinSet<Result<(), SourceError>>,
    objects: Objects,
    /// `None` until everything is listed or given up.
    positions: Option<Positions>,
    problems: OrdSet<Problem>,
    serves: bool,
}

/// What has happened.
pub(super) enum Step {
    /// The relay was not heard for long enough.
    Due,
    /// The server has sent something.
    Update(Box<Update>),
    /// The thread that follows the server has died.
    Ended,
}

impl Substitute {
    pub(super) fn new(fallback: Option<RelayFallback>, status: Arc<ApiStatus>) -> Self {
        let spread = fallback.as_ref().map_or(Duration::ZERO, |fallback| {
            let hash = blake3::hash(fallback.api.node_name.as_str().as_bytes());
            fallback.after.mul_f64(f64::from(hash.as_bytes()[0]) / 1024.0)
        });
        let state = State::Idle;
        Self { fallback, spread, status, state, changes: Vec::new(), has_news: false }
    }

    /// Waits for what happens next. Nothing is lost if this future is dropped.
    pub(super) async fn step(&mut self) -> Step {
        match &mut self.state {
            State::Idle => pending().await,
            State::Due(at) => {
                sleep_until(*at).await;
                Step::Due
            }
            State::Running(server) => match server.updates.recv().await {
                Some(update) => Step::Update(Box::new(update)),
                None => Step::Ended,
            },
        }
    }

    /// Notes whether the relay is heard.
    pub(super) fn note(&mut self, is_heard: bool) {
        match &self.state {
            State::Idle if !is_heard => {
                if let Some(fallback) = &self.fallback {
                    self.state = State::Due(Instant::now() + fallback.after + self.spread);
                }
            }
            State::Due(_) if is_heard => self.state = State::Idle,
            State::Running(server) if is_heard && !server.serves => self.end(),
            State::Idle | State::Due(_) | State::Running(_) => {}
        }
    }

    /// Follows the server. No list may be older than the position.
    pub(super) fn start(&mut self, floor: Position) {
        let Some(fallback) = &self.fallback else { return };
        let options = ApiOptions { floor, tells_positions: true, ..fallback.api.clone() };
        let (out, updates) = mpsc::channel(UPDATES);
        let mut task = JoinSet::new();
        task.spawn(ApiSource::with_status(options, self.status.clone()).run(out));
        self.state = State::Running(Box::new(Server {
            updates,
            _task: task,
            objects: Objects::new(),
            positions: None,
            problems: OrdSet::new(),
            serves: false,
        }));
    }

    /// Ends following the server.
    pub(super) fn end(&mut self) {
        self.state = State::Idle;
        self.changes.clear();
        self.has_news = true;
    }

    /// Takes in what the server sends. Returns true if it takes the place of the relay with that. What
    /// it could not read stays as the relay has sent it.
    pub(super) fn take(
        &mut self,
        update: Update,
        of_relay: impl Fn(Topic) -> Vec<Sourced>,
    ) -> bool {
        let State::Running(server) = &mut self.state else { return false };
        let Update { changes, complete, positions, problems, .. } = update;
        for change in &changes {
            server.apply(change);
        }
        self.has_news |= server.problems != problems;
        server.problems = problems;
        server.positions = positions.or(server.positions.take());
        if server.serves {
            self.changes.extend(changes);
            return false;
        }
        let Some(positions) = server.positions.as_ref().filter(|_| complete) else { return false };
        let broken: BTreeSet<&str> =
            server.problems.iter().filter_map(|problem| problem.object.as_deref()).collect();
        let is_unread = |topic: Topic| positions.unread[topic.index()];
        let place: Arc<str> = PLACE.into();
        let sourced = |object: &Object| Sourced {
            object: object.clone(),
            provenance: Provenance(place.clone()),
        };
        let mut objects: Vec<Sourced> = server.objects.values().map(sourced).collect();
        for topic in Topic::ALL {
            for sourced in of_relay(topic) {
                let key = sourced.object.key();
                let is_kept = is_unread(topic) || broken.contains(key.to_string().as_str());
                if is_kept && !server.objects.contains_key(&key) {
                    server.objects.insert(key, sourced.object.clone());
                    objects.push(sourced);
                }
            }
        }
        // All at once, and nothing else of the relay is left.
        server.serves = true;
        self.changes.push(Change::Replace { kinds: KINDS, objects });
        true
    }

    fn serving(&self) -> Option<&Server> {
        match &self.state {
            State::Running(server) => Some(&**server).filter(|server| server.serves),
            State::Idle | State::Due(_) => None,
        }
    }

    /// Returns whether the server has taken the place of the relay.
    pub(super) fn serves(&self) -> bool {
        self.serving().is_some()
    }

    /// Returns what the relay must know to take its place again.
    pub(super) fn floor(&self) -> Option<&Position> {
        self.serving()?.positions.as_ref().map(|positions| &positions.changed)
    }

    /// Returns whether the server answers at the moment.
    pub(super) fn is_heard(&self) -> bool {
        self.status.is_connected()
    }

    /// Returns what is to be saved, if the server has taken the place of a relay with this position.
    pub(super) fn saved(&self, of_relay: &Position) -> Option<Whole> {
        let server = self.serving()?;
        let mut position = of_relay.clone();
        position.advance(&server.positions.as_ref()?.seen);
        let standing = Standing { position, ..Standing::default() };
        Some(Whole { objects: server.objects.clone(), versions: AllVersions::default(), standing })
    }

    /// Returns the changes since the last call.
    pub(super) fn changes(&mut self) -> Vec<Change> {
        mem::take(&mut self.changes)
    }

    /// Returns whether there is more news than changes.
    pub(super) fn has_news(&mut self) -> bool {
        mem::take(&mut self.has_news)
    }

    /// Returns the problems of following the server.
    pub(super) fn problems(&self) -> OrdSet<Problem> {
        match &self.state {
            State::Running(server) => server.problems.clone(),
            State::Idle | State::Due(_) => OrdSet::new(),
        }
    }
}

impl Server {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Replace { kinds, objects } => {
                let others = mem::take(&mut self.objects);
                let others = others.into_iter().filter(|(key, _)| !kinds.contains(&key.kind()));
                let new = objects.iter().map(|it| (it.object.key(), it.object.clone()));
                self.objects = others.chain(new).collect();
            }
            Change::Apply(sourced) => {
                self.objects.insert(sourced.object.key(), sourced.object.clone());
            }
            Change::Remove(key) => {
                self.objects.remove(key);
            }
        }
    }
}
