//! The settings with which the tools compile: those on the command line, or else the daemon's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::net::UnixListener;

use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests};
use crate::support::{rulec, service, slice};

/// A Service without an address, so that the range decides, too.
fn objects() -> String {
    let web = service("web", "", "").replace("  clusterIP: \"\"\n", "");
    web + "---\n" + &slice("web", &["10.50.1.1"])
}

#[test]
fn tools_compile_as_the_daemon_does() {
    if !require_root() {
        return;
    }
    let node = Namespace::new("compiling");
    let directory = TempDir::new().unwrap();
    let place = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (socket, state) = (place("s"), place("state"));
    let manifests = Manifests::of(&objects());
    let path = manifests.path().to_str().unwrap().to_owned();
    let own = [
        "--cluster-cidr",
        "10.50.0.0/16",
        "--masquerade-bit=9",
        "--load-balancing=round-robin",
        "--service-cidr=10.77.0.0/24",
    ];
    let args = [&own[..], &["--socket", &socket, "--state-dir", &state]].concat();
    let daemon = Daemon::start(&node, &manifests.path(), &args);
    let said = format!("settings: those of the daemon at {socket}\n");
    let ran = rulec(&node, &["diff", "--to", &path, "--socket", &socket]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, said.as_str()), "{ran:?}");
    let ran = rulec(
        &node,
        &["explain", "web", "--from=10.50.1.9", "--state", &path, "--socket", &socket],
    );
    assert_eq!((ran.status, ran.stderr.as_str()), (0, said.as_str()), "{ran:?}");
    assert!(ran.stdout.contains("10.77.0."), "{}", ran.stdout);
    let ran = rulec(&node, &["show", "services", "--state", &path, "--socket", &socket]);
    assert!(ran.stdout.contains("10.77.0."), "{ran:?}");
    assert_eq!(ran.stderr, said);

    // Any option of these means that the command line says all.
    let some = rulec(&node, &["diff", "--to", &path, "--socket", &socket, "--node-name", "na"]);
    let none = rulec(&node, &["diff", "--to", &path, "--socket="]);
    for ran in [some, none] {
        assert_eq!(ran.status, 1, "{ran:?}");
        assert!(!ran.stderr.contains("settings"), "{}", ran.stderr);
    }
    daemon.stop();
}

/// Settings that may be wrong are not used in silence.
#[test]
fn a_daemon_that_does_not_tell_its_settings_is_named() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    // It answers like a server of another version.
    let server = std::thread::spawn(move || {
        use std::io::{Read as _, Write as _};
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        assert!(stream.read(&mut request).unwrap() > 0);
        let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
    });
    let file = directory.path().join("all.yaml");
    fs::write(&file, objects()).unwrap();
    let (file, socket) = (file.to_str().unwrap(), socket.to_str().unwrap());
    let mut command = std::process::Command::new(crate::support::RULEC);
    command.args(["diff", "--from", file, "--to", file, "--socket", socket]);
    let ran = crate::support::finish(command);
    server.join().unwrap();
    assert_eq!(ran.status, 0, "{ran:?}");
    let advice = "settings: the defaults, which may not be the daemon's";
    assert!(ran.stderr.contains("it is of another version than this one"), "{}", ran.stderr);
    assert!(ran.stderr.contains(advice), "{}", ran.stderr);
}
