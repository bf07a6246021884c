//! The daemon as root of a user namespace, as in a rootless container: it may program its network
//! namespace, but the size of its socket buffers is limited.

use std::process::{Command, Stdio};

use rulec_testkit::require_root;

use crate::daemon::{Daemon, LOG, Manifests, NODE_NAME, SETTLED};
use crate::support::{RULEC, file, service, slice};

/// Options that make a program root of a user namespace with its own network namespace.
const UNSHARE: [&str; 3] = ["--user", "--map-root-user", "--net"];

/// Returns Services with endpoints: far more than fit into one message of such a socket.
fn services(range: std::ops::Range<usize>) -> String {
    let one = |n: usize| {
        let (name, address) = (format!("s{n}"), format!("10.97.{}.{}", n / 250, n % 250 + 1));
        file(&[service(&name, &address, ""), slice(&name, &["10.50.1.1", "10.50.1.2"])])
    };
    let all: Vec<String> = range.map(one).collect();
    file(&all)
}

#[test]
fn root_of_a_user_namespace_programs_many_services() {
    if !require_root() {
        return;
    }
    let allowed = Command::new("unshare").args(UNSHARE).arg("true").stderr(Stdio::null()).status();
    assert!(allowed.unwrap().success(), "the kernel allows user namespaces");
    let manifests = Manifests::of(&services(0..4_000));
    let path = manifests.path();
    let path = path.to_str().unwrap();
    let mut command = Command::new("unshare");
    command.args(UNSHARE).args([RULEC, "run", "--node-name", NODE_NAME, "--manifests", path]);
    // The size of the conntrack table is a setting of the whole machine, which this root may not
    // change.
    command.args(["--conntrack-max-per-core", "0"]);
    command.env("RULEC_LOG", LOG).env("NO_COLOR", "1").env("RULEC_SOCKET", "");
    let mut daemon = Daemon::of(command);
    daemon.wait_for(SETTLED);
    let pid = daemon.pid().to_string();
    let inside = |args: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--user", "--net", "--preserve-credentials"]).args(args);
        command.output().unwrap()
    };
    let same = || {
        let output = inside(&[RULEC, "diff", "--to", path, "--node-name", NODE_NAME]);
        assert!(output.status.success(), "{output:?}");
    };
    same();
    let listed = inside(&["nft", "list", "map", "ip", "rulec", "services"]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("10.97.15.250"), "the last of them is there");
    // Several messages were needed, and none was too large.
    let first = daemon.log();
    let first = first.lines().find(|line| line.contains(" committed ")).unwrap();
    let bytes: usize =
        first.split("bytes=").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(bytes > 1 << 20, "{first}");
    // The new namespace has no route at all, and nothing else is wrong.
    let log = daemon.log();
    let mut wrong = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR"));
    assert!(wrong.all(|line| line.contains("this node has no route to 10.97.")), "{log}");
    // A change of all Services, and then of a single one.
    daemon.after(|| {
        manifests.write("all.yaml", &services(0..4_000).replace("10.50.1.2", "10.50.1.3"))
    });
    daemon.after(|| manifests.write("more.yaml", &services(4_000..4_001)));
    same();
    daemon.stop();
}
