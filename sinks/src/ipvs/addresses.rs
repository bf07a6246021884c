//! The addresses that make this node answer for virtual servers: on a dummy device, or as local
//! routes.
//!
//! A packet reaches IPVS only if its destination is a local address of the node. Both ways achieve
//! that; other tools know the device from kube-proxy, and routes need no driver.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use nix::libc::{ENODEV, EOPNOTSUPP, ESRCH};
use rulec_compiler::ipvs::Op;

use super::{Addresses, Options};
use crate::rtnetlink::{AddressChange, Link, ROUTE_PROTOCOL, Rtnetlink};

/// Our addresses on this node.
pub(super) struct Bound {
    rtnetlink: Rtnetlink,
    options: Options,
}

impl Bound {
    pub(super) fn open(options: Options) -> io::Result<Self> {
        Ok(Self { rtnetlink: Rtnetlink::open()?, options })
    }

    /// Reads them.
    pub(super) fn read(&mut self) -> io::Result<BTreeSet<IpAddr>> {
        match self.options.addresses {
            Addresses::Dummy => match self.link()? {
                Some(link) => self.rtnetlink.addresses(link.index),
                None => Ok(BTreeSet::new()),
            },
            Addresses::LocalRoutes => self.rtnetlink.local_routes(ROUTE_PROTOCOL),
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
    pub(super) fn apply(
        &mut self,
        changes: &[AddressChange],
    ) -> io::Result<Vec<(usize, io::Error)>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        match self.options.addresses {
            Addresses::Dummy => self.change_addresses(changes),
            Addresses::LocalRoutes => self.rtnetlink.change_local_routes(ROUTE_PROTOCOL, changes),
        }
    }

    /// Deletes the device with its addresses, and our routes, if they exist: the options may have
    /// been different before.
    pub(super) fn cleanup(&mut self) -> io::Result<()> {
        if let Some(link) = self.link()? {
            self.rtnetlink.delete(link.index)?;
        }
        let routes = self.rtnetlink.local_routes(ROUTE_PROTOCOL)?;
        let routes: Vec<AddressChange> = routes.into_iter().map(AddressChange::Remove).collect();
        let refused = self.rtnetlink.change_local_routes(ROUTE_PROTOCOL, &routes)?;
        // It does not matter if another process has deleted a route just now.
        let refused = refused.into_iter().map(|(_, error)| error);
        let mut refused = refused.filter(|error| error.raw_os_error() != Some(ESRCH));
        refused.next().map_or(Ok(()), Err)
    }

    fn change_addresses(
        &mut self,
        changes: &[AddressChange],
    ) -> io::Result<Vec<(usize, io::Error)>> {
        let has_binds = changes.iter().any(|change| matches!(change, AddressChange::Add(_)));
        let device = if has_binds { self.device() } else { self.existing_device() };
        let index = match device {
            Ok(index) => index,
            Err(error) if self.rtnetlink.has_failed() => return Err(error),
            Err(error) => return Ok((0..changes.len()).zip(copies(&error)).collect()),
        };
        self.rtnetlink.change_addresses(index, changes)
    }

    /// Returns the index of the device, which is created if it is absent.
    fn device(&mut self) -> io::Result<u32> {
        match self.link()? {
            Some(Link { index, is_up: true, .. }) => return Ok(index),
            Some(Link { index, is_up: false, .. }) => {
                self.rtnetlink.set_up(index)?;
                return Ok(index);
            }
            None => {}
        }
        let name = &self.options.device;
        let made = self.rtnetlink.add_dummy(name.as_str());
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
        match self.rtnetlink.link(name.as_str())? {
            Some(link) if !link.is_dummy => Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("device {name} is not a dummy device: choose another name"),
            )),
            link => Ok(link),
        }
    }
}

/// Returns the change that an operation makes; `None` if it is for a virtual server.
pub(super) fn change_of(op: &Op) -> Option<AddressChange> {
    match op {
        Op::Bind(address) => Some(AddressChange::Add(*address)),
        Op::Unbind(address) => Some(AddressChange::Remove(*address)),
        Op::AddServer(..)
        | Op::SetServer(..)
        | Op::DeleteServer(_)
        | Op::AddReal(..)
        | Op::SetReal(..)
        | Op::DeleteReal(..) => None,
    }
}

/// Returns copies of an error.
fn copies(error: &io::Error) -> impl Iterator<Item = io::Error> {
    std::iter::repeat_with(|| match error.raw_os_error() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::new(error.kind(), error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use nix::libc::{EADDRNOTAVAIL, EEXIST};
    use rulec_testkit::{Namespace, require_root};

    use super::*;
    use crate::ipvs::Device;

    const V4: [u8; 4] = [10, 96, 0, 10];

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
                AddressChange::Add(one),
                AddressChange::Add(one),
                AddressChange::Add(two),
                AddressChange::Remove("10.96.7.7".parse().unwrap()),
                AddressChange::Add("10.96.0.11".parse().unwrap()),
                AddressChange::Remove("10.96.0.11".parse().unwrap()),
                AddressChange::Remove("fd00:96::b".parse().unwrap()),
                AddressChange::Add(two),
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
            let changes = [
                AddressChange::Add(V4.into()),
                AddressChange::Remove("192.0.2.1".parse().unwrap()),
            ];
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
        let changes = [AddressChange::Remove(V4.into()), AddressChange::Add(V4.into())];
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
