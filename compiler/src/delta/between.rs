//! The delta between two programs.

use std::sync::Arc;

use super::builder::Builder;
use super::{Delta, sorted};
use crate::frontend::{Frontend, PortKey};
use crate::ipvs::{self, Server, VirtualServer};
use crate::nft;
use crate::nft::element::{Element, Key, OwnedElement, Value};
use crate::nft::set::View;
use crate::nft::slots::Slot;
use crate::op::{Op, Stage};
use crate::program::elements::{firewall_elements, head, local_head, slot_element, slot_elements};
use crate::program::{Program, Winner};

impl Delta {
    /// Returns the smallest delta from one program to another. Parts that both share are not
    /// visited.
    pub fn between(applied: &Program, wanted: &Program) -> Self {
        let mut delta = Builder::default();
        delta.picks(applied, wanted);
        if applied.node() != wanted.node() {
            let keys = |program: &Program| -> Vec<OwnedElement> {
                let present = |key: &Key| Element::new(*key, Value::Present);
                let elements = program.node().iter().map(present);
                elements.map(|element| OwnedElement { element, owner: None }).collect()
            };
            delta.elements(keys(applied), keys(wanted));
        }
        for key in applied.changed_members(wanted) {
            let element = || Element::new(key, Value::Present);
            match (applied.member_owner(key), wanted.member_owner(key)) {
                (Some(owner), None) => {
                    delta.push(&owner.service, Op::delete(element()));
                    delta.bind(key, Some(owner), ipvs::Op::Unbind);
                }
                (None, Some(owner)) => {
                    delta.push(&owner.service, Op::add(element()));
                    delta.bind(key, Some(owner), ipvs::Op::Bind);
                }
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        let changed = applied.changed_frontends(wanted);
        for frontend in &changed {
            delta.frontend(*frontend, applied.winner(*frontend), wanted.winner(*frontend));
        }
        for frontend in changed.union(&applied.changed_draining(wanted)) {
            delta.server(*frontend, applied, wanted);
        }
        delta.finish()
    }
}

impl Builder {
    fn picks(&mut self, applied: &Program, wanted: &Program) {
        let [added, removed] = applied.picks().diff(wanted.picks());
        for pick in added {
            self.shared(Stage::Prepare, nft::Op::AddChain(pick.family, pick.chain()));
            self.shared(Stage::Prepare, nft::Op::FillChain(pick.family, pick.chain()));
            self.shared(Stage::Prepare, nft::Op::Add(pick.element()));
        }
        for pick in removed {
            self.shared(Stage::Retire, nft::Op::Delete(pick.element()));
            self.shared(Stage::Retire, nft::Op::DeleteChain(pick.family, pick.chain()));
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
            self.push_for(owner.as_ref(), op.into());
        }
    }

    fn head(&mut self, owner: &PortKey, old: Option<Element>, new: Option<Element>) {
        if old != new {
            let ops = [old.map(Op::delete), new.map(Op::add)];
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
                [old.map(|slot| Op::delete(element(slot))), new.map(|slot| Op::add(element(slot)))];
            ops.into_iter().flatten().for_each(|op| self.push(&owner.service, op));
        }
    }
}
