//! Where the operations of a Service can be cut, if they take too long for one transaction.
//!
//! What nothing leads to yet comes first, and what nothing leads to any more comes last. In
//! between, everything that leads there changes at once: the frontends and the rest. So a packet
//! between two transactions is served as before or as after. A slot may change its backend early:
//! each slot leads to a backend of the group before and after.

use std::collections::BTreeSet;

use crate::frontend::Frontend;
use crate::net::Family;
use crate::nft::code::{Class, Code, GroupId, Member};
use crate::nft::element::{Element, Key, Value};
use crate::op::Op;

/// The operations of one Service in one step, in the order in which they can be cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pieces<'a> {
    early: Vec<&'a Op>,
    core: Vec<&'a Op>,
    late: Vec<&'a Op>,
}

impl<'a> Pieces<'a> {
    /// Sorts the operations of one Service in one step. They stay valid in this order.
    pub fn of(ops: &[&'a Op]) -> Self {
        let facts = Facts::of(ops);
        let [mut early, mut replaced, mut core, mut late]: [Vec<&'a Op>; 4] = Default::default();
        for change in changes(ops) {
            let into = match facts.turn(change) {
                Turn::Added => &mut early,
                Turn::Replaced => &mut replaced,
                Turn::Core => &mut core,
                Turn::Deleted => &mut late,
            };
            into.extend_from_slice(change);
        }
        // A slot may get a backend that is only being added.
        early.append(&mut replaced);
        Self { early, core, late }
    }

    /// Returns the pieces in order. Each belongs in one transaction.
    pub fn iter(&self) -> impl Iterator<Item = &[&'a Op]> {
        let core = Some(&self.core[..]).filter(|core| !core.is_empty());
        changes(&self.early).chain(core).chain(changes(&self.late))
    }
}

/// When a change takes effect.
enum Turn {
    /// First: nothing leads to it yet.
    Added,
    /// Then: it leads to something before and after.
    Replaced,
    /// All at once.
    Core,
    /// Last: nothing leads to it any more.
    Deleted,
}

/// What a Service's operations do as a whole.
struct Facts {
    /// The groups with frontends that treat packets in another way than before. They may have more
    /// or fewer backends without being among these.
    turned: BTreeSet<(Family, GroupId)>,
    /// The frontends that have other source ranges, and serve their clients otherwise than before.
    /// Those whose restriction comes or goes are not among them.
    regulated: BTreeSet<Frontend>,
}

impl Facts {
    fn of(ops: &[&Op]) -> Self {
        let code = |op: &&Op| {
            let Element { key: Key::Service(frontend), value: Value::Code(code), .. } =
                op.element()?
            else {
                return None;
            };
            Some((frontend.family(), code.group))
        };
        let turned = changes(ops).filter(|change| !is_only_resized(change));
        let mut regulated: BTreeSet<Frontend> = ops.iter().filter_map(|op| served(op)).collect();
        for change in changes(ops) {
            // Nothing looks at the ranges without it.
            if let [op] = change
                && let Some(Key::Firewalled(frontend)) = op.element().map(|element| element.key)
            {
                regulated.remove(&frontend);
            }
        }
        Self {
            turned: turned.flat_map(|change| change.iter().filter_map(code)).collect(),
            regulated,
        }
    }

    fn turn(&self, change: &[&Op]) -> Turn {
        let [first, rest @ ..] = change else { return Turn::Core };
        let Some(element) = first.element() else { return Turn::Core };
        let key = element.key;
        match (key, rest) {
            (Key::Endpoint(..) | Key::Member(..) | Key::Hairpin(_), []) => alone(first),
            // A slot and a turn lead to a member, and the class of a group to slots.
            (Key::MemberSlot(..) | Key::MemberGroup(..) | Key::Next(..), []) => {
                if first.added().is_some() { Turn::Replaced } else { Turn::Deleted }
            }
            // Without a next member, a turn begins anew.
            (Key::Next(..), _) => Turn::Replaced,
            (
                Key::Endpoint(_, group, ..)
                | Key::MemberSlot(_, group, _)
                | Key::Member(_, Member { group, .. }, _),
                _,
            ) if !self.turned.contains(&(key.family(), group)) => Turn::Replaced,
            (Key::SourceRange(frontend, _), []) if !self.regulated.contains(&frontend) => {
                alone(first)
            }
            _ => Turn::Core,
        }
    }
}

/// Returns the frontend whose service begins, changes or ends.
fn served(op: &Op) -> Option<Frontend> {
    let key = op.element()?.key;
    if let Key::Service(frontend) | Key::Reject(frontend) = key { Some(frontend) } else { None }
}

fn alone(op: &Op) -> Turn {
    if op.added().is_some() { Turn::Added } else { Turn::Deleted }
}

/// Returns the operations key by key: a value changes by a deletion and the addition after it.
fn changes<'a, 'b>(ops: &'b [&'a Op]) -> impl Iterator<Item = &'b [&'a Op]> {
    ops.chunk_by(|one, next| match (one.deleted(), next.added()) {
        (Some(one), Some(next)) => one.key == next.key,
        (None, _) | (_, None) => false,
    })
}

/// Returns true if a frontend only gets another number of backends.
pub(super) fn is_only_resized(change: &[&Op]) -> bool {
    let [old, new] = change else { return false };
    let (Some(old), Some(new)) = (old.deleted(), new.added()) else { return false };
    let treatment = |element: &Element| {
        let Value::Code(Code { group, clients, class }) = element.value else { return None };
        let class = if let Class::Random(_) = class { None } else { Some(class) };
        Some((group, clients, class))
    };
    treatment(old) == treatment(new)
}
