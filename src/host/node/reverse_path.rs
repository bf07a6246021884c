//! The reverse path filter.
//!
//! In strict mode, the kernel drops an IPv4 packet that arrives on another device than the one that
//! packets to its source leave by. That depends on the client, so it is known only for one packet.

use rulec_compiler::net::Family;

use super::{Finding, Kernel, Needs};

/// `rp_filter`: strict. Of the setting of a device and that of all, the higher one counts.
const STRICT: u32 = 1;

/// Returns whether packets of the client are dropped where they arrive.
pub(super) fn find(
    needs: &Needs,
    kernel: &Kernel,
    setting: impl Fn(&str) -> Option<u32>,
) -> Vec<Finding> {
    let found = needs.client.as_ref().and_then(|(client, device)| {
        let of = |name: &str| setting(&format!("ipv4/conf/{name}/rp_filter")).unwrap_or(0);
        let mode = of(device).max(of("all"));
        let (_, route) = kernel.device(*client)?;
        let is_dropped =
            Family::of(*client) == Family::Ipv4 && mode == STRICT && route.name != *device;
        is_dropped.then(|| Finding::ReversePath {
            client: *client,
            device: device.clone(),
            route: route.name.clone(),
        })
    });
    found.into_iter().collect()
}
