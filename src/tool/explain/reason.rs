//! The reasons for an outcome: objects and fields, as far as they are known.

use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::net::Backend;
use rulec_compiler::nft::chain::ChainId;
use rulec_compiler::object::TrafficPolicy;
use rulec_compiler::oracle::{Fate, Masquerade, Packet, Verdict};
use rulec_compiler::resolve::candidates;
use rulec_compiler::resolve::select::Selection;

use super::{Explained, Served};
use crate::tool::input::Side;

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
            let share = served.and_then(|served| served.balancing.share(backend));
            reasons.extend(share.map(|(share, all)| {
                format!("its share of new connections is {share} of {all} (annotation rulec.io/weight)")
            }));
        }
        (Verdict::Drop, Some(ChainId::Firewall)) => reasons.push(field(
            side,
            owner,
            &format!("spec.loadBalancerSourceRanges does not contain {}", packet.source),
        )),
        (Verdict::Drop, Some(ChainId::Dropped)) => reasons.push(field(
            side,
            owner,
            "spec.internalTrafficPolicy is Local, and no endpoint is on this node",
        )),
        (Verdict::Drop, Some(ChainId::Outside)) => reasons.push(field(
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
    if is_from_outside(outcome) && outcome.verdict != Verdict::Drop {
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
    let is_outside = |explained: &Explained| is_from_outside(&explained.outcome);
    let selection = if outcomes.iter().any(is_outside)
        || is_cluster_ip && service.internal_policy == TrafficPolicy::Local
    {
        Selection::local(&found)
    } else {
        Selection::cluster(&found, &settings.node_name, zone)
    };
    let verdicts = || outcomes.iter().map(|explained| explained.outcome.verdict);
    let is_used = |backend: &Backend| verdicts().any(|it| it == Verdict::Backend(*backend));
    let left = found.iter().filter(|(backend, _)| !is_used(backend));
    let why = |candidate| match selection.unused(candidate) {
        Some(reason) => reason.to_string(),
        None => "ready, but not used".to_owned(),
    };
    left.map(|(backend, candidate)| format!("{backend}: {}", why(candidate))).collect()
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

/// Returns true if the packet was treated as one of a client from outside.
pub(super) fn is_from_outside(outcome: &Fate) -> bool {
    let outside = ChainId::Outside.to_string();
    outcome.path.iter().any(|rule| rule.chain == outside)
}
