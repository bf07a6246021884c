//! The real binary inside a node's namespace, and the directory of manifests that it watches.
//!
//! Nothing here sleeps for a fixed time: a test waits for what the daemon says in its log, which a
//! failing test prints. Invariant: a daemon does not outlive its value.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]
#![allow(dead_code, reason = "the tests of other topics use other parts")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rulec_testkit::{Namespace, patience};
use tempfile::TempDir;

/// What the daemon logs once the kernel holds everything.
pub(crate) const SETTLED: &str = "in sync with all sources";

/// What the daemon logs for each batch that the kernel has taken, with `LOG`.
pub(crate) const COMMITTED: &str = " committed ";

/// How the tests have it log: as most people do, but for each commit with its size.
pub(crate) const LOG: &str = "info,rulec::engine=debug";

/// The name of the node under test, unless the arguments say another.
pub(crate) const NODE_NAME: &str = "na";

/// Only a daemon that hangs is as slow as this, on however busy a machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often to look; less often where looking takes longer.
const PAUSE: Duration = Duration::from_millis(5);

/// A directory of manifests; every change of a file is atomic, as a careful user would make it.
#[derive(Debug)]
pub(crate) struct Manifests {
    // Also holds the drafts: on the same file system, but neither in the watched directory nor beside
    // it, where they would wake the daemon.
    root: TempDir,
}

impl Manifests {
    /// An empty directory.
    pub(crate) fn new() -> Self {
        let root = TempDir::new().expect("a temporary directory is made");
        for directory in ["manifests", "drafts"] {
            fs::create_dir(root.path().join(directory)).expect("a directory is made");
        }
        Self { root }
    }

    /// A directory with one file, `all.yaml`.
    pub(crate) fn of(yaml: &str) -> Self {
        let manifests = Self::new();
        manifests.write("all.yaml", yaml);
        manifests
    }

    /// The directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    /// Writes a file, or replaces it, in one step.
    pub(crate) fn write(&self, file: &str, yaml: &str) {
        let draft = self.root.path().join("drafts").join(file);
        for path in [&draft, &self.path().join(file)] {
            fs::create_dir_all(path.parent().expect("a file is in a directory"))
                .expect("a directory is made");
        }
        fs::write(&draft, yaml).expect("a manifest is written");
        fs::rename(&draft, self.path().join(file)).expect("a manifest is moved into place");
    }

    /// Removes a file.
    pub(crate) fn remove(&self, file: &str) {
        fs::remove_file(self.path().join(file)).expect("a manifest is removed");
    }
}

/// `rulec run` inside a namespace; killed on drop, as a crash would.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    // Holds the log.
    _directory: TempDir,
}

impl Daemon {
    /// Starts it as node `na`, with more arguments, and does not wait for anything.
    pub(crate) fn spawn(node: &Namespace, manifests: &Path, args: &[&str]) -> Self {
        let manifests = manifests.to_str().expect("the path is UTF-8");
        Self::spawn_with(node, &[&["--manifests", manifests], args].concat())
    }

    /// Starts it as node `na`, with these arguments and no others.
    pub(crate) fn spawn_with(node: &Namespace, args: &[&str]) -> Self {
        let mut all = vec!["run"];
        if !args.contains(&"--node-name") {
            all.extend(["--node-name", NODE_NAME]);
        }
        all.extend(args);
        Self::of(command(node, &all))
    }

    /// Starts it by a command that becomes the daemon.
    pub(crate) fn of(mut command: Command) -> Self {
        let directory = TempDir::new().expect("a temporary directory is made");
        let log = directory.path().join("log");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file is made"))
            .spawn()
            .expect("the daemon starts");
        Self { child, log, _directory: directory }
    }

    /// Starts it and waits until the kernel holds what the manifests say.
    pub(crate) fn start(node: &Namespace, manifests: &Path, args: &[&str]) -> Self {
        let mut daemon = Self::spawn(node, manifests, args);
        daemon.wait_for(SETTLED);
        daemon
    }

    /// Everything that it has logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is read")
    }

    /// Whether it was to have its tables for its own, and the kernel cannot do that for good (before
    /// Linux 6.9).
    pub(crate) fn has_to_share(&self) -> bool {
        self.log().contains("tables are shared")
    }

    /// How many lines of the log hold the text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// How many batches the kernel has taken.
    pub(crate) fn committed(&self) -> usize {
        self.count(COMMITTED)
    }

    /// Waits until a line of the log holds the text.
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_for_count(text, 1);
    }

    /// Waits until at least `n` lines of the log hold the text.
    pub(crate) fn wait_for_count(&mut self, text: &str, n: usize) {
        let found = self.wait_until(|daemon| daemon.count(text) >= n);
        assert!(found, "the daemon did not log {text:?} {n} times; its log:\n{}", self.log());
    }

    /// Makes a change and waits until the kernel has taken one more batch.
    ///
    /// The change must be one that alters what the kernel holds, and one step: a single file.
    pub(crate) fn after(&mut self, change: impl FnOnce()) {
        let before = self.committed();
        change();
        self.wait_for_count(COMMITTED, before + 1);
    }

    /// Waits until `rulec diff` finds no difference between the kernel and the manifests.
    ///
    /// For changes of several files or in several steps. The settings must be those of the daemon.
    pub(crate) fn settle(&mut self, node: &Namespace, manifests: &Path, settings: &[&str]) {
        let to = manifests.to_str().expect("the path is UTF-8");
        let mut args = vec!["diff", "--to", to];
        if !settings.contains(&"--node-name") {
            args.extend(["--node-name", NODE_NAME]);
        }
        args.extend(settings);
        let mut last = None;
        let same = self.wait_until(|_| {
            let output = rulec(node, &args);
            let same = output.status.success();
            last = Some(output);
            same
        });
        assert!(same, "the kernel still differs: {last:?}; the log:\n{}", self.log());
    }

    /// Waits until the condition holds; false if it does not within the time.
    ///
    /// # Panics
    ///
    /// When the daemon has ended.
    pub(crate) fn wait_until(&mut self, mut condition: impl FnMut(&Self) -> bool) -> bool {
        let deadline = Instant::now() + patience(PATIENCE);
        while Instant::now() < deadline {
            let ended = self.child.try_wait().expect("the daemon's status is known");
            if condition(self) {
                return true;
            }
            if let Some(status) = ended {
                panic!("the daemon has ended: {status}; its log:\n{}", self.log());
            }
            thread::sleep(patience(PAUSE));
        }
        false
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, by a name such as `TERM` or `USR1`.
    pub(crate) fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh starts");
        assert!(status.success(), "{script}: {status}");
    }

    /// Whether it is still there.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the daemon's status is known").is_none()
    }

    /// Waits for its end, and returns its status and its log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + patience(PATIENCE);
        while self.is_running() {
            assert!(Instant::now() < deadline, "the daemon does not end; log:\n{}", self.log());
            thread::sleep(patience(PAUSE));
        }
        (self.child.wait().expect("the daemon's status is known"), self.log())
    }

    /// Ends it as an operator would, with SIGTERM, and returns its log.
    pub(crate) fn stop(self) -> String {
        self.signal("TERM");
        let (status, log) = self.wait();
        assert!(status.success(), "{status}; the log:\n{log}");
        log
    }

    /// Ends it as a crash would, with SIGKILL.
    pub(crate) fn kill9(mut self) {
        self.child.kill().expect("the daemon is killed");
        self.child.wait().expect("the daemon's status is known");
    }
}

impl Drop for Daemon {
    #[expect(clippy::print_stderr, reason = "the log explains why a test failed")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            eprintln!("the daemon's log:\n{log}");
        }
    }
}

/// A command that will run the binary inside the namespace.
pub(crate) fn command(node: &Namespace, args: &[&str]) -> Command {
    let mut command = node.command(env!("CARGO_BIN_EXE_rulec"), args);
    // The tests read the log and the output: the surroundings must not change them.
    command.env("RULEC_LOG", LOG).env("NO_COLOR", "1");
    command
}

/// Runs the binary inside the namespace to its end.
pub(crate) fn rulec(node: &Namespace, args: &[&str]) -> Output {
    command(node, args).output().expect("rulec starts")
}
