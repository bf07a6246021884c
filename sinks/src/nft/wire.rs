//! The numbers of <linux/netfilter/nf_tables.h>, and the bytes of keys and values.
//!
//! A key of several parts is stored as in the registers: each part takes a multiple of four bytes.
//! Addresses, protocols and ports are in network byte order, `meta priority` and random numbers in
//! the host's.

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;

use ipnet::IpNet;
use rulec_compiler::frontend::Frontend;
use rulec_compiler::interface::InterfacePattern;
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::nft::code::{Class, Code, Draw, GroupId, Member};
use rulec_compiler::nft::element::{Key, Value};
use rulec_compiler::nft::length::{Length, Lengths};
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
pub(super) const DELSET: u16 = 11;
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
pub(super) const NFTA_SET_DESC: u16 = 9;
/// Since Linux 6.16.
pub(super) const NFTA_SET_COUNT: u16 = 20;
pub(super) const NFTA_SET_DESC_SIZE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
pub(super) const NFTA_SET_ELEM_LIST_SET: u16 = 2;
pub(super) const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
pub(super) const NFTA_LIST_ELEM: u16 = 1;
pub(super) const NFTA_SET_ELEM_KEY: u16 = 1;
pub(super) const NFTA_SET_ELEM_DATA: u16 = 2;
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_SET_ELEM_USERDATA: u16 = 6;
pub(super) const NFTA_SET_ELEM_EXPR: u16 = 7;
pub(super) const NFTA_COUNTER_PACKETS: u16 = 2;
pub(super) const NFTA_DATA_VALUE: u16 = 1;
pub(super) const NFTA_DATA_VERDICT: u16 = 2;
pub(super) const NFTA_VERDICT_CODE: u16 = 1;
pub(super) const NFTA_VERDICT_CHAIN: u16 = 2;
/// The name of the expression that counts.
pub(super) const COUNTER: &str = "counter";
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
        (Datatype::Address, Family::Ipv4) | (Datatype::Priority | Datatype::Integer, _) => 4,
        (Datatype::Address, Family::Ipv6) | (Datatype::Interface, _) => 16,
        (Datatype::Protocol, _) => 1,
        (Datatype::Port, _) => 2,
    }
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
            (Datatype::Integer, _) => 4,
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

    fn number(self, number: u32) -> Self {
        self.part(&number.to_ne_bytes())
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
        Key::InvalidProtocol(_, protocol) | Key::NodePortProtocol(_, protocol) => {
            vec![protocol.number()]
        }
        Key::Class(_, class) => parts.number(class.number()).registers(),
        Key::Draw(_, draw) => parts.number(Class::from(draw).number()).registers(),
        Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net) => {
            parts.address(net.network()).registers()
        }
        Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern) => {
            pattern.range().0.to_vec()
        }
        Key::NodeIp(address) | Key::ClusterIp(address) | Key::Vip(address) => {
            parts.address(address).registers()
        }
        Key::Hairpin(address) => parts.address(address).address(address).registers(),
        Key::Service(frontend) | Key::Reject(frontend) | Key::Firewalled(frontend) => {
            parts.frontend(frontend).registers()
        }
        Key::LocalGroup(_, group) | Key::MemberGroup(_, group) => {
            parts.number(group.code()).registers()
        }
        Key::Endpoint(_, group, protocol, slot) => {
            parts.number(group.code()).part(&[protocol.number()]).number(slot).registers()
        }
        Key::Next(_, member) => parts.number(member.code()).registers(),
        Key::MemberSlot(_, group, slot) => parts.number(group.code()).number(slot).registers(),
        Key::Member(_, member, protocol) => {
            parts.number(member.code()).part(&[protocol.number()]).registers()
        }
        Key::SourceRange(frontend, net) => {
            let length = Length::of(net).map_or(0, Length::number);
            parts.number(length).frontend(frontend).address(net.network()).registers()
        }
    }
}

/// Returns the bytes of the exclusive end of a range, if the key is one in a set of ranges and
/// there is an end: a range up to the last address has none in the kernel.
pub(super) fn range_end(key: Key) -> Option<Vec<u8>> {
    let net = match key {
        Key::UnmasqueradedSource(net) | Key::PodSource(net) | Key::ServiceCidr(net) => net,
        Key::UnmasqueradedInterface(_, pattern) | Key::PodInterface(_, pattern) => {
            return Some(pattern.range().1.to_vec());
        }
        Key::Class(..)
        | Key::Draw(..)
        | Key::LocalGroup(..)
        | Key::MemberGroup(..)
        | Key::Member(..)
        | Key::Next(..)
        | Key::InvalidProtocol(..)
        | Key::NodeIp(_)
        | Key::NodePortProtocol(..)
        | Key::ClusterIp(_)
        | Key::Hairpin(_)
        | Key::Vip(_)
        | Key::Service(..)
        | Key::Reject(_)
        | Key::MemberSlot(..)
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
        SetId::Classes
        | SetId::Draws
        | SetId::LocalGroups
        | SetId::MemberGroups
        | SetId::Members
        | SetId::NextMembers
        | SetId::Turns
        | SetId::NodeIps
        | SetId::NodePortProtocols
        | SetId::ClusterIps
        | SetId::Hairpin
        | SetId::Vips
        | SetId::Services(..)
        | SetId::Rejects(_)
        | SetId::MemberSlots
        | SetId::Endpoints
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
        Value::Present | Value::Goto(_) => None,
        Value::Code(code) => Some(code.code().to_ne_bytes().to_vec()),
        Value::Member(member) => Some(member.code().to_ne_bytes().to_vec()),
        Value::Lengths(lengths) => Some(lengths.number().to_ne_bytes().to_vec()),
        Value::Backend(backend) => {
            Some(Parts::default().address(backend.address).port(backend.port).registers())
        }
    }
}

/// Returns the key with these bytes from a kernel; `None` if none of our keys has them.
pub(super) fn read_key(family: Family, set: SetId, bytes: &[u8]) -> Option<Key> {
    let frontend = |scope: Scope| take_frontend(family, scope, bytes);
    let number = |rest: &[u8]| Some(u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?));
    let group = |bytes: &[u8]| GroupId::from_code(number(bytes)?);
    let protocol = |bytes: &[u8]| Protocol::from_number(*bytes.first()?);
    // Each part of a key takes whole registers.
    let after = |parts: usize| bytes.get(4 * parts..);
    match set {
        SetId::InvalidProtocols => Some(Key::InvalidProtocol(family, protocol(bytes)?)),
        SetId::Classes => Some(Key::Class(family, Class::from_number(number(bytes)?)?)),
        SetId::Draws => {
            let class = Class::from_number(number(bytes)?)?;
            Some(Key::Draw(family, Draw::try_from(class).ok()?))
        }
        SetId::NodeIps => Some(Key::NodeIp(take_address(family, bytes)?.0)),
        SetId::ClusterIps => Some(Key::ClusterIp(take_address(family, bytes)?.0)),
        SetId::Vips => Some(Key::Vip(take_address(family, bytes)?.0)),
        SetId::NodePortProtocols => Some(Key::NodePortProtocol(family, protocol(bytes)?)),
        SetId::Hairpin => {
            let (source, rest) = take_address(family, bytes)?;
            let (destination, _) = take_address(family, rest)?;
            (source == destination).then_some(Key::Hairpin(source))
        }
        SetId::Services(scope) => Some(Key::Service(frontend(scope)?.0)),
        SetId::Rejects(scope) => Some(Key::Reject(frontend(scope)?.0)),
        SetId::LocalGroups => Some(Key::LocalGroup(family, group(bytes)?)),
        SetId::MemberGroups => Some(Key::MemberGroup(family, group(bytes)?)),
        SetId::Endpoints => {
            let (protocol, slot) = (protocol(after(1)?)?, number(after(2)?)?);
            Some(Key::Endpoint(family, group(bytes)?, protocol, slot))
        }
        SetId::MemberSlots => Some(Key::MemberSlot(family, group(bytes)?, number(after(1)?)?)),
        SetId::Members => {
            let member = Member::from_code(number(bytes)?)?;
            Some(Key::Member(family, member, protocol(after(1)?)?))
        }
        SetId::NextMembers => Some(Key::Next(family, Member::from_code(number(bytes)?)?)),
        SetId::Firewalled => Some(Key::Firewalled(frontend(Scope::Address)?.0)),
        SetId::SourceRanges => {
            let length = Length::from_number(number(bytes)?)?.bits(family);
            let (frontend, rest) = take_frontend(family, Scope::Address, after(1)?)?;
            let network = IpNet::new(take_address(family, rest)?.0, length).ok()?;
            (network.addr() == network.network()).then_some(Key::SourceRange(frontend, network))
        }
        // Ranges have two ends, and records are written by packets.
        SetId::UnmasqueradedSources
        | SetId::UnmasqueradedInterfaces
        | SetId::PodSources
        | SetId::PodInterfaces
        | SetId::ServiceCidrs
        | SetId::Turns
        | SetId::Affinity(..) => None,
    }
}

/// Returns the value with these bytes, if it is not a verdict; `None` if none of our values has
/// them.
pub(super) fn read_value(family: Family, set: SetId, bytes: &[u8]) -> Option<Value> {
    let number = || Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?));
    match set {
        SetId::Services(_) | SetId::LocalGroups | SetId::MemberGroups => {
            Some(Value::Code(Code::from_code(number()?)?))
        }
        SetId::MemberSlots | SetId::NextMembers => {
            Some(Value::Member(Member::from_code(number()?)?))
        }
        SetId::Firewalled => Some(Value::Lengths(Lengths::from_number(number()?))),
        SetId::Endpoints | SetId::Members => {
            let (address, rest) = take_address(family, bytes)?;
            let port = NonZeroU16::new(u16::from_be_bytes(rest.get(..2)?.try_into().ok()?))?;
            Some(Value::Backend(Backend { address, port }))
        }
        SetId::Classes
        | SetId::Draws
        | SetId::UnmasqueradedSources
        | SetId::UnmasqueradedInterfaces
        | SetId::PodSources
        | SetId::PodInterfaces
        | SetId::ServiceCidrs
        | SetId::NodeIps
        | SetId::NodePortProtocols
        | SetId::ClusterIps
        | SetId::Hairpin
        | SetId::Vips
        | SetId::Rejects(_)
        | SetId::SourceRanges
        | SetId::InvalidProtocols
        | SetId::Turns
        | SetId::Affinity(_) => None,
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
    fn source_ranges_round_trip() {
        let port = NonZeroU16::new(80).unwrap();
        for text in ["10.0.0.0/8", "255.255.255.255/32", "128.0.0.0/1", "fd00::/64", "::1/128"] {
            let net: IpNet = text.parse().unwrap();
            let (family, address) = (Family::of(net.addr()), net.broadcast());
            let frontend = Frontend::Address { address, protocol: Protocol::Tcp, port };
            let range = Key::SourceRange(frontend, net);
            let bytes = key(range);
            let read = |bytes: &[u8]| read_key(family, SetId::SourceRanges, bytes);
            assert_eq!(read(&bytes), Some(range), "{text}");
            assert_eq!(read(&bytes[4..]), None, "{text}: without a length");
            let mut odd = bytes.clone();
            odd[..4].fill(0xff);
            assert_eq!(read(&odd), None, "{text}: several lengths");
        }
        // A network has no bits after its length.
        let vip =
            Frontend::Address { address: [192, 0, 2, 1].into(), protocol: Protocol::Tcp, port };
        let mut odd = key(Key::SourceRange(vip, "10.0.0.0/8".parse().unwrap()));
        *odd.last_mut().unwrap() = 1;
        assert_eq!(read_key(Family::Ipv4, SetId::SourceRanges, &odd), None);
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
        for set in SetId::CONSTANT {
            for family in Family::ALL {
                assert_eq!(read_key(family, set, &[]), None);
                assert_eq!(read_value(family, set, &[]), None);
            }
        }
    }
}
