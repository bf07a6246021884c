//! The addresses of this node's interfaces, as the kernel has them.
//!
//! An announcement of the kernel only says when to look: all addresses are then listed, and sent if
//! they differ from those before. So the order of announcements and lists does not matter, nor on
//! how many interfaces an address is, nor whether an announcement was lost. A burst of
//! announcements costs one list.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use im::OrdSet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, TokioSocket};
use nix::errno::Errno;
use rulec_compiler::change::{Change, Origin, Provenance, Sourced};
use rulec_compiler::object::{InterfaceAddresses, Kind, Object};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::error::SourceError;
use crate::rtnetlink;
use crate::update::Update;

/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` of <linux/rtnetlink.h>.
const GROUPS: [u32; 2] = [5, 9];

/// How long to wait after a failed list.
const RETRY: Duration = Duration::from_secs(1);

/// Watches the addresses of all interfaces, in the network namespace of the thread that runs it.
#[derive(Clone, Debug)]
pub struct InterfaceSource {
    /// How often the addresses are listed although the kernel has announced nothing.
    pub relist: Duration,
    /// An interface whose addresses are ignored, since we have put them there ourselves.
    pub except: Option<String>,
}

impl Default for InterfaceSource {
    fn default() -> Self {
        Self { relist: Duration::from_secs(60), except: None }
    }
}

impl InterfaceSource {
    /// Sends the addresses now and whenever they change, until the receiver is dropped.
    ///
    /// # Errors
    ///
    /// [`SourceError::Interfaces`] if rtnetlink is not available, or the socket breaks. A list that
    /// fails is retried; until then the last one stays in force.
    pub async fn run(self, out: mpsc::Sender<Update>) -> Result<(), SourceError> {
        // Announcements first: a change during the first list is seen twice rather than never.
        let mut announcements = Announcements::open().map_err(SourceError::Interfaces)?;
        let mut told: Option<InterfaceAddresses> = None;
        let mut failed = false;
        loop {
            let except = self.except.as_deref().and_then(index);
            let wait = match list(except) {
                Ok(addresses) => {
                    failed = false;
                    if told.as_ref() != Some(&addresses) {
                        debug!(count = addresses.addresses.len(), "addresses of the interfaces");
                        if out.send(update(addresses.clone(), told.is_none())).await.is_err() {
                            return Ok(());
                        }
                        told = Some(addresses);
                    }
                    self.relist
                }
                Err(error) => {
                    if !std::mem::replace(&mut failed, true) {
                        warn!(%error, "cannot list interface addresses, will keep retrying");
                    }
                    RETRY
                }
            };
            tokio::select! {
                () = out.closed() => return Ok(()),
                announced = announcements.next(except) => announced.map_err(SourceError::Interfaces)?,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

/// Lists the addresses of all interfaces but one in the calling thread's network namespace, once,
/// for tools.
///
/// # Errors
///
/// [`SourceError::Interfaces`] if the kernel refuses, or the addresses change too often to be
/// listed.
pub fn read_interfaces(except: Option<&str>) -> Result<Sourced, SourceError> {
    Ok(sourced(list(except.and_then(index)).map_err(SourceError::Interfaces)?))
}

fn sourced(addresses: InterfaceAddresses) -> Sourced {
    let object = Object::InterfaceAddresses(Arc::new(addresses));
    Sourced { object, provenance: Provenance("interfaces".into()) }
}

fn update(addresses: InterfaceAddresses, is_first: bool) -> Update {
    let sourced = sourced(addresses);
    let change = if is_first {
        Change::Replace { kinds: &[Kind::InterfaceAddresses], objects: vec![sourced] }
    } else {
        Change::Apply(sourced)
    };
    Update {
        origin: Origin::Kernel,
        changes: vec![change],
        triggers: Vec::new(),
        complete: true,
        unread: 0,
        unavailable: false,
        stale: None,
        positions: None,
        suppressed: 0,
        problems: OrdSet::new(),
    }
}

/// A socket that receives the kernel's announcements of added, changed and removed addresses.
struct Announcements(TokioSocket);

impl Announcements {
    fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind_auto()?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group)?;
        }
        Ok(Self(socket))
    }

    /// Waits for announcements about other interfaces than `except`, and takes all that are there.
    async fn next(&mut self, except: Option<u32>) -> io::Result<()> {
        // Only the interface is read from each announcement; the rest is cut off.
        let mut room = [0_u8; ANNOUNCED_BYTES];
        let mut counts = false;
        let mut received = self.0.recv(&mut room.as_mut_slice()).await;
        loop {
            match received {
                Ok(()) => counts |= except.is_none() || announced(&room) != except,
                // Some announcements were lost. A new list includes their changes.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => counts = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && counts => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    received = self.0.recv(&mut room.as_mut_slice()).await;
                    continue;
                }
                Err(error) => return Err(error),
            }
            received = self.0.socket_ref().recv(&mut room.as_mut_slice(), 0).map(drop);
        }
    }
}

/// The bytes of an announcement up to the index of its interface: `struct nlmsghdr` and
/// `struct ifaddrmsg`.
const ANNOUNCED_BYTES: usize = 24;

/// Returns the index of the interface that an announcement is about.
fn announced(room: &[u8; ANNOUNCED_BYTES]) -> Option<u32> {
    let (_, index) = room.split_last_chunk()?;
    Some(u32::from_ne_bytes(*index))
}

/// Returns the index of an interface, if there is one of this name.
fn index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Lists the addresses except those of one interface.
fn list(except: Option<u32>) -> io::Result<InterfaceAddresses> {
    let ask = || RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let found: BTreeSet<IpAddr> = rtnetlink::list(ask, |found: &mut BTreeSet<IpAddr>, answer| {
        if let RouteNetlinkMessage::NewAddress(one) = answer
            && Some(one.header.index) != except
        {
            found.extend(address(one));
        }
    })?;
    let primary = primary(&found);
    Ok(InterfaceAddresses { addresses: found.into_iter().collect(), primary })
}

/// Addresses that no host has (RFC 7600, RFC 6666), so that only a default route leads to them.
const NOBODY: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8))),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1))),
];

/// Returns one address of each family: the source address that the kernel selects for the default
/// route, as a kubelet chooses its node's; without such a route, the only address, if there is just
/// one.
fn primary(found: &BTreeSet<IpAddr>) -> Vec<IpAddr> {
    let of_family = |(unspecified, nobody): (IpAddr, IpAddr)| {
        let usable = |address: &&IpAddr| {
            let is_of_link =
                matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
            address.is_ipv4() == nobody.is_ipv4() && !address.is_loopback() && !is_of_link
        };
        let by_route = route_source(unspecified, nobody);
        by_route.filter(|address| found.contains(address) && usable(&address)).or_else(|| {
            let mut all = found.iter().filter(usable);
            all.next().filter(|_| all.next().is_none()).copied()
        })
    };
    NOBODY.into_iter().filter_map(of_family).collect()
}

/// Returns the source address that the kernel would select. Connecting a datagram socket looks up
/// the route and sends nothing.
fn route_source(unspecified: IpAddr, to: IpAddr) -> Option<IpAddr> {
    const DISCARD: u16 = 9;
    let socket = UdpSocket::bind((unspecified, 0)).ok()?;
    socket.connect((to, DISCARD)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Returns the address that a message is about, if the kernel accepts packets to it.
///
/// A deprecated address still receives packets; it is only no source of new connections (RFC 4862,
/// section 5.5.4). An address that another host has (DAD failed), or whose check has not ended yet
/// (tentative), has no local route: the kernel adds the route after the check, and then announces
/// the address again. An optimistic address has its route from the beginning (RFC 4429).
pub(crate) fn address(message: &AddressMessage) -> Option<IpAddr> {
    let flags = flags(message);
    let is_unchecked =
        flags.contains(AddressFlags::Tentative) && !flags.contains(AddressFlags::Optimistic);
    if flags.contains(AddressFlags::Dadfailed) || is_unchecked {
        return None;
    }
    let of = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    // On point-to-point links, `Address` is the peer's.
    let local = of(|it| if let AddressAttribute::Local(ip) = it { Some(*ip) } else { None });
    local.or_else(|| of(|it| if let AddressAttribute::Address(ip) = it { Some(*ip) } else { None }))
}

/// Returns all flags: the header has room for only eight of them.
fn flags(message: &AddressMessage) -> AddressFlags {
    let all = message.attributes.iter().find_map(|attribute| {
        if let AddressAttribute::Flags(flags) = attribute { Some(*flags) } else { None }
    });
    all.unwrap_or(AddressFlags::from_bits_retain(message.header.flags.bits().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flags: AddressFlags, attributes: &[AddressAttribute]) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.attributes = attributes.to_vec();
        message.attributes.push(AddressAttribute::Flags(flags));
        message
    }

    #[test]
    fn only_addresses_that_receive_packets_count() {
        let ip: IpAddr = "2001:db8::1".parse().unwrap();
        let counts = |flags| address(&message(flags, &[AddressAttribute::Address(ip)])).is_some();
        let (permanent, tentative) = (AddressFlags::Permanent, AddressFlags::Tentative);
        assert!(counts(AddressFlags::empty()));
        assert!(counts(permanent | AddressFlags::Deprecated));
        assert!(counts(permanent | AddressFlags::Secondary));
        assert!(counts(tentative | AddressFlags::Optimistic));
        assert!(!counts(permanent | tentative));
        assert!(!counts(permanent | tentative | AddressFlags::Dadfailed));
        assert!(!counts(tentative | AddressFlags::Optimistic | AddressFlags::Dadfailed));
    }

    #[test]
    fn without_a_route_the_only_address_of_a_family_is_primary() {
        // Addresses that this machine does not have, so its routes do not prefer any.
        let of = |all: &[&str]| primary(&all.iter().map(|ip| ip.parse().unwrap()).collect());
        let ips =
            |all: &[&str]| -> Vec<IpAddr> { all.iter().map(|ip| ip.parse().unwrap()).collect() };
        let link = ["127.0.0.1", "::1", "fe80::7"];
        assert_eq!(of(&link), ips(&[]));
        let one = ["198.51.100.7", "2001:db8::77"];
        assert_eq!(of(&[&link[..], &one].concat()), ips(&one));
        let two = [&one[..], &["203.0.113.7"]].concat();
        assert_eq!(of(&two), ips(&["2001:db8::77"]), "ambiguous");
    }

    #[test]
    fn a_peer_address_is_not_ours() {
        let [own, peer] = ["192.0.2.1", "192.0.2.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let none = AddressFlags::empty();
        let (local, remote) = (AddressAttribute::Local(own), AddressAttribute::Address(peer));
        assert_eq!(address(&message(none, &[remote.clone(), local.clone()])), Some(own));
        assert_eq!(address(&message(none, &[local, remote])), Some(own));
        assert_eq!(address(&message(none, &[])), None);
    }

    #[test]
    fn header_flags_apply_without_a_flags_attribute() {
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address("2001:db8::1".parse().unwrap())];
        assert!(address(&message).is_some());
        message.header.flags = netlink_packet_route::address::AddressHeaderFlags::Tentative;
        assert_eq!(address(&message), None);
    }
}
