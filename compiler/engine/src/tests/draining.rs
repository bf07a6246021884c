//! Tests of draining real servers of IPVS.

use std::collections::BTreeSet;

use rulec_compiler::ipvs::{self, RealServer, VirtualServer};
use rulec_compiler::settings::{IpvsSettings, ProxyMode};

use super::*;

/// The time of the monotonic clock when a world begins.
const BOOT: u32 = 5000;

/// How long real servers drain, in seconds.
const DRAIN: u32 = 60;

fn seconds(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

/// Periods without optional reads of the kernel.
fn periods() -> Periods {
    Periods { verify: seconds(1_000_000), idle_affinity: seconds(1_000_000), ..Periods::default() }
}

/// Creates a world in IPVS mode with a new engine, at a time of the clock.
fn world(kernel: FakeSink, at: u32) -> Fixture {
    let ipvs = IpvsSettings { drain: DRAIN, ..IpvsSettings::default() };
    let settings =
        Settings { proxy_mode: ProxyMode::Ipvs(ipvs), ..Settings::new(NodeName::from("na")) };
    let mut world = Fixture::with_settings(kernel, settings, periods());
    world.clock = Clock::new(world.now, at);
    world.engine.set_clock(world.clock);
    world
}

/// Creates a world whose kernel holds Service 1 with `endpoints` endpoints.
fn serving(endpoints: u8) -> Fixture {
    let mut world = world(FakeSink::default(), BOOT);
    world.change(vec![Change::everything(vec![service(1), slice(1, endpoints)])]);
    world.event(Event::SourcesReady);
    world.settle();
    assert_eq!(world.reals(), (1..=endpoints).map(|d| (d, RealServer::ACTIVE)).collect::<Vec<_>>());
    world
}

/// Creates a world with `to` of `from` endpoints left, whose others have just gone and have
/// connections.
fn draining(from: u8, to: u8) -> Fixture {
    let mut world = serving(from);
    world.kernel.busy = (to + 1..=from).map(real).collect();
    world.change(vec![Change::Apply(slice(1, to))]);
    assert_eq!(world.settle(), ["commit"]);
    world
}

fn server() -> VirtualServer {
    let (address, protocol) = (cluster_ip(1), Protocol::Tcp);
    VirtualServer { address, protocol, port: port(80) }
}

fn real(d: u8) -> Draining {
    let backend = Backend { address: IpAddr::from([10, 244, 1, d]), port: port(8080) };
    Draining { server: server(), backend }
}

fn gone_at(until: u32) -> RealServer {
    RealServer::draining(until)
}

impl Fixture {
    /// Returns what the kernel holds of Service 1, by the last octets of its endpoints.
    fn reals(&self) -> Vec<(u8, RealServer)> {
        let Some(held) = self.kernel.state.ipvs.servers.get(&server()) else { return Vec::new() };
        let known = |(backend, real): (&Backend, &Option<RealServer>)| match backend.address {
            IpAddr::V4(address) => (address.octets()[3], real.unwrap()),
            IpAddr::V6(_) => panic!("{backend} is of another family"),
        };
        held.reals.iter().map(known).collect()
    }

    /// Starts another process some seconds later, with the kernel that this one leaves.
    fn restart(self, later: u32, objects: Vec<Sourced>) -> Self {
        let clock = self.clock.seconds(self.now) + later;
        let mut next = world(self.kernel, clock);
        next.change(vec![Change::everything(objects)]);
        next.event(Event::SourcesReady);
        next
    }

    fn operations(&self) -> Vec<ipvs::Op> {
        let delta = self.kernel.committed.last().unwrap();
        let ipvs = delta.ops().filter_map(|op| {
            if let rulec_compiler::Op::Ipvs(op) = op { Some(op.clone()) } else { None }
        });
        ipvs.collect()
    }
}

#[test]
fn connections_are_not_counted_while_nothing_drains() {
    let mut world = serving(2);
    let deadline = world.engine.deadline().unwrap();
    assert!(deadline > world.now + seconds(10_000), "nothing is waited for");
    let commits = world.kernel.committed.len();
    world.pass(seconds(3600));
    assert_eq!(world.kernel.committed.len(), commits);
    // Nothing drains because of an added endpoint, either.
    world.change(vec![Change::Apply(slice(1, 3))]);
    assert_eq!(world.settle(), ["commit"]);
    assert!(world.engine.deadline().unwrap() > world.now + seconds(10_000));
}

#[test]
fn a_draining_real_server_is_removed_when_idle() {
    let mut world = draining(2, 1);
    let (active, gone) = (RealServer::ACTIVE, gone_at(BOOT + DRAIN));
    assert_eq!(world.reals(), [(1, active), (2, gone)]);
    assert!(world.engine.is_settled(), "draining is nothing that is owed");
    world.pass(seconds(20));
    assert_eq!(world.reals(), [(1, active), (2, gone)], "it has connections");
    world.kernel.busy.clear();
    world.pass(seconds(3));
    assert_eq!(world.reals(), [(1, active)]);
    assert_eq!(world.operations(), [ipvs::Op::DeleteReal(real(2).server, real(2).backend)]);
    assert!(world.engine.deadline().unwrap() > world.now + seconds(10_000), "that is all");
    world.assert_converged();
}

#[test]
fn a_busy_draining_real_server_is_removed_at_its_deadline() {
    let mut world = draining(3, 1);
    world.pass(seconds(DRAIN - 1));
    assert_eq!(world.reals().len(), 3);
    world.pass(seconds(1));
    assert_eq!(world.reals(), [(1, RealServer::ACTIVE)]);
    world.assert_converged();
}

#[test]
fn each_real_server_has_its_own_deadline() {
    let mut world = draining(3, 2);
    world.kernel.busy.insert(real(2));
    world.pass(seconds(30));
    world.change(vec![Change::Apply(slice(1, 1))]);
    world.settle();
    let first = gone_at(BOOT + DRAIN);
    let second = gone_at(BOOT + 30 + DRAIN);
    assert_eq!(world.reals(), [(1, RealServer::ACTIVE), (2, second), (3, first)]);
    world.pass(seconds(30));
    assert_eq!(world.reals(), [(1, RealServer::ACTIVE), (2, second)]);
    world.pass(seconds(30));
    assert_eq!(world.reals(), [(1, RealServer::ACTIVE)]);
}

#[test]
fn draining_continues_after_a_restart() {
    let first = draining(2, 1);
    let objects = || vec![service(1), slice(1, 1)];
    let mut second = first.restart(40, objects());
    second.kernel.committed.clear();
    assert_eq!(second.settle(), ["adopt"], "nothing has changed");
    assert!(second.kernel.committed.is_empty());
    second.pass(seconds(19));
    assert_eq!(second.reals(), [(1, RealServer::ACTIVE), (2, gone_at(BOOT + DRAIN))]);
    second.pass(seconds(1));
    assert_eq!(second.reals(), [(1, RealServer::ACTIVE)]);

    // A real server whose time was over while no process ran is removed at once.
    let mut late = draining(2, 1).restart(2 * DRAIN, objects());
    late.settle();
    late.pass(seconds(0));
    assert_eq!(late.reals(), [(1, RealServer::ACTIVE)]);

    // A real server whose endpoint went while no process ran gets the full time.
    let mut gone = serving(2);
    gone.kernel.busy.insert(real(2));
    let mut gone = gone.restart(40, objects());
    gone.settle();
    assert_eq!(gone.reals(), [(1, RealServer::ACTIVE), (2, gone_at(BOOT + 40 + DRAIN))]);
}

#[test]
fn a_draining_real_server_wanted_again_is_kept() {
    let mut world = draining(2, 1);
    world.pass(seconds(10));
    world.change(vec![Change::Apply(slice(1, 2))]);
    assert_eq!(world.settle(), ["commit"]);
    let back = ipvs::Op::SetReal(real(2).server, real(2).backend, RealServer::ACTIVE);
    assert_eq!(world.operations(), [back]);
    world.kernel.busy.clear();
    world.pass(seconds(2 * DRAIN));
    assert_eq!(world.reals().len(), 2);
    assert!(world.engine.deadline().unwrap() > world.now + seconds(10_000));
}

/// The real server was found idle, but became wanted again before the reply.
#[test]
fn a_real_server_wanted_again_during_a_count_is_kept() {
    let mut world = draining(2, 1);
    world.kernel.busy.clear();
    world.now += seconds(2);
    let request = world.engine.next_request(world.now).unwrap();
    assert!(matches!(&request, Request::Idle(draining) if *draining == [real(2)]));
    world.change(vec![Change::Apply(slice(1, 2))]);
    assert!(world.engine.next_request(world.now).is_none(), "one request at a time");
    let reply = answer(&mut world.kernel, request);
    world.event(Event::Reply(reply));
    assert_eq!(world.settle(), ["commit"]);
    assert_eq!(world.reals(), [(1, RealServer::ACTIVE), (2, RealServer::ACTIVE)]);
    world.assert_converged();
}

/// The real server was found idle before it became wanted and was given up again.
#[test]
fn an_outdated_idle_count_is_discarded() {
    let mut world = draining(2, 1);
    world.kernel.busy.clear();
    world.now += seconds(2);
    let request = world.engine.next_request(world.now).unwrap();
    let reply = answer(&mut world.kernel, request);
    world.change(vec![Change::Apply(slice(1, 2))]);
    world.event(Event::Reply(reply));
    world.settle();
    world.kernel.busy.insert(real(2));
    world.change(vec![Change::Apply(slice(1, 1))]);
    world.settle();
    assert_eq!(world.reals(), [(1, RealServer::ACTIVE), (2, gone_at(BOOT + 2 + DRAIN))]);
}

#[test]
fn a_failed_connection_count_is_only_a_warning() {
    let mut world = draining(2, 1);
    world.kernel.busy.clear();
    world.kernel.uncountable = 2;
    world.now += seconds(2);
    assert_eq!(world.settle(), ["idle"]);
    assert!(world.engine.is_settled());
    assert_eq!(world.engine.counts().failures, 0);
    assert_eq!(world.reals().len(), 2);
    world.pass(seconds(4));
    assert_eq!(world.reals().len(), 1, "the third count says so");

    let mut never = draining(2, 1);
    never.kernel.uncountable = u32::MAX;
    never.pass(seconds(DRAIN));
    assert_eq!(never.reals().len(), 1, "its time is over");
}

#[test]
fn draining_survives_a_failed_commit() {
    let faults = [Fault::LostAnswer, Fault::LostRequest, Fault::Half];
    for fault in faults {
        // The fault is in the commit that starts the draining.
        let mut world = serving(2);
        world.kernel.busy.insert(real(2));
        world.kernel.faults.push_back(fault);
        world.change(vec![Change::Apply(slice(1, 1))]);
        assert_eq!(world.settle()[..2], ["commit", "adopt"], "{fault:?}");
        let gone = gone_at(BOOT + DRAIN);
        assert_eq!(world.reals(), [(1, RealServer::ACTIVE), (2, gone)], "{fault:?}");

        // The fault is in a commit meanwhile.
        world.now += seconds(10);
        world.kernel.faults.push_back(fault);
        world.change(vec![Change::Apply(service(2))]);
        world.settle();
        assert_eq!(world.reals(), [(1, RealServer::ACTIVE), (2, gone)], "{fault:?}");

        // The fault is in the commit that ends the draining.
        world.kernel.faults.push_back(fault);
        world.pass(seconds(DRAIN - 10));
        assert_eq!(world.reals(), [(1, RealServer::ACTIVE)], "{fault:?}");
        assert!(world.engine.is_settled(), "{fault:?}");
        world.assert_converged();
    }
}

/// A real server that the kernel never held has no connections to keep.
#[test]
fn a_real_server_never_programmed_does_not_drain() {
    let mut world = serving(1);
    world.kernel.faults = vec![Fault::LostRequest; 4].into();
    world.change(vec![Change::Apply(slice(1, 2))]);
    world.settle();
    assert_eq!(world.reals().len(), 1, "it could not be programmed");
    world.change(vec![Change::Apply(slice(1, 1))]);
    world.pass(seconds(1));
    assert_eq!(world.reals(), [(1, RealServer::ACTIVE)]);
    assert_eq!(world.engine.wanted().unwrap().draining().count(), 0);
    assert!(world.engine.is_settled());
}

/// A kernel that refuses a Service keeps what it holds of it: a draining real server there gets no
/// more time, and no new one appears by a detour.
#[test]
fn a_refused_service_does_not_extend_draining() {
    let mut world = draining(2, 1);
    world.pass(seconds(20));
    world.kernel.refuses.insert(key(1), 12);
    world.change(vec![Change::Apply(slice(1, 3))]);
    world.settle();
    let held = [(1, RealServer::ACTIVE), (2, gone_at(BOOT + DRAIN))];
    assert_eq!(world.reals(), held);
    world.change(vec![Change::Apply(service(2))]);
    world.settle();
    assert_eq!(world.reals(), held);
    let wanted: Vec<(Draining, u32)> = world.engine.wanted().unwrap().draining().collect();
    assert!(wanted.iter().all(|(_, until)| *until <= BOOT + DRAIN), "{wanted:?}");
    world.kernel.refuses.clear();
    world.pass(seconds(60));
    let all = (1..=3).map(|d| (d, RealServer::ACTIVE)).collect::<Vec<_>>();
    assert_eq!(world.reals(), all, "it is wanted again");
}

#[test]
fn random_histories_with_draining_and_faults_converge() {
    let mut random = Random(7);
    for _ in 0..40 {
        let mut world = world(FakeSink::default(), BOOT);
        world.event(Event::SourcesReady);
        world.settle();
        for _ in 0..40 {
            let endpoints = u8::try_from(random.below(5)).unwrap();
            let name = u8::try_from(random.below(2) + 1).unwrap();
            let change = match random.below(6) {
                0 => Change::Apply(service(name)),
                1 => Change::Remove(ObjectKey::Service(key(name))),
                _ => Change::Apply(slice(name, endpoints)),
            };
            world.change(vec![change]);
            match random.below(8) {
                0 => world.kernel.faults.push_back(Fault::LostAnswer),
                1 => world.kernel.faults.push_back(Fault::LostRequest),
                2 => world.kernel.faults.push_back(Fault::Half),
                3 => world.kernel.uncountable = 2,
                4 => world.kernel.busy = (1..5).map(real).collect(),
                5 => world.kernel.busy = BTreeSet::new(),
                6 => {
                    world.kernel.refuses.insert(key(name), 12);
                }
                _ => world.kernel.refuses.clear(),
            }
            if random.below(3) > 0 {
                world.settle();
            }
            world.pass(Duration::from_millis(100 * random.below(200)));
            let now = world.clock.seconds(world.now);
            for (_, real) in world.reals() {
                let until = real.until().unwrap_or(now);
                assert!(until <= now + DRAIN, "it was asked to go in {DRAIN} seconds");
            }
        }
        world.kernel.refuses.clear();
        world.kernel.faults.clear();
        world.settle();
        world.pass(seconds(2 * DRAIN));
        assert!(world.engine.is_settled());
        world.assert_converged();
        let state = &world.kernel.state;
        let reals = state.ipvs.servers.values().flat_map(|server| server.reals.values());
        assert!(reals.clone().all(|real| *real == Some(RealServer::ACTIVE)), "nothing drains");
        assert_eq!(*state, world.engine.applied().unwrap().0.state());
    }
}
