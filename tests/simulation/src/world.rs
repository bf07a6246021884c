//! Carries out a plan.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rulec_apiserver::{ApiServer, Cut, Fault, Injection, Resource, Restart, Scope};
use rulec_compiler::oracle::Verdict;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

use crate::cluster::{self, BASE, CLOCK, From};
use crate::kernel::Simulated;
use crate::laws::{self, Breach};
use crate::node::{Node, Site};
use crate::plan::{Cluster, Disk, Files, Hindrance, Plan, Server, What};

/// How long everything may take to settle when all faults are over. The longest pause of all is that
/// after a refusal of an optional list (`ApiTiming::refused`), and a minute passes between two
/// comparisons with the kernel.
const REST: Duration = Duration::from_secs(420);

/// What a history was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The time that has passed in it.
    pub passed: Duration,
    /// The number of commits.
    pub commits: u64,
    /// How often the laws of rest held.
    pub rests: u32,
}

/// Carries out a plan.
///
/// # Errors
///
/// The first law that did not hold.
///
/// # Panics
///
/// If the machine has no room for a few small files.
pub fn run(plan: &Plan) -> Result<Summary, Breach> {
    fastrand::seed(plan.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime starts");
    // What the world itself stumbles over is a breach, too, so that its seed is known.
    let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
        LocalSet::new().block_on(&runtime, async {
            let mut world = World::new(plan);
            world.carry_out(plan).await
        })
    }));
    outcome.unwrap_or_else(|_| {
        let what = "it has panicked, see above".to_owned();
        Err(Breach::new("the world goes on", what))
    })
}

/// See the module's documentation.
struct World {
    /// Manifests and states of a node.
    home: TempDir,
    server: Arc<ApiServer>,
    site: Site,
    node: Option<Node>,
    /// How many copies of the states were kept.
    kept: u32,
    /// How many changes the server has seen.
    changes: u16,
    /// The version from which on the server has the objects that nobody touches.
    base_version: u64,
    summary: Summary,
}

impl World {
    fn new(plan: &Plan) -> Self {
        // In memory, if that is possible: nothing here must outlive anything.
        let shared = Path::new("/dev/shm");
        let home = if shared.is_dir() { TempDir::new_in(shared) } else { TempDir::new() };
        let home = home.expect("a directory is made");
        let manifests = home.path().join("manifests");
        let state = home.path().join("state");
        fs::create_dir(&manifests).expect("a directory is made");
        let server = Arc::new(ApiServer::inside());
        let own = Arc::clone(&server);
        let site = Site {
            kernel: Rc::new(RefCell::new(Simulated::new(plan.seed))),
            dial: Arc::new(move || own.connect()),
            manifests,
            state,
            epoch: (SystemTime::now(), Instant::now()),
        };
        let summary = Summary::default();
        Self { home, server, site, node: None, kept: 0, changes: 0, base_version: 0, summary }
    }

    async fn carry_out(&mut self, plan: &Plan) -> Result<Summary, Breach> {
        self.begin();
        self.node = Some(Node::start(&self.site));
        for step in &plan.steps {
            sleep(step.after).await;
            self.check()?;
            match &step.what {
                What::Cluster(what) => self.change(what),
                What::Server(what) => self.hinder(what),
                What::Files(what) => self.write(what),
                What::Kernel(what) => {
                    let is_told = self.site.kernel.borrow_mut().meet(what);
                    if let Some(node) = self.node.as_ref().filter(|_| is_told) {
                        node.tell_of_tampering();
                    }
                }
                What::Kill { away, disk } => self.kill(*away, *disk).await,
                What::Calm => self.rest().await?,
                What::Expect { service, backends } => self.expect(*service, *backends)?,
            }
        }
        let kernel = self.site.kernel.borrow();
        let passed = self.site.epoch.1.elapsed();
        Ok(Summary { passed, commits: kernel.commits, ..self.summary })
    }

    fn check(&self) -> Result<(), Breach> {
        if self.node.as_ref().is_some_and(|node| !node.lives()) {
            let what = "a task of the daemon has ended: it has panicked, see above".to_owned();
            return Err(Breach::new("the daemon lives", what));
        }
        self.site.kernel.borrow_mut().breach().map_or(Ok(()), Err)
    }

    /// Makes the objects that nobody touches.
    fn begin(&mut self) {
        self.server.apply(&cluster::node(0));
        self.server.apply(&cluster::service_cidr());
        self.server.apply(&cluster::service(From::Server, BASE, 0));
        self.server.apply(&cluster::service(From::Server, CLOCK, 0));
        self.server.apply(&cluster::clock(0));
        self.base_version = self.server.apply(&cluster::slice(From::Server, BASE, 3));
        let base = [cluster::service(From::File, BASE, 0), cluster::slice(From::File, BASE, 3)];
        self.write_file("base.json", &text(&base));
    }

    fn change(&mut self, what: &Cluster) {
        let delete = |resource, number: u8| {
            self.server.delete(resource, "default", &cluster::name(From::Server, number));
        };
        match *what {
            Cluster::Service(number, meaning) => {
                self.server.apply(&cluster::service(From::Server, number, meaning));
            }
            Cluster::NoService(number) => delete(Resource::Services, number),
            Cluster::Slice(number, meaning) => {
                self.server.apply(&cluster::slice(From::Server, number, meaning));
            }
            Cluster::NoSlice(number) => delete(Resource::EndpointSlices, number),
            Cluster::Node(zone) => {
                self.server.apply(&cluster::node(zone));
            }
            Cluster::Noise(number) => {
                let mut service = cluster::service(From::Server, BASE, 0);
                service["metadata"]["annotations"] = json!({"note": number.to_string()});
                self.server.apply(&service);
            }
        }
        self.changes += 1;
        self.server.apply(&cluster::clock(self.changes));
    }

    fn hinder(&self, what: &Server) {
        let server = &self.server;
        match what {
            Server::Down => server.down(),
            Server::Up => server.up(),
            Server::Restart => server.restart(Restart::Kept),
            Server::Drop => server.drop_connections(),
            Server::Freeze => {
                server.freeze(Scope::all());
            }
            Server::Compact => server.compact(),
            Server::Bookmark => resources().for_each(|it| server.bookmark(it)),
            Server::Streams(on) => server.set_streaming_lists(*on),
            Server::Deaf(deaf) => server.set_deaf(*deaf),
            Server::Hinder(what, times) => {
                let fault = match *what {
                    Hindrance::Status(code) => Fault::status(code),
                    Hindrance::Delay(millis) => Fault::Delay(Duration::from_millis(millis.into())),
                    Hindrance::NoAnswer => Fault::NoAnswer,
                    Hindrance::Cut(bytes) => {
                        Fault::CutAfter { bytes: bytes.into(), how: Cut::Close }
                    }
                    // Never before the objects that nobody touches.
                    Hindrance::Old(back) => {
                        let version = server.version().saturating_sub(back.into());
                        Fault::Lagging(version.max(self.base_version))
                    }
                    Hindrance::Duplicates => Fault::Duplicates,
                    Hindrance::Nonsense => {
                        Fault::ListBody(b"{\"kind\":\"List\",\"items\":[{".to_vec())
                    }
                };
                server.fault_times(*times, Scope::all(), fault);
            }
            Server::Garble(kind) => {
                let injection = match kind {
                    0 => Injection::End,
                    1 => Injection::Error(410),
                    2 => Injection::Error(500),
                    3 => Injection::InvalidJson,
                    4 => Injection::NoMetadata,
                    5 => Injection::Repeat,
                    6 => Injection::UnknownType,
                    _ => Injection::WrongKind,
                };
                resources().for_each(|it| {
                    server.inject(it, injection.clone());
                });
            }
            Server::Lift => server.lift_all(),
        }
    }

    fn write(&mut self, what: &Files) {
        let name = |file: u8| format!("file-{file}.json");
        let mut is_heard = true;
        match what {
            Files::Write { file, service, slice, takes_over, heard } => {
                let mut objects = vec![
                    cluster::service(From::File, *file, *service),
                    cluster::slice(From::File, *file, *slice),
                ];
                if *takes_over {
                    objects.push(cluster::service(From::Server, *file, *service));
                }
                self.write_file(&name(*file), &text(&objects));
                is_heard = *heard;
            }
            Files::Break(file) => {
                let whole = text(&[cluster::service(From::File, *file, 1)]);
                self.write_file(&name(*file), &whole[..whole.len() / 2]);
            }
            Files::Remove(file) => {
                let _ = fs::remove_file(self.directory().join(name(*file)));
            }
            Files::Hide => {
                let _ = fs::rename(&self.site.manifests, self.hidden());
            }
            Files::Show => self.show(),
        }
        if let Some(node) = self.node.as_ref().filter(|_| is_heard) {
            node.tell_of_files();
        }
    }

    fn hidden(&self) -> PathBuf {
        self.home.path().join("hidden")
    }

    fn show(&self) {
        let _ = fs::rename(self.hidden(), &self.site.manifests);
    }

    /// Returns where the directory is.
    fn directory(&self) -> PathBuf {
        if self.site.manifests.exists() { self.site.manifests.clone() } else { self.hidden() }
    }

    /// Writes a file in place of the one that is there.
    fn write_file(&self, name: &str, text: &str) {
        let path = self.directory().join(name);
        let next = self.home.path().join("next");
        let mut file = File::create(&next).expect("a file is made");
        file.write_all(text.as_bytes()).expect("a file is written");
        // In virtual time, like everything.
        file.set_modified(self.site.wall()).expect("a file has a time");
        fs::rename(next, path).expect("a file takes its place");
    }

    /// Kills the daemon, and starts another one.
    async fn kill(&mut self, away: Duration, disk: Disk) {
        self.node = None;
        sleep(away).await;
        let state = &self.site.state;
        let copy = |number: u32| self.home.path().join(format!("state-{number}"));
        match disk {
            Disk::Newest => {}
            Disk::Old if self.kept > 0 => replace(&copy(self.kept), state),
            Disk::Old | Disk::Empty => {
                let _ = fs::remove_dir_all(state);
            }
            Disk::Broken => {
                for entry in fs::read_dir(state).into_iter().flatten().flatten() {
                    let bytes = fs::read(entry.path()).unwrap_or_default();
                    let _ = fs::write(entry.path(), &bytes[..bytes.len() / 2]);
                }
            }
        }
        if disk != Disk::Newest {
            self.site.kernel.borrow_mut().forget_the_time();
        }
        self.kept += 1;
        replace(state, &copy(self.kept));
        self.node = Some(Node::start(&self.site));
    }

    /// Ends all faults, waits, and checks the laws of rest.
    async fn rest(&mut self) -> Result<(), Breach> {
        self.server.lift_all();
        self.server.set_deaf(false);
        self.server.up();
        // What is silent for ever is noticed, but only after the time of a watch.
        self.server.drop_connections();
        self.site.kernel.borrow_mut().calm();
        self.show();
        // Broken files stay broken: their last good content counts, and a new reader has none.
        for file in 0..crate::plan::NAMES {
            let path = self.directory().join(format!("file-{file}.json"));
            let is_whole = |text: String| serde_json::from_str::<Value>(&text).is_ok();
            if fs::read_to_string(&path).is_ok_and(|text| !is_whole(text)) {
                fs::remove_file(path).expect("a file is removed");
            }
        }
        sleep(REST).await;
        self.check()?;
        self.is_at_rest()?;
        self.a_new_daemon_has_nothing_to_do().await?;
        self.summary.rests += 1;
        Ok(())
    }

    fn expect(&self, service: u8, backends: usize) -> Result<(), Breach> {
        let kernel = self.site.kernel.borrow();
        let fates = laws::fates(kernel.state(), From::Server, service, 80);
        let met = fates.iter().filter(|fate| matches!(fate, Verdict::Backend(_))).count();
        if met == backends && fates.len() == backends.max(1) {
            return Ok(());
        }
        let what = format!("packets to api-{service} meet {fates:?}, not {backends} backends");
        Err(Breach::new("a Service is as expected", what))
    }

    fn is_at_rest(&self) -> Result<(), Breach> {
        let Some(node) = &self.node else { return Ok(()) };
        let engine = node.engine.borrow();
        if engine.is_settled() && engine.quarantined().next().is_none() {
            return Ok(());
        }
        let refused: Vec<_> = engine.quarantined().collect();
        let failure = engine.failure();
        let what = format!("settled: {}, refused: {refused:?}, {failure:?}", engine.is_settled());
        Err(Breach::new("everything settles when the faults are over", what))
    }

    /// A daemon without a past reads the same sources and finds the kernel as it would make it.
    async fn a_new_daemon_has_nothing_to_do(&self) -> Result<(), Breach> {
        const LAW: &str = "the kernel ends as a new daemon would make it";
        let kernel = Rc::new(RefCell::new(self.site.kernel.borrow().healthy_copy()));
        let state = self.home.path().join("state-of-another");
        let _ = fs::remove_dir_all(&state);
        let other = Node::start(&Site { kernel: Rc::clone(&kernel), state, ..self.site.clone() });
        sleep(Duration::from_secs(60)).await;
        let engine = other.engine.borrow();
        if !engine.is_settled() {
            return Err(Breach::new(LAW, "a new daemon does not settle".to_owned()));
        }
        match kernel.borrow().last_commit() {
            None => Ok(()),
            Some(ops) => Err(Breach::new(LAW, format!("it does {ops:#?}"))),
        }
    }
}

fn resources() -> impl Iterator<Item = Resource> {
    [Resource::Services, Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs]
        .into_iter()
}

fn text(objects: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string()
}

/// Makes a directory the copy of another one.
fn replace(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let Ok(entries) = fs::read_dir(from) else { return };
    fs::create_dir_all(to).expect("a directory is made");
    for entry in entries.flatten() {
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a file is copied");
    }
}
