//! The routes and devices of the kernel.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use anyhow::Context;
use nix::errno::Errno;
use rulec_compiler::net::Family;
use rulec_sinks::{Device, Lookup, Way};

use super::Needs;

/// Returns whether the kernel has no such family.
fn is_off(error: &io::Error) -> bool {
    let code = error.raw_os_error().map(Errno::from_raw);
    matches!(code, Some(Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT))
}

/// The ways to what Services need, and all devices.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    /// The ways to the addresses that matter; `None` if there is no route.
    pub(super) ways: BTreeMap<IpAddr, Option<Way>>,
    /// The devices by index.
    pub(super) devices: BTreeMap<u32, Device>,
}

impl Kernel {
    /// Reads what Services need.
    pub(super) fn read(needs: &Needs) -> anyhow::Result<Self> {
        let looking = "looking at routes and devices";
        let mut lookup = Lookup::open().context(looking)?;
        let mut ways = BTreeMap::new();
        for address in needs.addresses() {
            match lookup.way(address) {
                Ok(way) => drop(ways.insert(address, way)),
                // The family is switched off, so nothing can be said of it.
                Err(error) if is_off(&error) => {}
                Err(error) => return Err(error).context(looking),
            }
        }
        Ok(Self { ways, devices: lookup.devices().context(looking)? })
    }

    /// Returns the device that leads to an address, unless the address is the node's own.
    pub(super) fn device(&self, to: IpAddr) -> Option<(u32, &Device)> {
        let Some(Some(Way::Device(index))) = self.ways.get(&to) else { return None };
        Some((*index, self.devices.get(index)?))
    }

    /// Returns the families in which there are endpoints that are not on the node itself.
    pub(super) fn forwards(&self, needs: &Needs) -> Vec<Family> {
        let is_elsewhere = |family: Family| {
            let mut endpoints = needs.endpoints().filter(|it| Family::of(*it) == family);
            endpoints.any(|endpoint| self.device(endpoint).is_some())
        };
        Family::ALL.into_iter().filter(|family| is_elsewhere(*family)).collect()
    }
}
