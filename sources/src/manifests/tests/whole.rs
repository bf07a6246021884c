//! A file that is taken as a whole: an error anywhere in it refuses all of it.

use std::time::{Duration, SystemTime};

use rulec_compiler::Change;

use super::{plain, write};
use crate::Manifests;

/// Long after every write, so that nothing may still be being written to.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

fn wrong(name: &str) -> String {
    plain(name, 80).replace("port: 80", "port: 70000")
}

fn names(manifests: &Manifests) -> Vec<String> {
    manifests.objects().map(|sourced| sourced.object.key().to_string()).collect()
}

fn problems(manifests: &Manifests) -> Vec<String> {
    manifests.problems().iter().map(ToString::to_string).collect()
}

#[test]
fn one_error_refuses_all_of_it_and_the_last_good_content_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.yaml");
    let set = |text: &str| write(directory.path(), "state.yaml", text);
    let both = [plain("a", 80), plain("b", 80)].join("---\n");
    set(&both);
    let mut manifests = Manifests::new(path.clone()).whole();
    let first = manifests.rescan(later());
    assert!(matches!(&first.changes[..], [Change::Replace { objects, .. }] if objects.len() == 2));
    assert_eq!((problems(&manifests), first.unread), (Vec::new(), 0));
    // A new Service would be served, and the old one would go, if each object counted for itself.
    let half = [plain("c", 80), wrong("b")].join("---\n");
    set(&half);
    let scan = manifests.rescan(later());
    assert_eq!(scan.changes, []);
    assert_eq!(names(&manifests), ["Service default/a", "Service default/b"]);
    let told = problems(&manifests);
    assert!(told.iter().any(|it| it.contains("spec.ports[0].port: 70000")), "{told:?}");
    let all = "state.yaml: nothing of it is used, because of an error; its last good content stays";
    assert!(told.iter().any(|it| it.ends_with(all)), "{told:?}");
    // Nothing that is read is an error, too: it may be the answer of a program that has failed.
    set("apiVersion: v1\nkind: Status\n");
    manifests.rescan(later());
    assert_eq!(names(&manifests).len(), 2);
    assert!(problems(&manifests)[0].contains("has no object of a kind that is read"));
    // What is repaired counts.
    set(&[plain("c", 80), plain("b", 70)].join("---\n"));
    let scan = manifests.rescan(later());
    assert_eq!(scan.changes.len(), 3, "{scan:?}");
    assert_eq!(names(&manifests), ["Service default/b", "Service default/c"]);
    assert_eq!(problems(&manifests), Vec::<String>::new());
    set("# Nothing is to be served.\n");
    manifests.rescan(later());
    assert_eq!(names(&manifests), Vec::<String>::new());
}

#[test]
fn a_start_with_an_error_knows_that_objects_are_missing() {
    let directory = tempfile::tempdir().unwrap();
    let half = [plain("c", 80), wrong("b")].join("---\n");
    write(directory.path(), "state.yaml", &half);
    let mut manifests = Manifests::new(directory.path().join("state.yaml")).whole();
    let first = manifests.rescan(later());
    assert_eq!((names(&manifests), first.unread), (Vec::new(), 1));
    let told = problems(&manifests);
    assert!(told.iter().any(|it| it.ends_with("nothing of it is used, because of an error")));
}

#[test]
fn a_part_that_would_be_left_out_refuses_all_of_it_too() {
    let directory = tempfile::tempdir().unwrap();
    let set = |text: &str| write(directory.path(), "state.yaml", text);
    set(&[plain("a", 80), plain("b", 80)].join("---\n"));
    let mut manifests = Manifests::new(directory.path().join("state.yaml")).whole();
    manifests.rescan(later());
    // Of so many problems, the error is not kept.
    let unknown = |name: &str| plain(name, 80).replace("spec:", "odd: 1\nspec:");
    let warned: Vec<String> = (0..101).map(|number| unknown(&format!("c{number}"))).collect();
    let late = [warned.join("---\n"), wrong("b")].join("---\n");
    let no_kind = [plain("a", 80), plain("b", 80).replace("kind: Service\n", "")].join("---\n");
    let items = "apiVersion: v1\nkind: List\nitems:\n- metadata: {name: a}\n";
    let old = "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\n\
               metadata: {name: a}\naddressType: IPv4\nendpoints: []\n";
    let old = [plain("a", 80), plain("b", 80), old.to_owned()].join("---\n");
    for text in [&late, &no_kind, items, &old] {
        set(text);
        assert_eq!(manifests.rescan(later()).changes, [], "{text}");
        assert_eq!(names(&manifests), ["Service default/a", "Service default/b"]);
        let all = "because a part of it would be left out; its last good content stays";
        let told = problems(&manifests);
        assert!(told.iter().any(|it| it.ends_with(all)), "{told:?}");
    }
    // Other warnings refuse nothing, however many there are.
    set(&warned.join("---\n"));
    manifests.rescan(later());
    assert_eq!((names(&manifests).len(), manifests.problems().len()), (101, 101));
}
