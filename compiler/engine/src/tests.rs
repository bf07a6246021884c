//! Tests of the engine with a kernel in memory that fails on request. Time is a number here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rulec_compiler::Settings;
use rulec_compiler::change::{Change, Origin, Provenance, Sourced};
use rulec_compiler::frontend::View;
use rulec_compiler::ipvs::Draining;
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{NamespacedName, NodeName};
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::nft::{Key, Value};
use rulec_compiler::object::{
    Affinity, ClusterIps, Endpoint, EndpointSlice, Kind, Object, ObjectKey, Service, ServicePort,
    ServiceType, SlicePort, TargetPort, TrafficPolicy,
};
use rulec_compiler::{Delta, Flow, Program};

use super::fake::{FakeSink, Fault};
use super::*;

mod checks;
mod draining;
mod unread;

/// Any moment: an `Instant` can be had only from the clock.
#[expect(clippy::disallowed_methods, reason = "tests need one moment to count from")]
pub(crate) fn started() -> Instant {
    Instant::now()
}

/// An engine, a kernel, and the time.
struct Fixture {
    engine: Engine,
    kernel: FakeSink,
    now: Instant,
    /// The kernel's clock.
    clock: Clock,
}

impl Fixture {
    fn new(kernel: FakeSink) -> Self {
        Self::with_periods(kernel, Periods::default())
    }

    fn with_periods(kernel: FakeSink, periods: Periods) -> Self {
        Self::with_settings(kernel, Settings::new(NodeName::from("na")), periods)
    }

    fn with_settings(kernel: FakeSink, settings: Settings, periods: Periods) -> Self {
        let now = started();
        let clock = Clock::new(now, 0);
        Self { engine: Engine::new(settings, periods, now), kernel, now, clock }
    }

    /// A world whose kernel holds these Services, with this many endpoints each.
    fn with(services: &[(u8, u8)]) -> Self {
        let mut world = Self::new(FakeSink::default());
        let objects = services.iter().flat_map(|(name, n)| [service(*name), slice(*name, *n)]);
        world.change(vec![Change::everything(objects.collect())]);
        world.event(Event::SourcesReady);
        world.settle();
        assert!(world.engine.is_settled());
        world
    }

    fn event(&mut self, event: Event) {
        self.engine.handle(event, self.now);
    }

    fn change(&mut self, changes: Vec<Change>) {
        self.event(Event::Changes(Origin::Manifests, changes, Vec::new()));
    }

    /// Answers the engine's requests until it has none at this time, and returns their names.
    fn settle(&mut self) -> Vec<&'static str> {
        let mut asked = Vec::new();
        while let Some(request) = self.engine.next_request(self.now) {
            asked.push(match &request {
                Request::Adopt => "adopt",
                Request::Read => "read",
                Request::Commit { .. } => "commit",
                Request::Idle(_) => "idle",
                Request::Check(_) => "check",
            });
            assert!(asked.len() < 100, "the engine never rests: {asked:?}");
            let reply = answer(&mut self.kernel, request);
            self.event(Event::Reply(reply));
        }
        asked
    }

    /// Lets time pass, with a stop at each deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(deadline) = self.engine.deadline().filter(|deadline| *deadline <= end) {
            self.now = self.now.max(deadline);
            self.settle();
        }
        self.now = end;
    }

    /// Asserts that the kernel means what a fresh compilation of the model means.
    fn assert_converged(&self) {
        let settings = Arc::clone(self.engine.settings());
        let program = Program::compile(self.engine.model(), settings, &self.kernel.state);
        let delta = Delta::reconcile(&self.kernel.state, &program);
        assert!(delta.is_empty(), "{delta:#?}");
    }

    fn backends(&self, name: u8) -> usize {
        let frontend = rulec_compiler::Frontend::Address {
            address: cluster_ip(name),
            protocol: Protocol::Tcp,
            port: port(80),
        };
        self.kernel.state.group(View::Cluster, frontend).map_or(0, |group| group.slots.len())
    }

    /// Returns how many maps of affinity records the kernel holds in IPv4.
    fn affinities(&self) -> usize {
        let sets = &self.kernel.state.tables[&Family::Ipv4].sets;
        sets.iter().filter(|set| set.affinity().is_some()).count()
    }
}

fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub(crate) fn key(name: u8) -> NamespacedName {
    NamespacedName::new("default", format!("service-{name}").as_str())
}

fn slice_key(name: u8) -> NamespacedName {
    NamespacedName::new("default", format!("service-{name}-a").as_str())
}

fn cluster_ip(name: u8) -> IpAddr {
    IpAddr::from([10, 96, 0, name])
}

pub(crate) fn service(name: u8) -> Sourced {
    sourced(Object::Service(Arc::new(Service {
        cluster_ips: ClusterIps { v4: Some([10, 96, 0, name].into()), v6: None },
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
            target: TargetPort::Number(port(8080)),
        }],
        ..Service::new(key(name))
    })))
}

/// The Service with session affinity.
fn sticky(name: u8, timeout: u32) -> Sourced {
    let sourced = service(name);
    let Object::Service(service) = &sourced.object else { panic!("{sourced:?}") };
    let affinity = Affinity::ClientIp { timeout };
    let service = Service { affinity, ..Service::clone(service) };
    Sourced { object: Object::Service(Arc::new(service)), ..sourced }
}

pub(crate) fn slice(name: u8, endpoints: u8) -> Sourced {
    sourced(Object::EndpointSlice(Arc::new(EndpointSlice {
        key: slice_key(name),
        service: key(name),
        family: Family::Ipv4,
        ports: vec![SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: port(8080) }],
        endpoints: (1..=endpoints)
            .map(|number| Endpoint::ready(IpAddr::from([10, 244, name, number])))
            .collect(),
        weight: Weight::default(),
    })))
}

fn sourced(object: Object) -> Sourced {
    Sourced { object, provenance: Provenance("test.yaml".into()) }
}

#[test]
fn nothing_is_committed_before_all_sources_are_ready() {
    let mut world = Fixture::new(FakeSink::default());
    world.change(vec![Change::Apply(service(1))]);
    assert_eq!(world.settle(), ["adopt"], "reading can begin");
    world.change(vec![Change::Apply(service(2))]);
    assert_eq!(world.settle(), [""; 0]);
    world.event(Event::SourcesReady);
    assert_eq!(world.settle(), ["commit"]);
    world.assert_converged();
}

#[test]
fn tampering_before_the_first_commit_repeats_the_adoption() {
    let mut world = Fixture::new(FakeSink::default());
    assert_eq!(world.settle(), ["adopt"]);
    world.change(vec![Change::everything(vec![service(1)])]);
    world.event(Event::Tampered(Tampering { culprit: None }));
    world.event(Event::SourcesReady);
    assert_eq!(world.settle(), ["adopt", "commit"]);
    world.assert_converged();
}

#[test]
fn an_unchanged_restart_writes_nothing() {
    let first = Fixture::with(&[(1, 3), (2, 0)]);
    let mut second = Fixture::new(first.kernel);
    second.kernel.committed.clear();
    second.change(vec![Change::everything(first.engine.model().objects().collect())]);
    second.event(Event::SourcesReady);
    assert_eq!(second.settle(), ["adopt"]);
    assert!(second.engine.is_settled());
    assert!(second.kernel.committed.is_empty());
}

#[test]
fn objects_deleted_while_stopped_are_removed_at_start() {
    let first = Fixture::with(&[(1, 3), (2, 2)]);
    let mut second = Fixture::new(first.kernel);
    second.change(vec![Change::everything(vec![service(1), slice(1, 3)])]);
    second.event(Event::SourcesReady);
    assert_eq!(second.settle(), ["adopt", "commit"]);
    assert_eq!((second.backends(1), second.backends(2)), (3, 0));
    second.assert_converged();
}

#[test]
fn a_change_commits_only_its_own_service() {
    let mut world = Fixture::with(&[(1, 3), (2, 2)]);
    world.change(vec![Change::Apply(slice(2, 3))]);
    assert_eq!(world.settle(), ["commit"]);
    let delta = world.kernel.committed.last().unwrap();
    assert_eq!(delta.groups.len(), 1);
    assert_eq!(delta.groups[0].service, key(2));
}

#[test]
fn changes_during_a_commit_form_one_batch() {
    let mut world = Fixture::with(&[(1, 1)]);
    world.change(vec![Change::Apply(slice(1, 2))]);
    let request = world.engine.next_request(world.now).unwrap();
    for n in 0..200 {
        world.change(vec![Change::Apply(slice(1, n % 10 + 1))]);
        assert!(world.engine.next_request(world.now).is_none(), "one request at a time");
    }
    let reply = answer(&mut world.kernel, request);
    world.event(Event::Reply(reply));
    assert_eq!(world.settle(), ["commit"]);
    assert_eq!(world.backends(1), 10);
}

#[test]
fn changes_without_effect_are_counted_and_not_committed() {
    let mut world = Fixture::with(&[(1, 3)]);
    world.change(vec![Change::Apply(slice(1, 3)), Change::Apply(service(1))]);
    world.change(vec![Change::Remove(ObjectKey::Service(key(9)))]);
    // A change that is reverted is none either.
    world.change(vec![Change::Apply(slice(1, 4)), Change::Apply(slice(1, 3))]);
    assert_eq!(world.settle(), [""; 0]);
    assert_eq!(world.engine.counts().suppressed, 3);
}

#[test]
fn changes_survive_a_lost_answer() {
    for fault in [Fault::LostAnswer, Fault::LostRequest, Fault::Half] {
        let mut world = Fixture::with(&[(1, 1), (2, 1)]);
        world.kernel.faults.push_back(fault);
        world.change(vec![Change::Apply(slice(1, 3)), Change::Apply(slice(2, 4))]);
        let asked = world.settle();
        assert_eq!(asked[..2], ["commit", "adopt"], "{fault:?}");
        assert_eq!((world.backends(1), world.backends(2)), (3, 4), "{fault:?}");
        assert!(world.engine.is_settled(), "{fault:?}");
        world.assert_converged();
    }
}

#[test]
fn commits_back_off_while_the_kernel_keeps_failing() {
    let mut world = Fixture::with(&[(1, 1)]);
    world.kernel.faults = vec![Fault::LostRequest; 8].into();
    world.change(vec![Change::Apply(slice(1, 2))]);
    world.settle();
    let first = world.engine.deadline().unwrap() - world.now;
    assert!(first > Duration::ZERO, "after three failures in a row it pauses");
    world.pass(first);
    let second = world.engine.deadline().unwrap() - world.now;
    assert_eq!(second, first * 2);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.backends(1), 2);
    assert!(world.engine.is_settled());
}

#[test]
fn a_refused_service_does_not_delay_the_others() {
    let mut world = Fixture::with(&[(1, 1), (2, 1)]);
    world.kernel.refuses.insert(key(1), 12);
    world.change(vec![Change::Apply(slice(1, 3)), Change::Apply(slice(2, 3))]);
    world.settle();
    assert_eq!((world.backends(1), world.backends(2)), (1, 3));
    assert_eq!(world.engine.quarantined().collect::<Vec<_>>(), [&key(1)]);
    assert!(!world.engine.is_settled());

    // Other Services still change meanwhile.
    world.change(vec![Change::Apply(slice(2, 4))]);
    assert_eq!(world.settle(), ["commit"]);
    assert_eq!((world.backends(1), world.backends(2)), (1, 4));

    // It is retried, first in vain, and then with success.
    world.pass(Duration::from_secs(1));
    assert_eq!(world.backends(1), 1);
    world.kernel.refuses.clear();
    world.pass(Duration::from_secs(30));
    assert_eq!(world.backends(1), 3);
    assert!(world.engine.is_settled());
    world.assert_converged();
}

#[test]
fn a_refused_service_is_retried_at_once_when_it_changes() {
    let mut world = Fixture::with(&[(1, 1)]);
    world.kernel.refuses.insert(key(1), 12);
    world.change(vec![Change::Apply(slice(1, 3))]);
    world.settle();
    world.kernel.refuses.clear();
    world.change(vec![Change::Apply(slice(1, 2))]);
    assert_eq!(world.settle(), ["commit"]);
    assert_eq!(world.backends(1), 2);
    assert!(world.engine.is_settled());
}

#[test]
fn verdicts_of_the_kernel_are_told_once_and_so_is_that_they_end() {
    let mut world = Fixture::with(&[(1, 3), (2, 3)]);
    let verdicts = |world: &mut Fixture| {
        let acknowledged = world.engine.take_acknowledged();
        let Verdicts { refused, accepted } = acknowledged.map(|it| it.verdicts).unwrap_or_default();
        let refused: Vec<NamespacedName> =
            refused.into_iter().map(|(service, _)| service).collect();
        [refused, accepted]
    };
    assert_eq!(verdicts(&mut world), [vec![], vec![]]);
    world.kernel.refuses.insert(key(1), 12);
    world.change(vec![Change::Apply(slice(1, 4))]);
    world.settle();
    assert_eq!(verdicts(&mut world), [vec![key(1)], vec![]]);
    world.pass(Duration::from_secs(60));
    assert_eq!(verdicts(&mut world), [vec![], vec![]], "it says the same again");
    world.kernel.refuses.clear();
    world.pass(Duration::from_secs(300));
    assert_eq!(verdicts(&mut world), [vec![], vec![key(1)]]);

    // One that changes is tried at once, and another in between says nothing of it.
    world.kernel.refuses.insert(key(2), 12);
    world.change(vec![Change::Apply(slice(2, 4))]);
    world.settle();
    assert_eq!(verdicts(&mut world), [vec![key(2)], vec![]]);
    world.change(vec![Change::Apply(slice(1, 2))]);
    world.settle();
    assert_eq!(verdicts(&mut world), [vec![], vec![]]);
    world.kernel.refuses.clear();
    world.change(vec![Change::Apply(slice(2, 3))]);
    world.settle();
    assert_eq!(verdicts(&mut world), [vec![], vec![key(2)]], "as the kernel has it");
    world.assert_converged();
}

/// A large Service takes several transactions, and the kernel may refuse any of them.
#[test]
fn what_a_service_refused_halfway_has_left_is_removed_with_it() {
    let mut world = Fixture::with(&[(1, 1)]);
    let before = world.kernel.state.clone();
    world.kernel.refuses.insert(key(1), 12);
    world.kernel.refuses_halfway = true;
    world.change(vec![Change::Apply(slice(1, 3))]);
    assert_eq!(world.settle(), ["commit", "read"]);
    assert_ne!(world.kernel.state, before);
    assert_eq!(world.engine.counts().repairs, 0, "it is no drift");
    world.kernel.refuses.clear();
    world.change(vec![Change::Remove(ObjectKey::Service(key(1)))]);
    assert_eq!(world.settle(), ["read", "commit"]);
    assert_eq!(world.backends(1), 0);
    world.assert_converged();
}

#[test]
fn a_service_refused_halfway_is_completed_by_a_retry() {
    let mut world = Fixture::with(&[(1, 1)]);
    world.kernel.refuses.insert(key(1), 12);
    world.kernel.refuses_halfway = true;
    world.change(vec![Change::Apply(slice(1, 3))]);
    world.settle();
    world.kernel.refuses.clear();
    world.pass(Duration::from_secs(30));
    assert_eq!(world.backends(1), 3);
    assert!(world.engine.is_settled());
    assert_eq!(world.engine.counts().failures, 1, "the refusal: it was read before the retry");
    world.assert_converged();
}

#[test]
fn a_service_refused_at_start_keeps_its_kernel_content() {
    let first = Fixture::with(&[(1, 2), (2, 2)]);
    let mut second = Fixture::new(first.kernel);
    second.kernel.refuses.insert(key(1), 12);
    second.change(vec![Change::everything(vec![service(1), slice(1, 4), service(2), slice(2, 3)])]);
    second.event(Event::SourcesReady);
    second.settle();
    assert_eq!((second.backends(1), second.backends(2)), (2, 3));
    second.kernel.refuses.clear();
    second.pass(Duration::from_secs(60));
    assert_eq!(second.backends(1), 4);
    second.assert_converged();
}

#[test]
fn tampering_is_repaired_element_by_element() {
    let mut world = Fixture::with(&[(1, 3), (2, 3)]);
    let table = world.kernel.state.tables.get_mut(&Family::Ipv4).unwrap();
    let victim = table.elements.keys().copied().find(|key| matches!(key, Key::Endpoint(..)));
    table.elements.remove(&victim.unwrap()).unwrap();
    let culprit = Some(Culprit { pid: 1, name: "nft".to_owned() });
    world.event(Event::Tampered(Tampering { culprit }));
    assert_eq!(world.settle(), ["read", "commit"]);
    assert_eq!(world.kernel.committed.last().unwrap().len(), 1);
    assert_eq!(world.engine.counts().repairs, 1);
    world.assert_converged();
}

#[test]
fn what_was_acknowledged_has_its_states_its_base_and_its_cost() {
    let mut world = Fixture::with(&[(1, 3)]);
    let start = world.engine.take_acknowledged().unwrap();
    assert_eq!((start.base, start.cost.latency), (Base::Read, None), "nothing was known");
    assert!(start.cost.operations > 0 && world.engine.take_acknowledged().is_none());
    world.change(vec![Change::Apply(slice(1, 2))]);
    let request = world.engine.next_request(world.now).unwrap();
    world.now += Duration::from_millis(5);
    let reply = answer(&mut world.kernel, request);
    world.event(Event::Reply(reply));
    world.settle();
    let change = world.engine.take_acknowledged().unwrap();
    assert_eq!(change.base, Base::Acknowledged);
    assert_eq!(change.cost.latency, Some(Duration::from_millis(5)));
    assert!(start.program != change.program && change.cost.operations > 0);
    let differing = start.model.differing(&change.model);
    assert!(differing.iter().map(|it| it.key.kind()).eq([Kind::EndpointSlice]));
    assert_eq!(start.program.differing_services(&change.program), [key(1)].into());

    // A field that no kernel notices.
    let mut other = service(1);
    let Object::Service(of) = &mut other.object else { panic!("a Service") };
    Arc::make_mut(of).health_check_node_port = Some(port(30_000));
    world.change(vec![Change::Apply(other)]);
    assert_eq!(world.settle(), [""; 0]);
    let silent = world.engine.take_acknowledged().unwrap();
    assert_eq!(silent.cost.operations, 0);
    let differing = change.model.differing(&silent.model);
    assert!(differing.iter().map(|it| it.key.kind()).eq([Kind::Service]));

    // Changes that nobody has taken become one.
    for endpoints in [3, 4] {
        world.change(vec![Change::Apply(slice(1, endpoints))]);
        world.settle();
    }
    let both = world.engine.take_acknowledged().unwrap();
    assert_eq!(both.cost.transactions, 2);
    let table = world.kernel.state.tables.get_mut(&Family::Ipv4).unwrap();
    let victim = table.elements.keys().copied().find(|key| matches!(key, Key::Endpoint(..)));
    table.elements.remove(&victim.unwrap()).unwrap();
    world.event(Event::Tampered(Tampering { culprit: None }));
    world.settle();
    let repair = world.engine.take_acknowledged().unwrap();
    assert_eq!((repair.base, repair.cost.operations), (Base::Tampered, 1));
    assert!(repair.program == both.program);
}

#[test]
fn the_periodic_comparison_finds_unannounced_drift() {
    let mut world = Fixture::with(&[(1, 3)]);
    world.kernel.state.tables.remove(&Family::Ipv6).unwrap();
    world.pass(Duration::from_secs(59));
    assert!(!world.kernel.state.tables.contains_key(&Family::Ipv6));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.engine.counts().repairs, 1);
    world.assert_converged();
}

#[test]
fn a_comparison_without_drift_writes_nothing() {
    let mut world = Fixture::with(&[(1, 3)]);
    let before = world.kernel.committed.len();
    world.pass(Duration::from_secs(300));
    assert_eq!(world.kernel.committed.len(), before);
    assert_eq!(world.engine.counts().repairs, 0);
}

#[test]
fn a_failed_read_does_not_delay_changes() {
    let mut world = Fixture::with(&[(1, 3)]);
    world.kernel.unreadable = 1;
    world.event(Event::Tampered(Tampering { culprit: None }));
    assert_eq!(world.settle(), ["read"]);
    world.change(vec![Change::Apply(slice(1, 2))]);
    assert_eq!(world.settle(), ["commit"]);
    assert_eq!(world.backends(1), 2);
    world.pass(Duration::from_secs(60));
    assert!(world.engine.is_settled());
    world.assert_converged();
}

#[test]
fn repairs_back_off_when_another_process_undoes_them() {
    let mut world = Fixture::with(&[(1, 3)]);
    let mut committed = 0;
    for _ in 0..1_000 {
        let table = world.kernel.state.tables.get_mut(&Family::Ipv4).unwrap();
        if table.elements.remove(&Key::ClusterIp(cluster_ip(1))).is_some() {
            committed += 1;
            world.event(Event::Tampered(Tampering { culprit: None }));
        }
        world.settle();
        world.now += Duration::from_millis(1);
    }
    assert!((4..20).contains(&committed), "{committed} repairs in a second");
    // Changes still work meanwhile, and the table is repaired once the other process stops.
    world.change(vec![Change::Apply(slice(1, 2))]);
    assert!(world.settle().contains(&"commit"));
    assert_eq!(world.backends(1), 2);
    world.pass(Duration::from_secs(60));
    world.assert_converged();
}

#[test]
fn a_service_refused_at_start_is_removed_completely() {
    let first = Fixture::with(&[(1, 2), (2, 2)]);
    let mut second = Fixture::new(first.kernel);
    second.kernel.refuses.insert(key(1), 12);
    second.change(vec![Change::everything(vec![service(1), slice(1, 4), service(2), slice(2, 2)])]);
    second.event(Event::SourcesReady);
    second.settle();
    assert_eq!(second.backends(1), 2, "what the kernel holds of it stays");
    second.kernel.refuses.clear();
    second.change(vec![Change::Remove(ObjectKey::Service(key(1)))]);
    second.settle();
    assert_eq!(second.backends(1), 0);
    assert!(second.engine.is_settled());
    second.assert_converged();
}

#[test]
fn unnoticed_drift_is_corrected_on_the_next_change() {
    let mut world = Fixture::with(&[(1, 3)]);
    let table = world.kernel.state.tables.get_mut(&Family::Ipv4).unwrap();
    let found = table.elements.iter().find_map(|(key, held)| match (key, &held.value) {
        (Key::Service(_), Value::Code(_)) => Some(*key),
        _ => None,
    });
    table.elements.remove(&found.unwrap()).unwrap();
    world.change(vec![Change::Apply(slice(1, 2))]);
    assert_eq!(world.settle(), ["commit", "adopt", "commit"]);
    assert_eq!(world.backends(1), 2);
    world.assert_converged();
}

/// The same Service or slice over UDP.
fn over_udp(mut sourced: Sourced) -> Sourced {
    if let Object::Service(service) = &mut sourced.object {
        let ports = &mut Arc::make_mut(service).ports;
        ports.iter_mut().for_each(|port| port.protocol = Protocol::Udp);
    }
    if let Object::EndpointSlice(slice) = &mut sourced.object {
        let ports = &mut Arc::make_mut(slice).ports;
        ports.iter_mut().for_each(|port| port.protocol = Protocol::Udp);
    }
    sourced
}

/// A flow to a Service's cluster address that went to this endpoint of it.
fn flow_to(name: u8, endpoint: u8) -> Flow {
    let backend = SocketAddr::new([10, 244, name, endpoint].into(), 8080);
    let destination = SocketAddr::new(cluster_ip(name), 80);
    Flow { protocol: Protocol::Udp, destination, answers: backend }
}

/// Returns which of these flows are to be deleted now: (Service, endpoint); endpoint 0 means not
/// translated.
fn unwanted(world: &mut Fixture, flows: &[(u8, u8)]) -> Vec<(u8, u8)> {
    let Some((suspects, rules)) = world.engine.take_suspects() else { return Vec::new() };
    let goes = |(name, endpoint): &(u8, u8)| {
        let flow = flow_to(*name, *endpoint);
        let answers = if *endpoint == 0 { flow.destination } else { flow.answers };
        rules.contradict(&Flow { answers, ..flow }, &suspects.udp)
    };
    flows.iter().copied().filter(goes).collect()
}

#[test]
fn udp_flows_are_judged_only_after_the_kernel_has_changed() {
    const FLOWS: [(u8, u8); 6] = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)];
    let mut world = Fixture::new(FakeSink::default());
    let list = [service(1), slice(1, 2), service(2), slice(2, 2)].map(over_udp);
    world.change(vec![Change::everything(list.to_vec())]);
    world.event(Event::SourcesReady);
    world.settle();
    let untranslated = [(1, 0), (2, 0)];
    assert_eq!(unwanted(&mut world, &FLOWS), untranslated, "a start judges all that is there");
    assert_eq!(unwanted(&mut world, &FLOWS), [], "once");

    world.kernel.refuses.insert(key(1), 12);
    world.change([slice(1, 1), slice(2, 1)].map(over_udp).map(Change::Apply).to_vec());
    let request = world.engine.next_request(world.now).unwrap();
    assert_eq!(unwanted(&mut world, &FLOWS), []);
    let reply = answer(&mut world.kernel, request);
    world.event(Event::Reply(reply));
    let of_other = [(2, 0), (2, 2)];
    assert_eq!(unwanted(&mut world, &FLOWS), of_other, "of a refused Service, the kernel has all");
    world.kernel.refuses.clear();
    world.pass(Duration::from_secs(60));
    // After a refusal the kernel was read, and everything is judged.
    assert_eq!(unwanted(&mut world, &FLOWS), [(1, 0), (1, 2), (2, 0), (2, 2)]);

    // With one more endpoint, all existing flows may continue.
    world.change(vec![Change::Apply(over_udp(slice(1, 2)))]);
    world.settle();
    assert!(world.engine.take_suspects().is_none());
    // Without endpoints, no flow can continue; without the Service, no translated one can.
    world.change(vec![Change::Apply(over_udp(slice(1, 0)))]);
    world.settle();
    assert_eq!(unwanted(&mut world, &FLOWS), [(1, 0), (1, 1), (1, 2)]);
    world.change(vec![Change::Remove(ObjectKey::Service(key(2)))]);
    world.settle();
    assert_eq!(unwanted(&mut world, &FLOWS), [(2, 1), (2, 2)]);
}

#[test]
fn flows_of_frontends_removed_by_a_failed_commit_are_judged() {
    let mut world = Fixture::new(FakeSink::default());
    let list = [service(1), slice(1, 2), service(2), slice(2, 2)].map(over_udp);
    world.change(vec![Change::everything(list.to_vec())]);
    world.event(Event::SourcesReady);
    world.settle();
    let _ = world.engine.take_suspects();
    world.change(vec![Change::Remove(ObjectKey::Service(key(2)))]);
    let request = world.engine.next_request(world.now).unwrap();
    // The kernel has committed it, but the answer is lost.
    let _ = answer(&mut world.kernel, request);
    let lost = SinkError::Unknown(io::Error::other("lost"));
    world.event(Event::Reply(Reply::Committed(Err(lost))));
    assert!(world.engine.take_suspects().is_none());
    world.settle();
    assert_eq!(unwanted(&mut world, &[(1, 0), (1, 1), (2, 0), (2, 1)]), [(1, 0), (2, 1)]);
}

#[test]
fn an_idle_class_is_removed() {
    let mut world = Fixture::with(&[(1, 3)]);
    assert_eq!(world.affinities(), 0);
    for timeout in [60, 61] {
        world.change(vec![Change::Apply(sticky(1, timeout))]);
        world.settle();
    }
    assert_eq!(world.affinities(), 2);
    world.pass(Duration::from_secs(300));
    assert_eq!(world.affinities(), 2, "it may be used again soon");
    world.pass(Duration::from_secs(301));
    assert_eq!(world.affinities(), 1);
    world.change(vec![Change::Apply(sticky(1, 60))]);
    world.settle();
    assert_eq!((world.affinities(), world.backends(1)), (2, 3));
    world.assert_converged();
}

/// What a refused Service has in the kernel may still lead to the class.
#[test]
fn an_idle_class_stays_while_a_service_is_refused() {
    let mut world = Fixture::with(&[(1, 3), (2, 3)]);
    for timeout in [60, 61] {
        world.change(vec![Change::Apply(sticky(1, timeout))]);
        world.settle();
    }
    world.kernel.refuses.insert(key(2), 12);
    world.change(vec![Change::Apply(slice(2, 2))]);
    world.settle();
    world.pass(Duration::from_secs(1_200));
    assert_eq!(world.affinities(), 2);
    world.kernel.refuses.clear();
    world.pass(Duration::from_secs(1_200));
    assert_eq!(world.affinities(), 1);
    world.assert_converged();
}

#[test]
fn a_class_idle_at_start_is_removed() {
    let mut first = Fixture::with(&[(1, 3)]);
    first.change(vec![Change::Apply(sticky(1, 60))]);
    first.settle();
    first.change(vec![Change::Apply(service(1))]);
    first.settle();
    assert_eq!(first.affinities(), 1);
    let mut second = Fixture::new(first.kernel);
    second.change(vec![Change::everything(vec![service(1), slice(1, 3)])]);
    second.event(Event::SourcesReady);
    assert_eq!(second.settle(), ["adopt"], "nothing has changed");
    second.pass(Duration::from_secs(601));
    assert_eq!(second.affinities(), 0);
}

#[test]
fn the_applied_model_is_what_the_kernel_acknowledged() {
    let mut world = Fixture::with(&[(1, 3)]);
    world.kernel.faults.push_back(Fault::None);
    world.change(vec![Change::Apply(service(2))]);
    let request = world.engine.next_request(world.now).unwrap();
    assert!(matches!(request, Request::Commit { .. }));
    let (_, model) = world.engine.applied().unwrap();
    assert_eq!(model.count(Kind::Service), 1);
    assert_eq!(world.engine.model().count(Kind::Service), 2);
    let reply = answer(&mut world.kernel, request);
    world.event(Event::Reply(reply));
    let (_, model) = world.engine.applied().unwrap();
    assert_eq!(model.count(Kind::Service), 2);
}

#[test]
fn random_histories_with_random_faults_converge() {
    let mut random = Random(1);
    for _ in 0..60 {
        // The periodic comparison must not find what went wrong: each failure itself must lead to
        // one.
        let verify = Duration::from_secs(1_000_000);
        let periods = Periods { verify, ..Periods::default() };
        let mut world = Fixture::with_periods(FakeSink::default(), periods);
        world.event(Event::SourcesReady);
        world.settle();
        for _ in 0..60 {
            let name = u8::try_from(random.below(6)).unwrap();
            let endpoints = u8::try_from(random.below(5)).unwrap();
            let change = match random.below(5) {
                0 => Change::Apply(service(name)),
                1 => Change::Remove(ObjectKey::Service(key(name))),
                2 => Change::Remove(ObjectKey::EndpointSlice(slice_key(name))),
                _ => Change::Apply(slice(name, endpoints)),
            };
            world.change(vec![change]);
            match random.below(8) {
                0 => world.kernel.faults.push_back(Fault::LostAnswer),
                1 => world.kernel.faults.push_back(Fault::LostRequest),
                2 => world.kernel.faults.push_back(Fault::Half),
                3 => {
                    world.kernel.refuses.insert(key(name), 12);
                }
                4 => world.kernel.refuses.clear(),
                _ => {}
            }
            if random.below(3) > 0 {
                world.settle();
            }
            if random.below(10) == 0 {
                world.pass(Duration::from_millis(700));
            }
        }
        world.kernel.refuses.clear();
        world.kernel.faults.clear();
        world.settle();
        world.pass(Duration::from_secs(120));
        assert!(world.engine.is_settled());
        world.assert_converged();
        let (state, _) = world.kernel.read().unwrap();
        assert_eq!(state, world.engine.applied().unwrap().0.state());
    }
}

/// A Service with a health check for load balancers.
pub(crate) fn balanced(name: u8) -> Sourced {
    sourced(Object::Service(Arc::new(Service {
        kind: ServiceType::LoadBalancer,
        cluster_ips: ClusterIps { v4: Some([10, 96, 0, name].into()), v6: None },
        ports: vec![ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
            target: TargetPort::Number(port(8080)),
        }],
        external_policy: TrafficPolicy::Local,
        health_check_node_port: Some(port(31_000)),
        ..Service::new(key(name))
    })))
}

#[test]
fn the_kernel_is_behind_until_the_oldest_change_is_acknowledged() {
    let mut world = Fixture::with(&[(1, 2)]);
    assert_eq!(world.engine.behind_since(), None);
    // The first lists are no measure of the duration of a change.
    assert_eq!(world.engine.take_latencies(), []);
    let start = world.now;
    world.change(vec![Change::Apply(slice(1, 2))]);
    assert_eq!(world.engine.behind_since(), None, "nothing has changed");
    world.change(vec![Change::Apply(slice(1, 3))]);
    let request = world.engine.next_request(world.now).unwrap();
    world.now += Duration::from_secs(2);
    let second = world.now;
    world.change(vec![Change::Apply(slice(1, 4))]);
    world.now += Duration::from_secs(3);
    assert_eq!(world.engine.behind_since(), Some(start));
    assert_eq!(world.engine.pending(Kind::EndpointSlice), 2);
    let reply = answer(&mut world.kernel, request);
    world.event(Event::Reply(reply));
    assert_eq!(world.engine.behind_since(), Some(second));
    assert_eq!(world.engine.take_latencies(), [(Duration::from_secs(5), 1)]);
    world.settle();
    assert_eq!(world.engine.behind_since(), None);
    assert_eq!(world.engine.take_latencies(), [(Duration::from_secs(3), 1)]);
    assert_eq!(world.engine.counts().endpoint_changes, 3);
    assert_eq!(world.engine.counts().service_changes, 1);
}

#[test]
fn programming_time_runs_from_trigger_to_acknowledgement() {
    let seconds = Duration::from_secs;
    let mut world = Fixture::with(&[(1, 2)]);
    world.now += seconds(10);
    let trigger = world.now - seconds(4);
    let slices = |world: &mut Fixture, endpoints, triggers| {
        let changes = vec![Change::Apply(slice(1, endpoints))];
        world.event(Event::Changes(Origin::Manifests, changes, triggers));
    };
    // An update without a change has no trigger.
    slices(&mut world, 2, vec![(Family::Ipv4, trigger)]);
    world.settle();
    assert_eq!(world.engine.take_programmed(), []);
    // While the kernel's content is unknown, the change does not count as programmed.
    world.kernel.faults.push_back(Fault::LostAnswer);
    world.kernel.unreadable = 1;
    let now = world.now;
    slices(&mut world, 3, vec![(Family::Ipv4, trigger), (Family::Ipv6, now)]);
    world.settle();
    assert_eq!(world.engine.take_programmed(), []);
    while !world.engine.is_settled() {
        world.now = world.engine.deadline().unwrap();
        world.settle();
    }
    let waited = world.now - now;
    let expected = [(Family::Ipv4, waited + seconds(4)), (Family::Ipv6, waited)];
    assert_eq!(world.engine.take_programmed(), expected);
    assert_eq!(world.engine.take_programmed(), []);
}

#[test]
fn the_kernel_is_behind_while_its_content_is_unknown() {
    let mut world = Fixture::with(&[(1, 2)]);
    let since = world.now;
    world.kernel.faults.push_back(Fault::LostAnswer);
    world.kernel.unreadable = 1;
    world.change(vec![Change::Apply(slice(1, 3))]);
    world.settle();
    assert_eq!(world.engine.behind_since(), Some(since));
    assert_eq!(world.engine.counts().failures, 2);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.engine.behind_since(), None);
    assert_eq!(world.engine.take_latencies().len(), 1);
}

#[test]
fn the_kernel_is_not_behind_before_the_first_lists() {
    let mut world = Fixture::new(FakeSink::default());
    world.change(vec![Change::everything(vec![service(1), slice(1, 1)])]);
    assert_eq!(world.engine.behind_since(), None);
    world.now += Duration::from_secs(100);
    world.event(Event::SourcesReady);
    assert_eq!(world.engine.behind_since(), Some(world.now));
    world.settle();
    assert_eq!(world.engine.behind_since(), None);
}

#[test]
fn local_views_are_those_the_kernel_acknowledged() {
    let mut world = Fixture::with(&[(1, 1)]);
    assert!(world.engine.applied_locals().is_empty());
    let more = [balanced(1), slice(1, 2)];
    world.change(more.into_iter().map(Change::Apply).collect());
    let request = world.engine.next_request(world.now).unwrap();
    assert!(world.engine.applied_locals().is_empty(), "nothing is acknowledged");
    let reply = answer(&mut world.kernel, request);
    world.event(Event::Reply(reply));
    world.settle();
    let view = &world.engine.applied_locals()[&key(1)];
    assert_eq!(view.health_check, Some(port(31_000)));
    world.change(vec![Change::Remove(ObjectKey::Service(key(1)))]);
    world.settle();
    assert!(world.engine.applied_locals().is_empty());
}

#[test]
fn a_refused_service_has_no_new_local_view_until_accepted() {
    let mut world = Fixture::with(&[(1, 1)]);
    world.kernel.refuses.insert(key(2), 1);
    world.change(vec![Change::Apply(balanced(2)), Change::Apply(slice(2, 1))]);
    world.settle();
    assert!(world.engine.quarantined().eq([&key(2)]));
    assert!(!world.engine.applied_locals().contains_key(&key(2)));
    world.kernel.refuses.clear();
    world.pass(Duration::from_secs(60));
    assert!(world.engine.applied_locals().contains_key(&key(2)));
}

/// A generator whose numbers are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}
