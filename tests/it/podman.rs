//! A node with podman and no API server: containers have their addresses from podman. With Debian's
//! podman as root, in the node's namespace, and an image that the test makes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod place;

use std::net::SocketAddr;

use rulec_testkit::require_root;

use crate::daemon::{COMMITTED, Daemon, Manifests};
use crate::support::{answers, eventually, get};
use place::Place;

const METRICS: &str = "127.0.0.1:10249";

/// As `podman kube play` takes it, and as a person writes it: nothing has an address, and the target
/// port is named.
const PLAYED: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: main
    image: localhost/answers:latest
    command: [/bin/busybox, nc, -ll, -p, '8080', -e, /bin/busybox, echo, web]
    ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
";

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: answers}
spec:
  clusterIP: 10.96.0.10
  selector: {app: answers}
  ports: [{port: 80, targetPort: 8080}]
";

/// Returns whether the metric says that podman can be followed (1) or not (0).
fn is_available(place: &Place, value: u8) -> bool {
    let line = format!("rulec_source_available{{source=\"podman\"}} {value}");
    get(&place.node, METRICS, "/metrics").body.lines().any(|it| it == line)
}

fn http(address: &str) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), 80)
}

impl Place {
    /// Waits until exactly these containers answer.
    fn answered_by(&self, address: &str, names: &[&str]) {
        eventually(&format!("{names:?}"), || {
            let answers = answers(&self.node, http(address));
            answers.is_some_and(|it| it.iter().map(String::as_str).eq(names.iter().copied()))
        });
    }

    fn daemon(&self, manifests: &Manifests) -> Daemon {
        let (socket, hosts) = (self.socket(), self.hosts());
        let [socket, hosts] = [&socket, &hosts].map(|path| path.to_str().unwrap());
        let args = ["--podman-socket", socket, "--hosts-file", hosts];
        Daemon::start(&self.node, &manifests.path(), &args)
    }

    /// Waits until a name has an address, and returns that.
    fn address_of(&self, name: &str) -> String {
        let found = || {
            let hosts = std::fs::read_to_string(self.hosts()).unwrap_or_default();
            let line = hosts.lines().find(|line| line.split(' ').any(|word| word == name))?;
            line.split(' ').next().map(str::to_owned)
        };
        eventually(name, || found().is_some());
        found().unwrap()
    }
}

#[test]
fn what_podman_plays_is_served_by_the_service_beside_it() {
    if !require_root() {
        return;
    }
    let place = Place::new("podman-play");
    let manifests = Manifests::of(PLAYED);
    let file = manifests.path().join("all.yaml");
    let _daemon = place.daemon(&manifests);
    place.podman(&["kube", "play", "--network=podman", file.to_str().unwrap()]);
    let address = place.address_of("web.default");
    place.answered_by(&address, &["web"]);
    place.podman(&["pod", "rm", "--force", "--time=0", "web"]);
    eventually("it is rejected", || answers(&place.node, http(&address)).is_none());
}

#[test]
fn containers_are_served_by_their_labels_while_they_run_and_are_healthy() {
    if !require_root() {
        return;
    }
    let place = Place::new("podman-run");
    let manifests = Manifests::of(SERVICE);
    let mut daemon = place.daemon(&manifests);
    place.run("first", &[]);
    place.answered_by("10.96.0.10", &["first"]);
    let check = "--health-cmd=[\"/bin/busybox\", \"test\", \"-e\", \"/healthy\"]";
    place.run("second", &[check, "--health-interval=disable", "--health-retries=1"]);
    // Its check has not been made.
    place.podman(&["exec", "second", "/bin/busybox", "touch", "/healthy"]);
    place.check_health("second");
    place.answered_by("10.96.0.10", &["first", "second"]);

    let before = daemon.committed();
    place.podman(&["stop", "--time=0", "first"]);
    daemon.wait_for_count(COMMITTED, before + 1);
    place.answered_by("10.96.0.10", &["second"]);
    // It gets another address.
    place.podman(&["start", "first"]);
    place.answered_by("10.96.0.10", &["first", "second"]);
    place.podman(&["exec", "second", "/bin/busybox", "rm", "/healthy"]);
    place.check_health("second");
    place.answered_by("10.96.0.10", &["first"]);
}

#[test]
fn containers_are_served_while_podman_is_away() {
    if !require_root() {
        return;
    }
    let mut place = Place::new("podman-away");
    let manifests = Manifests::of(SERVICE);
    place.run("first", &[]);
    let mut daemon = place.daemon(&manifests);
    place.answered_by("10.96.0.10", &["first"]);
    assert!(is_available(&place, 1));
    place.stop_service();
    daemon.wait_for("podman: ");
    eventually("the metric says so", || is_available(&place, 0));
    place.answered_by("10.96.0.10", &["first"]);
    daemon.kill9();
    let mut daemon = place.daemon(&manifests);
    daemon.wait_for("podman has not delivered in time");
    place.answered_by("10.96.0.10", &["first"]);
    place.start_service();
    eventually("the metric says so", || is_available(&place, 1));
    place.run("second", &[]);
    place.answered_by("10.96.0.10", &["first", "second"]);
}
