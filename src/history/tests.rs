//! The history as a whole: what is kept, what is forgotten, and what is written.

use std::fs;
use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rulec_compiler::change::{self, Provenance, Sourced};
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{NamespacedName, PortName};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::{
    Endpoint, EndpointSlice, Kind, Object, Service, ServicePort, SlicePort, TargetPort,
};
use rulec_compiler::{Model, Origin, Program, Settings, State};
use rulec_engine::{Base, Cost, Verdicts};

use super::change::{Event, ServiceChange};
use super::keeper::OnDisk;
use super::*;
use crate::tool::diff::tell_change;

/// How long a disk may take. No test waits for this unless it fails.
pub(super) const LONG: Duration = Duration::from_secs(600);

/// A daemon's model that grows by a Service with each change.
pub(super) struct Source {
    model: Model,
    settings: Arc<Settings>,
}

impl Source {
    pub(super) fn new() -> Self {
        Self { model: Model::default(), settings: Arc::new(Settings::new("na".into())) }
    }

    /// Adds a Service, and returns what the engine would say of it.
    fn next(&mut self) -> Acknowledged {
        let number = self.model.count(Kind::Service) as u8;
        let mut service = Service::new(NamespacedName::new("default", &*format!("s{number}")));
        service.cluster_ips.v4 = Some(Ipv4Addr::new(10, 96, 0, number));
        let sourced = Sourced {
            object: Object::Service(Arc::new(service)),
            provenance: Provenance("web.yaml".into()),
        };
        self.model.apply(Origin::Manifests, change::Change::Apply(sourced));
        let program = Program::compile(&self.model, Arc::clone(&self.settings), &State::default());
        let cost = Cost { operations: 2, transactions: 1, ..Cost::default() };
        let (model, base, verdicts) = (self.model.clone(), Base::Acknowledged, Verdicts::default());
        Acknowledged { program, model, base, cost, verdicts }
    }

    pub(super) fn note(&mut self, history: &History, times: usize) {
        for _ in 0..times {
            let next = self.next();
            history.note(next);
        }
    }
}

/// Starts the keeper, and waits until it has read the file.
pub(super) fn keep(history: &History, directory: &Path) -> Keeper {
    let keeper = history.keep(Some(StateDir::new(directory.to_owned()))).unwrap();
    wait_until(|| !history.is_reading());
    keeper
}

pub(super) fn wait_until(is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "waited too long");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Returns the state at a moment, wherever it is.
pub(super) fn state(history: &History, moment: Moment) -> Result<Snapshot, String> {
    match history.state(moment)? {
        Past::Held(point) => Ok(Snapshot::of(&point.program, &point.model)),
        Past::Stored(stored) => stored.read(),
    }
}

pub(super) fn limits(changes: usize) -> Limits {
    Limits { changes, ..Limits::default() }
}

fn ids(history: &History) -> Vec<u64> {
    history.all().iter().map(|entry| entry.id).collect()
}

#[test]
fn the_newest_changes_are_kept_by_number_and_by_bytes() {
    let mut source = Source::new();
    let history = History::new(limits(3), tell_change);
    source.note(&history, 5);
    assert_eq!(ids(&history), [3, 4, 5]);
    assert_eq!(*history.follow().borrow(), 5);
    history.tidy();
    let one = history.lock().bytes_of(5).unwrap();
    let bytes = 2 * one + one / 2;
    let history = History::new(Limits { changes: 100, bytes }, tell_change);
    source.note(&history, 5);
    history.tidy();
    assert_eq!(ids(&history), [4, 5]);
    // The newest is kept whatever it takes.
    let history = History::new(Limits { changes: 100, bytes: 1 }, tell_change);
    source.note(&history, 5);
    assert_eq!(ids(&history), [5]);
    let history = History::new(limits(0), tell_change);
    source.note(&history, 5);
    assert!(!history.is_kept() && ids(&history).is_empty());
}

#[test]
fn what_changed_nothing_is_no_change() {
    let mut source = Source::new();
    let history = History::new(limits(3), tell_change);
    let nothing = Acknowledged { cost: Cost::default(), ..source.next() };
    history.note(nothing.clone());
    assert_eq!(ids(&history), [1], "a start is one, even if the kernel had everything");
    history.note(nothing);
    assert_eq!(ids(&history), [1]);
    history.note(Acknowledged { cost: Cost::default(), ..source.next() });
    assert_eq!(ids(&history), [1, 2], "other objects are one without operations, too");
}

#[test]
fn a_reader_is_told_how_many_changes_it_missed() {
    let mut source = Source::new();
    let history = History::new(limits(3), tell_change);
    assert!(history.next(0).is_none());
    source.note(&history, 5);
    let next = |after| history.next(after).map(|next| (next.entry.id, next.lost));
    assert_eq!(next(0), Some((3, 2)));
    assert_eq!(next(2), Some((3, 0)));
    assert_eq!(next(3), Some((4, 0)));
    assert_eq!(next(5), None);
}

#[test]
fn a_change_is_told_as_the_difference_of_its_states() {
    let mut source = Source::new();
    let history = History::new(limits(9), tell_change);
    source.note(&history, 2);
    let all = history.all();
    let [start, change] = [&all[0], &all[1]].map(|entry| history.told(entry));
    assert_eq!((start.event, start.services.len()), (Event::Started, 0));
    assert!(start.settings.is_some());
    assert_eq!(change.event, Event::Changed);
    let named: Vec<String> = change.services.iter().map(ServiceChange::key).collect();
    assert_eq!(named, ["default/s1"], "only what differs");
    let causes: Vec<(&str, &str)> =
        change.causes.iter().map(|it| (&*it.object, &*it.from)).collect();
    assert_eq!(causes, [("Service default/s1", "web.yaml")]);
    assert!(Arc::ptr_eq(&change, &history.told(&all[1])), "it is found once");
}

#[test]
fn the_state_of_a_moment_is_that_after_the_last_change_before_it() {
    let mut source = Source::new();
    let history = History::new(limits(2), tell_change);
    let count = |snapshot: Snapshot| snapshot.model().unwrap().count(Kind::Service);
    let state = |moment: &str| {
        let moment: Moment = moment.parse().unwrap();
        tests::state(&history, moment).map(count)
    };
    assert!(state("@now").unwrap_err().contains("does not know yet"));
    let start = Timestamp::now();
    source.note(&history, 4);
    assert_eq!(state("@now"), Ok(4));
    assert_eq!(state("@-0s"), Ok(4));
    assert_eq!(state("@3"), Ok(3));
    assert!(state("@2").unwrap_err().contains("no such change: the oldest is @3"));
    // After the change that was forgotten last, and before the oldest one.
    let times: Vec<Timestamp> = history.all().iter().map(|entry| entry.time).collect();
    let forgotten = tests::state(&history, Moment::At(start));
    assert!(forgotten.unwrap_err().contains("is not kept: the oldest is @3"));
    let between = times[0].checked_sub(Duration::from_nanos(1)).unwrap();
    let between = tests::state(&history, Moment::At(between));
    assert!(between.is_err() || count(between.unwrap()) == 2);
}

fn file(directory: &Path) -> String {
    fs::read_to_string(directory.join("history.jsonl")).unwrap()
}

#[test]
fn what_changes_meant_outlives_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let mut source = Source::new();
    let history = History::new(limits(3), tell_change);
    let keeper = keep(&history, &path);
    source.note(&history, 2);
    keeper.wake();
    keeper.finish(LONG);
    let told = |history: &History| -> Vec<Arc<Change>> {
        history.all().iter().map(|entry| history.told(entry)).collect()
    };
    let before = told(&history);
    assert_eq!(file(&path).lines().count(), 3, "a header and two changes");

    let history = History::new(limits(3), tell_change);
    let keeper = keep(&history, &path);
    assert_eq!(told(&history), before);
    Source::new().note(&history, 2);
    assert_eq!(ids(&history), [2, 3, 4]);
    assert_eq!(history.all()[1].event, Event::Started);
    keeper.finish(LONG);
    assert_eq!(file(&path).lines().count(), 5, "they are appended");

    // An end of the last line that is missing is no reason to lose it, or the next one.
    fs::write(path.join("history.jsonl"), file(&path).trim_end()).unwrap();
    let history = History::new(limits(3), tell_change);
    let keeper = keep(&history, &path);
    Source::new().note(&history, 1);
    keeper.finish(LONG);
    assert_eq!(ids(&history), [3, 4, 5]);
    let found = disk::Disk::new(&path, 3).read();
    assert_eq!(found.changes.iter().map(|(it, _)| it.id).collect::<Vec<_>>(), [3, 4, 5]);
    assert_eq!(found.complaints, [""; 0]);
}

#[test]
fn lines_that_cannot_be_read_are_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let history = History::new(limits(9), tell_change);
    let keeper = keep(&history, path);
    Source::new().note(&history, 3);
    keeper.finish(LONG);
    let good = file(path);
    let lines: Vec<&str> = good.lines().collect();
    let cut = |line: &str| line[..line.len() / 2].to_owned();
    let other = lines[2].replace("v1alpha1", "v9");
    let text = [lines[0], &cut(lines[1]), &other, lines[3], &cut(lines[3])].join("\n");
    fs::write(path.join("history.jsonl"), text).unwrap();
    let found = disk::Disk::new(path, 9).read();
    assert_eq!(found.changes.iter().map(|(it, _)| it.id).collect::<Vec<_>>(), [3]);
    assert_eq!(found.complaints.len(), 3, "{:?}", found.complaints);
    assert!(found.complaints[0].starts_with("line 2: "), "{:?}", found.complaints);
    assert_eq!(found.complaints[1], "line 3: it is a rulec.io/v9 Change");
    // What is no file is not touched.
    fs::remove_file(path.join("history.jsonl")).unwrap();
    fs::create_dir(path.join("history.jsonl")).unwrap();
    let found = disk::Disk::new(path, 9).read();
    assert!(found.complaints[0].contains("a directory"), "{:?}", found.complaints);
}

#[test]
fn the_file_is_replaced_when_it_has_grown() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::new();
    let history = History::new(limits(4), tell_change);
    let mut disk = disk::Disk::new(directory.path(), 4);
    let mut most = 0;
    for _ in 0..30 {
        source.note(&history, 1);
        let all: Vec<_> = history.all().iter().map(|entry| history.told(entry)).collect();
        disk.write(&all[all.len() - 1..], history.since(), || all.clone()).unwrap();
        let lines = file(directory.path()).lines().count() - 1;
        most = most.max(lines);
        assert!((1..=8).contains(&lines), "{lines}");
    }
    assert_eq!(most, 8);
    let found = disk::Disk::new(directory.path(), 4).read();
    assert_eq!(found.changes.iter().map(|(it, _)| it.id).collect::<Vec<_>>(), [27, 28, 29, 30]);
}

/// The file has bounds of its own: what memory has no room for stays in it when it is replaced.
#[test]
fn a_file_that_is_replaced_keeps_what_memory_has_no_room_for() {
    let directory = tempfile::tempdir().unwrap();
    let mut source = Source::new();
    let history = History::new(Limits { changes: 4, bytes: 1 }, tell_change);
    let mut disk = disk::Disk::new(directory.path(), 4);
    for _ in 0..9 {
        source.note(&history, 1);
        let all: Vec<_> = history.all().iter().map(|entry| history.told(entry)).collect();
        assert_eq!(all.len(), 1);
        disk.write(&all, history.since(), || all.clone()).unwrap();
    }
    assert_eq!(file(directory.path()).lines().count(), 5, "it was just replaced");
    let found = disk::Disk::new(directory.path(), 4).read();
    assert_eq!(found.changes.iter().map(|(it, _)| it.id).collect::<Vec<_>>(), [6, 7, 8, 9]);
    assert_eq!(found.complaints, [""; 0]);
}

/// Only what is damaged goes; what another version has written, or cannot be read now, does not.
#[test]
fn a_file_that_is_not_understood_is_put_aside() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    let aside = |number: u64| directory.path().join(format!("history-aside-{number}.jsonl"));
    for number in 1..=5 {
        fs::write(&path, format!("{{\"apiVersion\":\"rulec.io/v{number}\"}}\n")).unwrap();
        let history = History::new(limits(9), tell_change);
        let keeper = keep(&history, directory.path());
        Source::new().note(&history, 1);
        keeper.finish(LONG);
        assert_eq!(file(directory.path()).lines().count(), 2);
        let said = fs::read_to_string(aside(number)).unwrap();
        assert!(said.contains(&format!("rulec.io/v{number}")), "{said}");
    }
    let left: Vec<u64> = (1..9).filter(|number| aside(*number).exists()).collect();
    assert_eq!(left, [3, 4, 5], "the oldest have gone");
    // One line of another version is enough.
    let text = file(directory.path());
    let line = text.lines().nth(1).unwrap().replace("rulec.io/v1alpha1", "rulec.io/v9");
    fs::write(&path, format!("{text}{line}\n")).unwrap();
    let history = History::new(limits(9), tell_change);
    let keeper = keep(&history, directory.path());
    Source::new().note(&history, 1);
    keeper.finish(LONG);
    assert_eq!(ids(&history), [1, 3], "the second may have had a number");
    assert!(fs::read_to_string(aside(6)).unwrap().contains("rulec.io/v9"));
    let found = disk::Disk::new(directory.path(), 9).read();
    assert_eq!(found.changes.iter().map(|(it, _)| it.id).collect::<Vec<_>>(), [1, 3]);
}

/// Returns true in a process in which only this test runs, because the memory of a process is that
/// of all its threads. Elsewhere, runs the test in such a process and returns false.
fn is_alone(test: &str) -> bool {
    const VARIABLE: &str = "RULEC_TEST_IS_ALONE";
    if std::env::var_os(VARIABLE).is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("history::tests::{test}")]).env(VARIABLE, "1");
    let ran = command.output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}{ran:?}");
    false
}

/// Returns how much memory this process takes.
fn resident() -> usize {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// How much memory changes take really, and as an estimate: `objects` make a model, and `next` is one
/// change of it.
fn weights(
    objects: Vec<change::Change>,
    rounds: u16,
    mut next: impl FnMut(u16) -> change::Change,
) -> [usize; 2] {
    let settings = Arc::new(Settings::new("na".into()));
    let mut model = Model::default();
    for object in objects {
        model.apply(Origin::Manifests, object);
    }
    let mut program = Program::compile(&model, settings, &State::default());
    let history = History::new(Limits { changes: 10_000, bytes: 1 << 40 }, tell_change);
    let before = resident();
    for round in 0..rounds {
        let dirty = model.apply(Origin::Manifests, next(round));
        program.update(&model, &dirty);
        let (program, model) = (program.clone(), model.clone());
        let cost = Cost { operations: 4, ..Cost::default() };
        let (base, verdicts) = (Base::Acknowledged, Verdicts::default());
        history.note(Acknowledged { program, model, base, cost, verdicts });
    }
    let each = resident().saturating_sub(before) / usize::from(rounds);
    history.tidy();
    let estimate = history.lock().bytes_of(2).unwrap();
    [each, estimate]
}

pub(super) fn of(object: Object) -> change::Change {
    change::Change::Apply(Sourced { object, provenance: Provenance("web.yaml".into()) })
}

pub(super) fn served(number: u16, port: u16) -> Object {
    let mut service = Service::new(NamespacedName::new("default", &*format!("s{number}")));
    let [high, low] = number.to_be_bytes();
    service.cluster_ips.v4 = Some(Ipv4Addr::new(10, 96, high, low));
    let number = NonZeroU16::new(port).unwrap();
    let (protocol, target) = (Protocol::Tcp, TargetPort::Number(number));
    let name = PortName::from("");
    service.ports.push(ServicePort { name, protocol, port: number, node_port: None, target });
    Object::Service(Arc::new(service))
}

pub(super) fn endpoints(of: u16, count: u16) -> Object {
    let all = (0..count).map(|number| {
        let [high, low] = number.to_be_bytes();
        Endpoint::ready(Ipv4Addr::new(10, 50, high, low).into())
    });
    Object::EndpointSlice(Arc::new(EndpointSlice {
        key: NamespacedName::new("default", &*format!("s{of}-1")),
        service: NamespacedName::new("default", &*format!("s{of}")),
        family: Family::Ipv4,
        ports: vec![SlicePort {
            name: PortName::from(""),
            protocol: Protocol::Tcp,
            port: NonZeroU16::MIN,
        }],
        endpoints: all.collect(),
        weight: Weight::default(),
    }))
}

/// A state shares with the one beside it all that has not changed.
#[test]
fn the_estimate_covers_the_memory_of_small_changes() {
    if !is_alone("the_estimate_covers_the_memory_of_small_changes") {
        return;
    }
    let all = (0..10_000).map(|number| of(served(number, 1))).collect();
    let [each, estimate] = weights(all, 2_000, |round| of(served(round * 5, round + 2)));
    assert!(each < estimate, "{each} bytes for each change, but the estimate is {estimate}");
    assert!(estimate < 32 << 10, "{estimate}");
}

#[test]
fn the_estimate_covers_the_memory_of_large_services() {
    if !is_alone("the_estimate_covers_the_memory_of_large_services") {
        return;
    }
    let all = vec![of(served(1, 80)), of(endpoints(1, 2_000))];
    let [each, estimate] = weights(all, 60, |round| of(endpoints(1, 2_000 - round - 1)));
    // The allocator is not the same everywhere.
    let range = each / 2..each * 4;
    assert!(range.contains(&estimate), "{each} bytes for each change, estimate {estimate}");
}

/// A fault in the comparison of two states costs the words for one change, not the daemon.
#[test]
fn a_change_that_cannot_be_told_is_still_a_change() {
    let history = History::new(limits(8), |_| panic!("on purpose"));
    Source::new().note(&history, 1);
    let all = history.all();
    let told = history.told(&all[0]);
    assert_eq!((told.id, told.services.len()), (1, 0));
}

/// While the keeper waits for a disk, what leaves the ring is dropped all the same.
#[test]
fn the_bounds_hold_without_the_keeper() {
    let history = History::new(limits(8), tell_change);
    let mut source = Source::new();
    let one = source.next();
    for _ in 0..UNTIDIED + 10 {
        history.note(one.clone());
    }
    let is_tidied = || history.lock().untidied() < UNTIDIED;
    wait_until(is_tidied);
    assert_eq!(history.all().len(), 8);
}

/// A file that others have emptied has no header, and is begun anew.
#[test]
fn an_emptied_file_is_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history.jsonl");
    fs::write(&path, "").unwrap();
    let mut source = Source::new();
    let history = History::new(limits(8), tell_change);
    let keeper = keep(&history, directory.path());
    source.note(&history, 2);
    keeper.wake();
    keeper.finish(LONG);
    let next = History::new(limits(8), tell_change);
    drop(keep(&next, directory.path()));
    assert_eq!(ids(&next), [1, 2], "{}", fs::read_to_string(&path).unwrap());
}

/// Of a Service that the kernel refuses, nothing changes there; it is told all the same.
#[test]
fn what_the_kernel_refuses_is_a_change_that_names_it() {
    let mut source = Source::new();
    let history = History::new(limits(9), tell_change);
    source.note(&history, 2);
    let service = NamespacedName::new("default", "s1");
    let last = history.all()[1].around.as_ref().unwrap().after.clone();
    let note = |verdicts| {
        let (program, model) = (last.program.clone(), last.model.clone());
        let (base, cost) = (Base::Acknowledged, Cost::default());
        history.note(Acknowledged { program, model, base, cost, verdicts });
    };
    let refused = vec![(service.clone(), "No space left on device".into())];
    note(Verdicts { refused, accepted: Vec::new() });
    let gone = NamespacedName::new("default", "gone");
    note(Verdicts { refused: Vec::new(), accepted: vec![gone, service] });
    let told: Vec<_> = history.all()[2..].iter().map(|entry| history.told(entry)).collect();
    let [refused, accepted] = &told[..] else { panic!("{told:?}") };
    let names = |change: &Change| (change.refused.len(), change.accepted.len());
    assert_eq!((names(refused), names(accepted)), ((1, 0), (0, 1)), "one that is gone is not held");
    assert_eq!(refused.refused[0].error, "No space left on device");
    let text = |change: &Change| {
        let mut text = Vec::new();
        crate::tool::past::follow(&mut text, change).unwrap();
        let text = anstream::adapter::strip_str(&String::from_utf8(text).unwrap()).to_string();
        // Whatever the width.
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(text(refused).contains("default/s1: the kernel refuses it"), "{}", text(refused));
    assert!(text(refused).contains("No space left on device"), "{}", text(refused));
    assert!(text(accepted).contains("default/s1: the kernel holds it now"), "{}", text(accepted));
    assert_eq!(crate::tool::past::row(refused)[4], "default/s1 refused");
    assert_eq!(crate::tool::past::row(accepted)[4], "default/s1 accepted");
}

/// The start does not wait for the disk, and numbers go on all the same.
#[test]
fn changes_wait_for_those_of_earlier_processes_but_not_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(9), tell_change);
    let keeper = keep(&history, directory.path());
    Source::new().note(&history, 2);
    keeper.finish(LONG);
    let found = || disk::Disk::new(directory.path(), 9).read();

    let next = History::new(limits(9), tell_change);
    next.lock().wait();
    Source::new().note(&next, 2);
    assert!(next.all().is_empty());
    let found_first = found();
    assert_eq!(found_first.since, Some(history.since()));
    assert!(next.recall(found_first));
    assert_eq!(ids(&next), [1, 2, 3, 4]);
    assert_eq!((next.since(), *next.follow().borrow()), (history.since(), 4));

    let hung = History::new(limits(1000), tell_change);
    hung.lock().wait();
    Source::new().note(&hung, 255);
    assert!(hung.all().is_empty());
    let mut source = Source::new();
    source.note(&hung, 1);
    assert_eq!(hung.all().len(), 256, "the disk takes too long");
    assert!(!hung.recall(found()));
    assert!(hung.since() != history.since(), "it has numbers of its own");
}

/// However long a disk hangs, what the kernel holds is known, and the numbers are known soon.
#[test]
fn changes_wait_for_a_disk_that_hangs_only_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::new(directory.path().to_owned());
    let before = History::new(limits(9), tell_change);
    let keeper = keep(&before, directory.path());
    Source::new().note(&before, 3);
    keeper.finish(LONG);

    let (work, works) = std::sync::mpsc::channel::<()>();
    let hang = move |disk, directory: &StateDir| {
        // Until the test ends.
        let _ = works.recv();
        OnDisk::read(disk, directory)
    };
    let history = History::new(limits(9), tell_change);
    // The clock of a disk that answers in time, at first.
    history.lock().wait();
    Source::new().note(&history, 1);
    assert!(history.is_reading() && history.all().is_empty());
    assert!(history.state(Moment::Now).is_ok(), "it has no number yet");
    history.give_up();
    assert!(!history.is_reading());
    assert_eq!(ids(&history), [1]);

    let history = History::new(limits(9), tell_change);
    let patience = Duration::from_millis(20);
    let keeper = Keeper::start_with(history.clone(), Some(state.clone()), patience, hang).unwrap();
    Source::new().note(&history, 2);
    keeper.wake();
    wait_until(|| !history.is_reading());
    assert_eq!(ids(&history), [1, 2], "it has numbers of its own");
    drop(work);
    keeper.finish(LONG);
    let found = disk::Disk::new(directory.path(), 9).read();
    assert_eq!(found.changes.len(), 2, "another file is begun");
    assert_eq!(found.since, Some(history.since()));
    // What was not read is not lost.
    let aside = fs::read_to_string(directory.path().join("history-aside-1.jsonl")).unwrap();
    assert_eq!(aside.lines().count(), 4, "a header and three changes");
}

#[test]
fn a_moment_in_the_future_or_without_a_state_is_named_as_such() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::new(limits(9), tell_change);
    let keeper = keep(&history, directory.path());
    Source::new().note(&history, 1);
    keeper.finish(LONG);
    let then = Timestamp::now();
    std::thread::sleep(Duration::from_millis(2));
    let next = History::new(limits(9), tell_change);
    let _keeper = keep(&next, directory.path());
    Source::new().note(&next, 1);
    let now = Timestamp::now();
    let error = |moment| state(&next, moment).unwrap_err();
    let future = now.checked_add(Duration::from_secs(60)).unwrap();
    assert!(error(Moment::At(future)).contains("that is in the future"), "{:?}", future);
    assert!(state(&next, Moment::At(then)).is_ok(), "it is on disk");
    for file in fs::read_dir(directory.path()).unwrap() {
        let path = file.unwrap().path();
        if path.to_string_lossy().contains("states-") {
            fs::remove_file(path).unwrap();
        }
    }
    let before = error(Moment::At(then));
    let words = "is no longer in memory, and its state is not in /";
    assert!(before.contains("change @1 of ") && before.contains(words), "{before}");
    assert!(state(&next, Moment::At(now)).is_ok());
}

/// What somebody has asked for, and what was read from the file, counts as well.
#[test]
fn the_estimate_covers_the_documents() {
    if !is_alone("the_estimate_covers_the_documents") {
        return;
    }
    let mut source = Source::new();
    let history = History::new(limits(9), tell_change);
    source.note(&history, 2);
    history.tidy();
    let states = history.lock().bytes_of(2).unwrap();
    let told = history.told(&history.all()[1]);
    let length = serde_json::to_vec(&*told).unwrap().len();
    assert_eq!(history.lock().bytes_of(2), Some(states + weight::of_document(length)));
    history.told(&history.all()[1]);
    assert_eq!(history.lock().bytes_of(2), Some(states + weight::of_document(length)), "once");

    let text = serde_json::to_string(&*told).unwrap();
    let before = resident();
    let all: Vec<Change> = (0..5_000).map(|_| serde_json::from_str(&text).unwrap()).collect();
    let each = resident().saturating_sub(before) / all.len();
    assert!(each < weight::of_document(length), "{each} bytes of {length} as text");
}

/// A full disk is left alone between the tries, whatever changes meanwhile.
#[test]
fn a_file_that_cannot_be_written_is_tried_again_after_a_pause() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    fs::write(&path, "no directory").unwrap();
    let state = StateDir::new(path.clone());
    let history = History::new(limits(9), tell_change);
    let keeper = history.keep(Some(state.clone())).unwrap();
    let mut source = Source::new();
    source.note(&history, 1);
    keeper.wake();
    wait_until(|| state.failures() == 1);
    for _ in 0..5 {
        source.note(&history, 1);
        keeper.wake();
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(state.failures() < 3, "{} tries", state.failures());
    fs::remove_file(&path).unwrap();
    keeper.finish(LONG);
    assert_eq!(state.writes(), 2, "the changes, and their states");
    assert_eq!(file(&path).lines().count(), 7, "a header and all changes");
}
