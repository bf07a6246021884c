//! Lookups of a packet's fields in sets and maps.
//!
//! The fields are those that the rule names, so a rule that reads the wrong field gets the wrong
//! answer here, as it does in the kernel.

use std::net::IpAddr;
use std::num::NonZeroU16;

use super::{Oracle, Traveller};
use crate::frontend::Frontend;
use crate::interface::InterfacePattern;
use crate::net::{Backend, Protocol};
use crate::nft::element::{Key, Value};
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
        Field::Protocol | Field::HeaderProtocol => Datum::Protocol(packet.transport?.0),
        Field::Dport => Datum::Port(packet.transport?.1),
        Field::Priority => Datum::Priority(traveller.priority),
    })
}

fn read_all(fields: &[Field], traveller: &Traveller) -> Option<Vec<Datum>> {
    fields.iter().map(|field| read(*field, traveller)).collect()
}

impl Oracle<'_> {
    pub(super) fn holds(&self, key: Key) -> bool {
        self.table.elements.contains_key(&key)
    }

    fn value(&self, key: Key) -> Option<Value> {
        self.table.elements.get(&key).map(|held| held.value)
    }

    /// Returns true if the packet's fields are a member of a set.
    pub(super) fn is_member(&self, set: SetId, fields: &[Field], traveller: &Traveller) -> bool {
        let Some(data) = read_all(fields, traveller) else { return false };
        self.key(set, &data).is_some_and(|key| self.holds(key)) || self.is_in_range(set, &data)
    }

    /// Returns the number that a map gives for the packet's fields.
    pub(super) fn number(
        &self,
        map: SetId,
        fields: &[Field],
        traveller: &Traveller,
    ) -> Option<u32> {
        match self.value(self.key(map, &read_all(fields, traveller)?)?)? {
            Value::Pick(pick) => Some(pick.code()),
            Value::Id(id) => Some(id),
            Value::Present | Value::Backend(_) | Value::Goto => None,
        }
    }

    /// Returns the backend that a map gives for the packet's fields.
    pub(super) fn backend(
        &self,
        map: SetId,
        fields: &[Field],
        traveller: &Traveller,
    ) -> Option<Backend> {
        match self.value(self.key(map, &read_all(fields, traveller)?)?)? {
            Value::Backend(backend) => Some(backend),
            Value::Present | Value::Pick(_) | Value::Id(_) | Value::Goto => None,
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
        let frontend_and_number = |scope| match self.take_frontend(scope, data)? {
            (frontend, [Datum::Priority(number)]) => Some((frontend, *number)),
            _ => None,
        };
        let address = || if let [Datum::Address(address)] = data { Some(*address) } else { None };
        let protocol = || if let [Datum::Protocol(it)] = data { Some(*it) } else { None };
        match set {
            SetId::Protocols => Some(Key::Protocol(self.family, protocol()?)),
            SetId::InvalidProtocols => Some(Key::InvalidProtocol(self.family, protocol()?)),
            SetId::NodeIps => Some(Key::NodeIp(address()?)),
            SetId::ClusterIps => Some(Key::ClusterIp(address()?)),
            SetId::Vips => Some(Key::Vip(address()?)),
            SetId::Hairpin => match data {
                [Datum::Address(one), Datum::Address(other)] if one == other => {
                    Some(Key::Hairpin(*one))
                }
                _ => None,
            },
            SetId::Services(scope, view) => Some(Key::Service(view, frontend(scope)?)),
            SetId::Rejects(scope) => Some(Key::Reject(frontend(scope)?)),
            SetId::Firewalled => Some(Key::Firewalled(frontend(Scope::Address)?)),
            SetId::AffinitySlots(scope, view) => {
                let (frontend, number) = frontend_and_number(scope)?;
                Some(Key::AffinitySlot(view, frontend, number))
            }
            SetId::Endpoints(scope, view) => {
                let (frontend, number) = frontend_and_number(scope)?;
                Some(Key::Endpoint(view, frontend, number))
            }
            // Sets of ranges; and what other statements read. No client is assumed to have a
            // record.
            SetId::UnmasqueradedSources
            | SetId::UnmasqueradedInterfaces
            | SetId::PodSources
            | SetId::PodInterfaces
            | SetId::ServiceCidrs
            | SetId::SourceRanges
            | SetId::Picks(..)
            | SetId::NodeAddressTypes
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
            (Key::SourceRange(of, net), data) => {
                let client = self.take_frontend(Scope::Address, data);
                matches!(client, Some((frontend, [Datum::Address(client)]))
                    if frontend == *of && net.contains(client))
            }
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvs;
    use crate::net::Family;
    use crate::nft::pick::{Clients, Pick};
    use crate::nft::set::View;
    use crate::oracle::Packet;
    use crate::state::{Held, Table};

    /// A rule that reads another field than it should is noticed.
    #[test]
    fn a_lookup_reads_the_fields_that_the_rule_names() {
        use Field::{Daddr, Dport, HeaderProtocol, Protocol, Saddr};
        let [client, vip] = [[203, 0, 113, 9], [10, 96, 0, 10]].map(IpAddr::from);
        let port = NonZeroU16::new(80).unwrap();
        let tcp = crate::net::Protocol::Tcp;
        let frontend = Frontend::Address { address: vip, protocol: tcp, port };
        let pick = Pick { clients: Clients::Kept, ..Pick::DROP };
        let ranges = vec![Key::SourceRange(frontend, "203.0.113.0/24".parse().unwrap())];
        let held = [
            (Key::ClusterIp(vip), Value::Present),
            (Key::Service(View::Cluster, frontend), Value::Pick(pick)),
        ];
        let elements = held.map(|(key, value)| (key, Held { value, owner: None })).into();
        let oracle = Oracle {
            family: Family::Ipv4,
            table: &Table { elements, ..Table::default() },
            ipvs: &ipvs::State::default(),
            ranges,
            mark: 1,
            is_local: &|_| false,
        };
        let packet = Packet {
            source: client,
            interface: None,
            destination: vip,
            transport: Some((tcp, port)),
        };
        let traveller = Traveller::new(packet);
        let is_member = |set, fields: &[Field]| oracle.is_member(set, fields, &traveller);
        assert!(is_member(SetId::ClusterIps, &[Daddr]));
        assert!(!is_member(SetId::ClusterIps, &[Saddr]));
        assert!(!is_member(SetId::ClusterIps, &[Dport]));
        assert!(!is_member(SetId::ClusterIps, &[Daddr, Daddr]));
        assert!(is_member(SetId::SourceRanges, &[Daddr, HeaderProtocol, Dport, Saddr]));
        assert!(!is_member(SetId::SourceRanges, &[Saddr, HeaderProtocol, Dport, Daddr]));
        let services = SetId::Services(Scope::Address, View::Cluster);
        let number = |fields: &[Field]| oracle.number(services, fields, &traveller);
        assert_eq!(number(&[Daddr, Protocol, Dport]), Some(pick.code()));
        assert_eq!(number(&[Saddr, Protocol, Dport]), None);
        assert_eq!(number(&[Protocol, Dport]), None);
    }
}
