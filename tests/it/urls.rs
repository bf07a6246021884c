//! Manifests that are fetched from a URL.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::net::SocketAddr;

use rulec_kubelet::HttpKubelet;
use rulec_testkit::{Namespace, Reply, Web, require_root};
use tempfile::TempDir;

use crate::daemon::{Daemon, Manifests, SETTLED, command};
use crate::support::{SETTINGS, diff, eventually, file, get, rulec, service, slice};

const SERVER: &str = "127.0.0.1:8080";
const HEALTH: &str = "127.0.0.1:10256";
const METRICS: &str = "127.0.0.1:10249";

fn manifest(name: &str, address: &str, endpoint: &str) -> String {
    file(&[service(name, address, ""), slice(name, &[endpoint])])
}

fn web(endpoint: &str) -> String {
    manifest("web", "10.96.0.10", endpoint)
}

/// Waits until the kernel holds exactly the content of a manifest.
fn holds(namespace: &Namespace, manifest: &str) {
    let only = Manifests::of(manifest);
    let path = only.path();
    eventually(manifest, || diff(namespace, "kernel", path.to_str().unwrap(), &[]).status == 0);
}

fn serve(namespace: &Namespace, reply: Reply) -> Web {
    let address: SocketAddr = SERVER.parse().unwrap();
    Web::within(namespace, address, reply)
}

fn available(namespace: &Namespace, value: u8) {
    let line = format!("rulec_source_available{{source=\"manifests\"}} {value}");
    eventually(&line, || {
        get(namespace, METRICS, "/metrics").body.lines().any(|found| found == line)
    });
}

/// A daemon with a URL whose query is a secret, and a state.
struct Site {
    namespace: Namespace,
    state: TempDir,
    secret: TempDir,
}

impl Site {
    fn new(label: &str) -> Self {
        let secret = tempfile::tempdir().unwrap();
        fs::write(secret.path().join("headers"), "Authorization: Bearer se-cret\n").unwrap();
        Self { namespace: Namespace::new(label), state: tempfile::tempdir().unwrap(), secret }
    }

    /// Starts the daemon, which logs all that it can.
    fn spawn(&self) -> Daemon {
        let url = format!("http://{SERVER}/web.yaml?token=se-cret");
        let headers = self.secret.path().join("headers");
        let own = [
            "--manifests-url",
            &url,
            "--manifests-url-header",
            "X-Node: na",
            "--manifests-url-header-file",
            headers.to_str().unwrap(),
            "--manifests-url-poll-seconds",
            "1",
            "--state-dir",
            self.state.path().to_str().unwrap(),
        ];
        let args = [&["run"], &SETTINGS[..], &own].concat();
        let mut command = command(&self.namespace, &args);
        command.env("RULEC_LOG", "trace");
        Daemon::of(command)
    }
}

#[test]
fn a_service_of_a_url_is_served_and_stays_when_the_server_dies() {
    if !require_root() {
        return;
    }
    let site = Site::new("url");
    let namespace = &site.namespace;
    let mut daemon = site.spawn();
    // Without its only source, a node is not ready.
    daemon.wait_for("Connection refused");
    assert_eq!(get(namespace, HEALTH, "/readyz").code, 503);
    let server = serve(namespace, Reply::page("\"1\"", &web("10.50.1.5")));
    daemon.wait_for(SETTLED);
    holds(namespace, &web("10.50.1.5"));
    assert_eq!(get(namespace, HEALTH, "/readyz").code, 200);

    server.set(Reply::page("\"2\"", &web("10.50.1.6")));
    holds(namespace, &web("10.50.1.6"));
    let request = server.requests().pop().unwrap().to_lowercase();
    assert!(request.starts_with("get /web.yaml?token=se-cret http/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nx-node: na\r\n"), "{request}");
    assert!(request.contains("\r\nauthorization: bearer se-cret\r\n"), "{request}");

    drop(server);
    available(namespace, 0);
    holds(namespace, &web("10.50.1.6"));
    let log = daemon.stop();
    let place = format!("{SERVER}/web.yaml?…: ");
    assert!(log.contains(&place), "{log}");
    let stays = "its last good content stays: 1 Service, 2 objects in all";
    assert!(log.lines().any(|line| line.contains(&place) && line.contains(stays)), "{log}");
    assert!(!log.contains("se-cret"), "{log}");

    // The next start has what the last run has saved, while the server is still away.
    let mut daemon = site.spawn();
    daemon.wait_for(SETTLED);
    holds(namespace, &web("10.50.1.6"));
    available(namespace, 0);
    let readyz = get(namespace, HEALTH, "/readyz");
    assert!(readyz.body.starts_with("ok\nstale: the manifests, as of "), "{}", readyz.body);
    let server = serve(namespace, Reply::page("\"3\"", &web("10.50.1.7")));
    holds(namespace, &web("10.50.1.7"));
    available(namespace, 1);
    assert!(!daemon.stop().contains("se-cret"));
    drop(server);
}

#[test]
fn the_certificates_of_the_system_verify_a_server() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("url-tls");
    let (server, credentials) = namespace.run(|| HttpKubelet::secured(&[]));
    server.answer(200, web("10.50.1.5").as_bytes());
    let directory = tempfile::tempdir().unwrap();
    let store = directory.path().join("store.pem");
    fs::write(&store, &credentials.authority).unwrap();
    let url = format!("https://{}/pods", server.address());
    let header = format!("Authorization: Bearer {}", credentials.token);
    let own = ["run", "--manifests-url", &url, "--manifests-url-header", &header];
    let args = [&own[..], &SETTINGS].concat();
    let mut refused = Daemon::spawn_with(&namespace, &args[1..]);
    refused.wait_for("invalid peer certificate");
    refused.stop();
    let mut command = command(&namespace, &args);
    command.env("SSL_CERT_FILE", &store);
    let mut daemon = Daemon::of(command);
    daemon.wait_for(SETTLED);
    holds(&namespace, &web("10.50.1.5"));
    assert!(!daemon.stop().contains(&credentials.token));
}

#[test]
fn tools_do_not_fetch() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("url-tools");
    let url = "http://127.0.0.1:1/web.yaml?token=se-cret";
    let says = "only rulec run fetches manifests: save what the URL answers to a file";
    let of_diff = diff(&namespace, "kernel", url, &[]);
    let of_explain = rulec(&namespace, &["explain", "10.96.0.10:80", "--manifests", url]);
    for ran in [of_diff, of_explain] {
        assert!(ran.status == 3 && ran.stderr.contains(says), "{ran:?}");
    }
}
