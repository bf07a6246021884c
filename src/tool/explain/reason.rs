//! The reasons for an outcome: objects and fields, as far as they are known.

use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::net::Backend;
use rulec_compiler::nft::Pick;
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::nft::set::View;
use rulec_compiler::object::TrafficPolicy;
use rulec_compiler::oracle::{Fate, Masquerade, Packet, Verdict};
use rulec_compiler::resolve::select::{Topology, topology};
use rulec_compiler::resolve::{Candidate, Place, candidates};

use super::{Explained, Served};
use crate::tool::input::{Side, condition};

/// Returns the reasons for an outcome. `silent` is a node port that does not answer at the
/// destination.
pub(super) fn of(
    side: &Side,
    packet: &Packet,
    served: Option<&Served>,
    silent: Option<Frontend>,
    outcome: &Fate,
) -> Vec<String> {
    let mut reasons = Vec::new();
    let owner = served.and_then(|served| served.owner.as_ref());
    if let (Some(served), Some(owner)) = (served, owner) {
        let asked = side.field_of(&owner.service, served.frontend);
        let unknown = || format!("Service {owner} serves {}", served.frontend);
        reasons.push(asked.map_or_else(unknown, |field| format!("{field}: {}", served.frontend)));
    }
    match (outcome.verdict, outcome.decided_in) {
        (Verdict::Backend(backend), _) => {
            reasons.extend(owner.and_then(|owner| side.sighting(owner, backend)));
        }
        (Verdict::Drop, Some(ChainId::Firewall)) => reasons.push(field(
            side,
            owner,
            &format!("spec.loadBalancerSourceRanges does not contain {}", packet.source),
        )),
        (Verdict::Drop, Some(ChainId::Pick(_, _, Pick::DROP))) => reasons.push(field(
            side,
            owner,
            "spec.internalTrafficPolicy is Local, and no endpoint is on this node",
        )),
        (Verdict::Drop, Some(ChainId::Outside(_))) => reasons.push(field(
            side,
            owner,
            &format!(
                "spec.externalTrafficPolicy is Local, no endpoint is on this node, and {} is neither a \
                 Pod nor this node",
                packet.source
            ),
        )),
        (Verdict::Drop, _) => reasons.push(range_of(side, packet)),
        (Verdict::Reject, _) if served.is_some() => {
            reasons.push(field(side, owner, "has no usable endpoint"));
        }
        (Verdict::Reject, _) => reasons.push(match packet.transport {
            Some((protocol, port)) => {
                format!("{} is a cluster address that has no port {port}/{protocol}", packet.destination)
            }
            None => format!("{} is a cluster address: only its ports answer", packet.destination),
        }),
        (Verdict::Pass, _) => reasons.push(match silent {
            Some(node_port) => {
                let address = packet.destination;
                format!("{node_port} does not answer at {address} (--nodeport-addresses)")
            }
            None => "no rule applies".to_owned(),
        }),
    }
    if outcome.decided_in.is_some_and(is_of_local_view) {
        let why = format!(
            "spec.externalTrafficPolicy is Local, and {} is neither a Pod nor this node: only \
             endpoints of this node",
            packet.source
        );
        reasons.push(field(side, owner, &why));
    }
    reasons.extend(outcome.masquerade.map(|why| match why {
        Masquerade::Mark => "masqueraded, so that replies return through this node".to_owned(),
        Masquerade::Hairpin => "masqueraded, because it returns to its source (hairpin)".to_owned(),
    }));
    reasons
}

/// Returns whether the outcome depends on which endpoints there are.
pub(super) fn is_for_endpoints(outcome: &Fate) -> bool {
    match outcome.verdict {
        Verdict::Backend(_) | Verdict::Reject => true,
        Verdict::Drop => outcome.decided_in != Some(ChainId::Firewall),
        Verdict::Pass => false,
    }
}

/// Returns the endpoints of a Service port that no outcome leads to, and why.
pub(super) fn left_out(
    side: &Side,
    owner: &PortKey,
    served: &Served,
    outcomes: &[Explained],
) -> Vec<String> {
    let (Some(model), Some((service, port, _))) = (&side.model, side.port(owner)) else {
        return Vec::new();
    };
    let settings = &side.settings;
    let family = served.frontend.family();
    let found = candidates(model, settings, service, port, family);
    let zone = model.node(&settings.node_name).and_then(|node| node.object.zone.as_ref());
    let is_cluster_ip = matches!(served.frontend, Frontend::Address { address, .. }
        if service.cluster_ips.of(family) == Some(address));
    let is_outside = |explained: &Explained| {
        let decided_in = explained.outcome.decided_in;
        decided_in.is_some_and(is_of_local_view) || matches!(decided_in, Some(ChainId::Outside(_)))
    };
    // With policy Local, topology does not apply.
    let rule = if outcomes.iter().any(is_outside)
        || is_cluster_ip && service.internal_policy == TrafficPolicy::Local
    {
        None
    } else {
        Some(topology(&found, &settings.node_name, zone))
    };
    let verdicts = || outcomes.iter().map(|explained| explained.outcome.verdict);
    let is_used = |backend: &Backend| verdicts().any(|it| it == Verdict::Backend(*backend));
    let left = found.iter().filter(|(backend, _)| !is_used(backend));
    left.map(|(backend, candidate)| format!("{backend}: {}", why_not(candidate, rule))).collect()
}

/// Returns why an endpoint is not used by a topology rule, or, without a rule, by policy Local.
fn why_not(candidate: &Candidate<'_>, rule: Option<Topology<'_>>) -> String {
    if !candidate.conditions.ready {
        return condition(candidate.conditions).to_owned();
    }
    match rule {
        None if candidate.place == Place::Elsewhere => "ready, but on another node".to_owned(),
        None if candidate.place == Place::Unknown => {
            "ready, but it has no nodeName, so it does not count as local".to_owned()
        }
        Some(rule @ Topology::Node(node)) if !rule.prefers(candidate) => {
            format!("ready, but its hints do not name node {node}, and those of others do")
        }
        Some(rule @ Topology::Zone(zone)) if !rule.prefers(candidate) => {
            format!("ready, but its hints do not name zone {zone}, and those of others do")
        }
        Some(_) | None => "ready, but not used".to_owned(),
    }
}

fn field(side: &Side, owner: Option<&PortKey>, what: &str) -> String {
    let Some(owner) = owner else { return what.to_owned() };
    match side.service(&owner.service) {
        Some((_, provenance)) => format!("Service {} ({provenance}) {what}", owner.service),
        None => format!("Service {} {what}", owner.service),
    }
}

/// Returns the ServiceCIDR that contains an address without a Service.
fn range_of(side: &Side, packet: &Packet) -> String {
    let address = packet.destination;
    let ranges = side.model.iter().flat_map(|model| model.service_cidrs());
    let found = ranges
        .filter(|entry| entry.object.cidrs.iter().any(|cidr| cidr.contains(&address)))
        .map(|entry| format!("ServiceCIDR {} ({})", entry.object.name, entry.provenance))
        .next();
    let range = found.unwrap_or_else(|| "a ServiceCIDR".to_owned());
    format!("{range} contains {address}, but no Service has it")
}

/// Returns true if the chain chooses among, or translates to, the backends for clients from
/// outside.
fn is_of_local_view(chain: ChainId) -> bool {
    matches!(chain, ChainId::Pick(_, View::Local, _) | ChainId::Translate(_, View::Local))
}
