//! Pseudonyms change names and addresses, and nothing else: what a masked state compiles to has the
//! same shape, and packets have the same fate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use rulec::cli::name::Asked;
use rulec_compiler::change::Sourced;
use rulec_compiler::nft::Key;
use rulec_compiler::object::{Object, Service};
use rulec_compiler::oracle::{self, Packet, Verdict};
use rulec_compiler::settings::{DetectLocal, NodePortAddresses};
use rulec_compiler::{Change, Frontend, Model, Origin, Program, Settings, State};
use rulec_sources::recording::{Mask, MaskKey};

use crate::support::random_directory;

/// Returns random objects in which no two Services claim the same address: which of them wins is a
/// matter of their names.
fn objects(seed: u64) -> Vec<Sourced> {
    let directory = random_directory(seed, 40);
    let mut objects = rulec_sources::read(directory.path()).unwrap().objects;
    let mut taken: BTreeSet<IpAddr> = BTreeSet::new();
    for sourced in &mut objects {
        if let Object::Service(service) = &mut sourced.object {
            let mut changed = Service::clone(service);
            changed.external_ips.retain(|address| taken.insert(*address));
            changed.load_balancer_vips.retain(|address| taken.insert(*address));
            *service = Arc::new(changed);
        }
    }
    objects
}

fn settings() -> Settings {
    let networks = |all: &[&str]| all.iter().map(|it| it.parse().unwrap()).collect();
    Settings {
        node_addresses: vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
        detect_local: DetectLocal::ClusterCidr(networks(&["10.50.0.0/16", "2001:db8:50::/48"])),
        node_port_addresses: NodePortAddresses::PrimaryAnd(networks(&["127.0.0.0/8"])),
        ..Settings::new("na".into())
    }
}

fn compiled(objects: Vec<Sourced>, settings: Settings) -> (Model, State) {
    let mut model = Model::default();
    model.apply(Origin::Manifests, Change::everything(objects));
    let program = Program::compile(&model, Arc::new(settings), &State::default());
    (model, program.state())
}

/// Returns how many elements each set has.
fn shape(state: &State) -> BTreeMap<String, usize> {
    let mut shape = BTreeMap::new();
    for (family, table) in &state.tables {
        for key in table.elements.keys() {
            *shape.entry(format!("{family:?} {}", key.set().name())).or_default() += 1;
        }
    }
    shape
}

/// Returns the frontends of a state.
fn frontends(state: &State) -> BTreeSet<Frontend> {
    let keys = state.tables.values().flat_map(|table| table.elements.keys());
    let served = keys.filter_map(|key| {
        let (Key::Service(frontend) | Key::Reject(frontend)) = key else { return None };
        Some(*frontend)
    });
    served.collect()
}

/// Returns what may happen to a packet.
fn fates(state: &State, packet: &Packet, own: &[IpAddr]) -> BTreeSet<String> {
    let mark = Settings::new("na".into()).masquerade_bit.mark();
    let fates = oracle::explain(state, packet, mark, &|address| own.contains(&address));
    fates.iter().map(|fate| format!("{:?} {:?}", fate.verdict, fate.masquerade)).collect()
}

/// The same with pseudonyms.
fn masked_fates(
    state: &State,
    packet: &Packet,
    own: &[IpAddr],
    mask: &mut Mask,
) -> BTreeSet<String> {
    let mark = Settings::new("na".into()).masquerade_bit.mark();
    let mut fates = oracle::explain(state, packet, mark, &|address| own.contains(&address));
    for fate in &mut fates {
        if let Verdict::Backend(backend) = &mut fate.verdict {
            backend.address = mask.address(backend.address);
        }
    }
    fates.iter().map(|fate| format!("{:?} {:?}", fate.verdict, fate.masquerade)).collect()
}

#[test]
fn a_masked_state_has_the_same_shape_and_packets_the_same_fate() {
    let sources = ["10.50.1.3", "10.50.1.4", "203.0.113.70", "203.0.113.200", "192.0.2.10"];
    let sources = sources.into_iter().chain(["198.18.0.1", "2001:db8:50:1::3", "2001:db8::77"]);
    let sources: Vec<IpAddr> =
        sources.chain(["2001:db8:ff00::1", "2001:db8::10"]).map(|it| it.parse().unwrap()).collect();
    let (mut packets, mut kept) = (0, 0);
    for seed in 0..4 {
        let mut mask = Mask::new(MaskKey::random().unwrap());
        let (objects, settings) = (objects(seed), settings());
        let masked: Vec<Sourced> = objects
            .iter()
            .map(|it| Sourced { object: mask.object(&it.object), ..it.clone() })
            .collect();
        let masked_settings = mask.settings(&settings);
        let own = settings.node_addresses.clone();
        let masked_own = masked_settings.node_addresses.clone();
        let (_, state) = compiled(objects, settings);
        let (_, masked_state) = compiled(masked, masked_settings);
        assert_eq!(shape(&state), shape(&masked_state), "seed {seed}");
        assert!(shape(&state).len() > 10, "{:?}", shape(&state));
        for frontend in frontends(&state) {
            let (destination, protocol, port) = match frontend {
                Frontend::Address { address, protocol, port } => (address, protocol, port),
                Frontend::NodePort { family, protocol, port } => {
                    let of = |it: &&IpAddr| rulec_compiler::net::Family::of(**it) == family;
                    (*own.iter().find(of).unwrap(), protocol, port)
                }
            };
            let sources = sources.iter().filter(|it| it.is_ipv4() == destination.is_ipv4());
            for source in sources {
                let packet = Packet {
                    source: *source,
                    interface: None,
                    destination,
                    transport: Some((protocol, port)),
                };
                let masked_packet = Packet {
                    source: mask.address(*source),
                    destination: mask.address(destination),
                    ..packet.clone()
                };
                let expected = masked_fates(&state, &packet, &own, &mut mask);
                let found = fates(&masked_state, &masked_packet, &masked_own);
                assert_eq!(found, expected, "seed {seed}: {packet:?}");
                packets += 1;
                kept += usize::from(expected == fates(&state, &packet, &own));
            }
        }
    }
    assert!(packets > 500, "{packets}");
    assert!(kept < packets, "something was masked");
}

/// A name that is typed is none of the pseudonyms.
#[test]
fn a_pseudonym_is_a_name_that_people_can_type() {
    let mut mask = Mask::new(MaskKey::random().unwrap());
    let (model, _) = compiled(objects(1), settings());
    for entry in model.services() {
        let masked = mask.object(&Object::Service(Arc::clone(&entry.object)));
        let Object::Service(masked) = masked else { panic!("another kind") };
        let text = masked.key.to_string();
        assert!(text.parse::<Asked>().is_ok(), "{text}");
        assert_ne!(masked.key, entry.object.key);
    }
}
