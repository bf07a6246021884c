//! Tests of checks: what happens while one runs, and what it leads to.

use super::*;

/// Longer than a period.
const LONG: Duration = Duration::from_secs(60);

impl Fixture {
    /// Lets time pass until a check is due, and returns its request.
    fn check(&mut self) -> Request {
        self.now += LONG;
        let request = self.engine.next_request(self.now).unwrap();
        assert!(matches!(request, Request::Check(_)), "{request:?}");
        request
    }

    /// Ends a check that has read the kernel now, and returns what is requested after it.
    fn end(&mut self, check: Request) -> Vec<&'static str> {
        let reply = answer(&mut self.kernel, check);
        self.event(Event::Reply(reply));
        self.settle()
    }

    /// Deletes an endpoint of a Service, as another process would.
    fn damage(&mut self, name: u8) {
        let frontend = rulec_compiler::Frontend::Address {
            address: cluster_ip(name),
            protocol: Protocol::Tcp,
            port: port(80),
        };
        let group = self.kernel.state.code(frontend).unwrap().group;
        let table = self.kernel.state.tables.get_mut(&Family::Ipv4).unwrap();
        let key = Key::Endpoint(Family::Ipv4, group, Protocol::Tcp, 0);
        table.elements.remove(&key).unwrap();
    }
}

#[test]
fn a_change_is_acknowledged_while_a_check_runs() {
    let mut world = Fixture::with(&[(1, 3)]);
    let check = world.check();
    assert!(world.engine.is_settled(), "nothing waits for it");
    assert_eq!(world.engine.deadline(), None, "nothing is due until it ends");
    for endpoints in [2, 4, 1] {
        world.change(vec![Change::Apply(slice(1, endpoints))]);
        assert_eq!(world.settle(), ["commit"]);
        assert_eq!(world.backends(1), usize::from(endpoints));
        assert_eq!(world.engine.behind_since(), None, "it is acknowledged");
    }
    assert_eq!(world.end(check), [""; 0]);
    assert_eq!(world.engine.deadline(), Some(world.now + LONG));
}

#[test]
fn what_was_committed_during_a_check_is_no_drift() {
    let changes = [
        Change::Apply(slice(1, 5)),
        Change::Apply(slice(1, 1)),
        Change::Apply(sticky(1, 60)),
        Change::Remove(ObjectKey::Service(key(1))),
        Change::Apply(service(3)),
    ];
    for change in changes {
        let mut world = Fixture::with(&[(1, 3), (2, 2)]);
        let check = world.check();
        world.change(vec![change.clone()]);
        assert_eq!(world.settle(), ["commit"], "{change:?}");
        assert_eq!(world.end(check), [""; 0], "{change:?}");
        assert_eq!(world.engine.counts().repairs, 0);
        world.assert_converged();
    }
}

/// What the check has seen is neither what was there before nor what is there after.
#[test]
fn a_change_that_is_undone_during_a_check_is_no_drift() {
    let mut world = Fixture::with(&[(1, 3)]);
    let check = world.check();
    world.change(vec![Change::Apply(slice(1, 2))]);
    world.settle();
    let reply = answer(&mut world.kernel, check);
    world.change(vec![Change::Apply(slice(1, 3))]);
    world.settle();
    world.event(Event::Reply(reply));
    assert_eq!(world.settle(), [""; 0]);
}

#[test]
fn a_commit_that_is_pending_when_a_check_ends_is_no_drift() {
    let mut world = Fixture::with(&[(1, 3)]);
    let check = world.check();
    world.change(vec![Change::Apply(slice(1, 5))]);
    let commit = world.engine.next_request(world.now).unwrap();
    // The kernel has committed when the check reads it; the acknowledgement is still under way.
    let committed = answer(&mut world.kernel, commit);
    let checked = answer(&mut world.kernel, check);
    world.event(Event::Reply(checked));
    assert!(world.engine.next_request(world.now).is_none());
    world.event(Event::Reply(committed));
    assert_eq!(world.settle(), [""; 0]);
    assert!(world.engine.is_settled());
}

/// No check begins while the kernel may be between two programs.
#[test]
fn a_check_waits_for_the_commit_before_it() {
    let mut world = Fixture::with(&[(1, 3)]);
    world.now += LONG - Duration::from_millis(1);
    world.change(vec![Change::Apply(slice(1, 5))]);
    let commit = world.engine.next_request(world.now).unwrap();
    world.now += LONG;
    assert!(world.engine.next_request(world.now).is_none());
    let reply = answer(&mut world.kernel, commit);
    world.event(Event::Reply(reply));
    assert_eq!(world.settle(), ["check"]);
}

#[test]
fn tampering_is_found_while_changes_go_on() {
    let mut world = Fixture::with(&[(1, 3), (2, 2)]);
    let check = world.check();
    world.change(vec![Change::Apply(slice(1, 5))]);
    world.settle();
    world.damage(2);
    world.change(vec![Change::Apply(slice(1, 2))]);
    world.settle();
    assert_eq!(world.end(check), ["read", "commit"]);
    assert_eq!(world.engine.counts().repairs, 1);
    assert_eq!((world.backends(1), world.backends(2)), (2, 2));
    world.assert_converged();
}

/// The check that runs meanwhile cannot know who has changed it, the next one does.
#[test]
fn tampering_with_what_a_commit_touches_is_found_by_the_next_check() {
    let mut world = Fixture::with(&[(1, 3)]);
    let check = world.check();
    world.change(vec![Change::Apply(slice(1, 5))]);
    world.settle();
    let table = world.kernel.state.tables.get_mut(&Family::Ipv4).unwrap();
    let added = world.kernel.committed.last().unwrap().ops().find_map(|op| op.added()).unwrap();
    table.elements.remove(&added.key).unwrap();
    assert_eq!(world.end(check), [""; 0]);
    let check = world.check();
    assert_eq!(world.end(check), ["read", "commit"]);
    world.assert_converged();
}

#[test]
fn a_check_that_fails_is_repeated_after_a_pause() {
    let mut world = Fixture::with(&[(1, 3)]);
    world.damage(1);
    world.kernel.unreadable = 2;
    let check = world.check();
    assert_eq!(world.end(check), [""; 0], "not at once");
    let first = world.engine.deadline().unwrap() - world.now;
    assert!(first > Duration::ZERO);
    world.now += first;
    assert_eq!(world.settle(), ["check"]);
    let second = world.engine.deadline().unwrap() - world.now;
    assert_eq!(second, first * 2);
    // Changes do not wait for the next one.
    world.change(vec![Change::Apply(slice(1, 4))]);
    assert_eq!(world.settle()[0], "commit");
    world.pass(second);
    assert_eq!(world.engine.counts().repairs, 1);
    world.assert_converged();
}

#[test]
fn a_check_is_overtaken_by_a_reading() {
    let mut world = Fixture::with(&[(1, 3), (2, 2)]);
    let check = world.check();
    world.damage(2);
    let reply = answer(&mut world.kernel, check);
    world.event(Event::Tampered(Tampering { culprit: None }));
    assert_eq!(world.settle(), ["read", "commit"]);
    world.event(Event::Reply(reply));
    assert_eq!(world.settle(), [""; 0], "what it has found is repaired");
    assert_eq!(world.engine.counts().repairs, 1);
}

#[test]
fn a_failed_commit_overtakes_a_check() {
    for fault in [Fault::LostAnswer, Fault::LostRequest, Fault::Half] {
        let mut world = Fixture::with(&[(1, 3), (2, 2)]);
        let check = world.check();
        world.kernel.faults.push_back(fault);
        world.change(vec![Change::Apply(slice(1, 5)), Change::Apply(slice(2, 4))]);
        let asked = world.settle();
        assert_eq!(asked[..2], ["commit", "adopt"], "{fault:?}");
        assert_eq!(world.end(check), [""; 0], "{fault:?}");
        world.assert_converged();
    }
}

/// Its content in the kernel is neither the old one nor the new one; the next try reads it.
#[test]
fn what_is_left_of_a_refused_service_is_no_drift() {
    let verify = Duration::from_millis(40);
    let periods = Periods { verify, ..Periods::default() };
    let mut world = Fixture::with_periods(FakeSink::default(), periods);
    world.change(vec![Change::everything(vec![service(1), slice(1, 1)])]);
    world.event(Event::SourcesReady);
    world.settle();
    world.kernel.refuses.insert(key(1), 12);
    world.kernel.refuses_halfway = true;
    world.change(vec![Change::Apply(slice(1, 3))]);
    assert_eq!(world.settle(), ["commit", "read"]);
    world.now += verify;
    assert_eq!(world.settle(), ["check"]);
    assert_eq!(world.engine.counts().repairs, 0);
}

/// A check that reads while changes go on sees each thing as it is at some time.
#[test]
fn random_checks_never_take_commits_for_tampering() {
    let mut random = Random(7);
    for round in 0..200 {
        let mut world = Fixture::with(&[(1, 3), (2, 2), (3, 0)]);
        let Request::Check(program) = world.check() else { unreachable!() };
        let mut times = vec![world.kernel.state.clone()];
        for _ in 0..random.below(6) {
            let name = u8::try_from(random.below(4)).unwrap();
            let endpoints = u8::try_from(random.below(5)).unwrap();
            let change = match random.below(4) {
                0 => Change::Apply(service(name)),
                1 => Change::Apply(sticky(name, 60 + u32::from(endpoints))),
                2 => Change::Remove(ObjectKey::Service(key(name))),
                _ => Change::Apply(slice(name, endpoints)),
            };
            world.change(vec![change]);
            world.settle();
            times.push(world.kernel.state.clone());
        }
        let number = u64::try_from(times.len()).unwrap();
        let mut any = || times[usize::try_from(random.below(number)).unwrap()].clone();
        // Sets and chains are listed at one time, then elements one after the other.
        let mut seen = any();
        for (family, table) in &mut seen.tables {
            let keys = times.iter().flat_map(|time| time.tables[family].elements.keys());
            let keys: std::collections::BTreeSet<Key> = keys.copied().collect();
            let held = |key: Key| Some((key, any().tables[family].elements.get(&key)?.clone()));
            table.elements = keys.into_iter().filter_map(held).collect();
        }
        let found = Delta::reconcile(&seen, &program);
        world.event(Event::Reply(Reply::Checked(Ok(found))));
        assert_eq!(world.settle(), [""; 0], "round {round}");
    }
}
