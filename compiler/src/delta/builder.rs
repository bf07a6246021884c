//! Collects the operations of a delta, by Service and by stage.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::stage::{Staged, Tables, Whole};
use super::{Delta, Group};
use crate::frontend::PortKey;
use crate::ipvs;
use crate::name::NamespacedName;
use crate::net::Family;
use crate::nft;
use crate::nft::chain::ChainId;
use crate::nft::code::{Affinity, GroupId};
use crate::nft::element::{Element, Key, OwnedElement};
use crate::nft::set::SetId;
use crate::op::{Op, Stage};
use crate::state::{ChainContent, Table};

/// The operations so far.
#[derive(Default)]
pub(super) struct Builder {
    /// True if a table is replaced.
    pub(super) is_atomic: bool,
    /// True if a table is created.
    creates_table: bool,
    whole: Whole,
    shared: Vec<(Stage, Op)>,
    groups: BTreeMap<(u8, NamespacedName), Vec<Op>>,
    /// Additions of intervals that belong to no Service; see `intervals_last`.
    intervals: Vec<Op>,
}

impl Builder {
    /// Adds an operation that belongs to no Service.
    pub(super) fn shared(&mut self, stage: Stage, op: impl Into<Op>) {
        let op = op.into();
        self.whole.with_ipvs |= op.as_ipvs().is_some();
        self.shared.push((stage, op));
    }

    /// Notes that the frontends of a group still treat clients from outside in their own way,
    /// although their local group may go.
    pub(super) fn stays_split(&mut self, family: Family, group: GroupId) {
        self.whole.split.insert((family, group));
    }

    /// Creates a table.
    pub(super) fn add_table(&mut self, family: Family) {
        self.creates_table = true;
        self.shared(Stage::Prepare, nft::Op::AddTable(family));
    }

    /// Adds the map and the chain of a class with session affinity. The chain is complete before an
    /// element leads to it.
    pub(super) fn add_class(&mut self, family: Family, affinity: Affinity) {
        let chain = ChainId::Affinity(affinity);
        self.shared(Stage::Prepare, nft::Op::AddSet(family, SetId::Affinity(affinity)));
        self.shared(Stage::Prepare, nft::Op::AddChain(family, chain));
        self.shared(Stage::Prepare, nft::Op::FillChain(family, chain));
    }

    /// Deletes them.
    pub(super) fn delete_class(&mut self, family: Family, affinity: Affinity) {
        self.shared(Stage::Retire, nft::Op::DeleteChain(family, ChainId::Affinity(affinity)));
        self.shared(Stage::Retire, nft::Op::DeleteSet(family, SetId::Affinity(affinity)));
    }

    /// Adds the chains of `localhost`. Packets pass through them as soon as they have rules.
    pub(super) fn add_localhost(&mut self, family: Family) {
        for chain in ChainId::OF_LOCALHOST {
            self.shared(Stage::Prepare, nft::Op::AddChain(family, chain));
            self.shared(Stage::Switch, nft::Op::FillChain(family, chain));
        }
    }

    /// Deletes them.
    pub(super) fn delete_localhost(&mut self, family: Family) {
        for chain in ChainId::OF_LOCALHOST {
            self.shared(Stage::Retire, nft::Op::DeleteChain(family, chain));
        }
    }

    /// Adds an operation of a Service.
    pub(super) fn push(&mut self, service: &NamespacedName, op: Op) {
        let ops = self.groups.entry((importance(service), service.clone())).or_default();
        if ops.len() == ops.capacity() {
            // All groups of a first install are in memory at once: if capacities doubled, a quarter
            // of the largest peak there is would be unused.
            ops.reserve_exact((ops.len() / 4).max(4));
        }
        self.whole.with_ipvs |= op.as_ipvs().is_some();
        ops.push(op);
    }

    /// Adds an operation of the owner's Service, if there is an owner.
    pub(super) fn push_for(&mut self, owner: Option<&Arc<PortKey>>, op: Op) {
        match owner {
            Some(owner) => self.push(&owner.service, op),
            None if is_added_interval(&op) => self.intervals.push(op),
            // Frontends will lead to the chain of the class.
            None if op.element().is_some_and(is_verdict) => self.shared(Stage::Prepare, op),
            None => self.shared(Stage::Switch, op),
        }
    }

    /// Deletes an element that is not replaced.
    pub(super) fn delete(&mut self, owner: Option<&Arc<PortKey>>, element: Element) {
        if is_verdict(&element) {
            self.shared(Stage::Retire, nft::Op::Delete(element));
        } else {
            self.push_for(owner, Op::delete(element));
        }
    }

    /// Returns the delta.
    pub(super) fn finish(mut self) -> Delta {
        let tables = match (self.is_atomic, self.creates_table) {
            (true, _) => Tables::Replaced,
            (false, true) => Tables::New,
            (false, false) => Tables::Live,
        };
        self.whole.tables = tables;
        let intervals = self.intervals.into_iter().map(|op| (Stage::Switch, op));
        let shared = self.shared.into_iter().chain(intervals);
        let group = |((_, service), ops): ((u8, NamespacedName), Vec<Op>)| {
            let ops = Staged::of_service(intervals_last(ops), &self.whole);
            Group { service, ops }
        };
        Delta {
            atomic: self.is_atomic,
            shared: Staged::of_all(shared, tables),
            groups: self.groups.into_iter().map(group).collect(),
        }
    }

    /// Adds the sets and chains of a table, with those of these classes and, if it is asked for, of
    /// `localhost`; its elements come later.
    ///
    /// Packets pass through the other chains, so these get their rules together with the elements
    /// that the rules look for. The chains of classes are complete before an element leads to them.
    pub(super) fn skeleton(
        &mut self,
        family: Family,
        table: &Table,
        classes: &[Affinity],
        with_localhost: bool,
    ) {
        let sets = SetId::CONSTANT.into_iter();
        let sets = sets.chain(classes.iter().map(|class| SetId::Affinity(*class)));
        for set in sets.filter(|set| !table.sets.contains(set)) {
            self.shared(Stage::Prepare, nft::Op::AddSet(family, set));
        }
        let chains = || {
            let of_classes = classes.iter().map(|class| ChainId::Affinity(*class));
            let of_localhost = ChainId::OF_LOCALHOST.into_iter().filter(|_| with_localhost);
            ChainId::constant().chain(of_classes).chain(of_localhost)
        };
        for chain in chains().filter(|chain| !table.chains.contains_key(chain)) {
            self.shared(Stage::Prepare, nft::Op::AddChain(family, chain));
        }
        for chain in chains() {
            let fill = nft::Op::FillChain(family, chain);
            match (table.chains.get(&chain), is_led_to(chain)) {
                (Some(ChainContent::Complete), _) => {}
                (Some(ChainContent::Other), _) => {
                    self.shared(Stage::Switch, nft::Op::FlushChain(family, chain));
                    self.shared(Stage::Switch, fill);
                }
                (None, true) => self.shared(Stage::Prepare, fill),
                (None, false) => self.shared(Stage::Switch, fill),
            }
        }
    }

    /// Merges two lists of elements, both sorted by key. An element that moves from one Service to
    /// another is an operation of the new one, so that its deletion and addition are in one
    /// transaction.
    pub(super) fn elements(&mut self, old: Vec<OwnedElement>, new: Vec<OwnedElement>) {
        let mut old = old.into_iter().peekable();
        let mut new = new.into_iter().peekable();
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(old), Some(new)) => old.element.key.cmp(&new.element.key),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let gone = if order == Ordering::Greater { None } else { old.next() };
            let come = if order == Ordering::Less { None } else { new.next() };
            let is_same =
                gone.as_ref().map(|it| &it.element) == come.as_ref().map(|it| &it.element);
            if is_same {
                continue;
            }
            let owner = come.as_ref().or(gone.as_ref()).and_then(|it| it.owner.clone());
            let delete = gone.map(|gone| Op::delete(gone.element));
            let add = come.map(|come| Op::add(come.element));
            for op in delete.into_iter().chain(add) {
                self.push_for(owner.as_ref(), op);
            }
        }
    }

    /// Binds or unbinds the address of a member, if it is a VIP.
    pub(super) fn bind(
        &mut self,
        key: Key,
        owner: Option<&Arc<PortKey>>,
        op: fn(IpAddr) -> ipvs::Op,
    ) {
        if let Key::Vip(address) = key {
            self.push_for(owner, op(address).into());
        }
    }
}

/// Returns the rank of a Service in the order of installation: Services that the cluster cannot
/// start without come first.
fn importance(service: &NamespacedName) -> u8 {
    match (service.namespace.as_str(), service.name.as_str()) {
        ("default", "kubernetes") => 0,
        ("kube-system", name) if name.contains("dns") => 1,
        ("kube-system", _) => 2,
        _ => 3,
    }
}

fn is_added_interval(op: &Op) -> bool {
    op.added().is_some_and(|element| element.key.set().has_ranges())
}

/// Returns true if only elements lead to the chain, or chains that only elements lead to.
fn is_led_to(chain: ChainId) -> bool {
    matches!(
        chain,
        ChainId::Dropped
            | ChainId::Ipvs
            | ChainId::Pick(_)
            | ChainId::Try(_)
            | ChainId::RoundRobin
            | ChainId::Slot(_)
            | ChainId::Affinity(_)
    )
}

fn is_verdict(element: &Element) -> bool {
    matches!(element.key, Key::Class(..) | Key::Draw(..))
}

/// Moves additions of intervals to the end: a kernel refuses an interval that overlaps with one
/// that still exists.
fn intervals_last(mut ops: Vec<Op>) -> Vec<Op> {
    if ops.iter().any(is_added_interval) {
        ops.sort_by_key(is_added_interval);
    }
    ops
}
