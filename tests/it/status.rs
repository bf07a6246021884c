//! `rulec status`, and the socket that it asks.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;
use tempfile::TempDir;

use crate::asked::Asked;
use crate::daemon::{Daemon, Manifests, SETTLED};
use crate::support::{RULEC, Ran, eventually, finish, rulec, service, slice};

/// A node with one Service.
struct Place(Asked);

impl Deref for Place {
    type Target = Asked;

    fn deref(&self) -> &Asked {
        &self.0
    }
}

impl Place {
    fn new(name: &str) -> Self {
        let file = service("web", "172.30.0.1", "") + "---\n" + &slice("web", &["10.50.1.1"]);
        Self(Asked::new(name, Manifests::of(&file)))
    }

    fn status(&self, more: &[&str]) -> Ran {
        self.ask(&[&["status"], more].concat())
    }

    fn json(&self) -> Value {
        let ran = self.status(&["-o", "json"]);
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }
}

/// Sends something to a socket, and returns all that comes back.
fn said(socket: &Path, text: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn the_status_says_what_is_wrong() {
    if !require_root() {
        return;
    }
    let place = Place::new("status");
    let ran = place.status(&[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "there is no daemon: {ran:?}");
    assert!(ran.stderr.contains("no daemon listens at "), "{}", ran.stderr);
    let mut daemon = place.start(&[]);
    let ran = place.status(&[]);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let head = format!("healthy: rulec {} on node na, mode nftables\n", env!("CARGO_PKG_VERSION"));
    assert!(ran.stdout.starts_with(&head), "{}", ran.stdout);
    assert!(ran.stdout.contains("\n  the kernel is in sync with all sources\n"), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("\n  1 Service, 1 EndpointSlice, 0 Pods, 0 Nodes\n"),
        "{}",
        ran.stdout
    );
    let json = place.json();
    assert_eq!(json["process"], daemon.pid());
    assert_eq!((&json["healthy"], &json["kernel"]["inSync"]), (&true.into(), &true.into()));
    assert!(
        json["kernel"]["lastCommit"].is_string() && json["kernel"]["lastComparison"].is_string()
    );

    // A broken manifest.
    place
        .manifests
        .write("broken.yaml", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: []}");
    daemon.wait_for("broken.yaml");
    let ran = place.status(&[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.starts_with("not healthy: "), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("\n  source manifests: 1 error in its objects\n"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("\n  broken.yaml:1:"), "{}", ran.stdout);
    place.manifests.remove("broken.yaml");
    daemon.wait_for("resolved: broken.yaml");
    assert_eq!(place.status(&[]).status, 0);

    daemon.stop();
    assert!(!place.socket().exists(), "the socket goes with the daemon");
    assert_eq!(place.status(&[]).status, 3);
}

#[test]
fn a_daemon_that_waits_says_for_what() {
    if !require_root() {
        return;
    }
    let place = Place::new("status-waits");
    let [option, path] = place.args();
    let nowhere = place.path("nowhere");
    let mut daemon = Daemon::spawn(&place.node, &nowhere, &[&option, &path]);
    daemon.wait_for("there is no such file or directory");
    eventually("the socket is there", || place.socket().exists());
    let ran = place.status(&[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(
        ran.stdout.contains("\n  waiting for the first list of the manifests\n"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("\n  the kernel is not in sync"), "{}", ran.stdout);
}

#[test]
fn the_socket_is_for_root_and_its_user_alone() {
    if !require_root() {
        return;
    }
    let place = Place::new("socket-mode");
    let daemon = place.start(&[]);
    let socket = place.socket();
    eventually("the socket is there", || socket.exists());
    let found = fs::symlink_metadata(&socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o600, 0));
    let directory = fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!(directory.permissions().mode() & 0o777, 0o700, "the daemon has made it");
    daemon.stop();
}

#[test]
fn the_socket_of_a_dead_daemon_is_replaced_and_that_of_a_living_one_is_not() {
    if !require_root() {
        return;
    }
    let place = Place::new("socket-lock");
    let first = place.start(&[]);
    let pid = |json: &Value| json["process"].as_u64().unwrap();
    assert_eq!(pid(&place.json()), u64::from(first.pid()));
    // Another daemon, in a namespace of its own, goes on without.
    let node = Namespace::new("socket-second");
    let [option, path] = place.args();
    let mut second = Daemon::spawn(&node, &place.manifests.path(), &[&option, &path]);
    second.wait_for(SETTLED);
    second.wait_for("another rulec listens there");
    assert_eq!(pid(&place.json()), u64::from(first.pid()));
    // It takes over what a killed one leaves.
    first.kill9();
    second.wait_for("listening on the socket");
    assert_eq!(pid(&place.json()), u64::from(second.pid()));
    second.stop();
    // Nothing but a socket is replaced.
    fs::write(place.socket(), "a file").unwrap();
    let mut third = Daemon::spawn(&node, &place.manifests.path(), &[&option, &path]);
    third.wait_for("there is something else than a socket");
    third.stop();
    assert_eq!(fs::read(place.socket()).unwrap(), b"a file");
    fs::remove_file(place.socket()).unwrap();
    drop(UnixListener::bind(place.socket()).unwrap());
    let ran = place.status(&[]);
    assert_eq!(ran.status, 3, "nobody listens: {ran:?}");
    let fourth = place.start(&[]);
    assert_eq!(pid(&place.json()), u64::from(fourth.pid()));
}

/// A changed configuration starts the process over, which gives up its socket and takes it again.
#[test]
fn the_socket_is_there_again_after_a_restart_in_place() {
    if !require_root() {
        return;
    }
    let place = Place::new("socket-restart");
    let config = place.path("config.conf");
    let write = |bit: u8| {
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: nftables\nnftables: {{ masqueradeBit: {bit} }}\n\
             conntrack: {{ maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s }}\n"
        );
        let draft = place.path("draft");
        fs::write(&draft, text).unwrap();
        fs::rename(draft, &config).unwrap();
    };
    write(14);
    let [option, path] = place.args();
    let args = [&option, &path, "--config", config.to_str().unwrap()];
    let mut daemon = Daemon::start(&place.node, &place.manifests.path(), &args);
    let first = place.json();
    write(15);
    daemon.wait_for_count(SETTLED, 2);
    let again = place.json();
    assert_eq!(again["process"], first["process"]);
    assert_ne!(again["started"], first["started"]);
    let log = daemon.stop();
    assert!(!log.contains("no socket"), "{log}");
}

#[test]
fn the_socket_only_answers_questions() {
    if !require_root() {
        return;
    }
    let place = Place::new("socket-methods");
    let daemon = place.start(&[]);
    let socket = place.socket();
    for method in ["POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"] {
        let answer =
            said(&socket, &format!("{method} /v1alpha1/status HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 405 "), "{method}: {answer}");
    }
    for path in ["/", "/v1alpha1", "/v1alpha2/status", "/v1alpha1/status/"] {
        let answer = said(&socket, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    assert!(said(&socket, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    // Many clients that say nothing, or half of something, keep nobody else from an answer.
    let silent: Vec<UnixStream> = (0..50)
        .map(|number| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            if number % 2 == 0 {
                stream.write_all(b"GET /v1alpha1/state HTTP/1.1\r\n").unwrap();
            }
            stream
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(place.status(&[]).status, 0);
    }
    // So do clients that ask and do not read.
    let deaf: Vec<UnixStream> = (0..50)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            let ask = b"GET /v1alpha1/state HTTP/1.1\r\nhost: x\r\n\r\n";
            // The daemon may have closed it already, for newer ones.
            let _ = stream.write_all(ask);
            stream
        })
        .collect();
    assert_eq!(place.status(&[]).status, 0);
    drop((silent, deaf));
    daemon.stop();
}

/// Another program, or a daemon of another version, is no daemon that is healthy or away.
#[test]
fn an_answer_that_is_none_is_an_error() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let answers = [
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "it is of another version than this one",
        ),
        (
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
            "503 Service Unavailable: busy",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", "missing field"),
        ("nonsense\r\n\r\n", "invalid HTTP version"),
        ("", "connection closed"),
    ];
    let server = std::thread::spawn(move || {
        for (answer, _) in answers.iter().flat_map(|answer| [answer, answer]) {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 1024];
            let _ = stream.read(&mut bytes).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    for (answer, why) in answers {
        for args in [&["status"][..], &["show", "services"]] {
            let mut command = Command::new(RULEC);
            command.args(args).arg("--socket").arg(&socket).env_remove("RULEC_LOG");
            let ran = finish(command);
            assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{answer:?}: {ran:?}");
            let place = format!("the daemon at {}: ", socket.display());
            assert!(ran.stderr.contains(&place), "{answer:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(why), "{answer:?}: {}", ran.stderr);
        }
    }
    server.join().unwrap();
}

#[test]
fn a_daemon_without_a_socket_works() {
    if !require_root() {
        return;
    }
    let place = Place::new("socket-off");
    let daemon = Daemon::start(&place.node, &place.manifests.path(), &["--socket", ""]);
    assert_eq!(place.status(&[]).status, 3);
    let ran = rulec(&place.node, &["status", "--socket", ""]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.stderr.contains("--socket is empty"), "{}", ran.stderr);
    let log = daemon.stop();
    assert!(!log.contains("socket"), "{log}");
}

/// Every field of the JSON is in docs/show.md.
#[test]
fn every_field_of_the_status_is_documented() {
    if !require_root() {
        return;
    }
    fn names(value: &Value, found: &mut Vec<String>) {
        if let Value::Object(fields) = value {
            found.extend(fields.keys().cloned());
        }
        let Some(parts) = value.as_object().map(|it| it.values().collect::<Vec<_>>()) else {
            value.as_array().into_iter().flatten().for_each(|value| names(value, found));
            return;
        };
        parts.into_iter().for_each(|value| names(value, found));
    }
    let place = Place::new("status-fields");
    let _daemon = place.start(&[]);
    let mut found = Vec::new();
    names(&place.json(), &mut found);
    assert!(found.len() > 30, "{found:?}");
    let page = include_str!("../../docs/show.md");
    for name in found {
        assert!(page.contains(&format!("`{name}`")), "{name} is not documented");
    }
}
