//! Adds up what is seen of counters, whatever becomes of the elements that they are on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rulec_compiler::frontend::PortKey;
use rulec_compiler::net::{Backend, Family};
use rulec_compiler::nft::code::GroupId;
use rulec_compiler::nft::element::{Key, Value};
use rulec_compiler::nft::set::SetId;
use rulec_compiler::state::Held;

/// How long the totals of a Service port or an endpoint that has gone are kept. It may come back:
/// a Pod that was not ready for a while, or a Service that was replaced.
const KEPT: Duration = Duration::from_secs(600);

/// A value of a counter.
pub(super) type Counted = u64;

/// How many connections there have been. The totals never go back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// When they were read.
    pub at: Option<SystemTime>,
    /// By Service port, named as in the comments of elements.
    pub ports: BTreeMap<Arc<PortKey>, PortTotals>,
    /// How often announcements were lost. The connections of elements that went meanwhile are
    /// counted only as far as they had been read before.
    pub losses: u64,
}

/// The connections of a Service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortTotals {
    /// All connections to its frontends, also those that were dropped by policy.
    pub connections: u64,
    /// Those that each endpoint has got.
    pub endpoints: BTreeMap<Backend, u64>,
}

/// What was seen of all counters.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// The last value of the counter of each element that exists.
    last: HashMap<Key, Counted>,
    /// The port that each group belongs to.
    owners: HashMap<(Family, GroupId), Arc<PortKey>>,
    /// Which group clients from outside get instead of another.
    local: HashMap<(Family, GroupId), GroupId>,
    /// The groups that were named since the last reading began.
    named: HashSet<(Family, GroupId)>,
    ports: HashMap<Arc<PortKey>, Port>,
    losses: u64,
    /// The number of the current reading of all elements.
    reading: u64,
}

/// A Service port.
#[derive(Debug, Default)]
struct Port {
    sum: Sum,
    endpoints: BTreeMap<Backend, Sum>,
}

/// The sum of several counters.
#[derive(Debug, Default)]
struct Sum {
    connections: u64,
    /// The last reading that has found one of them.
    found: u64,
    /// Since when none is found, if none is.
    gone: Option<Instant>,
}

impl Sum {
    /// Notes whether the current reading has found it, and returns whether it is kept.
    fn outlives(&mut self, reading: u64, now: Instant) -> bool {
        self.gone = (self.found < reading).then(|| self.gone.unwrap_or(now));
        self.gone.is_none_or(|at| now.saturating_duration_since(at) < KEPT)
    }
}

impl Ledger {
    /// Begins to read all elements.
    pub(super) fn begin(&mut self) {
        self.reading += 1;
    }

    /// Learns from an element whose a group is.
    pub(super) fn note(&mut self, key: Key, held: &Held) {
        let Value::Code(code) = held.value else { return };
        let family = key.family();
        self.named.insert((family, code.group));
        match (key, &held.owner) {
            (Key::Service(_), Some(port)) => {
                self.owners.insert((family, code.group), Arc::clone(port));
            }
            (Key::LocalGroup(_, group), _) => {
                self.local.insert((family, code.group), group);
            }
            _ => {}
        }
    }

    /// Adds what an element that exists has counted since it was last seen.
    pub(super) fn seen(&mut self, key: Key, held: &Held, packets: Counted) {
        // Unless its port becomes known, nothing is lost.
        let Some((port, backend)) = self.counts(key, held) else { return };
        let last = self.last.insert(key, packets).unwrap_or(0);
        let reading = self.reading;
        let port = self.ports.entry(port).or_default();
        let sum = match backend {
            Some(backend) => port.endpoints.entry(backend).or_default(),
            None => &mut port.sum,
        };
        // A smaller value is that of another element: the deletion was not heard.
        sum.connections += packets.checked_sub(last).unwrap_or(packets);
        sum.found = reading;
    }

    /// Adds what an element has counted until it was deleted.
    pub(super) fn deleted(&mut self, key: Key, held: &Held, packets: Option<Counted>) {
        if let Some(packets) = packets {
            self.seen(key, held, packets);
        }
        self.last.remove(&key);
    }

    /// Notes that all elements of a set, or of all sets, have gone, and that nothing was told of
    /// their counters.
    pub(super) fn emptied(&mut self, family: Family, set: Option<SetId>) {
        let is_gone = |key: &Key| key.family() == family && set.is_none_or(|set| key.set() == set);
        self.last.retain(|key, _| !is_gone(key));
    }

    /// Notes that deletions may not have been heard.
    pub(super) fn lost(&mut self) {
        self.losses += 1;
    }

    /// Notes that these elements are all that there are, and forgets what has been gone for long.
    pub(super) fn complete<'a>(
        &mut self,
        elements: impl Iterator<Item = (Key, &'a Held)>,
        now: Instant,
    ) {
        let mut groups = std::mem::take(&mut self.named);
        let mut found = HashSet::new();
        for (key, held) in elements {
            found.insert(key);
            groups.extend(key.group().map(|group| (key.family(), group)));
            if let Value::Code(code) = held.value {
                groups.insert((key.family(), code.group));
            }
        }
        // The deletion of others was not heard.
        self.last.retain(|key, _| found.contains(key));
        self.owners.retain(|group, _| groups.contains(group));
        self.local.retain(|group, _| groups.contains(group));
        let reading = self.reading;
        self.ports.retain(|_, port| {
            port.endpoints.retain(|_, sum| sum.outlives(reading, now));
            port.sum.outlives(reading, now)
        });
    }

    /// Returns the totals.
    pub(super) fn totals(&self) -> Totals {
        let of_port = |port: &Port| PortTotals {
            connections: port.sum.connections,
            endpoints: port.endpoints.iter().map(|(of, sum)| (*of, sum.connections)).collect(),
        };
        let ports = self.ports.iter().map(|(key, port)| (Arc::clone(key), of_port(port)));
        Totals { at: None, ports: ports.collect(), losses: self.losses }
    }

    /// Returns whose connections an element counts: those of a Service port, or of a backend of it.
    fn counts(&self, key: Key, held: &Held) -> Option<(Arc<PortKey>, Option<Backend>)> {
        match (key, held.value) {
            (Key::Service(_), Value::Code(_)) => Some((Arc::clone(held.owner.as_ref()?), None)),
            (Key::Endpoint(..) | Key::Member(..), Value::Backend(backend)) => {
                let group = (key.family(), key.group()?);
                let port = self.owners.get(&group).or_else(|| {
                    let split = self.local.get(&group)?;
                    self.owners.get(&(group.0, *split))
                })?;
                Some((Arc::clone(port), Some(backend)))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU16;

    use rulec_compiler::frontend::Frontend;
    use rulec_compiler::net::Protocol;
    use rulec_compiler::nft::code::{Class, Clients, Code};
    use rulec_compiler::nft::size::Size;

    use super::*;

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    fn group(number: u32) -> GroupId {
        GroupId::new(number).unwrap()
    }

    fn backend(last: u8) -> Backend {
        Backend { address: IpAddr::from(Ipv4Addr::new(10, 0, 0, last)), port: port(80) }
    }

    fn name(text: &str) -> Arc<PortKey> {
        Arc::new(PortKey::from_comment(text).unwrap())
    }

    /// A frontend of a port that leads to a group.
    fn frontend(number: u16, of: &str, group: GroupId) -> (Key, Held) {
        let (protocol, port) = (Protocol::Tcp, port(number));
        let frontend = Frontend::NodePort { family: Family::Ipv4, protocol, port };
        let class = Class::Random(Size::of(1).unwrap());
        let value = Value::Code(Code { group, clients: Clients::Masqueraded, class });
        (Key::Service(frontend), Held { value, owner: Some(name(of)), is_counted: true })
    }

    /// A slot of a group.
    fn slot(group: GroupId, slot: u32, last: u8) -> (Key, Held) {
        let key = Key::Endpoint(Family::Ipv4, group, Protocol::Tcp, slot);
        let value = Value::Backend(backend(last));
        (key, Held { value, owner: None, is_counted: true })
    }

    fn of<'a>(totals: &'a Totals, port: &str) -> &'a PortTotals {
        &totals.ports[&name(port)]
    }

    #[test]
    fn a_replaced_element_keeps_what_it_has_counted() {
        let mut ledger = Ledger::default();
        let (key, held) = frontend(1, "default/web", group(1));
        ledger.note(key, &held);
        ledger.seen(key, &held, 5);
        ledger.deleted(key, &held, Some(8));
        let (_, other) = frontend(1, "default/web", group(2));
        ledger.seen(key, &other, 9);
        assert_eq!(of(&ledger.totals(), "default/web").connections, 17);
    }

    #[test]
    fn a_counter_that_went_back_unheard_counts_from_zero() {
        let mut ledger = Ledger::default();
        let (key, held) = frontend(1, "default/web", group(1));
        ledger.seen(key, &held, 5);
        ledger.lost();
        ledger.seen(key, &held, 2);
        let totals = ledger.totals();
        assert_eq!((of(&totals, "default/web").connections, totals.losses), (7, 1));
    }

    #[test]
    fn the_counters_of_a_set_that_has_gone_count_from_zero_and_no_others() {
        let mut ledger = Ledger::default();
        let (key, held) = frontend(1, "default/web", group(1));
        ledger.note(key, &held);
        let (of_slot, backend_held) = slot(group(1), 0, 1);
        let see = |ledger: &mut Ledger| {
            ledger.seen(key, &held, 5);
            ledger.seen(of_slot, &backend_held, 5);
        };
        see(&mut ledger);
        ledger.emptied(Family::Ipv6, None);
        ledger.emptied(Family::Ipv4, Some(SetId::Endpoints));
        see(&mut ledger);
        let totals = ledger.totals();
        let web = of(&totals, "default/web");
        assert_eq!((web.connections, web.endpoints[&backend(1)]), (5, 10));
        ledger.emptied(Family::Ipv4, None);
        see(&mut ledger);
        assert_eq!(of(&ledger.totals(), "default/web").connections, 10);
    }

    #[test]
    fn an_endpoint_that_moves_to_another_slot_has_one_total() {
        let mut ledger = Ledger::default();
        let (key, held) = frontend(1, "default/web", group(1));
        ledger.note(key, &held);
        let [(first, a), (second, b)] = [slot(group(1), 0, 1), slot(group(1), 1, 2)];
        ledger.seen(first, &a, 3);
        ledger.seen(second, &b, 4);
        ledger.deleted(first, &a, Some(3));
        ledger.deleted(second, &b, Some(5));
        let (_, moved) = slot(group(1), 0, 2);
        ledger.seen(first, &moved, 1);
        let totals = ledger.totals();
        let expected = BTreeMap::from([(backend(1), 3), (backend(2), 6)]);
        assert_eq!(of(&totals, "default/web").endpoints, expected);
    }

    #[test]
    fn the_endpoints_of_a_local_group_belong_to_the_port_of_the_split_one() {
        let mut ledger = Ledger::default();
        let (key, held) = frontend(1, "default/web", group(1));
        ledger.note(key, &held);
        let class = Class::Random(Size::of(1).unwrap());
        let value = Value::Code(Code { group: group(2), clients: Clients::Kept, class });
        let local = Held { value, owner: None, is_counted: false };
        let (of_slot, backend_held) = slot(group(2), 0, 1);
        ledger.seen(of_slot, &backend_held, 4);
        ledger.note(Key::LocalGroup(Family::Ipv4, group(1)), &local);
        ledger.seen(of_slot, &backend_held, 4);
        let totals = ledger.totals();
        assert_eq!(of(&totals, "default/web").endpoints[&backend(1)], 4);
    }

    #[test]
    fn what_has_gone_is_kept_for_a_while() {
        let mut ledger = Ledger::default();
        let (key, held) = frontend(1, "default/web", group(1));
        let (of_slot, backend_held) = slot(group(1), 0, 1);
        let now = Instant::now();
        ledger.begin();
        ledger.note(key, &held);
        ledger.seen(key, &held, 5);
        ledger.seen(of_slot, &backend_held, 1);
        ledger.complete([(key, &held), (of_slot, &backend_held)].into_iter(), now);
        ledger.deleted(of_slot, &backend_held, Some(2));
        let read = |ledger: &mut Ledger, now| {
            ledger.begin();
            ledger.seen(key, &held, 5);
            ledger.complete([(key, &held)].into_iter(), now);
            of(&ledger.totals(), "default/web").clone()
        };
        let kept = PortTotals { connections: 5, endpoints: [(backend(1), 2)].into() };
        assert_eq!(read(&mut ledger, now), kept);
        assert_eq!(read(&mut ledger, now + KEPT / 2), kept);
        let rest = PortTotals { connections: 5, endpoints: BTreeMap::new() };
        assert_eq!(read(&mut ledger, now + KEPT), rest);
        for at in [KEPT, 2 * KEPT] {
            ledger.begin();
            ledger.complete(std::iter::empty(), now + at);
        }
        assert_eq!(ledger.totals().ports, BTreeMap::new());
    }
}
