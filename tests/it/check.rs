//! Checks on a real kernel: one socket reads the tables while another one commits.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rulec_compiler::name::NodeName;
use rulec_compiler::nft::Key;
use rulec_compiler::{Change, Delta, Model, Op, Origin, Place, Program, Settings, State};
use rulec_sinks::nft::Ownership;
use rulec_sinks::{DeltaBase, NftSink, Sink};
use rulec_testkit::{Namespace, require_root};

use crate::support::{file, service, slice};

const MARK: u32 = 0x4000;

/// Enough for dumps of many messages.
const SERVICES: u32 = 1_000;

fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + number)
}

/// Returns a program of these Services, with ten endpoints each.
fn program(numbers: impl Iterator<Item = u32>, held: &State) -> Program {
    let documents = numbers.flat_map(|number| {
        let name = format!("s{number}");
        let endpoints = (0..10).map(|it| Ipv4Addr::from(0x0a80_0000 + number * 16 + it));
        let endpoints: Vec<String> = endpoints.map(|it| it.to_string()).collect();
        let endpoints: Vec<&str> = endpoints.iter().map(String::as_str).collect();
        [service(&name, &address(number).to_string(), ""), slice(&name, &endpoints)]
    });
    let directory = tempfile::tempdir().unwrap();
    let documents: Vec<String> = documents.collect();
    std::fs::write(directory.path().join("all.yaml"), file(&documents)).unwrap();
    let reading = rulec_sources::read(directory.path()).unwrap();
    assert_eq!(reading.problems, [], "the manifest is good");
    let mut model = Model::default();
    model.apply(Origin::Manifests, Change::everything(reading.objects));
    Program::compile(&model, Arc::new(Settings::new(NodeName::from("na"))), held)
}

fn places(delta: &Delta) -> BTreeSet<Place> {
    delta.places().collect()
}

fn cluster_ip(number: u32) -> Place {
    Place::Element(Key::ClusterIp(address(number).into()))
}

#[test]
fn tables_of_another_socket_are_checked() {
    if !require_root() {
        return;
    }
    for ownership in [Ownership::Exclusive, Ownership::Shared] {
        let namespace = Namespace::new("check");
        namespace.run(|| {
            let mut sink = NftSink::open(ownership, MARK).unwrap();
            let mut checker = NftSink::open(Ownership::Shared, MARK).unwrap();
            let many = program(0..20, &State::default());
            let all = Delta::reconcile(&State::default(), &many);
            assert_eq!(checker.check(&many).unwrap(), all, "there is nothing");
            let (found, base) = sink.adopt().unwrap();
            assert_eq!(found, State::default());
            sink.commit(&all, base).unwrap();
            assert!(checker.check(&many).unwrap().is_empty());

            let fewer = program((0..20).filter(|number| number % 7 != 0), &many.state());
            let change = Delta::between(&many, &fewer);
            sink.commit(&change, DeltaBase::Believed).unwrap();
            assert_eq!(places(&checker.check(&many).unwrap()), places(&change));
            assert!(checker.check(&fewer).unwrap().is_empty());
        });
    }
}

/// The kernel resumes a dump by counting, so deletions make it skip elements that nobody touches.
#[test]
fn commits_during_a_check_hide_nothing_and_feign_nothing() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("check");
    let many = program(0..SERVICES, &State::default());
    let fewer = program((0..SERVICES).filter(|number| number % 10 != 0), &many.state());
    let [goes, comes] = [Delta::between(&many, &fewer), Delta::between(&fewer, &many)];
    let touched = places(&goes);
    assert_eq!(places(&comes), touched);
    namespace.run(|| {
        let mut sink = NftSink::open(Ownership::Shared, MARK).unwrap();
        let mut checker = NftSink::open(Ownership::Shared, MARK).unwrap();
        let (found, base) = sink.adopt().unwrap();
        sink.commit(&Delta::reconcile(&found, &many), base).unwrap();
        let untouched = |delta: &Delta| -> Vec<Place> {
            delta.places().filter(|place| !touched.contains(place)).collect()
        };
        let checked = AtomicBool::new(false);
        let (before, after, commits) = thread::scope(|scope| {
            let commits = scope.spawn(|| {
                let mut sink = NftSink::open(Ownership::Shared, MARK).unwrap();
                let mut commits = 0_usize;
                while !checked.load(Ordering::Relaxed) {
                    for delta in [&goes, &comes] {
                        let outcome = sink.commit(delta, DeltaBase::Believed).unwrap();
                        assert!(outcome.refused.is_empty(), "{outcome:?}");
                        commits += 1;
                    }
                }
                commits
            });
            let before: Vec<_> = (0..20).map(|_| checker.check(&many)).collect();
            for number in [3, 5] {
                let victim = address(number);
                namespace.nft(&format!("delete element ip rulec cluster-ips {{ {victim} }}"));
            }
            let after = checker.check(&many);
            // The thread must end also if something was wrong.
            checked.store(true, Ordering::Relaxed);
            (before, after, commits.join().unwrap())
        });
        for found in before {
            assert_eq!(untouched(&found.unwrap()), []);
        }
        assert_eq!(untouched(&after.unwrap()), [3, 5].map(cluster_ip));
        assert!(commits > 30, "changes have gone on");
        let repair = checker.check(&many).unwrap();
        assert_eq!(places(&repair), [3, 5].map(cluster_ip).into());
        assert!(repair.ops().all(|op: &Op| op.added().is_some()));
    });
}
