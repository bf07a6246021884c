//! The kinds of change, and one of each kind after another at random.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, EXTERNAL, LOCAL, REMOTE, TARGETS};
use crate::support::Dice;

/// A kind of change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    EndpointMore,
    EndpointLess,
    EndpointsReplaced,
    TargetPort,
    PortRenamed,
    AffinityOnOrOff,
    AffinityTimeout,
    InternalPolicy,
    ExternalPolicy,
    ZoneHints,
    ZoneOfNode,
    NodePort,
    LoadBalancerAddress,
    ExternalIp,
    SourceRanges,
    NeighbourMoreOrLess,
    NeighbourEndpoints,
    NeighbourAffinity,
    /// A setting in the configuration file.
    Reload,
    /// SIGTERM and a new start.
    Restart,
    /// SIGKILL, another change, and a new start.
    Crash,
    /// Another program changes the tables.
    Tampering,
}

impl Kind {
    pub(super) const ALL: [Self; 22] = [
        Self::EndpointMore,
        Self::EndpointLess,
        Self::EndpointsReplaced,
        Self::TargetPort,
        Self::PortRenamed,
        Self::AffinityOnOrOff,
        Self::AffinityTimeout,
        Self::InternalPolicy,
        Self::ExternalPolicy,
        Self::ZoneHints,
        Self::ZoneOfNode,
        Self::NodePort,
        Self::LoadBalancerAddress,
        Self::ExternalIp,
        Self::SourceRanges,
        Self::NeighbourMoreOrLess,
        Self::NeighbourEndpoints,
        Self::NeighbourAffinity,
        Self::Reload,
        Self::Restart,
        Self::Crash,
        Self::Tampering,
    ];

    /// Changes the objects of the cluster.
    pub(super) fn change(self, cluster: &mut Cluster, dice: &mut Dice) {
        match self {
            Self::EndpointMore | Self::Crash => {
                // A full Service starts again with few.
                match absent(cluster, dice) {
                    Some(more) => drop(cluster.endpoints.insert(more)),
                    None => cluster.endpoints = [below(dice, LOCAL)].into(),
                }
            }
            Self::EndpointLess => {
                let all: Vec<usize> = cluster.endpoints.iter().copied().collect();
                let less = all[below(dice, all.len())];
                let mut left = cluster.endpoints.clone();
                left.remove(&less);
                if left.iter().any(|it| *it < LOCAL) {
                    cluster.endpoints = left;
                } else {
                    cluster.endpoints.extend(absent(cluster, dice));
                }
            }
            Self::EndpointsReplaced => {
                let mut all: Vec<usize> = (0..LOCAL + REMOTE).collect();
                all.retain(|it| !cluster.endpoints.contains(it) || dice.roll(3) == 0);
                cluster.endpoints = all.into_iter().chain([below(dice, LOCAL)]).collect();
            }
            Self::TargetPort => {
                let [first, second] = TARGETS;
                cluster.target = if cluster.target == first { second } else { first };
            }
            Self::PortRenamed => cluster.port_name += 1,
            Self::AffinityOnOrOff => {
                cluster.affinity = cluster.affinity.is_none().then_some(10_800);
            }
            Self::AffinityTimeout => cluster.affinity = Some(60 + dice.roll(3_600)),
            Self::InternalPolicy => cluster.is_local.internal ^= true,
            Self::ExternalPolicy => cluster.is_local.external ^= true,
            Self::ZoneHints => cluster.hints ^= true,
            Self::ZoneOfNode => cluster.zone = 1 - cluster.zone,
            Self::NodePort => {
                cluster.node_port = match dice.roll(3) {
                    0 if cluster.node_port.is_some() => None,
                    _ => Some(30_000 + u16::try_from(dice.roll(2_000)).unwrap()),
                };
            }
            Self::LoadBalancerAddress => toggle(&mut cluster.vips, below(dice, EXTERNAL)),
            Self::ExternalIp => toggle(&mut cluster.external_ips, below(dice, EXTERNAL)),
            Self::SourceRanges => {
                cluster.source_ranges = match dice.roll(3) {
                    0 if cluster.source_ranges.is_some() => None,
                    _ => Some(below(dice, 20)),
                };
            }
            Self::NeighbourMoreOrLess => {
                let number = dice.roll(12);
                if cluster.neighbours.remove(&number).is_none() {
                    cluster.neighbours.insert(number, (below(dice, LOCAL + REMOTE + 1), None));
                }
            }
            Self::NeighbourEndpoints => {
                let (endpoints, _) = neighbour(cluster, dice);
                *endpoints = (*endpoints + 1 + below(dice, 9)) % (LOCAL + REMOTE + 1);
            }
            Self::NeighbourAffinity => {
                let (_, affinity) = neighbour(cluster, dice);
                *affinity = affinity.is_none().then(|| [60, 10_800][below(dice, 2)]);
            }
            Self::Reload | Self::Restart | Self::Tampering => {}
        }
    }
}

/// Returns `n` kinds at random, each as often as the others.
pub(super) fn draw(n: usize, dice: &mut Dice) -> Vec<Kind> {
    let mut drawn = Vec::new();
    while drawn.len() < n {
        let mut all = Kind::ALL.to_vec();
        while !all.is_empty() {
            drawn.push(all.swap_remove(below(dice, all.len())));
        }
    }
    drawn.truncate(n);
    drawn
}

/// Returns how often there is each kind.
pub(super) fn count(kinds: &[Kind]) -> BTreeMap<Kind, usize> {
    let mut counts = BTreeMap::new();
    for kind in kinds {
        *counts.entry(*kind).or_default() += 1;
    }
    counts
}

pub(super) fn below(dice: &mut Dice, n: usize) -> usize {
    usize::try_from(dice.roll(u64::try_from(n).unwrap())).unwrap()
}

fn absent(cluster: &Cluster, dice: &mut Dice) -> Option<usize> {
    let mut all: Vec<usize> = (0..LOCAL + REMOTE).collect();
    all.retain(|it| !cluster.endpoints.contains(it));
    if all.is_empty() { None } else { Some(all[below(dice, all.len())]) }
}

fn neighbour<'c>(cluster: &'c mut Cluster, dice: &mut Dice) -> &'c mut (usize, Option<u64>) {
    let number = dice.roll(12);
    cluster.neighbours.entry(number).or_insert((1, None))
}

fn toggle(all: &mut BTreeSet<usize>, number: usize) {
    if !all.remove(&number) {
        all.insert(number);
    }
}
