//! The addresses that make this node answer for virtual servers: on a dummy device, or as local
//! routes.
//!
//! A packet reaches IPVS only if its destination is a local address of the node. Both ways achieve
//! that; other tools know the device from kube-proxy, and routes need no driver.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::libc::{
    AF_INET, AF_INET6, ENODEV, EOPNOTSUPP, ESRCH, IFA_ADDRESS, IFA_CACHEINFO, IFA_F_NODAD,
    IFA_F_NOPREFIXROUTE, IFA_FLAGS, IFA_LOCAL, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO,
    RT_SCOPE_HOST, RT_TABLE_LOCAL, RTA_DST, RTA_OIF, RTM_DELADDR, RTM_DELLINK, RTM_DELROUTE,
    RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE, RTN_LOCAL,
};
use rulec_compiler::ipvs::Op;

use super::requests::Requests;
use super::{Addresses, Options};
use crate::netlink::{Bus, Message, NLM_F_CREATE, NLM_F_EXCL, Open, Writer, attributes, u32_at};

/// The mark of our local routes: `proto 114` in the output of `ip route`. No routing daemon that
/// iproute2 has a name for uses the number.
const PROTOCOL: u8 = 114;

/// `IFF_UP`.
const UP: u32 = 0x1;

const DUMMY: &str = "dummy";

/// The index of `lo`, which is the first device of every network namespace.
const LOOPBACK: u32 = 1;

/// `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`.
const LINK_LEN: usize = 16;
const ADDRESS_LEN: usize = 8;
const ROUTE_LEN: usize = 12;

/// Our addresses on this node.
pub(super) struct Bound {
    requests: Requests,
    options: Options,
}

impl Bound {
    pub(super) fn open(options: Options) -> io::Result<Self> {
        Ok(Self { requests: Requests::open(Bus::Route)?, options })
    }

    /// Reads them.
    pub(super) fn read(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        match self.options.addresses {
            Addresses::Dummy => match self.link()? {
                Some(link) => self.addresses(link.index),
                None => Ok(BTreeSet::new()),
            },
            Addresses::LocalRoutes => self.routes(),
        }
    }

    /// Creates the device if it is wanted and absent, and sets it up.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        match self.options.addresses {
            Addresses::Dummy => self.device().map(|_| ()),
            Addresses::LocalRoutes => Ok(()),
        }
    }

    /// Makes the changes in this order, and returns the refused ones.
    pub(super) fn apply(&mut self, changes: &[Change]) -> io::Result<Vec<(usize, io::Error)>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        match self.options.addresses {
            Addresses::Dummy => self.change_addresses(changes),
            Addresses::LocalRoutes => self.change_routes(changes),
        }
    }

    /// Deletes the device with its addresses, and our routes, if they exist: the options may have
    /// been different before.
    pub(super) fn cleanup(&mut self) -> io::Result<()> {
        if let Some(link) = self.link()? {
            self.requests.ask(
                |writer, flags, seq| {
                    let message = writer.header(RTM_DELLINK, flags, seq);
                    write_link(writer, link.index, 0);
                    message
                },
                |_| {},
            )?;
        }
        let routes: Vec<Change> = self.routes()?.into_iter().map(Change::Unbind).collect();
        let refused = self.change_routes(&routes)?;
        // It does not matter if another process has deleted a route just now.
        let refused = refused.into_iter().map(|(_, error)| error);
        let mut refused = refused.filter(|error| error.raw_os_error() != Some(ESRCH));
        refused.next().map_or(Ok(()), Err)
    }

    fn change_addresses(&mut self, changes: &[Change]) -> io::Result<Vec<(usize, io::Error)>> {
        let has_binds = changes.iter().any(|change| matches!(change, Change::Bind(_)));
        let device = if has_binds { self.device() } else { self.existing_device() };
        let index = match device {
            Ok(index) => index,
            Err(error) if self.requests.has_failed() => return Err(error),
            Err(error) => return Ok((0..changes.len()).zip(copies(&error)).collect()),
        };
        self.requests.batch(changes, |writer, flags, seq, change| match *change {
            Change::Bind(address) => {
                let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
                write_address(writer, RTM_NEWADDR, flags, seq, index, address)
            }
            Change::Unbind(address) => {
                write_address(writer, RTM_DELADDR, flags, seq, index, address)
            }
        })
    }

    fn change_routes(&mut self, changes: &[Change]) -> io::Result<Vec<(usize, io::Error)>> {
        self.requests.batch(changes, |writer, flags, seq, change| match *change {
            Change::Bind(address) => {
                let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
                write_route(writer, RTM_NEWROUTE, flags, seq, address)
            }
            Change::Unbind(address) => write_route(writer, RTM_DELROUTE, flags, seq, address),
        })
    }

    /// Returns the index of the device, which is created if it is absent.
    fn device(&mut self) -> io::Result<u32> {
        let name = self.options.device.clone();
        match self.link()? {
            Some(Link { index, is_up: true }) => return Ok(index),
            Some(Link { index, is_up: false }) => {
                self.requests.ask(
                    |writer, flags, seq| {
                        let message = writer.header(RTM_NEWLINK, flags, seq);
                        write_link(writer, index, UP);
                        message
                    },
                    |_| {},
                )?;
                return Ok(index);
            }
            None => {}
        }
        let made = self.requests.ask(
            |writer, flags, seq| {
                let flags = flags | NLM_F_CREATE | NLM_F_EXCL;
                let message = writer.header(RTM_NEWLINK, flags, seq);
                write_link(writer, 0, UP);
                writer.text(IFLA_IFNAME, name.as_str());
                let info = writer.nest(IFLA_LINKINFO);
                writer.text(IFLA_INFO_KIND, DUMMY);
                writer.close_nest(info);
                message
            },
            |_| {},
        );
        made.map_err(|error| match error.raw_os_error() {
            Some(EOPNOTSUPP) => io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "cannot create device {name}, since this kernel has no dummy devices: load the \
                     module with `modprobe dummy`, or use --ipvs-addresses local-routes"
                ),
            ),
            _ => error,
        })?;
        self.existing_device()
    }

    fn existing_device(&mut self) -> io::Result<u32> {
        let link = self.link()?.ok_or_else(|| io::Error::from_raw_os_error(ENODEV))?;
        Ok(link.index)
    }

    /// Looks for the device. A non-dummy device of this name is not ours to modify.
    fn link(&mut self) -> io::Result<Option<Link>> {
        let name = &self.options.device;
        let mut found = None;
        let asked = self.requests.ask(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETLINK, flags, seq);
                write_link(writer, 0, 0);
                writer.text(IFLA_IFNAME, name.as_str());
                message
            },
            |message| found = found.take().or_else(|| read_link(message)),
        );
        match asked {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(ENODEV) => return Ok(None),
            Err(error) => return Err(error),
        }
        match found {
            Some((link, true)) => Ok(Some(link)),
            Some((_, false)) => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("device {name} is not a dummy device: choose another name"),
            )),
            None => Err(io::Error::other("the kernel reported no device")),
        }
    }

    fn addresses(&mut self, index: u32) -> io::Result<BTreeSet<IpAddr>> {
        self.requests.dump(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETADDR, flags, seq);
                writer.raw(&[0; ADDRESS_LEN]);
                message
            },
            |found: &mut BTreeSet<IpAddr>, message| found.extend(read_address(message, index)),
        )
    }

    fn routes(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        self.requests.dump(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETROUTE, flags, seq);
                writer.raw(&[0; ROUTE_LEN]);
                message
            },
            |found: &mut BTreeSet<IpAddr>, message| found.extend(read_route(message)),
        )
    }
}

/// A change of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Bind(IpAddr),
    Unbind(IpAddr),
}

impl Change {
    /// Returns the change that an operation makes; `None` if it is for a virtual server.
    pub(super) fn of(op: &Op) -> Option<Self> {
        match op {
            Op::Bind(address) => Some(Self::Bind(*address)),
            Op::Unbind(address) => Some(Self::Unbind(*address)),
            Op::AddServer(..)
            | Op::SetServer(..)
            | Op::DeleteServer(_)
            | Op::AddReal(..)
            | Op::SetReal(..)
            | Op::DeleteReal(..) => None,
        }
    }
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    is_up: bool,
}

/// Returns copies of an error.
fn copies(error: &io::Error) -> impl Iterator<Item = io::Error> {
    std::iter::repeat_with(|| match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    })
}

/// Writes `struct ifinfomsg`: the device (0 if it is identified by name), and flags to set.
fn write_link(writer: &mut Writer, index: u32, flags: u32) {
    writer.raw(&[0; 4]);
    writer.raw(&index.to_ne_bytes());
    writer.raw(&flags.to_ne_bytes());
    // The mask of flags to change.
    writer.raw(&flags.to_ne_bytes());
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

fn write_route(writer: &mut Writer, kind: u16, flags: u16, seq: u32, address: IpAddr) -> Open {
    let message = writer.header(kind, flags, seq);
    let (family, bits) = family_and_bits(address);
    writer.raw(&[family, bits, 0, 0, RT_TABLE_LOCAL, PROTOCOL, RT_SCOPE_HOST, RTN_LOCAL]);
    writer.raw(&[0; 4]);
    with_octets(address, |octets| writer.attribute(RTA_DST, octets));
    writer.ne32(RTA_OIF, LOOPBACK);
    message
}

/// Reads a device, and whether it is a dummy device.
fn read_link(message: &Message<'_>) -> Option<(Link, bool)> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let index = u32_at(message.payload, 4)?;
    let is_up = u32_at(message.payload, 8)? & UP != 0;
    let info = attributes(message.payload.get(LINK_LEN..)?).nested(IFLA_LINKINFO);
    let is_dummy = info.and_then(|info| info.text(IFLA_INFO_KIND)) == Some(DUMMY);
    Some((Link { index, is_up }, is_dummy))
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

/// Reads the address of one of our local routes.
fn read_route(message: &Message<'_>) -> Option<IpAddr> {
    let &[family, bits, _, _, table, protocol, _, kind, ..] = message.payload else { return None };
    let is_ours = (table, protocol, kind) == (RT_TABLE_LOCAL, PROTOCOL, RTN_LOCAL);
    if message.kind != RTM_NEWROUTE || !is_ours {
        return None;
    }
    single(family, bits, attributes(message.payload.get(ROUTE_LEN..)?).find(RTA_DST)?)
}

/// Returns the address if it is a single address and not a network.
fn single(family: u8, bits: u8, octets: &[u8]) -> Option<IpAddr> {
    let address = if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        IpAddr::from(octets)
    } else {
        IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)
    };
    ((family, bits) == family_and_bits(address)).then_some(address)
}

fn family_and_bits(address: IpAddr) -> (u8, u8) {
    let (family, bits) = match address {
        IpAddr::V4(_) => (AF_INET, 32),
        IpAddr::V6(_) => (AF_INET6, 128),
    };
    (u8::try_from(family).unwrap_or(0), bits)
}

fn with_octets(address: IpAddr, f: impl FnOnce(&[u8])) {
    match address {
        IpAddr::V4(address) => f(&address.octets()),
        IpAddr::V6(address) => f(&address.octets()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use nix::libc::{EADDRNOTAVAIL, EEXIST};
    use rulec_testkit::{Namespace, require_root};

    use super::*;
    use crate::ipvs::Device;
    use crate::netlink::messages;

    const V4: [u8; 4] = [10, 96, 0, 10];

    /// Runs all readers: none may panic, whatever the bytes are.
    pub(in super::super) fn read_all(message: &Message<'_>) {
        let _ = read_link(message);
        let _ = read_address(message, 7);
        let _ = read_route(message);
        for kind in [RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE] {
            let message = Message { kind, ..*message };
            let _ = (read_link(&message), read_address(&message, 7), read_route(&message));
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
            // AF_INET6, to /128, from anywhere, the table local, our protocol, local
            10, 128, 0, 0,  255, 114, 254, 2,  0, 0, 0, 0,
            // RTA_DST, RTA_OIF
            20, 0,  1, 0,  0xfd, 0, 0, 0x96, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x0a,
            8, 0,  4, 0,  1, 0, 0, 0,
        ];
        let address = "fd00:96::a".parse().unwrap();
        assert_eq!(written(|it| write_route(it, RTM_NEWROUTE, flags, 3, address)), expected);
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

        let bytes = written(|it| write_route(it, RTM_NEWROUTE, 1, 3, address));
        let read = |bytes: &[u8]| read_route(&messages(bytes).next().unwrap());
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
                let message = writer.header(RTM_NEWLINK, 0, 3);
                write_link(writer, 7, flags);
                if let Some(kind) = kind {
                    let nest = writer.nest(IFLA_LINKINFO);
                    writer.text(IFLA_INFO_KIND, kind);
                    writer.close_nest(nest);
                }
                message
            });
            read_link(&messages(&bytes).next().unwrap()).unwrap()
        };
        assert_eq!(link(Some("dummy"), UP), (Link { index: 7, is_up: true }, true));
        assert_eq!(link(Some("dummy"), 0), (Link { index: 7, is_up: false }, true));
        assert_eq!(link(Some("veth"), UP), (Link { index: 7, is_up: true }, false));
        assert_eq!(link(None, UP), (Link { index: 7, is_up: true }, false), "as eth0");
    }

    /// Returns the indices of the refused changes, with their error numbers.
    fn refused(found: Vec<(usize, io::Error)>) -> Vec<(usize, Option<i32>)> {
        found.into_iter().map(|(idx, error)| (idx, error.raw_os_error())).collect()
    }

    #[test]
    fn local_routes_are_bound_and_removed_without_touching_others() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("routes");
        namespace.sh("ip route add local 10.96.7.7/32 dev lo table local
             ip route add local 10.97.0.0/16 dev lo table local proto 114");
        let [one, two]: [IpAddr; 2] = [V4.into(), "fd00:96::a".parse().unwrap()];
        let options = Options { addresses: Addresses::LocalRoutes, ..Options::default() };
        namespace.run(|| {
            let mut bound = Bound::open(options).unwrap();
            bound.prepare().unwrap();
            assert_eq!(bound.read().unwrap(), BTreeSet::new());
            let changes = [
                Change::Bind(one),
                Change::Bind(one),
                Change::Bind(two),
                Change::Unbind("10.96.7.7".parse().unwrap()),
                Change::Bind("10.96.0.11".parse().unwrap()),
                Change::Unbind("10.96.0.11".parse().unwrap()),
                Change::Unbind("fd00:96::b".parse().unwrap()),
                Change::Bind(two),
            ];
            let found = refused(bound.apply(&changes).unwrap());
            let errors = [(1, EEXIST), (3, ESRCH), (6, ESRCH), (7, EEXIST)];
            assert_eq!(found, errors.map(|(idx, errno)| (idx, Some(errno))));
            assert_eq!(bound.read().unwrap(), BTreeSet::from([one, two]));
            assert!(namespace.sh("ip route get 10.96.0.10").starts_with("local "));
            assert!(namespace.sh("ip route get fd00:96::a").starts_with("local "));

            bound.cleanup().unwrap();
            assert_eq!(bound.read().unwrap(), BTreeSet::new());
        });
        let left = namespace.sh("ip route show table local; ip -6 route show table local");
        assert!(left.contains("local 10.96.7.7 ") && left.contains("10.97.0.0/16"), "{left}");
        assert!(!left.contains("10.96.0.1") && !left.contains("fd00:96::"), "{left}");
    }

    #[test]
    fn a_device_of_another_kind_is_left_alone() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("kind");
        namespace.sh("ip link add eth7 type veth peer name eth8
             ip addr add 192.0.2.1/32 dev eth7");
        let device: Device = "eth7".parse().unwrap();
        namespace.run(|| {
            let mut bound = Bound::open(Options { device, ..Options::default() }).unwrap();
            assert!(bound.read().unwrap_err().to_string().contains("eth7 is not a dummy device"));
            let changes = [Change::Bind(V4.into()), Change::Unbind("192.0.2.1".parse().unwrap())];
            let found = bound.apply(&changes).unwrap();
            assert_eq!(found.len(), 2);
            assert!(found[1].1.to_string().contains("choose another name"), "{found:?}");
            assert!(bound.cleanup().is_err());
        });
        assert!(namespace.sh("ip addr show dev eth7").contains("192.0.2.1/32"));
    }

    #[test]
    fn missing_dummy_devices_are_reported_with_the_alternative() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("dummy");
        let changes = [Change::Unbind(V4.into()), Change::Bind(V4.into())];
        let found = namespace.run(|| {
            let mut bound = Bound::open(Options::default()).unwrap();
            assert_eq!(bound.read().unwrap(), BTreeSet::new(), "without a device");
            assert_eq!(
                refused(bound.apply(&changes[..1]).unwrap()),
                [(0, Some(ENODEV))],
                "a device is not created to remove an address"
            );
            bound.apply(&changes).unwrap()
        });
        let device = namespace.command("ip", ["link", "show", "kube-ipvs0"]).output().unwrap();
        if device.status.success() {
            assert_eq!(refused(found), [(0, Some(EADDRNOTAVAIL))], "this kernel supports them");
            return;
        }
        assert_eq!(found.len(), 2, "no change was made");
        let error = &found[1].1;
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("--ipvs-addresses local-routes"), "{error}");
    }
}
