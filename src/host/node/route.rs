//! Routes to the networks of Services.

use super::needs::sample;
use super::{Finding, Kernel, Needs};

/// Returns the networks that no route leads to.
pub(super) fn find(needs: &Needs, kernel: &Kernel) -> Vec<Finding> {
    let is_lost = |network: &&_| kernel.ways.get(&sample(network)).is_some_and(Option::is_none);
    let lost = needs.networks.iter().filter(is_lost);
    lost.map(|network| Finding::NoRoute { network: *network }).collect()
}
