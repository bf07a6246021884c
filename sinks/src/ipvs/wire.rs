//! The numbers of <linux/ip_vs.h>, and virtual and real servers as bytes.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;

use nix::libc::{AF_INET, AF_INET6};
use rulec_compiler::ipvs::{
    Attributes, Op, RealServer, Scheduler, SchedulerFlags, Scheduling, VirtualServer,
};
use rulec_compiler::net::{Backend, Family, Protocol};

use crate::netlink::{self, Message, Writer};

/// The netlink family that resolves the numbers of the others.
pub(super) const GENL_ID_CTRL: u16 = 16;
pub(super) const CTRL_CMD_GETFAMILY: u8 = 3;
pub(super) const CTRL_VERSION: u8 = 1;
const CTRL_CMD_NEWFAMILY: u8 = 1;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const IPVS_GENL_NAME: &str = "IPVS";
pub(super) const IPVS_GENL_VERSION: u8 = 1;

pub(super) const NEW_SERVICE: u8 = 1;
pub(super) const SET_SERVICE: u8 = 2;
pub(super) const DEL_SERVICE: u8 = 3;
pub(super) const GET_SERVICE: u8 = 4;
pub(super) const NEW_DEST: u8 = 5;
pub(super) const SET_DEST: u8 = 6;
pub(super) const DEL_DEST: u8 = 7;
pub(super) const GET_DEST: u8 = 8;
pub(super) const SET_CONFIG: u8 = 12;
pub(super) const GET_INFO: u8 = 15;

const CMD_ATTR_SERVICE: u16 = 1;
const CMD_ATTR_DEST: u16 = 2;
const CMD_ATTR_TIMEOUT_TCP: u16 = 4;
const CMD_ATTR_TIMEOUT_TCP_FIN: u16 = 5;
const CMD_ATTR_TIMEOUT_UDP: u16 = 6;

const SVC_ATTR_AF: u16 = 1;
const SVC_ATTR_PROTOCOL: u16 = 2;
const SVC_ATTR_ADDR: u16 = 3;
const SVC_ATTR_PORT: u16 = 4;
const SVC_ATTR_FWMARK: u16 = 5;
const SVC_ATTR_SCHED_NAME: u16 = 6;
const SVC_ATTR_FLAGS: u16 = 7;
const SVC_ATTR_TIMEOUT: u16 = 8;
const SVC_ATTR_NETMASK: u16 = 9;
const SVC_ATTR_PE_NAME: u16 = 11;

const DEST_ATTR_ADDR: u16 = 1;
const DEST_ATTR_PORT: u16 = 2;
const DEST_ATTR_FWD_METHOD: u16 = 3;
const DEST_ATTR_WEIGHT: u16 = 4;
const DEST_ATTR_U_THRESH: u16 = 5;
const DEST_ATTR_L_THRESH: u16 = 6;
const DEST_ATTR_ACTIVE_CONNS: u16 = 7;
const DEST_ATTR_INACT_CONNS: u16 = 8;
const DEST_ATTR_PERSIST_CONNS: u16 = 9;
const DEST_ATTR_ADDR_FAMILY: u16 = 11;

const SVC_F_PERSISTENT: u32 = 0x1;
const SVC_F_ONEPACKET: u32 = 0x4;
/// The flags that we set. The kernel keeps another one in the same number.
const SVC_F_MASK: u32 = SVC_F_PERSISTENT | SVC_F_ONEPACKET | SchedulerFlags::MASK;

/// The forwarding method among the flags of a connection, and translation, which has no bit.
const CONN_F_FWD_MASK: u32 = 0x7;
const CONN_F_MASQ: u32 = 0;

/// The size of `union nf_inet_addr`, for both families.
const ADDRESS_LEN: usize = 16;

/// Writes the name of the family whose number is queried.
pub(super) fn write_family_name(writer: &mut Writer) {
    writer.text(CTRL_ATTR_FAMILY_NAME, IPVS_GENL_NAME);
}

/// Reads the number of the family; `None` if the message does not contain it.
pub(super) fn read_family_id(message: &Message<'_>) -> Option<u16> {
    if message.kind != GENL_ID_CTRL || message.command() != CTRL_CMD_NEWFAMILY {
        return None;
    }
    message.attributes().ne16(CTRL_ATTR_FAMILY_ID)
}

/// Returns the command for an operation; `None` if it is for an address.
pub(super) fn command(op: &Op) -> Option<u8> {
    match op {
        Op::AddServer(..) => Some(NEW_SERVICE),
        Op::SetServer(..) => Some(SET_SERVICE),
        Op::DeleteServer(..) => Some(DEL_SERVICE),
        Op::AddReal(..) => Some(NEW_DEST),
        Op::SetReal(..) => Some(SET_DEST),
        Op::DeleteReal(..) => Some(DEL_DEST),
        Op::Bind(_) | Op::Unbind(_) => None,
    }
}

/// Writes the operands of an operation.
pub(super) fn write_operands(writer: &mut Writer, op: &Op) {
    match op {
        Op::AddServer(server, attributes) | Op::SetServer(server, attributes) => {
            write_server(writer, *server, Some(attributes));
        }
        Op::DeleteServer(server) => write_server(writer, *server, None),
        Op::AddReal(server, backend, real) | Op::SetReal(server, backend, real) => {
            write_server(writer, *server, None);
            write_real(writer, *backend, Some(real));
        }
        Op::DeleteReal(server, backend) => {
            write_server(writer, *server, None);
            write_real(writer, *backend, None);
        }
        Op::Bind(_) | Op::Unbind(_) => {}
    }
}

/// Writes a virtual server: its identity, and its attributes if given.
pub(super) fn write_server(
    writer: &mut Writer,
    server: VirtualServer,
    attributes: Option<&Attributes>,
) {
    let family = server.family();
    let nest = writer.nest(CMD_ATTR_SERVICE);
    writer.ne16(SVC_ATTR_AF, family_number(family));
    writer.ne16(SVC_ATTR_PROTOCOL, server.protocol.number().into());
    writer.attribute(SVC_ATTR_ADDR, &address_bytes(server.address));
    writer.attribute(SVC_ATTR_PORT, &server.port.get().to_be_bytes());
    if let Some(Attributes { scheduling, persistence }) = attributes {
        let persistent = if persistence.is_some() { SVC_F_PERSISTENT } else { 0 };
        let flags = scheduling.flags.bits() | persistent;
        let [a, b, c, d] = flags.to_ne_bytes();
        let [e, f, g, h] = SVC_F_MASK.to_ne_bytes();
        writer.text(SVC_ATTR_SCHED_NAME, scheduling.scheduler.name());
        writer.attribute(SVC_ATTR_FLAGS, &[a, b, c, d, e, f, g, h]);
        writer.ne32(SVC_ATTR_TIMEOUT, persistence.unwrap_or(0));
        writer.ne32(SVC_ATTR_NETMASK, netmask(family));
    }
    writer.close_nest(nest);
}

/// Writes a real server: its identity, and its attributes if given.
fn write_real(writer: &mut Writer, backend: Backend, real: Option<&RealServer>) {
    let nest = writer.nest(CMD_ATTR_DEST);
    // Without it, the kernel assumes the virtual server's family.
    writer.ne16(DEST_ATTR_ADDR_FAMILY, family_number(Family::of(backend.address)));
    writer.attribute(DEST_ATTR_ADDR, &address_bytes(backend.address));
    writer.attribute(DEST_ATTR_PORT, &backend.port.get().to_be_bytes());
    if let Some(RealServer { weight, threshold }) = real {
        writer.ne32(DEST_ATTR_FWD_METHOD, CONN_F_MASQ);
        writer.ne32(DEST_ATTR_WEIGHT, *weight);
        writer.ne32(DEST_ATTR_U_THRESH, threshold.unwrap_or(0));
        writer.ne32(DEST_ATTR_L_THRESH, 0);
    }
    writer.close_nest(nest);
}

/// Writes how long connections without packets last, in seconds. The kernel keeps its value where
/// there is none.
pub(super) fn write_timeouts(writer: &mut Writer, tcp: u32, tcp_fin: u32, udp: u32) {
    for (kind, seconds) in [
        (CMD_ATTR_TIMEOUT_TCP, tcp),
        (CMD_ATTR_TIMEOUT_TCP_FIN, tcp_fin),
        (CMD_ATTR_TIMEOUT_UDP, udp),
    ] {
        if seconds > 0 {
            writer.ne32(kind, seconds);
        }
    }
}

/// A virtual server as the kernel reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ShownServer<'a> {
    /// Its identity; `None` for a firewall mark, all ports, or a protocol that no Service can have.
    pub(super) server: Option<VirtualServer>,
    /// The name of its scheduler.
    pub(super) scheduler: &'a str,
    /// Its attributes; `None` if we never set such ones.
    pub(super) attributes: Option<Attributes>,
}

impl<'a> ShownServer<'a> {
    /// Reads a virtual server; `None` if the message contains none.
    pub(super) fn read(message: &Message<'a>) -> Option<Self> {
        if message.command() != NEW_SERVICE {
            return None;
        }
        let attributes = message.attributes().nested(CMD_ATTR_SERVICE)?;
        let family = family(attributes.clone().ne16(SVC_ATTR_AF)?)?;
        let server = read_server(family, attributes.clone());
        let scheduler = attributes.clone().text(SVC_ATTR_SCHED_NAME)?;
        let attributes = read_attributes(family, scheduler, attributes);
        Some(Self { server, scheduler, attributes })
    }
}

fn read_server(family: Family, attributes: netlink::Attributes<'_>) -> Option<VirtualServer> {
    if attributes.clone().find(SVC_ATTR_FWMARK).is_some() {
        return None;
    }
    let protocol = u8::try_from(attributes.clone().ne16(SVC_ATTR_PROTOCOL)?).ok()?;
    Some(VirtualServer {
        address: read_address(family, attributes.clone().find(SVC_ATTR_ADDR)?)?,
        protocol: Protocol::from_number(protocol)?,
        port: read_port(attributes.find(SVC_ATTR_PORT)?)?,
    })
}

fn read_attributes(
    family: Family,
    scheduler: &str,
    attributes: netlink::Attributes<'_>,
) -> Option<Attributes> {
    // The flags, followed by a mask that has no meaning here.
    let flags = attributes.clone().ne32(SVC_ATTR_FLAGS)?;
    let has_engine = attributes.clone().find(SVC_ATTR_PE_NAME).is_some();
    if flags & SVC_F_ONEPACKET != 0 || has_engine {
        return None;
    }
    let scheduler: Scheduler = scheduler.parse().ok()?;
    let scheduling = Scheduling { scheduler, flags: SchedulerFlags::from_bits(flags) };
    if flags & SVC_F_PERSISTENT == 0 {
        return Some(Attributes { scheduling, persistence: None });
    }
    // With a wider mask, persistence applies to networks, not clients.
    let is_of_clients = attributes.clone().ne32(SVC_ATTR_NETMASK)? == netmask(family);
    let persistence = attributes.ne32(SVC_ATTR_TIMEOUT)?;
    is_of_clients.then_some(Attributes { scheduling, persistence: Some(persistence) })
}

/// A real server as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShownReal {
    /// Its identity.
    pub(super) backend: Backend,
    /// Its attributes; `None` if we never set such ones.
    pub(super) real: Option<RealServer>,
    /// The number of connections and clients that it keeps.
    pub(super) connections: u32,
}

impl ShownReal {
    /// Reads a real server of a virtual server; `None` if the message contains none, or one without
    /// a port.
    pub(super) fn read(message: &Message<'_>, server: VirtualServer) -> Option<Self> {
        if message.command() != NEW_DEST {
            return None;
        }
        let attributes = message.attributes().nested(CMD_ATTR_DEST)?;
        let number = |kind| attributes.clone().ne32(kind);
        // Before 3.18, both have the same family, and the attribute does not exist.
        let family = match attributes.clone().ne16(DEST_ATTR_ADDR_FAMILY) {
            Some(number) => family(number)?,
            None => server.family(),
        };
        let backend = Backend {
            address: read_address(family, attributes.clone().find(DEST_ATTR_ADDR)?)?,
            port: read_port(attributes.clone().find(DEST_ATTR_PORT)?)?,
        };
        let is_translated = number(DEST_ATTR_FWD_METHOD)? & CONN_F_FWD_MASK == CONN_F_MASQ;
        let is_plain = number(DEST_ATTR_L_THRESH)? == 0;
        let threshold = Some(number(DEST_ATTR_U_THRESH)?).filter(|it| *it > 0);
        let real = RealServer { weight: number(DEST_ATTR_WEIGHT)?, threshold };
        let counts = [DEST_ATTR_ACTIVE_CONNS, DEST_ATTR_INACT_CONNS, DEST_ATTR_PERSIST_CONNS];
        let connections = counts.into_iter().filter_map(number).fold(0, u32::saturating_add);
        Some(Self { backend, real: (is_translated && is_plain).then_some(real), connections })
    }
}

/// Returns the mask by which persistence groups clients: each client is its own group.
fn netmask(family: Family) -> u32 {
    match family {
        Family::Ipv4 => u32::MAX,
        // In this family, it is a prefix length.
        Family::Ipv6 => 128,
    }
}

fn address_bytes(address: IpAddr) -> [u8; ADDRESS_LEN] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; ADDRESS_LEN];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}

fn read_address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::Ipv4 => IpAddr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?),
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.get(..16)?).ok()?)),
    })
}

fn read_port(bytes: &[u8]) -> Option<NonZeroU16> {
    NonZeroU16::new(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn family_number(family: Family) -> u16 {
    let number = match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    };
    u16::try_from(number).unwrap_or(0)
}

fn family(number: u16) -> Option<Family> {
    Family::ALL.into_iter().find(|family| family_number(*family) == number)
}
