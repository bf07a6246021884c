//! Against a kubelet in this process, by its pods API.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use rulec_compiler::Change;
use rulec_kubelet::{Behaviour, Kubelet, Pod};
use tempfile::TempDir;

use crate::kubelet::{KubeletAccess, KubeletSource, KubeletTiming};
use crate::pods::tests::told::{PATIENCE, Told, addresses};
use crate::state::StateDir;

/// Short waits, as far as a test depends on them.
pub(super) fn timing() -> KubeletTiming {
    KubeletTiming {
        answer: Duration::from_millis(300),
        ping: Duration::from_millis(100),
        first_retry: Duration::from_millis(1),
        longest_retry: Duration::from_millis(20),
        grace: PATIENCE,
        settle: Duration::from_millis(300),
    }
}

/// Follows a kubelet; of its Pods, the addresses of those that are ready are shown.
pub(super) fn told_by(source: KubeletSource) -> Told {
    let shown = |pod: &rulec_compiler::object::Pod| {
        if pod.conditions.ready { addresses(pod) } else { String::new() }
    };
    Told::by(|out| source.run(out), shown)
}

fn told_of(root: &Path) -> Told {
    told_by(KubeletSource::new(KubeletAccess::Root(root.into())).with_timing(timing()))
}

/// Follows a kubelet that is slow, and never taken for one that is away.
fn patiently_told_of(root: &Path) -> Told {
    let timing = KubeletTiming { answer: PATIENCE, ..timing() };
    told_by(KubeletSource::new(KubeletAccess::Root(root.into())).with_timing(timing))
}

fn web() -> Pod {
    Pod::of_file("web", &["10.0.0.1"])
}

fn db() -> Pod {
    Pod::new("db", &["10.0.0.2"])
}

fn root() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn what_cannot_be_seen_is_not_absent() {
    let root = root();
    let is_below = |name: &str| KubeletAccess::is_below(&root.path().join(name));
    assert!(!is_below("none").unwrap());
    fs::create_dir_all(root.path().join("on/pods-api")).unwrap();
    fs::create_dir(root.path().join("off")).unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    assert!(is_below("on").unwrap() && !is_below("off").unwrap() && !is_below("file").unwrap());
    // Root may look everywhere, but not along a link to itself.
    symlink("loop", root.path().join("loop")).unwrap();
    is_below("loop").unwrap_err();
}

#[tokio::test]
async fn pods_are_told_as_they_come_and_go() {
    let root = root();
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    let mut told = told_of(root.path());
    told.are(&[("web", "10.0.0.1")]).await;
    let last = told.last.as_ref().unwrap();
    assert!(last.complete && !last.unavailable && last.unread == 0 && last.stale.is_none());
    assert!(matches!(last.changes[..], [Change::Replace { .. }]));
    kubelet.put(&db());
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    kubelet.put(&Pod { ready: Some(false), ..db() });
    told.are(&[("web", "10.0.0.1"), ("db", "")]).await;
    kubelet.delete("db");
    told.are(&[("web", "10.0.0.1")]).await;
}

#[tokio::test]
async fn two_hundred_pods_arrive_together() {
    let root = root();
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[]);
    let mut told = told_of(root.path());
    told.are(&[]).await;
    let names: Vec<String> = (0..200).map(|number| format!("pod-{number}")).collect();
    names.iter().for_each(|name| kubelet.put(&Pod::new(name, &["10.0.0.1"])));
    told.until("all are there", |told| told.pods.len() == 200).await;
}

#[tokio::test]
async fn later_versions_of_the_api_are_followed() {
    for version in ["v1", "v1beta1", "v1alpha1"] {
        let root = root();
        let _kubelet = Kubelet::start(root.path(), Behaviour::ServesVersion(version), &[web()]);
        told_of(root.path()).are(&[("web", "10.0.0.1")]).await;
    }
}

#[tokio::test]
async fn a_kubelet_that_dies_leaves_its_pods_until_it_is_back() {
    let root = root();
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web(), db()]);
    let mut told = told_of(root.path());
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    drop(kubelet);
    told.available(false).await;
    assert_eq!(told.pods.len(), 2);
    assert!(told.is_stale() && told.last.as_ref().unwrap().complete);
    told.until("refused", |told| told.problems()[0].contains("Connection refused")).await;
    let [problem] = &told.problems()[..] else { panic!("{:?}", told.problems()) };
    let socket = root.path().join("pods-api/pods-api.sock");
    assert!(problem.starts_with(&format!("kubelet: {}: cannot connect", socket.display())));
    assert!(problem.ends_with("; its Pods stay as they were"), "{problem}");

    let _kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    told.available(true).await;
    assert_eq!((told.pods.len(), told.problems(), told.is_stale()), (2, Vec::new(), false));
    told.are(&[("web", "10.0.0.1")]).await;
}

#[tokio::test]
async fn a_stream_that_ends_is_opened_again() {
    let root = root();
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    let mut told = told_of(root.path());
    told.are(&[("web", "10.0.0.1")]).await;
    kubelet.end_streams();
    kubelet.put(&db());
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
}

/// The behaviours that are failures, and what is said of each.
const FAILURES: [(Behaviour, &str); 7] = [
    (Behaviour::HasNoApi, "it has no pods API of a known version (v1, v1beta1, v1alpha1)"),
    (Behaviour::Hangs, "it has not answered for 0.3 s"),
    (Behaviour::HangsInList, "it has not answered for 0.3 s"),
    (Behaviour::HalfMessage, ""),
    (Behaviour::Garbage, "a message that cannot be decoded"),
    (Behaviour::NotHttp2, "the connection broke"),
    (Behaviour::Refuses, "it answers with gRPC status 8: rejected by rate limit"),
];

#[tokio::test]
async fn whatever_a_kubelet_sends_its_last_state_stays() {
    for (behaviour, words) in FAILURES {
        let root = root();
        let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web(), db()]);
        let mut told = told_of(root.path());
        told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
        drop(kubelet);
        let kubelet = Kubelet::start(root.path(), behaviour, &[web()]);
        let is_said = |told: &Told| {
            told.last.as_ref().is_some_and(|last| {
                last.problems.iter().any(|problem| {
                    problem.message.contains(words) && !problem.message.contains("cannot connect")
                })
            })
        };
        told.until(&format!("{behaviour:?}: {words}"), is_said).await;
        assert_eq!(told.pods.len(), 2, "{behaviour:?}");
        // It recovers.
        kubelet.behave(Behaviour::Serves);
        told.are(&[("web", "10.0.0.1")]).await;
        assert_eq!(told.problems(), [""; 0], "{behaviour:?}");
    }
}

#[tokio::test]
async fn a_kubelet_that_stops_after_its_list_is_noticed() {
    let root = root();
    // Answers nothing more once it has sent the list: its thread waits for the lock.
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    let mut told = told_of(root.path());
    told.are(&[("web", "10.0.0.1")]).await;
    kubelet.stop();
    told.available(false).await;
    assert!(told.problems()[0].contains("it has not answered for 0.3 s"), "{:?}", told.problems());
    assert_eq!(told.pods.len(), 1);
    kubelet.resume();
    told.available(true).await;
}

#[tokio::test]
async fn a_quiet_kubelet_is_not_away() {
    let root = root();
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    let mut told = patiently_told_of(root.path());
    told.are(&[("web", "10.0.0.1")]).await;
    // Several pings.
    tokio::time::sleep(Duration::from_secs(1)).await;
    kubelet.put(&db());
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    // Each connection calls the versions that this kubelet does not have.
    assert_eq!(kubelet.calls(), 3, "the first stream still stands");
}

#[tokio::test]
async fn an_event_that_cannot_be_decoded_is_named_and_changes_nothing() {
    let root = root();
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web(), db()]);
    let mut told = told_of(root.path());
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    let bytes = [&db().protobuf()[..], &[3 << 3 | 2, 2, 0x0a, 9]].concat();
    kubelet.put_as(&db(), &bytes);
    told.until("it is named", |told| {
        told.problems().iter().any(|problem| problem.starts_with("kubelet: Pod default/db: status"))
    })
    .await;
    assert_eq!(told.pods.len(), 2);
    assert!(!told.last.as_ref().unwrap().unavailable, "the stream goes on");
    kubelet.put(&Pod { ready: Some(false), ..db() });
    told.are(&[("web", "10.0.0.1"), ("db", "")]).await;
    assert_eq!(told.problems(), [""; 0]);
}

#[tokio::test]
async fn events_of_unknown_types_are_skipped() {
    let root = root();
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    let mut told = patiently_told_of(root.path());
    told.are(&[("web", "10.0.0.1")]).await;
    kubelet.send(&[1 << 3, 9]);
    kubelet.put(&db());
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    assert_eq!(kubelet.calls(), 3);
}

#[tokio::test]
async fn a_start_does_not_wait_for_ever_for_the_kubelet() {
    let root = root();
    let timing = KubeletTiming { grace: Duration::from_millis(50), ..timing() };
    let source = KubeletSource::new(KubeletAccess::Root(root.path().into())).with_timing(timing);
    let mut told = told_by(source);
    told.until("it is done without", |told| told.last.as_ref().is_some_and(|it| it.complete)).await;
    let last = told.last.as_ref().unwrap();
    assert!(last.unavailable && last.stale.is_none());
    assert_eq!(last.unread, 1, "the kernel's content may be that of its Pods");
    let _kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    told.are(&[("web", "10.0.0.1")]).await;
    // It may not have found all of its Pods yet.
    told.until("all is read", |told| told.last.as_ref().unwrap().unread == 0).await;
}

#[tokio::test]
async fn the_state_of_an_earlier_run_stands_in_for_a_kubelet_that_is_away() {
    let (root, directory) = (root(), root());
    let timing = KubeletTiming { grace: Duration::from_millis(50), ..timing() };
    let source = |state: &StateDir| {
        let source = KubeletSource::new(KubeletAccess::Root(root.path().into()));
        source.with_timing(timing).with_state(Some(state.clone()))
    };
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web(), db()]);
    let state = StateDir::new(directory.path().into());
    let mut told = told_by(source(&state));
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    assert!(state.finish(PATIENCE));
    drop((told, kubelet));

    let state = StateDir::new(directory.path().into());
    let mut told = told_by(source(&state));
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    let last = told.last.as_ref().unwrap();
    assert!(last.stale.is_some() && last.complete && last.unread == 0 && last.unavailable);
    let _kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web()]);
    told.are(&[("web", "10.0.0.1")]).await;
    assert!(!told.is_stale());
}

#[tokio::test]
async fn a_kubelet_that_begins_anew_together_with_us_has_time_as_well() {
    let (root, directory) = (root(), root());
    let source = |state: &StateDir| {
        let source = KubeletSource::new(KubeletAccess::Root(root.path().into()));
        source.with_timing(timing()).with_state(Some(state.clone()))
    };
    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[web(), db()]);
    let state = StateDir::new(directory.path().into());
    let mut told = told_by(source(&state));
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    assert!(state.finish(PATIENCE));
    drop((told, kubelet));

    let kubelet = Kubelet::start(root.path(), Behaviour::Serves, &[]);
    let mut told = told_by(source(&StateDir::new(directory.path().into())));
    told.are(&[("web", "10.0.0.1"), ("db", "10.0.0.2")]).await;
    let last = told.last.as_ref().unwrap();
    assert!(last.stale.is_none() && last.complete && last.unread == 1 && !last.unavailable);
    // A deletion is believed by the UID that was saved.
    kubelet.send_deletion(&db());
    told.are(&[("web", "10.0.0.1")]).await;
    told.are(&[]).await;
}
