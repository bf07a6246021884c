//! The numbers of <linux/netfilter/nf_tables.h>, and the bytes of keys and values.
//!
//! A key of several parts is stored as in the registers: each part takes a multiple of four bytes.
//! Addresses, protocols and ports are in network byte order, `meta priority` in the host's.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use rulec_compiler::frontend::Frontend;
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::nft::Pick;
use rulec_compiler::nft::element::{Key, Value};
use rulec_compiler::nft::set::{Datatype, Scope, SetId};

pub(super) const NFNL_SUBSYS_NFTABLES: u16 = 10;
pub(super) const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
pub(super) const NFNL_MSG_BATCH_END: u16 = 0x11;
pub(super) const NFNL_BATCH_GENID: u16 = 1;

pub(super) const NEWTABLE: u16 = 0;
pub(super) const GETTABLE: u16 = 1;
pub(super) const DELTABLE: u16 = 2;
pub(super) const NEWCHAIN: u16 = 3;
pub(super) const GETCHAIN: u16 = 4;
pub(super) const DELCHAIN: u16 = 5;
pub(super) const NEWRULE: u16 = 6;
pub(super) const GETRULE: u16 = 7;
pub(super) const DELRULE: u16 = 8;
pub(super) const NEWSET: u16 = 9;
pub(super) const GETSET: u16 = 10;
pub(super) const NEWSETELEM: u16 = 12;
pub(super) const GETSETELEM: u16 = 13;
pub(super) const DELSETELEM: u16 = 14;
pub(super) const NEWGEN: u16 = 15;
pub(super) const GETGEN: u16 = 16;

pub(super) const NFTA_TABLE_NAME: u16 = 1;
pub(super) const NFTA_TABLE_FLAGS: u16 = 2;
pub(super) const NFTA_TABLE_OWNER: u16 = 7;
pub(super) const NFTA_CHAIN_TABLE: u16 = 1;
pub(super) const NFTA_CHAIN_NAME: u16 = 3;
pub(super) const NFTA_CHAIN_HOOK: u16 = 4;
pub(super) const NFTA_CHAIN_POLICY: u16 = 5;
pub(super) const NFTA_CHAIN_TYPE: u16 = 7;
pub(super) const NFTA_HOOK_HOOKNUM: u16 = 1;
pub(super) const NFTA_HOOK_PRIORITY: u16 = 2;
pub(super) const NFTA_RULE_TABLE: u16 = 1;
pub(super) const NFTA_RULE_CHAIN: u16 = 2;
pub(super) const NFTA_RULE_HANDLE: u16 = 3;
pub(super) const NFTA_RULE_EXPRESSIONS: u16 = 4;
pub(super) const NFTA_RULE_USERDATA: u16 = 7;
pub(super) const NFTA_EXPR_NAME: u16 = 1;
pub(super) const NFTA_EXPR_DATA: u16 = 2;
pub(super) const NFTA_IMMEDIATE_DATA: u16 = 2;
pub(super) const NFTA_SET_TABLE: u16 = 1;
pub(super) const NFTA_SET_NAME: u16 = 2;
pub(super) const NFTA_SET_FLAGS: u16 = 3;
pub(super) const NFTA_SET_KEY_TYPE: u16 = 4;
pub(super) const NFTA_SET_KEY_LEN: u16 = 5;
pub(super) const NFTA_SET_DATA_TYPE: u16 = 6;
pub(super) const NFTA_SET_DATA_LEN: u16 = 7;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_SET_ELEM_USERDATA: u16 = 6;
pub(super) const NFTA_SET_ELEM_KEY_END: u16 = 10;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
pub(super) const NFTA_GEN_ID: u16 = 1;
pub(super) const NFTA_GEN_PROC_PID: u16 = 2;
pub(super) const NFTA_GEN_PROC_NAME: u16 = 3;

pub(super) const NFT_TABLE_F_DORMANT: u32 = 0x1;
pub(super) const NFT_TABLE_F_OWNER: u32 = 0x2;
pub(super) const NFT_TABLE_F_PERSIST: u32 = 0x4;
pub(super) const NFT_SET_INTERVAL: u32 = 0x4;
pub(super) const NFT_SET_MAP: u32 = 0x8;
pub(super) const NFT_SET_TIMEOUT: u32 = 0x10;
pub(super) const NFT_SET_EVAL: u32 = 0x20;
pub(super) const NFT_SET_CONCAT: u32 = 0x80;
pub(super) const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
pub(super) const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
pub(super) const NFT_RETURN: u32 = (-5_i32).cast_unsigned();
pub(super) const NFT_GOTO: u32 = (-4_i32).cast_unsigned();
pub(super) const NFT_JUMP: u32 = (-3_i32).cast_unsigned();
/// `RTN_LOCAL` of <linux/rtnetlink.h>.
pub(super) const RTN_LOCAL: u32 = 2;

/// Returns `NFPROTO_IPV4` or `NFPROTO_IPV6`.
pub(super) fn nfproto(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 2,
        Family::Ipv6 => 10,
    }
}

/// Returns the family of an nfproto number.
pub(super) fn family(nfproto: u8) -> Option<Family> {
    Family::ALL.into_iter().find(|family| self::nfproto(*family) == nfproto)
}

/// Returns the length of a part of a key in bytes.
pub(super) fn length(datatype: Datatype, family: Family) -> usize {
    match (datatype, family) {
        (Datatype::Address, Family::Ipv4) | (Datatype::Priority | Datatype::FibType, _) => 4,
        (Datatype::Address, Family::Ipv6) | (Datatype::Interface, _) => 16,
        (Datatype::Protocol, _) => 1,
        (Datatype::Port, _) => 2,
    }
}

/// Returns the same length as a byte, the form that the kernel wants for each part of a key with
/// ranges.
pub(super) fn length_byte(datatype: Datatype, family: Family) -> u8 {
    u8::try_from(length(datatype, family)).unwrap_or(0)
}

/// Returns the length of several parts: a single part has its own length, several parts take whole
/// registers.
pub(super) fn lengths(types: &[Datatype], family: Family) -> usize {
    match types {
        [one] => length(*one, family),
        several => several.iter().map(|part| length(*part, family).next_multiple_of(4)).sum(),
    }
}

/// Returns the `nft` tool's number of a type, which the kernel stores for it (src/datatype.c of
/// nftables).
pub(super) fn type_number(types: &[Datatype], family: Family) -> u32 {
    types.iter().fold(0, |number, datatype| {
        let one = match (datatype, family) {
            (Datatype::Address, Family::Ipv4) => 7,
            (Datatype::Address, Family::Ipv6) => 8,
            (Datatype::Protocol, _) => 12,
            (Datatype::Port, _) => 13,
            (Datatype::Priority, _) => 23,
            (Datatype::FibType, _) => 38,
            (Datatype::Interface, _) => 41,
        };
        number << 6 | one
    })
}

/// The bytes of a key or value, part after part.
#[derive(Default)]
struct Parts(Vec<u8>);

impl Parts {
    fn part(mut self, bytes: &[u8]) -> Self {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
        self.0.extend_from_slice(bytes);
        self
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.part(&address.octets()),
            IpAddr::V6(address) => self.part(&address.octets()),
        }
    }

    fn port(self, port: NonZeroU16) -> Self {
        self.part(&port.get().to_be_bytes())
    }

    fn frontend(self, frontend: Frontend) -> Self {
        match frontend {
            Frontend::Address { address, protocol, port } => {
                self.address(address).part(&[protocol.number()]).port(port)
            }
            Frontend::NodePort { protocol, port, .. } => self.part(&[protocol.number()]).port(port),
        }
    }

    /// Pads several parts to the end of their last register.
    fn registers(mut self) -> Vec<u8> {
        while !self.0.len().is_multiple_of(4) {
            self.0.push(0);
        }
        self.0
    }
}

/// Returns the bytes of a key; for a range, those of its first address.
pub(super) fn key(key: Key) -> Vec<u8> {
    let parts = Parts::default();
    match key {
        Key::Protocol(_, protocol) | Key::InvalidProtocol(_, protocol) => vec![protocol.number()],
        Key::Pick(.., pick) => pick.code().to_ne_bytes().to_vec(),
        Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net) => {
            parts.address(net.network()).registers()
        }
        Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern) => {
            pattern.range().0.to_vec()
        }
        Key::NodeIp(address) | Key::ClusterIp(address) | Key::Vip(address) => {
            parts.address(address).registers()
        }
        Key::NodeAddressType(_) => RTN_LOCAL.to_ne_bytes().to_vec(),
        Key::Hairpin(address) => parts.address(address).address(address).registers(),
        Key::Service(_, frontend) | Key::Reject(frontend) | Key::Firewalled(frontend) => {
            parts.frontend(frontend).registers()
        }
        Key::AffinitySlot(_, frontend, number) | Key::Endpoint(_, frontend, number) => {
            parts.frontend(frontend).part(&number.to_ne_bytes()).registers()
        }
        Key::SourceRange(frontend, net) => {
            parts.frontend(frontend).address(net.network()).registers()
        }
    }
}

/// Returns the bytes of the last key of a range, if the key is a range in a set with keys of
/// several parts: there, an element has both ends.
pub(super) fn last_key(key: Key) -> Option<Vec<u8>> {
    let Key::SourceRange(frontend, net) = key else { return None };
    Some(Parts::default().frontend(frontend).address(net.broadcast()).registers())
}

/// Returns the key of an element with both ends; `None` if none of our keys is such a range.
pub(super) fn read_key_range(family: Family, set: SetId, first: &[u8], last: &[u8]) -> Option<Key> {
    if set != SetId::SourceRanges {
        return None;
    }
    let (frontend, first) = take_frontend(family, Scope::Address, first)?;
    let (same, last) = take_frontend(family, Scope::Address, last)?;
    let (first, last) = (take_address(family, first)?.0, take_address(family, last)?.0);
    let differing = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => (first.to_bits() ^ last.to_bits()).count_ones(),
        (IpAddr::V6(first), IpAddr::V6(last)) => (first.to_bits() ^ last.to_bits()).count_ones(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    let prefix = width(family).checked_sub(u8::try_from(differing).ok()?)?;
    let net = IpNet::new(first, prefix).ok()?;
    let is_range = frontend == same && net.network() == first && net.broadcast() == last;
    is_range.then_some(Key::SourceRange(frontend, net))
}

/// Returns the bytes of the exclusive end of a range, if the key is one in a set with keys of a
/// single part and there is an end: a range up to the last address has none in the kernel.
pub(super) fn range_end(key: Key) -> Option<Vec<u8>> {
    let net = match key {
        Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net) => net,
        Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern) => {
            return Some(pattern.range().1.to_vec());
        }
        Key::Protocol(..)
        | Key::InvalidProtocol(..)
        | Key::Pick(..)
        | Key::NodeIp(_)
        | Key::NodeAddressType(_)
        | Key::ClusterIp(_)
        | Key::Hairpin(_)
        | Key::Vip(_)
        | Key::Service(..)
        | Key::Reject(_)
        | Key::AffinitySlot(..)
        | Key::Endpoint(..)
        | Key::Firewalled(_)
        | Key::SourceRange(..) => return None,
    };
    match net.broadcast() {
        IpAddr::V4(last) => {
            let end = u32::from(last).checked_add(1)?;
            Some(end.to_be_bytes().to_vec())
        }
        IpAddr::V6(last) => {
            let end = u128::from(last).checked_add(1)?;
            Some(end.to_be_bytes().to_vec())
        }
    }
}

/// Returns the key of a range in a set of ranges, from its first key to its exclusive end, or
/// without an end up to the last key; `None` if none of our keys is such a range.
pub(super) fn read_range(
    family: Family,
    set: SetId,
    start: &[u8],
    end: Option<&[u8]>,
) -> Option<Key> {
    match set {
        SetId::UnmasqueradedSources => network(family, start, end).map(Key::UnmasqueradedSource),
        SetId::ServiceCidrs => network(family, start, end).map(Key::ServiceCidr),
        SetId::PodSources => network(family, start, end).map(Key::PodSource),
        SetId::UnmasqueradedInterfaces => InterfacePattern::from_range(start, end?)
            .map(|pattern| Key::UnmasqueradedInterface(family, pattern)),
        SetId::PodInterfaces => InterfacePattern::from_range(start, end?)
            .map(|pattern| Key::PodInterface(family, pattern)),
        SetId::Protocols
        | SetId::Picks(..)
        | SetId::NodeIps
        | SetId::NodeAddressTypes
        | SetId::ClusterIps
        | SetId::Hairpin
        | SetId::Vips
        | SetId::Services(..)
        | SetId::Rejects(_)
        | SetId::AffinitySlots(..)
        | SetId::Endpoints(..)
        | SetId::Affinity(..)
        | SetId::Firewalled
        | SetId::SourceRanges
        | SetId::InvalidProtocols => None,
    }
}

/// Returns the number of bits of an address.
fn width(family: Family) -> u8 {
    match family {
        Family::Ipv4 => 32,
        Family::Ipv6 => 128,
    }
}

fn network(family: Family, start: &[u8], end: Option<&[u8]>) -> Option<IpNet> {
    let number = |bytes: &[u8]| -> Option<u128> {
        match family {
            Family::Ipv4 => Some(u128::from(u32::from_be_bytes(bytes.try_into().ok()?))),
            Family::Ipv6 => Some(u128::from_be_bytes(bytes.try_into().ok()?)),
        }
    };
    let width = width(family);
    let start_number = number(start)?;
    let host_bits = match end {
        Some(end) => {
            let size = number(end)?.checked_sub(start_number)?;
            size.is_power_of_two().then(|| size.trailing_zeros())?
        }
        None => {
            let all = u128::MAX >> (128 - u32::from(width));
            let last = all - start_number;
            (last.count_ones() == last.trailing_ones()).then(|| last.count_ones())?
        }
    };
    let prefix = width.checked_sub(u8::try_from(host_bits).ok()?)?;
    let (address, _) = take_address(family, start)?;
    IpNet::new(address, prefix).ok().filter(|net| net.network() == address)
}

/// Returns the bytes of a value that is not a verdict.
pub(super) fn value(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::Present | Value::Goto => None,
        Value::Pick(pick) => Some(pick.code().to_ne_bytes().to_vec()),
        Value::Id(id) => Some(id.to_ne_bytes().to_vec()),
        Value::Backend(backend) => {
            Some(Parts::default().address(backend.address).port(backend.port).registers())
        }
    }
}

/// Returns the key with these bytes from a kernel; `None` if none of our keys has them.
pub(super) fn read_key(family: Family, set: SetId, bytes: &[u8]) -> Option<Key> {
    let frontend = |scope: Scope| take_frontend(family, scope, bytes);
    let number = |rest: &[u8]| Some(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?));
    match set {
        SetId::Protocols | SetId::InvalidProtocols => {
            let protocol = Protocol::from_number(*bytes.first()?)?;
            Some(if set == SetId::Protocols {
                Key::Protocol(family, protocol)
            } else {
                Key::InvalidProtocol(family, protocol)
            })
        }
        SetId::Picks(scope, view) => {
            Some(Key::Pick(family, scope, view, Pick::from_code(number(bytes)?)?))
        }
        SetId::NodeIps => Some(Key::NodeIp(take_address(family, bytes)?.0)),
        SetId::ClusterIps => Some(Key::ClusterIp(take_address(family, bytes)?.0)),
        SetId::Vips => Some(Key::Vip(take_address(family, bytes)?.0)),
        SetId::NodeAddressTypes => {
            (number(bytes)? == RTN_LOCAL).then_some(Key::NodeAddressType(family))
        }
        SetId::Hairpin => {
            let (source, rest) = take_address(family, bytes)?;
            let (destination, _) = take_address(family, rest)?;
            (source == destination).then_some(Key::Hairpin(source))
        }
        SetId::Services(scope, view) => Some(Key::Service(view, frontend(scope)?.0)),
        SetId::Rejects(scope) => Some(Key::Reject(frontend(scope)?.0)),
        SetId::AffinitySlots(scope, view) => {
            let (frontend, rest) = frontend(scope)?;
            Some(Key::AffinitySlot(view, frontend, number(rest)?))
        }
        SetId::Endpoints(scope, view) => {
            let (frontend, rest) = frontend(scope)?;
            Some(Key::Endpoint(view, frontend, number(rest)?))
        }
        SetId::Firewalled => Some(Key::Firewalled(frontend(Scope::Address)?.0)),
        // Ranges have two ends, and records are written by packets.
        SetId::UnmasqueradedSources
        | SetId::UnmasqueradedInterfaces
        | SetId::PodSources
        | SetId::PodInterfaces
        | SetId::ServiceCidrs
        | SetId::SourceRanges
        | SetId::Affinity(..) => None,
    }
}

/// Returns the value with these bytes, if it is not a verdict; `None` if none of our values has
/// them.
pub(super) fn read_value(family: Family, set: SetId, bytes: &[u8]) -> Option<Value> {
    let number = || Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
    match set {
        SetId::Services(..) => Some(Value::Pick(Pick::from_code(number()?)?)),
        SetId::AffinitySlots(..) => Some(Value::Id(number()?)),
        SetId::Endpoints(..) => {
            let (address, rest) = take_address(family, bytes)?;
            let port = NonZeroU16::new(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?))?;
            Some(Value::Backend(Backend { address, port }))
        }
        SetId::Protocols
        | SetId::Picks(..)
        | SetId::UnmasqueradedSources
        | SetId::UnmasqueradedInterfaces
        | SetId::PodSources
        | SetId::PodInterfaces
        | SetId::ServiceCidrs
        | SetId::NodeIps
        | SetId::NodeAddressTypes
        | SetId::ClusterIps
        | SetId::Hairpin
        | SetId::Vips
        | SetId::Rejects(_)
        | SetId::Firewalled
        | SetId::SourceRanges
        | SetId::InvalidProtocols
        | SetId::Affinity(..) => None,
    }
}

/// Returns a comment as user data: a TLV of type 0 whose text ends with a zero. Our comments have
/// at most 128 characters.
pub(super) fn comment(text: &str) -> Vec<u8> {
    let mut userdata = vec![0, u8::try_from(text.len() + 1).unwrap_or(u8::MAX)];
    userdata.extend_from_slice(text.as_bytes());
    userdata.push(0);
    userdata
}

/// Returns the comment in user data.
pub(super) fn read_comment(mut userdata: &[u8]) -> Option<&str> {
    while let [kind, len, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*len))?;
        if *kind == 0 {
            return crate::netlink::text(value);
        }
        userdata = rest.get(usize::from(*len)..)?;
    }
    None
}

fn take_frontend(family: Family, scope: Scope, bytes: &[u8]) -> Option<(Frontend, &[u8])> {
    let (address, rest) = match scope {
        Scope::Address => take_address(family, bytes).map(|(a, rest)| (Some(a), rest))?,
        Scope::NodePort => (None, bytes),
    };
    let protocol = Protocol::from_number(*rest.first()?)?;
    let port = NonZeroU16::new(u16::from_be_bytes(rest.get(4..6)?.try_into().ok()?))?;
    let frontend = match address {
        Some(address) => Frontend::Address { address, protocol, port },
        None => Frontend::NodePort { family, protocol, port },
    };
    Some((frontend, rest.get(8..)?))
}

fn take_address(family: Family, bytes: &[u8]) -> Option<(IpAddr, &[u8])> {
    match family {
        Family::Ipv4 => {
            let (octets, rest) = bytes.split_first_chunk::<4>()?;
            Some((IpAddr::V4(Ipv4Addr::from(*octets)), rest))
        }
        Family::Ipv6 => {
            let (octets, rest) = bytes.split_first_chunk::<16>()?;
            Some((IpAddr::V6(Ipv6Addr::from(*octets)), rest))
        }
    }
}

/// Converts one of our names, which never contain a zero byte.
pub(super) fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_round_trip() {
        for text in
            ["0.0.0.0/0", "10.0.0.0/8", "255.255.255.255/32", "128.0.0.0/1", "::/0", "fd00::/64"]
        {
            let net: IpNet = text.parse().unwrap();
            let family = Family::of(net.addr());
            let range = Key::UnmasqueradedSource(net);
            let (start, end) = (key(range), range_end(range));
            let set = SetId::UnmasqueradedSources;
            assert_eq!(read_range(family, set, &start, end.as_deref()), Some(range), "{text}");
        }
    }

    #[test]
    fn ranges_with_both_ends_round_trip() {
        for text in
            ["0.0.0.0/0", "10.0.0.0/8", "255.255.255.255/32", "::/0", "fd00::/64", "::1/128"]
        {
            let net: IpNet = text.parse().unwrap();
            let family = Family::of(net.addr());
            let frontend = Frontend::Address {
                address: net.addr(),
                protocol: Protocol::Tcp,
                port: NonZeroU16::new(80).unwrap(),
            };
            let range = Key::SourceRange(frontend, net);
            let (first, last) = (key(range), last_key(range).unwrap());
            let read = |first: &[u8], last: &[u8]| {
                read_key_range(family, SetId::SourceRanges, first, last)
            };
            assert_eq!(read(&first, &last), Some(range), "{text}");
            assert_eq!(read(&first[1..], &last), None, "{text}");
            assert_eq!(read(&[], &[]), None);
            let mut other = last.clone();
            other[0] ^= 1;
            assert_eq!(read(&first, &other), None, "{text}: another frontend");
            if net.prefix_len() < 30 {
                let middle = last.len() - 1;
                let mut odd = last.clone();
                odd[middle] ^= 2;
                assert_eq!(read(&first, &odd), None, "{text}: not a network");
            }
        }
    }

    #[test]
    fn ranges_that_are_not_networks_are_refused() {
        assert_eq!(network(Family::Ipv4, &[10, 0, 0, 0], Some(&[10, 0, 0, 3])), None);
        assert_eq!(network(Family::Ipv4, &[10, 0, 0, 1], Some(&[10, 0, 0, 3])), None);
        assert_eq!(network(Family::Ipv4, &[10, 0, 0, 0], None), None);
        assert_eq!(network(Family::Ipv4, &[10], None), None);
    }

    #[test]
    fn empty_keys_and_values_are_refused() {
        for set in SetId::ALL {
            for family in Family::ALL {
                assert_eq!(read_key(family, set, &[]), None);
                assert_eq!(read_value(family, set, &[]), None);
            }
        }
    }
}
