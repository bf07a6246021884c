//! Claims on frontends: of several Service ports that ask for one frontend, the first takes
//! precedence, and when it goes, the next one takes over. The order depends on the claims alone,
//! never on the order in which they were made.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use im::OrdMap;
use im::ordmap::DiffItem;

use super::fragment::{PortFragment, Target};
use super::winner::Winner;
use crate::frontend::{Frontend, PortKey};
use crate::resolve::Rank;

/// Conflicting claims: two or more Service ports claim one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The claimed frontend.
    pub frontend: Frontend,
    /// The port whose claim takes precedence.
    pub winner: Arc<PortKey>,
    /// The other ports, in order of precedence.
    pub losers: Vec<Arc<PortKey>>,
}

/// A claim: a frontend and its claimant. Claims of one frontend are adjacent, the first in order of
/// precedence first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    frontend: Frontend,
    /// `None` sorts before every claimant: the start of a scan.
    claimant: Option<Claimant>,
}

/// A Service port and the kind of its claim; a lower rank takes precedence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    rank: Rank,
    port: Arc<PortKey>,
}

/// All claims, each with its target.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(OrdMap<Claim, Arc<Target>>);

impl Claims {
    /// Adds the claim of a port on one of its frontends.
    pub(super) fn insert(&mut self, port: &PortFragment, frontend: Frontend, rank: Rank) {
        let target = Arc::clone(port.target(rank));
        self.0.insert(Claim::of(port, frontend, rank), target);
    }

    /// Removes the claim of a port on one of its frontends.
    pub(super) fn remove(&mut self, port: &PortFragment, frontend: Frontend, rank: Rank) {
        self.0.remove(&Claim::of(port, frontend, rank));
    }

    /// Returns the claim that takes precedence at a frontend.
    pub(super) fn winner(&self, frontend: Frontend) -> Option<Winner<'_>> {
        let from = Claim { frontend, claimant: None };
        let (claim, target) = self.0.range((Bound::Included(from), Bound::Unbounded)).next()?;
        claim.winner(target).filter(|_| claim.frontend == frontend)
    }

    /// Returns every claimed frontend with the claim that takes precedence.
    pub(super) fn winners(&self) -> impl Iterator<Item = (Frontend, Winner<'_>)> {
        let mut last = None;
        self.0.iter().filter_map(move |(claim, target)| {
            let is_first = last.replace(claim.frontend) != Some(claim.frontend);
            is_first.then_some((claim.frontend, claim.winner(target)?))
        })
    }

    /// Returns the frontends with conflicting claims.
    pub(super) fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts: Vec<Conflict> = Vec::new();
        let mut last: Option<(Frontend, &Arc<PortKey>)> = None;
        for (Claim { frontend, claimant }, _) in &self.0 {
            let Some(Claimant { port, .. }) = claimant else { continue };
            match last {
                Some((known, winner)) if known == *frontend => match conflicts.last_mut() {
                    Some(conflict) if conflict.frontend == known => {
                        conflict.losers.push(Arc::clone(port));
                    }
                    _ => conflicts.push(Conflict {
                        frontend: known,
                        winner: Arc::clone(winner),
                        losers: vec![Arc::clone(port)],
                    }),
                },
                _ => last = Some((*frontend, port)),
            }
        }
        conflicts
    }

    /// Returns the frontends whose claims differ. Parts that both share are not visited.
    pub(super) fn diff(&self, wanted: &Self) -> BTreeSet<Frontend> {
        let changed = self.0.diff(&wanted.0).map(|item| match item {
            DiffItem::Add(claim, _) | DiffItem::Remove(claim, _) => claim,
            DiffItem::Update { new: (claim, _), .. } => claim,
        });
        changed.map(|claim| claim.frontend).collect()
    }
}

impl Claim {
    fn of(port: &PortFragment, frontend: Frontend, rank: Rank) -> Self {
        let claimant = Claimant { rank, port: Arc::clone(&port.port) };
        Self { frontend, claimant: Some(claimant) }
    }

    fn winner<'a>(&'a self, target: &'a Arc<Target>) -> Option<Winner<'a>> {
        let Claimant { rank, port } = self.claimant.as_ref()?;
        Some(Winner { rank: *rank, owner: port, target })
    }
}
