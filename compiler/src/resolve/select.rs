//! Which endpoints serve: kube-proxy's categories (KEP-1669 for terminating endpoints, KEP-2433 and
//! KEP-3015 for topology), independently per family.

use std::collections::BTreeMap;

use super::Candidate;
use crate::name::{NodeName, Zone};
use crate::net::Backend;

type Candidates<'a> = BTreeMap<Backend, Candidate<'a>>;

/// How endpoints are preferred by where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology<'a> {
    /// All alike.
    Anywhere,
    /// Only those that are meant for this node.
    Node(&'a NodeName),
    /// Only those that are meant for this zone.
    Zone(&'a Zone),
}

/// The endpoints under policy Cluster: the ready ones that topology prefers, or else those that are
/// terminating but still serving. Empty only if no endpoint can serve.
pub fn cluster(candidates: &Candidates<'_>, node: &NodeName, zone: Option<&Zone>) -> Vec<Backend> {
    let topology = topology(candidates, node, zone);
    let is_ready = |it: &Candidate<'_>| it.conditions.ready && topology.prefers(it);
    let ready = choose(candidates, is_ready);
    if ready.is_empty() { choose(candidates, is_terminating) } else { ready }
}

/// The endpoints under policy Local: those on this node that are ready, or else those that are
/// terminating but still serving. Topology has no say.
pub fn local(candidates: &Candidates<'_>) -> Vec<Backend> {
    let ready = choose(candidates, |it| it.local && it.conditions.ready);
    if ready.is_empty() { choose(candidates, |it| it.local && is_terminating(it)) } else { ready }
}

/// The endpoints to which a flow that is there may go on.
pub fn serving(candidates: &Candidates<'_>) -> Vec<Backend> {
    choose(candidates, |it| it.conditions.serving || it.conditions.ready)
}

/// How the ready endpoints are preferred. All or nothing: a hint counts only if every ready endpoint
/// has one and some are meant for here; those that are not ready are not asked.
pub fn topology<'a>(
    candidates: &Candidates<'_>,
    node: &'a NodeName,
    zone: Option<&'a Zone>,
) -> Topology<'a> {
    let counts = |is_for: &dyn Fn(&Candidate<'_>) -> Option<bool>| {
        let mut ready = candidates.values().filter(|it| it.conditions.ready);
        let any_here = ready.clone().any(|it| is_for(it) == Some(true));
        any_here && ready.all(|it| is_for(it).is_some())
    };
    if counts(&|it| it.is_for_node(node)) {
        return Topology::Node(node);
    }
    match zone {
        Some(zone) if counts(&|it| it.is_for_zone(zone)) => Topology::Zone(zone),
        Some(_) | None => Topology::Anywhere,
    }
}

impl Topology<'_> {
    /// Whether an endpoint is one of the preferred.
    pub fn prefers(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Node(node) => candidate.is_for_node(node) == Some(true),
            Self::Zone(zone) => candidate.is_for_zone(zone) == Some(true),
        }
    }
}

fn is_terminating(candidate: &Candidate<'_>) -> bool {
    candidate.conditions.serving && candidate.conditions.terminating
}

fn choose(candidates: &Candidates<'_>, is_chosen: impl Fn(&Candidate<'_>) -> bool) -> Vec<Backend> {
    let chosen = candidates.iter().filter(|(_, candidate)| is_chosen(candidate));
    chosen.map(|(backend, _)| *backend).collect()
}
