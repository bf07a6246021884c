//! The delta between two programs.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::builder::Builder;
use super::{Delta, sorted};
use crate::frontend::{Frontend, PortKey};
use crate::ipvs::{self, Server, VirtualServer};
use crate::name::NamespacedName;
use crate::net::Family;
use crate::nft;
use crate::nft::code::{AffinityId, GroupId};
use crate::nft::element::{Element, Key, OwnedElement, Value};
use crate::op::{Op, Stage};
use crate::program::elements::{GroupOf, Groups, firewall_elements, head};
use crate::program::{Fragment, PortFragment, Program, Winner, has_same_ports};

impl Delta {
    /// Returns the smallest delta from one program to another. Parts that both share are not
    /// visited, unless other elements are counted.
    pub fn between(applied: &Program, wanted: &Program) -> Self {
        let mut delta = Builder::default();
        delta.classes(applied, wanted);
        for family in Family::ALL {
            let served = [applied, wanted].map(|it| it.settings().serves_localhost(family));
            match served {
                [false, true] => delta.add_localhost(family),
                [true, false] => delta.delete_localhost(family),
                [false, false] | [true, true] => {}
            }
        }
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
        let mut changed = applied.changed_frontends(wanted);
        let mut services: BTreeSet<&NamespacedName> = applied.changed_services(wanted).collect();
        if is_counted_otherwise(applied, wanted) {
            changed.extend(wanted.frontends());
            services.extend(wanted.services().map(|(service, _)| service));
        }
        let winners = |frontend: &Frontend| [applied.winner(*frontend), wanted.winner(*frontend)];
        let winners: Vec<[Option<Winner<'_>>; 2]> = changed.iter().map(winners).collect();
        // A port that loses its last frontend to another one loses its groups, too.
        services.extend(winners.iter().flatten().flatten().map(|winner| &winner.owner.service));
        for service in services {
            delta.groups(service, applied, wanted);
        }
        for (frontend, winners) in changed.iter().zip(winners) {
            delta.frontend(*frontend, [applied, wanted], winners);
        }
        for frontend in changed.union(&applied.changed_draining(wanted)) {
            delta.server(*frontend, applied, wanted);
        }
        delta.finish()
    }
}

impl Builder {
    fn classes(&mut self, applied: &Program, wanted: &Program) {
        let changed = applied.numbers().diff(wanted.numbers());
        // A number that passes from one class to another has one element.
        let passes_on = |family, id: AffinityId| {
            let mut added = changed.iter().filter(|(class, _)| class.family == family);
            added.any(|(_, [_, new])| *new == Some(id))
        };
        for (class, [old, _]) in &changed {
            if let Some(id) = old.filter(|id| passes_on(class.family, *id)) {
                self.shared(Stage::Prepare, nft::Op::Delete(class.element(id)));
            }
        }
        for (class, [old, new]) in &changed {
            let (class, old, new) = (*class, *old, *new);
            if old.is_none() {
                self.add_class(class.family, class.affinity);
            }
            if let Some(id) = new {
                self.shared(Stage::Prepare, nft::Op::Add(class.element(id)));
            }
            if let Some(id) = old.filter(|id| !passes_on(class.family, *id)) {
                self.shared(Stage::Retire, nft::Op::Delete(class.element(id)));
            }
            if new.is_none() {
                self.delete_class(class.family, class.affinity);
            }
        }
    }

    fn frontend(
        &mut self,
        frontend: Frontend,
        [applied, wanted]: [&Program; 2],
        [old, new]: [Option<Winner<'_>>; 2],
    ) {
        if old == new && !is_counted_otherwise(applied, wanted) {
            return;
        }
        let Some(owner) = new.as_ref().or(old.as_ref()).map(|winner| winner.owner) else { return };
        let owner = Arc::clone(owner);
        let (old, new) = (old.as_ref(), new.as_ref());
        let head = |winner: Option<&Winner<'_>>, of: &Program| {
            winner.map(|winner| head(frontend, winner, of.settings().traffic))
        };
        self.change(&owner, head(old, applied), head(new, wanted));
        let firewall = |winner: Option<&Winner<'_>>| {
            let elements = winner.into_iter().flat_map(|it| firewall_elements(frontend, it));
            sorted(elements.collect(), &owner)
        };
        self.elements(firewall(old), firewall(new));
    }

    /// Changes the groups of a Service.
    fn groups(&mut self, service: &NamespacedName, applied: &Program, wanted: &Program) {
        let ports = |program: &'_ Program| program.fragment(service).cloned();
        let (old, new) = (ports(applied), ports(wanted));
        let old: &Fragment = old.as_deref().unwrap_or(&[]);
        let new: &Fragment = new.as_deref().unwrap_or(&[]);
        if has_same_ports(old, new, is_same) {
            for (old, new) in old.iter().zip(new) {
                self.port_groups(&new.port, applied.led(old), wanted.led(new));
            }
            return;
        }
        let is_kept = |port: &PortFragment| new.iter().any(|it| is_same(it, port));
        for port in old.iter().filter(|port| !is_kept(port)) {
            self.port_groups(&port.port, applied.led(port), None);
        }
        for port in new {
            let before = old.iter().find(|it| is_same(it, port));
            let before = before.and_then(|before| applied.led(before));
            self.port_groups(&port.port, before, wanted.led(port));
        }
    }

    /// Changes the groups of a Service port.
    fn port_groups(
        &mut self,
        owner: &Arc<PortKey>,
        old: Option<Groups<'_>>,
        new: Option<Groups<'_>>,
    ) {
        if let Some((family, group)) = new.and_then(Groups::split) {
            self.stays_split(family, group);
        }
        if let (Some(old), Some(new)) = (old, new)
            && old.is_unchanged(new)
        {
            return;
        }
        if let (Some(old), Some(new)) = (old, new)
            && old.is_plain()
            && new.is_plain()
            && old.translated().map(GroupOf::key).eq(new.translated().map(GroupOf::key))
        {
            // Most changes are of this kind, and groups may be large: no list is built.
            self.change(owner, old.local_element(), new.local_element());
            for (old, new) in old.translated().zip(new.translated()) {
                self.slots(owner, old, new);
            }
            return;
        }
        let elements = |groups: Option<Groups<'_>>| {
            sorted(groups.map(Groups::elements).unwrap_or_default(), owner)
        };
        self.elements(elements(old), elements(new));
    }

    /// Changes the slots of a group without members.
    fn slots(&mut self, owner: &PortKey, of_old: GroupOf<'_>, of_new: GroupOf<'_>) {
        let (old, new) = (&of_old.group.slots, &of_new.group.slots);
        if Arc::ptr_eq(old, new) {
            return;
        }
        for position in 0..old.len().max(new.len()) {
            let (old, new) = (old.get(position), new.get(position));
            if old != new {
                let (old, new) =
                    (old.map(|it| of_old.endpoint(it)), new.map(|it| of_new.endpoint(it)));
                self.change(owner, old, new);
            }
        }
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

    /// Changes one element.
    fn change(&mut self, owner: &PortKey, old: Option<Element>, new: Option<Element>) {
        if old != new {
            let ops = [old.map(Op::delete), new.map(Op::add)];
            ops.into_iter().flatten().for_each(|op| self.push(&owner.service, op));
        }
    }
}

/// Returns true if the settings have changed that say which elements have a counter.
fn is_counted_otherwise(applied: &Program, wanted: &Program) -> bool {
    applied.settings().traffic != wanted.settings().traffic
}

/// Returns true if one is the other after a change: ports are recognised by a group, because a port
/// may be renamed.
fn is_same(one: &PortFragment, other: &PortFragment) -> bool {
    let has = |id: GroupId| one.groups.iter().any(|group| group.id == Some(id));
    one.family == other.family && other.groups.iter().filter_map(|group| group.id).any(has)
}
