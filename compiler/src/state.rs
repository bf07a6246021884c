//! The content of our tables and of IPVS in a kernel, and the effect of each operation on it.
//!
//! This is the reference, as strict as nf_tables is. It is an error to add what exists, to delete
//! what does not, to add a rule that names a missing set, or to delete a chain while an element
//! leads to it. So a delta that is valid here is valid in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::frontend::{Frontend, PortKey};
use crate::ipvs::{self, VirtualServer};
use crate::net::Family;
use crate::nft::chain::ChainId;
use crate::nft::element::{Element, Key, OwnedElement, Value};
use crate::nft::pick::Pick;
use crate::nft::set::{Data, SetId, View};
use crate::nft::slots::Slot;
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
}

impl Held {
    /// Returns the element with this key.
    pub fn element(&self, key: Key) -> Element {
        Element { key, value: self.value, comment: self.owner.clone() }
    }
}

impl From<&Element> for Held {
    fn from(element: &Element) -> Self {
        Self { value: element.value, owner: element.comment.clone() }
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
    /// Returns the pick of a view of a frontend; `None` if the kernel holds no backends for it.
    pub fn pick(&self, view: View, frontend: Frontend) -> Option<Pick> {
        let table = self.tables.get(&frontend.family())?;
        let held = table.elements.get(&Key::Service(view, frontend))?;
        if let Value::Pick(pick) = held.value { Some(pick) } else { None }
    }

    /// Returns the backends of a view of a frontend by slot; empty if the kernel holds none, or
    /// holds slots that our operations cannot have led to.
    pub fn slots(&self, view: View, frontend: Frontend) -> Vec<Slot> {
        let Some(table) = self.tables.get(&frontend.family()) else { return Vec::new() };
        let backend = |id: u32| match table.elements.get(&Key::Endpoint(view, frontend, id)) {
            Some(Held { value: Value::Backend(backend), .. }) => {
                Some(Slot { id, backend: *backend })
            }
            Some(_) | None => None,
        };
        let Some(pick) = self.pick(view, frontend) else { return Vec::new() };
        let slots: Option<Vec<Slot>> = (0..pick.backends)
            .map(|position| match pick.affinity {
                None => backend(position),
                Some(_) => match table.elements.get(&Key::AffinitySlot(view, frontend, position)) {
                    Some(Held { value: Value::Id(id), .. }) => backend(*id),
                    Some(_) | None => None,
                },
            })
            .collect();
        slots.unwrap_or_default()
    }

    /// Returns the owner of a frontend, according to its comment.
    pub fn owner(&self, frontend: Frontend) -> Option<&Arc<PortKey>> {
        let table = self.tables.get(&frontend.family())?;
        let of_view = |view| Key::Service(view, frontend);
        let heads = [of_view(View::Cluster), Key::Reject(frontend), of_view(View::Local)];
        heads.iter().find_map(|key| table.elements.get(key)?.owner.as_ref())
    }

    /// Returns true if a virtual server is ours: our table leaves its frontend to IPVS, or its
    /// address is one that we have bound to this node.
    pub fn is_ours(&self, server: VirtualServer) -> bool {
        let frontend = server.frontend();
        let table = self.tables.get(&server.family());
        let holds = |key| table.is_some_and(|table| table.elements.contains_key(&key));
        let pick = self.pick(View::Cluster, frontend);
        pick.is_some_and(|pick| pick.is_by_ipvs() || pick == Pick::DROP)
            || holds(Key::Reject(frontend))
            || self.ipvs.bound.contains(&server.address)
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
    /// its frontend, or of a frontend or backend with its address.
    pub(crate) fn find_owners(&self, elements: &mut [OwnedElement]) {
        let owner_of = |frontend: Frontend| self.owner(frontend).cloned();
        let mut addresses: BTreeMap<IpAddr, Option<Arc<PortKey>>> =
            elements.iter().filter_map(|it| Some((it.element.key.address()?, None))).collect();
        if !addresses.is_empty() {
            for (key, held) in self.tables.values().flat_map(|table| &table.elements) {
                let address = match (key, &held.value) {
                    (Key::Endpoint(..), Value::Backend(backend)) => backend.address,
                    (Key::Service(_, frontend) | Key::Reject(frontend), _) => match frontend {
                        Frontend::Address { address, .. } => *address,
                        Frontend::NodePort { .. } => continue,
                    },
                    _ => continue,
                };
                if let Some(owner @ None) = addresses.get_mut(&address) {
                    *owner = key.frontend().and_then(owner_of);
                }
            }
        }
        for OwnedElement { element, owner } in elements {
            *owner = match element.key.frontend() {
                Some(frontend) => owner_of(frontend),
                None => element.key.address().and_then(|address| addresses.get(&address)?.clone()),
            };
        }
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
            Op::AddSet(family, set) => {
                if self.table(*family)?.sets.insert(*set) {
                    Ok(())
                } else {
                    Err("the set already exists")
                }
            }
            Op::AddChain(_, ChainId::Pick(_, _, pick)) if !has_code(*pick) => {
                Err("the pick of the chain has no code")
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
                if let ChainId::Pick(scope, view, pick) = chain
                    && table.elements.contains_key(&Key::Pick(*family, *scope, *view, *pick))
                {
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
                if let Key::Pick(_, scope, view, pick) = element.key
                    && !table.chains.contains_key(&ChainId::Pick(scope, view, pick))
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
        (Key::Pick(.., pick), Value::Goto) | (Key::Service(..), Value::Pick(pick)) => {
            has_code(pick)
        }
        (Key::AffinitySlot(..), Value::Id(_)) => true,
        (Key::Endpoint(_, frontend, _), Value::Backend(backend)) => {
            Family::of(backend.address) == frontend.family()
        }
        (key, Value::Present) => key.set().spec().data == Data::None,
        (_, Value::Pick(_) | Value::Id(_) | Value::Backend(_) | Value::Goto) => false,
    }
}

/// Returns true if the pick can be encoded and decoded without loss: a code has 32 bits.
fn has_code(pick: Pick) -> bool {
    Pick::from_code(pick.code()) == Some(pick)
}
