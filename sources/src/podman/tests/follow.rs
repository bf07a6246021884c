//! Against a podman in this process.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rulec_compiler::object::Pod;
use serde_json::json;
use tempfile::TempDir;

use super::server::{Behaviour, Podman};
use crate::podman::{PodmanSource, PodmanTiming};
use crate::pods::tests::told::{PATIENCE, Told, addresses};
use crate::state::StateDir;

fn timing() -> PodmanTiming {
    PodmanTiming {
        answer: Duration::from_millis(500),
        period: PATIENCE,
        first_retry: Duration::from_millis(1),
        longest_retry: Duration::from_millis(20),
        grace: PATIENCE,
    }
}

struct Site {
    directory: TempDir,
}

impl Site {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("podman.sock")
    }

    fn podman(&self) -> Podman {
        Podman::start(&self.socket(), Behaviour::Serves)
    }
}

fn told_of(socket: &Path) -> Told {
    told_by(PodmanSource::new(socket).with_timing(timing()))
}

/// Follows podman; of its Pods, the addresses are shown, and whether they are ready.
fn told_by(source: PodmanSource) -> Told {
    let shown = |pod: &Pod| {
        let ready = if pod.conditions.ready { "ready" } else { "not ready" };
        format!("{} {ready}", addresses(pod))
    };
    Told::by(|out| source.run(out), shown)
}

/// Waits for a problem that has this in it.
async fn complains(told: &mut Told, part: &str) {
    let is_so = |told: &Told| {
        told.last.is_some() && told.problems().iter().any(|problem| problem.contains(part))
    };
    told.until(part, is_so).await;
}

#[tokio::test]
async fn containers_are_told_as_they_change() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    let mut told = told_of(&site.socket());
    told.are(&[("web", "10.88.0.2 ready")]).await;
    assert!(told.last.as_ref().unwrap().complete);
    podman.set("db", "created", "", "");
    podman.say("create", "db");
    told.are(&[("db", " not ready"), ("web", "10.88.0.2 ready")]).await;
    podman.set("db", "running", "starting", "10.88.0.3");
    podman.say("start", "db");
    told.are(&[("db", "10.88.0.3 not ready"), ("web", "10.88.0.2 ready")]).await;
    podman.set("db", "running", "healthy", "10.88.0.3");
    podman.say("health_status", "db");
    told.are(&[("db", "10.88.0.3 ready"), ("web", "10.88.0.2 ready")]).await;
    podman.unset("web");
    podman.say("remove", "web");
    told.are(&[("db", "10.88.0.3 ready")]).await;
    podman.set("db", "exited", "", "");
    podman.say("died", "db");
    told.are(&[("db", " not ready")]).await;
}

#[tokio::test]
async fn only_what_may_have_changed_is_asked_for() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "healthy", "10.88.0.2");
    podman.set("db", "running", "", "10.88.0.3");
    let mut told = told_of(&site.socket());
    told.are(&[("db", "10.88.0.3 ready"), ("web", "10.88.0.2 ready")]).await;
    let mut asked = podman.asked();
    asked.sort();
    let lists = ["/containers/json?all=true", "/pods/json"];
    assert_eq!(
        asked.iter().filter(|path| !path.starts_with("/events")).collect::<Vec<_>>(),
        ["/containers/id-db/json", "/containers/id-web/json", lists[0], "/info", lists[1]]
    );
    // What happens inside of a container, and a check with the outcome of the one before.
    podman.say("exec", "db");
    podman.say("health_status", "web");
    podman.set("more", "running", "", "10.88.0.4");
    podman.say("start", "more");
    told.until("a third", |told| told.pods.len() == 3).await;
    let asked = podman.asked();
    let count = |path: &str| asked.iter().filter(|it| **it == path).count();
    assert_eq!(count("/containers/id-db/json"), 0, "{asked:?}");
    assert!(count("/containers/id-web/json") <= 2, "{asked:?}");
    assert_eq!(count(lists[0]), 1, "{asked:?}");
}

/// Neither an event that was lost nor one that came early waits for an end of all others.
#[tokio::test]
async fn a_restless_container_does_not_keep_others_from_being_looked_at() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    podman.set("db", "created", "", "");
    let source = PodmanSource::new(&site.socket());
    let period = Duration::from_secs(1);
    let mut told = told_by(source.with_timing(PodmanTiming { period, ..timing() }));
    told.are(&[("db", " not ready"), ("web", "10.88.0.2 ready")]).await;
    let restless = async {
        loop {
            podman.say("restart", "db");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // The list is as it was, and no event names it.
    podman.set("web", "running", "", "10.88.0.9");
    tokio::select! {
        () = restless => {}
        () = told.are(&[("db", " not ready"), ("web", "10.88.0.9 ready")]) => {}
    }
}

#[tokio::test]
async fn an_event_may_come_before_what_it_says() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "starting", "10.88.0.2");
    podman.set("db", "created", "", "");
    let mut told = told_of(&site.socket());
    told.are(&[("db", " not ready"), ("web", "10.88.0.2 not ready")]).await;
    podman.asked();
    podman.say("start", "db");
    podman.say("health_status", "web");
    while !podman.asked().iter().any(|it| it == "/containers/json?all=true") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    podman.set("web", "running", "healthy", "10.88.0.2");
    podman.set("db", "running", "", "10.88.0.3");
    told.are(&[("db", "10.88.0.3 ready"), ("web", "10.88.0.2 ready")]).await;
}

#[tokio::test]
async fn a_lost_event_is_made_up_for() {
    let site = Site::new();
    let podman = site.podman();
    let period = Duration::from_millis(20);
    let source = PodmanSource::new(&site.socket());
    let mut told = told_by(source.with_timing(PodmanTiming { period, ..timing() }));
    told.are(&[]).await;
    podman.set("web", "running", "", "10.88.0.2");
    told.are(&[("web", "10.88.0.2 ready")]).await;
    podman.unset("web");
    told.are(&[]).await;
}

/// podman learns of an end from a process that may fail; when it describes a container, it looks.
#[tokio::test]
async fn an_end_that_the_list_does_not_know_is_noticed() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    let source = PodmanSource::new(&site.socket());
    let period = Duration::from_millis(20);
    let mut told = told_by(source.with_timing(PodmanTiming { period, ..timing() }));
    told.are(&[("web", "10.88.0.2 ready")]).await;
    podman.end_unnoticed("web");
    told.are(&[("web", " not ready")]).await;
}

/// What is only looked at is no reason to look again.
#[tokio::test]
async fn a_podman_at_rest_is_left_at_rest() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "healthy", "10.88.0.2");
    let source = PodmanSource::new(&site.socket());
    let mut told = told_by(source.with_timing(PodmanTiming { answer: PATIENCE, ..timing() }));
    told.are(&[("web", "10.88.0.2 ready")]).await;
    // The looks after the first one.
    tokio::time::sleep(Duration::from_secs(5)).await;
    podman.asked();
    for action in ["sync", "exec", "exec_died", "mount"] {
        podman.say(action, "web");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(podman.asked(), [""; 0]);
}

#[tokio::test]
async fn nothing_is_removed_while_podman_is_away() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    let mut told = told_of(&site.socket());
    told.are(&[("web", "10.88.0.2 ready")]).await;
    drop(podman);
    complains(&mut told, "podman.sock: cannot connect").await;
    assert!(told.last.as_ref().unwrap().unavailable);
    assert!(told.last.as_ref().unwrap().stale.is_some());
    assert_eq!(told.pods.len(), 1);
    // One that is back without it has removed it: it keeps its containers on disk.
    let podman = site.podman();
    podman.set("db", "running", "", "10.88.0.3");
    told.are(&[("db", "10.88.0.3 ready")]).await;
    told.until("all is well", |told| told.last.as_ref().is_some_and(|it| !it.unavailable)).await;
    assert!(told.last.as_ref().unwrap().problems.is_empty());
}

#[tokio::test]
async fn each_fault_is_named_and_outlived() {
    let faults = [
        (Behaviour::Hangs, "it has not answered for 0.5 s"),
        (Behaviour::Garbage, "the connection broke"),
        (Behaviour::Half, "the answer to /containers/json?all=true cannot be read"),
        (
            Behaviour::Fails,
            "it answers /info with HTTP status 500 Internal Server Error: the database is locked",
        ),
        (Behaviour::Rootless, "it runs without root"),
    ];
    for (fault, text) in faults {
        let site = Site::new();
        let podman = Podman::start(&site.socket(), fault);
        podman.set("web", "running", "", "10.88.0.2");
        let mut told = told_of(&site.socket());
        complains(&mut told, text).await;
        assert!(told.pods.is_empty(), "{fault:?}");
        podman.behave(Behaviour::Serves);
        told.are(&[("web", "10.88.0.2 ready")]).await;
        // Again, with something to lose. A stream that breaks is noticed at once, the others when
        // it is looked at.
        podman.behave(fault);
        podman.say_line(&json!({"Type": "pod", "Action": "start", "Actor": {"ID": "x"}}));
        if fault != Behaviour::Rootless {
            told.until("the fault", |told| told.last.as_ref().unwrap().unavailable).await;
        }
        assert_eq!(told.pods.len(), 1, "{fault:?}");
    }
}

/// One that cannot be described stays as it was, and the others are followed.
#[tokio::test]
async fn a_container_that_cannot_be_described_hurts_no_other() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    podman.set("db", "running", "", "10.88.0.3");
    podman.break_one("db", true);
    let mut told = told_of(&site.socket());
    complains(&mut told, "default/db: cannot be described: it answers").await;
    told.are(&[("web", "10.88.0.2 ready")]).await;
    podman.break_one("db", false);
    podman.say("start", "db");
    told.are(&[("db", "10.88.0.3 ready"), ("web", "10.88.0.2 ready")]).await;
    podman.break_one("db", true);
    podman.unset("web");
    podman.say("restart", "db");
    told.are(&[("db", "10.88.0.3 ready")]).await;
    assert!(!told.last.as_ref().unwrap().unavailable);
    // It goes while it is described.
    podman.unset("db");
    podman.say("remove", "db");
    told.are(&[]).await;
    assert!(!told.last.as_ref().unwrap().unavailable);
}

#[tokio::test]
async fn lists_that_do_not_fit_each_other_are_read_again() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    podman.tear(2);
    let mut told = told_of(&site.socket());
    told.are(&[("web", "10.88.0.2 ready")]).await;
    podman.tear(100);
    podman.say("start", "web");
    complains(&mut told, "its list of Pods lacks the Pod of a container").await;
    assert_eq!(told.pods.len(), 1);
    podman.tear(0);
    told.until("all is well", |told| !told.last.as_ref().unwrap().unavailable).await;
}

#[tokio::test]
async fn a_podman_without_events_is_looked_at_now_and_then() {
    for is_late in [false, true] {
        let site = Site::new();
        let podman = site.podman();
        podman.without_events(Some(("no events with this logger", is_late)));
        podman.set("web", "running", "", "10.88.0.2");
        let mut told = told_of(&site.socket());
        told.are(&[("web", "10.88.0.2 ready")]).await;
        complains(&mut told, "it has no events: no events with this logger; it is looked").await;
        podman.set("web", "exited", "", "");
        told.are(&[("web", " not ready")]).await;
        assert!(!told.last.as_ref().unwrap().unavailable);
    }
}

#[tokio::test]
async fn another_network_is_another_address() {
    let site = Site::new();
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    let mut told = told_of(&site.socket());
    told.are(&[("web", "10.88.0.2 ready")]).await;
    podman.set("web", "running", "", "10.88.0.9");
    podman.say("connect", "web");
    told.are(&[("web", "10.88.0.9 ready")]).await;
}

#[tokio::test]
async fn an_event_that_cannot_be_read_is_a_fault() {
    let site = Site::new();
    let podman = site.podman();
    let mut told = told_of(&site.socket());
    told.are(&[]).await;
    podman.say_line(&json!({"Action": 7}));
    complains(&mut told, "the answer to /events cannot be decoded").await;
    podman.set("web", "running", "", "10.88.0.2");
    told.are(&[("web", "10.88.0.2 ready")]).await;
}

#[tokio::test]
async fn a_start_without_podman_uses_what_the_last_run_has_left() {
    let site = Site::new();
    let directory = tempfile::tempdir().unwrap();
    let state = || Some(StateDir::new(directory.path().into()));
    let podman = site.podman();
    podman.set("web", "running", "", "10.88.0.2");
    let source = PodmanSource::new(&site.socket()).with_timing(timing());
    let mut told = told_by(source.with_state(state()));
    told.are(&[("web", "10.88.0.2 ready")]).await;
    drop((told, podman));
    let file = directory.path().join("podman.state");
    while !file.exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let grace = Duration::from_millis(1);
    let source = PodmanSource::new(&site.socket()).with_timing(PodmanTiming { grace, ..timing() });
    let mut told = told_by(source.with_state(state()));
    told.are(&[("web", "10.88.0.2 ready")]).await;
    assert!(told.last.as_ref().unwrap().stale.is_some());
}
