//! Selects the endpoints that serve, by kube-proxy's categories (KEP-1669 for terminating
//! endpoints, KEP-2433 and KEP-3015 for topology), independently per family.

use std::collections::BTreeMap;

use super::Candidate;
use crate::name::{NodeName, Zone};
use crate::net::Backend;

type Candidates<'a> = BTreeMap<Backend, Candidate<'a>>;

/// The preference among endpoints by their location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology<'a> {
    /// No preference.
    Anywhere,
    /// Only endpoints with a hint for this node.
    Node(&'a NodeName),
    /// Only endpoints with a hint for this zone.
    Zone(&'a Zone),
}

/// Returns the endpoints under policy Cluster: the ready ones that topology prefers, or else those
/// that are terminating but still serving. Empty only if no endpoint can serve.
pub fn cluster(candidates: &Candidates<'_>, node: &NodeName, zone: Option<&Zone>) -> Vec<Backend> {
    let topology = topology(candidates, node, zone);
    let is_ready = |it: &Candidate<'_>| it.conditions.ready && topology.prefers(it);
    let ready = choose(candidates, is_ready);
    if ready.is_empty() { choose(candidates, is_terminating) } else { ready }
}

/// Returns the endpoints under policy Local: those on this node that are ready, or else those that
/// are terminating but still serving. Topology does not apply.
pub fn local(candidates: &Candidates<'_>) -> Vec<Backend> {
    let ready = choose(candidates, |it| it.is_local() && it.conditions.ready);
    if ready.is_empty() {
        choose(candidates, |it| it.is_local() && is_terminating(it))
    } else {
        ready
    }
}

/// Returns the endpoints to which existing flows may continue.
pub fn serving(candidates: &Candidates<'_>) -> Vec<Backend> {
    choose(candidates, |it| it.conditions.serving || it.conditions.ready)
}

/// Returns the preference among the ready endpoints. Hints apply only if every ready endpoint has
/// one and at least one is for this node or zone; endpoints that are not ready are not considered.
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
    /// Returns true if the endpoint is a preferred one.
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

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use super::*;
    use crate::object::{Conditions, Hints};
    use crate::resolve::candidate::Place;

    const READY: Conditions = Conditions::READY;
    const NOT_READY: Conditions = Conditions { ready: false, serving: false, terminating: false };
    const WARM: Conditions = Conditions { ready: false, serving: true, terminating: false };
    const TERMINATING: Conditions = Conditions { ready: false, serving: true, terminating: true };
    const DEAD: Conditions = Conditions { ready: false, serving: false, terminating: true };

    fn backend(last: u8) -> Backend {
        Backend { address: IpAddr::from([10, 0, 0, last]), port: NonZeroU16::MIN }
    }

    fn hints(zones: &[&str], nodes: &[&str]) -> Hints {
        Hints {
            zones: zones.iter().map(|zone| Zone::from(*zone)).collect(),
            nodes: nodes.iter().map(|node| NodeName::from(*node)).collect(),
        }
    }

    /// Returns endpoints whose last address bytes count from 1: conditions, and whether they are
    /// local.
    fn plain(all: &[(Conditions, bool)]) -> Candidates<'static> {
        let candidate = |(conditions, local): &(Conditions, bool)| Candidate {
            conditions: *conditions,
            place: if *local { Place::Here } else { Place::Unknown },
            hints: None,
        };
        (1..).map(backend).zip(all.iter().map(candidate)).collect()
    }

    /// Returns endpoints without a known node: conditions and hints.
    fn hinted<'a>(all: &[(Conditions, &'a Hints)]) -> Candidates<'a> {
        let candidate = |(conditions, hints): &(Conditions, &'a Hints)| Candidate {
            conditions: *conditions,
            place: Place::Unknown,
            hints: Some(hints),
        };
        (1..).map(backend).zip(all.iter().map(candidate)).collect()
    }

    fn chosen(candidates: &Candidates<'_>, zone: Option<&str>) -> Vec<Backend> {
        cluster(candidates, &NodeName::from("here"), zone.map(Zone::from).as_ref())
    }

    fn backends(last: &[u8]) -> Vec<Backend> {
        last.iter().copied().map(backend).collect()
    }

    #[test]
    fn ready_endpoints_serve_wherever_they_are() {
        let candidates = plain(&[(READY, true), (NOT_READY, true), (READY, false), (WARM, false)]);
        assert_eq!(chosen(&candidates, None), backends(&[1, 3]));
        assert_eq!(local(&candidates), backends(&[1]));
        // Flows to an endpoint that is serving but no longer ready continue.
        assert_eq!(serving(&candidates), backends(&[1, 3, 4]));
    }

    #[test]
    fn terminating_endpoints_serve_if_there_are_no_others() {
        let candidates = plain(&[(TERMINATING, true), (DEAD, true), (TERMINATING, false)]);
        assert_eq!(chosen(&candidates, None), backends(&[1, 3]));
        assert_eq!(local(&candidates), backends(&[1]));
        // Each policy falls back to terminating endpoints on its own.
        let candidates = plain(&[(TERMINATING, true), (READY, false)]);
        assert_eq!(chosen(&candidates, None), backends(&[2]));
        assert_eq!(local(&candidates), backends(&[1]));
        let candidates = plain(&[(WARM, true), (DEAD, true), (NOT_READY, false)]);
        assert_eq!(chosen(&candidates, None), []);
        assert_eq!(local(&candidates), []);
    }

    #[test]
    fn a_ready_terminating_endpoint_is_ready() {
        let published = Conditions { ready: true, serving: false, terminating: true };
        let candidates = plain(&[(published, true), (TERMINATING, true)]);
        assert_eq!(chosen(&candidates, None), backends(&[1]));
        assert_eq!(local(&candidates), backends(&[1]));
        assert_eq!(serving(&candidates), backends(&[1, 2]));
    }

    #[test]
    fn zone_hints_apply_if_all_have_one_and_some_match() {
        let (one, two, none) = (hints(&["z1"], &[]), hints(&["z2"], &[]), hints(&[], &["there"]));
        let both = hints(&["z1", "z2"], &[]);
        let candidates = hinted(&[(READY, &one), (READY, &two), (READY, &both)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[1, 3]));
        assert_eq!(chosen(&candidates, Some("z2")), backends(&[2, 3]));
        for zone in [None, Some("z3")] {
            assert_eq!(chosen(&candidates, zone), backends(&[1, 2, 3]));
        }
        // An endpoint with a hint only for nodes has none for zones.
        let candidates = hinted(&[(READY, &one), (READY, &two), (READY, &none)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[1, 2, 3]));
    }

    #[test]
    fn node_hints_precede_zone_hints() {
        let here = hints(&["z2"], &["here"]);
        let there = hints(&["z1"], &["there"]);
        let zone_only = hints(&["z1"], &[]);
        let candidates = hinted(&[(READY, &here), (READY, &there)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[1]));
        // If some endpoints have no hint for nodes, or none is for this node, the zone decides.
        let candidates = hinted(&[(READY, &here), (READY, &zone_only)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[2]));
        let candidates = hinted(&[(READY, &there), (READY, &there)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[1, 2]));
    }

    #[test]
    fn only_ready_endpoints_need_hints() {
        let (one, two, none) = (hints(&["z1"], &[]), hints(&["z2"], &[]), hints(&[], &[]));
        let candidates = hinted(&[(READY, &one), (READY, &two), (TERMINATING, &none)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[1]));
        // The only endpoint for this zone is not ready: its hint does not exclude the others.
        let candidates = hinted(&[(NOT_READY, &one), (READY, &two)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[2]));
        // If none is ready, all terminating endpoints serve.
        let candidates = hinted(&[(TERMINATING, &one), (TERMINATING, &two)]);
        assert_eq!(chosen(&candidates, Some("z1")), backends(&[1, 2]));
        assert_eq!(
            topology(&candidates, &NodeName::from("here"), Some(&Zone::from("z1"))),
            Topology::Anywhere
        );
    }

    #[test]
    fn topology_does_not_affect_policy_local() {
        let two = hints(&["z2"], &[]);
        let mut candidates = hinted(&[(READY, &two), (READY, &two)]);
        candidates.values_mut().take(1).for_each(|it| it.place = Place::Here);
        assert_eq!(local(&candidates), backends(&[1]));
    }
}
