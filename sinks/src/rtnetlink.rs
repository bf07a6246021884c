//! rtnetlink: devices, addresses of devices, and routes.
//!
//! Mode IPVS puts addresses on a device or makes local routes, and the device that kube-proxy has
//! left is deleted. `service_routes` gives the node's own connections a way to Services, and `lookup`
//! looks at routes and devices.

#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod lookup;
mod service_routes;

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::libc::{
    AF_INET, AF_INET6, ENODEV, IFA_ADDRESS, IFA_CACHEINFO, IFA_F_NODAD, IFA_F_NOPREFIXROUTE,
    IFA_FLAGS, IFA_LOCAL, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, RT_SCOPE_HOST,
    RT_TABLE_LOCAL, RTA_DST, RTA_OIF, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE, RTM_GETADDR,
    RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTN_LOCAL,
};

use rulec_compiler::net::Family;

pub use lookup::{Bridge, Device, Lookup, Port, Way};
pub use service_routes::{Added, ServiceRoutes};

use crate::netlink::{
    Bus, Message, NLM_F_CREATE, NLM_F_EXCL, Open, Requests, Writer, attributes, u32_at,
};

/// `IFF_UP`.
const UP: u32 = 0x1;

const DUMMY: &str = "dummy";

/// The mark of our routes: `proto 114` in the output of `ip route`. No routing daemon that iproute2
/// has a name for uses the number.
pub const ROUTE_PROTOCOL: u8 = 114;

/// The index of `lo`, which is the first device of every network namespace.
const LOOPBACK: u32 = 1;

/// `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`.
const LINK_LEN: usize = 16;
const ADDRESS_LEN: usize = 8;
const ROUTE_LEN: usize = 12;

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) is_up: bool,
    pub(crate) is_dummy: bool,
}

/// A change of an address of a device, or of a local route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressChange {
    Add(IpAddr),
    Remove(IpAddr),
}

/// Deletes the device with this name, of whatever kind, in the network namespace of the calling
/// thread.
///
/// # Errors
///
/// If there is none, or the kernel refuses.
pub fn delete_link(name: &str) -> io::Result<()> {
    let named = |writer: &mut Writer, flags: u16, seq: u32| {
        let message = write_link(writer, RTM_DELLINK, flags, seq, 0, 0);
        writer.text(IFLA_IFNAME, name);
        message
    };
    Requests::open(Bus::Route)?.ask(named, |_| {})
}

/// A socket for requests. As with all [`Requests`], an error may be a refusal or a failure.
pub(crate) struct Rtnetlink(Requests);

impl Rtnetlink {
    pub(crate) fn open() -> io::Result<Self> {
        Ok(Self(Requests::open(Bus::Route)?))
    }

    /// Returns true if the last error was a failure of the socket, not a refusal.
    pub(crate) fn has_failed(&self) -> bool {
        self.0.has_failed()
    }

    /// Looks for the device with this name.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut found = None;
        let asked = self.0.ask(
            |writer, flags, seq| {
                let message = write_link(writer, RTM_GETLINK, flags, seq, 0, 0);
                writer.text(IFLA_IFNAME, name);
                message
            },
            |message| found = found.take().or_else(|| read_link(message)),
        );
        match asked {
            Ok(()) if found.is_none() => Err(io::Error::other("the kernel reported no device")),
            Ok(()) => Ok(found),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates a dummy device, which is up.
    pub(crate) fn add_dummy(&mut self, name: &str) -> io::Result<()> {
        self.0.ask(
            |writer, flags, seq| {
                let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
                let message = write_link(writer, RTM_NEWLINK, flags, seq, 0, UP);
                writer.text(IFLA_IFNAME, name);
                let info = writer.nest(IFLA_LINKINFO);
                writer.text(IFLA_INFO_KIND, DUMMY);
                writer.close_nest(info);
                message
            },
            |_| {},
        )
    }

    /// Sets a device up.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.0.ask(
            |writer, flags, seq| write_link(writer, RTM_NEWLINK, flags, seq, index, UP),
            |_| {},
        )
    }

    /// Deletes a device.
    pub(crate) fn delete(&mut self, index: u32) -> io::Result<()> {
        self.0
            .ask(|writer, flags, seq| write_link(writer, RTM_DELLINK, flags, seq, index, 0), |_| {})
    }

    /// Returns the single addresses of a device, without networks.
    pub(crate) fn addresses(&mut self, index: u32) -> io::Result<BTreeSet<IpAddr>> {
        self.0.dump(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETADDR, flags, seq);
                writer.raw(&[0; ADDRESS_LEN]);
                message
            },
            |found: &mut BTreeSet<IpAddr>, message| found.extend(read_address(message, index)),
        )
    }

    /// Changes the addresses of a device in this order, and returns the refused changes. An added
    /// address receives packets, and is never chosen as their source.
    pub(crate) fn change_addresses(
        &mut self,
        index: u32,
        changes: &[AddressChange],
    ) -> io::Result<Vec<(usize, io::Error)>> {
        self.0.batch(changes, |writer, flags, seq, change| match *change {
            AddressChange::Add(address) => {
                let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
                write_address(writer, RTM_NEWADDR, flags, seq, index, address)
            }
            AddressChange::Remove(address) => {
                write_address(writer, RTM_DELADDR, flags, seq, index, address)
            }
        })
    }

    /// Returns the destinations of the local routes to single addresses that have this mark.
    pub(crate) fn local_routes(&mut self, protocol: u8) -> io::Result<BTreeSet<IpAddr>> {
        self.0.dump(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETROUTE, flags, seq);
                writer.raw(&[0; ROUTE_LEN]);
                message
            },
            |found: &mut BTreeSet<IpAddr>, message| {
                found.extend(read_local_route(message, protocol));
            },
        )
    }

    /// Changes local routes with this mark in this order, and returns the refused changes.
    pub(crate) fn change_local_routes(
        &mut self,
        protocol: u8,
        changes: &[AddressChange],
    ) -> io::Result<Vec<(usize, io::Error)>> {
        self.0.batch(changes, |writer, flags, seq, change| match *change {
            AddressChange::Add(address) => {
                let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
                write_local_route(writer, RTM_NEWROUTE, flags, seq, protocol, address)
            }
            AddressChange::Remove(address) => {
                write_local_route(writer, RTM_DELROUTE, flags, seq, protocol, address)
            }
        })
    }
}

/// Starts a message with `struct ifinfomsg`: the device (0 if it is identified by name), and flags
/// of the device to set.
fn write_link(writer: &mut Writer, kind: u16, flags: u16, seq: u32, index: u32, set: u32) -> Open {
    let message = writer.header(kind, flags, seq);
    writer.raw(&[0; 4]);
    writer.raw(&index.to_ne_bytes());
    writer.raw(&set.to_ne_bytes());
    // The mask of flags to change.
    writer.raw(&set.to_ne_bytes());
    message
}

/// The lifetimes of an IPv6 address in seconds: preferred (0) and valid (unlimited).
const PREFERRED: u32 = 0;
const VALID: u32 = u32::MAX;

fn write_address(
    writer: &mut Writer,
    kind: u16,
    flags: u16,
    seq: u32,
    index: u32,
    address: IpAddr,
) -> Open {
    let message = writer.header(kind, flags, seq);
    let (family, bits) = family_and_bits(address);
    // An address with host scope is never chosen as the source of packets that leave the node.
    writer.raw(&[family, bits, 0, RT_SCOPE_HOST]);
    writer.raw(&index.to_ne_bytes());
    with_octets(address, |octets| {
        writer.attribute(IFA_LOCAL, octets);
        writer.attribute(IFA_ADDRESS, octets);
    });
    if address.is_ipv6() {
        // Usable at once, and without a second route beside the local one.
        writer.ne32(IFA_FLAGS, IFA_F_NODAD | IFA_F_NOPREFIXROUTE);
        // Deprecated (RFC 4862, section 5.5.4) from the start, so that it is not chosen as a source
        // either: of two addresses of other interfaces, the kernel takes the one more like the
        // destination, and masquerading would use it.
        let lifetimes = [PREFERRED, VALID, 0, 0];
        let lifetimes: Vec<u8> = lifetimes.into_iter().flat_map(u32::to_ne_bytes).collect();
        writer.attribute(IFA_CACHEINFO, &lifetimes);
    }
    message
}

fn write_local_route(
    writer: &mut Writer,
    kind: u16,
    flags: u16,
    seq: u32,
    protocol: u8,
    address: IpAddr,
) -> Open {
    let message = writer.header(kind, flags, seq);
    let (family, bits) = family_and_bits(address);
    writer.raw(&[family, bits, 0, 0, RT_TABLE_LOCAL, protocol, RT_SCOPE_HOST, RTN_LOCAL]);
    writer.raw(&[0; 4]);
    with_octets(address, |octets| writer.attribute(RTA_DST, octets));
    writer.ne32(RTA_OIF, LOOPBACK);
    message
}

fn read_link(message: &Message<'_>) -> Option<Link> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let index = u32_at(message.payload, 4)?;
    let is_up = u32_at(message.payload, 8)? & UP != 0;
    let info = attributes(message.payload.get(LINK_LEN..)?).nested(IFLA_LINKINFO);
    let is_dummy = info.and_then(|info| info.text(IFLA_INFO_KIND)) == Some(DUMMY);
    Some(Link { index, is_up, is_dummy })
}

/// Reads a single address of a device.
fn read_address(message: &Message<'_>, index: u32) -> Option<IpAddr> {
    let &[family, bits, ..] = message.payload else { return None };
    if message.kind != RTM_NEWADDR || u32_at(message.payload, 4)? != index {
        return None;
    }
    let attributes = attributes(message.payload.get(ADDRESS_LEN..)?);
    // In IPv6, IFA_LOCAL is present only if there is a peer.
    let octets = attributes.clone().find(IFA_LOCAL).or_else(|| attributes.find(IFA_ADDRESS))?;
    single(family, bits, octets)
}

/// Reads the destination of a local route with this mark.
fn read_local_route(message: &Message<'_>, protocol: u8) -> Option<IpAddr> {
    let &[family, bits, _, _, table, mark, _, kind, ..] = message.payload else { return None };
    let is_meant = (table, mark, kind) == (RT_TABLE_LOCAL, protocol, RTN_LOCAL);
    if message.kind != RTM_NEWROUTE || !is_meant {
        return None;
    }
    single(family, bits, attributes(message.payload.get(ROUTE_LEN..)?).find(RTA_DST)?)
}

/// Returns the address if it is a single address and not a network.
fn single(family: u8, bits: u8, octets: &[u8]) -> Option<IpAddr> {
    let address = address_of(octets)?;
    ((family, bits) == family_and_bits(address)).then_some(address)
}

/// Returns the address in an attribute.
fn address_of(octets: &[u8]) -> Option<IpAddr> {
    match <[u8; 4]>::try_from(octets) {
        Ok(octets) => Some(IpAddr::from(octets)),
        Err(_) => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
    }
}

/// Returns the number of a family in headers.
fn number(family: Family) -> u8 {
    let number = match family {
        Family::Ipv4 => AF_INET,
        Family::Ipv6 => AF_INET6,
    };
    u8::try_from(number).unwrap_or(0)
}

fn family_and_bits(address: IpAddr) -> (u8, u8) {
    let family = Family::of(address);
    (number(family), if family == Family::Ipv4 { 32 } else { 128 })
}

fn with_octets(address: IpAddr, f: impl FnOnce(&[u8])) {
    match address {
        IpAddr::V4(address) => f(&address.octets()),
        IpAddr::V6(address) => f(&address.octets()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::netlink::messages;

    const V4: [u8; 4] = [10, 96, 0, 10];

    /// The mark of local routes in these tests.
    const PROTOCOL: u8 = 114;

    /// Runs all readers: none may panic, whatever the bytes are.
    pub(crate) fn read_all(message: &Message<'_>) {
        let _ = read_link(message);
        let _ = read_address(message, 7);
        let _ = read_local_route(message, PROTOCOL);
        service_routes::tests::read_all(message);
        lookup::tests::read_all(message);
        for kind in [RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE] {
            let message = Message { kind, ..*message };
            let _ = (
                read_link(&message),
                read_address(&message, 7),
                read_local_route(&message, PROTOCOL),
            );
        }
    }

    fn written(write: impl FnOnce(&mut Writer) -> Open) -> Vec<u8> {
        let mut writer = Writer::default();
        let message = write(&mut writer);
        writer.close_message(message);
        writer.bytes().to_vec()
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn requests_match_the_kernel_headers_byte_for_byte() {
        #[rustfmt::skip]
        let expected = [
            40, 0, 0, 0,  20, 0,  1, 6,  3, 0, 0, 0,  0, 0, 0, 0,
            // AF_INET, /32, no flags, the host's scope; the device
            2, 32, 0, 254,  7, 0, 0, 0,
            // IFA_LOCAL, IFA_ADDRESS
            8, 0,  2, 0,  10, 96, 0, 10,
            8, 0,  1, 0,  10, 96, 0, 10,
        ];
        let flags = 0x601;
        let bytes = written(|it| write_address(it, RTM_NEWADDR, flags, 3, 7, V4.into()));
        assert_eq!(bytes, expected);

        #[rustfmt::skip]
        let expected = [
            56, 0, 0, 0,  24, 0,  1, 6,  3, 0, 0, 0,  0, 0, 0, 0,
            // AF_INET6, to /128, from anywhere, the table local, the protocol, local
            10, 128, 0, 0,  255, 114, 254, 2,  0, 0, 0, 0,
            // RTA_DST, RTA_OIF
            20, 0,  1, 0,  0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a,
            8, 0,  4, 0,  1, 0, 0, 0,
        ];
        let address = "fd00:96::a".parse().unwrap();
        assert_eq!(
            written(|it| write_local_route(it, RTM_NEWROUTE, flags, 3, PROTOCOL, address)),
            expected
        );
    }

    #[test]
    fn only_our_own_addresses_and_routes_are_read() {
        let address: IpAddr = V4.into();
        let bytes = written(|it| write_address(it, RTM_NEWADDR, 1, 3, 7, address));
        let read = |bytes: &[u8], index| read_address(&messages(bytes).next().unwrap(), index);
        assert_eq!(read(&bytes, 7), Some(address));
        assert_eq!(read(&bytes, 8), None, "of another device");
        let mut network = bytes.clone();
        network[17] = 24;
        assert_eq!(read(&network, 7), None, "with a network");
        for len in 0..bytes.len() - 16 {
            let message = messages(&bytes).next().unwrap();
            // The last 8 bytes are the address once more.
            let cut = Message { payload: &message.payload[..len], ..message };
            assert_eq!(read_address(&cut, 7).is_some(), len >= 16, "{len} bytes");
        }

        let bytes = written(|it| write_local_route(it, RTM_NEWROUTE, 1, 3, PROTOCOL, address));
        let read = |bytes: &[u8]| read_local_route(&messages(bytes).next().unwrap(), PROTOCOL);
        assert_eq!(read(&bytes), Some(address));
        // To a network, in another table, of another protocol, of another type.
        for (at, value) in [(17, 24), (20, 254), (21, 2), (23, 1)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert_eq!(read(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn a_device_is_recognised_by_its_kind() {
        let link = |kind: Option<&str>, flags| {
            let bytes = written(|writer| {
                let message = write_link(writer, RTM_NEWLINK, 0, 3, 7, flags);
                if let Some(kind) = kind {
                    let nest = writer.nest(IFLA_LINKINFO);
                    writer.text(IFLA_INFO_KIND, kind);
                    writer.close_nest(nest);
                }
                message
            });
            read_link(&messages(&bytes).next().unwrap()).unwrap()
        };
        assert_eq!(link(Some("dummy"), UP), Link { index: 7, is_up: true, is_dummy: true });
        assert_eq!(link(Some("dummy"), 0), Link { index: 7, is_up: false, is_dummy: true });
        assert_eq!(link(Some("veth"), UP), Link { index: 7, is_up: true, is_dummy: false });
        assert_eq!(link(None, UP), Link { index: 7, is_up: true, is_dummy: false }, "as eth0");
    }
}
