//! Removes the routes to Services that `--service-route` has set.

use std::collections::BTreeSet;

use anyhow::Context;
use ipnet::IpNet;
use rulec_sinks::ServiceRoutes;

/// Removes all routes to Services, and returns their networks.
///
/// # Errors
///
/// If the kernel refuses.
pub fn remove() -> anyhow::Result<BTreeSet<IpNet>> {
    let removed = ServiceRoutes::open().and_then(|mut routes| routes.keep_only(&BTreeSet::new()));
    removed.context("removing the route to Services")
}
