//! What the `nft` tool wants to know of a set to print it, as user data that the kernel keeps: TLVs
//! of one byte for the type and one for the length (`NFTNL_UDATA_SET_*` of libnftnl).
//!
//! It is the byte order of key and data and, if a part has no type with a name, an expression for
//! each part (`typeof`). The numbers of expressions and of their properties are those of the tool,
//! which has kept them since it writes them (nft 0.9.4).

use rulec_compiler::net::Family;
use rulec_compiler::nft::set::{Data, Datatype, SetSpec};

const KEY_BYTE_ORDER: u8 = 0;
const DATA_BYTE_ORDER: u8 = 1;
const KEY_TYPEOF: u8 = 3;
const DATA_TYPEOF: u8 = 4;

/// `NFTNL_UDATA_SET_TYPEOF_*`: the kind of an expression, and its properties.
const KIND: u8 = 0;
const PROPERTIES: u8 = 1;

/// `enum expr_types`.
const PAYLOAD: u32 = 7;
const META: u32 = 9;
const CONCAT: u32 = 13;
const NUMGEN: u32 = 23;

/// The keys of `meta`.
const META_PRIORITY: u32 = 2;
const META_L4PROTO: u32 = 16;

/// `enum proto_desc_id`, and the fields of these headers.
const TRANSPORT: u32 = 11;
const TRANSPORT_DPORT: u32 = 2;
const IPV4: u32 = 12;
const IPV4_DADDR: u32 = 12;
const IPV6: u32 = 13;
const IPV6_DADDR: u32 = 9;

/// Returns the user data of a set.
pub(super) fn userdata(spec: &SetSpec, family: Family) -> Vec<u8> {
    let mut userdata = number(KEY_BYTE_ORDER, byte_order(&spec.key));
    match &spec.data {
        Data::None => {}
        Data::Value(types) => userdata.extend(number(DATA_BYTE_ORDER, byte_order(types))),
        Data::Verdict => userdata.extend(number(DATA_BYTE_ORDER, 0)),
    }
    if spec.is_by_expression() {
        userdata.extend(tlv(KEY_TYPEOF, &expressions(&spec.key, family)));
        if let Data::Value(types) = &spec.data {
            userdata.extend(tlv(DATA_TYPEOF, &expressions(types, family)));
        }
    }
    userdata
}

/// Returns 0 to look at each part, 1 for the byte order of the host, 2 for that of the network.
fn byte_order(types: &[Datatype]) -> u32 {
    match types {
        [Datatype::Address] => 2,
        [Datatype::Priority | Datatype::Interface] => 1,
        _ => 0,
    }
}

/// Returns the expression of one part, or the concatenation of several.
fn expressions(types: &[Datatype], family: Family) -> Vec<u8> {
    if let [one] = types {
        return expression(*one, family);
    }
    let parts = (0..).zip(types).flat_map(|(place, part)| tlv(place, &expression(*part, family)));
    of_kind(CONCAT, &parts.collect::<Vec<u8>>())
}

fn expression(datatype: Datatype, family: Family) -> Vec<u8> {
    let meta = |key| of_kind(META, &number(0, key));
    let payload = |header, field| of_kind(PAYLOAD, &[number(0, header), number(1, field)].concat());
    match (datatype, family) {
        (Datatype::Priority, _) => meta(META_PRIORITY),
        (Datatype::Protocol, _) => meta(META_L4PROTO),
        // `numgen random mod 4294967295`: its type (0: incremental, 1: random), modulus and offset.
        (Datatype::Integer, _) => {
            of_kind(NUMGEN, &[number(0, 1), number(1, u32::MAX), number(2, 0)].concat())
        }
        (Datatype::Address, Family::Ipv4) => payload(IPV4, IPV4_DADDR),
        (Datatype::Address, Family::Ipv6) => payload(IPV6, IPV6_DADDR),
        (Datatype::Port, _) => payload(TRANSPORT, TRANSPORT_DPORT),
        // In no set that is declared by expressions.
        (Datatype::Interface, _) => Vec::new(),
    }
}

fn of_kind(kind: u32, properties: &[u8]) -> Vec<u8> {
    [number(KIND, kind), tlv(PROPERTIES, properties)].concat()
}

fn number(kind: u8, number: u32) -> Vec<u8> {
    tlv(kind, &number.to_ne_bytes())
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind, u8::try_from(value.len()).unwrap_or(u8::MAX)], value].concat()
}
