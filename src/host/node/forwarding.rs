//! Whether the node forwards.

use std::collections::BTreeSet;

use rulec_compiler::net::Family;

use super::finding::version;
use super::{Finding, Kernel, Needs};

/// Returns the families, or the devices in the direction of endpoints, that are not forwarded.
/// Replies come from there, so a device that does not forward is in the way of all clients but the
/// node itself. IPv6 has one switch for all devices.
pub(super) fn find(
    needs: &Needs,
    kernel: &Kernel,
    setting: impl Fn(&str) -> Option<u32>,
) -> Vec<Finding> {
    let is_off = |family: Family, device: &str| {
        setting(&format!("{}/conf/{device}/forwarding", version(family))) == Some(0)
    };
    let of_family = |family: Family| {
        let is_all = is_off(family, "all");
        let endpoints = needs.endpoints().filter(|it| Family::of(*it) == family);
        let devices: BTreeSet<&str> =
            endpoints.filter_map(|it| Some(kernel.device(it)?.1.name.as_str())).collect();
        let off = devices.into_iter().filter(|device| match family {
            Family::Ipv4 => is_off(family, device),
            Family::Ipv6 => is_all,
        });
        let device = |device: &str| (!is_all).then(|| device.to_owned());
        off.map(|it| Finding::NoForwarding { family, device: device(it) }).collect()
    };
    let all: BTreeSet<Finding> =
        Family::ALL.into_iter().flat_map(|it| -> Vec<Finding> { of_family(it) }).collect();
    all.into_iter().collect()
}
