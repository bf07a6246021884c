//! Tests with the real inotify. They do not assert how long anything takes: the limits only turn a
//! hang into a failure, and rescans are so rare that a change can only be seen because of an event.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, Event, EventKind, Flag, ModifyKind, RenameMode,
};
use rulec_compiler::Change;
use rulec_compiler::object::{Object, ObjectKey};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{plain, write};
use crate::manifests::outlet::Outlet;
use crate::manifests::signal::{Signal, Touched, Woken};
use crate::manifests::watch::{Hearing, sort_event};
use crate::{ManifestOptions, ManifestRoots, ManifestSource, SourceError, Update};

const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const NEVER: Duration = Duration::from_secs(100_000);

/// A running source and the updates it has sent so far.
pub(super) struct Running {
    updates: mpsc::Receiver<Update>,
    task: JoinHandle<Result<(), SourceError>>,
    known: BTreeMap<ObjectKey, u16>,
    pub(super) seen: Vec<Update>,
}

impl Running {
    async fn start(path: PathBuf) -> Self {
        Self::with(path, ManifestOptions { rescan: NEVER, ..ManifestOptions::default() }).await
    }

    /// Starts a source and waits for its first complete list.
    pub(super) async fn with(path: PathBuf, options: ManifestOptions) -> Self {
        Self::signalled(path, options, Arc::default()).await
    }

    /// Like [`with`](Self::with), with access to its signal.
    pub(super) async fn signalled(
        path: PathBuf,
        options: ManifestOptions,
        signal: Arc<Signal>,
    ) -> Self {
        Self::of(ManifestSource::new(path, options), signal).await
    }

    async fn of(source: ManifestSource, signal: Arc<Signal>) -> Self {
        let (out, updates) = mpsc::channel(16);
        let task = tokio::spawn(source.run_with(signal, Outlet::plain(out)));
        let mut running = Self { updates, task, known: BTreeMap::new(), seen: Vec::new() };
        running.next().await;
        let first = &running.seen[0];
        assert!(first.complete == matches!(first.changes[..], [Change::Replace { .. }]));
        running
    }

    async fn next(&mut self) {
        let update = tokio::time::timeout(PATIENCE, self.updates.recv()).await;
        let update = update.expect("no update was sent").expect("the source ended");
        for change in &update.changes {
            match change {
                Change::Apply(sourced) => {
                    self.known.insert(sourced.object.key(), port(&sourced.object));
                }
                Change::Remove(key) => {
                    self.known.remove(key);
                }
                Change::Replace { objects: all, .. } => {
                    self.known =
                        all.iter().map(|one| (one.object.key(), port(&one.object))).collect();
                }
            }
        }
        self.seen.push(update);
    }

    /// Waits until exactly these Services are known.
    pub(super) async fn until(&mut self, want: &[(&str, u16)]) {
        let want: BTreeMap<_, _> = want
            .iter()
            .map(|(name, port)| {
                (
                    ObjectKey::Service(rulec_compiler::name::NamespacedName::new("default", *name)),
                    *port,
                )
            })
            .collect();
        while self.known != want {
            self.next().await;
        }
    }

    /// Drops the receiver and waits for the end.
    pub(super) async fn stop(self) {
        drop(self.updates);
        let end = tokio::time::timeout(PATIENCE, self.task).await;
        assert!(matches!(end, Ok(Ok(Ok(())))), "{end:?}");
    }
}

fn port(object: &Object) -> u16 {
    let Object::Service(service) = object else { panic!("{object:?}") };
    service.ports[0].port.get()
}

/// Writes a file under another name and renames it into place.
pub(super) fn put(directory: &Path, name: &str, text: &str) {
    let temporary = directory.join(".new");
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, directory.join(name)).unwrap();
}

#[tokio::test]
async fn changes_in_a_directory_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    write(directory.path(), "a.yaml", &plain("a", 1));
    let mut running = Running::start(directory.path().to_owned()).await;
    running.until(&[("a", 1)]).await;
    put(directory.path(), "b.yaml", &plain("b", 1));
    running.until(&[("a", 1), ("b", 1)]).await;
    write(directory.path(), "a.yaml", &plain("a", 2));
    running.until(&[("a", 2), ("b", 1)]).await;
    std::fs::rename(directory.path().join("a.yaml"), directory.path().join("c.yaml")).unwrap();
    std::fs::remove_file(directory.path().join("b.yaml")).unwrap();
    running.until(&[("a", 2)]).await;
    let removed = running.seen.iter().flat_map(|update| &update.changes);
    let removed = removed.filter(|change| matches!(change, Change::Remove(_))).count();
    assert_eq!(removed, 1, "only b was removed");
    running.stop().await;
}

#[tokio::test]
async fn problems_are_reported_when_they_appear_and_disappear() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "a.yaml", &plain("a", 1));
    let mut running = Running::start(directory.path().to_owned()).await;
    put(directory.path(), "a.yaml", "a: [");
    running.next().await;
    let update = running.seen.last().unwrap();
    assert_eq!((update.changes.len(), update.problems.len()), (0, 1));
    put(directory.path(), "a.yaml", &plain("a", 1));
    running.next().await;
    let update = running.seen.last().unwrap();
    assert_eq!((update.changes.len(), update.problems.len()), (0, 0));
    running.stop().await;
}

#[tokio::test]
async fn suppressed_updates_are_reported() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "a.yaml", &plain("a", 1));
    let mut running = Running::start(directory.path().to_owned()).await;
    put(directory.path(), "a.yaml", &format!("# the same\n{}", plain("a", 1)));
    running.next().await;
    let update = running.seen.last().unwrap();
    assert_eq!((update.changes.len(), update.suppressed), (0, 1));
    running.stop().await;
}

#[tokio::test]
async fn an_empty_directory_yields_an_empty_list() {
    let directory = tempfile::tempdir().unwrap();
    let running = Running::start(directory.path().to_owned()).await;
    assert!(running.known.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_directory_may_appear_disappear_and_be_replaced() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    let mut running = Running::start(path.clone()).await;
    assert!(running.known.is_empty());
    for round in 1..4 {
        std::fs::create_dir(&path).unwrap();
        write(&path, "a.yaml", &plain("a", round));
        running.until(&[("a", round)]).await;
        put(&path, "b.yaml", &plain("b", round));
        running.until(&[("a", round), ("b", round)]).await;
        std::fs::remove_file(path.join("b.yaml")).unwrap();
        running.until(&[("a", round)]).await;
        std::fs::rename(&path, parent.path().join(format!("old-{round}"))).unwrap();
        running.next().await;
        let update = running.seen.last().unwrap();
        assert_eq!((update.changes.len(), update.problems.len()), (0, 1));
    }
    std::fs::create_dir(&path).unwrap();
    write(&path, "a.yaml", &plain("a", 10));
    running.until(&[("a", 10)]).await;
    let next = parent.path().join("next");
    std::fs::create_dir(&next).unwrap();
    write(&next, "a.yaml", &plain("a", 11));
    std::fs::rename(&path, parent.path().join("last")).unwrap();
    std::fs::rename(&next, &path).unwrap();
    running.until(&[("a", 11)]).await;
    put(&path, "a.yaml", &plain("a", 12));
    running.until(&[("a", 12)]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_parent_directory_may_be_missing() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("x/y/manifests");
    let mut running = Running::start(path.clone()).await;
    std::fs::create_dir_all(&path).unwrap();
    put(&path, "a.yaml", &plain("a", 1));
    running.until(&[("a", 1)]).await;
    put(&path, "a.yaml", &plain("a", 2));
    running.until(&[("a", 2)]).await;
    // The directory is missing for a moment, with all its files.
    let seen = running.seen.len();
    std::fs::rename(parent.path().join("x"), parent.path().join("away")).unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    std::fs::rename(parent.path().join("away"), parent.path().join("x")).unwrap();
    put(&path, "a.yaml", &plain("a", 3));
    running.until(&[("a", 3)]).await;
    let removals = running.seen[seen..].iter().flat_map(|update| &update.changes);
    assert_eq!(removals.filter(|change| matches!(change, Change::Remove(_))).count(), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_directory_behind_a_link_may_be_swapped() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("manifests");
    for version in 1..4 {
        let directory = parent.path().join(format!("v{version}"));
        std::fs::create_dir(&directory).unwrap();
        write(&directory, "a.yaml", &plain("a", version));
    }
    symlink("v1", &path).unwrap();
    let mut running = Running::start(path.clone()).await;
    running.until(&[("a", 1)]).await;
    for version in 2..4 {
        symlink(format!("v{version}"), parent.path().join("new")).unwrap();
        std::fs::rename(parent.path().join("new"), &path).unwrap();
        running.until(&[("a", version)]).await;
    }
    put(&parent.path().join("v3"), "a.yaml", &plain("a", 9));
    running.until(&[("a", 9)]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let version = |name: &str, port| {
        std::fs::create_dir(path.join(name)).unwrap();
        write(&path.join(name), "a.yaml", &plain("a", port));
        symlink(name, path.join("..data_tmp")).unwrap();
        std::fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    };
    version("..1", 1);
    symlink("..data/a.yaml", path.join("a.yaml")).unwrap();
    let mut running = Running::start(path.to_owned()).await;
    running.until(&[("a", 1)]).await;
    version("..2", 2);
    running.until(&[("a", 2)]).await;
    version("..3", 3);
    running.until(&[("a", 3)]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_single_file_may_be_replaced_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("one.yaml");
    put(directory.path(), "one.yaml", &plain("a", 1));
    let mut running = Running::start(path.clone()).await;
    running.until(&[("a", 1)]).await;
    for port in 2..5 {
        put(directory.path(), "one.yaml", &plain("a", port));
        running.until(&[("a", port)]).await;
        std::fs::write(&path, plain("a", port + 100)).unwrap();
        running.until(&[("a", port + 100)]).await;
    }
    // Deleting the file may be a mistake; a file without objects means that nothing is to be
    // served.
    std::fs::remove_file(&path).unwrap();
    running.next().await;
    assert_eq!((running.known.len(), running.seen.last().unwrap().problems.len()), (1, 1));
    put(directory.path(), "one.yaml", "# Nothing.\n");
    running.until(&[]).await;
    put(directory.path(), "one.yaml", &plain("a", 9));
    running.until(&[("a", 9)]).await;
    running.stop().await;
}

#[tokio::test]
async fn an_emptied_file_is_accepted_without_another_event() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "a.yaml", &plain("a", 1));
    let mut running = Running::start(directory.path().to_owned()).await;
    std::fs::write(directory.path().join("a.yaml"), "\n").unwrap();
    running.until(&[]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_rescan_finds_changes_without_an_event() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    write(elsewhere.path(), "a.yaml", &plain("a", 1));
    symlink(elsewhere.path().join("a.yaml"), directory.path().join("a.yaml")).unwrap();
    let rescan = Duration::from_millis(50);
    let options = ManifestOptions { rescan, ..ManifestOptions::default() };
    let mut running = Running::with(directory.path().to_owned(), options).await;
    write(elsewhere.path(), "a.yaml", &plain("a", 2));
    running.until(&[("a", 2)]).await;
    running.stop().await;
}

#[tokio::test]
async fn lost_events_cause_a_full_read() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    write(elsewhere.path(), "a.yaml", &plain("a", 1));
    symlink(elsewhere.path().join("a.yaml"), directory.path().join("a.yaml")).unwrap();
    let signal = Arc::new(Signal::default());
    let options = ManifestOptions { rescan: NEVER, ..ManifestOptions::default() };
    let mut running =
        Running::signalled(directory.path().to_owned(), options, signal.clone()).await;
    running.until(&[("a", 1)]).await;
    // Nothing happens in the directory, so only the lost events can be a reason to look.
    write(elsewhere.path(), "a.yaml", &plain("a", 2));
    signal.touch(|touched| touched.lost = true);
    running.until(&[("a", 2)]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_flood_of_events_does_not_prevent_scans() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::start(directory.path().to_owned()).await;
    let path = directory.path().to_owned();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let noise = std::thread::spawn(move || {
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            write(&path, "noise", "# nothing\n");
        }
    });
    put(directory.path(), "a.yaml", &plain("a", 1));
    running.until(&[("a", 1)]).await;
    stop.send(()).unwrap();
    noise.join().unwrap();
    running.stop().await;
}

#[tokio::test]
async fn a_scan_does_not_trigger_another_scan() {
    let directory = tempfile::tempdir().unwrap();
    put(directory.path(), "a.yaml", &plain("a", 1));
    let mut running = Running::start(directory.path().to_owned()).await;
    for port in 2..6 {
        put(directory.path(), "a.yaml", &plain("a", port));
        running.until(&[("a", port)]).await;
    }
    // One update for the start and one for each change, even after a long wait.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(running.updates.try_recv().is_err());
    assert_eq!(running.seen.len(), 5);
    running.stop().await;
}

/// The target of a link may change elsewhere, which inotify does not report.
#[tokio::test]
async fn a_nudge_reads_all_files_at_once() {
    let (directory, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(elsewhere.path(), "web.yaml", &plain("web", 1));
    let target = elsewhere.path().join("web.yaml");
    symlink(&target, directory.path().join("web.yaml")).unwrap();
    let (out, mut updates) = mpsc::channel(16);
    let options = ManifestOptions { rescan: NEVER, ..ManifestOptions::default() };
    let source = ManifestRoots::new(vec![directory.path().to_owned()], options);
    let nudge = source.nudge();
    let task = tokio::spawn(source.run(out));
    let first = tokio::time::timeout(PATIENCE, updates.recv()).await.unwrap().unwrap();
    assert!(matches!(first.changes[..], [Change::Replace { .. }]));
    put(elsewhere.path(), "web.yaml", &plain("web", 2));
    assert!(tokio::time::timeout(Duration::from_millis(200), updates.recv()).await.is_err());
    nudge.look();
    let update = tokio::time::timeout(PATIENCE, updates.recv()).await.unwrap().unwrap();
    let [Change::Apply(web)] = &update.changes[..] else { panic!("{update:?}") };
    assert_eq!(port(&web.object), 2);
    drop(updates);
    assert!(matches!(task.await, Ok(Ok(()))));
}

/// If the source went on by polling only, it would seem healthy and stay slow for ever.
#[tokio::test]
async fn the_source_ends_if_its_watcher_thread_dies() {
    let directory = tempfile::tempdir().unwrap();
    let signal = Arc::new(Signal::default());
    let options = ManifestOptions { rescan: NEVER, ..ManifestOptions::default() };
    let running = Running::signalled(directory.path().to_owned(), options, signal.clone()).await;
    // The thread panics while it holds what the handler of events holds.
    let hearing = Hearing(signal.clone());
    let thread = std::thread::spawn(move || {
        let _hearing = hearing;
        panic!("on purpose");
    });
    assert!(thread.join().is_err());
    let end = tokio::time::timeout(PATIENCE, running.task).await.unwrap().unwrap();
    assert!(matches!(end, Err(SourceError::Deaf)), "{end:?}");
    // Dropping it because it is not needed any more is no failure.
    let signal = Arc::new(Signal::default());
    drop(Hearing(signal.clone()));
    assert!(!signal.has_failed());
}

#[tokio::test]
async fn dropping_the_future_ends_the_thread() {
    let directory = tempfile::tempdir().unwrap();
    let (out, mut updates) = mpsc::channel(16);
    let source = ManifestSource::new(directory.path().to_owned(), ManifestOptions::default());
    let task = tokio::spawn(source.run(out));
    assert!(updates.recv().await.is_some());
    task.abort();
    let end = tokio::time::timeout(PATIENCE, updates.recv()).await.unwrap();
    assert!(end.is_none(), "the thread held the channel open");
}

#[tokio::test]
async fn a_slow_receiver_gets_everything() {
    let directory = tempfile::tempdir().unwrap();
    let (out, mut updates) = mpsc::channel(1);
    let options = ManifestOptions {
        rescan: NEVER,
        settle: Duration::from_millis(1),
        ..ManifestOptions::default()
    };
    let task = tokio::spawn(ManifestSource::new(directory.path().to_owned(), options).run(out));
    for number in 1..50 {
        put(directory.path(), &format!("f{number}.yaml"), &plain(&format!("s{number}"), 1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut known = 0;
    while known < 49 {
        let update = tokio::time::timeout(PATIENCE, updates.recv()).await.unwrap().unwrap();
        for change in update.changes {
            match change {
                Change::Replace { objects: all, .. } => known = all.len(),
                Change::Apply(_) => known += 1,
                Change::Remove(key) => panic!("{key}"),
            }
        }
    }
    drop(updates);
    assert!(matches!(task.await, Ok(Ok(()))));
}

#[test]
fn events_are_classified_by_kind_and_path() {
    let root = Path::new("/x/manifests");
    let sort = |event: Event| {
        let mut touched = Touched::default();
        sort_event(root, event, &mut touched);
        touched
    };
    let event = |kind, path: &str| Event::new(kind).add_path(path.into());
    let names = |names: &[&str]| Touched {
        names: names.iter().map(Into::into).collect(),
        ..Touched::default()
    };
    let write = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    let rename = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    let create = EventKind::Create(CreateKind::Any);
    let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
    assert_eq!(sort(event(write, "/x/manifests/a.yaml")), names(&["a.yaml"]));
    assert_eq!(sort(event(close, "/x/manifests/a.yaml")), names(&["a.yaml"]));
    let both = event(rename, "/x/manifests/a").add_path("/x/manifests/b".into());
    assert_eq!(sort(both), names(&["a", "b"]));
    for kind in
        [AccessKind::Open(AccessMode::Any), AccessKind::Close(AccessMode::Read), AccessKind::Read]
    {
        assert!(sort(event(EventKind::Access(kind), "/x/manifests/a.yaml")).is_empty());
    }
    assert!(sort(event(create, "/x/other")).is_empty());
    let listing = Touched { listing: true, ..Touched::default() };
    assert_eq!(sort(event(write, "/x/manifests")), listing);
    assert_eq!(sort(event(create, "/x/manifests")), Touched { moved: true, ..listing });
    let overflow = Event::new(EventKind::Other).set_flag(Flag::Rescan);
    assert_eq!(sort(overflow), Touched { lost: true, ..Touched::default() });
}

#[test]
fn too_many_names_become_a_listing() {
    let mut touched = Touched::default();
    for number in 0..10_000 {
        touched.add(number.to_string().into());
    }
    assert!(touched.listing);
    assert_eq!(touched.names.len(), 4096);
}

#[test]
fn an_event_between_taking_and_waiting_is_not_lost() {
    let signal = Signal::default();
    signal.touch(|touched| touched.listing = true);
    let (touched, count) = signal.take();
    assert!(touched.listing);
    let soon = Instant::now() + Duration::from_millis(1);
    assert_eq!(signal.wait(count, soon), Woken::Time);
    signal.touch(|touched| touched.lost = true);
    assert_eq!(signal.wait(count, Instant::now() + PATIENCE), Woken::Event);
    signal.stop();
    assert_eq!(signal.wait(count, Instant::now() + PATIENCE), Woken::Stop);
}

/// Each new file is too young to be read at once.
#[tokio::test]
async fn a_file_replaced_every_three_milliseconds_is_seen_soon() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    put(&path, "a.yaml", &plain("a", 1));
    let mut running = Running::start(path.clone()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let stop = stop.clone();
        move || {
            for port in (2..60_000).cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                put(&path, "a.yaml", &plain("a", port));
                std::thread::sleep(Duration::from_millis(3));
            }
        }
    });
    let began = Instant::now();
    while running.known.values().all(|port| *port == 1) {
        running.next().await;
    }
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    assert!(took < Duration::from_secs(3), "{took:?}");
    running.stop().await;
}

/// The first attempts fail as if the user's inotify instances were used up.
#[tokio::test]
async fn exhausted_inotify_is_retried() {
    static ATTEMPTS: AtomicUsize = AtomicUsize::new(0);
    let make = |path: &Path, signal: &Arc<Signal>| {
        if ATTEMPTS.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch));
        }
        crate::manifests::watch::watcher(path, signal)
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    put(&path, "a.yaml", &plain("a", 1));
    let options = ManifestOptions { rescan: NEVER, ..ManifestOptions::default() };
    let source = ManifestSource::new(path.clone(), options).with_watcher(make);
    let mut running = Running::of(source, Arc::default()).await;
    let said = running.seen.last().unwrap().problems.iter().next().unwrap().to_string();
    assert!(said.starts_with(path.to_str().unwrap()), "{said}");
    assert!(said.contains(": cannot be watched, checked every 1 s instead: "), "{said}");
    // There are no events, and changes are still seen.
    put(&path, "a.yaml", &plain("a", 2));
    running.until(&[("a", 2)]).await;
    while !running.seen.last().unwrap().problems.is_empty() {
        running.next().await;
    }
    assert_eq!(ATTEMPTS.load(Ordering::Relaxed), 3);
    running.stop().await;
}
