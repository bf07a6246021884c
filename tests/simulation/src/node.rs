//! A daemon: the sources, the engine, and a short loop that joins them as the daemon's does.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use im::OrdSet;
use rulec_compiler::change::{Provenance, Sourced};
use rulec_compiler::object::{InterfaceAddresses, Kind, Object};
use rulec_compiler::{Change, Origin, Settings};
use rulec_engine::{Engine, Event, Periods, Reply, Tampering, answer};
use rulec_sources::simulation::{Dial, Directory, follow_api};
use rulec_sources::{StateDir, Update};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, JoinSet, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use crate::cluster::NODE;
use crate::kernel::Simulated;

/// How many updates may wait, as in the daemon.
const UPDATES: usize = 256;

/// How often the directory is read without an event, as in the daemon.
const RESCAN: Duration = Duration::from_secs(20);

/// How often it is read while it does not exist, or a file is young.
const SOON: Duration = Duration::from_millis(250);

/// What a daemon is given.
#[derive(Clone)]
pub(crate) struct Site {
    pub(crate) kernel: Rc<RefCell<Simulated>>,
    pub(crate) dial: Dial,
    pub(crate) manifests: PathBuf,
    pub(crate) state: PathBuf,
    /// The wall clock at the beginning of virtual time.
    pub(crate) epoch: (SystemTime, Instant),
}

impl Site {
    /// Returns the wall clock's time.
    pub(crate) fn wall(&self) -> SystemTime {
        self.epoch.0 + self.epoch.1.elapsed()
    }
}

/// A daemon, which is killed when this is dropped.
pub(crate) struct Node {
    pub(crate) engine: Rc<RefCell<Engine>>,
    tasks: Vec<JoinHandle<()>>,
    tampering: mpsc::UnboundedSender<Tampering>,
    files: Rc<Notify>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Node {
    pub(crate) fn start(site: &Site) -> Self {
        // As with shared tables: others can change them, so they are compared every minute.
        let periods = Periods { verify: Duration::from_secs(60), ..Periods::default() };
        let now = Instant::now().into_std();
        let engine = Engine::new(Settings::new(NODE.into()), periods, now);
        let engine = Rc::new(RefCell::new(engine));
        let state = StateDir::at_once(site.state.clone());
        let (out, updates) = mpsc::channel(UPDATES);
        let (tampering, tamperings) = mpsc::unbounded_channel();
        let files = Rc::new(Notify::new());
        let api = follow_api(NODE.into(), Some(state.clone()), site.dial.clone(), out.clone());
        let directory = watch(site.clone(), state, Rc::clone(&files), out.clone());
        let kernel = Rc::clone(&site.kernel);
        let turn = Loop { engine: Rc::clone(&engine), kernel, seen: Seen::default() };
        let tasks = vec![
            spawn_local(api),
            spawn_local(directory),
            spawn_local(tell_of_interfaces(out)),
            spawn_local(turn.run(updates, tamperings)),
        ];
        Self { engine, tasks, tampering, files }
    }

    /// Returns false if a part of it has ended, which none does by itself.
    pub(crate) fn lives(&self) -> bool {
        !self.tasks.iter().any(JoinHandle::is_finished)
    }

    /// Announces that others have changed the kernel.
    pub(crate) fn tell_of_tampering(&self) {
        // The loop runs as long as this lives.
        let _ = self.tampering.send(Tampering { culprit: None });
    }

    /// Announces that a file has changed.
    pub(crate) fn tell_of_files(&self) {
        self.files.notify_one();
    }
}

/// The addresses of the node's interfaces, which never change.
async fn tell_of_interfaces(out: mpsc::Sender<Update>) {
    let addresses = vec![IpAddr::V4(Ipv4Addr::new(192, 168, 0, 1))];
    let object = InterfaceAddresses { primary: addresses.clone(), addresses };
    let object = Object::InterfaceAddresses(Arc::new(object));
    let sourced = Sourced { object, provenance: Provenance("kernel".into()) };
    let kinds = &[Kind::InterfaceAddresses];
    let _ = out.send(update(vec![Change::Replace { kinds, objects: vec![sourced] }])).await;
    std::future::pending().await
}

fn update(changes: Vec<Change>) -> Update {
    Update {
        origin: Origin::Kernel,
        changes,
        triggers: Vec::new(),
        complete: true,
        unread: 0,
        unavailable: false,
        stale: None,
        positions: None,
        suppressed: 0,
        problems: OrdSet::new(),
    }
}

/// Reads the directory at each event and now and then.
async fn watch(site: Site, state: StateDir, files: Rc<Notify>, out: mpsc::Sender<Update>) {
    let mut directory = Directory::new(site.manifests.clone(), None, &state, &out);
    loop {
        // Looking must not wait: this thread runs everything.
        while out.capacity() < UPDATES / 2 {
            sleep(Duration::from_millis(1)).await;
        }
        let now = site.wall();
        let look = std::thread::scope(|scope| scope.spawn(|| directory.look(now)).join());
        if !look.expect("the directory is read") {
            return;
        }
        let rest = if site.manifests.exists() { RESCAN } else { SOON };
        tokio::select! {
            biased;
            () = files.notified() => sleep(Duration::from_millis(10)).await,
            () = sleep(rest) => {}
        }
    }
}

/// What the sources have said about themselves.
struct Seen {
    incomplete: BTreeSet<Origin>,
    unread: BTreeMap<Origin, usize>,
}

impl Default for Seen {
    fn default() -> Self {
        let incomplete = BTreeSet::from([Origin::Api, Origin::Manifests, Origin::Kernel]);
        Self { incomplete, unread: BTreeMap::new() }
    }
}

/// The loop around the engine.
struct Loop {
    engine: Rc<RefCell<Engine>>,
    kernel: Rc<RefCell<Simulated>>,
    seen: Seen,
}

impl Loop {
    async fn run(
        mut self,
        mut updates: mpsc::Receiver<Update>,
        mut tamperings: mpsc::UnboundedReceiver<Tampering>,
    ) {
        let (answers, mut replies) = mpsc::unbounded_channel();
        // Requests die with the daemon: the kernel may have carried them out by then or not.
        let mut requests = JoinSet::new();
        loop {
            self.ask(&mut requests, &answers);
            while let Some(ended) = requests.try_join_next() {
                ended.expect("the kernel answers");
            }
            let deadline = self.engine.borrow().deadline();
            let tick = async {
                match deadline {
                    Some(at) => sleep_until(Instant::from_std(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some(update) = updates.recv() => {
                    self.take(update);
                    while let Ok(update) = updates.try_recv() {
                        self.take(update);
                    }
                }
                Some(reply) = replies.recv() => self.handle(Event::Reply(reply)),
                Some(tampering) = tamperings.recv() => self.handle(Event::Tampered(tampering)),
                () = tick => {}
            }
            let mut engine = self.engine.borrow_mut();
            // As the daemon does: the engine keeps these until they are taken.
            let _ = (engine.take_committed(), engine.take_acknowledged(), engine.take_suspects());
            let _ = (engine.take_touched(), engine.take_latencies(), engine.take_programmed());
        }
    }

    fn handle(&self, event: Event) {
        self.engine.borrow_mut().handle(event, Instant::now().into_std());
    }

    fn take(&mut self, update: Update) {
        let Update { origin, changes, complete, unread, .. } = update;
        self.handle(Event::Changes(origin, changes, Vec::new()));
        self.seen.unread.insert(origin, unread);
        self.handle(Event::Unread(self.seen.unread.values().sum()));
        let incomplete = &mut self.seen.incomplete;
        if complete && incomplete.remove(&origin) && incomplete.is_empty() {
            self.handle(Event::SourcesReady);
        }
    }

    fn ask(&self, requests: &mut JoinSet<()>, answers: &mpsc::UnboundedSender<Reply>) {
        loop {
            let request = self.engine.borrow_mut().next_request(Instant::now().into_std());
            let Some(request) = request else { return };
            let (kernel, answers) = (Rc::clone(&self.kernel), answers.clone());
            let latency = kernel.borrow_mut().latency();
            requests.spawn_local(async move {
                sleep(latency / 2).await;
                let reply = answer(&mut *kernel.borrow_mut(), request);
                sleep(latency / 2).await;
                let _ = answers.send(reply);
            });
        }
    }
}
