//! A kubelet that begins anew, or a rulec that does, and Pods that are deleted meanwhile.

use rulec_kubelet::Pod;

use super::store::{Site, broken, db, deleted, put, web};
use crate::pods::Event;

/// A Pod as a kubelet has it that has just begun.
fn new(pod: &Pod) -> Pod {
    let (addresses, phase) = (Vec::new(), "Pending".to_owned());
    Pod { addresses, ready: None, phase, ..pod.clone() }
}

fn of_uid(uid: &str, pod: Pod) -> Pod {
    Pod { uid: uid.to_owned(), ..pod }
}

/// Returns a store to which an earlier run has left these Pods.
fn remembering(pods: &[Pod]) -> Site {
    let mut site = Site::new();
    site.store.remember(Site::with(pods).store.told().clone());
    site
}

#[test]
fn a_kubelet_that_has_begun_anew_between_two_lists_is_noticed() {
    let mut site = Site::with(&[web(), db()]);
    // It has not read the manifest of the other one yet.
    site.list(&[new(&web())]);
    assert_eq!((site.changes(), site.store.unread()), (Vec::new(), 1));
    site.list(&[new(&web()), new(&db())]);
    assert_eq!(site.changes(), [""; 0]);
    site.list(&[web(), Pod { ready: Some(false), ..db() }]);
    assert_eq!(site.changes(), [""; 0]);
    // Its next lists do not begin the wait anew.
    site.settle();
    assert_eq!((site.changes(), site.store.unread()), (vec!["db@10.0.0.2-".to_owned()], 0));
}

#[test]
fn a_pod_that_is_new_in_a_list_is_no_sign_that_the_kubelet_is() {
    let mut site = Site::with(&[web()]);
    // A manifest that has changed: another UID.
    site.list(&[of_uid("next", new(&web())), new(&db())]);
    assert_eq!(site.changes(), ["db@-", "web@-"]);
    site.list(&[of_uid("next", web()), new(&db())]);
    assert_eq!(site.changes(), ["web@10.0.0.1+"]);
    assert_eq!(site.store.unread(), 0);
}

#[test]
fn the_first_list_of_a_kubelet_that_has_just_begun_takes_nothing_from_an_earlier_run() {
    let mut site = remembering(&[web(), db()]);
    assert_eq!(site.changes(), [""; 0], "nothing is told before the list or the wait for it ends");
    site.list(&[new(&web())]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    assert_eq!(site.store.unread(), 1);
    site.take(put(&Pod { addresses: vec!["10.0.0.7".to_owned()], ..web() }));
    assert_eq!(site.changes(), ["web@10.0.0.7+"]);
    site.settle();
    assert_eq!(site.changes(), ["without Pod default/db"]);
}

#[test]
fn a_first_list_with_all_pods_of_an_earlier_run_is_believed_at_once() {
    let mut site = remembering(&[web(), Pod { ready: Some(false), ..db() }]);
    site.list(&[web()]);
    assert_eq!(site.changes(), ["all: web@10.0.0.1+"]);
    assert_eq!((site.store.unread(), site.store.held_until()), (0, None));
}

#[test]
fn a_pod_that_is_broken_at_a_start_has_its_state_of_an_earlier_run() {
    let mut site = remembering(&[web()]);
    site.take(Event::Listing);
    site.take(broken(&web()));
    site.take(Event::Listed);
    assert_eq!(site.changes(), ["all: web@10.0.0.1+"]);
    assert_eq!((site.store.unread(), site.problems().len()), (0, 1));
}

#[test]
fn a_deletion_in_the_middle_of_a_list_is_believed() {
    // Before its Pod, after it, and without it.
    let orders =
        [vec![deleted(&web()), put(&db())], vec![put(&web()), deleted(&web()), put(&db())]];
    for order in orders {
        let mut site = Site::with(&[web(), db()]);
        site.lose();
        site.take(Event::Listing);
        order.into_iter().for_each(|event| site.take(event));
        site.take(Event::Listed);
        assert_eq!(site.changes(), ["all: db@10.0.0.2+"]);
    }
    // Also if the list breaks off, and before any list, where nothing is told before all is.
    let sites = [
        (Site::with(&[web(), db()]), vec!["without Pod default/web"]),
        (remembering(&[web(), db()]), vec![]),
    ];
    for (mut site, expected) in sites {
        site.take(Event::Listing);
        site.take(deleted(&web()));
        assert_eq!(site.changes(), expected);
        site.lose();
        site.list(&[]);
        assert_eq!(site.changes(), ["all: db@10.0.0.2+"]);
    }
    // All at once.
    let mut site = Site::with(&[web(), db()]);
    site.take(Event::Listing);
    site.take(deleted(&web()));
    site.lose();
    site.list(&[]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+"]);
}

#[test]
fn a_pod_that_comes_after_its_deletion_is_there() {
    // A static Pod has the UID of its manifest: the same file has the same one.
    let mut site = Site::with(&[web()]);
    site.lose();
    site.take(Event::Listing);
    site.take(deleted(&web()));
    site.take(put(&new(&web())));
    site.take(Event::Listed);
    assert_eq!(site.changes(), ["all: web@-"], "it is another one, so nothing of it is kept");
}

#[test]
fn a_held_pod_that_the_kubelet_does_not_have_can_be_deleted() {
    let mut site = Site::with(&[web(), db()]);
    site.lose();
    site.list(&[db()]);
    assert_eq!(site.changes(), ["all: db@10.0.0.2+ web@10.0.0.1+"]);
    // One that had this name before, of which nobody knows.
    site.take(deleted(&of_uid("before", web())));
    assert_eq!(site.changes(), [""; 0]);
    site.take(deleted(&web()));
    assert_eq!(site.changes(), ["without Pod default/web"]);
}

#[test]
fn the_end_of_a_held_pod_is_not_that_of_its_successor() {
    let mut site = Site::with(&[web()]);
    site.lose();
    let next = of_uid("next", Pod { addresses: vec!["10.0.0.9".to_owned()], ..web() });
    site.list(&[Pod { ready: Some(false), ..next.clone() }]);
    assert_eq!(site.changes(), ["all: web@10.0.0.1+"]);
    site.take(deleted(&web()));
    assert_eq!(site.changes(), ["web@10.0.0.9-"], "the old one is gone, the new one is not ready");
    site.take(put(&next));
    assert_eq!(site.changes(), ["web@10.0.0.9+"]);
    // The old one again, while the new one is held.
    site.lose();
    site.list(&[]);
    site.take(deleted(&web()));
    assert_eq!(site.changes(), ["all: web@10.0.0.9+"]);
}
