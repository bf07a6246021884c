//! The difference between two states of the kernel, as operations.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::element::{Element, Key, Owned, Value};
use super::op::Op;
use super::program::{
    PickId, Program, Winner, firewall_elements, head, local_head, slot_element, slot_elements,
};
use super::skeleton::{ChainId, SetId, SetKind, View};
use super::slots::Slot;
use super::state::{Held, State, Table, Violation};
use crate::frontend::{Frontend, PortKey};
use crate::ipvs::{self, Server, VirtualServer};
use crate::name::NamespacedName;
use crate::net::Family;

/// The operations for one Service, which belong in one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The Service.
    pub service: NamespacedName,
    /// Its operations, in order.
    pub ops: Vec<Op>,
}

/// The operations from one state of the kernel to another, in a valid order: a thing is added
/// before others refer to it. The value of an element cannot be changed in place (nf_tables refuses
/// it for data maps), so a new value is a deletion and an addition, which take effect together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// True if traffic would be interrupted if the delta were cut: a table is replaced.
    pub atomic: bool,
    /// Tables, sets, chains, and the elements that belong to no Service.
    pub prelude: Vec<Op>,
    /// Operations by Service, the most important Service first.
    pub groups: Vec<Group>,
    /// Deletions that are possible only when nothing refers to their objects any more.
    pub epilogue: Vec<Op>,
}

impl Delta {
    /// Returns the smallest delta from one program to another. Parts that both share are not
    /// visited.
    pub fn between(applied: &Program, wanted: &Program) -> Self {
        let mut delta = Builder::default();
        if !applied.picks().ptr_eq(wanted.picks()) {
            delta.picks(applied, wanted);
        }
        if applied.node() != wanted.node() {
            let keys = |program: &Program| -> Vec<Owned> {
                let present = |key: &Key| (Element::new(*key, Value::Present), None);
                program.node().iter().map(present).collect()
            };
            delta.elements(keys(applied), keys(wanted));
        }
        for key in applied.diff_members(wanted) {
            let element = || Element::new(key, Value::Present);
            match (applied.member_owner(key), wanted.member_owner(key)) {
                (Some(owner), None) => {
                    delta.push(&owner.service, Op::Delete(element()));
                    delta.bind(key, Some(owner), ipvs::Op::Unbind);
                }
                (None, Some(owner)) => {
                    delta.push(&owner.service, Op::Add(element()));
                    delta.bind(key, Some(owner), ipvs::Op::Bind);
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        let changed = applied.diff_claims(wanted);
        for frontend in &changed {
            delta.frontend(*frontend, applied.winner(*frontend), wanted.winner(*frontend));
        }
        for frontend in changed.union(&applied.diff_draining(wanted)) {
            delta.server(*frontend, applied, wanted);
        }
        delta.finish()
    }

    /// Returns the delta from the state that was read from a kernel to a program: at start, and for
    /// repairs.
    pub fn reconcile(found: &State, wanted: &Program) -> Self {
        let picks = wanted.picks().keys().copied();
        let chains =
            picks.map(|(family, scope, view, pick)| (family, ChainId::Pick(scope, view, pick)));
        let chains: Vec<(Family, ChainId)> = chains.collect();
        let mut delta = if found.tables.is_empty() {
            Self::install(wanted, &chains)
        } else {
            Self::from_state(found, &Family::ALL, &chains, wanted.elements())
        };
        if let Some(ipvs) = wanted.settings().ipvs() {
            let servers = wanted
                .servers()
                .map(|(server, held, owner)| (server, (held, Some(Arc::clone(owner)))));
            let vips = wanted.vips().map(|(address, owner)| (address, Some(Arc::clone(owner))));
            delta.servers(found, servers.collect(), vips.collect(), &ipvs.exclude);
        }
        delta.finish()
    }

    /// Returns the delta from an empty kernel. As it is the largest, no list of its elements is
    /// built.
    fn install(wanted: &Program, picks: &[(Family, ChainId)]) -> Builder {
        let mut delta = Builder::default();
        for family in Family::ALL {
            delta.prelude(Op::AddTable(family));
            let picks = picks.iter().filter(|(of, _)| *of == family).map(|(_, chain)| *chain);
            let chains: Vec<ChainId> = ChainId::CONSTANT.into_iter().chain(picks).collect();
            delta.skeleton(family, &Table::default(), &chains);
        }
        wanted.for_each_element(|element, owner| delta.push_for(owner, Op::Add(element)));
        delta
    }

    /// Returns the delta between two states without a known program, for comparing snapshots.
    pub fn between_states(found: &State, wanted: &State) -> Self {
        let mut elements = wanted.elements();
        wanted.find_owners(&mut elements);
        let chains: Vec<(Family, ChainId)> = wanted
            .tables
            .iter()
            .flat_map(|(family, table)| table.chains.keys().map(|chain| (*family, *chain)))
            .filter(|(_, chain)| matches!(chain, ChainId::Pick(..)))
            .collect();
        let families: Vec<Family> = wanted.tables.keys().copied().collect();
        let mut delta = Self::from_state(found, &families, &chains, elements);
        let servers = wanted.ipvs.servers.iter().map(|(server, held)| {
            (*server, (held.clone(), wanted.owner(server.frontend()).cloned()))
        });
        let vips = wanted.ipvs.bound.iter().map(|address| (*address, None));
        delta.servers(found, servers.collect(), vips.collect(), &[]);
        delta.finish()
    }

    fn from_state(
        found: &State,
        families: &[Family],
        picks: &[(Family, ChainId)],
        wanted: Vec<Owned>,
    ) -> Builder {
        let mut delta = Builder::default();
        let empty = Table::default();
        let mut held: BTreeMap<Family, &Table> = BTreeMap::new();
        let mut unwanted: Vec<Op> = Vec::new();
        for family in Family::ALL {
            if !families.contains(&family) {
                if found.tables.contains_key(&family) {
                    delta.prelude(Op::DeleteTable(family));
                }
                continue;
            }
            let table = match found.tables.get(&family) {
                Some(table) if table.foreign.is_empty() => table,
                Some(_) => {
                    delta.delta.atomic = true;
                    delta.prelude(Op::DeleteTable(family));
                    delta.prelude(Op::AddTable(family));
                    &empty
                }
                None => {
                    delta.prelude(Op::AddTable(family));
                    &empty
                }
            };
            let picks = picks.iter().filter(|(of, _)| *of == family).map(|(_, chain)| *chain);
            let chains: Vec<ChainId> = ChainId::CONSTANT.into_iter().chain(picks).collect();
            delta.skeleton(family, table, &chains);
            let gone = table.chains.keys().filter(|chain| !chains.contains(chain));
            unwanted.extend(gone.map(|chain| Op::DeleteChain(family, *chain)));
            held.insert(family, table);
        }
        // Most elements are equal and compared in place; only those that differ are copied.
        let mut gone = Self::missing_from(&held, &wanted);
        if !gone.is_empty() {
            found.find_owners(&mut gone);
        }
        // All changes of a frontend belong in one transaction: that of the Service that shall have
        // it or, if there is none, that of the Service that had it.
        for (element, owner) in &mut gone {
            if let Some(wanted) = head_owner(&wanted, element.key) {
                *owner = Some(Arc::clone(wanted));
            }
        }
        let mut gone = gone.into_iter().peekable();
        for (element, owner) in wanted {
            while let Some((old, owner)) = gone.next_if(|(old, _)| old.key < element.key) {
                delta.drop(owner.as_ref(), old);
            }
            let replaced = gone.next_if(|(old, _)| old.key == element.key);
            let table = held.get(&element.key.family());
            let is_held = replaced.is_none()
                && table.is_some_and(|table| table.elements.contains_key(&element.key));
            if let Some((old, _)) = replaced {
                delta.push_for(owner.as_ref(), Op::Delete(old));
            }
            if !is_held {
                delta.push_for(owner.as_ref(), Op::Add(element));
            }
        }
        for (old, owner) in gone {
            delta.drop(owner.as_ref(), old);
        }
        delta.delta.epilogue.extend(unwanted);
        delta
    }

    /// Returns the elements of the tables that are not wanted, or not in this form, sorted by key.
    fn missing_from(held: &BTreeMap<Family, &Table>, wanted: &[Owned]) -> Vec<Owned> {
        let copy = |key: &Key, (value, comment): &Held| {
            (Element { key: *key, value: *value, comment: comment.clone() }, None)
        };
        let mut gone: Vec<Owned> = Vec::new();
        for (family, table) in held {
            let mut wanted =
                wanted.iter().filter(|(element, _)| element.key.family() == *family).peekable();
            for (key, held) in &table.elements {
                while wanted.next_if(|(element, _)| element.key < *key).is_some() {}
                let same = wanted.peek().is_some_and(|(element, _)| {
                    element.key == *key && element.value == held.0 && element.comment == held.1
                });
                if !same {
                    gone.push(copy(key, held));
                }
            }
        }
        gone.sort_unstable_by_key(|(element, _)| element.key);
        gone
    }

    /// Returns all operations, in order.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let groups = self.groups.iter().flat_map(|group| &group.ops);
        self.prelude.iter().chain(groups).chain(&self.epilogue)
    }

    /// Returns the number of operations.
    pub fn len(&self) -> usize {
        let groups: usize = self.groups.iter().map(|group| group.ops.len()).sum();
        self.prelude.len() + groups + self.epilogue.len()
    }

    /// Returns true if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    /// Applies a delta, operation by operation.
    ///
    /// # Errors
    ///
    /// Returns the first operation that a kernel would refuse. Unlike a kernel's, the state is then
    /// half changed: use a copy.
    pub fn apply(&mut self, delta: &Delta) -> Result<(), Violation> {
        delta.ops().try_for_each(|op| self.apply_op(op))
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

#[derive(Default)]
struct Builder {
    delta: Delta,
    groups: BTreeMap<(u8, NamespacedName), Vec<Op>>,
    /// Additions of intervals that belong to no Service; see `intervals_last`.
    intervals: Vec<Op>,
}

impl Builder {
    fn prelude(&mut self, op: Op) {
        self.delta.prelude.push(op);
    }

    fn push(&mut self, service: &NamespacedName, op: Op) {
        let ops = self.groups.entry((importance(service), service.clone())).or_default();
        if ops.len() == ops.capacity() {
            // Of a first install, all groups are in memory at once: were each twice as long as the last
            // time, a quarter of the largest peak there is would be for nothing.
            ops.reserve_exact((ops.len() / 4).max(4));
        }
        ops.push(op);
    }

    fn push_for(&mut self, owner: Option<&Arc<PortKey>>, op: Op) {
        match (owner, &op) {
            (Some(owner), _) => self.push(&owner.service, op),
            (None, op) if is_added_interval(op) => self.intervals.push(op.clone()),
            (None, _) => self.prelude(op),
        }
    }

    /// Deletes an element that is not replaced.
    fn drop(&mut self, owner: Option<&Arc<PortKey>>, element: Element) {
        if matches!(element.key, Key::Pick(..)) {
            // Frontends refer to the code until the groups have changed them.
            self.delta.epilogue.push(Op::Delete(element));
        } else {
            self.push_for(owner, Op::Delete(element));
        }
    }

    fn finish(self) -> Delta {
        let mut delta = self.delta;
        delta.prelude.extend(self.intervals);
        let group = |((_, service), ops): ((u8, NamespacedName), Vec<Op>)| Group {
            service,
            ops: intervals_last(ops),
        };
        delta.groups = self.groups.into_iter().map(group).collect();
        delta
    }

    /// Adds the sets and chains of a table; its elements come later.
    fn skeleton(&mut self, family: Family, table: &Table, chains: &[ChainId]) {
        for set in SetId::ALL.into_iter().filter(|set| !table.sets.contains(set)) {
            self.prelude(Op::AddSet(family, set));
        }
        for chain in chains.iter().filter(|chain| !table.chains.contains_key(chain)) {
            self.prelude(Op::AddChain(family, *chain));
        }
        for chain in chains {
            match table.chains.get(chain) {
                Some(true) => {}
                Some(false) => {
                    self.prelude(Op::FlushChain(family, *chain));
                    self.prelude(Op::FillChain(family, *chain));
                }
                None => self.prelude(Op::FillChain(family, *chain)),
            }
        }
    }

    fn picks(&mut self, applied: &Program, wanted: &Program) {
        for item in applied.picks().diff(wanted.picks()) {
            match item {
                im::ordmap::DiffItem::Add(pick, _) => {
                    let (family, chain, element) = pick_parts(*pick);
                    self.prelude(Op::AddChain(family, chain));
                    self.prelude(Op::FillChain(family, chain));
                    self.prelude(Op::Add(element));
                }
                im::ordmap::DiffItem::Remove(pick, _) => {
                    let (family, chain, element) = pick_parts(*pick);
                    self.delta.epilogue.push(Op::Delete(element));
                    self.delta.epilogue.push(Op::DeleteChain(family, chain));
                }
                im::ordmap::DiffItem::Update { .. } => {}
            }
        }
    }

    fn frontend(&mut self, frontend: Frontend, old: Option<Winner<'_>>, new: Option<Winner<'_>>) {
        if old == new {
            return;
        }
        let Some(owner) = new.as_ref().or(old.as_ref()).map(|winner| winner.owner) else { return };
        let owner = Arc::clone(owner);
        let (old, new) = (old.as_ref(), new.as_ref());
        self.head(&owner, old.map(|it| head(frontend, it)), new.map(|it| head(frontend, it)));
        let slots = |winner: Option<&Winner<'_>>, view| -> (Option<u32>, Arc<[Slot]>) {
            let slots = winner.and_then(|winner| winner.slots(view));
            slots.map(|(affinity, slots)| (affinity, Arc::clone(slots))).unwrap_or_default()
        };
        let of_view = |view| (slots(old, view), slots(new, view));
        let (old_slots, new_slots) = of_view(View::Cluster);
        self.slots(&owner, View::Cluster, frontend, old_slots, new_slots);
        // Most frontends have nothing more than that.
        let is_plain = |winner: Option<&Winner<'_>>| winner.is_none_or(|it| it.target.is_plain());
        if is_plain(old) && is_plain(new) {
            return;
        }
        let local = |winner: Option<&Winner<'_>>| local_head(frontend, winner?);
        self.head(&owner, local(old), local(new));
        let (old_slots, new_slots) = of_view(View::Local);
        self.slots(&owner, View::Local, frontend, old_slots, new_slots);
        let firewall = |winner: Option<&Winner<'_>>| {
            let elements = winner.into_iter().flat_map(|it| firewall_elements(frontend, it));
            sorted(elements.collect(), &owner)
        };
        self.elements(firewall(old), firewall(new));
    }

    /// Changes the virtual server of a frontend.
    fn server(&mut self, frontend: Frontend, applied: &Program, wanted: &Program) {
        let (old, new) = (applied.server(frontend), wanted.server(frontend));
        let Some((server, _)) = old.as_ref().or(new.as_ref()) else { return };
        let owner = wanted.winner(frontend).or_else(|| applied.winner(frontend));
        let owner = owner.map(|winner| Arc::clone(winner.owner));
        let held =
            |program: Option<&(VirtualServer, Server)>| program.map(|(_, held)| held.clone());
        let (old, new) = (held(old.as_ref()), held(new.as_ref()));
        for op in ipvs::delta::between(*server, old.as_ref(), new.as_ref()) {
            self.push_for(owner.as_ref(), Op::Ipvs(op));
        }
    }

    /// Binds or unbinds the address of a member, if it is a VIP.
    fn bind(&mut self, key: Key, owner: Option<&Arc<PortKey>>, op: fn(IpAddr) -> ipvs::Op) {
        if let Key::Vip(address) = key {
            self.push_for(owner, Op::Ipvs(op(address)));
        }
    }

    /// Changes the virtual servers and addresses that were found to those that are wanted. Those of
    /// others and of excluded networks are left alone.
    fn servers(
        &mut self,
        found: &State,
        wanted: BTreeMap<VirtualServer, (Server, Option<Arc<PortKey>>)>,
        vips: BTreeMap<IpAddr, Option<Arc<PortKey>>>,
        exclude: &[IpNet],
    ) {
        let is_excluded = |address: IpAddr| exclude.iter().any(|net| net.contains(&address));
        for (server, (wanted, owner)) in &wanted {
            let held = found.ipvs.servers.get(server);
            for op in ipvs::delta::between(*server, held, Some(wanted)) {
                self.push_for(owner.as_ref(), Op::Ipvs(op));
            }
        }
        for (address, owner) in &vips {
            if !found.ipvs.bound.contains(address) {
                self.bind(Key::Vip(*address), owner.as_ref(), ipvs::Op::Bind);
            }
        }
        for address in &found.ipvs.bound {
            if !vips.contains_key(address) && !is_excluded(*address) {
                self.delta.epilogue.push(Op::Ipvs(ipvs::Op::Unbind(*address)));
            }
        }
        for server in found.ipvs.servers.keys() {
            let is_kept = wanted.contains_key(server) || is_excluded(server.address);
            if !is_kept && found.is_ours(*server) {
                self.delta.epilogue.push(Op::Ipvs(ipvs::Op::DeleteServer(*server)));
            }
        }
    }

    fn head(&mut self, owner: &PortKey, old: Option<Element>, new: Option<Element>) {
        if old != new {
            let ops = [old.map(Op::Delete), new.map(Op::Add)];
            ops.into_iter().flatten().for_each(|op| self.push(&owner.service, op));
        }
    }

    /// Changes the slots of a view of a frontend, whose affinity is given too.
    fn slots(
        &mut self,
        owner: &Arc<PortKey>,
        view: View,
        frontend: Frontend,
        (old_affinity, old): (Option<u32>, Arc<[Slot]>),
        (new_affinity, new): (Option<u32>, Arc<[Slot]>),
    ) {
        if old_affinity.is_some() || new_affinity.is_some() {
            let elements = |affinity, slots: &[Slot]| {
                let mut elements = Vec::new();
                slot_elements(&mut elements, view, frontend, affinity, slots);
                sorted(elements, owner)
            };
            self.elements(elements(old_affinity, &old), elements(new_affinity, &new));
            return;
        }
        for position in 0..old.len().max(new.len()) {
            let (old, new) = (old.get(position), new.get(position));
            if old == new {
                continue;
            }
            let element = |slot: &Slot| slot_element(view, frontend, slot);
            let ops =
                [old.map(|slot| Op::Delete(element(slot))), new.map(|slot| Op::Add(element(slot)))];
            ops.into_iter().flatten().for_each(|op| self.push(&owner.service, op));
        }
    }

    /// Merges two lists of elements, both sorted by key. An element that moves from one Service to
    /// another is an operation of the new one, so that its deletion and addition are in one
    /// transaction.
    fn elements(&mut self, old: Vec<Owned>, new: Vec<Owned>) {
        let mut old = old.into_iter().peekable();
        let mut new = new.into_iter().peekable();
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((old, _)), Some((new, _))) => old.key.cmp(&new.key),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return,
            };
            let gone = if order == Ordering::Greater { None } else { old.next() };
            let come = if order == Ordering::Less { None } else { new.next() };
            match (gone, come) {
                (Some((gone, owner)), None) => self.push_for(owner.as_ref(), Op::Delete(gone)),
                (None, Some((come, owner))) => self.push_for(owner.as_ref(), Op::Add(come)),
                (Some((gone, _)), Some((come, owner))) if gone != come => {
                    self.push_for(owner.as_ref(), Op::Delete(gone));
                    self.push_for(owner.as_ref(), Op::Add(come));
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
    }
}

/// Returns a pick chain and the element that leads to it.
fn pick_parts((family, scope, view, pick): PickId) -> (Family, ChainId, Element) {
    let element = Element::new(Key::Pick(family, scope, view, pick), Value::Goto);
    (family, ChainId::Pick(scope, view, pick), element)
}

fn is_added_interval(op: &Op) -> bool {
    matches!(op, Op::Add(element) if element.key.set().spec().kind == SetKind::Interval)
}

/// Moves additions of intervals to the end: a kernel refuses an interval that overlaps with one
/// that still exists.
fn intervals_last(mut ops: Vec<Op>) -> Vec<Op> {
    if ops.iter().any(is_added_interval) {
        ops.sort_by_key(is_added_interval);
    }
    ops
}

fn sorted(mut elements: Vec<Element>, owner: &Arc<PortKey>) -> Vec<Owned> {
    elements.sort_unstable_by_key(|element| element.key);
    elements.into_iter().map(|element| (element, Some(Arc::clone(owner)))).collect()
}

/// Returns the owner of the frontend of a key, according to the element with the comment.
fn head_owner(elements: &[Owned], key: Key) -> Option<&Arc<PortKey>> {
    let frontend = key.frontend()?;
    let heads = [Key::Service(View::Cluster, frontend), Key::Reject(frontend)];
    heads.into_iter().find_map(|head| {
        let found = elements.binary_search_by_key(&head, |(element, _)| element.key).ok()?;
        elements.get(found)?.1.as_ref()
    })
}

/// Parses the owner in a comment, if the comment has our form: `namespace/name` or
/// `namespace/name:port`.
pub fn parse_owner(comment: &str) -> Option<PortKey> {
    let (service, port) = comment.split_once(':').unwrap_or((comment, ""));
    let (namespace, name) = service.split_once('/')?;
    let whole = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    whole.then(|| PortKey {
        service: NamespacedName::new(namespace, name),
        port: crate::name::PortName::from(port),
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// No kernel holds such a state, but a caller may pass one.
    #[test]
    fn an_element_in_the_wrong_familys_table_does_not_panic() {
        let key = Key::ClusterIp(IpAddr::from([10, 96, 0, 1]));
        let table = Table { elements: [(key, (Value::Present, None))].into(), ..Table::default() };
        let alien = State { tables: [(Family::Ipv6, table)].into(), ..State::default() };
        let nothing =
            State { tables: [(Family::Ipv6, Table::default())].into(), ..State::default() };
        let added = |delta: &Delta| delta.ops().filter(|op| matches!(op, Op::Add(_))).count();
        assert_eq!(added(&Delta::between_states(&nothing, &alien)), 1);
        assert_eq!(added(&Delta::between_states(&alien, &nothing)), 0);
    }
}
