//! The content of our tables and of IPVS in a kernel, and the effect of each operation on it.
//!
//! This is the reference, as strict as nf_tables is. It is an error to add what exists, to delete
//! what does not, to add a rule that names a missing set, or to delete a chain while an element
//! leads to it. So a delta that is valid here is valid in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::element::{Element, Key, Owned, Value};
use super::op::Op;
use super::pick::Pick;
use super::skeleton::{ChainId, Data, SetId, View};
use super::slots::Slot;
use crate::frontend::{Frontend, PortKey};
use crate::ipvs::{self, VirtualServer};
use crate::net::Family;

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
    /// The chains, and whether each has exactly our rules.
    pub chains: BTreeMap<ChainId, bool>,
    /// The elements: value and comment.
    pub elements: BTreeMap<Key, Held>,
    /// Content of the table that cannot be ours: a set of another shape, an unknown chain, an
    /// element without a meaning. Operations on elements cannot repair it; the table must be
    /// replaced.
    pub foreign: Vec<String>,
}

/// The value and the comment of an element.
pub type Held = (Value, Option<Arc<PortKey>>);

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
        let (value, _) = table.elements.get(&Key::Service(view, frontend))?;
        if let Value::Pick(pick) = value { Some(*pick) } else { None }
    }

    /// Returns the backends of a view of a frontend by slot; empty if the kernel holds none, or
    /// holds slots that our operations cannot have led to.
    pub fn slots(&self, view: View, frontend: Frontend) -> Vec<Slot> {
        let Some(table) = self.tables.get(&frontend.family()) else { return Vec::new() };
        let backend = |id: u32| match table.elements.get(&Key::Endpoint(view, frontend, id)) {
            Some((Value::Backend(backend), _)) => Some(Slot { id, backend: *backend }),
            Some(_) | None => None,
        };
        let Some(pick) = self.pick(view, frontend) else { return Vec::new() };
        let slots: Option<Vec<Slot>> = (0..pick.backends)
            .map(|position| match pick.affinity {
                None => backend(position),
                Some(_) => match table.elements.get(&Key::AffinitySlot(view, frontend, position)) {
                    Some((Value::Id(id), _)) => backend(*id),
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
        heads.iter().find_map(|key| table.elements.get(key)?.1.as_ref())
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

    /// Returns every element, sorted by key.
    pub(super) fn elements(&self) -> Vec<Owned> {
        let held = self.tables.values().flat_map(|table| &table.elements);
        let mut elements: Vec<Owned> = held
            .map(|(key, (value, comment))| {
                (Element { key: *key, value: *value, comment: comment.clone() }, None)
            })
            .collect();
        elements.sort_unstable_by_key(|(element, _)| element.key);
        elements
    }

    /// Sets the owner of each of these elements of the state, as far as comments tell: the owner of
    /// its frontend, or of a frontend or backend with its address.
    pub(super) fn find_owners(&self, elements: &mut [Owned]) {
        let owner_of = |frontend: Frontend| self.owner(frontend).cloned();
        let mut addresses: BTreeMap<IpAddr, Option<Arc<PortKey>>> = elements
            .iter()
            .filter_map(|(element, _)| Some((element.key.address()?, None)))
            .collect();
        if !addresses.is_empty() {
            for (key, (value, _)) in self.tables.values().flat_map(|table| &table.elements) {
                let address = match (key, value) {
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
        for (element, owner) in elements {
            *owner = match element.key.frontend() {
                Some(frontend) => owner_of(frontend),
                None => element.key.address().and_then(|address| addresses.get(&address)?.clone()),
            };
        }
    }

    /// Applies one operation.
    pub(super) fn apply_op(&mut self, op: &Op) -> Result<(), Violation> {
        self.try_op(op).map_err(|reason| Violation { op: op.clone(), reason })
    }

    fn try_op(&mut self, op: &Op) -> Result<(), &'static str> {
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
                match self.table(*family)?.chains.insert(*chain, false) {
                    None => Ok(()),
                    Some(_) => Err("the chain already exists"),
                }
            }
            Op::FlushChain(family, chain) => {
                let intact = self.table(*family)?.chains.get_mut(chain);
                intact.map(|intact| *intact = false).ok_or("the chain does not exist")
            }
            Op::FillChain(family, chain) => {
                let table = self.table(*family)?;
                let mut needed = Vec::new();
                for rule in super::skeleton::rules(*chain) {
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
                    Some(true) => Err("the chain already has its rules"),
                    Some(intact) => {
                        *intact = true;
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
                let value = (element.value, element.comment.clone());
                match table.elements.insert(element.key, value) {
                    None => Ok(()),
                    Some(_) => Err("the element already exists"),
                }
            }
            Op::Delete(element) => {
                let table = self.table(element.key.family())?;
                match table.elements.remove(&element.key) {
                    Some((value, _)) if value == element.value => Ok(()),
                    Some(_) => Err("the element has another value"),
                    None => Err("the element does not exist"),
                }
            }
            Op::Ipvs(op) => self.ipvs.apply(op),
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
