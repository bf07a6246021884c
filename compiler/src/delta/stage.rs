//! The stages of a delta: which operations may take effect together, and in which order, so that no
//! packet sees an incomplete state.
//!
//! A transaction takes effect at one moment, but the processing of a packet takes longer: the
//! packet uses the rules from the time when it came, but looks up each element as it is at the time
//! of the lookup. A packet that has drawn slot 2 of 3 must still find slot 2, although a change has
//! removed it in the meantime. So a chain is complete before the first element leads to it, and
//! elements that an earlier packet may still look up are deleted in a step of their own
//! after everything that leads to them. The round trip to the kernel between two steps takes
//! much longer than a packet. (Measured without this: 4 refused connections in 3,000 removals of an
//! endpoint under load; with it, none in 8,000.)
//!
//! Whether a client may connect is looked up before the frontend. So a restriction comes in a step
//! before the one that adds the frontend: otherwise, a packet could miss the restriction and then
//! find the frontend. If a frontend gets other source ranges, the new ones come in a step before
//! the one that deletes the old ones, so that a client in both always finds one. But if it also
//! leads elsewhere, as when another Service gets it, both change with it, so that no client of one
//! reaches what the other has. (In IPVS mode, real servers change a moment after the rules.)
//!
//! No transaction covers both nf_tables and IPVS. Within a stage, the rules change first. So in
//! IPVS mode, the rules for a frontend are there before IPVS serves it, and go in the last stage:
//! no client is served that the rules would reject, and a virtual server always has the element
//! that marks it as ours. If our own rules have translated so far, IPVS takes over in the other
//! order: it is complete before the rules stop translating.

use std::collections::{BTreeMap, BTreeSet};

use super::{Delta, pieces};
use crate::frontend::Frontend;
use crate::ipvs::{self, Verb};
use crate::name::NamespacedName;
use crate::net::Family;
use crate::nft;
use crate::nft::code::GroupId;
use crate::nft::element::{Element, Key, Value};
use crate::op::{Op, Stage};

/// What packets see of our tables before the change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tables {
    /// They pass through them: each operation has its stage.
    #[default]
    Live,
    /// A table does not exist yet, so no packet sees it while it is incomplete.
    New,
    /// A table is replaced at one moment.
    Replaced,
}

/// Operations in the order of their stages; within a stage, in a valid order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Staged {
    ops: Vec<Op>,
    /// The number of operations that prepare.
    prepare: usize,
    /// The number of operations that retire.
    retire: usize,
}

impl Staged {
    /// Returns operations with their stages, which belong to no Service.
    pub(super) fn of_all(ops: impl Iterator<Item = (Stage, Op)>, tables: Tables) -> Self {
        let mut stages: [Vec<Op>; 3] = Default::default();
        let [prepare, switch, retire] = &mut stages;
        for (stage, op) in ops {
            match stage {
                Stage::Prepare if tables == Tables::Live => prepare.push(op),
                Stage::Prepare | Stage::Switch => switch.push(op),
                Stage::Retire => retire.push(op),
            }
        }
        Self::joined(stages)
    }

    /// Returns the operations of a Service, each in its stage.
    pub(super) fn of_service(ops: Vec<Op>, whole: &Whole) -> Self {
        let Some(classes) = Classes::of(&ops, whole) else { return Self::from(ops) };
        let mut stages: [Vec<Op>; 3] = Default::default();
        let [prepare, switch, retire] = &mut stages;
        for op in ops {
            match classes.stage(&op) {
                Stage::Prepare => prepare.push(op),
                Stage::Switch => switch.push(op),
                Stage::Retire => retire.push(op),
            }
        }
        Self::joined(stages)
    }

    fn joined([mut ops, switch, rest]: [Vec<Op>; 3]) -> Self {
        let (prepare, retire) = (ops.len(), rest.len());
        ops.extend(switch);
        ops.extend(rest);
        Self { ops, prepare, retire }
    }

    /// Returns the operations of each stage.
    pub fn stages(&self) -> [&[Op]; 3] {
        let (prepare, rest) = self.ops.split_at(self.prepare);
        let (switch, retire) = rest.split_at(rest.len() - self.retire);
        [prepare, switch, retire]
    }

    /// Returns the operations of a stage.
    pub fn at(&self, stage: Stage) -> &[Op] {
        let [prepare, switch, retire] = self.stages();
        match stage {
            Stage::Prepare => prepare,
            Stage::Switch => switch,
            Stage::Retire => retire,
        }
    }

    /// Leaves out the last stage, as in a change that was interrupted.
    pub fn drop_retired(&mut self) {
        self.ops.truncate(self.ops.len() - self.retire);
        self.retire = 0;
    }

    /// Returns all operations, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter()
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Returns true if there are none.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Operations that take effect together.
impl From<Vec<Op>> for Staged {
    fn from(ops: Vec<Op>) -> Self {
        Self { ops, prepare: 0, retire: 0 }
    }
}

/// Operations that may take effect together, and all before any of the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// The stage. In `Switch`, the operations that belong to no Service take effect together.
    pub stage: Stage,
    /// Operations that belong to no Service, before the groups.
    pub shared: &'a [Op],
    /// Operations of Services.
    pub groups: Vec<(&'a NamespacedName, &'a [Op])>,
}

/// An operation on IPVS, and the Service that it belongs to.
#[derive(Clone, Copy, Debug)]
pub struct IpvsOp<'a> {
    /// The Service, if it belongs to one.
    pub service: Option<&'a NamespacedName>,
    /// The operation.
    pub op: &'a ipvs::Op,
}

impl<'a> Step<'a> {
    /// Returns all operations, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let groups = self.groups.iter().flat_map(|(_, ops)| *ops);
        self.shared.iter().chain(groups)
    }

    /// Returns the operations on IPVS, in the order in which they are carried out.
    pub fn on_ipvs(&self) -> Vec<IpvsOp<'a>> {
        let shared = self.shared.iter().map(|op| (None, op));
        let of_services = self
            .groups
            .iter()
            .flat_map(|(service, ops)| ops.iter().map(move |op| (Some(*service), op)));
        let mut ops: Vec<IpvsOp<'a>> = shared
            .chain(of_services)
            .filter_map(|(service, op)| Some(IpvsOp { service, op: op.as_ipvs()? }))
            .collect();
        ops.sort_by_key(|it| it.op.turn());
        ops
    }

    /// Returns true if there are no operations.
    pub fn is_empty(&self) -> bool {
        self.shared.is_empty() && self.groups.is_empty()
    }
}

impl Delta {
    /// Returns the steps of the delta, in order: one for each stage that has operations, and one
    /// for what no Service leads to any more.
    pub fn steps(&self) -> impl Iterator<Item = Step<'_>> {
        let [prepare, switch, retire] = self.shared.stages();
        let step = |stage, shared| Step { stage, shared, groups: self.groups_at(stage) };
        let steps = [
            step(Stage::Prepare, prepare),
            step(Stage::Switch, switch),
            step(Stage::Retire, &[]),
            Step { stage: Stage::Retire, shared: retire, groups: Vec::new() },
        ];
        steps.into_iter().filter(|step| !step.is_empty())
    }

    fn groups_at(&self, stage: Stage) -> Vec<(&NamespacedName, &[Op])> {
        let groups = self.groups.iter().map(|group| (&group.service, group.ops.at(stage)));
        groups.filter(|(_, ops)| !ops.is_empty()).collect()
    }
}

/// What the whole delta does, beyond the operations of one Service.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole {
    pub(super) tables: Tables,
    /// True if it changes IPVS.
    pub(super) with_ipvs: bool,
    /// Groups that had a local group, and whose frontends still treat clients from outside in their
    /// own way after it.
    pub(super) split: BTreeSet<(Family, GroupId)>,
}

/// What the operations of a Service do as a whole, from which the stage of each follows.
struct Classes<'a> {
    whole: &'a Whole,
    added: BTreeSet<Key>,
    deleted: BTreeSet<Key>,
    /// The frontends that lead elsewhere than before.
    turned: BTreeSet<Frontend>,
    /// True if clients from outside get other backends, or none.
    outside_changes: bool,
    /// True if IPVS takes over what our rules have translated so far.
    takes_over: bool,
}

impl<'a> Classes<'a> {
    /// Returns `None` if all operations can take effect together, as most changes can: they remove
    /// nothing that a packet may look up, and add no restriction.
    fn of(ops: &[Op], whole: &'a Whole) -> Option<Self> {
        let Whole { tables, with_ipvs, .. } = *whole;
        let is_staged = match tables {
            Tables::Live => ops.iter().any(|op| may_be_cut(op, with_ipvs)),
            Tables::New => with_ipvs && ops.iter().any(|op| op.deleted().is_some()),
            Tables::Replaced => with_ipvs,
        };
        if !is_staged {
            return None;
        }
        Some(Self {
            whole,
            added: ops.iter().filter_map(|op| Some(op.added()?.key)).collect(),
            deleted: ops.iter().filter_map(|op| Some(op.deleted()?.key)).collect(),
            turned: turned(ops, led_from),
            outside_changes: !turned(ops, led_to_outside).is_empty(),
            takes_over: tables == Tables::Replaced || ops.iter().any(ends_translation),
        })
    }

    fn stage(&self, op: &Op) -> Stage {
        match op {
            Op::Ipvs(op) if self.takes_over && op.verb() != Verb::Delete => Stage::Prepare,
            Op::Ipvs(_) => Stage::Switch,
            Op::Nft(nft::Op::Add(element)) if self.is_early(element.key) => Stage::Prepare,
            Op::Nft(nft::Op::Delete(element)) if self.is_late(element.key) => Stage::Retire,
            Op::Nft(nft::Op::Delete(element))
                if self.added.contains(&element.key) && self.is_early(element.key) =>
            {
                Stage::Prepare
            }
            Op::Nft(_) => Stage::Switch,
        }
    }

    /// A restriction comes early, and so does one that takes the place of another.
    fn is_early(&self, key: Key) -> bool {
        let (Key::Firewalled(frontend) | Key::SourceRange(frontend, _)) = key else { return false };
        let is_live = self.whole.tables == Tables::Live;
        is_live && (self.comes(Key::Firewalled(frontend)) || !self.is_turned(frontend))
    }

    fn is_late(&self, key: Key) -> bool {
        match self.whole.tables {
            Tables::Replaced => return false,
            Tables::New | Tables::Live if self.whole.with_ipvs && self.goes(key) => {
                return self.outlasts_ipvs(key);
            }
            Tables::New => return false,
            Tables::Live => {}
        }
        if let Key::LocalGroup(family, group) = key {
            // Clients from outside are no longer sent there: packets already sent must find it. But
            // if they are still treated in their own way, they shall be dropped from now on.
            self.goes(key) && !self.whole.split.contains(&(family, group))
        } else if key.group().is_some() {
            // Any frontend may have led to the group, also one that another Service has now.
            self.goes(key)
        } else if let Key::Reject(frontend) = key {
            // A packet that came too early to be served must still be rejected.
            self.added.contains(&service(frontend))
        } else if let Key::SourceRange(frontend, _) = key {
            self.goes(key) && self.is_range_late(frontend)
        } else {
            false
        }
    }

    /// A packet that is already being checked must still find its range, if the restriction goes or
    /// another range takes the place of this one.
    fn is_range_late(&self, frontend: Frontend) -> bool {
        self.goes(Key::Firewalled(frontend)) || !self.is_turned(frontend)
    }

    /// IPVS stops before the rules for it go. But a restriction is lifted at once.
    fn outlasts_ipvs(&self, key: Key) -> bool {
        if let Key::Firewalled(frontend) = key {
            self.is_left(frontend)
        } else if let Key::SourceRange(frontend, _) = key {
            self.is_range_late(frontend)
        } else {
            true
        }
    }

    /// Deleting and adding the same key changes its value: every packet finds one of both.
    fn goes(&self, key: Key) -> bool {
        self.deleted.contains(&key) && !self.added.contains(&key)
    }

    fn comes(&self, key: Key) -> bool {
        self.added.contains(&key) && !self.deleted.contains(&key)
    }

    /// Returns true if the frontend serves its clients otherwise than before.
    fn is_turned(&self, frontend: Frontend) -> bool {
        self.outside_changes || self.turned.contains(&frontend)
    }

    /// Returns true if the frontend goes.
    fn is_left(&self, frontend: Frontend) -> bool {
        let was_known = self.goes(service(frontend)) || self.goes(Key::Reject(frontend));
        was_known && !self.added.contains(&service(frontend))
    }
}

fn service(frontend: Frontend) -> Key {
    Key::Service(frontend)
}

/// Returns what leads elsewhere than before, or treats clients in another way; a change of the
/// number of backends is not enough.
fn turned<T: Ord>(ops: &[Op], subject: impl Fn(Key) -> Option<T>) -> BTreeSet<T> {
    let mut changes: BTreeMap<T, Vec<&Op>> = BTreeMap::new();
    for op in ops {
        if let Some(subject) = op.element().and_then(|element| subject(element.key)) {
            changes.entry(subject).or_default().push(op);
        }
    }
    changes.retain(|_, change| !pieces::is_only_resized(change));
    changes.into_keys().collect()
}

fn led_from(key: Key) -> Option<Frontend> {
    if let Key::Service(frontend) | Key::Reject(frontend) = key { Some(frontend) } else { None }
}

fn led_to_outside(key: Key) -> Option<(Family, GroupId)> {
    if let Key::LocalGroup(family, group) = key { Some((family, group)) } else { None }
}

fn may_be_cut(op: &Op, with_ipvs: bool) -> bool {
    if with_ipvs && (op.deleted().is_some() || op.as_ipvs().is_some()) {
        return true;
    }
    let is_restriction = op.added().is_some_and(|it| matches!(it.key, Key::Firewalled(_)));
    let is_looked_up = op.deleted().is_some_and(|it| {
        it.key.group().is_some() || matches!(it.key, Key::Reject(_) | Key::SourceRange(..))
    });
    is_restriction || is_looked_up
}

/// Returns true if the operation makes our rules stop translating packets to a frontend.
fn ends_translation(op: &Op) -> bool {
    let Some(Element { key: Key::Service(_), value: Value::Code(code), .. }) = op.deleted() else {
        return false;
    };
    !code.is_by_ipvs() && !code.is_dropped()
}

#[cfg(test)]
mod tests;
