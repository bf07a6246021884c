//! podman of its own in a namespace: its images, containers and networks are in a directory that
//! goes with it.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rulec_testkit::Namespace;
use tempfile::TempDir;

use crate::support::eventually;

/// Runs containers without cgroups and without the limits of a container: a machine on which tests
/// run may allow neither.
const RUNTIME: &str = "#!/bin/bash
args=()
for arg in \"$@\"; do
    case $arg in --cgroup-manager=* | --systemd-cgroup) ;; *) args+=(\"$arg\") ;; esac
done
exec crun --cgroup-manager=disabled \"${args[@]}\"
";

/// A namespace with podman, whose API is on a socket.
pub(super) struct Place {
    pub(super) node: Namespace,
    directory: TempDir,
    service: Option<Killed>,
    /// The first process in the namespaces of podman and its containers, which outlive the API.
    first: u32,
    /// All of them end with this one.
    _parent: Killed,
}

/// A process that is killed when this value is dropped.
struct Killed(Child);

impl Killed {
    /// Starts the parent of a first process with mounts and process ids of its own; returns the id
    /// of that, too.
    fn with_namespaces() -> (Self, u32) {
        let script = "mount -t cgroup2 none /sys/fs/cgroup && echo mounted && exec sleep infinity";
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-ec", script]).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "mounted\n");
        let id = child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        (Self(child), children.trim().parse().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // `nsenter` is the parent of what it runs among other process ids.
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", child]).output();
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Place {
    pub(super) fn new(label: &str) -> Self {
        let node = Namespace::new(label);
        // Connections of the node to a Service need a route, whatever it is.
        node.sh("ip link set lo up
             ip link add uplink type veth peer name far
             ip address add 192.168.77.1/24 dev uplink
             ip link set uplink up
             ip link set far up
             ip route add default dev uplink");
        let directory = tempfile::tempdir().unwrap();
        let (parent, first) = Killed::with_namespaces();
        let mut place = Self { node, directory, service: None, first, _parent: parent };
        let path = |name: &str| place.directory.path().join(name);
        fs::write(path("crun"), RUNTIME).unwrap();
        fs::set_permissions(path("crun"), Permissions::from_mode(0o755)).unwrap();
        let at = |name: &str| path(name).display().to_string();
        let conf = format!(
            "[containers]
default_ulimits = ['nofile=1024:1024', 'nproc=1000:1000']
[network]
network_backend = 'netavark'
network_config_dir = '{}'
[engine]
events_logger = 'file'
cgroup_manager = 'cgroupfs'
runtime = 'tested'
tmp_dir = '{}'
[engine.runtimes]
tested = ['{}']
",
            at("networks"),
            at("tmp"),
            at("crun")
        );
        fs::write(path("containers.conf"), conf).unwrap();
        let conf = format!(
            "[storage]\ndriver = 'vfs'\ngraphroot = '{}'\nrunroot = '{}'\n",
            at("root"),
            at("run")
        );
        fs::write(path("storage.conf"), conf).unwrap();
        place.start_service();
        place.make_image();
        place
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    /// Returns the path of the file of names.
    pub(super) fn hosts(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }

    /// Starts podman's API.
    pub(super) fn start_service(&mut self) {
        let socket = self.socket();
        let mut command = self.in_place("nsenter");
        for (option, name) in [("--mount", "mnt"), ("--pid", "pid")] {
            command.arg(format!("{option}=/proc/{}/ns/{name}", self.first));
        }
        command.args(["podman", "system", "service", "--time=0"]);
        command.arg(format!("unix://{}", socket.display()));
        let log = File::create(self.directory.path().join("log")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).stdout(Stdio::null()).spawn();
        self.service = Some(Killed(child.unwrap()));
        eventually("podman listens", || UnixStream::connect(&socket).is_ok());
    }

    /// Ends podman's API; its containers go on.
    pub(super) fn stop_service(&mut self) {
        self.service = None;
    }

    /// Runs podman as a client of the API.
    #[track_caller]
    pub(super) fn podman(&self, args: &[&str]) -> String {
        let output = self.client().args(args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {args:?}: {said}\n{}", self.log());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a container that answers with its name on port 8080.
    pub(super) fn run(&self, name: &str, options: &[&str]) {
        let answer =
            ["/bin/busybox", "nc", "-ll", "-p", "8080", "-e", "/bin/busybox", "echo", name];
        let own = ["run", "--detach", "--label=app=answers", "--name", name];
        self.podman(&[&own[..], options, &["localhost/answers:latest"], &answer].concat());
    }

    /// Makes the health check of a container, as a timer of systemd does.
    pub(super) fn check_health(&self, name: &str) {
        // Its exit status is the outcome.
        self.client().args(["healthcheck", "run", name]).output().unwrap();
    }

    fn client(&self) -> Command {
        let mut command = self.in_place("podman");
        command.arg("--remote").arg(format!("--url=unix://{}", self.socket().display()));
        command
    }

    /// Returns a command in the namespace that has these settings.
    fn in_place(&self, program: &str) -> Command {
        let mut command = self.node.command(program, [""; 0]);
        let path = |name: &str| self.directory.path().join(name);
        command.env("CONTAINERS_CONF", path("containers.conf"));
        command.env("CONTAINERS_STORAGE_CONF", path("storage.conf"));
        command
    }

    /// Makes an image that has busybox.
    fn make_image(&self) {
        let root = self.directory.path().join("image");
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        let archive = self.directory.path().join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(&root).arg("-cf").arg(&archive).arg(".");
        assert!(tar.status().unwrap().success());
        self.podman(&["import", archive.to_str().unwrap(), "localhost/answers:latest"]);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.service.is_none() {
            self.start_service();
        }
        let _ = self.client().args(["pod", "rm", "--all", "--force", "--time=0"]).output();
        let _ = self.client().args(["rm", "--all", "--force", "--time=0"]).output();
        self.stop_service();
    }
}
