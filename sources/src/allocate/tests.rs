//! What is given out: by the pure stage, and with a state on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::{Object, ObjectKey, Service};
use rulec_compiler::{Change, Provenance, Sourced};

use super::ledger::{RESERVED, Value};
use super::ranges::{PortRange, Ranges};
use super::stage::{Passed, Stage};
use super::store::{Allocation, Recall};
use crate::decode::intern::Interner;
use crate::manifests::text::{Format, decode};
use crate::state::StateDir;

/// A network of which 14 addresses are given out.
const SMALL: &str = "10.96.0.0/28";

fn ranges(networks: &[&str], ports: &str) -> Ranges {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    Ranges::new(networks, Some(ports.parse().unwrap())).unwrap()
}

fn stage(networks: &[&str]) -> Stage {
    Stage::new(Some(ranges(networks, PortRange::DEFAULT)))
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000_000 + seconds).unwrap()
}

/// Returns Service `name` with a port 80 and this `spec`.
fn service(name: &str, spec: &str) -> Sourced {
    let comma = if spec.is_empty() { "" } else { ", " };
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{{spec}{comma}ports: [{{name: http, port: 80}}]}}\n"
    );
    let path = format!("{name}.yaml").into();
    let decoded = decode(&path, text.as_bytes(), Format::Yaml, &mut Interner::default());
    assert!(decoded.problems.is_empty(), "{:?}", decoded.problems);
    Sourced { object: decoded.objects[0].clone(), provenance: Provenance(path) }
}

fn key(name: &str) -> NamespacedName {
    NamespacedName::new("default", name)
}

fn gone(name: &str) -> Change {
    Change::Remove(ObjectKey::Service(key(name)))
}

fn apply(name: &str, spec: &str) -> Change {
    Change::Apply(service(name, spec))
}

/// What the receiver of all changes has.
#[derive(Default)]
struct Receiver(BTreeMap<NamespacedName, Service>);

impl Receiver {
    fn take(&mut self, passed: &Passed) {
        for change in &passed.changes {
            match change {
                Change::Apply(sourced) => self.put(sourced),
                Change::Remove(ObjectKey::Service(key)) => drop(self.0.remove(key)),
                Change::Remove(_) => {}
                Change::Replace { objects, .. } => {
                    self.0.clear();
                    objects.iter().for_each(|sourced| self.put(sourced));
                }
            }
        }
    }

    fn put(&mut self, sourced: &Sourced) {
        let Object::Service(service) = &sourced.object else { return };
        self.0.insert(service.key.clone(), Service::clone(service));
    }

    fn of(passed: &Passed) -> Self {
        let mut receiver = Self::default();
        receiver.take(passed);
        receiver
    }

    fn addresses(&self, name: &str) -> Vec<String> {
        let ips = self.0[&key(name)].cluster_ips;
        let (v4, v6) = (ips.v4.map(IpAddr::from), ips.v6.map(IpAddr::from));
        v4.into_iter().chain(v6).map(|address| address.to_string()).collect()
    }

    fn address(&self, name: &str) -> String {
        self.addresses(name).pop().unwrap_or_default()
    }

    fn node_port(&self, name: &str) -> Option<u16> {
        self.0[&key(name)].ports[0].node_port.map(Into::into)
    }
}

fn problems(stage: &Stage) -> Vec<String> {
    stage.problems().iter().map(ToString::to_string).collect()
}

fn moves(passed: &Passed) -> Vec<String> {
    passed.moves.iter().map(ToString::to_string).collect()
}

/// Without a state, this is what makes addresses stay: it must never change.
#[test]
fn a_name_leads_to_the_same_address_and_port_everywhere() {
    let mut stage = stage(&[Ranges::DEFAULT, "fd00:96::/112"]);
    let spec = "type: LoadBalancer, externalTrafficPolicy: Local, ipFamilyPolicy: PreferDualStack";
    let all = vec![service("web", spec), service("db", "")];
    let passed = stage.pass(vec![Change::everything(all)], true, at(0));
    assert!(passed.has_given);
    let all = Receiver::of(&passed);
    let web = &all.0[&key("web")];
    let ports = (all.node_port("web"), web.health_check_node_port.map(u16::from));
    assert_eq!(
        format!("{:?} {ports:?} {:?}", all.addresses("web"), all.addresses("db")),
        r#"["10.96.235.240", "fd00:96::9ad3"] (Some(30754), Some(32734)) ["10.96.32.147"]"#
    );
    assert!(web.asks.is_empty());
    assert_eq!(problems(&stage), [""; 0]);
}

#[test]
fn only_what_is_missing_is_given() {
    let mut stage = stage(&[Ranges::DEFAULT, "fd00:96::/112"]);
    let all = vec![
        service("written", "clusterIP: 10.96.0.10"),
        service("headless", "clusterIP: None"),
        service("alias", "type: ExternalName, externalName: a.example"),
        service("none", "type: LoadBalancer, allocateLoadBalancerNodePorts: false"),
        service("half", "clusterIP: 10.96.0.11, ipFamilyPolicy: RequireDualStack"),
        service("six", "ipFamilies: [IPv6]"),
        service("both", "ipFamilies: [IPv6, IPv4], ipFamilyPolicy: PreferDualStack"),
        service("implied", "ipFamilies: [IPv4, IPv6]"),
        service("node", "type: NodePort, clusterIP: 10.96.0.12"),
    ];
    let passed = stage.pass(vec![Change::everything(all)], true, at(0));
    let all = Receiver::of(&passed);
    assert_eq!(all.addresses("written"), ["10.96.0.10"]);
    assert_eq!(all.addresses("headless"), [""; 0]);
    assert_eq!(all.addresses("alias"), [""; 0]);
    assert_eq!((all.addresses("none").len(), all.node_port("none")), (1, None));
    let half = all.addresses("half");
    assert_eq!((half.len(), half[0].as_str()), (2, "10.96.0.11"));
    assert!(half[1].starts_with("fd00:96::"), "{half:?}");
    assert!(matches!(&all.addresses("six")[..], [one] if one.starts_with("fd00:96::")));
    assert_eq!(all.addresses("both").len(), 2);
    assert_eq!(all.addresses("implied").len(), 2);
    assert_eq!(all.addresses("node"), ["10.96.0.12"]);
    assert!(all.node_port("node").is_some_and(|port| (30_086..=32_767).contains(&port)));
    assert_eq!(all.node_port("written"), None);
    assert_eq!(problems(&stage), [""; 0]);
}

#[test]
fn a_family_without_a_range_is_an_error_unless_it_is_only_preferred() {
    let mut stage = stage(&[Ranges::DEFAULT]);
    let all = vec![
        service("a", "ipFamilyPolicy: PreferDualStack"),
        service("b", "ipFamilyPolicy: RequireDualStack"),
        service("c", "ipFamilies: [IPv6]"),
        service("d", "ipFamilies: [IPv4, IPv6], clusterIP: 10.96.0.10"),
    ];
    let passed = stage.pass(vec![Change::everything(all)], true, at(0));
    let all = Receiver::of(&passed);
    let counts = ["a", "b", "c", "d"].map(|name| all.addresses(name).len());
    assert_eq!(counts, [1, 1, 0, 1]);
    let error = "spec.clusterIP: missing, and --service-cidr has no network of IPv6; \
                 not served in IPv6";
    assert_eq!(
        problems(&stage),
        [
            format!("b.yaml: Service default/b: {error}"),
            format!("c.yaml: Service default/c: {error}"),
        ]
    );
    assert!(all.0[&key("c")].asks.cluster_ips.is_some(), "it must not seem headless");
}

#[test]
fn the_ends_of_a_network_and_its_static_part_are_used_last_or_never() {
    // 62 usable addresses, of which the first 16 are left to those who write them.
    let mut stage = stage(&["10.96.0.0/26"]);
    let mut seen = BTreeSet::new();
    for number in 0..62 {
        let name = format!("s{number}");
        let passed = stage.pass(vec![apply(&name, "")], true, at(0));
        let address = Receiver::of(&passed).address(&name);
        let last: u8 = address.strip_prefix("10.96.0.").unwrap().parse().unwrap();
        assert!(seen.insert(last), "{address} was given to two");
        let expected = if number < 46 { 17..=62 } else { 1..=16 };
        assert!(expected.contains(&last), "{name} has {address}");
    }
    let passed = stage.pass(vec![apply("more", "")], true, at(0));
    assert_eq!(Receiver::of(&passed).address("more"), "");
    assert_eq!(
        problems(&stage),
        ["more.yaml: Service default/more: spec.clusterIP: missing, and every address of \
          10.96.0.0/26 is in use; not served"]
    );
    // A Service that goes leaves its address to the one that waits, since nothing else is free.
    let passed = stage.pass(vec![gone("s7")], true, at(1));
    let mut waiting = Receiver::default();
    waiting.take(&passed);
    assert!(waiting.address("more").starts_with("10.96.0."));
    assert_eq!(problems(&stage), [""; 0]);
}

#[test]
fn an_address_does_not_change_when_others_come_and_go() {
    let mut stage = stage(&[SMALL]);
    let mut receiver = Receiver::default();
    let mut expected = BTreeMap::new();
    for number in 0..10 {
        let name = format!("s{number}");
        let passed = stage.pass(vec![apply(&name, "")], true, at(0));
        receiver.take(&passed);
        expected.insert(name.clone(), receiver.address(&name));
    }
    for number in (0..10).step_by(2) {
        let name = format!("s{number}");
        receiver.take(&stage.pass(vec![gone(&name)], true, at(1)));
        expected.remove(&name);
    }
    // A list in another order, and an edit of each.
    let all = (0..10).rev().filter(|number| number % 2 == 1);
    let all = all.map(|number| service(&format!("s{number}"), "sessionAffinity: ClientIP"));
    receiver.take(&stage.pass(vec![Change::everything(all.collect())], true, at(2)));
    for (name, address) in &expected {
        assert_eq!(receiver.address(name), *address, "{name}");
    }
    assert_eq!(receiver.0.len(), expected.len());
}

#[test]
fn a_written_address_wins_whenever_it_comes() {
    let mut stage = stage(&[Ranges::DEFAULT]);
    let mut receiver = Receiver::default();
    receiver.take(&stage.pass(vec![apply("web", "type: NodePort"), apply("db", "")], true, at(0)));
    let (held, port) = (receiver.address("web"), receiver.node_port("web").unwrap());
    let db = receiver.address("db");
    let spec = format!("clusterIP: {held}");
    let passed = stage.pass(vec![apply("late", &spec)], true, at(1));
    receiver.take(&passed);
    let moved = receiver.address("web");
    assert_ne!(moved, held);
    assert_eq!(
        moves(&passed),
        [format!(
            "Service default/web moves from {held} to {moved}: Service default/late writes {held}"
        )]
    );
    assert_eq!((receiver.address("late"), receiver.address("db")), (held.clone(), db));
    assert_eq!(receiver.node_port("web"), Some(port), "only what is written moves");
    // It does not move back.
    let passed = stage.pass(vec![gone("late")], true, at(2));
    assert!(passed.moves.is_empty());
    assert_eq!(receiver.address("web"), moved);
    // A port of one protocol is not given out for another one, and an external IP counts, too.
    let ports = format!("type: NodePort, clusterIP: 10.96.0.9, externalIPs: [{moved}]");
    let mut written = service("late", &ports);
    if let Object::Service(service) = &mut written.object {
        let mut changed = Service::clone(service);
        changed.ports[0].node_port = port.try_into().ok();
        *service = changed.into();
    }
    let passed = stage.pass(vec![Change::Apply(written)], true, at(3));
    receiver.take(&passed);
    assert_eq!(passed.moves.len(), 2, "{:?}", moves(&passed));
    assert_ne!(receiver.node_port("web"), Some(port));
}

#[test]
fn a_service_may_write_what_it_was_given() {
    let mut stage = stage(&[Ranges::DEFAULT]);
    let given = Receiver::of(&stage.pass(vec![apply("web", "")], true, at(0))).address("web");
    let spec = format!("clusterIP: {given}");
    let passed = stage.pass(vec![apply("web", &spec)], true, at(1));
    assert!(passed.moves.is_empty() && !passed.has_given);
    assert_eq!(Receiver::of(&passed).address("web"), given);
    let passed = stage.pass(vec![apply("web", "")], true, at(2));
    assert_eq!(Receiver::of(&passed).address("web"), given, "by its name");
}

#[test]
fn an_address_is_reserved_for_a_day_after_its_service() {
    let day = i64::try_from(RESERVED.as_secs()).unwrap();
    let mut stage = stage(&[SMALL]);
    let mut receiver = Receiver::default();
    // Two whose names lead to the same address: the second has the next one.
    let names: Vec<String> = (0..12).map(|number| format!("s{number}")).collect();
    for name in &names {
        receiver.take(&stage.pass(vec![apply(name, "")], true, at(0)));
    }
    let (last, held) = (&names[11], receiver.address(&names[11]));
    stage.pass(vec![gone(last)], true, at(10));
    stage.expire(at(day));
    let passed = stage.pass(vec![apply(last, "")], true, at(day));
    assert!(!passed.has_given, "it still has it");
    assert_eq!(Receiver::of(&passed).address(last), held);
    stage.pass(vec![gone(last)], true, at(day + 1));
    stage.expire(at(2 * day));
    assert_eq!(stage.grants().len(), 12);
    stage.expire(at(2 * day + 1));
    assert_eq!(stage.grants().len(), 11);
    assert!(stage.is_changed());
}

/// A list that lacks something because a file cannot be read says nothing about what is gone.
#[test]
fn nothing_is_gone_before_everything_was_read() {
    let mut first = stage(&[Ranges::DEFAULT]);
    first.pass(vec![apply("web", ""), apply("db", "")], true, at(0));
    let grants = first.grants();
    let idle = |stage: &Stage| stage.grants().iter().filter(|it| it.idle_since.is_some()).count();
    let mut second = stage(&[Ranges::DEFAULT]);
    second.adopt(grants.clone(), at(1));
    second.pass(vec![Change::everything(vec![service("web", "")])], false, at(1));
    assert_eq!((second.grants(), idle(&second)), (grants, 0));
    second.pass(Vec::new(), true, at(2));
    assert_eq!(idle(&second), 1);
}

/// What could not be read at the start is taken over when all Services are known already.
#[test]
fn what_is_taken_over_late_is_reserved_for_a_day_as_well() {
    let day = i64::try_from(RESERVED.as_secs()).unwrap();
    let mut first = stage(&[Ranges::DEFAULT]);
    first.pass(vec![apply("web", "type: NodePort"), apply("gone", "")], true, at(0));
    let mut second = stage(&[Ranges::DEFAULT]);
    second.pass(vec![Change::everything(vec![service("web", "")])], true, at(1));
    second.adopt(first.grants(), at(2));
    let idle = |stage: &Stage| {
        let grants = stage.grants().into_iter();
        grants.filter_map(|it| it.idle_since.map(|since| (it.service, since))).collect::<Vec<_>>()
    };
    assert_eq!(idle(&second), [(key("gone"), at(2)), (key("web"), at(2))], "its node port");
    second.expire(at(2 + day));
    let left = second.grants();
    assert_eq!((left.len(), &left[0].service), (1, &key("web")));
}

#[test]
fn what_was_given_out_before_stays_in_use_and_follows_another_range() {
    let mut first = stage(&[SMALL]);
    for number in 0..10 {
        first.pass(vec![apply(&format!("s{number}"), "")], true, at(0));
    }
    let all = || Change::everything((0..10).map(|n| service(&format!("s{n}"), "")).collect());
    let before = Receiver::of(&first.pass(vec![all()], true, at(1)));
    let mut second = stage(&[SMALL]);
    second.adopt(first.grants(), at(1));
    let passed = second.pass(vec![all()], true, at(2));
    assert!(!passed.has_given && !second.is_changed());
    assert_eq!(Receiver::of(&passed).0, before.0);
    let mut third = stage(&["10.97.0.0/28"]);
    third.adopt(first.grants(), at(1));
    let passed = third.pass(vec![all()], true, at(3));
    assert_eq!(passed.moves.len(), 10);
    assert!(moves(&passed)[0].ends_with("is outside of the range now"), "{:?}", moves(&passed));
    assert!(Receiver::of(&passed).address("s0").starts_with("10.97.0."));
}

#[test]
fn a_network_in_use_keeps_what_it_has_and_gives_nothing_new() {
    let mut first = stage(&[SMALL]);
    first.pass(vec![apply("old", "")], true, at(0));
    let mut ranges = ranges(&[SMALL], PortRange::DEFAULT);
    ranges.block(rulec_compiler::net::Family::Ipv4, format!("{SMALL} is in use"));
    let mut second = Stage::new(Some(ranges));
    second.adopt(first.grants(), at(1));
    let all = vec![service("old", ""), service("new", "type: NodePort")];
    let all = Receiver::of(&second.pass(vec![Change::everything(all)], true, at(1)));
    assert!(all.address("old").starts_with("10.96.0."));
    assert_eq!(all.address("new"), "");
    assert!(all.node_port("new").is_some());
    assert_eq!(
        problems(&second),
        ["new.yaml: Service default/new: spec.clusterIP: missing, and 10.96.0.0/28 is in use; \
          not served"]
    );
}

#[test]
fn with_an_api_server_nothing_is_given() {
    let mut stage = Stage::new(None);
    let passed = stage.pass(vec![apply("web", "type: NodePort")], true, at(0));
    let all = Receiver::of(&passed);
    assert!(!passed.has_given && all.addresses("web").is_empty());
    assert_eq!(all.node_port("web"), None);
    assert_eq!(
        problems(&stage),
        [
            "web.yaml: Service default/web: spec.clusterIP: missing: only the API server gives out \
          addresses; not served",
            "web.yaml: Service default/web: spec.ports: nodePort missing: only the API server gives \
          out node ports; no node port is opened for it"
        ]
    );
    stage.pass(vec![gone("web")], true, at(1));
    assert_eq!(problems(&stage), [""; 0]);
}

#[test]
fn ports_that_are_not_given_out_are_reported() {
    let balancer = "type: LoadBalancer, externalTrafficPolicy: Local, clusterIP: 10.96.0.10";
    let reported = |ranges: Option<Ranges>, spec: &str| {
        let mut stage = Stage::new(ranges);
        let passed = stage.pass(vec![apply("web", spec)], true, at(0));
        assert_eq!(Receiver::of(&passed).node_port("web"), None);
        assert!(!passed.has_given);
        let prefix = "web.yaml: Service default/web: spec.";
        let text = |problem: String| problem.strip_prefix(prefix).unwrap().to_owned();
        problems(&stage).into_iter().map(text).collect::<Vec<_>>()
    };
    let empty = || Some(Ranges::new(vec![SMALL.parse().unwrap()], None).unwrap());
    for (ranges, reason) in [
        (empty(), "--service-node-port-range is empty"),
        (None, "only the API server gives out node ports"),
    ] {
        assert_eq!(
            reported(ranges, balancer),
            [
                format!("healthCheckNodePort: missing: {reason}; not answered"),
                format!("ports: nodePort missing: {reason}; no node port is opened for it"),
            ]
        );
    }
    let without = format!("{balancer}, allocateLoadBalancerNodePorts: false");
    assert_eq!(reported(empty(), &without).len(), 1, "the health check alone");
    assert_eq!(reported(empty(), "clusterIP: 10.96.0.10"), [""; 0]);
}

#[test]
fn a_node_port_outside_the_range_is_reported_once_per_service() {
    let mut odd = service("web", "type: NodePort, clusterIP: 10.96.0.10");
    if let Object::Service(service) = &mut odd.object {
        let mut changed = Service::clone(service);
        changed.ports[0].node_port = 32_768_u16.try_into().ok();
        changed.ports.push(changed.ports[0].clone());
        *service = changed.into();
    }
    for (range, count) in [(PortRange::DEFAULT, 1), ("32768", 0), ("32000+768", 0)] {
        let mut stage = Stage::new(Some(ranges(&[SMALL], range)));
        stage.pass(vec![Change::Apply(odd.clone())], true, at(0));
        assert_eq!(problems(&stage).len(), count, "{range}");
    }
    let mut stage = Stage::new(None);
    stage.pass(vec![Change::Apply(odd)], true, at(0));
    assert!(problems(&stage)[0].contains("nodePort 32768 is outside 30000-32767"));
}

#[test]
fn invalid_ranges_are_refused() {
    let refused = |networks: &[&str]| {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        Ranges::new(networks, None).unwrap_err().to_string()
    };
    assert_eq!(
        refused(&["10.96.0.0/16", "10.97.0.0/16"]),
        "10.97.0.0/16 is a second network of IPv4"
    );
    assert_eq!(refused(&["10.96.0.0/31"]), "the prefix length of 10.96.0.0/31 is not in 8..30");
    assert_eq!(refused(&["fd00::/48"]), "the prefix length of fd00::/48 is not in 64..126");
    assert_eq!(refused(&["127.1.0.0/16"]), "127.1.0.0/16 has no addresses for Services");
    for text in ["", "0-5", "5-4", "30000-70000", "a-b", "30000+40000", "-"] {
        assert!(text.parse::<PortRange>().is_err(), "{text:?}");
    }
    assert_eq!("30000+10".parse::<PortRange>().unwrap().to_string(), "30000-30010");
}

/// However Services come and go, and whatever is written: no value is given to two, none that is
/// written is given, and who has a value keeps it.
#[test]
fn random_histories_keep_the_promises() {
    let mut state = 7_u64;
    let mut roll = |sides: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % sides
    };
    let mut stage = Stage::new(Some(ranges(&[SMALL, "fd00:96::/124"], "30000-30019")));
    let mut receiver = Receiver::default();
    for step in 0..2000_i64 {
        let name = format!("s{}", roll(12));
        let change = match roll(6) {
            0 => gone(&name),
            1 => apply(&name, &format!("clusterIP: 10.96.0.{}", 1 + roll(14))),
            2 => apply(&name, "ipFamilyPolicy: PreferDualStack, type: NodePort"),
            _ => apply(&name, "type: NodePort"),
        };
        let before: BTreeMap<_, _> = receiver.0.clone();
        let passed = stage.pass(vec![change], true, at(step * 1000));
        receiver.take(&passed);
        let mut written = BTreeSet::new();
        let mut given = BTreeSet::new();
        for grant in stage.grants() {
            assert!(given.insert(grant.value), "{} was given to two", grant.value);
        }
        for (key, service) in &receiver.0 {
            let is_written = !stage.grants().iter().any(|it| {
                it.service == *key
                    && service
                        .cluster_ips
                        .v4
                        .is_some_and(|v4| it.value.to_string() == v4.to_string())
            });
            written.extend(service.cluster_ips.v4.filter(|_| is_written).map(|it| it.to_string()));
        }
        assert!(given.iter().all(|value| !written.contains(&value.to_string())), "step {step}");
        let has_moved: BTreeSet<_> = passed.moves.iter().map(|it| it.service.clone()).collect();
        for (key, old) in before.iter().filter(|(key, _)| key.name.as_str() != name) {
            let new = &receiver.0[key];
            let keeps = old.cluster_ips.v4.is_none() || old.cluster_ips.v4 == new.cluster_ips.v4;
            assert!(keeps || has_moved.contains(key), "step {step}: {key} moved");
        }
        if roll(20) == 0 {
            stage.expire(at(step * 1000));
        }
    }
}

fn pass(allocation: &mut Allocation, changes: Vec<Change>) -> Receiver {
    let changes = allocation.pass(changes, true);
    Receiver::of(&Passed { changes, ..Passed::default() })
}

fn open(directory: &std::path::Path) -> Allocation {
    let state = StateDir::new(directory.to_owned());
    Allocation::new(Some(ranges(&[SMALL], PortRange::DEFAULT)), Some(&state), None)
}

/// Two names that lead to the same address: which of them has it depends on who came first.
fn rivals() -> (String, String) {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for number in 0.. {
        let name = format!("s{number}");
        let address = Receiver::of(&stage(&[SMALL]).pass(vec![apply(&name, "")], true, at(0)));
        if let Some(other) = seen.insert(address.address(&name), name.clone()) {
            return (other, name);
        }
    }
    unreachable!("there are only 14 addresses")
}

#[test]
fn the_state_is_on_disk_before_an_address_is_used() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = rivals();
    let mut allocation = open(directory.path());
    let held = pass(&mut allocation, vec![apply(&second, "")]).address(&second);
    // The process dies here. The other one comes first now, by the order of names.
    drop(allocation);
    let mut allocation = open(directory.path());
    let all = Change::everything(vec![service(&first, ""), service(&second, "")]);
    let all = pass(&mut allocation, vec![all]);
    assert_eq!(all.address(&second), held);
    assert_ne!(all.address(&first), held);
    // Without the state, it is the other way round.
    let mut without = Allocation::new(Some(ranges(&[SMALL], PortRange::DEFAULT)), None, None);
    let all = Change::everything(vec![service(&first, ""), service(&second, "")]);
    assert_eq!(pass(&mut without, vec![all]).address(&first), held);
}

#[test]
fn a_state_that_cannot_be_read_is_left_alone_and_taken_over_later() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("allocations.state");
    let (first, second) = rivals();
    let held = pass(&mut open(directory.path()), vec![apply(&second, "")]).address(&second);
    let good = fs::read(&path).unwrap();
    let mut later = good.clone();
    later[8] = 2;
    for bad in [&b"garbage"[..], &later, &good[..good.len() - 1], b""] {
        fs::write(&path, bad).unwrap();
        let mut allocation = open(directory.path());
        let all = pass(&mut allocation, vec![apply(&second, "")]);
        assert_eq!(all.address(&second), held, "by its name");
        let problems: Vec<String> = allocation.problems().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("allocations.state: ") && problems[0].contains("not saved"));
        assert_eq!(fs::read(&path).unwrap(), bad, "not overwritten");
    }
    let mut allocation = open(directory.path());
    pass(&mut allocation, vec![apply(&first, "")]);
    fs::write(&path, &good).unwrap();
    allocation.look();
    assert!(!allocation.problems().is_empty(), "it has just been looked at");
    allocation.make_due();
    // Whether there are changes or not.
    pass(&mut allocation, Vec::new());
    assert!(allocation.problems().is_empty());
    // What could be read again joins what was given out meanwhile.
    let all = Change::everything(vec![service(&first, ""), service(&second, "")]);
    let all = pass(&mut open(directory.path()), vec![all]);
    assert_eq!(all.address(&first), held, "it was given out meanwhile, and does not move");
}

/// Who came first is not known then, but who has the address now is.
#[test]
fn what_the_kernel_holds_stays_if_the_state_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = rivals();
    let held = pass(&mut open(directory.path()), vec![apply(&second, "")]).address(&second);
    let recall = || -> Recall {
        let owner = |name: &str| Arc::new(PortKey { service: key(name), port: "http".into() });
        let address = Value::ClusterIp(held.parse().unwrap());
        let port = Value::NodePort(30_500.try_into().unwrap());
        let (elsewhere, own) = ("192.0.2.1".parse().unwrap(), owner(&second));
        let all = vec![
            (Arc::clone(&own), Value::ClusterIp(elsewhere)),
            (Arc::clone(&own), address),
            (own, port),
        ];
        Box::new(move || all)
    };
    let open = || {
        let state = StateDir::new(directory.path().to_owned());
        Allocation::new(Some(ranges(&[SMALL], PortRange::DEFAULT)), Some(&state), Some(recall()))
    };
    let all = || Change::everything(vec![service(&first, ""), service(&second, "type: NodePort")]);
    fs::write(directory.path().join("allocations.state"), "garbage").unwrap();
    let found = pass(&mut open(), vec![all()]);
    assert_eq!((found.address(&second), found.node_port(&second)), (held.clone(), Some(30_500)));
    assert_ne!(found.address(&first), held);
    // Otherwise nobody asks the kernel.
    fs::remove_file(directory.path().join("allocations.state")).unwrap();
    let found = pass(&mut open(), vec![all()]);
    assert_eq!(found.address(&first), held);
}

#[test]
fn a_state_that_cannot_be_written_is_reported_and_written_later() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    // Nothing can be made below a file, whoever asks.
    fs::write(&state, "").unwrap();
    let mut allocation = open(&state);
    let problems = |allocation: &Allocation| -> Vec<String> {
        allocation.problems().iter().map(ToString::to_string).collect()
    };
    let held = pass(&mut allocation, vec![apply("web", "")]).address("web");
    assert!(held.starts_with("10.96.0."), "it is served nevertheless");
    assert_eq!(problems(&allocation).len(), 1, "{:?}", problems(&allocation));
    fs::remove_file(&state).unwrap();
    allocation.make_due();
    assert!(allocation.look(), "the problems have changed");
    assert_eq!(problems(&allocation), [""; 0]);
    assert!(state.join("allocations.state").exists());
}
