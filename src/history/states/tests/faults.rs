//! Files that are damaged, cannot be read, or cannot be removed.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn what_is_damaged_is_said_and_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let other = r#"{"apiVersion":"rulec.io/v9","kind":"States"}"#;
    fs::write(path("states-3.jsonl"), other.to_owned() + "\n").unwrap();
    fs::write(path("states-4.jsonl"), "").unwrap();
    fs::write(path(".states-5.jsonl.new"), "half").unwrap();
    fs::write(path("states-x.jsonl"), "of somebody else").unwrap();
    fs::write(path("states-99999999999.jsonl"), "of somebody else").unwrap();
    fs::create_dir(path("states-6.jsonl")).unwrap();
    let (mut states, mut complaints) = States::find(directory.path(), Bounds::default()).unwrap();
    complaints.sort();
    let [third, fourth, directories @ ..] = &complaints[..] else { panic!("{complaints:?}") };
    let known = "it is not of version rulec.io/v1alpha1: it begins with ";
    assert_eq!((third, fourth), (&complaint(3, known, other), &complaint(4, known, "")));
    assert!(directories.iter().any(|it| it.contains("this is a directory")), "{directories:?}");
    let left = || {
        let mut left: Vec<_> =
            fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        left.sort();
        left
    };
    assert_eq!(left().len(), 6, "another thread may be writing what looks like a half");
    let history = History::new(limits(99), tell_change);
    Daemon::start(&history, settings(), Vec::new());
    write(&mut states, &history.all());
    // Of another version is no damage.
    let expected = [
        "states-3.jsonl",
        "states-6.jsonl",
        "states-7.jsonl",
        "states-99999999999.jsonl",
        "states-x.jsonl",
    ];
    assert_eq!(left(), expected);
    // It counts, and goes when it is too old.
    assert!(states.segments[0].bytes > 0);
    let (written, complaints) = states.write(&history.all(), 1);
    assert!(written.is_ok() && complaints.is_empty(), "{written:?}: {complaints:?}");
    assert_eq!(left(), expected[1..]);
}

fn complaint(number: u64, known: &str, other: &str) -> String {
    format!("states-{number}.jsonl: {known}{other}")
}

/// Does something in a thread that has no more rights to files than anybody.
fn as_nobody<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Of this thread alone; with it go the rights of root to files of others.
            nix::unistd::setfsuid(nix::unistd::Uid::from_raw(65_534));
            act()
        });
        thread.join().unwrap()
    })
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// What cannot be read now may be read later.
#[test]
fn nothing_is_removed_because_it_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let history = History::new(limits(99), tell_change);
    let mut daemon = Daemon::start(&history, settings(), vec![of(served(1, 80))]);
    write(&mut States::find(path, Bounds::default()).unwrap().0, &history.all());
    let first = path.join("states-1.jsonl");
    allow(path, 0o755);
    allow(&first, 0);
    let (mut states, complaints) = as_nobody(|| States::find(path, Bounds::default())).unwrap();
    let said = "states-1.jsonl: Permission denied (os error 13)";
    assert_eq!(complaints, [said]);
    let size = fs::metadata(&first).unwrap().len();
    assert_eq!(states.segments[0].bytes, size, "it counts");
    daemon.change(of(endpoints(1, 3)));
    write(&mut states, &history.all()[1..]);
    assert_eq!(files(path).len(), 2);
    let after =
        |index: usize| After { id: history.all()[index].id, time: history.all()[index].time };
    let error = as_nobody(|| read(path, after(0))).unwrap_err();
    assert!(error.contains("its state cannot be read: /") && error.contains(said), "{error}");
    allow(&first, 0o600);
    assert!(read(path, after(0)).unwrap() == snapshots(&history, 1..=1)[0]);
    // If it is not even known what is there, nothing can take its place.
    allow(path, 0);
    let error = as_nobody(|| States::find(path, Bounds::default()).map(|_| ())).unwrap_err();
    allow(path, 0o700);
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    // Nor can it, if somebody has put it there since.
    fs::write(path.join("states-3.jsonl"), "of somebody else").unwrap();
    states.open = None;
    write(&mut states, &history.all()[1..]);
    assert_eq!(fs::read_to_string(path.join("states-3.jsonl")).unwrap(), "of somebody else");
    assert!(read(path, after(1)).unwrap() == snapshots(&history, 2..=2)[0]);
}

/// Others go in its place, and it is said once.
#[test]
fn a_file_that_cannot_be_removed_stops_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(999), tell_change);
    let objects = (1..20).flat_map(|number| [of(served(number, 80)), of(endpoints(number, 3))]);
    let mut daemon = Daemon::start(&history, settings(), objects.collect());
    let bounds = Bounds { total: 300_000, whole: 100_000, steps: 5_000 };
    let (mut states, _) = States::find(directory.path(), bounds).unwrap();
    write(&mut states, &history.all());
    // No file any more: the kernel refuses to remove it like one.
    let first = directory.path().join("states-1.jsonl");
    fs::remove_file(&first).unwrap();
    fs::create_dir(&first).unwrap();
    let mut said = Vec::new();
    for round in 0..200_u16 {
        daemon.change(of(endpoints(1 + round % 19, 1 + round % 7)));
        let all = history.all();
        let (written, complaints) = states.write(&all[all.len() - 1..], usize::MAX);
        assert!(written.unwrap().steps + states.open.as_ref().unwrap().whole > 0);
        said.extend(complaints);
        let total: u64 = states.segments.iter().map(|it| it.bytes).sum();
        assert!(total <= bounds.total, "{total}");
        assert_eq!(states.segments[0].number, 1);
    }
    assert_eq!(said, [format!("{}: Is a directory (os error 21)", first.display())]);
    assert!(states.segments.back().unwrap().number > 5);
    fs::remove_dir(&first).unwrap();
    write(&mut states, &history.all()[200..]);
    let newest = states.next;
    daemon.change(of(served(1, 81)));
    states.open = None;
    states.bounds.total = states.segments.iter().map(|it| it.bytes).sum();
    write(&mut states, &history.all()[201..]);
    assert_eq!(states.next, newest + 1);
    assert!(states.segments[0].number > 1 && states.stuck.is_empty(), "{states:?}");
    // If they leave no room at all, that is an error, and the bound holds.
    for segment in &states.segments {
        fs::remove_file(&segment.path).unwrap();
        fs::create_dir(&segment.path).unwrap();
    }
    states.open = None;
    let (written, complaints) = states.write(&history.all()[201..], usize::MAX);
    assert_eq!(written.unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(complaints.len(), states.segments.len());
}
