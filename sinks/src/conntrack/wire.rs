//! The numbers of <linux/netfilter/nfnetlink_conntrack.h>, and flows as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use nix::libc::{AF_INET, AF_INET6};
use rulec_compiler::Flow;
use rulec_compiler::net::{Family, Protocol};

use super::{Filter, FlowKind};
use crate::netlink::{Attributes, Message, Writer, attributes};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
/// Message types: a flow as the kernel returns it, a query, a deletion.
const CT_NEW: u16 = NFNL_SUBSYS_CTNETLINK << 8;
pub(super) const CT_GET: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 1;
pub(super) const CT_DELETE: u16 = NFNL_SUBSYS_CTNETLINK << 8 | 2;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;

const CTA_PROTOINFO_STATE: u16 = 1;
/// The protocol's attribute in `CTA_PROTOINFO`, and its state for an unanswered attempt.
const TCP_SYN_SENT: (u16, u8) = (1, 1);
const SCTP_COOKIE_WAIT: (u16, u8) = (3, 2);

/// Set if there was a packet in the other direction.
const IPS_SEEN_REPLY: u32 = 1 << 1;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_TUPLE_ZONE: u16 = 3;

const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;

const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const CTA_FILTER_ORIG_FLAGS: u16 = 1;

/// The parts of a tuple that a filter compares: `CTA_FILTER_F_*` of the kernel's
/// net/netfilter/nf_internals.h, which no header for user space contains.
const F_IP_DST: u32 = 1 << 1;
const F_PROTO_NUM: u32 = 1 << 3;
const F_PROTO_DST_PORT: u32 = 1 << 5;

impl Filter {
    /// Writes it with the parts of tuples that it compares.
    pub(super) fn write(&self, writer: &mut Writer) {
        if self.kind == FlowKind::Unanswered {
            writer.attribute(CTA_STATUS, &0_u32.to_be_bytes());
            writer.attribute(CTA_STATUS_MASK, &IPS_SEEN_REPLY.to_be_bytes());
            return;
        }
        let mut original = F_PROTO_NUM;
        let tuple = writer.nest(CTA_TUPLE_ORIG);
        if let Some(address) = self.destination {
            original |= F_IP_DST;
            write_address(writer, CTA_IP_V4_DST, address);
        }
        if self.port.is_some() {
            original |= F_PROTO_DST_PORT;
        }
        write_port(writer, CTA_PROTO_DST_PORT, self.port);
        writer.close_nest(tuple);

        let filter = writer.nest(CTA_FILTER);
        writer.attribute(CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes());
        writer.close_nest(filter);
    }
}

/// Asks for a flow that cannot exist (UDP from and to 0.0.0.0:0), with a malformed filter.
///
/// A kernel that supports filters (5.8) refuses it with ERANGE. An older one ignores the attribute
/// and finds no flow, ENOENT. One without ctnetlink refuses the message type, EINVAL.
pub(super) fn write_probe(writer: &mut Writer) {
    let tuple = writer.nest(CTA_TUPLE_ORIG);
    let addresses = writer.nest(CTA_TUPLE_IP);
    writer.attribute(CTA_IP_V4_SRC, &Ipv4Addr::UNSPECIFIED.octets());
    writer.attribute(CTA_IP_V4_DST, &Ipv4Addr::UNSPECIFIED.octets());
    writer.close_nest(addresses);
    let proto = writer.nest(CTA_TUPLE_PROTO);
    writer.attribute(CTA_PROTO_NUM, &[Protocol::Udp.number()]);
    writer.attribute(CTA_PROTO_SRC_PORT, &0_u16.to_be_bytes());
    writer.attribute(CTA_PROTO_DST_PORT, &0_u16.to_be_bytes());
    writer.close_nest(proto);
    writer.close_nest(tuple);
    writer.attribute(CTA_FILTER, &[0]);
}

fn write_address(writer: &mut Writer, kind: u16, address: Ipv4Addr) {
    let nest = writer.nest(CTA_TUPLE_IP);
    writer.attribute(kind, &address.octets());
    writer.close_nest(nest);
}

fn write_port(writer: &mut Writer, kind: u16, port: Option<NonZeroU16>) {
    let nest = writer.nest(CTA_TUPLE_PROTO);
    writer.attribute(CTA_PROTO_NUM, &[Protocol::Udp.number()]);
    if let Some(port) = port {
        writer.attribute(kind, &port.get().to_be_bytes());
    }
    writer.close_nest(nest);
}

/// A flow of the default zone, as the kernel returns it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown<'a> {
    pub(super) flow: Flow,
    pub(super) kind: FlowKind,
    /// The tuple of the original direction, by which the kernel finds the flow.
    tuple: &'a [u8],
    /// The id, which distinguishes flows with the same tuple.
    id: &'a [u8],
}

impl<'a> Shown<'a> {
    /// Reads a flow; `None` if it may not be deleted.
    pub(super) fn read(message: &Message<'a>) -> Option<Self> {
        let attributes = message.attributes();
        // The attribute is present only for zones other than the default one.
        if message.kind != CT_NEW || attributes.clone().find(CTA_ZONE).is_some() {
            return None;
        }
        let tuple = attributes.clone().find(CTA_TUPLE_ORIG)?;
        let (protocol, _, destination) = read_tuple(self::attributes(tuple))?;
        let (replies, answers, _) = read_tuple(attributes.clone().nested(CTA_TUPLE_REPLY)?)?;
        let kind = match protocol {
            Protocol::Udp => FlowKind::Udp,
            Protocol::Tcp => unanswered(&attributes, TCP_SYN_SENT)?,
            Protocol::Sctp => unanswered(&attributes, SCTP_COOKIE_WAIT)?,
        };
        let id = attributes.find(CTA_ID)?;
        let flow = Flow { protocol, destination, answers };
        (replies == protocol).then_some(Self { flow, kind, tuple, id })
    }

    /// Writes the identity of the flow.
    pub(super) fn write(&self, writer: &mut Writer) {
        let nest = writer.nest(CTA_TUPLE_ORIG);
        writer.raw(self.tuple);
        writer.close_nest(nest);
        writer.attribute(CTA_ID, self.id);
    }
}

/// Returns `Unanswered` if a connection has no answer: by its state and, since conntrack also picks
/// up established connections, by the absence of packets in the other direction.
fn unanswered(attributes: &Attributes<'_>, (protocol, first): (u16, u8)) -> Option<FlowKind> {
    let is_answered = attributes.clone().be32(CTA_STATUS)? & IPS_SEEN_REPLY != 0;
    let info = attributes.clone().nested(CTA_PROTOINFO)?;
    // The state is the first attribute of each protocol.
    let state = info.nested(protocol)?.find(CTA_PROTOINFO_STATE)?;
    (!is_answered && state == [first]).then_some(FlowKind::Unanswered)
}

/// Returns protocol, source and destination of a tuple of the default zone.
fn read_tuple(tuple: Attributes<'_>) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    if tuple.clone().find(CTA_TUPLE_ZONE).is_some() {
        return None;
    }
    let addresses = tuple.clone().nested(CTA_TUPLE_IP)?;
    let ports = tuple.nested(CTA_TUPLE_PROTO)?;
    let protocol = Protocol::from_number(*ports.clone().find(CTA_PROTO_NUM)?.first()?)?;
    let end = |v4, v6, port| {
        let address = match (addresses.clone().find(v4), addresses.clone().find(v6)) {
            (Some(octets), _) => IpAddr::V4(<[u8; 4]>::try_from(octets).ok()?.into()),
            (None, Some(octets)) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
            (None, None) => return None,
        };
        let port = ports.clone().find(port)?.try_into().ok()?;
        Some(SocketAddr::new(address, u16::from_be_bytes(port)))
    };
    Some((
        protocol,
        end(CTA_IP_V4_SRC, CTA_IP_V6_SRC, CTA_PROTO_SRC_PORT)?,
        end(CTA_IP_V4_DST, CTA_IP_V6_DST, CTA_PROTO_DST_PORT)?,
    ))
}

/// Returns ctnetlink's number of the family.
pub(super) fn family_number(family: Family) -> u8 {
    let number = match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    };
    u8::try_from(number).unwrap_or(0)
}
