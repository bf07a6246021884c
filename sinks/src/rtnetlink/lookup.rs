//! The routes that the kernel chooses for packets of this node, and its devices.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use nix::libc::{
    EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA, IFLA_INFO_SLAVE_KIND, IFLA_LINKINFO, IFLA_MASTER, RTA_DST, RTA_OIF,
    RTM_GETLINK, RTM_GETROUTE, RTM_NEWLINK, RTM_NEWROUTE, RTN_BLACKHOLE, RTN_LOCAL, RTN_PROHIBIT,
    RTN_THROW, RTN_UNREACHABLE,
};
use rulec_compiler::net::Family;

use super::{LINK_LEN, ROUTE_LEN, family_and_bits, with_octets, write_link};
use crate::netlink::{Bus, Message, Requests, attributes, u32_at};

/// From <linux/if_link.h>.
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;

const BRIDGE: &str = "bridge";

/// What the kernel does with packets of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The address is the node's own.
    Own,
    /// They leave through the device with this index.
    Device(u32),
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its kind, if it is not a physical device: `veth`, for example.
    pub kind: String,
    /// What a bridge is set to, if it is one.
    pub bridge: Option<Bridge>,
    /// The bridge that it is a port of, if any.
    pub port: Option<Port>,
}

/// The settings of a bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bridge {
    /// The families whose bridged packets pass the IP hooks of netfilter, whatever the sysctl says.
    pub filters: Vec<Family>,
}

/// The settings of a port of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// The index of the bridge.
    pub bridge: u32,
    /// Whether a packet may leave by the port that it came in by.
    pub hairpin: bool,
}

/// Asks the kernel about its routes and devices, in the network namespace of the thread that opened
/// it.
pub struct Lookup(Requests);

impl Lookup {
    /// Opens rtnetlink.
    ///
    /// # Errors
    ///
    /// If it is not available.
    pub fn open() -> io::Result<Self> {
        Ok(Self(Requests::open(Bus::Route)?))
    }

    /// Returns the way of packets of this node to an address; `None` if there is no route.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked.
    pub fn way(&mut self, to: IpAddr) -> io::Result<Option<Way>> {
        let mut found = None;
        let asked = self.0.ask(
            |writer, flags, seq| {
                let message = writer.header(RTM_GETROUTE, flags, seq);
                let (family, bits) = family_and_bits(to);
                writer.raw(&[family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
                with_octets(to, |octets| writer.attribute(RTA_DST, octets));
                message
            },
            |message| found = found.take().or_else(|| read_way(message)),
        );
        match asked {
            Ok(()) => Ok(found),
            // No route, or one of type unreachable, prohibit or blackhole.
            Err(error) => match error.raw_os_error() {
                Some(ENETUNREACH | EHOSTUNREACH | EACCES | EINVAL) if !self.0.has_failed() => {
                    Ok(None)
                }
                Some(_) | None => Err(error),
            },
        }
    }

    /// Returns all devices by index.
    ///
    /// # Errors
    ///
    /// If the kernel cannot be asked, or its devices change all the time.
    pub fn devices(&mut self) -> io::Result<BTreeMap<u32, Device>> {
        self.0.dump(
            |writer, flags, seq| write_link(writer, RTM_GETLINK, flags, seq, 0, 0),
            |found: &mut BTreeMap<u32, Device>, message| found.extend(read_device(message)),
        )
    }
}

pub(super) fn read_way(message: &Message<'_>) -> Option<Way> {
    let &[_, _, _, _, _, _, _, kind, ..] = message.payload else { return None };
    if message.kind != RTM_NEWROUTE {
        return None;
    }
    match kind {
        RTN_LOCAL => Some(Way::Own),
        RTN_UNREACHABLE | RTN_PROHIBIT | RTN_BLACKHOLE | RTN_THROW => None,
        _ => attributes(message.payload.get(ROUTE_LEN..)?).ne32(RTA_OIF).map(Way::Device),
    }
}

pub(super) fn read_device(message: &Message<'_>) -> Option<(u32, Device)> {
    if message.kind != RTM_NEWLINK {
        return None;
    }
    let index = u32_at(message.payload, 4)?;
    let attributes = attributes(message.payload.get(LINK_LEN..)?);
    let name = attributes.clone().text(IFLA_IFNAME)?.to_owned();
    let info = attributes.clone().nested(IFLA_LINKINFO);
    let of = |which| info.clone().and_then(|info| info.text(which));
    let data = |which| info.clone().and_then(|info| info.nested(which));
    let byte = |value: &[u8]| value.first().is_some_and(|byte| *byte != 0);
    let kind = of(IFLA_INFO_KIND).unwrap_or_default();
    let bridge = (kind == BRIDGE).then(|| {
        let is_on = |which| {
            let data = data(IFLA_INFO_DATA);
            data.and_then(|data| data.find(which)).is_some_and(byte)
        };
        let filters =
            [(Family::Ipv4, IFLA_BR_NF_CALL_IPTABLES), (Family::Ipv6, IFLA_BR_NF_CALL_IP6TABLES)];
        let filters = filters.into_iter().filter(|(_, which)| is_on(*which));
        Bridge { filters: filters.map(|(family, _)| family).collect() }
    });
    let port = attributes.ne32(IFLA_MASTER).and_then(|bridge| {
        let mode = data(IFLA_INFO_SLAVE_DATA).and_then(|data| data.find(IFLA_BRPORT_MODE));
        let is_port = of(IFLA_INFO_SLAVE_KIND) == Some(BRIDGE);
        is_port.then(|| Port { bridge, hairpin: mode.is_some_and(byte) })
    });
    Some((index, Device { name, kind: kind.to_owned(), bridge, port }))
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, Instant};

    use rulec_testkit::{Namespace, require_root};

    use super::*;

    /// Runs all readers: none may panic, whatever the bytes are.
    pub(in crate::rtnetlink) fn read_all(message: &Message<'_>) {
        for kind in [RTM_NEWROUTE, RTM_NEWLINK] {
            let message = Message { kind, ..*message };
            let _ = (read_way(&message), read_device(&message));
        }
    }

    #[test]
    fn ways_and_missing_ways_are_told_apart() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("ways");
        namespace.sh("ip link add up0 type veth peer name up1
             ip link set up0 up
             ip link set up1 up
             ip addr add 192.0.2.1/24 dev up0
             ip addr add 2001:db8::1/64 dev up0 nodad
             ip route add unreachable 10.1.0.0/16
             ip route add blackhole 10.2.0.0/16
             ip route add prohibit 10.3.0.0/16
             ip route add unreachable 2001:db8:1::/64
             ip route add blackhole 2001:db8:2::/64");
        namespace.run(|| {
            let mut lookup = Lookup::open().unwrap();
            let devices = lookup.devices().unwrap();
            let (index, device) = devices.iter().find(|(_, it)| it.name == "up0").unwrap();
            assert_eq!((device.kind.as_str(), &device.bridge, device.port), ("veth", &None, None));
            let mut way = |to: &str| lookup.way(to.parse().unwrap()).unwrap();
            // The kernel makes the route of an own IPv6 address in the background.
            let until = Instant::now() + Duration::from_secs(30);
            while way("2001:db8::1") != Some(Way::Own) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            for to in ["192.0.2.9", "2001:db8::9"] {
                assert_eq!(way(to), Some(Way::Device(*index)), "{to}");
            }
            for to in ["192.0.2.1", "2001:db8::1", "127.0.0.7", "::1"] {
                assert_eq!(way(to), Some(Way::Own), "{to}");
            }
            let without = ["10.1.0.1", "10.2.0.1", "10.3.0.1", "10.4.0.1"];
            for to in without.into_iter().chain(["2001:db8:1::1", "2001:db8:2::1", "fd00::1"]) {
                assert_eq!(way(to), None, "{to}");
            }
        });
    }

    #[test]
    fn bridges_and_their_ports_are_read_with_their_settings() {
        if !require_root() {
            return;
        }
        let namespace = Namespace::new("bridges");
        namespace.sh("ip link add br0 type bridge
             ip link add br1 type bridge nf_call_ip6tables 1
             ip link add p0 type veth peer name q0
             ip link add p1 type veth peer name q1
             ip link set p0 master br1
             ip link set p1 master br1
             ip link set p1 type bridge_slave hairpin on");
        let devices = namespace.run(|| Lookup::open().unwrap().devices().unwrap());
        let of = |name: &str| devices.iter().find(|(_, it)| it.name == name).unwrap();
        let bridge = |name| of(name).1.bridge.clone();
        assert_eq!(bridge("br0"), Some(Bridge::default()));
        assert_eq!(bridge("br1"), Some(Bridge { filters: vec![Family::Ipv6] }));
        let br1 = *of("br1").0;
        for (name, hairpin) in [("p0", false), ("p1", true)] {
            assert_eq!(of(name).1.port, Some(Port { bridge: br1, hairpin }), "{name}");
        }
        assert_eq!(of("q0").1.port, None);
    }
}
