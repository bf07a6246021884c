//! The nodes: the real source of each, on one thread, and what they have heard.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec_compiler::name::NodeName;
use rulec_compiler::object::{Object, ObjectKey};
use rulec_compiler::{Change, Sourced};
use rulec_sources::measuring::follow_relay;
use rulec_sources::{RelayOptions, RelaySource, RelayStatus, RelayTiming, Update};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::certificates::access;
use super::cluster::{node_name, number, serial};

/// How long anything may take. Nothing waits for this unless it fails.
const PATIENCE: Duration = Duration::from_secs(900);

/// All nodes.
pub(super) struct Fleet {
    nodes: Vec<Node>,
    board: Rc<Board>,
}

struct Node {
    status: Arc<RelayStatus>,
    held: Rc<RefCell<Held>>,
    task: JoinHandle<()>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a node holds.
#[derive(Default)]
struct Held {
    is_complete: bool,
    services: Vec<bool>,
    serials: Vec<Option<u32>>,
}

/// What all nodes tell.
#[derive(Default)]
struct Board {
    wave: RefCell<Option<Wave>>,
    /// How often a node lost an object that it had, or got an older state of it.
    lost: Cell<usize>,
    older: Cell<usize>,
    updates: Cell<usize>,
}

/// A change on its way.
struct Wave {
    service: usize,
    serial: u32,
    started: Instant,
    times: Vec<Duration>,
}

impl Fleet {
    /// Starts all nodes at once.
    pub(super) fn start(directory: &Path, size: super::Size, is_secure: bool) -> Self {
        let board = Rc::<Board>::default();
        let start = |name: String| {
            let source = RelaySource::new(RelayOptions {
                access: access(directory, &name, is_secure),
                node_name: NodeName::from(name.as_str()),
                timing: RelayTiming::default(),
                state: None,
                fallback: None,
            });
            let status = source.status();
            let held = Held {
                is_complete: false,
                services: vec![false; size.services],
                serials: vec![None; size.services],
            };
            let held = Rc::new(RefCell::new(held));
            let (out, updates) = mpsc::channel(4);
            let hearing = hear(updates, held.clone(), board.clone());
            let task = spawn_local(async move {
                tokio::join!(follow_relay(source, out), hearing);
            });
            Node { status, held, task }
        };
        let nodes = (0..size.nodes).map(node_name).map(start).collect();
        Self { nodes, board }
    }

    /// Makes a change, and returns after which times the nodes had it.
    pub(super) async fn wave(
        &self,
        service: usize,
        serial: u32,
        change: impl FnOnce(),
    ) -> Vec<Duration> {
        let wave = Wave { service, serial, started: Instant::now(), times: Vec::new() };
        *self.board.wave.borrow_mut() = Some(wave);
        change();
        let count = |board: &Board| board.wave.borrow().as_ref().map_or(0, |it| it.times.len());
        until("all nodes have the change", || count(&self.board) >= self.nodes.len()).await;
        self.board.wave.take().unwrap().times
    }

    /// Returns whether all nodes have connected more often than before, and are current.
    pub(super) fn are_current(&self, before: &[u64]) -> bool {
        let is = |(node, before): (&Node, &u64)| {
            node.status.is_connected() && node.status.connections() > *before
        };
        self.nodes.iter().zip(before).all(is)
    }

    /// Returns whether all nodes hold all Services with these serials.
    pub(super) fn hold(&self, serials: &[u32]) -> bool {
        let is = |node: &Node| {
            let held = node.held.borrow();
            let pairs = held.serials.iter().zip(serials);
            held.is_complete && pairs.into_iter().all(|(held, wanted)| *held == Some(*wanted))
        };
        self.nodes.iter().all(is)
    }

    /// Returns how many connections each node has made.
    pub(super) fn connections(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.status.connections()).collect()
    }

    /// Returns how many failures all nodes have had.
    pub(super) fn errors(&self) -> u64 {
        self.nodes.iter().map(|node| node.status.errors()).sum()
    }

    /// Returns how many updates all nodes have sent.
    pub(super) fn updates(&self) -> usize {
        self.board.updates.get()
    }

    /// Returns how often a node lost an object that it had, and how often it got an older one.
    pub(super) fn faults(&self) -> (usize, usize) {
        (self.board.lost.get(), self.board.older.get())
    }
}

/// Waits until something is so, and returns how long that took.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) -> Duration {
    let started = Instant::now();
    let waiting = async {
        while !is_so() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(timeout(PATIENCE, waiting).await.is_ok(), "in vain: {what}");
    started.elapsed()
}

/// Takes over what a node's source sends.
async fn hear(mut updates: mpsc::Receiver<Update>, held: Rc<RefCell<Held>>, board: Rc<Board>) {
    while let Some(update) = updates.recv().await {
        board.updates.set(board.updates.get() + 1);
        let mut held = held.borrow_mut();
        for change in update.changes {
            held.take(change, &board);
        }
        held.is_complete |= update.complete;
    }
}

impl Held {
    fn take(&mut self, change: Change, board: &Board) {
        match change {
            Change::Apply(Sourced { object, .. }) => self.apply(&object, board),
            Change::Remove(ObjectKey::Service(_) | ObjectKey::EndpointSlice(_)) => {
                board.lost.set(board.lost.get() + 1);
            }
            Change::Remove(_) => {}
            Change::Replace { objects, .. } => {
                let count = self.services.len();
                let before = std::mem::replace(&mut self.services, vec![false; count]);
                let serials = self.serials.clone();
                self.serials.fill(None);
                for Sourced { object, .. } in &objects {
                    // Compared below, with what there was before.
                    self.apply(object, board);
                }
                let lost = before.iter().zip(&self.services).filter(|(was, is)| **was && !**is);
                let gone = serials.iter().zip(&self.serials);
                let gone = gone.clone().filter(|(was, is)| was.is_some() && is.is_none());
                board.lost.set(board.lost.get() + lost.count() + gone.count());
                let older = serials.iter().zip(&self.serials);
                let older = older.filter(|(was, is)| is.is_some() && is < was);
                board.older.set(board.older.get() + older.count());
            }
        }
    }

    fn apply(&mut self, object: &Object, board: &Board) {
        match object {
            Object::Service(service) => self.services[number(service.key.name.as_str())] = true,
            Object::EndpointSlice(slice) => {
                let service = number(slice.key.name.as_str());
                let new = serial(slice);
                if self.serials[service].is_some_and(|old| new < old) {
                    board.older.set(board.older.get() + 1);
                }
                self.serials[service] = Some(new);
                let mut wave = board.wave.borrow_mut();
                if let Some(wave) = wave.as_mut().filter(|it| it.service == service)
                    && new == wave.serial
                {
                    wave.times.push(wave.started.elapsed());
                }
            }
            Object::Pod(_)
            | Object::Node(_)
            | Object::ServiceCidr(_)
            | Object::InterfaceAddresses(_) => {}
        }
    }
}
