//! The real binary inside a node's namespace, and the directory of manifests that it watches.
//!
//! There are no sleeps of fixed length: a test waits for lines of the daemon's log, which a failing
//! test prints. Invariant: a daemon does not outlive its value.
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

/// Logged once the kernel holds everything.
pub(crate) const SETTLED: &str = "in sync with all sources";

/// Logged, at the level of `LOG`, for each batch that the kernel has taken.
pub(crate) const COMMITTED: &str = " committed ";

/// The log level of tests: the default, and one line with the size for each commit.
pub(crate) const LOG: &str = "info,rulec_engine=debug";

/// The name of the node under test, unless the arguments give another.
pub(crate) const NODE_NAME: &str = "na";

/// The time limit for the daemon; even on a busy machine only a daemon that hangs exceeds it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The interval between two checks; longer on machines where a check takes longer.
const PAUSE: Duration = Duration::from_millis(5);

/// A directory of manifests; every change of a file is atomic, as it should be in production.
#[derive(Debug)]
pub(crate) struct Manifests {
    // Also holds the drafts: on the same file system, but neither in the watched directory nor in
    // its parent, where they would wake the daemon.
    root: TempDir,
}

impl Manifests {
    /// Creates an empty directory.
    pub(crate) fn new() -> Self {
        let root = TempDir::new().expect("a temporary directory is made");
        for directory in ["manifests", "drafts"] {
            fs::create_dir(root.path().join(directory)).expect("a directory is made");
        }
        Self { root }
    }

    /// Creates a directory with one file, `all.yaml`.
    pub(crate) fn of(yaml: &str) -> Self {
        let manifests = Self::new();
        manifests.write("all.yaml", yaml);
        manifests
    }

    /// Returns the path of the directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    /// Writes or replaces a file atomically.
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

/// `rulec run` inside a namespace; killed with SIGKILL on drop.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    log: PathBuf,
    // Holds the log.
    _directory: TempDir,
}

impl Daemon {
    /// Starts the daemon as node `na` with additional arguments, and does not wait for it.
    pub(crate) fn spawn(node: &Namespace, manifests: &Path, args: &[&str]) -> Self {
        let manifests = manifests.to_str().expect("the path is UTF-8");
        Self::spawn_with(node, &[&["--manifests", manifests], args].concat())
    }

    /// Starts the daemon as node `na` with exactly these arguments.
    pub(crate) fn spawn_with(node: &Namespace, args: &[&str]) -> Self {
        let mut all = vec!["run"];
        if !args.contains(&"--node-name") {
            all.extend(["--node-name", NODE_NAME]);
        }
        all.extend(args);
        Self::of(command(node, &all))
    }

    /// Starts the daemon by a command that becomes it.
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

    /// Starts the daemon and waits until the kernel is in sync with the manifests.
    pub(crate) fn start(node: &Namespace, manifests: &Path, args: &[&str]) -> Self {
        let mut daemon = Self::spawn(node, manifests, args);
        daemon.wait_for(SETTLED);
        daemon
    }

    /// Returns everything logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is read")
    }

    /// Returns whether the daemon shares its tables because the kernel has no lasting table
    /// ownership (before Linux 6.9).
    pub(crate) fn has_to_share(&self) -> bool {
        self.log().contains("tables are shared")
    }

    /// Returns the number of log lines that contain the text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Returns the number of batches that the kernel has taken.
    pub(crate) fn committed(&self) -> usize {
        self.count(COMMITTED)
    }

    /// Waits until a log line contains the text.
    pub(crate) fn wait_for(&mut self, text: &str) {
        self.wait_for_count(text, 1);
    }

    /// Waits until at least `n` log lines contain the text.
    pub(crate) fn wait_for_count(&mut self, text: &str, n: usize) {
        let found = self.wait_until(|daemon| daemon.count(text) >= n);
        assert!(found, "the daemon did not log {text:?} {n} times; its log:\n{}", self.log());
    }

    /// Makes a change and waits until the kernel has taken one more batch.
    ///
    /// The change must alter the content of the kernel, and be a single step: one file.
    pub(crate) fn after(&mut self, change: impl FnOnce()) {
        let before = self.committed();
        change();
        self.wait_for_count(COMMITTED, before + 1);
    }

    /// Waits until `rulec diff` finds no difference between the kernel and the manifests.
    ///
    /// For changes of several files or in several steps. The settings must be those of the daemon.
    /// What is wrong with manifests is not compared: the daemon does without it, too.
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
            let same = output.status.success() || lacks_only_what_is_skipped(&output.stdout);
            last = Some(output);
            same
        });
        assert!(same, "the kernel still differs: {last:?}; the log:\n{}", self.log());
    }

    /// Waits until the condition holds; returns false if it does not within the time limit.
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

    /// Returns the process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, by a name such as `TERM` or `USR1`.
    pub(crate) fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &script]).status().expect("sh starts");
        assert!(status.success(), "{script}: {status}");
    }

    /// Returns whether the daemon is still running.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("the daemon's status is known").is_none()
    }

    /// Waits until the daemon ends, and returns its status and its log.
    pub(crate) fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + patience(PATIENCE);
        while self.is_running() {
            assert!(Instant::now() < deadline, "the daemon does not end; log:\n{}", self.log());
            thread::sleep(patience(PAUSE));
        }
        (self.child.wait().expect("the daemon's status is known"), self.log())
    }

    /// Stops the daemon with SIGTERM, and returns its log.
    pub(crate) fn stop(self) -> String {
        self.signal("TERM");
        let (status, log) = self.wait();
        assert!(status.success(), "{status}; the log:\n{log}");
        log
    }

    /// Kills the daemon with SIGKILL.
    pub(crate) fn kill9(mut self) {
        self.child.kill().expect("the daemon is killed");
        self.child.wait().expect("the daemon's status is known");
    }
}

/// Returns true if a difference has nothing but parts of manifests that are skipped, as they are by
/// the daemon, too.
fn lacks_only_what_is_skipped(difference: &[u8]) -> bool {
    let text = String::from_utf8_lossy(difference);
    let mut lines = text.lines();
    lines.next() == Some("No difference in what could be compared.")
        && lines.find(|line| line.starts_with("Not compared, ")).is_some()
        && lines.all(|line| line.contains("skipped"))
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

/// Returns a command that will run the binary inside the namespace.
pub(crate) fn command(node: &Namespace, args: &[&str]) -> Command {
    let mut command = node.command(env!("CARGO_BIN_EXE_rulec"), args);
    // The tests read the log and the output, which variables of the environment must not change.
    command.env("RULEC_LOG", LOG).env("NO_COLOR", "1");
    // All namespaces share the file system, and a path has one socket.
    command.env("RULEC_SOCKET", "");
    command
}

/// Runs the binary inside the namespace until it ends.
pub(crate) fn rulec(node: &Namespace, args: &[&str]) -> Output {
    command(node, args).output().expect("rulec starts")
}
