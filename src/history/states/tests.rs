//! States outlive the process, exactly, within their bounds.

mod faults;

use std::time::Duration;

use rulec_compiler::change::Change;
use rulec_compiler::name::{NamespacedName, NodeName};
use rulec_compiler::object::{Affinity, Object, ObjectKey};
use rulec_compiler::settings::{IpvsSettings, ProxyMode};
use rulec_compiler::{Origin, Program, Settings, State};
use rulec_engine::{Acknowledged, Base, Cost, Verdicts};

use jiff::Timestamp;
use rulec_compiler::Model;

use super::*;
use crate::history::moment::Moment;
use crate::history::ring::Whereabouts;
use crate::history::tests::{LONG, endpoints, keep, limits, of, served, state};
use crate::history::timeline::Stamp;
use crate::history::{History, Limits, weight};
use crate::tool::diff::tell_change;

/// A daemon whose objects change.
struct Daemon {
    model: Model,
    program: Program,
    history: History,
}

impl Daemon {
    fn start(history: &History, settings: Settings, objects: Vec<Change>) -> Self {
        let mut model = Model::default();
        for object in objects {
            model.apply(Origin::Manifests, object);
        }
        let program = Program::compile(&model, Arc::new(settings), &State::default());
        let daemon = Self { model, program, history: history.clone() };
        daemon.note();
        daemon
    }

    fn change(&mut self, change: Change) {
        let dirty = self.model.apply(Origin::Manifests, change);
        self.program.update(&self.model, &dirty);
        self.note();
    }

    fn note(&self) {
        self.note_at(Stamp::now());
    }

    fn note_at(&self, stamp: Stamp) {
        let (program, model) = (self.program.clone(), self.model.clone());
        let cost = Cost { operations: 1, ..Cost::default() };
        let (base, verdicts) = (Base::Acknowledged, Verdicts::default());
        let acknowledged = Acknowledged { program, model, base, cost, verdicts };
        self.history.note_at(acknowledged, stamp);
    }
}

fn settings() -> Settings {
    Settings::new(NodeName::from("na"))
}

/// A Service with session affinity.
fn sticky(number: u16) -> Object {
    let Object::Service(service) = served(number, 80) else { panic!("it is one") };
    let mut service = Arc::unwrap_or_clone(service);
    service.affinity = Affinity::ClientIp { timeout: 600 };
    Object::Service(Arc::new(service))
}

/// Changes of every kind that leave something in a state.
fn changes() -> Vec<Change> {
    let key = |number| NamespacedName::new("default", &*format!("s{number}"));
    vec![
        of(served(1, 80)),
        of(endpoints(1, 3)),
        of(endpoints(1, 2)),
        of(sticky(2)),
        of(endpoints(2, 5)),
        of(served(1, 81)),
        Change::Remove(ObjectKey::Service(key(2))),
        of(endpoints(1, 0)),
        of(served(3, 80)),
        of(endpoints(3, 40)),
        Change::Remove(ObjectKey::Service(key(1))),
    ]
}

/// Returns the snapshots of all moments, as the daemon says them.
fn snapshots(history: &History, ids: std::ops::RangeInclusive<u64>) -> Vec<Snapshot> {
    ids.map(|id| state(history, Moment::After(id)).unwrap()).collect()
}

/// Writes states of a history without an end; nothing is wrong with the files.
fn write(states: &mut States, entries: &[Arc<Entry>]) -> Written {
    let (written, complaints) = states.write(entries, usize::MAX);
    assert_eq!(complaints, [""; 0]);
    written.unwrap()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut all: Vec<PathBuf> = entries.filter(|it| is_states(it)).collect();
    all.sort();
    all
}

fn is_states(path: &Path) -> bool {
    path.file_name().and_then(|name| Segment::number_of(name.to_str()?)).is_some()
}

#[test]
fn every_state_is_the_same_after_a_restart() {
    for mode in [ProxyMode::Nftables, ProxyMode::Ipvs(IpvsSettings::default())] {
        let directory = tempfile::tempdir().unwrap();
        let settings = Settings { proxy_mode: mode, ..settings() };
        let history = History::new(limits(99), tell_change);
        let keeper = keep(&history, directory.path());
        let mut daemon = Daemon::start(&history, settings.clone(), Vec::new());
        changes().into_iter().for_each(|change| daemon.change(change));
        let newest = changes().len() as u64 + 1;
        let before = snapshots(&history, 1..=newest);
        let times: Vec<Timestamp> = history.all().iter().map(|entry| entry.time).collect();
        keeper.finish(LONG);
        drop(daemon);

        let next = History::new(limits(99), tell_change);
        let keeper = keep(&next, directory.path());
        for (id, (time, snapshot)) in (1..).zip(times.iter().zip(&before)) {
            let by_number = state(&next, Moment::After(id)).unwrap();
            assert!(by_number == *snapshot, "the state after change {id}");
            // The change after it was later.
            if times.get(id as usize).is_none_or(|next| next > time) {
                let by_time = state(&next, Moment::At(*time)).unwrap();
                assert!(by_time == *snapshot, "the state after change {id}, by its time");
            }
        }
        // What is done from now on has files of its own.
        let mut daemon = Daemon::start(&next, settings, Vec::new());
        daemon.change(of(served(9, 80)));
        let after = snapshots(&next, newest + 1..=newest + 2);
        keeper.finish(LONG);
        assert_eq!(files(directory.path()).len(), 2);
        let last = History::new(limits(99), tell_change);
        let _keeper = keep(&last, directory.path());
        let all: Vec<Snapshot> = before.into_iter().chain(after).collect();
        assert!(snapshots(&last, 1..=newest + 2) == all);
    }
}

/// What a process has written is there, however it ends.
#[test]
fn a_process_that_is_killed_leaves_what_it_has_written() {
    let directory = tempfile::tempdir().unwrap();
    let (mut states, complaints) = States::find(directory.path(), Bounds::default()).unwrap();
    assert_eq!(complaints, [""; 0]);
    let history = History::new(limits(99), tell_change);
    let mut daemon = Daemon::start(&history, settings(), vec![of(served(1, 80))]);
    daemon.change(of(endpoints(1, 3)));
    daemon.change(of(endpoints(1, 4)));
    let all = history.all();
    write(&mut states, &all[..2]);
    write(&mut states, &all[2..]);
    let after = |index: usize| After { id: all[index].id, time: all[index].time };
    let expected = snapshots(&history, 1..=3);
    // The write of the third was cut, and what would have followed it is not there.
    let [path] = &files(directory.path())[..] else { panic!("one file") };
    let whole = fs::read(path).unwrap();
    let lines: Vec<usize> =
        whole.iter().enumerate().filter(|it| *it.1 == b'\n').map(|it| it.0).collect();
    for cut in [lines[2] + 1, lines[2] + 9, lines[3] - 1] {
        fs::write(path, &whole[..cut]).unwrap();
        assert!(read(directory.path(), after(1)).unwrap() == expected[1]);
        let error = read(directory.path(), after(2)).unwrap_err();
        assert!(error.contains("its state is not in "), "{cut}: {error}");
    }
    // A block that never reached the disk.
    let mut zeros = whole.clone();
    zeros[lines[2] + 1..].fill(0);
    fs::write(path, &zeros).unwrap();
    assert!(read(directory.path(), after(1)).unwrap() == expected[1]);
    let error = read(directory.path(), after(2)).unwrap_err();
    assert!(error.contains("states-1.jsonl: line 4: "), "{error}");
    // Another step than that which was written there.
    let mut swapped = String::from_utf8(whole).unwrap();
    let second = swapped.lines().nth(2).unwrap().to_owned() + "\n";
    swapped = swapped.replacen(&second, "", 1);
    fs::write(path, swapped).unwrap();
    let error = read(directory.path(), after(2)).unwrap_err();
    assert!(error.contains("its state cannot be read: /"), "{error}");
}

#[test]
fn files_are_bounded_and_go_with_the_changes() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(999), tell_change);
    let objects = (1..20).flat_map(|number| [of(served(number, 80)), of(endpoints(number, 3))]);
    let mut daemon = Daemon::start(&history, settings(), objects.collect());
    let bounds = Bounds { total: 400_000, whole: 100_000, steps: 10_000 };
    let (mut states, _) = States::find(directory.path(), bounds).unwrap();
    let mut wholes = 0;
    for round in 0..200_u16 {
        daemon.change(of(endpoints(1 + round % 19, 1 + round % 7)));
        let all = history.all();
        let written = write(&mut states, &all[all.len() - 1..]);
        wholes += u32::from(written.wholes > 0);
        let each = written.wholes / 19;
        assert!(each == 0 || (1_000..4_000).contains(&each), "{each} bytes for a Service");
        assert_eq!(written.too_large, None);
        let sizes = files(directory.path()).into_iter().map(|it| fs::metadata(it).unwrap().len());
        let total: u64 = sizes.sum();
        assert_eq!(total, states.segments.iter().map(|it| it.bytes).sum::<u64>());
        assert!(total <= bounds.total, "{total}");
        let newest = all.last().unwrap();
        let after = After { id: newest.id, time: newest.time };
        assert!(round % 20 > 0 || read(directory.path(), after).is_ok());
    }
    assert!((3..100).contains(&wholes), "{wholes} whole states for 200 changes");
    assert!(files(directory.path()).len() > 1);
    // Nobody has a number any more for changes before the last one.
    let all = history.all();
    daemon.change(of(served(1, 81)));
    let (written, complaints) = states.write(&history.all()[all.len()..], 1);
    assert!(written.is_ok() && complaints.is_empty(), "{written:?}: {complaints:?}");
    assert_eq!(files(directory.path()).len(), 1);
}

#[test]
fn a_state_that_is_too_large_is_not_written_until_it_is_smaller() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(999), tell_change);
    let many: Vec<u16> = (1..200).collect();
    let objects = many.iter().map(|number| of(served(*number, 80)));
    let mut daemon = Daemon::start(&history, settings(), objects.collect());
    let bounds = Bounds { whole: 30_000, ..Bounds::default() };
    let (mut states, _) = States::find(directory.path(), bounds).unwrap();
    let mut write_all = |history: &History| write(&mut states, &history.all()[..]);
    assert_eq!(write_all(&history).too_large, Some(30_000));
    daemon.change(of(served(1, 81)));
    assert_eq!(write_all(&history), Written::default(), "it is said once");
    assert_eq!(files(directory.path()), [""; 0].map(PathBuf::from));
    for number in many.into_iter().skip(5) {
        let key = NamespacedName::new("default", &*format!("s{number}"));
        daemon.change(Change::Remove(ObjectKey::Service(key)));
    }
    let all = history.all();
    assert!(write(&mut states, &all[all.len() - 1..]).wholes > 0);
    let newest = all.last().unwrap();
    let expected = snapshots(&history, newest.id..=newest.id);
    let found = read(directory.path(), After { id: newest.id, time: newest.time }).unwrap();
    assert!(found == expected[0]);
}

/// What is kept in memory has other bounds.
#[test]
fn what_memory_has_no_room_for_is_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(99), tell_change);
    let keeper = keep(&history, directory.path());
    let mut daemon = Daemon::start(&history, settings(), Vec::new());
    changes().into_iter().for_each(|change| daemon.change(change));
    let newest = changes().len() as u64 + 1;
    let before = snapshots(&history, 1..=newest);
    keeper.finish(LONG);
    let small = History::new(Limits { changes: 99, bytes: 1 }, tell_change);
    let keeper = keep(&small, directory.path());
    Daemon::start(&small, settings(), Vec::new());
    keeper.finish(LONG);
    assert_eq!(small.all().len(), 1);
    let next = History::new(limits(99), tell_change);
    let _keeper = keep(&next, directory.path());
    assert_eq!(next.all().len() as u64, newest + 1);
    assert!(snapshots(&next, 1..=newest) == before);
}

/// What memory has no room for is read from the disk, as long as the change is kept.
#[test]
fn a_state_that_has_left_the_memory_is_read_from_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let limits = Limits { changes: 99, bytes: 30 * weight::ENTRY };
    let history = History::new(limits, tell_change);
    // It does nothing before it is told to.
    let _keeper = keep(&history, directory.path());
    let (mut states, _) = States::find(directory.path(), Bounds::default()).unwrap();
    let mut daemon = Daemon::start(&history, settings(), Vec::new());
    let mut expected = Vec::new();
    for round in 1..=40 {
        daemon.change(of(served(1, round)));
        let newest = history.all().pop().unwrap();
        expected.push(Snapshot::of(&daemon.program, &daemon.model));
        history.told(&newest);
        // Some are not on disk, for now.
        if round <= 36 {
            let from = history.all().len() - if round == 1 { 2 } else { 1 };
            let all: Vec<_> = history.all().split_off(from);
            all.iter().for_each(|entry| drop(history.told(entry)));
            history.lock().store(&write(&mut states, &all).stored);
        }
        history.tidy();
    }
    let all = history.all();
    assert_eq!(all.iter().map(|entry| entry.id).collect::<Vec<_>>(), (1..=41).collect::<Vec<_>>());
    let in_memory = all.iter().filter(|entry| entry.around.is_some()).count();
    assert!((5..30).contains(&in_memory), "{in_memory}");
    assert!(snapshots(&history, 2..=41) == expected);
    let [first, .., last] = &all[..] else { panic!("there are 41") };
    assert!(first.around.is_none() && last.around.is_some());
    assert!(first.stamp().uptime.is_some(), "how long ago it was is still known");
    // The newest is in memory, whatever there is room for.
    let small = History::new(Limits { bytes: 1, ..limits }, tell_change);
    let daemon = Daemon { history: small.clone(), ..daemon };
    daemon.note();
    small.told(&small.all()[0]);
    small.lock().store(&[1]);
    small.tidy();
    assert!(small.all()[0].around.is_some());
}

/// The order is that of the numbers.
#[test]
fn states_are_found_whatever_the_clock_was_set_to() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(99), tell_change);
    let keeper = keep(&history, directory.path());
    let mut daemon = Daemon {
        model: Model::default(),
        program: Program::compile(&Model::default(), Arc::new(settings()), &State::default()),
        history: history.clone(),
    };
    let stamp = |time, up| Stamp {
        time: Timestamp::from_second(time).unwrap(),
        uptime: Some(Duration::from_secs(up)),
    };
    // An hour back, and a day forward.
    for (up, time) in [(100, 10_000), (200, 10_100), (300, 6_600), (400, 6_700), (500, 93_100)] {
        let dirty = daemon.model.apply(Origin::Manifests, of(served(1, up as u16)));
        daemon.program.update(&daemon.model, &dirty);
        daemon.note_at(stamp(time, up));
    }
    let expected = snapshots(&history, 1..=5);
    let found = |history: &History, moment: &str, now| {
        let found = history.lock().state(moment.parse().unwrap(), now)?;
        let snapshot = match found {
            Whereabouts::Here(point) => Snapshot::of(&point.program, &point.model),
            Whereabouts::There(after) => read(directory.path(), after)?,
        };
        Ok::<_, String>(expected.iter().position(|it| *it == snapshot).map(|index| index + 1))
    };
    let now = stamp(93_200, 600);
    // So long ago, whatever the clock says.
    for (moment, number) in [("@-90s", 5), ("@-150s", 4), ("@-290s", 3), ("@-310s", 2)] {
        assert_eq!(found(&history, moment, now), Ok(Some(number)), "{moment}");
    }
    // 10,300 and 10,050 seconds after the epoch.
    let [once, more] = ["@1970-01-01T02:51:40Z", "@1970-01-01T02:47:30Z"];
    assert_eq!(found(&history, once, now), Ok(Some(4)));
    let twice = found(&history, more, now).unwrap_err();
    assert!(twice.contains("the clock was set back"), "{twice}");
    assert!(twice.contains("It may be the state after @1, or that after @4"), "{twice}");
    keeper.finish(LONG);

    let next = History::new(limits(99), tell_change);
    let _keeper = keep(&next, directory.path());
    assert!(snapshots(&next, 1..=5) == expected, "by their numbers");
    assert_eq!(found(&next, once, now), Ok(Some(4)));
    let twice = found(&next, more, now).unwrap_err();
    assert!(twice.contains("It may be the state after @1, or that after @4"), "{twice}");
}

/// Of a burst, the file has a part: nobody knows what held between.
#[test]
fn a_time_among_changes_that_were_lost_has_no_state() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(99), tell_change);
    let keeper = keep(&history, directory.path());
    let mut daemon = Daemon::start(&history, settings(), Vec::new());
    for port in 1..5 {
        std::thread::sleep(Duration::from_millis(2));
        daemon.change(of(served(1, port)));
    }
    let times: Vec<Timestamp> = history.all().iter().map(|entry| entry.time).collect();
    keeper.finish(LONG);
    let path = directory.path().join("history.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    // The header, and changes 1, 2 and 5.
    fs::write(&path, [lines[0], lines[1], lines[2], lines[5], ""].join("\n")).unwrap();
    let next = History::new(limits(99), tell_change);
    let _keeper = keep(&next, directory.path());
    let at = |time: Timestamp| state(&next, Moment::At(time)).map(|_| ());
    assert_eq!(at(times[0]), Ok(()));
    let error = at(times[2]).unwrap_err();
    assert!(error.contains("it is not known when changes @3 to @4 were"), "{error}");
    assert_eq!(at(times[4]), Ok(()));
}

/// What a process has lost at its end leaves no gap in its numbers.
#[test]
fn after_a_kill_it_is_not_known_what_held_until_the_next_start() {
    for is_killed in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let history = History::new(limits(99), tell_change);
        let keeper = keep(&history, directory.path());
        let mut daemon = Daemon::start(&history, settings(), Vec::new());
        daemon.change(of(served(1, 80)));
        let written = history.all();
        if is_killed {
            daemon.change(of(served(2, 80)));
        }
        keeper.finish(LONG);
        if is_killed {
            let text = fs::read_to_string(path("history.jsonl")).unwrap();
            let lines: Vec<&str> = text.lines().take(3).collect();
            fs::write(path("history.jsonl"), lines.join("\n") + "\n").unwrap();
            fs::remove_file(path("history-end.json")).unwrap();
        }
        std::thread::sleep(Duration::from_millis(2));
        let then = Timestamp::now();
        std::thread::sleep(Duration::from_millis(2));
        let check = |history: &History| {
            let state = |moment| state(history, moment).map(|_| ());
            assert_eq!(state(Moment::After(2)), Ok(()));
            assert_eq!(state(Moment::At(written[1].time)), Ok(()));
            assert_eq!(state(Moment::At(written[0].time)), Ok(()));
            match state(Moment::At(then)) {
                Ok(()) => assert!(!is_killed),
                Err(error) => {
                    let words = "what the kernel held after change @2 until the next start";
                    assert!(is_killed && error.contains(words), "{error}");
                }
            }
        };
        let next = History::new(limits(99), tell_change);
        let keeper = keep(&next, directory.path());
        assert!(!path("history-end.json").exists(), "it is not of this process");
        check(&next);
        Daemon::start(&next, settings(), Vec::new());
        check(&next);
        let lost = next.next(2).map(|next| (next.entry.id, next.lost));
        assert_eq!(lost, Some(if is_killed { (4, 1) } else { (3, 0) }), "a watch notices");
        keeper.finish(LONG);
        // Also when that one has ended; and it had written everything.
        let last = History::new(limits(99), tell_change);
        let _keeper = keep(&last, directory.path());
        check(&last);
        assert!(state(&last, Moment::At(Timestamp::now())).is_ok());
    }
}
