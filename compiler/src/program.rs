//! The desired content of the kernel's tables, as a persistent snapshot.
//!
//! A clone costs one pointer. The engine keeps two programs: the one that the kernel acknowledged
//! and the one that is wanted now. Their difference is the delta, found without visiting what both
//! share.
//!
//! - `fragment`: the content of one Service; `lower` makes it from a route, `keep` from a kernel;
//! - `claims`, `members`: who gets what several Service ports ask for;
//! - `winner`: what the claim that takes precedence means for packets;
//! - `picks`: the pick chains in use;
//! - `node`: the elements that depend on the settings and on the node;
//! - `servers`: the virtual servers, in IPVS mode;
//! - `elements`: all of it as elements, and as the state of a kernel.

use std::collections::BTreeSet;
use std::sync::Arc;

use im::{OrdMap, OrdSet};

use crate::frontend::{Frontend, PortKey};
use crate::ipvs::draining::Drains;
use crate::model::{Dirty, Model};
use crate::name::NamespacedName;
use crate::nft::element::Key;
use crate::resolve::{self, NodeFacts, Rank};
use crate::settings::Settings;
use crate::state::State;

mod claims;
pub(crate) mod elements;
mod fragment;
mod keep;
mod lower;
mod members;
mod node;
mod picks;
mod servers;
mod winner;

use claims::Claims;
use keep::Kept;
use members::Members;
use picks::Picks;
use servers::Served;

pub use claims::Conflict;
pub use fragment::{Fragment, PortFragment, Target, Unserved};
pub use picks::PickId;
pub use winner::Winner;

/// The desired content of the kernel. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Program {
    settings: Arc<Settings>,
    fragments: OrdMap<NamespacedName, Arc<Fragment>>,
    claims: Claims,
    members: Members,
    picks: Picks,
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

/// Adds or removes a claim.
type ClaimChange = fn(&mut Claims, &PortFragment, Frontend, Rank);

impl Program {
    /// Returns the program of an empty model.
    pub fn new(settings: Arc<Settings>) -> Self {
        let mut program = Self {
            settings,
            fragments: OrdMap::new(),
            claims: Claims::default(),
            members: Members::default(),
            picks: Picks::default(),
            node: OrdSet::new(),
            node_dependent: OrdSet::new(),
            facts: NodeFacts::default(),
            drains: Drains::default(),
            kept: OrdMap::new(),
        };
        program.update_node(&Model::default());
        program
    }

    /// Compiles a whole model. Slots, unused pick chains, and real servers with connections are
    /// taken over from the state of a kernel.
    pub fn compile(model: &Model, settings: Arc<Settings>, seed: &State) -> Self {
        Self::compile_at(model, settings, seed, 0)
    }

    /// Compiles a whole model at a given time, in seconds of the monotonic clock.
    pub fn compile_at(model: &Model, settings: Arc<Settings>, seed: &State, now: u32) -> Self {
        let mut program = Self::new(settings);
        program.drains = Drains::at(now);
        program.update_node(model);
        program.picks = Picks::unused(seed);
        let known = program.picks.clone();
        for entry in model.services() {
            let fragment = program.lower(model, &entry.object.key, seed);
            let fragment = (!fragment.is_empty()).then_some(fragment);
            // Nothing is served yet, so nothing can drain.
            program.put(&entry.object.key, fragment, &mut Served::new());
        }
        program.picks.remove_passing(&known);
        program.take_over_reals(&seed.ipvs);
        program
    }

    /// Recompiles only what a change of the model has touched.
    pub fn update(&mut self, model: &Model, dirty: &Dirty) {
        let facts = self.facts.clone();
        if dirty.surroundings || dirty.nodes.contains(&self.settings.node_name) {
            self.update_node(model);
        }
        let nothing = State::default();
        let known = self.picks.clone();
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
        self.picks.remove_passing(&known);
    }

    /// Returns the settings of the compilation.
    pub fn settings(&self) -> &Arc<Settings> {
        &self.settings
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
        let known = self.picks.clone();
        let mut served = Served::new();
        self.put(service, from.fragments.get(service).cloned(), &mut served);
        self.drain_all(served);
        self.picks.remove_passing(&known);
    }

    /// Returns the claim that takes precedence at a frontend.
    pub fn winner(&self, frontend: Frontend) -> Option<Winner<'_>> {
        self.claims.winner(frontend)
    }

    /// Returns the ports of a Service with more backends than session affinity has room for, each
    /// with the number of those that are left out.
    pub fn left_out(&self, service: &NamespacedName) -> impl Iterator<Item = (&PortKey, usize)> {
        let ports = self.fragments.get(service).into_iter().flat_map(|fragment| fragment.iter());
        ports
            .map(|port| (&*port.port, port.internal.left_out.max(port.external.left_out)))
            .filter(|(_, left_out)| *left_out > 0)
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

    /// Returns the unused pick chains.
    pub fn idle_picks(&self) -> impl Iterator<Item = PickId> {
        self.picks.idle()
    }

    /// Removes a pick chain if it is unused.
    pub fn retire(&mut self, pick: PickId) {
        self.picks.retire(pick);
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

    /// Returns the pick chains.
    pub(crate) fn picks(&self) -> &Picks {
        &self.picks
    }

    /// Compiles a Service, with as few moves of backends as possible relative to its current
    /// fragment.
    fn lower(&self, model: &Model, service: &NamespacedName, seed: &State) -> Arc<Fragment> {
        if let Some(kept) = self.kept_whole(service) {
            return Arc::clone(kept);
        }
        let before = self.fragments.get(service);
        resolve::resolve(model, &self.settings, service)
            .into_iter()
            .map(|route| {
                if let Some(held) = self.kept_endpoints(&route) {
                    return lower::lower(keep::with_endpoints(route, held), Some(held), seed);
                }
                let old = before.and_then(|fragment| {
                    let ports = fragment.iter().filter(|old| old.family == route.family);
                    // If a port was renamed, it is recognised by its frontends.
                    let renamed = || ports.clone().find(|old| *old.frontends == *route.frontends);
                    let same = ports.clone().find(|old| old.port == route.port);
                    same.or_else(renamed)
                });
                lower::lower(route, old, seed)
            })
            .collect()
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
        let (old, new): (Vec<&PortFragment>, Vec<&PortFragment>) = (
            old.iter().filter(|port| !new.contains(port)).collect(),
            new.iter().filter(|port| !old.contains(port)).collect(),
        );
        self.note_served(old.iter().chain(&new).copied(), served);

        for port in old {
            for (frontend, rank) in &port.frontends {
                self.claim(port, *frontend, *rank, Claims::remove);
            }
            self.members.remove(port);
        }
        for port in new {
            for (frontend, rank) in &port.frontends {
                self.claim(port, *frontend, *rank, Claims::insert);
            }
            self.members.insert(port);
        }
    }

    /// Changes the claim of a port on one of its frontends, and counts the uses of pick chains.
    fn claim(&mut self, port: &PortFragment, frontend: Frontend, rank: Rank, change: ClaimChange) {
        let before = self.claims.picks(frontend);
        change(&mut self.claims, port, frontend, rank);
        self.picks.count(before, self.claims.picks(frontend));
    }
}
