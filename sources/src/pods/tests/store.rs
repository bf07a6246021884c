//! Events and the changes that come of them.

use std::time::Duration;

use rulec_compiler::object::{Object, PodAddresses};
use rulec_compiler::{Change, Origin};
use rulec_kubelet::Pod;
use tokio::time::Instant;

use crate::pods::pod::Raw;
use crate::pods::store::Store;
use crate::pods::{Event, Runner};

const KUBELET: Runner = Runner { origin: Origin::Kubelet, name: "kubelet", called: "the kubelet" };

const SETTLE: Duration = Duration::from_secs(15);

pub(super) struct Site {
    pub(super) store: Store,
    now: Instant,
}

impl Site {
    pub(super) fn new() -> Self {
        Self { store: Store::new(KUBELET, SETTLE), now: Instant::now() }
    }

    /// A store that has taken a first list.
    pub(super) fn with(pods: &[Pod]) -> Self {
        let mut site = Self::new();
        site.list(pods);
        site.changes();
        site
    }

    pub(super) fn take(&mut self, event: Event) {
        self.store.take(event, self.now);
    }

    pub(super) fn list(&mut self, pods: &[Pod]) {
        self.take(Event::Listing);
        pods.iter().for_each(|pod| self.take(put(pod)));
        self.take(Event::Listed);
    }

    pub(super) fn lose(&mut self) {
        self.take(Event::Lost("it is away".to_owned()));
    }

    /// Returns what there is to tell, as text.
    pub(super) fn changes(&mut self) -> Vec<String> {
        let changes = self.store.news().changes.into_iter();
        changes
            .map(|change| match change {
                Change::Apply(sourced) => shown(&sourced.object),
                Change::Remove(key) => format!("without {key}"),
                Change::Replace { objects, .. } => {
                    let all: Vec<_> = objects.iter().map(|it| shown(&it.object)).collect();
                    format!("all: {}", all.join(" "))
                }
            })
            .collect()
    }

    pub(super) fn problems(&self) -> Vec<String> {
        self.store.problems().iter().map(ToString::to_string).collect()
    }

    pub(super) fn settle(&mut self) {
        self.now = self.store.held_until().expect("something is held");
        self.store.let_go();
    }
}

/// Name, addresses and whether it is ready, as in `web@10.0.0.1+`.
fn shown(object: &Object) -> String {
    let Object::Pod(pod) = object else { panic!("{object:?}") };
    let addresses = match &pod.addresses {
        PodAddresses::Own(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        PodAddresses::Node => "node".to_owned(),
    };
    let ready = if pod.conditions.ready { "+" } else { "-" };
    format!("{}@{addresses}{ready}", pod.key.name)
}

pub(super) fn put(pod: &Pod) -> Event {
    Event::Pod(Raw::Protobuf(pod.protobuf().into()))
}

pub(super) fn deleted(pod: &Pod) -> Event {
    Event::Deleted(Raw::Protobuf(pod.identity().into()))
}

/// A Pod whose status cannot be decoded.
pub(super) fn broken(pod: &Pod) -> Event {
    let bytes = [&pod.protobuf()[..], &[3 << 3 | 2, 2, 0x0a, 9]].concat();
    Event::Pod(Raw::Protobuf(bytes.into()))
}

pub(super) fn garbage() -> Event {
    Event::Pod(Raw::Protobuf(vec![0xff; 9].into()))
}

pub(super) fn web() -> Pod {
    Pod::of_file("web", &["10.0.0.1"])
}

pub(super) fn db() -> Pod {
    Pod::new("db", &["10.0.0.2"])
}

#[test]
fn the_first_list_replaces_and_events_change() {
    let mut site = Site::new();
    site.take(Event::Listing);
    site.take(put(&web()));
    assert_eq!(site.changes(), [""; 0], "half a list says nothing");
    site.take(put(&db()));
    site.take(Event::Listed);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    site.take(put(&db()));
    let news = site.store.news();
    assert_eq!((news.changes.len(), news.suppressed), (0, 1));
    site.take(put(&Pod { ready: Some(false), ..db() }));
    assert_eq!(site.changes(), ["db@10.0.0.2-"]);
    site.take(deleted(&web()));
    assert_eq!(site.changes(), ["without Pod default/web"]);
    site.take(deleted(&web()));
    assert_eq!(site.changes(), [""; 0]);
}

#[test]
fn an_empty_first_list_is_told_as_well() {
    let mut site = Site::new();
    site.list(&[]);
    assert_eq!(site.changes(), ["all: "]);
}

#[test]
fn the_end_of_a_pod_is_not_that_of_its_successor() {
    let mut site = Site::with(&[web()]);
    let next = Pod { uid: "next".to_owned(), ready: Some(false), addresses: Vec::new(), ..web() };
    site.take(put(&next));
    assert_eq!(site.changes(), [""; 0], "the old one serves until the new one is ready");
    site.take(deleted(&web()));
    assert_eq!(site.changes(), ["web@-"]);
    site.take(put(&Pod { addresses: vec!["10.0.0.9".to_owned()], ready: Some(true), ..next }));
    assert_eq!(site.changes(), ["web@10.0.0.9+"]);
    // In the other order.
    let third = Pod { uid: "third".to_owned(), ..web() };
    site.take(put(&third));
    assert_eq!(site.changes(), ["web@10.0.0.1+"], "of two that are ready, the newer one");
    site.take(deleted(&Pod { uid: "next".to_owned(), ..web() }));
    assert_eq!(site.changes(), [""; 0]);
}

#[test]
fn what_is_away_stays() {
    let mut site = Site::with(&[web(), db()]);
    site.lose();
    assert_eq!(site.changes(), [""; 0]);
    assert_eq!(site.problems(), ["kubelet: it is away; its Pods stay as they were"]);
    // A list that breaks off says nothing.
    site.take(Event::Listing);
    site.take(put(&db()));
    site.lose();
    assert_eq!(site.changes(), [""; 0]);
    site.list(&[web(), db()]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    assert_eq!(site.problems(), [""; 0]);
}

#[test]
fn a_kubelet_that_returns_has_time_to_find_its_pods_again() {
    let mut site = Site::with(&[web(), db()]);
    site.lose();
    site.list(&[]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    // Its containers are found one after the other.
    let pending = Pod { addresses: Vec::new(), ready: None, phase: "Pending".to_owned(), ..web() };
    site.take(put(&pending));
    assert_eq!(site.changes(), [""; 0]);
    site.take(put(&Pod { ready: Some(false), ..web() }));
    assert_eq!(site.changes(), [""; 0]);
    site.take(put(&Pod { addresses: vec!["10.0.0.7".to_owned()], ..web() }));
    assert_eq!(site.changes(), ["web@10.0.0.7+"]);
    // What it has not found by then is gone.
    site.settle();
    assert_eq!(site.changes(), ["without Pod default/db"]);
    // From then on, it is believed.
    site.take(put(&Pod { ready: Some(false), ..web() }));
    assert_eq!(site.changes(), ["web@10.0.0.1-"]);
}

/// As Kubernetes 1.36 does with a container that began less than ten seconds before the kubelet: it
/// counts as ready until its probe has a worker, and then as not ready until the first probe.
#[test]
fn a_returning_kubelet_that_finds_a_pod_ready_may_not_have_probed_it() {
    let mut site = Site::with(&[web(), db()]);
    let moved = |ready| Pod { ready: Some(ready), addresses: vec!["10.0.0.7".to_owned()], ..web() };
    site.lose();
    site.list(&[web(), db()]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    site.take(put(&Pod { ready: Some(false), ..web() }));
    assert_eq!(site.changes(), [""; 0]);
    site.take(put(&moved(true)));
    assert_eq!(site.changes(), ["web@10.0.0.7+"]);
    site.take(put(&moved(false)));
    assert_eq!(site.changes(), [""; 0]);
    site.take(put(&db()));
    site.settle();
    assert_eq!(site.changes(), ["web@10.0.0.7-"]);
}

/// A static Pod whose file goes and comes back, as Kubernetes 1.36 tells of it.
#[test]
fn a_static_pod_that_is_made_anew_has_the_uid_of_the_old_one() {
    let mut site = Site::with(&[web()]);
    let not_ready = |address: &str| Pod { ready: Some(false), ..Pod::of_file("web", &[address]) };
    site.take(put(&not_ready("10.0.0.1")));
    site.take(deleted(&web()));
    assert_eq!(site.changes(), ["without Pod default/web"]);
    // For a moment it has the address of the old one.
    site.take(put(&not_ready("10.0.0.1")));
    site.take(put(&Pod::of_file("web", &["10.0.0.6"])));
    assert_eq!(site.changes(), ["web@10.0.0.6+"]);
}

#[test]
fn a_kubelet_that_returns_only_for_a_moment_removes_nothing() {
    let mut site = Site::with(&[web(), db()]);
    for _ in 0..3 {
        site.lose();
        site.list(&[]);
        assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    }
    site.lose();
    assert_eq!((site.store.held_until(), site.changes()), (None, Vec::new()));
    site.list(&[web()]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    site.settle();
    assert_eq!(site.changes(), ["without Pod default/db"]);
}

#[test]
fn a_returning_kubelet_that_says_that_a_pod_is_gone_is_believed() {
    let mut site = Site::with(&[web(), db()]);
    site.lose();
    site.list(&[web(), Pod { ready: Some(false), ..db() }]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    site.take(deleted(&db()));
    assert_eq!(site.changes(), ["without Pod default/db"]);
    site.take(put(&Pod { is_deleting: true, ..web() }));
    assert_eq!(site.changes(), ["web@10.0.0.1-"]);
}

#[test]
fn without_an_absence_a_list_is_believed_at_once() {
    let mut site = Site::with(&[web(), db()]);
    site.list(&[web()]);
    assert_eq!(site.changes(), ["without Pod default/db"]);
    // Between two polls, a kubelet can begin anew unnoticed: then it has no Pod at all.
    site.list(&[]);
    assert_eq!(site.changes(), [""; 0]);
    site.settle();
    assert_eq!(site.changes(), ["without Pod default/web"]);
}

#[test]
fn a_pod_that_cannot_be_decoded_keeps_its_last_good_state() {
    let mut site = Site::with(&[web(), db()]);
    site.take(broken(&web()));
    assert_eq!(site.changes(), [""; 0]);
    let [problem] = &site.problems()[..] else { panic!("{:?}", site.problems()) };
    assert!(problem.starts_with("kubelet: Pod default/web-na: status: cannot be decoded"));
    assert_eq!(site.store.unread(), 0);
    // Also over a list, and under another UID.
    site.lose();
    site.take(Event::Listing);
    site.take(broken(&Pod { uid: "next".to_owned(), ..web() }));
    site.take(put(&db()));
    site.take(Event::Listed);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    site.settle();
    assert_eq!(site.changes(), [""; 0]);
    site.take(put(&Pod { uid: "next".to_owned(), ready: Some(false), ..web() }));
    assert_eq!((site.changes(), site.problems()), (vec!["web@10.0.0.1-".to_owned()], Vec::new()));
}

#[test]
fn a_pod_without_a_good_state_is_unread() {
    let mut site = Site::new();
    site.take(Event::Listing);
    site.take(broken(&web()));
    site.take(put(&db()));
    site.take(Event::Listed);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+"]);
    assert_eq!(site.store.unread(), 1);
    site.take(put(&web()));
    assert_eq!((site.changes(), site.store.unread()), (vec!["web@10.0.0.1+".to_owned()], 0));
}

#[test]
fn a_nameless_pod_in_a_list_removes_nothing() {
    let mut site = Site::with(&[web(), db()]);
    site.take(Event::Listing);
    site.take(put(&web()));
    site.take(garbage());
    site.take(Event::Listed);
    assert_eq!(site.changes(), [""; 0], "it may be the other one");
    assert_eq!((site.problems().len(), site.store.unread()), (1, 1));
    site.list(&[web()]);
    assert_eq!(site.changes(), ["without Pod default/db"]);
    assert_eq!((site.problems(), site.store.unread()), (Vec::new(), 0));
}

#[test]
fn a_nameless_pod_that_is_sent_again_and_again_is_said_once() {
    let mut site = Site::with(&[web()]);
    site.take(garbage());
    assert!(site.store.news().problems_changed);
    for event in [garbage(), Event::Deleted(Raw::Protobuf(vec![0xff; 9].into())), garbage()] {
        site.take(event);
        assert!(!site.store.news().problems_changed);
        assert_eq!((site.problems().len(), site.store.unread()), (1, 1));
    }
}

#[test]
fn two_pods_of_one_name_are_reported() {
    let site = &mut Site::with(&[
        web(),
        Pod { uid: "other".to_owned(), ..Pod::new("web", &["10.0.0.8"]) },
    ]);
    let [problem] = &site.problems()[..] else { panic!("{:?}", site.problems()) };
    let words = "kubelet: Pod default/web: the kubelet has default/web and default/web-na, one";
    assert!(problem.starts_with(words), "{problem}");
}

#[test]
fn an_earlier_state_stands_in_until_the_first_list() {
    let old = Site::with(&[web(), db()]);
    let mut site = Site::new();
    site.lose();
    site.store.remember(old.store.told().clone());
    site.store.stand_in();
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    // It was away, so it may not have found all of them yet.
    site.list(&[web()]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    assert_eq!(site.store.unread(), 1);
    site.settle();
    assert_eq!((site.changes(), site.store.unread()), (vec!["without Pod default/db".into()], 0));
}
