//! Tests of starts at which not every file could be read.

use super::*;

/// Starts an engine with the kernel of another world.
fn start(first: Fixture, unread: usize, objects: Vec<Sourced>) -> Fixture {
    let mut world = Fixture::new(first.kernel);
    world.kernel.committed.clear();
    world.change(vec![Change::everything(objects)]);
    world.event(Event::Unread(unread));
    world.event(Event::SourcesReady);
    world.settle();
    world
}

#[test]
fn unnamed_services_are_kept_while_files_are_unread() {
    let first = Fixture::with(&[(1, 3), (2, 2)]);
    let mut world = start(first, 1, vec![service(1), slice(1, 2), service(3), slice(3, 1)]);
    assert_eq!((world.backends(1), world.backends(2), world.backends(3)), (2, 2, 1));
    assert_eq!(world.engine.kept(), 1);
    assert!(world.engine.is_settled());
    // A read of the kernel finds no drift.
    world.event(Event::Tampered(Tampering { culprit: None }));
    assert_eq!(world.settle(), ["read"]);
    assert_eq!(world.engine.counts().repairs, 0);
    // Other Services still change. Then the file can be read, and names the Service.
    world.change(vec![Change::Apply(slice(1, 3))]);
    assert_eq!(world.settle(), ["commit"]);
    world.change(vec![Change::Apply(service(2)), Change::Apply(slice(2, 2))]);
    assert_eq!(world.settle(), [""; 0], "it means what the kernel holds");
    world.event(Event::Unread(0));
    assert_eq!(world.settle(), [""; 0]);
    world.assert_converged();
}

#[test]
fn unnamed_services_are_removed_once_all_files_are_read() {
    let first = Fixture::with(&[(1, 3), (2, 2)]);
    let mut world = start(first, 2, vec![service(1)]);
    assert_eq!((world.backends(1), world.backends(2)), (3, 2), "no source names an endpoint of 1");
    world.event(Event::Unread(1));
    assert_eq!(world.settle(), [""; 0]);
    world.event(Event::Unread(0));
    assert_eq!(world.settle(), ["commit"]);
    assert_eq!((world.backends(1), world.backends(2), world.engine.kept()), (0, 0, 0));
    world.assert_converged();
}

#[test]
fn kept_content_is_repaired_and_survives_a_failure() {
    let first = Fixture::with(&[(1, 3), (2, 2)]);
    let mut world = start(first, 1, vec![service(1), slice(1, 3)]);
    world.kernel.faults.push_back(Fault::LostRequest);
    world.change(vec![Change::Apply(slice(1, 1))]);
    world.settle();
    world.pass(Duration::from_secs(5));
    assert_eq!((world.backends(1), world.backends(2), world.engine.kept()), (1, 2, 1));
    let table = world.kernel.state.tables.get_mut(&Family::Ipv4).unwrap();
    table.elements.clear();
    world.event(Event::Tampered(Tampering { culprit: None }));
    world.settle();
    assert_eq!((world.backends(1), world.backends(2)), (1, 2));
}
