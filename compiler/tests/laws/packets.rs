//! Packets go where the specification says, after any history and under any settings.

use rulec_compiler::oracle::{self, Packet, Verdict};
use rulec_compiler::resolve::local::local_view;

use super::reference::{Cluster, Entrance, Fate};
use super::*;

/// A recipe for a packet, given the objects.
#[derive(Clone, Debug)]
struct Probe {
    client: Client,
    interface: Option<&'static str>,
    to: To,
    /// Selects one of this node's addresses, where one is needed.
    own: Index,
}

#[derive(Clone, Debug)]
enum Client {
    Endpoint(u8),
    Pod(u8),
    Node,
    /// The address that it connects to: the client is a node that has that address.
    Itself,
    Outside,
}

#[derive(Clone, Debug)]
enum To {
    /// A frontend of some Service.
    Entrance(Index),
    /// Another port of its address.
    OtherPort(Index),
    /// Its address, without a port.
    Ping(Index),
    /// An unused address, in a range of a ServiceCIDR or outside.
    Nobody(bool, Family),
}

fn probe() -> impl Strategy<Value = Probe> {
    let client = prop_oneof![
        3 => (0..24_u8).prop_map(Client::Endpoint),
        3 => (0..3_u8).prop_map(Client::Pod),
        3 => Just(Client::Node),
        3 => Just(Client::Itself),
        3 => Just(Client::Outside),
    ];
    let to = prop_oneof![
        20 => any::<Index>().prop_map(To::Entrance),
        2 => any::<Index>().prop_map(To::OtherPort),
        1 => any::<Index>().prop_map(To::Ping),
        1 => (any::<bool>(), family()).prop_map(|(is_in_range, family)| To::Nobody(is_in_range, family)),
    ];
    let interface = option::of(select(&["cni0", "cni1", "veth1", "eth0"][..]));
    (client, interface, to, any::<Index>()).prop_map(|(client, interface, to, own)| Probe {
        client,
        interface,
        to,
        own,
    })
}

/// Returns this node's addresses; Services ask for one of them, too.
pub(super) fn own() -> Vec<IpAddr> {
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    [v4(2, 1), v4(2, 2), v4(3, 1), v4(9, 1), v6(2, 1), v6(2, 2)]
        .into_iter()
        .chain(loopback)
        .collect()
}

impl Probe {
    fn packet(&self, entrances: &[Entrance]) -> Option<Packet> {
        let some = |index: &Index| (!entrances.is_empty()).then(|| *index.get(entrances));
        let own = |family| -> Option<IpAddr> {
            let own = own().into_iter().filter(|address| Family::of(*address) == family);
            let own: Vec<IpAddr> = own.collect();
            Some(*self.own.get(&own))
        };
        let (destination, transport) = match &self.to {
            To::Entrance(index) => {
                let Entrance { family, address, protocol, port } = some(index)?;
                (address.or_else(|| own(family))?, Some((protocol, port)))
            }
            To::OtherPort(index) => {
                let Entrance { family, address, protocol, .. } = some(index)?;
                (address.or_else(|| own(family))?, Some((protocol, number(30_001))))
            }
            To::Ping(index) => {
                let Entrance { family, address, .. } = some(index)?;
                (address.or_else(|| own(family))?, None)
            }
            To::Nobody(is_in_range, Family::Ipv4) => {
                (if *is_in_range { v4(0, 250) } else { [172, 16, 0, 1].into() }, None)
            }
            To::Nobody(is_in_range, Family::Ipv6) => {
                let range = if *is_in_range { [0xfd00, 0x10] } else { [0xfd77, 0] };
                (Ipv6Addr::new(range[0], range[1], 0, 0, 0, 0, 0, 9).into(), None)
            }
        };
        let family = Family::of(destination);
        let by_family = |four: [u8; 4], six: [u16; 2]| match family {
            Family::Ipv4 => IpAddr::from(four),
            Family::Ipv6 => Ipv6Addr::new(six[0], six[1], 0, 0, 0, 0, 0, 9).into(),
        };
        let source = match self.client {
            Client::Endpoint(d) => endpoint_address(family, d),
            Client::Pod(d) => by_family([10, 244, d, 9], [0xfd00, [0x10, 1, 2][usize::from(d)]]),
            Client::Node => own(family)?,
            Client::Itself => destination,
            Client::Outside => by_family([192, 0, 2, 77], [0x2001, 0xdb8]),
        };
        let interface = self.interface.map(str::to_owned);
        Some(Packet { source, interface, destination, transport })
    }
}

pub(super) fn fates(state: &State, packet: &Packet, mark: u32) -> BTreeSet<Fate> {
    let is_own = |address| own().contains(&address);
    let outcomes = oracle::explain(state, packet, mark, &is_own).into_iter();
    outcomes.map(|outcome| (outcome.verdict, outcome.masquerade.is_some())).collect()
}

/// Sends packets through the state after a history, and through that of a fresh start, and returns
/// where they went.
fn check_packets(
    (list, batches): &History,
    settings: Settings,
    probes: &[Probe],
) -> Result<BTreeSet<Verdict>, TestCaseError> {
    let settings = Arc::new(settings);
    let own = own();
    let mut model = model(list);
    let mut program = Program::compile(&model, Arc::clone(&settings), &State::default());
    let mut verdicts: BTreeSet<Verdict> = BTreeSet::new();
    for batch in std::iter::once(&Vec::new()).chain(batches) {
        let mut dirty = Dirty::default();
        for change in batch {
            dirty.merge(model.apply(Origin::Manifests, change.clone()));
        }
        program.update(&model, &dirty);
        let fresh = Program::compile(&model, Arc::clone(&settings), &State::default()).state();
        let state = program.state();
        let objects = model.objects().map(|sourced| sourced.object);
        let cluster = Cluster::of(objects, &settings, &own);
        let entrances = cluster.entrances();
        for packet in probes.iter().filter_map(|probe| probe.packet(&entrances)) {
            let expected = cluster.fates(&packet);
            let found = fates(&state, &packet, program.mark());
            prop_assert_eq!(&found, &expected, "{:?} under {:?}", &packet, &settings);
            prop_assert_eq!(&fates(&fresh, &packet, program.mark()), &expected);
            verdicts.extend(expected.into_iter().map(|(verdict, _)| verdict));
        }
        for service in cluster.services() {
            let found = local_view(&model, &settings, &service.key);
            prop_assert_eq!(found, cluster.local_view(service), "{}", &service.key);
        }
    }
    Ok(verdicts)
}

/// The outcomes that the laws below compare include every kind.
#[test]
fn the_probes_cover_every_verdict() {
    let seen = RefCell::new(BTreeSet::new());
    let config = Config {
        cases: 6,
        rng_seed: RngSeed::Fixed(SEED),
        failure_persistence: None,
        ..Config::default()
    };
    let all = (history(), any_settings(), vec(probe(), 150));
    let outcome = TestRunner::new(config).run(&all, |(history, settings, probes)| {
        seen.borrow_mut().extend(check_packets(&history, settings, &probes)?);
        Ok(())
    });
    outcome.unwrap();
    let mut seen = seen.into_inner();
    for verdict in [Verdict::Pass, Verdict::Reject, Verdict::Drop] {
        assert!(seen.remove(&verdict), "{verdict:?}");
    }
    assert!(seen.len() > 10, "backends: {seen:?}");
}

proptest! {
    #![proptest_config(cases(16, seeds!("packets.txt")))]

    /// After any history, the rules treat packets as the specification says and as the elements of
    /// a fresh start do. Health checks report the same to load balancers.
    #[test]
    fn packets_follow_the_specification(
        history in history(),
        settings in any_settings(),
        probes in vec(probe(), 150),
    ) {
        check_packets(&history, settings, &probes)?;
    }

    /// The same holds for the rules and IPVS together, if the addresses of the interfaces are
    /// known.
    #[test]
    fn packets_follow_the_specification_with_ipvs(
        (mut list, batches) in history(),
        facts in vec(surroundings(), 1..4),
        settings in super::ipvs::ipvs_settings(),
        probes in vec(probe(), 150),
    ) {
        let facts = facts.into_iter().map(|object| (object.key(), object));
        list.extend(facts.collect::<BTreeMap<ObjectKey, Object>>().into_values());
        check_packets(&(list, batches), settings, &probes)?;
    }
}
