//! The elements that a program wants, and the state of a kernel that holds exactly them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Program;
use super::winner::Winner;
use crate::frontend::{Frontend, PortKey};
use crate::ipvs;
use crate::net::Family;
use crate::nft::chain::ChainId;
use crate::nft::element::{Element, Key, OwnedElement, Value};
use crate::nft::set::{SetId, View};
use crate::nft::slots::Slot;
use crate::state::{ChainContent, State, Table};

impl Program {
    /// Returns every element, sorted by key, with the Service port it belongs to.
    pub fn elements(&self) -> Vec<OwnedElement> {
        let mut elements = Vec::new();
        self.for_each_element(|element, owner| {
            elements.push(OwnedElement { element, owner: owner.cloned() });
        });
        elements.sort_unstable_by_key(|it| it.element.key);
        elements
    }

    /// Passes every element, with the Service port it belongs to, to `each`: first those that
    /// belong to no port, then the members of sets and the frontends, each sorted by key.
    pub fn for_each_element(&self, mut each: impl FnMut(Element, Option<&Arc<PortKey>>)) {
        for key in self.node() {
            each(Element::new(*key, Value::Present), None);
        }
        for pick in self.picks.iter() {
            each(pick.element(), None);
        }
        for (key, owner) in self.members.iter() {
            each(Element::new(key, Value::Present), Some(owner));
        }
        for (frontend, winner) in self.claims.winners() {
            for element in frontend_elements(frontend, &winner) {
                each(element, Some(winner.owner));
            }
        }
    }

    /// Returns the state of a kernel that holds exactly this program.
    pub fn state(&self) -> State {
        let mut tables: BTreeMap<Family, Table> = Family::ALL
            .into_iter()
            .map(|family| {
                let chains = ChainId::CONSTANT
                    .into_iter()
                    .map(|chain| (chain, ChainContent::Complete))
                    .collect();
                let sets = SetId::ALL.into_iter().collect();
                (family, Table { sets, chains, ..Table::default() })
            })
            .collect();
        for pick in self.picks.iter() {
            if let Some(table) = tables.get_mut(&pick.family) {
                table.chains.insert(pick.chain(), ChainContent::Complete);
            }
        }
        self.for_each_element(|element, _| {
            if let Some(table) = tables.get_mut(&element.key.family()) {
                table.elements.insert(element.key, (&element).into());
            }
        });
        let servers = self.servers().map(|(server, held, _)| (server, held)).collect();
        let bound = self.vips().map(|(address, _)| address).collect();
        State { tables, ipvs: ipvs::State { servers, bound } }
    }
}

/// Programs are equal if they want the same content, including slots.
impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.state() == other.state()
    }
}

/// Returns the elements of a frontend: in each view, sets in the order of `Key` and slots in their
/// order.
pub(crate) fn frontend_elements(frontend: Frontend, winner: &Winner<'_>) -> Vec<Element> {
    let mut elements = Vec::with_capacity(1 + 2 * winner.target.slots.len());
    let slots = |elements: &mut Vec<Element>, view| {
        if let Some((affinity, slots)) = winner.slots(view) {
            slot_elements(elements, view, frontend, affinity, slots);
        }
    };
    elements.push(head(frontend, winner));
    slots(&mut elements, View::Cluster);
    elements.extend(local_head(frontend, winner));
    slots(&mut elements, View::Local);
    elements.extend(firewall_elements(frontend, winner));
    elements
}

/// Returns the element that decides about connections to a frontend.
pub(crate) fn head(frontend: Frontend, winner: &Winner<'_>) -> Element {
    let (key, value) = match winner.pick() {
        Some(pick) => (Key::Service(View::Cluster, frontend), Value::Pick(pick)),
        None => (Key::Reject(frontend), Value::Present),
    };
    Element { key, value, comment: Some(winner.owner.comment()) }
}

/// Returns the same element for clients from outside, if they have backends of their own.
pub(crate) fn local_head(frontend: Frontend, winner: &Winner<'_>) -> Option<Element> {
    let pick = winner.local_pick()?;
    let (key, value) = (Key::Service(View::Local, frontend), Value::Pick(pick));
    Some(Element { key, value, comment: Some(winner.owner.comment()) })
}

/// Adds the elements that map slots to backends.
pub(crate) fn slot_elements(
    elements: &mut Vec<Element>,
    view: View,
    frontend: Frontend,
    affinity: Option<u32>,
    slots: &[Slot],
) {
    if affinity.is_some() {
        for (position, slot) in (0..).zip(slots) {
            let key = Key::AffinitySlot(view, frontend, position);
            elements.push(Element::new(key, Value::Id(slot.id)));
        }
    }
    elements.extend(slots.iter().map(|slot| slot_element(view, frontend, slot)));
}

/// Returns the element that maps a slot, or an id, to its backend.
pub(crate) fn slot_element(view: View, frontend: Frontend, slot: &Slot) -> Element {
    Element::new(Key::Endpoint(view, frontend, slot.id), Value::Backend(slot.backend))
}

/// Returns the elements that restrict the clients.
pub(crate) fn firewall_elements(
    frontend: Frontend,
    winner: &Winner<'_>,
) -> impl Iterator<Item = Element> {
    let sources = winner.sources();
    let restricted = sources.map(|_| Key::Firewalled(frontend));
    let ranges = sources.unwrap_or_default().iter();
    let keys = restricted.into_iter().chain(ranges.map(move |it| Key::SourceRange(frontend, *it)));
    keys.map(|key| Element::new(key, Value::Present))
}
