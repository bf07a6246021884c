//! Lookups of a packet's fields in sets and maps.
//!
//! The fields are those that the rule names, so a rule that reads the wrong field gets the wrong
//! answer here, as it does in the kernel.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU16;

use super::{Oracle, Traveller};
use crate::frontend::Frontend;
use crate::interface::InterfacePattern;
use ipnet::IpNet;

use crate::net::{Family, Protocol};
use crate::nft::chain::ChainId;
use crate::nft::code::{CLASS_MASK, Class, Draw, GROUP_MASK, GroupId, Member};
use crate::nft::element::{Key, Value};
use crate::nft::length::Length;
use crate::nft::rule::Field;
use crate::nft::set::{Scope, SetId};

/// The value of a field of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Datum {
    Address(IpAddr),
    Protocol(Protocol),
    Port(NonZeroU16),
    /// The name, padded with zeros; all zeros for packets that this node sends.
    Interface([u8; 16]),
    Priority(u32),
    Integer(u32),
}

/// The values that a map may give, and whether it may give none.
pub(super) struct Found {
    pub(super) values: Vec<Value>,
    pub(super) is_missed: bool,
}

/// Returns the number that a value is in the scratch register.
pub(super) fn number(value: Value) -> Option<u32> {
    match value {
        Value::Code(code) => Some(code.code()),
        Value::Member(member) => Some(member.code()),
        Value::Lengths(lengths) => Some(lengths.number()),
        Value::Present | Value::Backend(_) | Value::Goto(_) => None,
    }
}

/// Reads a field; `None` if the packet does not have it.
fn read(field: Field, traveller: &Traveller) -> Option<Datum> {
    let packet = &traveller.packet;
    Some(match field {
        Field::Iifname => Datum::Interface(match packet.interface.as_deref() {
            Some(name) => InterfacePattern::named(name).ok()?.range().0,
            None => [0; 16],
        }),
        Field::Saddr => Datum::Address(packet.source),
        Field::Daddr => Datum::Address(packet.destination),
        Field::OriginalDaddr => Datum::Address(traveller.original),
        // Nothing is known of the answers of a flow that begins; its source is not kept.
        Field::OriginalSaddr | Field::ReplyDaddr => return None,
        Field::Network(length) => {
            let family = Family::of(packet.source);
            Datum::Address(IpNet::new(packet.source, length.bits(family)).ok()?.network())
        }
        Field::Protocol => Datum::Protocol(packet.transport?.0),
        Field::Dport => Datum::Port(packet.transport?.1),
        Field::Priority => Datum::Priority(traveller.priority),
        Field::Group => Datum::Priority(traveller.priority & GROUP_MASK),
        Field::Length(length) => Datum::Priority(traveller.priority & length.number()),
        // Every number is possible: see `lookup`.
        Field::Random(_) | Field::Hash(..) => Datum::Integer(0),
    })
}

/// Reads a field that is an address.
pub(super) fn address(field: Field, traveller: &Traveller) -> Option<IpAddr> {
    if let Some(Datum::Address(address)) = read(field, traveller) { Some(address) } else { None }
}

fn read_all(fields: &[Field], traveller: &Traveller) -> Option<Vec<Datum>> {
    fields.iter().map(|field| read(*field, traveller)).collect()
}

impl Oracle<'_> {
    pub(super) fn holds(&self, key: Key) -> bool {
        self.table.elements.contains_key(&key)
    }

    /// Returns true if the packet's fields are a member of a set.
    pub(super) fn is_member(&self, set: SetId, fields: &[Field], traveller: &Traveller) -> bool {
        let Some(data) = read_all(fields, traveller) else { return false };
        self.key(set, &data).is_some_and(|key| self.holds(key)) || self.is_in_range(set, &data)
    }

    /// Returns what a map may give for the packet's fields, of which one may be random.
    pub(super) fn lookup(&self, map: SetId, fields: &[Field], traveller: &Traveller) -> Found {
        let mut found = Found { values: Vec::new(), is_missed: false };
        let Some(data) = read_all(fields, traveller) else {
            return Found { is_missed: true, ..found };
        };
        if map == SetId::Turns {
            return self.turns(&data);
        }
        let modulus = fields.iter().find_map(|field| {
            let (Field::Random(modulus) | Field::Hash(_, modulus)) = field else { return None };
            // No client is assumed to have a record.
            (!map.is_of_records()).then_some(*modulus)
        });
        let mut seen = BTreeSet::new();
        for random in 0..modulus.unwrap_or(1) {
            let drawn = data.iter().map(|datum| {
                let is_random = matches!(datum, Datum::Integer(_));
                if is_random { Datum::Integer(random) } else { *datum }
            });
            let key = self.key(map, &drawn.collect::<Vec<_>>());
            match key.and_then(|key| self.table.elements.get(&key)) {
                Some(held) if seen.insert(held.value) => found.values.push(held.value),
                Some(_) => {}
                None => found.is_missed = true,
            }
        }
        found
    }

    /// Returns what the record of a group's last turn may be: any of its members, or none.
    fn turns(&self, data: &[Datum]) -> Found {
        let group = match data {
            [Datum::Priority(code)] => GroupId::from_code(*code),
            _ => None,
        };
        let members = self.table.elements.keys().filter_map(|key| {
            let Key::Member(_, member, _) = key else { return None };
            (Some(member.group) == group).then_some(*member)
        });
        Found { values: members.map(Value::Member).collect(), is_missed: true }
    }

    /// Returns the chain that a map gives for the class in a number.
    pub(super) fn chain_of(&self, map: SetId, number: u32) -> Option<ChainId> {
        let class = Class::from_number(number & CLASS_MASK)?;
        let key = match (map, class) {
            (SetId::Draws, class) => Key::Draw(self.family, Draw::try_from(class).ok()?),
            _ => Key::Class(self.family, class),
        };
        match self.table.elements.get(&key)?.value {
            Value::Goto(chain) => Some(chain),
            Value::Present
            | Value::Code(_)
            | Value::Member(_)
            | Value::Lengths(_)
            | Value::Backend(_) => None,
        }
    }

    /// Reads a frontend, and returns what follows it.
    fn take_frontend<'a>(
        &self,
        scope: Scope,
        data: &'a [Datum],
    ) -> Option<(Frontend, &'a [Datum])> {
        match (scope, data) {
            (
                Scope::Address,
                [Datum::Address(address), Datum::Protocol(protocol), Datum::Port(port), rest @ ..],
            ) => {
                let (address, protocol, port) = (*address, *protocol, *port);
                Some((Frontend::Address { address, protocol, port }, rest))
            }
            (Scope::NodePort, [Datum::Protocol(protocol), Datum::Port(port), rest @ ..]) => {
                let (family, protocol, port) = (self.family, *protocol, *port);
                Some((Frontend::NodePort { family, protocol, port }, rest))
            }
            _ => None,
        }
    }

    /// Returns the key of a set of exact matches.
    fn key(&self, set: SetId, data: &[Datum]) -> Option<Key> {
        let frontend = |scope| match self.take_frontend(scope, data)? {
            (frontend, []) => Some(frontend),
            _ => None,
        };
        let group = |code: u32| GroupId::from_code(code);
        let address = || if let [Datum::Address(address)] = data { Some(*address) } else { None };
        let protocol = || if let [Datum::Protocol(it)] = data { Some(*it) } else { None };
        match set {
            SetId::InvalidProtocols => Some(Key::InvalidProtocol(self.family, protocol()?)),
            SetId::NodePortProtocols => Some(Key::NodePortProtocol(self.family, protocol()?)),
            SetId::NodeIps => Some(Key::NodeIp(address()?)),
            SetId::ClusterIps => Some(Key::ClusterIp(address()?)),
            SetId::Vips => Some(Key::Vip(address()?)),
            SetId::Hairpin => match data {
                [Datum::Address(one), Datum::Address(other)] if one == other => {
                    Some(Key::Hairpin(*one))
                }
                _ => None,
            },
            SetId::Services(scope) => Some(Key::Service(frontend(scope)?)),
            SetId::Rejects(scope) => Some(Key::Reject(frontend(scope)?)),
            SetId::Firewalled => Some(Key::Firewalled(frontend(Scope::Address)?)),
            SetId::SourceRanges => match data {
                [Datum::Priority(length), rest @ ..] => {
                    let length = Length::from_number(*length)?.bits(self.family);
                    match self.take_frontend(Scope::Address, rest)? {
                        (frontend, [Datum::Address(network)]) => {
                            Some(Key::SourceRange(frontend, IpNet::new(*network, length).ok()?))
                        }
                        _ => None,
                    }
                }
                _ => None,
            },
            SetId::LocalGroups | SetId::MemberGroups => match data {
                [Datum::Priority(code)] if set == SetId::LocalGroups => {
                    Some(Key::LocalGroup(self.family, group(*code)?))
                }
                [Datum::Priority(code)] => Some(Key::MemberGroup(self.family, group(*code)?)),
                _ => None,
            },
            SetId::Endpoints => match data {
                [Datum::Priority(code), Datum::Protocol(protocol), Datum::Integer(slot)] => {
                    Some(Key::Endpoint(self.family, group(*code)?, *protocol, *slot))
                }
                _ => None,
            },
            SetId::MemberSlots => match data {
                [Datum::Priority(code), Datum::Integer(slot)] => {
                    Some(Key::MemberSlot(self.family, group(*code)?, *slot))
                }
                _ => None,
            },
            SetId::Members => match data {
                [Datum::Priority(code), Datum::Protocol(protocol)] => {
                    let member = Member::from_code(*code)?;
                    Some(Key::Member(self.family, member, *protocol))
                }
                _ => None,
            },
            SetId::NextMembers => match data {
                [Datum::Priority(code)] => Some(Key::Next(self.family, Member::from_code(*code)?)),
                _ => None,
            },
            // Sets of ranges; and what other statements read. No client is assumed to have a
            // record.
            SetId::UnmasqueradedSources
            | SetId::UnmasqueradedInterfaces
            | SetId::PodSources
            | SetId::PodInterfaces
            | SetId::ServiceCidrs
            | SetId::Classes
            | SetId::Draws
            | SetId::Turns
            | SetId::Affinity(..) => None,
        }
    }

    /// Returns true if a range of the set contains the fields.
    fn is_in_range(&self, set: SetId, data: &[Datum]) -> bool {
        self.ranges.iter().filter(|key| key.set() == set).any(|key| match (key, data) {
            (
                Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net),
                [Datum::Address(address)],
            ) => net.contains(address),
            (
                Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern),
                [Datum::Interface(name)],
            ) => {
                let (first, end) = pattern.range();
                first <= *name && *name < end
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs;
    use crate::nft::code::{Clients, Code};
    use crate::nft::length::Lengths;
    use crate::oracle::Packet;
    use crate::state::{Held, Table};

    /// A rule that reads another field than it should is noticed.
    #[test]
    fn a_lookup_reads_the_fields_that_the_rule_names() {
        use Field::{Daddr, Dport, Protocol, Saddr};
        let [client, vip] = [[203, 0, 113, 9], [10, 96, 0, 10]].map(IpAddr::from);
        let port = NonZeroU16::new(80).unwrap();
        let tcp = crate::net::Protocol::Tcp;
        let frontend = Frontend::Address { address: vip, protocol: tcp, port };
        let group = GroupId::new(1).unwrap();
        let code = Code { group, clients: Clients::Internal, class: Class::Dropped };
        let range: IpNet = "203.0.113.0/24".parse().unwrap();
        let length = Length::of(range).unwrap();
        let held = [
            (Key::ClusterIp(vip), Value::Present),
            (Key::Service(frontend), Value::Code(code)),
            (Key::SourceRange(frontend, range), Value::Present),
        ];
        let elements =
            held.map(|(key, value)| (key, Held { value, owner: None, is_counted: false })).into();
        let oracle = Oracle {
            family: Family::Ipv4,
            table: &Table { elements, ..Table::default() },
            ipvs: &ipvs::State::default(),
            ranges: Vec::new(),
            mark: 1,
            is_local: &|_| false,
        };
        let packet = Packet {
            source: client,
            interface: None,
            destination: vip,
            transport: Some((tcp, port)),
        };
        let priority = Lengths::of(&[range]).number();
        let traveller = Traveller { priority, ..Traveller::new(packet) };
        let is_member = |set, fields: &[Field]| oracle.is_member(set, fields, &traveller);
        assert!(is_member(SetId::ClusterIps, &[Daddr]));
        assert!(!is_member(SetId::ClusterIps, &[Saddr]));
        assert!(!is_member(SetId::ClusterIps, &[Dport]));
        assert!(!is_member(SetId::ClusterIps, &[Daddr, Daddr]));
        let [own, network] = [Field::Length(length), Field::Network(length)];
        assert!(is_member(SetId::SourceRanges, &[own, Daddr, Protocol, Dport, network]));
        assert!(!is_member(SetId::SourceRanges, &[own, Daddr, Protocol, Dport, Saddr]));
        assert!(!is_member(SetId::SourceRanges, &[network, own, Protocol, Dport, Daddr]));
        let other = Length::of("203.0.113.0/25".parse().unwrap()).unwrap();
        let fields = [Field::Length(other), Daddr, Protocol, Dport, network];
        assert!(!is_member(SetId::SourceRanges, &fields));
        let services = SetId::Services(Scope::Address);
        let found = |fields: &[Field]| oracle.lookup(services, fields, &traveller).values;
        assert_eq!(found(&[Daddr, Protocol, Dport]), [Value::Code(code)]);
        assert_eq!(found(&[Saddr, Protocol, Dport]), []);
        assert_eq!(found(&[Protocol, Dport]), []);
    }
}
