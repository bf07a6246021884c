//! What a Service leaves to be given out: cluster addresses, node ports and the port of its health
//! check. The rules are those by which an API server defaults a Service.

use rulec_compiler::net::Family;
use rulec_compiler::object::{AskedFamilies, Asks, ClusterIps, FamilyPolicy, ServicePort};

use super::at::At;
use super::check::Check;
use super::document::Spec;
use super::field::{Field, Text};
use super::surplus::Has;

/// What is written in a Service.
pub(super) struct Written<'a> {
    pub(super) cluster_ips: ClusterIps,
    pub(super) ports: &'a [ServicePort],
    /// Whether a load balancer checks the health of its endpoints at a port of its own.
    pub(super) is_checked: bool,
    pub(super) has_health_check: bool,
}

pub(super) fn asks(
    check: &mut Check<'_, '_>,
    spec: &Spec,
    has: Has,
    written: &Written<'_>,
    at: &At<'_>,
) -> Asks {
    let policy = family_policy(check, spec, at);
    // An API server has already given out everything.
    if check.is_admitted() || !has.addresses || is_headless(spec) {
        return Asks::default();
    }
    let ClusterIps { v4, v6 } = written.cluster_ips;
    let is_complete = match policy {
        FamilyPolicy::SingleStack => v4.is_some() || v6.is_some(),
        FamilyPolicy::PreferDualStack | FamilyPolicy::RequireDualStack => {
            v4.is_some() && v6.is_some()
        }
    };
    let allocates = check
        .get(&spec.allocate_load_balancer_node_ports, &at.key("allocateLoadBalancerNodePorts"))
        .copied()
        .unwrap_or(true);
    let has_gap = written.ports.iter().any(|port| port.node_port.is_none());
    Asks {
        cluster_ips: (!is_complete).then(|| AskedFamilies { policy, first: first_family(spec) }),
        node_ports: has.node_ports && (allocates || !has.balancer) && has_gap,
        health_check: written.is_checked && !written.has_health_check,
    }
}

/// Returns whether the Service has no cluster address on purpose.
pub(super) fn is_headless(spec: &Spec) -> bool {
    let is_none = |field: &Field<Text>| matches!(field, Field::Is(text) if **text == *"None");
    let is_first = matches!(&spec.cluster_ips, Field::Is(all) if all.first().is_some_and(is_none));
    is_none(&spec.cluster_ip) || is_first
}

/// Returns the policy. A Service that names two families or addresses means both; unlike an API
/// server, this does not refuse it if there is a range for only one.
fn family_policy(check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) -> FamilyPolicy {
    let is_pair = |list: &Field<Vec<Field<Text>>>| matches!(list, Field::Is(all) if all.len() > 1);
    let single = ("SingleStack", FamilyPolicy::SingleStack);
    let prefer = ("PreferDualStack", FamilyPolicy::PreferDualStack);
    let require = ("RequireDualStack", FamilyPolicy::RequireDualStack);
    let at = at.key("ipFamilyPolicy");
    if is_pair(&spec.ip_families) || is_pair(&spec.cluster_ips) {
        return check.choice(&spec.ip_family_policy, &at, prefer, [require, single]);
    }
    check.choice(&spec.ip_family_policy, &at, single, [prefer, require])
}

/// Returns the first of the families. Invalid ones have been reported.
fn first_family(spec: &Spec) -> Option<Family> {
    let Field::Is(families) = &spec.ip_families else { return None };
    let Field::Is(word) = families.first()? else { return None };
    match &**word {
        "IPv4" => Some(Family::Ipv4),
        "IPv6" => Some(Family::Ipv6),
        _ => None,
    }
}
