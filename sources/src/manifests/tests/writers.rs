//! Files that are being written to, as known by events; also with real writers.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use notify::event::{
    AccessKind, AccessMode, CreateKind, DataChange, MetadataKind, ModifyKind, RemoveKind,
    RenameMode,
};
use notify::{Event, EventKind};
use rulec_compiler::Change;

use super::watch::{NEVER, Running, put};
use super::{plain, write};
use crate::ManifestOptions;
use crate::manifests::signal::Signal;
use crate::manifests::writers::{MAX_WRITE_TIME, Writers};

const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
const RENAME: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));

#[test]
fn a_write_ends_with_a_close_or_a_replacement() {
    let root = Path::new("/x/manifests");
    let writers = Writers::default();
    let learn = |kind, path: &str| {
        writers.learn(root, &Event::new(kind).add_path(path.into()), Instant::now());
    };
    let has = || writers.has("a.yaml".as_ref());
    let ends =
        [CLOSE, RENAME, EventKind::Create(CreateKind::File), EventKind::Remove(RemoveKind::File)];
    for end in ends {
        learn(WRITE, "/x/manifests/a.yaml");
        assert!(has());
        learn(end, "/x/manifests/b.yaml");
        learn(end, "/x/a.yaml");
        assert!(has(), "unrelated event");
        learn(end, "/x/manifests/a.yaml");
        assert!(!has(), "{end:?}");
    }
    let others = [
        EventKind::Access(AccessKind::Open(AccessMode::Any)),
        EventKind::Access(AccessKind::Close(AccessMode::Read)),
        EventKind::Modify(ModifyKind::Metadata(MetadataKind::Any)),
    ];
    for other in others {
        learn(other, "/x/manifests/a.yaml");
        assert!(!has(), "{other:?} is not a write");
        learn(WRITE, "/x/manifests/a.yaml");
        learn(other, "/x/manifests/a.yaml");
        assert!(has(), "{other:?} does not end a write");
        learn(CLOSE, "/x/manifests/a.yaml");
    }
    // Files of another directory do not matter.
    learn(WRITE, "/x/manifests/a.yaml");
    learn(RENAME, "/x/manifests");
    assert!(!has());
    // Files that are not manifests do not matter, unless the path itself is such a file.
    learn(WRITE, "/x/manifests/.hidden");
    assert!(!writers.has(".hidden".as_ref()));
    let one = Event::new(WRITE).add_path("/x/.hidden".into());
    writers.learn(Path::new("/x/.hidden"), &one, Instant::now());
    assert!(writers.has(".hidden".as_ref()));
}

#[test]
fn waiting_for_a_writer_is_limited() {
    let writers = Writers::default();
    let start = Instant::now();
    let (a, b) = ("a".as_ref(), "b".as_ref());
    writers.begin(a, start);
    writers.begin(b, start + MAX_WRITE_TIME / 2);
    // Further writes do not extend the wait.
    writers.begin(a, start + MAX_WRITE_TIME / 2);
    assert_eq!(writers.next_end(), Some(start + MAX_WRITE_TIME));
    assert!(writers.give_up(start + MAX_WRITE_TIME - Duration::from_nanos(1)).is_empty());
    assert_eq!(writers.give_up(start + MAX_WRITE_TIME), ["a"]);
    assert_eq!((writers.has(a), writers.has(b)), (false, true));
    assert_eq!(writers.next_end(), Some(start + MAX_WRITE_TIME / 2 + MAX_WRITE_TIME));
    // The next write does not start another wait, and is not reported again.
    writers.begin(a, start + 2 * MAX_WRITE_TIME);
    assert!(!writers.has(a));
    assert_eq!(writers.give_up(start + 3 * MAX_WRITE_TIME), ["b"]);
    assert_eq!(writers.next_end(), None);
    // After a close, a new wait can start.
    writers.learn(Path::new("/"), &Event::new(CLOSE).add_path("/a".into()), start);
    writers.begin(a, start);
    assert!(writers.has(a));
}

#[test]
fn the_number_of_remembered_writers_is_limited() {
    let writers = Writers::default();
    for number in 0..10_000 {
        writers.begin(number.to_string().as_ref(), Instant::now());
    }
    assert_eq!(writers.give_up(Instant::now() + MAX_WRITE_TIME).len(), 4096);
}

/// Truncates a file as `>` of a shell does.
fn truncate(path: &Path) -> File {
    OpenOptions::new().write(true).create(true).truncate(true).open(path).unwrap()
}

/// Long enough that the file would have been read in all ways, if it were not for the writer.
const LONG: Duration = Duration::from_millis(300);

/// Writes these parts with long pauses, as a generator of manifests does, and then closes the file.
fn write_slowly(path: PathBuf, parts: Vec<String>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut file = truncate(&path);
        for part in parts {
            std::thread::sleep(LONG);
            file.write_all(part.as_bytes()).unwrap();
        }
        std::thread::sleep(LONG);
    })
}

/// Makes the source read the directory all the time, in all ways.
fn restless() -> ManifestOptions {
    ManifestOptions {
        rescan: Duration::from_millis(20),
        settle: Duration::from_millis(1),
        ..ManifestOptions::default()
    }
}

fn removals(running: &Running) -> usize {
    let changes = running.seen.iter().flat_map(|update| &update.changes);
    changes.filter(|change| matches!(change, Change::Remove(_))).count()
}

#[tokio::test]
async fn a_slow_writer_removes_nothing() {
    for options in [restless(), ManifestOptions { rescan: NEVER, ..ManifestOptions::default() }] {
        let directory = tempfile::tempdir().unwrap();
        let all = |port| format!("{}---\n{}", plain("a", port), plain("b", port));
        put(directory.path(), "x.yaml", &all(1));
        let mut running = Running::with(directory.path().to_owned(), options).await;
        running.until(&[("a", 1), ("b", 1)]).await;
        let before = running.seen.len();
        let text = all(2);
        // The first cut is in the middle of a line, the second between the Services.
        let (cut, middle) = (50, text.find("---").unwrap());
        let parts = [&text[..cut], &text[cut..middle], &text[middle..]].map(str::to_owned);
        let writer = write_slowly(directory.path().join("x.yaml"), parts.to_vec());
        running.until(&[("a", 2), ("b", 2)]).await;
        writer.join().unwrap();
        assert_eq!(removals(&running), 0);
        assert!(running.seen.iter().all(|update| update.problems.is_empty()), "no problems");
        assert_eq!(running.seen.len(), before + 1, "all at once");
        // Objects that are missing in its last version are removed.
        write_slowly(directory.path().join("x.yaml"), vec![plain("a", 3)]).join().unwrap();
        running.until(&[("a", 3)]).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn a_slow_writer_of_a_new_file_causes_no_problems() {
    let directory = tempfile::tempdir().unwrap();
    let mut running = Running::with(directory.path().to_owned(), restless()).await;
    let text = plain("a", 1);
    let parts = [&text[..50], &text[50..]].map(str::to_owned);
    let writer = write_slowly(directory.path().join("x.yaml"), parts.to_vec());
    running.until(&[("a", 1)]).await;
    writer.join().unwrap();
    assert!(running.seen.iter().all(|update| update.problems.is_empty()));
    assert_eq!(running.seen.len(), 2);
    running.stop().await;
}

#[tokio::test]
async fn a_single_file_may_be_written_slowly() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(".one");
    let all = |port| format!("{}---\n{}", plain("a", port), plain("b", port));
    put(directory.path(), ".one", &all(1));
    let mut running = Running::with(path.clone(), restless()).await;
    let writer = write_slowly(path, vec![plain("a", 2), format!("---\n{}", plain("b", 2))]);
    running.until(&[("a", 2), ("b", 2)]).await;
    writer.join().unwrap();
    assert_eq!(removals(&running), 0);
    running.stop().await;
}

#[tokio::test]
async fn a_file_replaced_during_a_write_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.yaml");
    put(directory.path(), "x.yaml", &plain("a", 1));
    let options = ManifestOptions { rescan: NEVER, ..ManifestOptions::default() };
    let mut running = Running::with(directory.path().to_owned(), options).await;
    let _writer = truncate(&path);
    put(directory.path(), "x.yaml", &plain("a", 2));
    running.until(&[("a", 2)]).await;
    running.stop().await;
}

#[tokio::test]
async fn waiting_for_a_writer_that_never_closes_is_limited() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.yaml");
    write(directory.path(), "x.yaml", &plain("a", 1));
    let signal = Arc::new(Signal::default());
    let options = ManifestOptions { rescan: NEVER, ..ManifestOptions::default() };
    let mut running =
        Running::signalled(directory.path().to_owned(), options, signal.clone()).await;
    // The writer began nearly a minute ago.
    let began = Instant::now() + LONG - MAX_WRITE_TIME;
    signal.writers.begin("x.yaml".as_ref(), began);
    let mut writer = truncate(&path);
    writer.write_all(plain("a", 2).as_bytes()).unwrap();
    running.until(&[("a", 2)]).await;
    assert!(Instant::now() >= began + MAX_WRITE_TIME);
    // After that, its writes are read as they come.
    writer.write_all(format!("---\n{}", plain("b", 1)).as_bytes()).unwrap();
    running.until(&[("a", 2), ("b", 1)]).await;
    drop(writer);
    running.stop().await;
}
