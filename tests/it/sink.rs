//! The nft sink on a real kernel, without the daemon.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use rulec_compiler::frontend::View;
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{NamespacedName, NodeName, PortName};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::nft::{self, Element, Key, SetId, Value};
use rulec_compiler::object::{
    ClusterIps, Endpoint, EndpointSlice, InterfaceAddresses, Object, Service, ServicePort,
    SlicePort, TargetPort,
};
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};
use rulec_compiler::{
    Change, Delta, Frontend, Group, Model, Op, Origin, Program, Provenance, Settings, Sourced,
    State,
};
use rulec_sinks::nft::Ownership;
use rulec_sinks::nft::foreign::Foreign;
use rulec_sinks::{DeltaBase, NftSink, Outcome, Sink, SinkError};
use rulec_testkit::{Namespace, require_root};

use crate::support::{
    Dice, Neighbour, eventually, file, listing, random_node, random_service, service, slice,
};

const MARK: u32 = 0x4000;

fn settings() -> Arc<Settings> {
    let mut settings = Settings::new(NodeName::from("na"));
    let cidrs = ["10.50.0.0/16", "2001:db8:50::/48"].map(|cidr| cidr.parse().unwrap());
    settings.detect_local = DetectLocal::ClusterCidr(cidrs.to_vec());
    Arc::new(settings)
}

fn compile(model: &Model) -> Program {
    Program::compile(model, settings(), &State::default())
}

fn model(manifest: &str) -> Model {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("all.yaml"), manifest).unwrap();
    let reading = rulec_sources::read(directory.path()).unwrap();
    assert_eq!(reading.problems, [], "the manifest is good");
    let mut model = Model::default();
    model.apply(Origin::Manifests, Change::everything(reading.objects));
    model
}

/// Returns a program with everything that the rules and sets can express.
pub(crate) fn everything() -> Program {
    compile(&model(&file(&everything_there_is())))
}

fn everything_there_is() -> Vec<String> {
    let long = "n".repeat(63);
    let mut documents = vec![
        // Served, with a hairpin: one of its endpoints is on this node.
        service("web", "10.96.0.10", "  externalIPs: [198.51.100.30]\n"),
        slice("web", &["10.50.1.5", "10.50.2.5"]).replacen("nodeName: nb", "nodeName: na", 1),
        // Also in the other family, with affinity and node ports.
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: sticky\nspec:\n  type: NodePort\n  \
         clusterIPs: [10.96.0.11, \"fd00:96::11\"]\n  sessionAffinity: ClientIP\n  ports:\n    - \
         {name: http, port: 80, targetPort: 8080, nodePort: 30080}\n"
            .to_owned(),
        slice("sticky", &["10.50.1.6", "10.50.2.6", "10.50.2.7"]),
        slice("sticky", &["2001:db8:50:1::6", "2001:db8:50:2::6"]),
        // Rejected at its address and at its node port.
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: nobody\nspec:\n  type: NodePort\n  \
         clusterIPs: [10.96.0.12, \"fd00:96::12\"]\n  ports:\n    - {name: dns, port: 53, \
         protocol: UDP, nodePort: 30053}\n    - {name: diameter, port: 3868, protocol: SCTP}\n"
            .to_owned(),
        // Its comment must be shortened.
        service(&long, "10.96.0.13", "").replacen(
            "metadata:\n",
            &format!("metadata:\n  namespace: {long}\n"),
            1,
        ),
    ];
    let mut dice = Dice::new(7);
    documents.extend((20..60).map(|number| random_service(&mut dice, number)));
    documents
}

pub(crate) fn open(ownership: Ownership) -> NftSink {
    NftSink::open(ownership, MARK).unwrap()
}

pub(crate) fn install(sink: &mut NftSink, program: &Program) -> Outcome {
    let (found, base) = sink.adopt().unwrap();
    let outcome = sink.commit(&Delta::reconcile(&found, program), base).unwrap();
    assert!(outcome.refused.is_empty(), "{outcome:?}");
    outcome
}

/// Returns all operations of a delta as `nft` commands.
fn script(delta: &Delta) -> String {
    delta.ops().map(|op| op.commands(MARK)).collect()
}

fn first_install(program: &Program) -> Delta {
    Delta::reconcile(&State::default(), program)
}

fn web(number: u16) -> Frontend {
    let address = Ipv4Addr::from(0x0a60_0000 + u32::from(number));
    Frontend::Address {
        address: address.into(),
        protocol: Protocol::Tcp,
        port: NonZeroU16::new(80).unwrap(),
    }
}

/// Returns the group of a Service: it adds an element that rejects connections.
fn reject(name: &str, number: u16) -> Group {
    let element = Element::new(Key::Reject(web(number)), Value::Present);
    Group::new(NamespacedName::new("default", name), vec![Op::add(element)])
}

/// Returns the group of a Service that the kernel refuses: it deletes an element that does not
/// exist.
fn impossible(name: &str, number: u16) -> Group {
    let element = Element::new(Key::Reject(web(number)), Value::Present);
    Group::new(NamespacedName::new("default", name), vec![Op::delete(element)])
}

/// Returns the delta that deletes what another adds.
fn undo(delta: &Delta) -> Delta {
    let undo = |group: &Group| {
        let added = group.ops.iter().filter_map(Op::added);
        Group::new(group.service.clone(), added.cloned().map(Op::delete).collect())
    };
    groups(delta.groups.iter().map(undo).collect())
}

fn groups(groups: Vec<Group>) -> Delta {
    Delta { groups, ..Delta::default() }
}

#[test]
fn wire_and_text_program_the_same_rules() {
    if !require_root() {
        return;
    }
    let listing = means_the_same_on_the_wire_and_as_text(&everything());
    assert!(listing.contains("comment \"default/web:http\""), "{listing}");
}

/// The sets that depend on the node and not on Services.
#[test]
fn wire_and_text_program_the_same_sets_of_the_node() {
    if !require_root() {
        return;
    }
    let ranges = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\n\
                  spec: {cidrs: [10.96.0.0/12, 10.100.0.0/16, 'fd00:96::/108']}\n";
    let mut model = model(ranges);
    let addresses = ["192.0.2.10", "192.0.2.11", "127.0.0.1", "2001:db8::10"];
    let addresses = addresses.map(|text| text.parse().unwrap()).to_vec();
    let object = Object::InterfaceAddresses(Arc::new(InterfaceAddresses {
        addresses,
        ..InterfaceAddresses::default()
    }));
    let provenance = Provenance("test".into());
    model.apply(Origin::Kernel, Change::Apply(Sourced { object, provenance }));
    let cidrs = ["192.0.2.0/24", "2001:db8::/64"].map(|cidr| cidr.parse().unwrap()).to_vec();
    for pattern in [InterfacePattern::named("cni0"), InterfacePattern::starting_with("veth")] {
        let pattern = pattern.unwrap();
        let settings = Settings {
            detect_local: DetectLocal::Interface(pattern),
            node_port_addresses: NodePortAddresses::Cidrs(cidrs.clone()),
            ..Settings::clone(&settings())
        };
        let program = Program::compile(&model, Arc::new(settings), &State::default());
        let listing = means_the_same_on_the_wire_and_as_text(&program);
        for element in [&format!("\"{pattern}\""), "10.96.0.0/12", "192.0.2.11", "fd00:96::/108"] {
            assert!(listing.contains(element), "{element}: {listing}");
        }
        assert!(!listing.contains("10.100.0.0"), "it is part of the other range: {listing}");
    }
}

/// Asserts that messages and `nft` commands have the same result, and that its listing can be
/// loaded again. Returns the listing.
fn means_the_same_on_the_wire_and_as_text(program: &Program) -> String {
    let (wire, tool, again) =
        (Namespace::new("wire"), Namespace::new("tool"), Namespace::new("again"));
    let held = wire.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, program);
        sink.read().unwrap().0
    });
    assert_eq!(held, program.state(), "what is read is what was written");
    tool.nft(&script(&first_install(program)));
    let listing = wire.nft_list();
    assert_eq!(tool.nft_list(), listing, "the wire and the text differ");

    // Admins save rulesets to disk and load them again.
    again.nft(&listing);
    assert_eq!(again.nft_list(), listing, "the loaded listing differs");

    // In all namespaces, reconciling finds nothing to repair.
    for namespace in [&tool, &again] {
        let (delta, held) = namespace.run(|| {
            let held = open(Ownership::Shared).read().unwrap().0;
            (Delta::reconcile(&held, program), held)
        });
        assert!(delta.is_empty(), "{delta:?}");
        assert_eq!(held, program.state());
    }
    listing
}

/// Session affinity over IPv6 has the widest keys; they must be read back unchanged.
#[test]
fn the_widest_keys_are_read_back() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("widest");
    let program = everything();
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &program);
        assert_eq!(sink.read().unwrap().0, program.state());
        let listing = listing(&namespace);
        assert!(listing.contains("jhash ip6 saddr mod 4096"));
    });
}

#[test]
fn each_operation_has_the_same_effect_on_the_wire_and_as_text() {
    if !require_root() {
        return;
    }
    let (wire, tool) = (Namespace::new("wire-op"), Namespace::new("tool-op"));
    let before = everything();
    let mut dice = Dice::new(8);
    // One of the two timeouts is no longer in use.
    let mut random = |number| {
        random_service(&mut dice, number).replace("timeoutSeconds: 60\n", "timeoutSeconds: 10800\n")
    };
    let mut documents: Vec<String> = (20..60).map(&mut random).collect();
    documents.push(service("web", "10.96.0.10", ""));
    // Compiled without the held state as a seed, so that unused classes are deleted.
    let after = compile(&model(&file(&documents)));
    let (there, back) =
        (Delta::reconcile(&before.state(), &after), Delta::reconcile(&after.state(), &before));
    let mut all = there.ops().chain(back.ops());
    assert!(all.any(|op| matches!(op, Op::Nft(nft::Op::DeleteChain(..)))), "chains go");
    tool.nft(&script(&first_install(&before)));
    wire.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &before);
        for (delta, program) in [(&there, &after), (&back, &before)] {
            let outcome = sink.commit(delta, DeltaBase::Believed).unwrap();
            assert_eq!(outcome.ops, delta.len());
            assert_eq!(sink.read().unwrap().0, program.state());
            tool.nft(&script(delta));
            assert_eq!(wire.nft_list(), tool.nft_list());
        }
    });
}

#[test]
fn a_delta_on_a_wrong_base_changes_nothing() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("stale");
    let program = everything();
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &program);
        let before = namespace.nft_list();
        let delta = groups(vec![reject("b", 2), impossible("a", 1), reject("c", 3)]);
        assert!(matches!(sink.commit(&delta, DeltaBase::Believed), Err(SinkError::Stale)));
        let existing = program.state().tables[&Family::Ipv4]
            .elements
            .iter()
            .find_map(|(key, held)| {
                matches!(key, Key::Reject(_)).then_some(Element::new(*key, held.value))
            })
            .unwrap();
        let group = Group::new(NamespacedName::new("default", "a"), vec![Op::add(existing)]);
        let delta = groups(vec![reject("b", 2), group, reject("c", 3)]);
        assert!(matches!(sink.commit(&delta, DeltaBase::Believed), Err(SinkError::Stale)));
        assert_eq!(namespace.nft_list(), before, "a refused transaction changed something");
    });
}

/// Its frontends, which stay as they are, may lead to what another Service has no use for any more.
#[test]
fn nothing_is_retired_in_a_commit_that_refuses_a_service() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("spared");
    let program = everything();
    let elements = &program.state().tables[&Family::Ipv4].elements;
    let endpoint = elements.iter().find(|(key, _)| matches!(key, Key::Endpoint(..))).unwrap();
    let (key, held) = endpoint;
    let gone = Op::delete(held.element(*key));
    let gone = || Group::new(NamespacedName::new("default", "b"), vec![gone.clone()]);
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &program);
        let is_held = |sink: &mut NftSink| {
            sink.read().unwrap().0.tables[&Family::Ipv4].elements.contains_key(key)
        };
        let (_, base) = sink.read().unwrap();
        let outcome = sink.commit(&groups(vec![impossible("a", 1), gone()]), base).unwrap();
        assert_eq!(outcome.refused.len(), 1, "{outcome:?}");
        assert!(is_held(&mut sink));
        let (_, base) = sink.read().unwrap();
        sink.commit(&groups(vec![gone()]), base).unwrap();
        assert!(!is_held(&mut sink));
    });
}

#[test]
fn a_refused_service_is_named_and_others_are_committed() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("refused");
    let program = everything();
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &program);
        let (_, base) = sink.read().unwrap();
        // One of its operations alone would succeed: a Service is committed as a whole or not at
        // all.
        let ops = [reject("a", 4), impossible("a", 1)].map(|group| group.ops);
        let ops = ops.iter().flat_map(|ops| ops.iter().cloned()).collect();
        let a = Group::new(NamespacedName::new("default", "a"), ops);
        let outcome = sink.commit(&groups(vec![reject("b", 2), a, reject("c", 3)]), base).unwrap();
        let [refusal] = outcome.refused.as_slice() else { panic!("{outcome:?}") };
        assert_eq!(refusal.service, NamespacedName::new("default", "a"));
        assert_eq!(refusal.error.raw_os_error(), Some(Errno::ENOENT as i32));
        assert_eq!((outcome.transactions, outcome.ops), (1, 2));
        let held = sink.read().unwrap().0;
        let elements = &held.tables[&Family::Ipv4].elements;
        let is_held = |number| elements.contains_key(&Key::Reject(web(number)));
        assert_eq!([1, 2, 3, 4].map(is_held), [false, true, true, false]);

        let (_, base) = sink.read().unwrap();
        let outcome = sink.commit(&groups(vec![reject("b", 2), reject("d", 5)]), base).unwrap();
        let [refusal] = outcome.refused.as_slice() else { panic!("{outcome:?}") };
        assert_eq!(refusal.service, NamespacedName::new("default", "b"));
        assert_eq!(refusal.error.raw_os_error(), Some(Errno::EEXIST as i32));
    });
}

#[test]
fn nothing_is_committed_on_an_outdated_generation() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("generation");
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &everything());
        let (before, base) = sink.read().unwrap();
        namespace.nft("add table inet foreign");
        let delta = groups(vec![reject("a", 1)]);
        assert!(matches!(sink.commit(&delta, base), Err(SinkError::Stale)));
        let (held, base) = sink.read().unwrap();
        assert_eq!(held, before);
        // After another read, the commit succeeds.
        sink.commit(&delta, base).unwrap();
    });
}

/// Exclusive tables can be read and committed to however often others commit to their own tables.
#[test]
fn a_busy_neighbour_does_not_block_exclusive_tables() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("busy");
    namespace.run(|| {
        let mut sink = open(Ownership::Exclusive);
        let program = compile(&large(5_000));
        install(&mut sink, &program);
        let neighbour = Neighbour::start(&namespace);
        for number in 0..20 {
            let (held, base) = sink.read().unwrap();
            assert!(held == program.state(), "the read state is wrong");
            let delta = groups(vec![reject("extra", number)]);
            sink.commit(&delta, base).unwrap();
            sink.commit(&undo(&delta), DeltaBase::Believed).unwrap();
        }
        neighbour.goes_on();
    });
}

/// Shared tables can be read, too; but the read state may be outdated by then.
#[test]
fn a_busy_neighbour_does_not_block_shared_tables() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("busy-shared");
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        let program = compile(&large(5_000));
        install(&mut sink, &program);
        let neighbour = Neighbour::start(&namespace);
        for number in 0..5 {
            let (held, _) = sink.read().unwrap();
            assert!(held == program.state(), "the read state is wrong");
            let delta = groups(vec![reject("extra", number)]);
            let base = DeltaBase::Read { generation: None };
            sink.commit(&delta, base).unwrap();
            let again = sink.commit(&delta, base);
            assert!(matches!(again, Err(SinkError::Stale)), "not a Service's error: {again:?}");
            let undo = undo(&delta);
            sink.commit(&undo, base).unwrap();
            let again = sink.commit(&undo, base);
            assert!(matches!(again, Err(SinkError::Stale)), "not a Service's error: {again:?}");
        }
        neighbour.goes_on();
    });
}

/// After a restart, the remaining tables are taken over first, so that nobody can change them
/// during the read.
#[test]
fn a_busy_neighbour_does_not_block_the_adoption_of_tables() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("busy-orphans");
    namespace.run(|| {
        let program = compile(&large(5_000));
        install(&mut open(Ownership::Exclusive), &program);
        let neighbour = Neighbour::start(&namespace);
        for _ in 0..3 {
            let mut sink = open(Ownership::Exclusive);
            let mut found = None;
            // A child that another test is starting holds our socket until it calls exec.
            eventually("the owner is gone", || match sink.adopt() {
                Err(SinkError::Owned { .. }) => false,
                other => {
                    found = Some(other.unwrap().0);
                    true
                }
            });
            assert!(Delta::reconcile(&found.unwrap(), &program).is_empty());
            // A reader that does not own the tables sees the same.
            let (held, _) = open(Ownership::Shared).read().unwrap();
            assert!(held == program.state(), "the read state is wrong");
        }
        neighbour.goes_on();
    });
}

/// Five thousand refusals are five thousand error messages at once.
#[test]
fn every_refused_service_is_named() {
    if require_root() {
        many_are_refused("many-refused", 5_000, |sink| sink);
    }
}

/// Most of the error messages do not fit into the buffer and are lost.
#[test]
fn every_refused_service_is_named_with_small_buffers() {
    if require_root() {
        many_are_refused("few-heard", 1_000, |sink| sink.with_buffers(SMALL).unwrap());
    }
}

/// A small buffer, as on some systems, and only a small part of the requested size.
const SMALL: usize = 1 << 17;

fn many_are_refused(name: &str, refused: u16, with: impl FnOnce(NftSink) -> NftSink + Send) {
    let namespace = Namespace::new(name);
    namespace.run(|| {
        let mut sink = with(open(Ownership::Shared));
        install(&mut sink, &compile(&Model::default()));
        let (_, base) = sink.read().unwrap();
        let mut all: Vec<Group> =
            (0..refused).map(|number| impossible(&format!("bad{number:04}"), number)).collect();
        all.insert(usize::from(refused) / 2, reject("good", refused + 1));
        let outcome = sink.commit(&groups(all), base).unwrap();
        let named: BTreeSet<&NamespacedName> =
            outcome.refused.iter().map(|refusal| &refusal.service).collect();
        assert_eq!(named.len(), usize::from(refused));
        assert_eq!(outcome.refused.len(), usize::from(refused), "each is named once");
        assert!(
            outcome
                .refused
                .iter()
                .all(|refusal| { refusal.error.raw_os_error() == Some(Errno::ENOENT as i32) })
        );
        let held = sink.read().unwrap().0;
        let good = Key::Reject(web(refused + 1));
        assert!(held.tables[&Family::Ipv4].elements.contains_key(&good));
    });
}

/// Builds a model with many Services directly, without manifests.
fn large(services: u32) -> Model {
    let port = |number| NonZeroU16::new(number).unwrap();
    let sourced = |object| Sourced { object, provenance: Provenance("large.yaml".into()) };
    let objects = (0..services).flat_map(|number| {
        let key = NamespacedName::new("default", format!("s{number}").as_str());
        let service = Service {
            cluster_ips: ClusterIps { v4: Some(Ipv4Addr::from(0x0a60_0000 + number)), v6: None },
            ports: vec![ServicePort {
                name: PortName::from("http"),
                protocol: Protocol::Tcp,
                port: port(80),
                node_port: None,
                target: TargetPort::Number(port(8080)),
            }],
            ..Service::new(key.clone())
        };
        let endpoints = (0..3).map(|idx| {
            let address = Ipv4Addr::from(0x0a32_0000 + (number * 3 + idx) % 60_000);
            Endpoint::ready(IpAddr::V4(address))
        });
        let mut endpoints: Vec<Endpoint> = endpoints.collect();
        endpoints.sort_unstable();
        let slice = EndpointSlice {
            key: NamespacedName::new("default", format!("s{number}-1").as_str()),
            service: key,
            family: Family::Ipv4,
            ports: vec![SlicePort {
                name: PortName::from("http"),
                protocol: Protocol::Tcp,
                port: port(8080),
            }],
            endpoints,
            weight: Weight::default(),
        };
        [Object::Service(Arc::new(service)), Object::EndpointSlice(Arc::new(slice))].map(sourced)
    });
    let mut model = Model::default();
    model.apply(Origin::Manifests, Change::everything(objects.collect()));
    model
}

#[test]
fn a_large_delta_is_cut_between_services() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("large");
    let program = compile(&large(20_000));
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        let generation = |sink: &mut NftSink| match sink.read().unwrap().1 {
            DeltaBase::Read { generation } => generation.unwrap(),
            DeltaBase::Believed => unreachable!("what was read has a generation"),
        };
        let before = generation(&mut sink);
        let outcome = install(&mut sink, &program);
        assert!(outcome.transactions > 1, "{outcome:?}");
        assert_eq!(outcome.ops, first_install(&program).len());
        let commits = generation(&mut sink) - before;
        assert_eq!(commits, u32::try_from(outcome.transactions).unwrap());
        reads(&mut sink, &program);
        // Everything is removed again.
        let empty = compile(&Model::default());
        install(&mut sink, &empty);
        assert_eq!(sink.read().unwrap().0, empty.state());
    });
}

/// Returns a model with one Service at five addresses, with many endpoints on another node.
fn one_large_service(endpoints: u32) -> Model {
    let port = |number| NonZeroU16::new(number).unwrap();
    let sourced = |object| Sourced { object, provenance: Provenance("large.yaml".into()) };
    let key = NamespacedName::new("default", "large");
    let service = Service {
        cluster_ips: ClusterIps { v4: Some(Ipv4Addr::new(10, 96, 0, 1)), v6: None },
        external_ips: (1..=4).map(|number| Ipv4Addr::new(198, 51, 100, number).into()).collect(),
        ports: vec![ServicePort {
            name: PortName::from("http"),
            protocol: Protocol::Tcp,
            port: port(80),
            node_port: None,
            target: TargetPort::Number(port(8080)),
        }],
        ..Service::new(key.clone())
    };
    let endpoint = |number| Endpoint {
        node: Some(NodeName::from("nb")),
        ..Endpoint::ready(Ipv4Addr::from(0x0a40_0000 + number).into())
    };
    let slice = EndpointSlice {
        key: NamespacedName::new("default", "large-1"),
        service: key,
        family: Family::Ipv4,
        ports: vec![SlicePort {
            name: PortName::from("http"),
            protocol: Protocol::Tcp,
            port: port(8080),
        }],
        endpoints: (0..endpoints).map(endpoint).collect(),
        weight: Weight::default(),
    };
    let objects = [Object::Service(Arc::new(service)), Object::EndpointSlice(Arc::new(slice))];
    let mut model = Model::default();
    model.apply(Origin::Manifests, Change::everything(objects.map(sourced).to_vec()));
    model
}

/// Other users of nf_tables get their turn while a single large Service comes and goes.
#[test]
#[expect(clippy::print_stdout, reason = "the figures depend on the machine")]
fn a_large_service_holds_up_nobody() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("held-up");
    let (empty, full) = (compile(&Model::default()), compile(&one_large_service(60_000)));
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &empty);
        for (old, new) in [(&empty, &full), (&full, &empty)] {
            let delta = Delta::between(old, new);
            let (outcome, waits) = with_another_user(|| {
                sink.commit(&delta, DeltaBase::Believed).unwrap()
            });
            let longest = waits.iter().max().unwrap();
            println!(
                "{} operations in {} transactions: another user had {} turns, and waited {longest:?}",
                outcome.ops,
                outcome.transactions,
                waits.len()
            );
            assert_eq!(outcome.ops, delta.len());
            assert!(outcome.transactions > 15, "{outcome:?}");
            reads(&mut sink, new);
        }
    });
}

/// Runs something while another user of nf_tables commits all the time, and returns how long each
/// of its commits took.
fn with_another_user<T>(body: impl FnOnce() -> T) -> (T, Vec<Duration>) {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut other = Foreign::open().unwrap();
            let mut waits = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                let started = Instant::now();
                // There is none, which the kernel says when it is our turn.
                assert!(!other.delete_table(&(Family::Ipv4, "nobody".to_owned())).unwrap());
                waits.push(started.elapsed());
                thread::sleep(Duration::from_micros(200));
            }
            waits
        });
        let done = body();
        is_over.store(true, Ordering::Relaxed);
        (done, other.join().unwrap())
    })
}

/// Root of a user namespace may program its tables, but the size of its socket buffers is limited.
#[test]
fn a_transaction_is_cut_to_the_size_of_the_socket_buffer() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("small");
    let program = compile(&large(2_000));
    namespace.run(|| {
        let mut sink = open(Ownership::Shared).with_buffers(SMALL).unwrap();
        let outcome = install(&mut sink, &program);
        assert!(outcome.transactions > outcome.bytes / SMALL, "{outcome:?}");
        assert_eq!(outcome.ops, first_install(&program).len());
        assert!(outcome.refused.is_empty(), "{outcome:?}");
        reads(&mut sink, &program);
        let empty = compile(&Model::default());
        install(&mut sink, &empty);
        assert_eq!(sink.read().unwrap().0, empty.state());
        // An atomic delta, which no packet should see half applied, is split, too, if it does not
        // fit.
        let mut delta = Delta::reconcile(&sink.read().unwrap().0, &program);
        delta.atomic = true;
        let (_, base) = sink.read().unwrap();
        sink.commit(&delta, base).unwrap();
        reads(&mut sink, &program);
    });
}

fn reads(sink: &mut NftSink, program: &Program) {
    assert!(sink.read().unwrap().0 == program.state(), "what is read is what was written");
}

#[test]
fn others_cannot_change_exclusive_tables() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("exclusive");
    let program = everything();
    namespace.run(|| {
        let mut sink = open(Ownership::Exclusive);
        if sink.ownership() == Ownership::Shared {
            // Before Linux 6.9, tables cannot be owned like this; they are watched instead.
            return;
        }
        install(&mut sink, &program);
        let before = sink.read().unwrap();
        let tool = |arguments: &str| {
            let words = arguments.split(' ');
            namespace.command("nft", words).output().unwrap().status.success()
        };
        assert!(!tool("delete table ip rulec"));
        assert!(!tool("flush chain ip rulec dispatch"));
        assert!(!tool("add rule ip rulec dispatch accept"));
        assert!(!tool("add element ip rulec cluster-ips { 10.96.9.9 }"));
        assert!(!tool("add chain ip6 rulec foreign"));
        assert!(!tool("flush map ip rulec endpoints"));
        // `flush ruleset` is no error; it only skips our tables.
        namespace.nft("add table inet foreign");
        assert!(tool("flush ruleset"));
        assert!(!namespace.nft_list().contains("foreign"));
        assert_eq!(sink.read().unwrap().0, before.0);

        // Another process of ours cannot change them either, and it is told their owner.
        let port = sink.portid();
        let mut second = open(Ownership::Exclusive);
        let Err(SinkError::Owned { owner, .. }) = second.adopt() else {
            panic!("two owners at once");
        };
        assert_eq!(owner.portid, port);
        assert_eq!(owner.process.unwrap().0, std::process::id());
        assert!(matches!(second.cleanup(), Err(SinkError::Owned { .. })));
        // The error is not attributed to the Service of the group.
        let delta = groups(vec![reject("a", 1)]);
        assert!(matches!(second.commit(&delta, DeltaBase::Believed), Err(SinkError::Refused(_))));
        assert_eq!(sink.read().unwrap().0, before.0);

        // The tables outlive their owner, and the next one adopts them unchanged.
        drop(sink);
        let mut adopted = None;
        // A child that another test is starting holds our socket until it calls exec.
        eventually("the owner is gone", || match second.adopt() {
            Err(SinkError::Owned { .. }) => false,
            other => {
                adopted = Some(other.unwrap().0);
                true
            }
        });
        assert_eq!(adopted.unwrap(), program.state());
        assert!(!tool("delete table ip rulec"), "they are protected again");
        second.commit(&delta, DeltaBase::Believed).unwrap();
        assert_eq!(second.cleanup().unwrap(), Family::ALL);
        assert_eq!(namespace.nft_list(), "");
    });
}

/// A process with shared tables adopts ownerless tables and keeps their flags.
#[test]
fn a_shared_sink_adopts_ownerless_tables() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("orphans");
    let program = everything();
    namespace.run(|| {
        install(&mut open(Ownership::Exclusive), &program);
        let mut sink = open(Ownership::Shared);
        let (held, _) = sink.adopt().unwrap();
        assert_eq!(held, program.state());
        sink.commit(&groups(vec![reject("a", 1)]), DeltaBase::Believed).unwrap();
        drop(sink);
        let mut sink = open(Ownership::Exclusive);
        assert_eq!(install(&mut sink, &program).ops, 1, "only the difference is written");
        assert_eq!(sink.read().unwrap().0, program.state());
    });
}

/// Tables that were created as shared cannot become exclusive: they are replaced, in one
/// transaction, so that a request for exclusive tables is fulfilled.
#[test]
fn exclusive_tables_replace_shared_ones() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("unshared");
    let program = everything();
    namespace.run(|| {
        install(&mut open(Ownership::Shared), &program);
        let mut sink = open(Ownership::Exclusive);
        if sink.ownership() == Ownership::Shared {
            return;
        }
        assert_eq!(install(&mut sink, &program).transactions, 1);
        assert_eq!(sink.read().unwrap().0, program.state());
        let delete = namespace.command("nft", ["delete", "table", "ip", "rulec"]).output();
        assert!(!delete.unwrap().status.success(), "the table is protected");
        assert_eq!(install(&mut sink, &program).transactions, 0, "tables are replaced only once");
    });
}

#[test]
fn a_foreign_table_is_replaced_in_one_step() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("foreign");
    let program = everything();
    namespace.run(|| {
        namespace.nft(
            "table ip rulec {
                 set services { type ipv4_addr; elements = { 10.0.0.1 } }
                 chain prerouting { type filter hook prerouting priority 7; policy accept; }
                 chain theirs {
                     counter drop
                 }
             }
             table ip other {
                 chain theirs {
                     counter drop
                 }
             }",
        );
        let mut sink = open(Ownership::Shared);
        let (found, base) = sink.read().unwrap();
        let delta = Delta::reconcile(&found, &program);
        assert!(delta.atomic);
        let outcome = sink.commit(&delta, base).unwrap();
        assert_eq!(outcome.transactions, 1);
        let DeltaBase::Read { generation: Some(before) } = base else { panic!("{base:?}") };
        let (held, after) = sink.read().unwrap();
        assert_eq!(after, DeltaBase::Read { generation: Some(before + 1) });
        assert_eq!(held, program.state());
        assert!(namespace.nft_list().contains("table ip other"), "that one is not ours");
    });
}

/// Every change to the tables by others is seen, and repaired by a delta.
#[test]
fn damage_is_detected_and_repaired() {
    if !require_root() {
        return;
    }
    let namespace = Namespace::new("damage");
    let program = everything();
    let wanted = program.state();
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        install(&mut sink, &program);
        // A set that is created again is listed in another position.
        let sorted = || {
            let mut lines: Vec<String> = listing(&namespace).lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let before = sorted();
        for (what, damage) in damages() {
            namespace.nft(&damage(&namespace));
            let (found, base) = sink.read().unwrap();
            assert_ne!(found, wanted, "{what}: not seen");
            let delta = Delta::reconcile(&found, &program);
            let outcome = sink.commit(&delta, base).unwrap();
            assert!(outcome.refused.is_empty(), "{what}: {outcome:?}");
            assert_eq!(sink.read().unwrap().0, wanted, "{what}: not repaired");
            assert_eq!(sorted(), before, "{what}: not repaired");
        }
    });
}

type Damage = Box<dyn Fn(&Namespace) -> String>;

/// Returns the group of a frontend, in the notation of `meta priority`.
fn group(namespace: &Namespace, frontend: &str) -> String {
    let listing = namespace.nft_list();
    let (_, entry) = listing.split_once(&format!("{frontend} comment ")).unwrap();
    let code = entry.split_once(" : ").unwrap().1;
    let code = code.split(|c: char| c != ':' && !c.is_ascii_hexdigit()).next().unwrap();
    let (major, minor) = code.split_once(':').unwrap();
    let minor = u32::from_str_radix(minor, 16).unwrap() & 0xf000;
    if minor == 0 { format!("{major}:0") } else { format!("{major}:{minor:x}") }
}

fn damages() -> Vec<(&'static str, Damage)> {
    let plain = |what, script: &'static str| -> (&'static str, Damage) {
        (what, Box::new(move |_: &Namespace| script.to_owned()))
    };
    vec![
        plain("chain flushed", "flush chain ip rulec dispatch"),
        plain("chain of a class flushed", "flush chain ip rulec pick-1"),
        plain("rule appended", "add rule ip6 rulec dispatch accept"),
        plain("rule inserted", "insert rule ip rulec prerouting counter"),
        (
            "rule deleted",
            Box::new(|namespace| {
                let handle = handle(namespace, "postrouting", "masquerade");
                format!("delete rule ip rulec postrouting handle {handle}")
            }),
        ),
        (
            "rule replaced",
            Box::new(|namespace| {
                let handle = handle(namespace, "filter-input", "new-input");
                format!("replace rule ip rulec filter-input handle {handle} accept")
            }),
        ),
        (
            "rule replaced under its comment",
            Box::new(|namespace| {
                let (handle, comment) = rule(namespace, "filter-input", "new-input");
                format!("replace rule ip rulec filter-input handle {handle} accept {comment}")
            }),
        ),
        (
            "rule made longer under its comment",
            Box::new(|namespace| {
                let (handle, comment) = rule(namespace, "filter-input", "new-input");
                format!(
                    "replace rule ip rulec filter-input handle {handle} ct state new ip saddr \
                     10.0.0.1 goto new-input {comment}"
                )
            }),
        ),
        plain("element deleted", "delete element ip rulec cluster-ips { 10.96.0.10 }"),
        plain("element added", "add element ip rulec cluster-ips { 10.99.99.99 }"),
        plain(
            "frontend added",
            "add element ip rulec services { 10.99.99.99 . tcp . 80 : 4:d001 }
             add element ip rulec endpoints { 4:d000 . tcp . 0 : 10.50.1.5 . 80 }",
        ),
        (
            "element altered",
            Box::new(|namespace| {
                let group = group(namespace, "10.96.0.10 . tcp . 80");
                format!(
                    "delete element ip rulec endpoints {{ {group} . tcp . 0 }}
                     add element ip rulec endpoints {{ {group} . tcp . 0 : 10.50.9.9 . 99 }}"
                )
            }),
        ),
        plain(
            "comment lost",
            "delete element ip rulec services { 10.96.0.10 . tcp . 80 }
             add element ip rulec services { 10.96.0.10 . tcp . 80 : 0:1401 }",
        ),
        plain(
            "verdict altered",
            "delete element ip rulec classes { 0:2 }
             add element ip rulec classes { 0:2 : drop }",
        ),
        plain("range added", "add element ip rulec unmasqueraded-sources { 172.16.0.0/12 }"),
        plain(
            "range that is no network",
            "add element ip rulec unmasqueraded-sources { 172.16.0.1-172.16.0.3 }",
        ),
        plain("element that means nothing", "add element ip rulec hairpin { 10.0.0.1 . 10.0.0.2 }"),
        plain("map flushed", "flush map ip6 rulec endpoints"),
        plain(
            "set deleted",
            "flush chain ip rulec unserved
             delete set ip rulec reject-services",
        ),
        plain(
            "set of another shape",
            "flush chain ip rulec unserved
             delete set ip rulec reject-services
             add set ip rulec reject-services { type ipv4_addr; }",
        ),
        plain("foreign set", "add set ip rulec theirs { type ipv4_addr; }"),
        plain("foreign chain", "add chain ip rulec theirs"),
        plain("policy altered", "add chain ip rulec filter-input { policy drop; }"),
        plain(
            "chain attached elsewhere",
            "flush chain ip rulec output
             delete chain ip rulec output
             add chain ip rulec output { type nat hook output priority 50; }",
        ),
        plain("dormant", "add table ip rulec { flags dormant; }"),
        plain("table deleted", "delete table ip6 rulec"),
        plain("all flushed", "flush ruleset"),
    ]
}

/// Returns the handle of the first rule of a chain that contains a word.
fn handle(namespace: &Namespace, chain: &str, word: &str) -> String {
    rule(namespace, chain, word).0
}

/// Returns the handle and the comment, as written in a rule, of that rule.
fn rule(namespace: &Namespace, chain: &str, word: &str) -> (String, String) {
    let listing = namespace.sh(&format!("nft -a list chain ip rulec {chain}"));
    let mut rules = listing.lines().filter(|line| !line.trim_start().starts_with("chain"));
    let rule = rules.find(|line| line.contains(word)).unwrap_or_else(|| panic!("{listing}"));
    let (rule, handle) = rule.split_once(" # handle ").unwrap();
    let (_, comment) = rule.split_once(" comment ").unwrap();
    (handle.to_owned(), format!("comment {comment}"))
}

#[test]
fn a_long_history_equals_a_fresh_start() {
    long_history("history", settings());
}

/// The same with detection by the node's Pod networks, which change.
#[test]
fn a_long_history_of_node_facts_equals_a_fresh_start() {
    let settings = Settings { detect_local: DetectLocal::NodeCidr, ..(*settings()).clone() };
    long_history("node-history", Arc::new(settings));
}

/// Applies one change after the other: the kernel always holds a complete program.
fn long_history(name: &str, settings: Arc<Settings>) {
    if !require_root() {
        return;
    }
    let compile = |model: &Model| Program::compile(model, Arc::clone(&settings), &State::default());
    let namespace = Namespace::new(name);
    let mut dice = Dice::new(3);
    namespace.run(|| {
        let mut sink = open(Ownership::Shared);
        let mut model = Model::default();
        let mut applied = compile(&model);
        install(&mut sink, &applied);
        for step in 0..60 {
            let mut text = String::new();
            if dice.roll(8) > 0 {
                let _ = writeln!(text, "{}---", random_node(&mut dice));
            }
            for number in 0..8 {
                if dice.roll(4) > 0 {
                    let _ = writeln!(text, "{}---", random_service(&mut dice, number));
                }
            }
            let reading = self::model(&text);
            let dirty =
                model.apply(Origin::Manifests, Change::everything(reading.objects().collect()));
            let mut wanted = applied.clone();
            wanted.update(&model, &dirty);
            let delta = Delta::between(&applied, &wanted);
            let outcome = sink.commit(&delta, DeltaBase::Believed).unwrap();
            assert!(outcome.refused.is_empty(), "step {step}: {outcome:?}");
            assert_eq!(sink.read().unwrap().0, wanted.state(), "step {step}");
            applied = wanted;
        }
        // Slots may differ from a fresh start; the backends of each frontend may not.
        let fresh = compile(&model);
        let (held, fresh) = (applied.state(), fresh.state());
        let others = |state: &State| -> BTreeSet<Key> {
            let keys = state.tables.values().flat_map(|table| table.elements.keys());
            let is_numbered = |key: &Key| key.group().is_some() || matches!(key, Key::Class(..));
            keys.filter(|key| !is_numbered(key)).copied().collect()
        };
        assert_eq!(others(&held), others(&fresh));
        let mut seen = BTreeSet::new();
        let mut compared = 0;
        for table in fresh.tables.values() {
            for key in table.elements.keys() {
                seen.insert(key.set());
                let Key::Service(frontend) = key else { continue };
                for view in View::ALL {
                    let backends = |state: &State| {
                        let group = state.group(view, *frontend).unwrap_or_default();
                        let mut backends: Vec<_> =
                            group.slots.iter().map(|slot| slot.backend).collect();
                        backends.sort_unstable();
                        backends
                    };
                    assert_eq!(backends(&held), backends(&fresh), "{frontend}");
                }
                compared += 1;
            }
        }
        assert!(compared > 5, "there was something to compare");
        for set in [SetId::SourceRanges, SetId::LocalGroups, SetId::Members] {
            assert!(seen.contains(&set), "{}", set.name());
        }
    });
}
