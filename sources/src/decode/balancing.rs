//! The annotations for load balancing: of a Service, and the weights of a Pod or an EndpointSlice.

use rulec_compiler::load_balancing::{LoadBalancing, Weight};

use super::annotations::word;
use super::at::At;
use super::check::Check;
use super::document::Annotations;

const LOAD_BALANCING: &str = "rulec.io/load-balancing";
pub(crate) const WEIGHT: &str = "rulec.io/weight";
const CILIUM: &str = "service.cilium.io/lb-algorithm";

/// Returns the load balancing that a Service asks for. Cilium's annotation is used if ours is
/// absent.
pub(super) fn load_balancing(
    check: &mut Check<'_, '_>,
    annotations: &Annotations,
    at: &At<'_>,
) -> Option<LoadBalancing> {
    let own = word(check, &annotations.load_balancing, &at.key(LOAD_BALANCING), str::parse);
    own.or_else(|| word(check, &annotations.cilium_lb_algorithm, &at.key(CILIUM), of_cilium))
}

/// Returns the weight of a Pod, or of each endpoint of a slice.
pub(super) fn weight(check: &mut Check<'_, '_>, annotations: &Annotations, at: &At<'_>) -> Weight {
    word(check, &annotations.weight, &at.key(WEIGHT), str::parse).unwrap_or_default()
}

/// Cilium's algorithms. Its Maglev hashes both ends of a connection, as ours does: the frontend is
/// part of the group.
fn of_cilium(name: &str) -> Result<LoadBalancing, String> {
    match name {
        "random" => Ok(LoadBalancing::Random),
        "maglev" => Ok(LoadBalancing::Maglev),
        _ => Err(format!("{name:?} is neither random nor maglev: use {LOAD_BALANCING}")),
    }
}
