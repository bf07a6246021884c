//! The elements that a program wants, and the state of a kernel that holds exactly them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Program;
use super::fragment::PortFragment;
use super::winner::Winner;
use crate::frontend::{Frontend, PortKey};
use crate::ipvs;
use crate::name::NamespacedName;
use crate::net::{Backend, Family, Protocol};
use crate::nft::chain::ChainId;
use crate::nft::code::{Class, Clients, Code, Draw, GroupId, Member};
use crate::nft::element::{Element, Key, OwnedElement, Value};
use crate::nft::group::Group;
use crate::nft::length::Lengths;
use crate::nft::set::SetId;
use crate::nft::slots::Slot;
use crate::nft::traffic::Traffic;
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
    /// belong to no port, then the members of sets, the groups and the frontends.
    pub fn for_each_element(&self, mut each: impl FnMut(Element, Option<&Arc<PortKey>>)) {
        for element in Family::ALL.into_iter().flat_map(skeleton_elements) {
            each(element, None);
        }
        for key in self.node() {
            each(Element::new(*key, Value::Present), None);
        }
        for (class, id) in self.numbers.classes() {
            each(class.element(id), None);
        }
        for (key, owner) in self.members.iter() {
            each(Element::new(key, Value::Present), Some(owner));
        }
        for port in self.fragments.values().flat_map(|fragment| fragment.iter()) {
            let elements = self.led(port).map(Groups::elements).unwrap_or_default();
            elements.into_iter().for_each(|element| each(element, Some(&port.port)));
        }
        for (frontend, winner) in self.claims.winners() {
            for element in frontend_elements(frontend, &winner, self.settings.traffic) {
                each(element, Some(winner.owner));
            }
        }
    }

    /// Returns the groups of a port that its frontends lead to; `None` if other ports have all its
    /// frontends.
    pub(crate) fn led<'a>(&self, port: &'a PortFragment) -> Option<Groups<'a>> {
        let mut found: Option<Groups<'a>> = None;
        for (frontend, rank) in &port.frontends {
            let is_own = |winner: &Winner<'_>| winner.owner == &port.port && winner.rank == *rank;
            if self.winner(*frontend).filter(is_own).is_none() {
                continue;
            }
            let (family, protocol) = (port.family, frontend.protocol());
            let traffic = self.settings.traffic;
            let (is_led, is_split) = ([false; 2], false);
            let nothing = Groups { family, protocol, port, traffic, is_led, is_split };
            let groups = found.get_or_insert(nothing);
            let target = port.target(*rank);
            let local = target.local.as_ref().filter(|_| rank.is_external());
            groups.is_split |= local.is_some();
            let own = [&port.groups.cluster, &port.groups.local];
            for (is_led, group) in groups.is_led.iter_mut().zip(own) {
                let leads = |to: &Group| group.as_ref().is_some_and(|group| group.id == to.id);
                *is_led |= leads(&target.group) || local.is_some_and(leads);
            }
        }
        found
    }

    /// Returns the part of the state of a kernel with this program that decides about the frontends
    /// of some Services, without looking at others.
    pub fn state_of(&self, services: &BTreeSet<NamespacedName>) -> State {
        let mut tables = self.empty_tables();
        let mut servers = BTreeMap::new();
        let mut hold = |element: Element| {
            if let Some(table) = tables.get_mut(&element.key.family()) {
                table.elements.insert(element.key, (&element).into());
            }
        };
        for (class, id) in self.numbers.classes() {
            hold(class.element(id));
        }
        let fragments = services.iter().filter_map(|service| self.fragments.get(service));
        for port in fragments.flat_map(|fragment| fragment.iter()) {
            self.led(port)
                .map(Groups::elements)
                .unwrap_or_default()
                .into_iter()
                .for_each(&mut hold);
            for (frontend, _) in &port.frontends {
                let Some(winner) = self.winner(*frontend) else { continue };
                frontend_elements(*frontend, &winner, self.settings.traffic).for_each(&mut hold);
                servers.extend(self.server(*frontend));
            }
        }
        State { tables, ipvs: ipvs::State { servers, ..ipvs::State::default() } }
    }

    /// Returns the state of a kernel that holds exactly this program.
    pub fn state(&self) -> State {
        let mut tables = self.empty_tables();
        self.for_each_element(|element, _| {
            if let Some(table) = tables.get_mut(&element.key.family()) {
                table.elements.insert(element.key, (&element).into());
            }
        });
        let servers = self.servers().map(|(server, held, _)| (server, held)).collect();
        let bound = self.vips().map(|(address, _)| address).collect();
        State { tables, ipvs: ipvs::State { servers, bound } }
    }

    /// Returns the tables with everything but elements.
    fn empty_tables(&self) -> BTreeMap<Family, Table> {
        let mut tables: BTreeMap<Family, Table> = Family::ALL
            .into_iter()
            .map(|family| {
                let with_localhost = self.settings().serves_localhost(family);
                let of_localhost = ChainId::OF_LOCALHOST.into_iter().filter(|_| with_localhost);
                let chains = ChainId::constant().chain(of_localhost);
                let chains = chains.map(|chain| (chain, ChainContent::Complete)).collect();
                let sets = SetId::CONSTANT.into_iter().collect();
                (family, Table { sets, chains, ..Table::default() })
            })
            .collect();
        for (class, _) in self.numbers.classes() {
            if let Some(table) = tables.get_mut(&class.family) {
                table.sets.insert(class.set());
                table.chains.insert(class.chain(), ChainContent::Complete);
            }
        }
        tables
    }
}

/// Programs are equal if they want the same content, including slots.
impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.state() == other.state()
    }
}

/// Returns the elements of a table that are the same whatever Services there are.
pub(crate) fn skeleton_elements(family: Family) -> impl Iterator<Item = Element> {
    let classes = Class::constant().filter_map(move |class| {
        let chain = ChainId::of_class(class)?;
        Some(Element::new(Key::Class(family, class), Value::Goto(chain)))
    });
    let draws = Draw::all()
        .map(move |draw| Element::new(Key::Draw(family, draw), Value::Goto(ChainId::Slot(draw))));
    classes.chain(draws)
}

/// Returns the elements of a frontend, sorted by key.
pub(crate) fn frontend_elements(
    frontend: Frontend,
    winner: &Winner<'_>,
    traffic: Traffic,
) -> impl Iterator<Item = Element> {
    std::iter::once(head(frontend, winner, traffic)).chain(firewall_elements(frontend, winner))
}

/// Returns the element that decides about connections to a frontend.
pub(crate) fn head(frontend: Frontend, winner: &Winner<'_>, traffic: Traffic) -> Element {
    let (key, value) = match winner.code() {
        Some(code) => (Key::Service(frontend), Value::Code(code)),
        None => (Key::Reject(frontend), Value::Present),
    };
    let comment = Some(winner.owner.comment());
    Element { comment, ..Element::new(key, value) }.counted(traffic)
}

/// The groups of a port that a frontend leads to, for their elements.
#[derive(Clone, Copy)]
pub(crate) struct Groups<'a> {
    family: Family,
    protocol: Protocol,
    port: &'a PortFragment,
    traffic: Traffic,
    /// True if frontends lead to the first group, and to the second.
    is_led: [bool; 2],
    /// True if frontends lead clients from outside to the local group.
    is_split: bool,
}

impl<'a> Groups<'a> {
    /// Returns the group whose frontends still treat clients from outside in their own way.
    pub(crate) fn split(self) -> Option<(Family, GroupId)> {
        let group = self.port.external.group.id.filter(|_| self.is_split)?;
        Some((self.family, group))
    }

    /// Returns the element that leads clients from outside to the local group.
    pub(crate) fn local_element(self) -> Option<Element> {
        let (family, group) = self.split()?;
        let external = &self.port.external;
        let code = external.local.as_ref()?.code(Clients::Kept)?;
        let class = if external.ipvs.is_some() { Class::Ipvs } else { code.class };
        Some(Element::new(Key::LocalGroup(family, group), Value::Code(Code { class, ..code })))
    }

    /// Returns the groups among whose backends our rules choose.
    pub(crate) fn translated(self) -> impl Iterator<Item = GroupOf<'a>> {
        let Self { family, protocol, port, traffic, is_led, .. } = self;
        let all = [&port.groups.cluster, &port.groups.local].into_iter().zip(is_led);
        let led = all.filter(move |(_, is_led)| *is_led && port.internal.ipvs.is_none());
        led.filter_map(move |(group, _)| {
            let group = group.as_ref()?;
            Some(GroupOf { family, protocol, id: group.id?, traffic, group })
        })
    }

    /// Returns true if these certainly have the same elements, without looking at any slot.
    pub(crate) fn is_unchanged(self, other: Self) -> bool {
        let form = |it: Self| {
            let is_by_ipvs = it.port.internal.ipvs.is_some();
            (it.family, it.protocol, it.traffic, it.is_led, is_by_ipvs, it.local_element())
        };
        let groups = |it: Self| [&it.port.groups.cluster, &it.port.groups.local];
        let is_same = |(one, other): (&Option<Group>, &Option<Group>)| match (one, other) {
            (Some(one), Some(other)) => one.is_unchanged(other),
            (one, other) => one.is_none() && other.is_none(),
        };
        form(self) == form(other) && groups(self).into_iter().zip(groups(other)).all(is_same)
    }

    /// Returns true if no group has members.
    pub(crate) fn is_plain(self) -> bool {
        !self.port.groups.iter().any(Group::has_members)
    }

    /// Returns all elements.
    pub(crate) fn elements(self) -> Vec<Element> {
        let slots = self.port.groups.iter().map(|group| group.slots.len()).sum();
        let mut elements = Vec::with_capacity(slots);
        elements.extend(self.local_element());
        self.translated().for_each(|group| group.elements(&mut elements));
        elements
    }
}

/// A group, and what its keys are made of.
#[derive(Clone, Copy)]
pub(crate) struct GroupOf<'a> {
    family: Family,
    protocol: Protocol,
    id: GroupId,
    traffic: Traffic,
    /// The group.
    pub(crate) group: &'a Group,
}

impl GroupOf<'_> {
    /// Returns what all its keys have in common, and whether they are counted.
    pub(crate) fn key(self) -> impl PartialEq {
        (self.family, self.id, self.protocol, self.traffic)
    }

    /// Returns the element that maps a slot to its backend, in a group without members.
    pub(crate) fn endpoint(self, slot: &Slot) -> Element {
        let key = Key::Endpoint(self.family, self.id, self.protocol, slot.id);
        Element::new(key, Value::Backend(slot.backend)).counted(self.traffic)
    }

    /// Adds all elements of the group, sorted by key.
    pub(crate) fn elements(self, elements: &mut Vec<Element>) {
        let Self { family, protocol, id, traffic, group } = self;
        let Some(draw) = group.draw().filter(|_| group.has_members()) else {
            elements.extend(group.slots.iter().map(|slot| self.endpoint(slot)));
            return;
        };
        let code = Code { group: id, clients: Clients::Kept, class: draw.into() };
        elements.push(Element::new(Key::MemberGroup(family, id), Value::Code(code)));
        let members = group.slots.iter().filter_map(|slot| Some((Member::new(id, slot.id)?, slot)));
        for (position, (member, _)) in (0..).zip(members.clone()) {
            let key = Key::MemberSlot(family, id, position);
            elements.push(Element::new(key, Value::Member(member)));
        }
        // A backend may have several slots.
        let members: BTreeMap<Member, Backend> =
            members.map(|(member, slot)| (member, slot.backend)).collect();
        elements.extend(members.iter().map(|(member, backend)| {
            let key = Key::Member(family, *member, protocol);
            Element::new(key, Value::Backend(*backend)).counted(traffic)
        }));
        if group.is_in_turns() {
            let next = members.keys().skip(1).chain(members.keys().take(1));
            elements.extend(members.keys().zip(next).map(|(member, next)| {
                Element::new(Key::Next(family, *member), Value::Member(*next))
            }));
        }
    }
}

/// Returns the elements that restrict the clients.
pub(crate) fn firewall_elements(
    frontend: Frontend,
    winner: &Winner<'_>,
) -> impl Iterator<Item = Element> {
    let sources = winner.sources();
    let restricted = sources
        .map(|ranges| Element::new(Key::Firewalled(frontend), Value::Lengths(Lengths::of(ranges))));
    let ranges = sources.unwrap_or_default().iter();
    restricted.into_iter().chain(
        ranges.map(move |range| Element::new(Key::SourceRange(frontend, *range), Value::Present)),
    )
}
