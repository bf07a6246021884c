//! Pick chains in use.

use im::OrdMap;
use im::ordmap::DiffItem;

use crate::net::Family;
use crate::nft::chain::ChainId;
use crate::nft::element::{Element, Key, Value};
use crate::nft::pick::Pick;
use crate::nft::set::{Scope, View};
use crate::state::State;

/// A pick code and the place where it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PickId {
    /// The family.
    pub family: Family,
    /// The kind of frontends.
    pub scope: Scope,
    /// The view of these frontends.
    pub view: View,
    /// The way to choose a backend.
    pub pick: Pick,
}

impl PickId {
    /// Returns the chain that chooses.
    pub fn chain(self) -> ChainId {
        ChainId::Pick(self.scope, self.view, self.pick)
    }

    /// Returns the element that leads to the chain.
    pub fn element(self) -> Element {
        let Self { family, scope, view, pick } = self;
        Element::new(Key::Pick(family, scope, view, pick), Value::Goto)
    }
}

/// The pick chains with their numbers of uses; with 0, a chain is unused but stays for a while.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picks(OrdMap<PickId, usize>);

impl Picks {
    /// Returns the chains of a kernel, all unused.
    pub(super) fn unused(seed: &State) -> Self {
        let chains = seed.tables.iter().flat_map(|(family, table)| {
            table.chains.keys().filter_map(|chain| {
                let ChainId::Pick(scope, view, pick) = *chain else { return None };
                Some(PickId { family: *family, scope, view, pick })
            })
        });
        Self(chains.map(|id| (id, 0_usize)).collect())
    }

    /// Counts the uses of a frontend that has changed.
    pub(super) fn count(&mut self, before: [Option<PickId>; 2], after: [Option<PickId>; 2]) {
        if before == after {
            return;
        }
        for pick in before.into_iter().flatten() {
            if let Some(uses) = self.0.get_mut(&pick) {
                *uses = uses.saturating_sub(1);
            }
        }
        for pick in after.into_iter().flatten() {
            *self.0.entry(pick).or_insert(0) += 1;
        }
    }

    /// Removes chains that a frontend had only between two changes of its claims: no kernel has
    /// them.
    pub(super) fn remove_passing(&mut self, known: &Self) {
        if self.0.ptr_eq(&known.0) {
            return;
        }
        let passing: Vec<PickId> = known
            .0
            .diff(&self.0)
            .filter_map(|item| match item {
                DiffItem::Add(pick, 0) => Some(*pick),
                DiffItem::Add(..) | DiffItem::Update { .. } | DiffItem::Remove(..) => None,
            })
            .collect();
        for pick in passing {
            self.0.remove(&pick);
        }
    }

    /// Returns the unused chains.
    pub(super) fn idle(&self) -> impl Iterator<Item = PickId> {
        self.0.iter().filter(|(_, uses)| **uses == 0).map(|(pick, _)| *pick)
    }

    /// Removes a chain if it is unused.
    pub(super) fn retire(&mut self, pick: PickId) {
        if self.0.get(&pick) == Some(&0) {
            self.0.remove(&pick);
        }
    }

    /// Returns all chains.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PickId> {
        self.0.keys().copied()
    }

    /// Returns the chains that are added, and those that are removed. Parts that both share are not
    /// visited.
    pub(crate) fn diff(&self, wanted: &Self) -> [Vec<PickId>; 2] {
        let [mut added, mut removed] = <[Vec<PickId>; 2]>::default();
        if self.0.ptr_eq(&wanted.0) {
            return [added, removed];
        }
        for item in self.0.diff(&wanted.0) {
            match item {
                DiffItem::Add(pick, _) => added.push(*pick),
                DiffItem::Remove(pick, _) => removed.push(*pick),
                DiffItem::Update { .. } => {}
            }
        }
        [added, removed]
    }
}
