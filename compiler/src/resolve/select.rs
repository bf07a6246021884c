//! Selects the endpoints that serve, by kube-proxy's categories (KEP-1669 for terminating
//! endpoints, KEP-2433 and KEP-3015 for topology), independently per family. A decision against an
//! endpoint says why (`Unused`).

use std::collections::BTreeMap;
use std::fmt;

use super::{Candidate, Place};
use crate::name::{NodeName, Zone};
use crate::net::Backend;
use crate::object::Conditions;

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

/// A traffic policy, as applied to the endpoints that there are: decides about each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection<'a> {
    rule: Rule<'a>,
    /// True if an endpoint is ready that the rule prefers. Otherwise those serve that are
    /// terminating but still serving.
    has_ready: bool,
}

/// The endpoints that a policy considers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule<'a> {
    Cluster(Topology<'a>),
    Local,
}

/// The reason why a policy does not use an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unused {
    /// Its weight is 0.
    Weight,
    /// It is neither ready nor serving while it terminates.
    NotReady,
    /// It is terminating, and does not serve any more.
    Terminating,
    /// It is terminating and still serves, but others are ready, or it is on another node.
    LastResort,
    /// It is on another node, and the policy is Local.
    Elsewhere,
    /// It names no node, so that it does not count as local, and the policy is Local.
    NoNode,
    /// Its hints do not name this node, and those of others do.
    Node(NodeName),
    /// Its hints do not name the zone of this node, and those of others do.
    Zone(Zone),
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Weight => f.write_str("ready, but its weight is 0 (annotation rulec.io/weight)"),
            Self::NotReady => f.write_str("not ready"),
            Self::Terminating => f.write_str("terminating"),
            Self::LastResort => f.write_str("serving, but terminating"),
            Self::Elsewhere => f.write_str("ready, but on another node"),
            Self::NoNode => {
                f.write_str("ready, but it has no nodeName, so it does not count as local")
            }
            Self::Node(node) => {
                write!(f, "ready, but its hints do not name node {node}, and those of others do")
            }
            Self::Zone(zone) => {
                write!(f, "ready, but its hints do not name zone {zone}, and those of others do")
            }
        }
    }
}

impl<'a> Selection<'a> {
    /// Applies policy Cluster, with the preference by topology.
    pub fn cluster(
        candidates: &Candidates<'_>,
        node: &'a NodeName,
        zone: Option<&'a Zone>,
    ) -> Self {
        Self::of(candidates, Rule::Cluster(topology(candidates, node, zone)))
    }

    /// Applies policy Local. Topology does not apply.
    pub fn local(candidates: &Candidates<'_>) -> Self {
        Self::of(candidates, Rule::Local)
    }

    fn of(candidates: &Candidates<'_>, rule: Rule<'a>) -> Self {
        let is_one = |it: &Candidate<'_>| it.is_ready() && rule.passes_over(it).is_none();
        Self { rule, has_ready: candidates.values().any(is_one) }
    }

    /// Returns why an endpoint is not used; `None` if it is.
    pub fn unused(self, candidate: &Candidate<'_>) -> Option<Unused> {
        if candidate.is_ready() {
            return self.rule.passes_over(candidate);
        }
        // Topology prefers none of these to others.
        let is_considered = self.rule != Rule::Local || candidate.is_local();
        match candidate.conditions {
            _ if candidate.is_last_resort() && !self.has_ready && is_considered => None,
            Conditions { ready: true, .. } => Some(Unused::Weight),
            Conditions { serving: true, terminating: true, .. } => Some(Unused::LastResort),
            Conditions { terminating: true, .. } => Some(Unused::Terminating),
            Conditions { .. } => Some(Unused::NotReady),
        }
    }

    /// Returns the endpoints that are used.
    fn chosen(self, candidates: &Candidates<'_>) -> Vec<Backend> {
        choose(candidates, |candidate| self.unused(candidate).is_none())
    }
}

impl Rule<'_> {
    /// Returns why a ready endpoint is passed over, if it is.
    fn passes_over(self, candidate: &Candidate<'_>) -> Option<Unused> {
        match (self, candidate.place) {
            (Self::Local, Place::Here) => None,
            (Self::Local, Place::Elsewhere) => Some(Unused::Elsewhere),
            (Self::Local, Place::Unknown) => Some(Unused::NoNode),
            (Self::Cluster(topology), _) if topology.prefers(candidate) => None,
            (Self::Cluster(Topology::Node(node)), _) => Some(Unused::Node(node.clone())),
            (Self::Cluster(Topology::Zone(zone)), _) => Some(Unused::Zone(zone.clone())),
            (Self::Cluster(Topology::Anywhere), _) => None,
        }
    }
}

/// Returns the endpoints under policy Cluster: the ready ones that topology prefers, or else those
/// that are terminating but still serving. Empty only if no endpoint can serve.
pub fn cluster(candidates: &Candidates<'_>, node: &NodeName, zone: Option<&Zone>) -> Vec<Backend> {
    Selection::cluster(candidates, node, zone).chosen(candidates)
}

/// Returns the endpoints under policy Local: those on this node that are ready, or else those that
/// are terminating but still serving. Topology does not apply.
pub fn local(candidates: &Candidates<'_>) -> Vec<Backend> {
    Selection::local(candidates).chosen(candidates)
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
        let mut ready = candidates.values().filter(|it| it.is_ready());
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

fn choose(candidates: &Candidates<'_>, is_chosen: impl Fn(&Candidate<'_>) -> bool) -> Vec<Backend> {
    let chosen = candidates.iter().filter(|(_, candidate)| is_chosen(candidate));
    chosen.map(|(backend, _)| *backend).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use super::*;
    use crate::load_balancing::Weight;
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
            weight: Weight::default(),
        };
        (1..).map(backend).zip(all.iter().map(candidate)).collect()
    }

    /// Returns endpoints without a known node: conditions and hints.
    fn hinted<'a>(all: &[(Conditions, &'a Hints)]) -> Candidates<'a> {
        let candidate = |(conditions, hints): &(Conditions, &'a Hints)| Candidate {
            conditions: *conditions,
            place: Place::Unknown,
            hints: Some(hints),
            weight: Weight::default(),
        };
        (1..).map(backend).zip(all.iter().map(candidate)).collect()
    }

    fn chosen(candidates: &Candidates<'_>, zone: Option<&str>) -> Vec<Backend> {
        cluster(candidates, &NodeName::from("here"), zone.map(Zone::from).as_ref())
    }

    fn backends(last: &[u8]) -> Vec<Backend> {
        last.iter().copied().map(backend).collect()
    }

    /// Returns the reasons why endpoints are not used, in order.
    fn reasons(candidates: &Candidates<'_>, selection: Selection<'_>) -> Vec<Option<Unused>> {
        candidates.values().map(|candidate| selection.unused(candidate)).collect()
    }

    #[test]
    fn a_decision_against_an_endpoint_has_a_reason() {
        let node = NodeName::from("here");
        let mut candidates = plain(&[
            (READY, true),
            (READY, false),
            (NOT_READY, true),
            (TERMINATING, true),
            (DEAD, true),
            (READY, true),
            (READY, false),
        ]);
        candidates.values_mut().skip(5).take(1).for_each(|it| it.weight = Weight::NONE);
        candidates.values_mut().skip(6).for_each(|it| it.place = Place::Elsewhere);
        let of_conditions = [Unused::NotReady, Unused::LastResort, Unused::Terminating];
        let of_conditions = || of_conditions.clone().map(Some).into_iter();
        let cluster: Vec<Option<Unused>> = [None, None]
            .into_iter()
            .chain(of_conditions())
            .chain([Some(Unused::Weight), None])
            .collect();
        assert_eq!(reasons(&candidates, Selection::cluster(&candidates, &node, None)), cluster);
        let local: Vec<Option<Unused>> = [None, Some(Unused::NoNode)]
            .into_iter()
            .chain(of_conditions())
            .chain([Some(Unused::Weight), Some(Unused::Elsewhere)])
            .collect();
        assert_eq!(reasons(&candidates, Selection::local(&candidates)), local);

        let (one, two) = (hints(&["z1"], &["here"]), hints(&["z2"], &["there"]));
        let candidates = hinted(&[(READY, &one), (READY, &two)]);
        let by_node = Selection::cluster(&candidates, &node, None);
        assert_eq!(reasons(&candidates, by_node), [None, Some(Unused::Node(node.clone()))]);
        let (one, two) = (hints(&["z1"], &[]), hints(&["z2"], &[]));
        let candidates = hinted(&[(READY, &one), (READY, &two)]);
        let zone = Zone::from("z1");
        let by_zone = Selection::cluster(&candidates, &node, Some(&zone));
        assert_eq!(reasons(&candidates, by_zone), [None, Some(Unused::Zone(zone.clone()))]);

        // The last resort is used if nothing else is ready, wherever it is under policy Cluster.
        let candidates = plain(&[(TERMINATING, true), (TERMINATING, false)]);
        let cluster = Selection::cluster(&candidates, &node, None);
        assert_eq!(reasons(&candidates, cluster), [None, None]);
        let local = Selection::local(&candidates);
        assert_eq!(reasons(&candidates, local), [None, Some(Unused::LastResort)]);
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
