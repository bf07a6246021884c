//! The desired content of the kernel's tables, as a persistent snapshot.
//!
//! A clone costs one pointer. The engine keeps two programs: the one that the kernel acknowledged
//! and the one that is wanted now. Their difference is the delta, found without visiting what both
//! share.
//!
//! - `fragment`: the content of one Service; `lower` makes it from a route, `keep` from a kernel;
//! - `claims`, `members`: who gets what several Service ports ask for;
//! - `winner`: what the claim that takes precedence means for packets;
//! - `numbers`: the numbers that groups and classes with session affinity have in the kernel;
//! - `node`: the elements that depend on the settings and on the node;
//! - `servers`: the virtual servers, in IPVS mode;
//! - `elements`: all of it as elements, and as the state of a kernel.

use std::collections::BTreeSet;
use std::sync::Arc;

use im::ordmap::DiffItem;
use im::{OrdMap, OrdSet};

use crate::frontend::{Frontend, PortKey};
use crate::ipvs::draining::Drains;
use crate::model::{Dirty, Model};
use crate::name::NamespacedName;
use crate::net::Family;
use crate::nft::element::Key;
use crate::nft::group::Group;
use crate::resolve::{self, NodeFacts, Route};
use crate::settings::Settings;
use crate::state::State;

mod claims;
pub(crate) mod elements;
mod fragment;
mod keep;
mod lower;
mod members;
mod node;
mod numbers;
mod servers;
mod winner;

use claims::Claims;
use keep::Kept;
use lower::Seed;
use members::Members;
use numbers::Numbers;
use servers::Served;

pub use claims::Conflict;
pub use fragment::{Fragment, PortFragment, Target, Unserved};
pub use numbers::AffinityKey;
pub use winner::Winner;

/// The desired content of the kernel. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Program {
    settings: Arc<Settings>,
    fragments: OrdMap<NamespacedName, Arc<Fragment>>,
    claims: Claims,
    members: Members,
    numbers: Numbers,
    /// Elements that depend on the settings and the node.
    node: OrdSet<Key>,
    /// The Services that a change of other facts of the node could change.
    node_dependent: OrdSet<NamespacedName>,
    /// The facts of the node at the last compilation.
    facts: NodeFacts,
    /// The draining real servers of IPVS.
    drains: Drains,
    /// Content that was found in a kernel and that no source has named so far.
    kept: OrdMap<NamespacedName, Kept>,
}

impl Program {
    /// Returns the program of an empty model.
    pub fn new(settings: Arc<Settings>) -> Self {
        let mut program = Self {
            settings,
            fragments: OrdMap::new(),
            claims: Claims::default(),
            members: Members::default(),
            numbers: Numbers::default(),
            node: OrdSet::new(),
            node_dependent: OrdSet::new(),
            facts: NodeFacts::default(),
            drains: Drains::default(),
            kept: OrdMap::new(),
        };
        program.update_node(&Model::default());
        program
    }

    /// Compiles a whole model. Groups with their slots, unused classes with session affinity, and
    /// real servers with connections are taken over from the state of a kernel.
    pub fn compile(model: &Model, settings: Arc<Settings>, seed: &State) -> Self {
        Self::compile_at(model, settings, seed, 0)
    }

    /// Compiles a whole model at a given time, in seconds of the monotonic clock.
    pub fn compile_at(model: &Model, settings: Arc<Settings>, seed: &State, now: u32) -> Self {
        let mut program = Self::new(settings);
        program.drains = Drains::at(now);
        program.update_node(model);
        program.numbers = Numbers::held_by(seed);
        let known = program.numbers.clone();
        let groups = Seed::of(seed);
        for entry in model.services() {
            let fragment = program.lower(model, &entry.object.key, &groups);
            let fragment = (!fragment.is_empty()).then_some(fragment);
            // Nothing is served yet, so nothing can drain.
            program.put(&entry.object.key, fragment, &mut Served::new());
        }
        program.numbers.forget_unclaimed();
        program.numbers.remove_passing(&known);
        program.take_over_reals(&seed.ipvs);
        program
    }

    /// Returns a program with the content that a kernel holds for Services, as far as comments tell
    /// whose it is. What depends on the node is not among it.
    pub fn held_in(found: &State, settings: Arc<Settings>) -> Self {
        let mut program = Self::new(settings);
        program.keep(&Model::default(), found);
        program
    }

    /// Recompiles only what a change of the model has touched.
    pub fn update(&mut self, model: &Model, dirty: &Dirty) {
        let facts = self.facts.clone();
        if dirty.surroundings || dirty.nodes.contains(&self.settings.node_name) {
            self.update_node(model);
        }
        let nothing = State::default();
        let nothing = Seed::of(&nothing);
        let known = self.numbers.clone();
        // Most changes of a node, such as its taints, do not affect Services.
        let is_other = facts != self.facts;
        let dependent = if is_other { self.node_dependent.clone() } else { OrdSet::new() };
        let dependent = dependent.iter().filter(|it| !dirty.services.contains(it));
        let mut served = Served::new();
        for service in dirty.services.iter().chain(dependent) {
            self.note_named(model, service);
            let fragment = self.lower(model, service, &nothing);
            self.put(service, (!fragment.is_empty()).then_some(fragment), &mut served);
        }
        self.drain_all(served);
        self.numbers.remove_passing(&known);
    }

    /// Returns the settings of the compilation.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Returns the families whose node ports answer on `localhost`.
    pub(crate) fn families_at_localhost(&self) -> Vec<Family> {
        let is_served = |family: &Family| self.settings.serves_localhost(*family);
        Family::ALL.into_iter().filter(is_served).collect()
    }

    /// Returns the mark that requests masquerading.
    pub fn mark(&self) -> u32 {
        self.settings.masquerade_bit.mark()
    }

    /// Returns the content that a Service puts into the kernel, if any.
    pub fn fragment(&self, service: &NamespacedName) -> Option<&Arc<Fragment>> {
        self.fragments.get(service)
    }

    /// Returns all Services that put something into the kernel.
    pub fn services(&self) -> impl Iterator<Item = (&NamespacedName, &Arc<Fragment>)> {
        self.fragments.iter()
    }

    /// Resets a Service to its content in another program, to revert a refused change.
    pub fn restore(&mut self, service: &NamespacedName, from: &Self) {
        let known = self.numbers.clone();
        let mut served = Served::new();
        self.put(service, from.fragments.get(service).cloned(), &mut served);
        self.drain_all(served);
        self.numbers.remove_passing(&known);
    }

    /// Returns the claim that takes precedence at a frontend.
    pub fn winner(&self, frontend: Frontend) -> Option<Winner<'_>> {
        self.claims.winner(frontend)
    }

    /// Returns all frontends that Services claim.
    pub fn frontends(&self) -> impl Iterator<Item = Frontend> {
        self.claims.winners().map(|(frontend, _)| frontend)
    }

    /// Returns the ports of a Service with more backends than there is room for, each with the number
    /// of those that are left out.
    pub fn left_out(&self, service: &NamespacedName) -> impl Iterator<Item = (&PortKey, usize)> {
        let ports = self.fragments.get(service).into_iter().flat_map(|fragment| fragment.iter());
        ports
            .map(|port| (&*port.port, port.internal.left_out.max(port.external.left_out)))
            .filter(|(_, left_out)| *left_out > 0)
    }

    /// Returns the ports of a Service that are served without the session affinity they ask for,
    /// because all classes are in use.
    pub fn without_affinity(&self, service: &NamespacedName) -> impl Iterator<Item = &PortKey> {
        let ports = self.fragments.get(service).into_iter().flat_map(|fragment| fragment.iter());
        let is_without = |port: &&PortFragment| {
            let asks = port.internal.affinity.is_some() && port.internal.ipvs.is_none();
            let lacks = |group: &Group| !group.slots.is_empty() && group.affinity.is_none();
            asks && port.groups.iter().any(lacks)
        };
        ports.filter(is_without).map(|port| &*port.port)
    }

    /// Returns the owner of a member of a set: the first of the Service ports that need it.
    pub fn member_owner(&self, key: Key) -> Option<&Arc<PortKey>> {
        self.members.owner(key)
    }

    /// Returns the frontends with conflicting claims.
    pub fn conflicts(&self) -> Vec<Conflict> {
        self.claims.conflicts()
    }

    /// Returns the frontends that a Service claims but another one has, each with the port that has
    /// it.
    pub fn lost_frontends(&self, service: &NamespacedName) -> Vec<(Frontend, Arc<PortKey>)> {
        let fragment = self.fragments.get(service);
        fragment
            .into_iter()
            .flat_map(|fragment| fragment.iter())
            .flat_map(|port| port.frontends.iter().map(move |(frontend, _)| (frontend, &port.port)))
            .filter_map(|(frontend, port)| {
                let winner = self.winner(*frontend)?.owner;
                (winner != port).then(|| (*frontend, Arc::clone(winner)))
            })
            .collect()
    }

    /// Returns the unused classes with session affinity.
    pub fn idle_affinities(&self) -> impl Iterator<Item = AffinityKey> {
        self.numbers.idle()
    }

    /// Removes a class with session affinity if it is unused.
    pub fn retire(&mut self, class: AffinityKey) {
        self.numbers.retire(class);
    }

    /// Returns the frontends whose claims differ from another program's. Parts that both share are
    /// not visited.
    pub fn changed_frontends(&self, other: &Self) -> BTreeSet<Frontend> {
        self.claims.diff(&other.claims)
    }

    /// Returns the members of sets whose owners differ, likewise.
    pub(crate) fn changed_members(&self, other: &Self) -> BTreeSet<Key> {
        self.members.diff(&other.members)
    }

    /// Returns the Services whose fragments differ, likewise.
    pub(crate) fn changed_services<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = &'a NamespacedName> {
        self.fragments.diff(&other.fragments).map(|item| match item {
            DiffItem::Add(service, _) | DiffItem::Remove(service, _) => service,
            DiffItem::Update { new: (service, _), .. } => service,
        })
    }

    /// Returns the Services whose content differs from another program's, including those that have
    /// a frontend in only one of them. Parts that both share are not visited.
    pub fn differing_services(&self, other: &Self) -> BTreeSet<NamespacedName> {
        let mut found: BTreeSet<_> = self.changed_services(other).cloned().collect();
        for frontend in self.changed_frontends(other) {
            let winners = [self, other].into_iter().filter_map(|it| it.winner(frontend));
            found.extend(winners.map(|winner| winner.owner.service.clone()));
        }
        found
    }

    /// Returns the numbers.
    pub(crate) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Compiles a Service, with as few moves of backends as possible relative to its current
    /// fragment.
    fn lower(&mut self, model: &Model, service: &NamespacedName, seed: &Seed<'_>) -> Arc<Fragment> {
        if let Some(kept) = self.kept_whole(service) {
            return Arc::clone(kept);
        }
        let before = self.fragments.get(service).cloned();
        let routes = resolve::resolve(model, &self.settings, service);
        let old = continued(before.as_deref().unwrap_or(&[]), &routes);
        let mut numbers = std::mem::take(&mut self.numbers);
        let lower = |(route, old): (Route, Option<&PortFragment>)| {
            if let Some(held) = self.kept_endpoints(&route) {
                let route = keep::with_endpoints(route, held);
                let held = keep::with_numbers(held, old, &mut numbers);
                return lower::lower(route, Some(&held), seed, &mut numbers);
            }
            lower::lower(route, old, seed, &mut numbers)
        };
        let fragment = routes.into_iter().zip(old).map(lower).collect();
        self.numbers = numbers;
        fragment
    }

    /// Changes a fragment and all its claims; nothing else does. Notes the real servers that were
    /// there before.
    fn put(
        &mut self,
        service: &NamespacedName,
        fragment: Option<Arc<Fragment>>,
        served: &mut Served,
    ) {
        let old = match &fragment {
            Some(fragment) => self.fragments.insert(service.clone(), Arc::clone(fragment)),
            None => self.fragments.remove(service),
        };
        let old: &Fragment = old.as_deref().unwrap_or(&[]);
        let new: &Fragment = fragment.as_deref().unwrap_or(&[]);
        if new.iter().any(|port| port.depends_on_node) {
            self.node_dependent.insert(service.clone());
        } else {
            self.node_dependent.remove(service);
        }
        let changed = changed_ports(old, new);
        self.note_served(changed.iter().flatten().copied().flatten(), served);
        // What a port keeps is not removed and added again: many Services may change at once.
        for [old, new] in &changed {
            let Some(old) = old else { continue };
            if !new.is_some_and(|new| new.frontends == old.frontends) {
                for (frontend, rank) in &old.frontends {
                    self.claims.remove(old, *frontend, *rank);
                }
            }
            if !new.is_some_and(|new| new.members == old.members) {
                self.members.remove(old);
            }
            if !new.is_some_and(|new| Numbers::are_same(old, new)) {
                self.numbers.remove(old);
            }
        }
        for [old, new] in &changed {
            let Some(new) = new else { continue };
            for (frontend, rank) in &new.frontends {
                self.claims.insert(new, *frontend, *rank);
            }
            if !old.is_some_and(|old| old.members == new.members) {
                self.members.insert(new);
            }
            if !old.is_some_and(|old| Numbers::are_same(old, new)) {
                self.numbers.insert(new);
            }
        }
    }
}

/// Returns the ports that two fragments of a Service do not have in the same form, each as it is in
/// the first and in the second. If any comes or goes, none is in both.
fn changed_ports<'a>(old: &'a Fragment, new: &'a Fragment) -> Vec<[Option<&'a PortFragment>; 2]> {
    if has_same_ports(old, new, |old, new| old.family == new.family && old.port == new.port) {
        let pairs = old.iter().zip(new).filter(|(old, new)| old != new);
        return pairs.map(|(old, new)| [Some(old), Some(new)]).collect();
    }
    let gone = old.iter().filter(|port| !new.contains(port)).map(|port| [Some(port), None]);
    let come = new.iter().filter(|port| !old.contains(port)).map(|port| [None, Some(port)]);
    gone.chain(come).collect()
}

/// Returns true if two lists have the same ports in the same order, as nearly all that are compared
/// have. Looking each port up among all others would take long for a Service of 1,000 ports.
pub(crate) fn has_same_ports<A, B>(
    ones: &[A],
    others: &[B],
    is_same: impl Fn(&A, &B) -> bool,
) -> bool {
    ones.len() == others.len() && ones.iter().zip(others).all(|(one, other)| is_same(one, other))
}

/// Returns, for each route, the port of the previous fragment that it continues: the one with its
/// name or, if a port was renamed, the one with its frontends. No port is continued twice.
fn continued<'a>(before: &'a Fragment, routes: &[Route]) -> Vec<Option<&'a PortFragment>> {
    let has_name =
        |old: &PortFragment, route: &Route| old.family == route.family && old.port == route.port;
    if has_same_ports(before, routes, has_name) {
        return before.iter().map(Some).collect();
    }
    let mut left: Vec<&PortFragment> = before.iter().collect();
    left.retain(|old| !routes.iter().any(|route| has_name(old, route)));
    let mut found = Vec::with_capacity(routes.len());
    for route in routes {
        let same = before.iter().find(|old| has_name(old, route));
        found.push(same.or_else(|| {
            let is_renamed = |old: &&PortFragment| {
                old.family == route.family && *old.frontends == *route.frontends
            };
            let place = left.iter().position(is_renamed)?;
            Some(left.swap_remove(place))
        }));
    }
    found
}
