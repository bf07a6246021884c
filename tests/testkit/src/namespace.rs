//! One network namespace: creation, entering, configuration and deletion.
//!
//! Invariant: the namespace is named in `/run/netns` from creation to drop, and only there.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, panic, thread};

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

const DIRECTORY: &str = "/run/netns";
const PREFIX: &str = "rulec-test-";

/// A network namespace with `lo` up; on drop it is deleted, and all processes in it are killed.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Creates a namespace whose name ends with `label`.
    ///
    /// The name also holds the process id and a counter, so tests may run in parallel.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be made.
    #[must_use]
    pub fn new(label: &str) -> Self {
        let namespace = Self::create(&[label]).remove(0);
        ip_batch(Some(&namespace), "link set lo up\n");
        namespace
    }

    /// Creates one namespace per label with a single process; `lo` is still down.
    pub(crate) fn create(labels: &[&str]) -> Vec<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        static STALE: Once = Once::new();
        STALE.call_once(delete_stale);

        let namespaces: Vec<Self> = labels
            .iter()
            .map(|label| {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                Self { name: format!("{PREFIX}{}-{number}-{label}", process::id()) }
            })
            .collect();
        let script: String =
            namespaces.iter().map(|namespace| format!("netns add {}\n", namespace.name)).collect();
        ip_batch(None, &script);
        for namespace in &namespaces {
            // A new namespace inherits this from the machine, where something may have set it.
            namespace.run(|| {
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("a sysctl is set");
            });
        }
        namespaces
    }

    /// The name under which `ip netns` lists the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` on a thread inside the namespace, and returns its result or resumes its panic.
    ///
    /// A socket belongs to the namespace in which it was opened: a socket that `f` returns still
    /// works inside it. A process that `f` spawned stays inside, too.
    ///
    /// # Panics
    ///
    /// When the namespace cannot be entered, or `f` panics.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            let file = File::open(self.path()).expect("the namespace's file opens");
            setns(file, CloneFlags::CLONE_NEWNET).expect("the namespace is entered");
            f()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// Returns a command that will run `program` inside the namespace.
    #[must_use]
    pub fn command<A: AsRef<OsStr>>(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Command {
        // `nsenter` replaces itself with the program, so that the child's id is the program's. So
        // does `ip netns exec`, but it also creates a mount namespace, which takes several times as
        // long.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program).args(args);
        command
    }

    /// Returns all addresses that the namespace has now.
    ///
    /// # Panics
    ///
    /// When the kernel does not report them.
    #[must_use]
    pub fn ips(&self) -> BTreeSet<IpAddr> {
        self.ips_but("")
    }

    /// Returns all addresses that the namespace has now, except those of one interface.
    ///
    /// # Panics
    ///
    /// When the kernel does not report them.
    #[must_use]
    pub fn ips_but(&self, interface: &str) -> BTreeSet<IpAddr> {
        let ip = |address: InterfaceAddress| -> Option<IpAddr> {
            let ip = address.address.filter(|_| address.interface_name != interface)?;
            let v4 = ip.as_sockaddr_in().map(|it| it.ip().into());
            v4.or_else(|| Some(ip.as_sockaddr_in6()?.ip().into()))
        };
        let all = self.run(|| getifaddrs().map(Iterator::collect::<Vec<InterfaceAddress>>));
        all.expect("the kernel tells addresses").into_iter().filter_map(ip).collect()
    }

    /// Runs a shell script inside the namespace and returns what it printed.
    ///
    /// # Panics
    ///
    /// When a command of the script fails; the message contains the script's output.
    pub fn sh(&self, script: &str) -> String {
        stdout(script, &self.command("sh", ["-ec", script]).output().expect("sh starts"))
    }

    /// Loads nftables commands in the syntax of `nft -f`.
    ///
    /// # Panics
    ///
    /// When nft refuses the script; the message contains nft's.
    pub fn nft(&self, script: &str) {
        feed(self.command("nft", ["-f", "-"]), script);
    }

    /// Returns the whole ruleset of the namespace, as `nft list ruleset` prints it.
    ///
    /// # Panics
    ///
    /// When nft fails.
    #[must_use]
    pub fn nft_list(&self) -> String {
        let output = self.command("nft", ["list", "ruleset"]).output().expect("nft starts");
        stdout("nft list ruleset", &output)
    }

    fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        delete(&self.path());
    }
}

/// Returns whether the tests that need root can run.
///
/// Prints one line if they are skipped.
///
/// # Panics
///
/// When the user is not root and the variable `CI` is set: CI must not skip tests silently.
#[must_use]
#[expect(clippy::print_stderr, reason = "a skipped test has to say so")]
pub fn require_root() -> bool {
    if Uid::effective().is_root() {
        return true;
    }
    assert!(env::var_os("CI").is_none(), "kernel tests need root, and CI may not skip them");
    eprintln!("skipped: network namespaces need root");
    false
}

/// Runs `ip -batch` on the script, in the namespace if one is given.
pub(crate) fn ip_batch(namespace: Option<&Namespace>, script: &str) {
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", &namespace.name]);
    }
    command.args(["-batch", "-"]);
    feed(command, script);
}

fn feed(mut command: Command, script: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // If the program fails at once, it closes the pipe; its status and output explain more.
    let _ = child.stdin.take().expect("stdin is piped").write_all(script.as_bytes());
    stdout(script, &child.wait_with_output().expect("the command ends"));
}

fn stdout(script: &str, output: &Output) -> String {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{stdout}{stderr}\nin:\n{script}", output.status);
    stdout
}

/// Deletes the namespaces of test processes that were killed; otherwise they would accumulate.
fn delete_stale() {
    let Ok(entries) = fs::read_dir(DIRECTORY) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            delete(&entry.path());
        }
    }
}

/// Kills the processes in the namespace and deletes it. Never panics, because drops call it.
fn delete(path: &Path) {
    let Ok(namespace) = fs::metadata(path) else { return };
    for pid in processes(&namespace) {
        let _ = kill(pid, Signal::SIGKILL);
    }
    // The two steps of `ip netns delete`, without starting a process.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

fn processes(namespace: &fs::Metadata) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let inside = |pid: &Pid| {
        fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|other| (other.dev(), other.ino()) == (namespace.dev(), namespace.ino()))
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw))
        .filter(|pid| *pid != Pid::this())
        .filter(inside)
        .collect()
}
