use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rulec_compiler::change::{Provenance, Sourced};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::{Kind, Object, ObjectKey, Service};
use rulec_compiler::{Change, Model, Origin, Settings};
use tokio::sync::mpsc;

use super::entry::Status;
use super::reader::old;
use super::replay::Timetable;
use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn service(name: &str) -> Sourced {
    let service = Service::new(NamespacedName::new("default", name));
    Sourced {
        object: Object::Service(Arc::new(service)),
        provenance: Provenance("web.yaml".into()),
    }
}

fn begin(path: &Path, most: u64) -> Begin {
    Begin {
        path: path.to_owned(),
        most,
        is_masked: false,
        program: "0.0.0".to_owned(),
        settings: Settings::new("na".into()),
        sources: vec![Origin::Manifests],
    }
}

fn whole(second: i64, reason: WholeReason, names: &[&str], complete: bool) -> Entry {
    let mut model = Model::default();
    for name in names {
        model.apply(Origin::Manifests, Change::Apply(service(name)));
    }
    let status = Status { said: Said { complete, ..Said::default() }, ..Status::default() };
    let what = What::Whole(Whole::of(reason, &model, [(Origin::Manifests, &status)]));
    Entry { time: at(second), what }
}

fn start(second: i64) -> Entry {
    whole(second, WholeReason::Start, &[], false)
}

fn update(second: i64, changes: Vec<RecordedChange>) -> Entry {
    let said = Said { complete: true, ..Said::default() };
    let origin = Origin::Manifests;
    let what = What::Update(Recorded { origin, said, suppressed: 0, problems: None, changes });
    Entry { time: at(second), what }
}

fn apply(second: i64, name: &str) -> Entry {
    update(second, vec![RecordedChange::Apply(service(name))])
}

fn all(path: &Path) -> (Vec<Entry>, Vec<String>) {
    let mut reader = Reader::open(path).unwrap();
    let mut entries = Vec::new();
    while let Some(entry) = reader.read().unwrap() {
        entries.push(entry);
    }
    (entries, reader.left_out().iter().map(ToString::to_string).collect())
}

fn names(moment: &Moment) -> Vec<String> {
    moment.model().services().map(|entry| entry.object.key.name.to_string()).collect()
}

fn last(path: &Path) -> Vec<String> {
    let mut moment = Moment::default();
    all(path).0.iter().for_each(|entry| moment.add(entry));
    names(&moment)
}

#[test]
fn what_is_recorded_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    assert!(!path.exists(), "nothing is written before the first entry");
    let list = RecordedChange::Replace {
        kinds: vec![Kind::Service, Kind::Pod],
        objects: vec![service("a"), service("b")],
    };
    let key = ObjectKey::Service(NamespacedName::new("default", "a"));
    let entries = [start(0), update(1, vec![list]), update(2, vec![RecordedChange::Remove(key)])];
    recorder.write(&entries[..2]).unwrap();
    recorder.write(&entries[2..]).unwrap();
    let (found, torn) = all(&path);
    assert_eq!((found, torn), (entries.to_vec(), Vec::new()));
    assert_eq!(last(&path), ["b"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(Reader::is_one(&path));
    assert!(!Reader::is_one(directory.path()));
    let header = Reader::open(&path).unwrap().header().clone();
    assert_eq!(header.sources, [Origin::Manifests]);
    assert_eq!((header.generation, header.masked), (1, false));
}

#[test]
fn a_killed_writer_leaves_all_but_its_last_frame() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    recorder.write(&[start(0)]).unwrap();
    recorder.write(&[apply(1, "a")]).unwrap();
    let whole_length = fs::metadata(&path).unwrap().len();
    recorder.write(&[apply(2, "b")]).unwrap();
    let bytes = fs::read(&path).unwrap();
    let kept = usize::try_from(whole_length).unwrap();
    for length in [kept + 1, kept + 5, kept + 21, bytes.len() - 1] {
        fs::write(&path, &bytes[..length]).unwrap();
        let (entries, torn) = all(&path);
        assert_eq!(entries, [start(0), apply(1, "a")], "{length}");
        assert_eq!(torn.len(), 1, "{length}: {torn:?}");
        assert!(torn[0].contains(&format!("from byte {whole_length} on")), "{torn:?}");
    }
    // The next daemon begins another file, and both are read.
    drop(recorder);
    let mut next = Recorder::new(begin(&path, 1 << 20)).unwrap();
    let notice = next.go_on().unwrap().unwrap();
    assert!(notice.contains("torn"), "{notice}");
    assert!(!next.has_begun());
    next.write(&[start(3)]).unwrap();
    next.write(&[apply(4, "c")]).unwrap();
    let (entries, torn) = all(&path);
    assert_eq!(entries, [start(0), apply(1, "a"), start(3), apply(4, "c")]);
    assert_eq!(torn.len(), 1);
    // A whole file is gone on with.
    drop(next);
    let mut third = Recorder::new(begin(&path, 1 << 20)).unwrap();
    assert_eq!(third.go_on().unwrap(), None);
    assert!(third.has_begun());
    third.write(&[start(5)]).unwrap();
    assert_eq!(all(&path).0.len(), 5);
}

#[test]
fn damage_hides_the_rest_of_a_file_and_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    recorder.write(&[start(0)]).unwrap();
    let middle = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    recorder.write(&[apply(1, "a")]).unwrap();
    recorder.write(&[apply(2, "b")]).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[middle + 30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let (entries, torn) = all(&path);
    assert_eq!(entries, [start(0)]);
    assert!(torn[0].ends_with("the checksum does not match"), "{torn:?}");
}

#[test]
fn two_files_stay_and_the_older_begins_with_a_whole_state() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut recorder = Recorder::new(begin(&path, 8 << 10)).unwrap();
    recorder.write(&[start(0)]).unwrap();
    let mut second = 0;
    for generation in 1..=4 {
        assert_eq!(Reader::open(&path).unwrap().header().generation, 1.max(generation - 1));
        while !recorder.is_full() {
            second += 1;
            recorder.write(&[apply(second, &format!("s{second}"))]).unwrap();
        }
        second += 1;
        recorder.write(&[whole(second, WholeReason::Full, &["kept"], true)]).unwrap();
        assert_eq!(last(&path), ["kept"]);
    }
    let (entries, torn) = all(&path);
    assert_eq!(torn, Vec::<String>::new());
    assert!(matches!(&entries[0].what, What::Whole(it) if it.reason == WholeReason::Full));
    let lengths = [&path, &old(&path)].map(|it| fs::metadata(it).unwrap().len());
    assert!(lengths.iter().sum::<u64>() < 10 << 10, "{lengths:?}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    // Without the newer one, the older one is read, and a new writer goes on after it.
    fs::remove_file(&path).unwrap();
    assert_eq!(Reader::open(&path).unwrap().header().generation, 4);
    let mut next = Recorder::new(begin(&path, 8 << 10)).unwrap();
    next.go_on().unwrap();
    next.write(&[whole(second + 1, WholeReason::Start, &[], false)]).unwrap();
    assert_eq!(Reader::open(&path).unwrap().header().generation, 4);
    assert!(all(&path).0.len() > 2);
}

#[test]
fn another_file_is_not_replaced_and_other_settings_begin_another_recording() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    fs::write(&path, "something else").unwrap();
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    let error = recorder.go_on().unwrap_err().to_string();
    assert!(error.ends_with("a.rec: is not a recording of rulec"), "{error}");
    let error = recorder.write(&[start(0)]).unwrap_err().to_string();
    assert!(error.ends_with("a.rec: is not a recording of rulec, and is not replaced"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "something else");
    let error = Reader::open(&path).unwrap_err().to_string();
    assert!(error.ends_with("a.rec: is not a recording of rulec"), "{error}");
    let mut bytes = frame::head().to_vec();
    bytes[8] = 9;
    fs::write(&path, &bytes).unwrap();
    let error = Reader::open(&path).unwrap_err().to_string();
    assert!(error.ends_with("has format 9, but this program reads format 1"), "{error}");
    fs::remove_file(&path).unwrap();
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    recorder.write(&[start(0)]).unwrap();
    recorder.write(&[apply(1, "a")]).unwrap();
    drop(recorder);
    let settings = Settings::new("nb".into());
    let mut other = Recorder::new(Begin { settings, ..begin(&path, 1 << 20) }).unwrap();
    let notice = other.go_on().unwrap().unwrap();
    assert!(notice.contains("other settings"), "{notice}");
    other.write(&[start(2)]).unwrap();
    assert_eq!(all(&path).0, [start(2)], "what was before is another recording");
    assert_eq!(all(&old(&path)).0, [start(0), apply(1, "a")]);
}

#[test]
fn a_file_that_others_own_or_read_is_not_gone_on_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    recorder.write(&[start(0)]).unwrap();
    drop(recorder);
    let id = |path: &Path| Reader::open(path).unwrap().header().id.clone();
    let before = id(&path);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let mut next = Recorder::new(begin(&path, 1 << 20)).unwrap();
    let notice = next.go_on().unwrap().unwrap();
    assert!(notice.ends_with("another user owns it or can read it"), "{notice}");
    next.write(&[start(1)]).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(all(&path).0, [start(1)]);
    assert_ne!(id(&path), before);
    assert_eq!(id(&old(&path)), before);
    // What a link leads to is another's choice.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut linked = Recorder::new(begin(&link, 1 << 20)).unwrap();
    for error in [linked.go_on().unwrap_err().to_string(), {
        linked.write(&[start(2)]).unwrap_err().to_string()
    }] {
        assert!(error.contains("a symbolic link"), "{error}");
    }
}

#[test]
fn a_file_has_one_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut first = Recorder::new(begin(&path, 8 << 10)).unwrap();
    let mut second = Recorder::new(begin(&path, 8 << 10)).unwrap();
    assert_eq!(second.go_on().unwrap(), None, "there is nothing yet");
    first.write(&[start(0)]).unwrap();
    let busy = "a.rec: another program records to it";
    let error = second.write(&[start(1)]).unwrap_err().to_string();
    assert!(error.ends_with(busy), "{error}");
    // The next file of the first is locked, too.
    let mut second_of_recording = 1;
    while !first.is_full() {
        second_of_recording += 1;
        first.write(&[apply(second_of_recording, "a")]).unwrap();
    }
    first.write(&[whole(1 << 20, WholeReason::Full, &["a"], true)]).unwrap();
    let error = second.go_on().unwrap_err().to_string();
    assert!(error.ends_with(busy), "{error}");
    drop(first);
    assert_eq!(second.go_on().unwrap(), None);
    assert!(second.has_begun());
    second.write(&[start(1 << 21)]).unwrap();
    assert_eq!(all(&path).0.last(), Some(&start(1 << 21)));
}

#[test]
fn a_file_that_goes_away_is_followed_by_another() {
    let directory = tempfile::tempdir().unwrap();
    let [path, away] = ["a.rec", "away.rec"].map(|name| directory.path().join(name));
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    for is_moved in [true, false] {
        recorder.write(&[start(0)]).unwrap();
        if is_moved {
            fs::rename(&path, &away).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let error = recorder.write(&[apply(1, "a")]).unwrap_err().to_string();
        assert!(error.starts_with("it was removed or renamed"), "{error}");
        assert!(!recorder.has_begun());
        let state = whole(2, WholeReason::Gap(1), &["a"], true);
        recorder.write(std::slice::from_ref(&state)).unwrap();
        assert_eq!(all(&path).0, [state]);
        assert_eq!(all(&away).0, [start(0)]);
    }
}

#[test]
fn a_file_has_more_than_the_whole_state_that_it_begins_with() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let names: Vec<String> = (0..200).map(|it| format!("s{}", it * it)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let state = whole(0, WholeReason::Start, &names, true);
    let mut recorder = Recorder::new(begin(&path, 1 << 10)).unwrap();
    let length = recorder.write(std::slice::from_ref(&state)).unwrap();
    assert!(length > 1 << 9, "{length}");
    assert!(!recorder.is_full());
    assert_eq!(recorder.excess(), Some(4 * length));
    let mut updates = 0;
    while !recorder.is_full() {
        updates += 1;
        recorder.write(&[apply(updates, &format!("s{updates}"))]).unwrap();
    }
    assert!(fs::metadata(&path).unwrap().len() >= 2 * length);
    let small = directory.path().join("b.rec");
    let mut recorder = Recorder::new(begin(&small, 1 << 20)).unwrap();
    recorder.write(&[state]).unwrap();
    assert_eq!(recorder.excess(), None);
}

#[test]
fn an_older_file_that_cannot_be_read_is_named_and_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let older = old(&path);
    fs::write(&older, "a backup").unwrap();
    let mut recorder = Recorder::new(begin(&path, 8 << 10)).unwrap();
    recorder.write(&[start(0)]).unwrap();
    assert_eq!(all(&path).1, Vec::<String>::new(), "the first file has none before it");
    let mut second = 1;
    while !recorder.is_full() {
        second += 1;
        recorder.write(&[apply(second, "a")]).unwrap();
    }
    let state = whole(1 << 20, WholeReason::Full, &["a"], true);
    let error = recorder.write(std::slice::from_ref(&state)).unwrap_err().to_string();
    assert!(error.ends_with("a.rec.old: is not a recording of rulec, and is not replaced"));
    assert_eq!(fs::read_to_string(&older).unwrap(), "a backup");
    recorder.write(&[apply(second, "b")]).unwrap();
    fs::remove_file(&older).unwrap();
    recorder.write(std::slice::from_ref(&state)).unwrap();
    assert!(all(&path).0.len() > 2);
    let mut bytes = fs::read(&older).unwrap();
    bytes[30] ^= 1;
    fs::write(&older, &bytes).unwrap();
    let (entries, torn) = all(&path);
    assert_eq!(entries, [state]);
    assert_eq!(torn.len(), 1);
    assert!(
        torn[0].contains("a.rec.old: it is left out: has nothing that can be used"),
        "{torn:?}"
    );
}

#[test]
fn recordings_that_share_a_file_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    for name in ["a", "b.old", "c"] {
        fs::write(path(name), "").unwrap();
    }
    fs::hard_link(path("a"), path("a2")).unwrap();
    let overlaps = |one: &str, other: &str| overlap(&path(one), &path(other));
    assert!(overlaps("a", "./a") && overlaps("a", "a2"));
    assert!(overlaps("b", "b.old") && overlaps("b.old", "b"));
    assert!(!overlaps("a", "c") && !overlaps("missing", "missing"));
}

#[test]
fn a_disk_that_fails_leaves_what_was_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("missing/a.rec");
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    assert!(recorder.write(&[start(0)]).is_err());
    assert!(!recorder.has_begun());
    let error = recorder.write(&[apply(1, "a")]).unwrap_err().to_string();
    assert_eq!(error, "the file does not begin with a whole state");
    fs::create_dir(path.parent().unwrap()).unwrap();
    recorder.write(&[start(2)]).unwrap();
    assert_eq!(all(&path).0, [start(2)]);
}

#[test]
fn a_restart_keeps_what_was_there_until_the_first_list() {
    let mut moment = Moment::default();
    let list = |names: &[&str]| RecordedChange::Replace {
        kinds: Kind::ALL.to_vec(),
        objects: names.iter().map(|name| service(name)).collect(),
    };
    moment.add(&start(0));
    assert_eq!(moment.incomplete().collect::<Vec<_>>(), [Origin::Manifests]);
    moment.add(&update(1, vec![list(&["a", "b"])]));
    assert_eq!(moment.incomplete().count(), 0);
    moment.add(&start(2));
    assert_eq!(names(&moment), ["a", "b"]);
    assert_eq!(moment.incomplete().count(), 1);
    moment.add(&update(3, vec![list(&["c"])]));
    assert_eq!(names(&moment), ["c"]);
    moment.add(&whole(4, WholeReason::Gap(2), &["d"], true));
    assert_eq!(names(&moment), ["d"]);
    assert_eq!(moment.time(), Some(at(4)));
    let again = Entry { time: at(5), what: What::Whole(moment.whole()) };
    let mut copy = Moment::default();
    copy.add(&again);
    assert_eq!(names(&copy), ["d"]);
}

#[test]
fn a_restart_with_an_unread_file_keeps_what_may_be_in_it() {
    let list = |names: &[&str]| RecordedChange::Replace {
        kinds: Kind::ALL.to_vec(),
        objects: names.iter().map(|name| service(name)).collect(),
    };
    let unread = |second, changes| {
        let mut entry = update(second, changes);
        if let What::Update(recorded) = &mut entry.what {
            recorded.said.unread = 1;
        }
        entry
    };
    let mut moment = Moment::default();
    moment.add(&start(0));
    moment.add(&update(1, vec![list(&["a", "x", "y"])]));
    moment.add(&start(2));
    let updates = moment.updates(&unread(3, vec![list(&["a"])]));
    assert_eq!(updates[0].changes, [Change::Apply(service("a"))]);
    assert_eq!(names(&moment), ["a", "x", "y"]);
    let updates = moment.updates(&apply(4, "x"));
    let gone = ObjectKey::Service(NamespacedName::new("default", "y"));
    assert_eq!(updates[0].changes, [Change::Apply(service("x")), Change::Remove(gone)]);
    assert_eq!(names(&moment), ["a", "x"]);
    // Without a restart before, a list is a list.
    moment.add(&unread(5, vec![list(&["a"])]));
    assert_eq!(names(&moment), ["a"]);
    // A start says nothing of files that it has not looked at.
    assert_eq!(moment.updates(&start(6))[0].unread, 1);
}

#[test]
fn a_name_that_is_none_and_texts_that_steer_a_terminal_do_no_harm() {
    let file = |name: &str, path: &str| {
        let mut sourced = service(name);
        sourced.provenance = Provenance(path.into());
        let text = serde_json::to_string(&update(1, vec![RecordedChange::Apply(sourced)]));
        serde_json::from_str::<Entry>(&text.unwrap())
    };
    for name in ["a\u{1b}[2J", "a\n10.0.0.1 b", "a b", ""] {
        let error = file(name, "web.yaml").unwrap_err().to_string();
        assert!(error.contains(&format!("{name:?} is not a name")), "{error}");
    }
    let cleaned = format!("{:?}", file("a", "web\u{1b}.yaml").unwrap());
    assert!(cleaned.contains("web\u{fffd}.yaml"), "{cleaned}");
}

#[tokio::test]
async fn a_recording_is_replayed_to_its_end_and_no_further() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut recorder = Recorder::new(begin(&path, 1 << 20)).unwrap();
    let entries = [start(0), apply(10, "a"), apply(40, "b"), apply(100, "c")];
    recorder.write(&entries).unwrap();
    for (until, last) in [(None, 3), (Some(at(50)), 2), (Some(at(40)), 2), (Some(at(0)), 0)] {
        let (speed, from) = (Speed::Max, None);
        let options = ReplayOptions { path: path.clone(), speed, from, until };
        let (out, mut updates) = mpsc::channel(1);
        let source = ReplaySource::new(Reader::open(&path).unwrap(), options);
        let mut source = pin!(source.run(out));
        let mut moment = Model::default();
        for number in 0..=last {
            let update = tokio::select! {
                update = updates.recv() => update.unwrap(),
                _ = &mut source => panic!("a source does not end"),
            };
            assert_eq!(update.origin, Origin::Manifests);
            assert_eq!(update.complete, number > 0);
            for change in update.changes {
                moment.apply(update.origin, change);
            }
        }
        let names: Vec<_> = moment.services().map(|it| it.object.key.name.to_string()).collect();
        assert_eq!(names, ["a", "b", "c"][..last]);
    }
}

#[test]
fn a_timetable_is_that_of_the_recording_or_shorter() {
    let times = |speed, from| {
        let mut timetable = Timetable { speed, from, last: None, passed: Duration::ZERO };
        [0, 10, 40, 30, 100].map(|it| timetable.after(at(it)).map(|it| it.as_secs()))
    };
    let [zero, one, four, ten] = [0, 1, 4, 10].map(Some);
    assert_eq!(times(Speed::Times(1.0), None), [zero, ten, Some(40), Some(40), Some(110)]);
    assert_eq!(times(Speed::Times(10.0), None), [zero, one, four, four, Some(11)]);
    assert_eq!(times(Speed::Times(0.5), None), [zero, Some(20), Some(80), Some(80), Some(220)]);
    assert_eq!(times(Speed::Times(1.0), Some(at(39))), [None, None, one, None, Some(61)]);
    assert_eq!(times(Speed::Max, None), [None; 5]);
    // A clock that was set by years is no pause of years.
    let (speed, last) = (Speed::Times(1.0), None);
    let mut timetable = Timetable { speed, from: None, last, passed: Duration::ZERO };
    let boot = Timestamp::from_second(5).unwrap();
    let after = [boot, at(0), at(1)].map(|it| timetable.after(it).map(|it| it.as_secs()));
    assert_eq!(after, [zero, Some(3600), Some(3601)]);
}

#[test]
fn a_speed_is_a_number_or_max() {
    for (text, speed) in [("max", Speed::Max), ("1", Speed::Times(1.0)), ("0.5", Speed::Times(0.5))]
    {
        assert_eq!(text.parse(), Ok(speed));
        assert_eq!(speed.to_string(), text);
    }
    for text in ["", "0", "-1", "nan", "inf", "fast", "1e9"] {
        assert!(text.parse::<Speed>().is_err(), "{text}");
    }
}

#[test]
fn a_masked_recording_names_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let begin = Begin { is_masked: true, ..begin(&path, 1 << 20) };
    let mut recorder = Recorder::new(begin.clone()).unwrap();
    recorder.write(&[start(0), apply(1, "secret")]).unwrap();
    let header = Reader::open(&path).unwrap().header().clone();
    assert!(header.masked);
    let text = format!("{header:?} {:?}", all(&path).0);
    for name in ["secret", "\"na\"", "na,", "web.yaml"] {
        assert!(!text.contains(name), "{name}: {text}");
    }
    assert!(text.contains("default"), "everybody has it");
    // Another key begins another recording.
    drop(recorder);
    let mut next = Recorder::new(begin).unwrap();
    assert!(next.go_on().unwrap().unwrap().contains("masked"));
}

#[test]
fn a_key_is_kept_in_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    let name = |key| {
        let mut mask = Mask::new(key);
        mask.object(&service("web").object).key().to_string()
    };
    let first = name(MaskKey::of_file(&path).unwrap());
    assert_eq!(name(MaskKey::of_file(&path).unwrap()), first);
    assert_ne!(name(MaskKey::random().unwrap()), first);
    for text in ["", "abc", &"x".repeat(64)] {
        fs::write(&path, text).unwrap();
        assert!(MaskKey::of_file(&path).is_err(), "{text}");
    }
}
