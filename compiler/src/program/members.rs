//! Members of sets, such as cluster addresses, each with the Service ports that need it.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use im::OrdSet;
use im::ordset::DiffItem;

use super::fragment::PortFragment;
use crate::frontend::PortKey;
use crate::nft::element::Key;

/// A member and one of the ports that need it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Need {
    key: Key,
    /// `None` sorts before every port: the start of a scan.
    port: Option<Arc<PortKey>>,
}

/// All members.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(OrdSet<Need>);

impl Members {
    /// Adds the members that a port needs.
    pub(super) fn insert(&mut self, port: &PortFragment) {
        self.0.extend(needs(port));
    }

    /// Removes the members that a port needs, except those that another port needs, too.
    pub(super) fn remove(&mut self, port: &PortFragment) {
        for need in needs(port) {
            self.0.remove(&need);
        }
    }

    /// Returns the owner of a member: the first of the ports that need it.
    pub(super) fn owner(&self, key: Key) -> Option<&Arc<PortKey>> {
        let from = Need { key, port: None };
        let first = self.0.range((Bound::Included(from), Bound::Unbounded)).next()?;
        first.port.as_ref().filter(|_| first.key == key)
    }

    /// Returns every member with its owner, sorted by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Arc<PortKey>)> {
        let mut last = None;
        self.0.iter().filter_map(move |Need { key, port }| {
            let is_first = last.replace(*key) != Some(*key);
            is_first.then_some((*key, port.as_ref()?))
        })
    }

    /// Returns the members whose ports differ. Parts that both share are not visited.
    pub(super) fn diff(&self, wanted: &Self) -> BTreeSet<Key> {
        let changed = self.0.diff(&wanted.0);
        changed
            .map(|item| match item {
                DiffItem::Add(it) | DiffItem::Remove(it) => it.key,
            })
            .collect()
    }
}

fn needs(port: &PortFragment) -> impl Iterator<Item = Need> {
    port.members.iter().map(|key| Need { key: *key, port: Some(Arc::clone(&port.port)) })
}
