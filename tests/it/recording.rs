//! `rulec run --to-file`, `rulec run --replay`, `rulec replay`, and recordings as states.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod mask;

use std::fs;
use std::path::Path;
use std::time::Duration;

use rulec_testkit::{Namespace, require_root};
use tempfile::TempDir;

use crate::crash::meaning;
use crate::daemon::{Daemon, Manifests, SETTLED};
use crate::support::{
    Dice, Ran, SETTINGS, diff, eventually, file, random_service, rulec, service, slice,
};

const ENDED: &str = "the recording has ended";

fn churn(manifests: &Manifests, dice: &mut Dice, changes: u64) {
    for _ in 0..changes {
        let number = dice.roll(60);
        let name = format!("s{number}.yaml");
        match dice.roll(4) {
            0 if manifests.path().join(&name).exists() => manifests.remove(&name),
            _ => manifests.write(&name, &random_service(dice, number)),
        }
        std::thread::sleep(Duration::from_millis(dice.roll(8)));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Lists a recording as JSON.
fn listed(namespace: &Namespace, args: &[&str]) -> serde_json::Value {
    let ran = rulec(namespace, &[&["replay", "-o", "json"], args].concat());
    assert!([0, 2].contains(&ran.status), "{ran:?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

fn ok(ran: Ran) -> String {
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{}", ran.stdout);
    ran.stdout
}

/// Writes a part of a recording. What was being written when its daemon was killed may be torn.
fn saved(ran: &Ran) {
    let is_whole = ran.status == 0 && ran.stderr.is_empty();
    let is_torn = ran.status == 2 && ran.stderr.contains("it is torn and left out: ");
    assert!(is_whole || is_torn, "{ran:?}");
}

/// A daemon that is killed while Services change, and goes on with the recording; another kernel,
/// which knows nothing but the recording, must get the same.
#[test]
fn a_replay_leads_to_the_same_kernel() {
    if !require_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let recording = directory.path().join("a.rec");
    let recorded = [&SETTINGS[..], &["--to-file", text(&recording)]].concat();
    let node = Namespace::new("rec");
    let manifests = Manifests::new();
    let mut dice = Dice::new(7);
    for number in 0..60 {
        let name = format!("s{number}.yaml");
        manifests.write(&name, &random_service(&mut dice, number));
    }
    for _ in 0..4 {
        let daemon = Daemon::start(&node, &manifests.path(), &recorded);
        churn(&manifests, &mut dice, 25);
        daemon.kill9();
    }
    let mut daemon = Daemon::start(&node, &manifests.path(), &recorded);
    churn(&manifests, &mut dice, 25);
    daemon.settle(&node, &manifests.path(), &SETTINGS);
    let log = daemon.stop();
    assert!(!log.contains("recorded"), "nothing was lost: {log}");
    let list = listed(&node, &[text(&recording)]);
    let items = list["items"].as_array().unwrap();
    let starts = items.iter().filter(|item| item["state"] == "start").count();
    // Of the files that end torn, only the last one stays.
    let is_whole = list["leftOut"].as_array().is_none_or(Vec::is_empty);
    assert!(if is_whole { starts == 5 } else { (2..=5).contains(&starts) }, "{starts}");

    let other = Namespace::new("rep");
    let args = ["--replay", text(&recording), "--replay-speed", "max"];
    let mut replayed = Daemon::spawn_with(&other, &args);
    replayed.wait_for(ENDED);
    replayed.wait_for(SETTLED);
    eventually("the kernels are equal", || meaning(&node) == meaning(&other));
    assert!(meaning(&node).len() > 60, "there is something to compare");
    // The recording as a state is what both kernels hold.
    let same = diff(&other, text(&recording), "kernel", &[]);
    assert_eq!(same.status, 0, "{same:?}");
    // A part of it in one file leads there, too.
    let part = directory.path().join("part.rec");
    let middle = items[items.len() / 2]["time"].as_str().unwrap();
    let args = ["replay", text(&recording), "--from", middle, "--save", text(&part)];
    saved(&rulec(&node, &args));
    assert_eq!(diff(&other, text(&part), "kernel", &[]).status, 0);
    assert_eq!(listed(&node, &[text(&part)])["items"][0]["state"], "part");
    // With pseudonyms, a kernel has as many elements.
    let masked = directory.path().join("masked.rec");
    let args = ["replay", text(&recording), "--mask", "--save", text(&masked)];
    saved(&rulec(&node, &args));
    let list = ok(rulec(&node, &["replay", text(&masked)]));
    assert!(list.contains("pseudonyms") && !list.contains("s1.yaml"), "{list}");
    let third = Namespace::new("mask");
    let args = ["--replay", text(&masked), "--replay-speed", "max"];
    let mut daemon = Daemon::spawn_with(&third, &args);
    daemon.wait_for(ENDED);
    daemon.wait_for(SETTLED);
    assert_eq!(diff(&third, text(&masked), "kernel", &[]).status, 0);
}

#[test]
fn a_recording_lists_what_has_changed_and_is_a_state_at_any_time() {
    if !require_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let recording = directory.path().join("a.rec");
    let node = Namespace::new("rec");
    let web =
        |addresses: &[&str]| file(&[service("web", "10.96.0.10", ""), slice("web", addresses)]);
    let manifests = Manifests::of(&web(&["10.50.1.1"]));
    let args = [&SETTINGS[..], &["--to-file", text(&recording)]].concat();
    let mut daemon = Daemon::start(&node, &manifests.path(), &args);
    daemon.after(|| manifests.write("all.yaml", &web(&["10.50.1.1", "10.50.1.2"])));
    daemon.after(|| manifests.remove("all.yaml"));
    daemon.stop();
    let list = ok(rulec(&node, &["replay", text(&recording)]));
    assert!(list.starts_with("node na, rulec 0.1.0, sources: manifests, kernel\n"), "{list}");
    for expected in [
        "Z  -           start of the daemon\n",
        "Z  manifests   list of everything: 2 objects\n",
        "Z  manifests   EndpointSlice default/web-v4 (all.yaml)\n",
        "Z  manifests   EndpointSlice default/web-v4 removed\n",
        "Z  manifests   Service default/web removed\n",
    ] {
        assert!(list.contains(expected), "{expected:?}: {list}");
    }
    let items = listed(&node, &[text(&recording)]);
    let items = items["items"].as_array().unwrap().clone();
    let applied = items.iter().find(|item| item["changes"][0]["action"] == "apply").unwrap();
    let (time, told) = (applied["time"].as_str().unwrap(), &applied["changes"][0]);
    assert_eq!(told["object"], "EndpointSlice default/web-v4");
    assert_eq!(told["file"], "all.yaml");
    // Two states of it.
    let then = format!("{}@{time}", text(&recording));
    let ran = diff(&node, text(&recording), &then, &[]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("default/web"), "{}", ran.stdout);
    let shown = ok(rulec(&node, &["show", "endpoints", "--state", &then]));
    assert!(shown.contains("10.50.1.1") && shown.contains("10.50.1.2"), "{shown}");
    let ran = rulec(&node, &["explain", "10.96.0.10:80", "--from", "10.50.9.9", "--state", &then]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stdout.contains("10.50.1.2:8080"), "{}", ran.stdout);
    // A replay is not recorded to the file that it reads, whatever name that has.
    let link = directory.path().join("link.rec");
    fs::hard_link(&recording, &link).unwrap();
    let ran = rulec(&node, &["run", "--replay", text(&recording), "--to-file", text(&link)]);
    assert_eq!(ran.status, 3, "{ran:?}");
    assert!(ran.stderr.contains("is the recording that is replayed"), "{}", ran.stderr);
    // What is wrong is named.
    let early = format!("{}@2001-01-01T00:00:00Z", text(&recording));
    let ran = diff(&node, &early, &then, &[]);
    assert_eq!(ran.status, 3);
    assert!(ran.stderr.contains("the recording begins at "), "{}", ran.stderr);
    let ran = diff(&node, &format!("{}@soon", text(&recording)), &then, &[]);
    assert!(ran.stderr.contains("\"soon\" is not a time such as"), "{}", ran.stderr);
    let bytes = fs::read(&recording).unwrap();
    fs::write(&recording, &bytes[..bytes.len() - 3]).unwrap();
    let ran = rulec(&node, &["replay", text(&recording)]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("it is torn and left out: only "), "{}", ran.stderr);
    assert!(ran.stdout.contains("EndpointSlice default/web-v4 (all.yaml)"), "{}", ran.stdout);
}

/// The daemon goes on without a recording.
#[test]
fn a_disk_that_fails_stops_no_change() {
    if !require_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let recording = directory.path().join("missing/a.rec");
    let node = Namespace::new("rec");
    let manifests = Manifests::of(&service("web", "10.96.0.10", ""));
    let args = [&SETTINGS[..], &["--to-file", text(&recording)]].concat();
    let mut daemon = Daemon::start(&node, &manifests.path(), &args);
    daemon.wait_for("cannot write the recording, will keep retrying");
    daemon.after(|| manifests.write("all.yaml", &service("other", "10.96.0.11", "")));
    fs::create_dir(directory.path().join("missing")).unwrap();
    daemon.wait_for("the recording can be written again");
    daemon.stop();
    let then = diff(&node, text(&recording), "kernel", &[]);
    assert_eq!(then.status, 0, "{then:?}");
}

#[test]
fn a_replay_is_the_only_source_and_other_files_are_refused() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.rec");
    fs::write(&path, "text").unwrap();
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(crate::support::RULEC);
        command.args(["run", "--node-name", "na"]).args(args);
        crate::support::finish(command)
    };
    let name = text(&path);
    for (args, expected) in [
        (vec!["--replay", name], "a.rec: is not a recording of rulec"),
        (vec!["--replay", name, "--manifests", "x"], "--manifests: cannot be combined with"),
        (vec!["--replay", name, "--to-file", name], "it is the recording that is replayed"),
        (vec!["--replay", name, "--replay-speed", "fast"], "is not a speed"),
    ] {
        let ran = run(&args);
        assert_eq!(ran.status, 3, "{args:?}: {ran:?}");
        let expected = expected.replace("it is the", "is the");
        assert!(ran.stderr.contains(&expected), "{args:?}: {}", ran.stderr);
    }
}

/// One file is the whole source: an error in it removes nothing, also over a restart.
#[test]
fn a_state_file_is_taken_as_a_whole() {
    if !require_root() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let (path, state) = (directory.path().join("state.yaml"), directory.path().join("state"));
    let set = |text: &str| {
        let new = directory.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    };
    let web = file(&[service("web", "10.96.0.10", ""), slice("web", &["10.50.1.1"])]);
    set(&web);
    let node = Namespace::new("state");
    let args = ["--state-file", text(&path), "--state-dir", text(&state)];
    let args = [&args[..], &SETTINGS].concat();
    let mut daemon = Daemon::spawn_with(&node, &args);
    daemon.wait_for(SETTLED);
    assert_eq!(diff(&node, text(&path), "kernel", &[]).status, 0);
    let before = meaning(&node);
    let more = file(&[web.clone(), service("two", "10.96.0.11", "")]);
    daemon.after(|| set(&more));
    let after = meaning(&node);
    assert_ne!(after, before);
    // Half of it would be a valid change.
    set(&file(&[service("three", "10.96.0.12", ""), service("web", "not an address", "")]));
    daemon.wait_for("nothing of it is used, because of an error; its last good content stays");
    daemon.stop();
    let mut daemon = Daemon::spawn_with(&node, &args);
    daemon.wait_for(SETTLED);
    assert_eq!(meaning(&node), after);
    daemon.after(|| set(&web));
    assert_eq!(meaning(&node), before);
}
