//! The numbers of <linux/netfilter/nfnetlink_conntrack.h>, and flows as bytes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use nix::libc::{AF_INET, AF_INET6, AF_UNSPEC};
use rulec_compiler::Flow;
use rulec_compiler::net::{Family, Protocol};

use super::{Filter, FlowKind, Live};
use crate::netlink::{Attributes, Message, Open, Writer, attributes, be32};

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
/// The attributes of protocols in `CTA_PROTOINFO`; the states for an unanswered attempt; and those
/// in which nothing is exchanged any more: `LAST_ACK`, `TIME_WAIT`, `CLOSE`; `CLOSED`,
/// `SHUTDOWN_ACK_SENT`.
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
const TCP_SYN_SENT: u8 = 1;
const SCTP_COOKIE_WAIT: u8 = 2;
const TCP_OVER: [u8; 3] = [6, 7, 8];
const SCTP_OVER: [u8; 2] = [1, 7];

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

/// Asks for all flows of all families.
pub(super) fn write_listing(writer: &mut Writer, flags: u16, seq: u32) -> Open {
    writer.message(CT_GET, flags, seq, u8::try_from(AF_UNSPEC).unwrap_or(0), 0)
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
        let parts = Parts::read(message)?;
        let (_, flow) = parts.ends()?;
        let kind = match parts.stage(flow.protocol) {
            Stage::Kind(kind) => kind,
            Stage::Answered | Stage::Over => return None,
        };
        let (tuple, id) = (parts.original?, parts.id?);
        Some(Self { flow, kind, tuple, id })
    }

    /// Writes the identity of the flow.
    pub(super) fn write(&self, writer: &mut Writer) {
        let nest = writer.nest(CTA_TUPLE_ORIG);
        writer.raw(self.tuple);
        writer.close_nest(nest);
        writer.attribute(CTA_ID, self.id);
    }
}

/// The attributes of a flow of the default zone that are read, found in one pass: most listings are
/// of many flows, and most attributes tell nothing here.
#[derive(Default)]
struct Parts<'a> {
    original: Option<&'a [u8]>,
    reply: Option<&'a [u8]>,
    status: Option<u32>,
    info: Option<&'a [u8]>,
    id: Option<&'a [u8]>,
}

impl<'a> Parts<'a> {
    /// Finds them; `None` if it is no such flow.
    fn read(message: &Message<'a>) -> Option<Self> {
        let mut parts = Self::default();
        if message.kind != CT_NEW {
            return None;
        }
        for (kind, value) in message.attributes() {
            match kind {
                CTA_TUPLE_ORIG => parts.original = Some(value),
                CTA_TUPLE_REPLY => parts.reply = Some(value),
                CTA_STATUS => parts.status = be32(value),
                CTA_PROTOINFO => parts.info = Some(value),
                CTA_ID => parts.id = Some(value),
                // The attribute is present only for zones other than the default one.
                CTA_ZONE => return None,
                _ => {}
            }
        }
        Some(parts)
    }

    /// Returns the client and the flow.
    fn ends(&self) -> Option<(SocketAddr, Flow)> {
        let (protocol, client, destination) = read_tuple(attributes(self.original?))?;
        let (replies, answers, _) = read_tuple(attributes(self.reply?))?;
        let flow = Flow { protocol, destination, answers };
        (replies == protocol).then_some((client, flow))
    }
}

/// How far a flow has come.
enum Stage {
    /// It is of a kind that may be deleted.
    Kind(FlowKind),
    /// It is a connection that was answered.
    Answered,
    /// It is a connection that has ended.
    Over,
}

impl Parts<'_> {
    fn stage(&self, protocol: Protocol) -> Stage {
        let (of_protocol, first, last): (u16, u8, &[u8]) = match protocol {
            Protocol::Udp => return Stage::Kind(FlowKind::Udp),
            Protocol::Tcp => (CTA_PROTOINFO_TCP, TCP_SYN_SENT, &TCP_OVER),
            Protocol::Sctp => (CTA_PROTOINFO_SCTP, SCTP_COOKIE_WAIT, &SCTP_OVER),
        };
        // The state is the first attribute of each protocol.
        let info = self.info.and_then(|info| attributes(info).nested(of_protocol));
        let state = info.and_then(|info| info.find(CTA_PROTOINFO_STATE));
        match (state, self.status) {
            // A connection has no answer by its state and, since conntrack also picks up
            // established connections, by the absence of packets in the other direction.
            (Some([state]), Some(status)) if *state == first && status & IPS_SEEN_REPLY == 0 => {
                Stage::Kind(FlowKind::Unanswered)
            }
            (Some([state]), _) if last.contains(state) => Stage::Over,
            _ => Stage::Answered,
        }
    }
}

/// Reads a flow that has not ended, of any kind.
pub(super) fn read_live(message: &Message<'_>) -> Option<Live> {
    let parts = Parts::read(message)?;
    let (client, flow) = parts.ends()?;
    let kind = match parts.stage(flow.protocol) {
        Stage::Kind(kind) => Some(kind),
        Stage::Answered => None,
        Stage::Over => return None,
    };
    Some(Live { flow, client, kind })
}

/// Returns protocol, source and destination of a tuple of the default zone.
fn read_tuple(tuple: Attributes<'_>) -> Option<(Protocol, SocketAddr, SocketAddr)> {
    let (mut addresses, mut ports) = (None, None);
    for (kind, value) in tuple {
        match kind {
            CTA_TUPLE_IP => addresses = Some(value),
            CTA_TUPLE_PROTO => ports = Some(value),
            CTA_TUPLE_ZONE => return None,
            _ => {}
        }
    }
    let (mut source, mut destination) = (None, None);
    for (kind, value) in attributes(addresses?) {
        let address = match kind {
            CTA_IP_V4_SRC | CTA_IP_V4_DST => IpAddr::from(<[u8; 4]>::try_from(value).ok()?),
            CTA_IP_V6_SRC | CTA_IP_V6_DST => IpAddr::from(<[u8; 16]>::try_from(value).ok()?),
            _ => continue,
        };
        let is_source = matches!(kind, CTA_IP_V4_SRC | CTA_IP_V6_SRC);
        *(if is_source { &mut source } else { &mut destination }) = Some(address);
    }
    let (mut number, mut source_port, mut destination_port) = (None, None, None);
    let port = |value: &[u8]| value.try_into().ok().map(u16::from_be_bytes);
    for (kind, value) in attributes(ports?) {
        match kind {
            CTA_PROTO_NUM => number = value.first().copied(),
            CTA_PROTO_SRC_PORT => source_port = port(value),
            CTA_PROTO_DST_PORT => destination_port = port(value),
            _ => {}
        }
    }
    Some((
        Protocol::from_number(number?)?,
        SocketAddr::new(source?, source_port?),
        SocketAddr::new(destination?, destination_port?),
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
