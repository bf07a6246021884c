//! `rulec watch`, `rulec history`, and `rulec diff` between moments of the daemon.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use rulec_testkit::{Namespace, require_root};
use serde_json::Value;
use tempfile::TempDir;

use crate::asked::Asked;
use crate::daemon::{Daemon, Manifests, command};
use crate::support::{eventually, rulec, service, slice};

/// A node with a Service of two endpoints.
struct Place(Asked);

impl Deref for Place {
    type Target = Asked;

    fn deref(&self) -> &Asked {
        &self.0
    }
}

impl Place {
    fn new(name: &str) -> Self {
        let manifests = Manifests::new();
        manifests.write("web.yaml", &service("web", "172.30.0.1", ""));
        manifests.write("slice.yaml", &slice("web", &["10.50.1.1", "10.50.1.2"]));
        Self(Asked::new(name, manifests))
    }

    fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// Starts it with a state directory.
    fn start_with_state(&self, more: &[&str]) -> Daemon {
        let state = self.state();
        let own = ["--state-dir", state.to_str().unwrap()];
        self.start(&[&own[..], more].concat())
    }

    fn history(&self) -> Vec<Value> {
        let ran = self.ask(&["history", "-o", "json"]);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
        let list: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(
            (&list["apiVersion"], &list["kind"]),
            (&"rulec.io/v1alpha1".into(), &"ChangeList".into())
        );
        list["items"].as_array().unwrap().clone()
    }

    fn watch(&self, args: &[&str]) -> Watch {
        let socket = self.socket();
        Watch::start(&self.node, &[args, &["--socket", socket.to_str().unwrap()]].concat())
    }
}

/// `rulec watch` that runs; killed on drop.
struct Watch {
    child: Child,
    out: PathBuf,
    _directory: TempDir,
}

impl Watch {
    fn start(node: &Namespace, args: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        let out = directory.path().join("out");
        let mut command = command(node, &[&["watch"], args].concat());
        let stderr = File::create(directory.path().join("err")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(stderr);
        Self { child: child.spawn().unwrap(), out, _directory: directory }
    }

    fn text(&self) -> String {
        fs::read_to_string(&self.out).unwrap()
    }

    fn complaints(&self) -> String {
        fs::read_to_string(self.out.with_file_name("err")).unwrap()
    }

    fn wait_for(&self, text: &str) {
        eventually(&format!("rulec watch says {text:?}"), || self.text().contains(text));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Follows a path of the socket without reading more than the head of the answer.
fn follow(socket: &Path, path: &str) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 200 OK\r\n");
    reader
}

/// Waits until a watch is connected: a change of another Service is there.
fn connected(place: &Place, daemon: &mut Daemon, watch: &Watch) {
    let mut last = 10;
    eventually("rulec watch is connected", || {
        last += 1;
        let file = service("marker", &format!("172.30.1.{last}"), "");
        daemon.after(|| place.manifests.write("marker.yaml", &file));
        watch.text().contains("default/marker") || watch.text().contains("\"marker\"")
    });
}

/// Replaces what differs from run to run: times, durations, bytes.
fn stable(text: &str) -> String {
    let mut stable = String::new();
    for word in text.split_inclusive([' ', '\n']) {
        let (word, end) = word.split_at(word.trim_end().len());
        let is_time = word.contains(':') && word.trim_end_matches(':').ends_with('Z');
        stable += if is_time { "TIME" } else { word };
        stable += end;
    }
    let units = ["µs", "ms", "s"];
    let words: Vec<&str> = stable.split_inclusive(' ').collect();
    let mut out = String::new();
    for (at, word) in words.iter().enumerate() {
        let is_number = word.trim().parse::<f64>().is_ok();
        let next = words.get(at + 1).map(|it| it.trim_matches([' ', ',', '\n']));
        let is_took = next.is_some_and(|next| units.contains(&next.split('\n').next().unwrap()));
        out += if is_number && is_took { "N " } else { word };
    }
    for unit in ["µs", "ms"] {
        out = out.replace(&format!("N {unit}"), "N s");
    }
    out
}

fn is_narrow(text: &str) {
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn a_change_is_told_with_its_cause_and_its_cost() {
    if !require_root() {
        return;
    }
    let place = Place::new("watch");
    let ran = place.ask(&["history"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "there is no daemon: {ran:?}");
    assert!(ran.stderr.contains("no daemon listens at "), "{}", ran.stderr);
    let ran = place.ask(&["watch"]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "there is no daemon: {ran:?}");
    let mut daemon = place.start(&[]);
    let (watch, json) = (place.watch(&[]), place.watch(&["web", "-o", "json"]));
    connected(&place, &mut daemon, &watch);
    // The other one may still be on its way.
    let socket = place.socket();
    drop(follow(&socket, "/v1alpha1/watch"));
    place.manifests.remove("marker.yaml");
    watch.wait_for("default/marker: removed");
    daemon.after(|| place.manifests.write("slice.yaml", &slice("web", &["10.50.1.2"])));
    watch.wait_for("10.50.1.1:8080");
    json.wait_for("10.50.1.1:8080");
    let text = watch.text();
    is_narrow(&text);
    let at = text.lines().position(|line| line.contains("default/web")).unwrap();
    let told: Vec<&str> = text.lines().skip(at).collect();
    let id: u64 = told[0].split_whitespace().nth(1).unwrap()[1..].parse().unwrap();
    let told = stable(&told.join("\n")).replace(&format!("@{id}"), "@ID");
    insta::assert_snapshot!("told", told);

    // Only of the Service that was asked for.
    let line = json.text();
    assert_eq!(line.lines().count(), 1, "{line}");
    let change: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&change["type"], &change["id"]), (&"change".into(), &id.into()));
    let cause = &change["causes"][0];
    assert_eq!(cause["object"], "EndpointSlice default/web-v4");
    assert_eq!((&cause["from"], &cause["source"]), (&"slice.yaml".into(), &"manifests".into()));
    assert_eq!(cause["fields"][0]["field"], "endpoints[10.50.1.1]");
    let service = &change["services"][0];
    assert_eq!((&service["name"], &service["presence"]), (&"web".into(), &"changed".into()));
    assert_eq!(service["changes"][0]["what"], "backendRemoved");
    assert_eq!(service["changes"][0]["backend"], "10.50.1.1:8080");
    let cost = &change["cost"];
    let number = |field: &str| cost[field].as_u64().unwrap();
    assert!(number("operations") > 0 && number("transactions") > 0 && number("bytes") > 0);
    assert!(number("latencyMicroseconds") >= number("commitMicroseconds"), "{cost}");

    // The same one, from the history.
    let shown = place.ask(&["history", &format!("@{id}")]);
    assert_eq!((shown.status, shown.stderr.as_str()), (0, ""), "{shown:?}");
    is_narrow(&shown.stdout);
    let text = stable(&shown.stdout).replace(&format!("@{id}"), "@ID");
    insta::assert_snapshot!("shown", text);
    let all = place.history();
    let mut last = all.last().unwrap().clone();
    assert_eq!(all[0]["event"], "started");
    last["type"] = "change".into();
    assert_eq!(last, change);
    let table = place.ask(&["history"]).stdout;
    is_narrow(&table);
    assert!(table.starts_with("CHANGE  TIME "), "{table}");
    assert!(table.lines().nth(1).unwrap().ends_with(" default/web"), "{table}");
    assert!(table.lines().last().unwrap().ends_with(" started"), "{table}");
    let of_web = place.ask(&["history", "--service", "web"]).stdout;
    assert_eq!(of_web.lines().count(), 2, "{of_web}");
    let unknown = place.ask(&["history", "9999"]);
    assert_eq!(unknown.status, 3, "{unknown:?}");
    assert!(unknown.stderr.contains("no change 9999 is kept"), "{}", unknown.stderr);
}

/// A Service of a Pod, on a node whose addresses change.
const POD: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, clusterIP: 172.30.0.1, selector: {app: web}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
status: {podIPs: [{ip: 10.50.1.1}]}
";

/// The last change of a history, with this many changes at least.
fn newest(place: &Place, least: usize) -> Value {
    eventually("the change is there", || place.history().len() >= least);
    place.history().pop().unwrap()
}

#[test]
fn pods_node_addresses_and_repairs_are_causes() {
    if !require_root() {
        return;
    }
    let place = Place::new("causes");
    place.manifests.remove("slice.yaml");
    place.manifests.write("web.yaml", POD);
    // A state directory, so that the file has every kind of change.
    let own = ["--nodeport-addresses", "192.0.2.0/24"];
    let shared = ["--shared-tables", "--verify-seconds", "1"];
    let mut daemon = place.start_with_state(&[&own[..], &shared].concat());
    let fields = |cause: &Value| -> Vec<String> {
        let of = |field: &Value| {
            format!("{}: {}", field["field"].as_str().unwrap(), field["to"].as_str().unwrap())
        };
        cause["fields"].as_array().unwrap().iter().map(of).collect()
    };
    let moved = POD.replace("10.50.1.1", "10.50.1.2");
    daemon.after(|| place.manifests.write("web.yaml", &moved));
    let change = newest(&place, 2);
    assert_eq!(change["causes"][0]["object"], "Pod default/web-0");
    assert_eq!(change["services"][0]["causes"], serde_json::json!(["Pod default/web-0"]));
    assert_eq!(fields(&change["causes"][0]), ["status.podIPs: 10.50.1.2"]);
    // A device of this namespace.
    daemon.after(|| {
        place.node.sh(
            "ip link add own type veth peer name other && ip addr add 192.0.2.77/24 dev own && ip link set own up",
        );
    });
    eventually("the address is a cause", || {
        place.history().iter().flat_map(|it| it["causes"].as_array().unwrap().clone()).any(
            |cause| {
                cause["object"] == "addresses of the interfaces"
                    && cause["source"] == "kernel"
                    && fields(&cause).iter().any(|it| it.contains("192.0.2.77"))
            },
        )
    });
    let before = place.history().len();
    place.node.sh("nft flush map ip rulec endpoints");
    let change = newest(&place, before + 1);
    assert_eq!((&change["event"], &change["causes"]), (&"repaired".into(), &serde_json::json!([])));
    assert!(change["cost"]["operations"].as_u64().unwrap() > 0);
    let table = place.ask(&["history"]).stdout;
    assert!(table.lines().nth(1).unwrap().ends_with(" repaired"), "{table}");
    let shown = place.ask(&["history", change["id"].to_string().as_str()]).stdout;
    assert!(shown.contains("what somebody else had changed in the kernel was repaired"), "{shown}");

    // Every field of all of these is documented.
    let page =
        include_str!("../../docs/watch.md").to_owned() + include_str!("../../docs/diff-json.md");
    let mut names = Vec::new();
    for mut change in place.history() {
        // Its fields are those of snapshots.
        change.as_object_mut().unwrap().remove("settings");
        collect(&change, &mut names);
    }
    assert!(names.len() > 50, "{names:?}");
    for name in names {
        let is_there =
            [format!("`{name}`"), format!("`.{name}`"), format!(".{name}`"), format!("{name}[]`")];
        assert!(is_there.iter().any(|it| page.contains(it)), "{name} is not documented");
    }
}

/// Adds the names of all fields.
fn collect(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            names.extend(fields.keys().cloned());
            fields.values().for_each(|value| collect(value, names));
        }
        Value::Array(all) => all.iter().for_each(|value| collect(value, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_closed_pipe_ends_a_watch() {
    if !require_root() {
        return;
    }
    let place = Place::new("watchpipe");
    let mut daemon = place.start(&[]);
    let socket = place.socket();
    let mut command = command(&place.node, &["watch", "--socket", socket.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut last = 10;
    let mut status = None;
    eventually("it ends", || {
        last += 1;
        let file = service("marker", &format!("172.30.1.{last}"), "");
        daemon.after(|| place.manifests.write("marker.yaml", &file));
        status = child.try_wait().unwrap();
        status.is_some()
    });
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((status.unwrap().code(), stderr.as_str()), (Some(0), ""));
}

/// Returns the meaning of the Services of a document: what, where, and why.
fn meant(services: &Value) -> Vec<Value> {
    let all = services.as_array().unwrap().iter().flat_map(|service| {
        let changes = service["changes"].as_array().unwrap().iter();
        changes.map(|it| {
            let own = [&it["what"], &it["frontends"], &it["backend"], &it["fields"], &it["reason"]];
            serde_json::json!([service["name"], service["presence"], own])
        })
    });
    all.collect()
}

/// A change of the history is found from parts of its states, and means what all of them mean.
#[test]
fn a_change_is_the_difference_of_its_states() {
    check_differences("same-nft", "nftables");
}

#[test]
#[ignore = "needs ip_vs: run tests/vm/run"]
fn a_change_is_the_difference_of_its_states_in_ipvs_mode() {
    check_differences("same-ipvs", "ipvs");
}

fn check_differences(name: &str, mode: &str) {
    if !require_root() {
        return;
    }
    let place = Place::new(name);
    place.node.sh("ip link set lo up");
    place.manifests.write("other.yaml", &service("other", "172.30.0.2", ""));
    let mut daemon = place.start(&["--proxy-mode", mode]);
    let local = "  internalTrafficPolicy: Local\n  externalIPs: [198.51.100.7]\n";
    let taken = "  externalIPs: [198.51.100.7]\n  sessionAffinity: ClientIP\n";
    let steps: [&dyn Fn(); 6] = [
        &|| place.manifests.write("slice.yaml", &slice("web", &["10.50.1.2", "10.50.1.3"])),
        &|| place.manifests.write("web.yaml", &service("web", "172.30.0.1", local)),
        &|| place.manifests.write("other.yaml", &service("other", "172.30.0.2", taken)),
        &|| place.manifests.remove("web.yaml"),
        &|| place.manifests.write("others.yaml", &slice("other", &["10.50.1.4"])),
        &|| place.manifests.remove("other.yaml"),
    ];
    for step in steps {
        // A comparison with the kernel may have come in between, and may come after this one.
        let before = place.history().len();
        step();
        eventually("the change is there", || place.history().len() > before);
        let change = place.history().swap_remove(before);
        let [from, to] = [before, before + 1].map(|id| format!("@{id}"));
        let ran = place.ask(&["diff", "--from", &from, "--to", &to, "-o", "json"]);
        let diff: Value = serde_json::from_str(&ran.stdout).unwrap();
        let (told, expected) = (meant(&change["services"]), meant(&diff["services"]));
        // The states have other names there.
        let text = serde_json::to_string_pretty(&expected).unwrap();
        let text = text.replace(&format!("in {to}"), "in the sources");
        let expected: Vec<Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(told, expected, "{mode}: step {before}");
        assert!(!told.is_empty(), "{mode}: step {before}");
    }
    assert!(daemon.is_running());
}

#[test]
fn two_moments_can_be_compared() {
    if !require_root() {
        return;
    }
    let place = Place::new("moments");
    let mut daemon = place.start(&[]);
    daemon.after(|| place.manifests.write("slice.yaml", &slice("web", &["10.50.1.2"])));
    eventually("the change is there", || place.history().len() == 2);
    let compare = |from: &str, to: &str| {
        place.ask(&["diff", "--from", from, "--to", to, "--node-name", "na"])
    };
    for (from, to) in [("@1", "@now"), ("@1", "@2")] {
        let ran = compare(from, to);
        assert_eq!((ran.status, ran.stderr.as_str()), (1, ""), "{ran:?}");
        assert!(ran.stdout.contains("backend 10.50.1.1:8080"), "{}", ran.stdout);
        assert!(ran.stdout.contains("Service default/web"), "{}", ran.stdout);
    }
    for (from, to) in [("@2", "@now"), ("@-0s", "kernel"), ("@2", "@-0s")] {
        let ran = compare(from, to);
        assert_eq!(ran.status, 0, "{from} {to}: {ran:?}");
    }
    let ran = compare("@2", place.manifests.path().to_str().unwrap());
    assert_eq!(ran.status, 0, "{ran:?}");
    for (from, why) in [
        ("@-5m", "is not kept: the oldest is @1"),
        ("@99", "there is no such change: the oldest is @1"),
        ("@soon", "not a moment"),
    ] {
        let ran = compare(from, "@now");
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{from}: {ran:?}");
        assert!(ran.stderr.contains(why), "{from}: {}", ran.stderr);
    }
    let ran = place.ask(&["show", "services", "--state", "@1"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let ran = rulec(&place.node, &["show", "services", "--state", "@1", "--socket="]);
    assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{ran:?}");
    assert!(ran.stderr.contains("and --socket is empty"), "{}", ran.stderr);
}

#[test]
fn a_restart_continues_the_history() {
    if !require_root() {
        return;
    }
    let place = Place::new("continues");
    let mut daemon = place.start_with_state(&[]);
    daemon.after(|| place.manifests.write("slice.yaml", &slice("web", &["10.50.1.2"])));
    eventually("the change is there", || place.history().len() == 2);
    let before = place.history();
    let watch = place.watch(&[]);
    connected(&place, &mut daemon, &watch);
    place.manifests.remove("marker.yaml");
    watch.wait_for("default/marker: removed");
    let marked = place.history();
    daemon.stop();

    // A crash has cut the last line.
    let file = place.state().join("history.jsonl");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str("{\"apiVersion\":\"rulec.io/v1al");
    fs::write(&file, text).unwrap();
    let mut daemon = place.start_with_state(&["--masquerade-all"]);
    daemon.wait_for("a part of the history cannot be read and is ignored: line ");
    eventually("the start is there", || place.history().len() == marked.len() + 1);
    let after = place.history();
    assert_eq!(after[..2], before[..], "the changes of before");
    let start = after.last().unwrap();
    assert_eq!(start["event"], "started");
    assert_eq!(start["id"], marked.len() as u64 + 1);
    let fields = &start["causes"][0]["fields"];
    assert_eq!((&fields[0]["field"], &fields[0]["to"]), (&"masqueradeAll".into(), &"true".into()));
    watch.wait_for("the daemon has started with other settings");
    assert!(watch.complaints().contains("the daemon is back"), "{}", watch.complaints());
    // States are on disk, too.
    let diff = |from: &str, to: &str| {
        let ran = place.ask(&["diff", "--from", from, "--to", to]);
        assert_eq!(ran.status, 1, "{ran:?}");
        ran.stdout
    };
    let second = diff("@1", "@2");
    assert!(second.contains("10.50.1.1:8080") && !second.contains("default/marker"), "{second}");
    assert!(diff("@2", "@3").contains("default/marker"));

    // What is of another version is left out, and put aside.
    daemon.stop();
    let other = "{\"apiVersion\":\"rulec.io/v9\",\"kind\":\"History\"}\n";
    fs::write(&file, other).unwrap();
    let mut daemon = place.start_with_state(&[]);
    daemon.wait_for("it is not of version rulec.io/v1alpha1");
    daemon.wait_for("the history that was there could not be read, and was put aside");
    eventually("another file is begun", || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        text.starts_with("{\"apiVersion\":\"rulec.io/v1alpha1\"")
    });
    let aside = fs::read_to_string(place.state().join("history-aside-1.jsonl")).unwrap();
    assert_eq!(aside, other);
    assert_eq!(place.history().len(), 1);
}

/// What was written is there after a kill: `rulec diff` goes back behind it.
#[test]
fn states_outlive_a_daemon_that_is_killed() {
    if !require_root() {
        return;
    }
    let place = Place::new("killed");
    let mut daemon = place.start_with_state(&[]);
    daemon.after(|| place.manifests.write("slice.yaml", &slice("web", &["10.50.1.2"])));
    eventually("the change is there", || place.history().len() == 2);
    let before = place.history();
    let states = || fs::read_to_string(place.state().join("states-1.jsonl")).unwrap_or_default();
    eventually("its state is on disk", || states().lines().count() == 3);
    let live = place.ask(&["diff", "--from", "@1", "--to", "@2"]);
    daemon.kill9();
    let mut daemon = place.start_with_state(&[]);
    eventually("the start is there", || place.history().len() == 3);
    daemon.after(|| place.manifests.write("slice.yaml", &slice("web", &["10.50.1.3"])));
    eventually("the change is there", || place.history().len() == 4);
    let later = place.ask(&["diff", "--from", "@1", "--to", "@2"]);
    assert_eq!((later.status, &later.stdout), (1, &live.stdout), "{later:?}");
    // By time: that of the second change, before the kill.
    let time = format!("@{}", before[1]["time"].as_str().unwrap());
    let ran = place.ask(&["diff", "--from", &time, "--to", "@now"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    for endpoint in ["10.50.1.2:8080", "10.50.1.3:8080"] {
        assert!(ran.stdout.contains(endpoint), "{endpoint}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("10.50.1.1:8080"), "{}", ran.stdout);
    let shown = place.ask(&["show", "endpoints", "web", "--state", "@1"]);
    assert!(shown.stdout.contains("10.50.1.1:8080"), "{shown:?}");
}

/// Its numbers begin again: what it has done before somebody follows again must be told all the same.
#[test]
fn a_watch_notices_a_daemon_with_another_history() {
    if !require_root() {
        return;
    }
    let place = Place::new("another");
    let mut daemon = place.start(&[]);
    let watch = place.watch(&[]);
    connected(&place, &mut daemon, &watch);
    assert!(!watch.text().contains("@1 "), "it began with the next change: {}", watch.text());
    daemon.stop();
    let _daemon = place.start(&[]);
    watch.wait_for("@1 the daemon has started");
    let complaints = watch.complaints();
    assert!(
        complaints.contains("it has another history: its changes have numbers from 1 again"),
        "{complaints}"
    );
}

#[test]
fn a_slow_reader_is_told_what_it_missed_and_delays_nobody() {
    if !require_root() {
        return;
    }
    let place = Place::new("slow");
    let mut daemon = place.start(&["--history-changes", "4"]);
    let socket = place.socket();
    let mut slow = follow(&socket, "/v1alpha1/watch");
    // Each change is larger than the buffers between the two together divided by the number of
    // changes, so that the daemon has to wait for the reader.
    let many = |last: u8| -> String {
        let addresses: Vec<String> = (0..240).map(|n| format!("10.50.{last}.{n}")).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        slice("web", &addresses)
    };
    let rounds = 60;
    for round in 0..rounds {
        daemon.after(|| place.manifests.write("slice.yaml", &many(round)));
    }
    assert_eq!(place.history().len(), 4, "no more is kept");
    // Now it reads.
    let (mut changes, mut lost) = (0, 0);
    let mut line = String::new();
    while changes + lost < u64::from(rounds) {
        line.clear();
        slow.read_line(&mut line).unwrap();
        if line.contains("\"type\":\"change\"") {
            changes += 1;
        } else if line.contains("\"type\":\"lost\"") {
            let said: Value = serde_json::from_str(line.trim()).unwrap();
            lost += said["changes"].as_u64().unwrap();
        }
    }
    assert!(lost > 0, "{changes} changes were told");
    assert_eq!(changes + lost, u64::from(rounds));

    // Those who follow leave room for others.
    let followers: Vec<_> = (0..3).map(|_| follow(&socket, "/v1alpha1/watch")).collect();
    let ran = place.ask(&["watch"]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.stderr.contains("there are 4 others that follow changes"), "{}", ran.stderr);
    let idle: Vec<_> = (0..8).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    assert_eq!(place.ask(&["status"]).status, 0);
    drop(idle);
    for mut follower in followers {
        let mut head = [0; 16];
        follower.read_exact(&mut head).unwrap();
    }
}

#[test]
fn a_daemon_without_a_history_says_so() {
    if !require_root() {
        return;
    }
    let place = Place::new("nohistory");
    let _daemon = place.start_with_state(&["--history-changes", "0"]);
    for args in [&["history"][..], &["watch"], &["diff", "--from", "@-5m", "--to", "@now"]] {
        let ran = place.ask(args);
        assert_eq!((ran.status, ran.stdout.as_str()), (3, ""), "{args:?}: {ran:?}");
        assert!(ran.stderr.contains("keeps no changes (--history-changes 0)"), "{}", ran.stderr);
    }
    assert!(!place.state().join("history.jsonl").exists());
}
