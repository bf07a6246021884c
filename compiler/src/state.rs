//! The content of our tables and of IPVS in a kernel, and the effect of each operation on it.
//!
//! This is the reference, as strict as nf_tables is. It is an error to add what exists, to delete
//! what does not, to add a rule that names a missing set, or to delete a chain while an element
//! leads to it. So a delta that is valid here is valid in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};

use crate::frontend::{Frontend, PortKey, View};
use crate::ipvs::{self, VirtualServer};
use crate::net::{Family, Protocol};
use crate::nft::chain::ChainId;
use crate::nft::code::{Affinity, AffinityId, Class, Clients, Code, Draw, GroupId, Member};
use crate::nft::element::{Element, Key, OwnedElement, Value};
use crate::nft::group::{AffinityClass, Choice, Group};
use crate::nft::length::Length;
use crate::nft::rule::Rule;
use crate::nft::set::{Data, SetId};
use crate::nft::slots::{self, Ids, Slot};
use crate::nft::{self, ruleset};
use crate::op::Op;

/// Our content in a kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Our table in each family that has one.
    pub tables: BTreeMap<Family, Table>,
    /// The content of IPVS, if it was read.
    pub ipvs: ipvs::State,
}

/// One of our tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The sets and maps.
    pub sets: BTreeSet<SetId>,
    /// The chains, and what they hold.
    pub chains: BTreeMap<ChainId, ChainContent>,
    /// The elements.
    pub elements: BTreeMap<Key, Held>,
    /// Content of the table that cannot be ours: a set of another shape, an unknown chain, an
    /// element without a meaning. Operations on elements cannot repair it; the table must be
    /// replaced.
    pub foreign: Vec<String>,
}

impl Table {
    /// Returns true if node ports answer on `localhost`.
    pub fn serves_localhost(&self) -> bool {
        self.chains.contains_key(&ChainId::LocalhostNew)
    }
}

/// What a chain holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainContent {
    /// Exactly our rules.
    Complete,
    /// Anything else, such as no rules at all.
    Other,
}

/// What a kernel holds for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The value.
    pub value: Value,
    /// The owner, from the comment.
    pub owner: Option<Arc<PortKey>>,
    /// True if it has a counter.
    pub is_counted: bool,
}

impl Held {
    /// Returns the element with this key.
    pub fn element(&self, key: Key) -> Element {
        let Self { value, owner, is_counted } = self;
        Element { key, value: *value, comment: owner.clone(), is_counted: *is_counted }
    }
}

impl From<&Element> for Held {
    fn from(element: &Element) -> Self {
        let Element { value, comment, is_counted, .. } = element;
        Self { value: *value, owner: comment.clone(), is_counted: *is_counted }
    }
}

/// An operation that a kernel would refuse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The operation.
    pub op: Op,
    /// The reason.
    pub reason: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?}", self.reason, self.op)
    }
}

impl std::error::Error for Violation {}

impl State {
    /// Returns the code of a frontend; `None` if the kernel holds no backends for it.
    pub fn code(&self, frontend: Frontend) -> Option<Code> {
        self.value_as_code(Key::Service(frontend))
    }

    /// Returns the networks that may connect to a frontend; `None` if all may. Ranges of a length
    /// that the frontend does not name have no effect: a change that was interrupted leaves such.
    pub fn sources(&self, frontend: Frontend) -> Option<Vec<IpNet>> {
        let elements = &self.tables.get(&frontend.family())?.elements;
        let Value::Lengths(lengths) = elements.get(&Key::Firewalled(frontend))?.value else {
            return None;
        };
        let lowest = IpNet::V4(Ipv4Net::default());
        let ranges = elements.range(Key::SourceRange(frontend, lowest)..);
        let own = ranges.map_while(|(key, _)| {
            let Key::SourceRange(of, range) = key else { return None };
            (*of == frontend).then_some(*range)
        });
        let is_used = |range: &IpNet| Length::of(*range).is_some_and(|it| lengths.contains(it));
        Some(own.filter(is_used).collect())
    }

    /// Returns the code for a view of a frontend, likewise.
    pub fn code_for(&self, view: View, frontend: Frontend) -> Option<Code> {
        let code = self.code(frontend)?;
        match view {
            View::Cluster => Some(code),
            View::Local => self.value_as_code(Key::LocalGroup(frontend.family(), code.group)),
        }
    }

    fn value_as_code(&self, key: Key) -> Option<Code> {
        let held = self.tables.get(&key.family())?.elements.get(&key)?;
        if let Value::Code(code) = held.value { Some(code) } else { None }
    }

    /// Returns the group for a view of a frontend; `None` if the kernel holds none. It has no slots
    /// if IPVS chooses.
    pub fn group(&self, view: View, frontend: Frontend) -> Option<Group> {
        let family = frontend.family();
        let code = self.code_for(view, frontend)?;
        let affinity = match code.class {
            Class::Affinity(id) => self.affinity(family, id),
            Class::Dropped
            | Class::Ipvs
            | Class::RoundRobin
            | Class::Random(_)
            | Class::Maglev(_) => None,
        };
        // Another map has the class by which the slots of a group with members are drawn.
        let drawn = match code.class {
            Class::Affinity(_) | Class::RoundRobin => {
                let drawn = self.value_as_code(Key::MemberGroup(family, code.group));
                drawn.map_or(code.class, |drawn| drawn.class)
            }
            Class::Dropped | Class::Ipvs | Class::Random(_) | Class::Maglev(_) => code.class,
        };
        let choice = match (code.class, drawn) {
            (Class::RoundRobin, _) => Choice::RoundRobin,
            (_, Class::Maglev(table)) => Choice::Maglev(table),
            _ => Choice::Random,
        };
        let slot = |place| self.slot(family, code, frontend.protocol(), place);
        let group = Group { id: Some(code.group), choice, affinity, ..Group::default() };
        // A change that was interrupted leaves slots that no packet looks at any more.
        let limit = if let Class::Random(size) = drawn { size.slots() } else { u32::MAX };
        let mut slots: Vec<Slot> = match (code.class, choice) {
            (Class::Dropped | Class::Ipvs, _) => Vec::new(),
            (_, Choice::Maglev(table)) => slots::completed(table.size, group.ids(), slot),
            // Such a change also leaves slots out.
            (_, Choice::Random | Choice::RoundRobin) => (0..limit).map_while(slot).collect(),
        };
        if group.ids() == Ids::Positions {
            // Without the class that others have removed, the timeout of a group with session
            // affinity is unknown: it goes on without affinity, and has no members.
            slots.iter_mut().zip(0..).for_each(|(slot, place)| slot.id = place);
        }
        Some(Group { slots: slots.into(), ..group })
    }

    /// Returns a slot of a group.
    fn slot(
        &self,
        family: Family,
        Code { group, class, .. }: Code,
        protocol: Protocol,
        place: u32,
    ) -> Option<Slot> {
        let value = |key: Key| Some(self.tables.get(&family)?.elements.get(&key)?.value);
        let backend = |key: Key| match value(key)? {
            Value::Backend(backend) => Some(backend),
            Value::Present
            | Value::Code(_)
            | Value::Member(_)
            | Value::Lengths(_)
            | Value::Goto(_) => None,
        };
        match class {
            Class::Affinity(_) | Class::RoundRobin => {
                match value(Key::MemberSlot(family, group, place))? {
                    Value::Member(member) => {
                        let backend = backend(Key::Member(family, member, protocol))?;
                        Some(Slot { id: member.number.into(), backend })
                    }
                    Value::Present
                    | Value::Code(_)
                    | Value::Backend(_)
                    | Value::Lengths(_)
                    | Value::Goto(_) => None,
                }
            }
            Class::Dropped | Class::Ipvs | Class::Random(_) | Class::Maglev(_) => {
                let backend = backend(Key::Endpoint(family, group, protocol, place))?;
                Some(Slot { id: place, backend })
            }
        }
    }

    /// Returns what a class with session affinity stands for.
    fn affinity(&self, family: Family, id: AffinityId) -> Option<AffinityClass> {
        let key = Key::Class(family, Class::Affinity(id));
        match self.tables.get(&family)?.elements.get(&key)?.value {
            Value::Goto(ChainId::Affinity(affinity)) => Some(AffinityClass { id, affinity }),
            Value::Present
            | Value::Code(_)
            | Value::Member(_)
            | Value::Lengths(_)
            | Value::Backend(_)
            | Value::Goto(_) => None,
        }
    }

    /// Returns the classes with session affinity.
    pub(crate) fn affinity_classes(&self) -> impl Iterator<Item = (Family, AffinityId, Affinity)> {
        let of = move |family: Family| {
            let classes = AffinityId::all().filter_map(move |id| self.affinity(family, id));
            classes.map(move |class| (family, class.id, class.affinity))
        };
        Family::ALL.into_iter().flat_map(of)
    }

    /// Returns the groups that use a class with session affinity, possibly more than once.
    pub(crate) fn affinity_groups(&self) -> impl Iterator<Item = (Family, GroupId, AffinityId)> {
        let elements = self.tables.values().flat_map(|table| &table.elements);
        elements.filter_map(|(key, held)| {
            let Value::Code(Code { group, class: Class::Affinity(id), .. }) = held.value else {
                return None;
            };
            Some((key.family(), group, id))
        })
    }

    /// Returns the groups that elements name, possibly more than once.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (Family, GroupId)> {
        self.tables.iter().flat_map(|(family, table)| {
            table.elements.iter().flat_map(|(key, held)| {
                let named =
                    if let Value::Code(code) = held.value { Some(code.group) } else { None };
                key.group().into_iter().chain(named).map(|group| (*family, group))
            })
        })
    }

    /// Returns the owner of a frontend, according to its comment.
    pub fn owner(&self, frontend: Frontend) -> Option<&Arc<PortKey>> {
        let table = self.tables.get(&frontend.family())?;
        let heads = [Key::Service(frontend), Key::Reject(frontend)];
        heads.iter().find_map(|key| table.elements.get(key)?.owner.as_ref())
    }

    /// Returns true if a virtual server is ours: our table leaves its frontend to IPVS, or its
    /// address is one that we have bound to this node.
    pub fn is_ours(&self, server: VirtualServer) -> bool {
        let frontend = server.frontend();
        let table = self.tables.get(&server.family());
        let holds = |key| table.is_some_and(|table| table.elements.contains_key(&key));
        self.code(frontend).is_some_and(|code| code.is_by_ipvs() || code.is_dropped())
            || holds(Key::Reject(frontend))
            || self.ipvs.bound.contains(&server.address)
    }

    /// Returns true if our tables leave a frontend to IPVS.
    pub fn has_ipvs(&self) -> bool {
        let held = self.tables.values().flat_map(|table| table.elements.values());
        held.into_iter().any(|held| matches!(held.value, Value::Code(code) if code.is_by_ipvs()))
    }

    /// Returns every element without its owner, sorted by key.
    pub(crate) fn elements(&self) -> Vec<OwnedElement> {
        let held = self.tables.values().flat_map(|table| &table.elements);
        let mut elements: Vec<OwnedElement> = held
            .map(|(key, held)| OwnedElement { element: held.element(*key), owner: None })
            .collect();
        elements.sort_unstable_by_key(|it| it.element.key);
        elements
    }

    /// Sets the owner of each of these elements of the state, as far as comments tell: the owner of
    /// its frontend, of a frontend with its group, or of a frontend or backend with its address.
    pub(crate) fn find_owners(&self, elements: &mut [OwnedElement]) {
        let owner_of = |frontend: Frontend| self.owner(frontend).cloned();
        let mut addresses: BTreeMap<IpAddr, Option<Arc<PortKey>>> =
            elements.iter().filter_map(|it| Some((it.element.key.address()?, None))).collect();
        let has_groups = elements.iter().any(|it| it.element.key.group().is_some());
        let groups =
            if has_groups || !addresses.is_empty() { self.group_owners() } else { BTreeMap::new() };
        if !addresses.is_empty() {
            for (key, held) in self.tables.values().flat_map(|table| &table.elements) {
                let (address, found) = match (key, &held.value) {
                    (Key::Endpoint(..) | Key::Member(..), Value::Backend(backend)) => {
                        let group = key.group().map(|group| (key.family(), group));
                        let owner = group.and_then(|group| groups.get(&group));
                        (backend.address, owner.map(|owner| Arc::clone(owner)))
                    }
                    (Key::Service(frontend) | Key::Reject(frontend), _) => match frontend {
                        Frontend::Address { address, .. } => (*address, owner_of(*frontend)),
                        Frontend::NodePort { .. } => continue,
                    },
                    _ => continue,
                };
                if let Some(owner @ None) = addresses.get_mut(&address) {
                    *owner = found;
                }
            }
        }
        for OwnedElement { element, owner } in elements {
            let key = element.key;
            *owner = match (key.frontend(), key.group()) {
                (Some(frontend), _) => owner_of(frontend),
                (None, Some(group)) => groups.get(&(key.family(), group)).map(|it| Arc::clone(it)),
                (None, None) => key.address().and_then(|address| addresses.get(&address)?.clone()),
            };
        }
    }

    /// Returns the frontends that lead to each group.
    pub fn frontends_by_group(&self) -> BTreeMap<(Family, GroupId), Vec<Frontend>> {
        let mut frontends: BTreeMap<(Family, GroupId), Vec<Frontend>> = BTreeMap::new();
        for (key, held) in self.tables.values().flat_map(|table| &table.elements) {
            let (Key::Service(frontend), Value::Code(code)) = (key, held.value) else { continue };
            let local = self.value_as_code(Key::LocalGroup(key.family(), code.group));
            let local = local.filter(|_| code.clients == Clients::Split);
            for group in std::iter::once(code.group).chain(local.map(|local| local.group)) {
                frontends.entry((key.family(), group)).or_default().push(*frontend);
            }
        }
        frontends
    }

    /// Returns the owner of each group that a frontend with a comment names.
    fn group_owners(&self) -> BTreeMap<(Family, GroupId), &Arc<PortKey>> {
        let mut owners = BTreeMap::new();
        for (key, held) in self.tables.values().flat_map(|table| &table.elements) {
            let (Key::Service(_), Value::Code(code), Some(owner)) = (key, held.value, &held.owner)
            else {
                continue;
            };
            let family = key.family();
            owners.insert((family, code.group), owner);
            if let Some(local) = self.value_as_code(Key::LocalGroup(family, code.group)) {
                owners.insert((family, local.group), owner);
            }
        }
        owners
    }

    /// Applies one operation.
    pub(crate) fn apply_op(&mut self, op: &Op) -> Result<(), Violation> {
        let done = match op {
            Op::Nft(op) => self.change_table(op),
            Op::Ipvs(op) => self.ipvs.apply(op),
        };
        done.map_err(|reason| Violation { op: op.clone(), reason })
    }

    fn change_table(&mut self, op: &nft::Op) -> Result<(), &'static str> {
        use nft::Op;
        match op {
            Op::AddTable(family) => match self.tables.insert(*family, Table::default()) {
                None => Ok(()),
                Some(_) => Err("the table already exists"),
            },
            Op::DeleteTable(family) => {
                self.tables.remove(family).map(|_| ()).ok_or("the table does not exist")
            }
            Op::AddSet(_, SetId::Affinity(affinity))
            | Op::AddChain(_, ChainId::Affinity(affinity))
                if !affinity.is_valid() =>
            {
                Err("there is no such timeout")
            }
            Op::AddSet(family, set) => {
                if self.table(*family)?.sets.insert(*set) {
                    Ok(())
                } else {
                    Err("the set already exists")
                }
            }
            Op::DeleteSet(family, set) => {
                let table = self.table(*family)?;
                let looks_in = |chain: &ChainId| {
                    ruleset::rules(*chain).iter().flat_map(Rule::sets).any(|it| it == *set)
                };
                let complete = |content: &ChainContent| *content == ChainContent::Complete;
                if table.chains.iter().any(|(chain, it)| complete(it) && looks_in(chain)) {
                    return Err("a rule looks into the set");
                }
                table.elements.retain(|key, _| key.set() != *set);
                if table.sets.remove(set) { Ok(()) } else { Err("the set does not exist") }
            }
            Op::AddChain(family, chain) => {
                match self.table(*family)?.chains.insert(*chain, ChainContent::Other) {
                    None => Ok(()),
                    Some(_) => Err("the chain already exists"),
                }
            }
            Op::FlushChain(family, chain) => {
                let content = self.table(*family)?.chains.get_mut(chain);
                let content = content.ok_or("the chain does not exist")?;
                *content = ChainContent::Other;
                Ok(())
            }
            Op::FillChain(family, chain) => {
                let table = self.table(*family)?;
                let mut needed = Vec::new();
                for rule in ruleset::rules(*chain) {
                    needed.extend(rule.sets());
                    if rule.chains().any(|chain| !table.chains.contains_key(&chain)) {
                        return Err("a rule jumps to a chain that does not exist");
                    }
                }
                if needed.iter().any(|set| !table.sets.contains(set)) {
                    return Err("a rule looks into a set that does not exist");
                }
                match table.chains.get_mut(chain) {
                    None => Err("the chain does not exist"),
                    Some(ChainContent::Complete) => Err("the chain already has its rules"),
                    Some(content) => {
                        *content = ChainContent::Complete;
                        Ok(())
                    }
                }
            }
            Op::DeleteChain(family, chain) => {
                let table = self.table(*family)?;
                let is_led_to = Value::Goto(*chain);
                // Keys are ordered by set, and these are the first two.
                let is_verdict = |key: &Key| matches!(key, Key::Class(..) | Key::Draw(..));
                let mut verdicts = table.elements.iter().take_while(|(key, _)| is_verdict(key));
                if verdicts.any(|(_, held)| held.value == is_led_to) {
                    return Err("an element leads to the chain");
                }
                table.chains.remove(chain).map(|_| ()).ok_or("the chain does not exist")
            }
            Op::Add(element) => {
                let table = self.table(element.key.family())?;
                if !table.sets.contains(&element.key.set()) {
                    return Err("the set does not exist");
                }
                if !fits(element) {
                    return Err("the value is not valid for the key");
                }
                if let Value::Goto(chain) = element.value
                    && !table.chains.contains_key(&chain)
                {
                    return Err("the element leads to a chain that does not exist");
                }
                match table.elements.insert(element.key, element.into()) {
                    None => Ok(()),
                    Some(_) => Err("the element already exists"),
                }
            }
            Op::Delete(element) => {
                let table = self.table(element.key.family())?;
                match table.elements.remove(&element.key) {
                    Some(held) if held.value == element.value => Ok(()),
                    Some(_) => Err("the element has another value"),
                    None => Err("the element does not exist"),
                }
            }
        }
    }

    fn table(&mut self, family: Family) -> Result<&mut Table, &'static str> {
        self.tables.get_mut(&family).ok_or("the table does not exist")
    }
}

/// Returns true if the map can hold the value for the key.
fn fits(element: &Element) -> bool {
    match (element.key, element.value) {
        (Key::Class(_, Class::Affinity(_)), Value::Goto(chain)) => {
            matches!(chain, ChainId::Affinity(affinity) if affinity.is_valid())
        }
        (Key::Class(_, class), Value::Goto(chain)) => ChainId::of_class(class) == Some(chain),
        (Key::Draw(_, draw), Value::Goto(chain)) => chain == ChainId::Slot(draw),
        (Key::Firewalled(_), Value::Lengths(_)) => true,
        (Key::SourceRange(_, range), Value::Present) => Length::of(range).is_some(),
        (Key::Service(_), Value::Code(code)) => code.clients != Clients::Kept,
        (Key::LocalGroup(..), Value::Code(code)) => code.clients == Clients::Kept,
        (Key::MemberGroup(_, group), Value::Code(code)) => {
            let is_drawn = Draw::try_from(code.class).is_ok();
            code.group == group && code.clients == Clients::Kept && is_drawn
        }
        (
            Key::MemberSlot(_, group, _) | Key::Next(_, Member { group, .. }),
            Value::Member(member),
        ) => member.group == group,
        (Key::Endpoint(family, ..) | Key::Member(family, ..), Value::Backend(backend)) => {
            Family::of(backend.address) == family
        }
        (key, Value::Present) => key.set().spec().data == Data::None,
        (_, Value::Code(_) | Value::Member(_) | Value::Lengths(_)) => false,
        (_, Value::Backend(_) | Value::Goto(_)) => false,
    }
}
