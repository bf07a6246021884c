//! The desired content of the kernel's tables, as a persistent snapshot.
//!
//! A clone costs one pointer. The engine keeps two programs: the one that the kernel acknowledged
//! and the one that is wanted now. Their difference is the delta, found without visiting what both
//! share.
//!
//! For kernel keys that several Service ports may ask for, there are ordered sets of claims: the
//! first claim wins, and when it goes, the next one takes over. The order depends on the claims
//! alone, never on the order in which they were made.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Bound;
use std::sync::Arc;

use im::{OrdMap, OrdSet};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::element::{Element, Key, Value};
use super::pick::{Clients, MAX_AFFINITY_BACKENDS, Pick};
use super::skeleton::{ChainId, Scope, SetId, View};
use super::slots::{self, Ids, Slot};
use super::state::{State, Table};
use crate::frontend::{Frontend, PortKey};
use crate::interface::InterfacePattern;
use crate::ipvs::draining::Drains;
use crate::ipvs::{self, Attributes, Draining, RealServer, Server, VirtualServer};
use crate::model::{Dirty, Model};
use crate::name::NamespacedName;
use crate::net::{Backend, Family, Protocol};
use crate::object::{Affinity, TrafficPolicy};
use crate::resolve::{self, NodeFacts, Rank, Route, node_ports};
use crate::scheduling::Balancing;
use crate::settings::{DetectLocal, Settings, first_of};

mod keep;

use keep::Kept;

/// A pick code and the place where it is used.
pub type PickId = (Family, Scope, View, Pick);

/// A frontend and its claimant. `None` sorts before every claim: the start of a scan.
type ClaimKey = (Frontend, Option<(Rank, Arc<PortKey>)>);
/// A key of a set and its claimant, likewise.
type MemberKey = (Key, Option<Arc<PortKey>>);

/// The destination of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The timeout in seconds, with session affinity.
    pub affinity: Option<u32>,
    /// The backends by slot.
    pub slots: Arc<[Slot]>,
    /// The treatment of connections if there is no backend.
    pub unserved: Unserved,
    /// Under external policy Local, the backends by slot for clients from outside; if there are
    /// none, their connections are dropped.
    pub local: Option<Arc<[Slot]>>,
    /// The networks that may connect to the VIPs of load balancers; `None` without a restriction.
    pub sources: Option<Arc<[IpNet]>>,
    /// The number of backends that are left out because session affinity has no room for them.
    pub left_out: usize,
    /// The balancing by IPVS, in IPVS mode.
    pub ipvs: Option<Balancing>,
    /// For UDP, the backends to which existing flows may continue, sorted.
    pub serving: Option<Arc<[Backend]>>,
}

/// The treatment of connections that no backend can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// They are rejected: there is no endpoint anywhere.
    Reject,
    /// They are dropped silently: there are endpoints, but not here.
    Drop,
}

impl Target {
    /// Returns true if it has only backends that any client may reach, without affinity.
    pub(super) fn is_plain(&self) -> bool {
        self.affinity.is_none() && self.local.is_none() && self.sources.is_none()
    }
}

/// The part of a fragment that belongs to one Service port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFragment {
    /// The Service port.
    pub port: Arc<PortKey>,
    /// The family.
    pub family: Family,
    /// The frontends it claims.
    pub frontends: Box<[(Frontend, Rank)]>,
    /// The members of sets it needs, sorted.
    pub members: Box<[Key]>,
    /// The target of its cluster address.
    pub internal: Arc<Target>,
    /// The target of its other frontends.
    pub external: Arc<Target>,
    /// The slots of the backends under each policy. Each has its own history, independent of the
    /// frontends that currently use it.
    slots: Slots,
    /// True if a change of other facts of the node could change it.
    depends_on_node: bool,
}

/// The slots of a port's backends under each policy; `None` if no frontend uses the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Slots {
    cluster: Option<Arc<[Slot]>>,
    local: Option<Arc<[Slot]>>,
}

impl PortFragment {
    /// Returns the target of a frontend with this rank.
    pub fn target(&self, rank: Rank) -> &Arc<Target> {
        if rank.is_external() { &self.external } else { &self.internal }
    }
}

/// The content that a Service puts into the kernel.
pub type Fragment = [PortFragment];

/// The claim that takes precedence at a frontend.
#[derive(Clone, Debug)]
pub struct Winner<'a> {
    /// The rank of the claim.
    pub rank: Rank,
    /// The owner.
    pub owner: &'a Arc<PortKey>,
    /// The target.
    pub target: &'a Arc<Target>,
}

impl Winner<'_> {
    /// Returns the pick; `None` if connections are rejected.
    pub fn pick(&self) -> Option<Pick> {
        let target = self.target;
        let clients = match (&target.local, self.rank.is_external()) {
            (_, false) => Clients::Kept,
            (None, true) => Clients::Masqueraded,
            (Some(_), true) => Clients::Split,
        };
        match (backends(&target.slots), target.unserved) {
            (Some(_), _) if target.ipvs.is_some() => Some(Pick::by_ipvs(clients)),
            (Some(backends), _) => Some(Pick { clients, affinity: target.affinity, backends }),
            (None, Unserved::Drop) => Some(Pick::DROP),
            (None, Unserved::Reject) => None,
        }
    }

    /// Returns the backends for clients from outside, if those are separate.
    pub fn local(&self) -> Option<&Arc<[Slot]>> {
        self.target.local.as_ref().filter(|_| self.rank.is_external())
    }

    /// Returns the timeout of session affinity and the backends by slot in a view, if our rules
    /// choose among them.
    pub(super) fn slots(&self, view: View) -> Option<(Option<u32>, &Arc<[Slot]>)> {
        let slots = match view {
            View::Cluster => Some(&self.target.slots),
            View::Local => self.local(),
        };
        let slots = slots.filter(|_| self.target.ipvs.is_none())?;
        Some((self.target.affinity, slots))
    }

    /// Returns the real servers for IPVS, which has one list for all clients: under policy Local
    /// the local backends if there are any. If there are none, clients from outside do not reach
    /// IPVS.
    fn reals(&self) -> impl Iterator<Item = Backend> {
        let local = self.local().filter(|local| !local.is_empty());
        local.unwrap_or(&self.target.slots).iter().map(|slot| slot.backend)
    }

    /// Returns the pick for clients from outside, if they have backends of their own.
    pub fn local_pick(&self) -> Option<Pick> {
        let backends = backends(self.local()?)?;
        if self.target.ipvs.is_some() {
            return Some(Pick::by_ipvs(Clients::Kept));
        }
        Some(Pick { clients: Clients::Kept, affinity: self.target.affinity, backends })
    }

    /// Returns the networks that may connect, if clients are restricted.
    pub fn sources(&self) -> Option<&[IpNet]> {
        self.target.sources.as_deref().filter(|_| self.rank == Rank::LoadBalancerVip)
    }

    fn picks(&self, frontend: Frontend) -> [Option<PickId>; 2] {
        let id = |view, pick: Option<Pick>| {
            pick.map(|pick| (frontend.family(), Scope::of(frontend), view, pick))
        };
        [id(View::Cluster, self.pick()), id(View::Local, self.local_pick())]
    }
}

fn backends(slots: &[Slot]) -> Option<u32> {
    u32::try_from(slots.len()).ok().filter(|n| *n > 0)
}

impl PartialEq for Winner<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
            && self.owner == other.owner
            && (Arc::ptr_eq(self.target, other.target) || self.target == other.target)
    }
}

/// Conflicting claims: two or more Service ports claim one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The claimed frontend.
    pub frontend: Frontend,
    /// The port whose claim takes precedence.
    pub winner: Arc<PortKey>,
    /// The other ports, in order of precedence.
    pub losers: Vec<Arc<PortKey>>,
}

/// The desired content of the kernel. See the module's documentation.
#[derive(Clone, Debug)]
pub struct Program {
    settings: Arc<Settings>,
    fragments: OrdMap<NamespacedName, Arc<Fragment>>,
    claims: OrdMap<ClaimKey, Arc<Target>>,
    members: OrdSet<MemberKey>,
    /// The number of uses of each pick code; 0 means that the chain is unused but stays for a
    /// while.
    picks: OrdMap<PickId, usize>,
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

/// The real servers that virtual servers had before a batch of changes.
type Served = BTreeMap<VirtualServer, BTreeSet<Backend>>;

impl Program {
    /// Returns the program of an empty model.
    pub fn new(settings: Arc<Settings>) -> Self {
        let mut program = Self {
            settings,
            fragments: OrdMap::new(),
            claims: OrdMap::new(),
            members: OrdSet::new(),
            picks: OrdMap::new(),
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
        for (family, table) in &seed.tables {
            for chain in table.chains.keys() {
                if let ChainId::Pick(scope, view, pick) = chain {
                    program.picks.insert((*family, *scope, *view, *pick), 0);
                }
            }
        }
        let known = program.picks.clone();
        for entry in model.services() {
            let fragment = program.lower(model, &entry.object.key, seed);
            let fragment = (!fragment.is_empty()).then_some(fragment);
            // Nothing is served yet, so nothing can drain.
            program.put(&entry.object.key, fragment, &mut Served::new());
        }
        program.forget_passing_picks(&known);
        program.take_over_reals(&seed.ipvs);
        program
    }

    /// Sets the monotonic clock, in seconds. Real servers that begin to drain later begin at that
    /// time.
    pub fn set_clock(&mut self, now: u32) {
        self.drains.set_clock(now);
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
        self.forget_passing_picks(&known);
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
        self.forget_passing_picks(&known);
    }

    /// Returns the claim that takes precedence at a frontend.
    pub fn winner(&self, frontend: Frontend) -> Option<Winner<'_>> {
        let from: ClaimKey = (frontend, None);
        self.claims.range((Bound::Included(from), Bound::Unbounded)).next().and_then(
            |((found, claim), target)| {
                let (rank, owner) = claim.as_ref().filter(|_| *found == frontend)?;
                Some(Winner { rank: *rank, owner, target })
            },
        )
    }

    /// Returns the ports of a Service with more backends than session affinity has room for, each
    /// with the number of those that are left out.
    pub fn left_out(&self, service: &NamespacedName) -> impl Iterator<Item = (&PortKey, usize)> {
        let ports = self.fragments.get(service).into_iter().flat_map(|fragment| fragment.iter());
        ports
            .map(|port| (&*port.port, port.internal.left_out.max(port.external.left_out)))
            .filter(|(_, left_out)| *left_out > 0)
    }

    /// Returns the first claimant of a member of a set.
    pub fn member_owner(&self, key: Key) -> Option<&Arc<PortKey>> {
        let from: MemberKey = (key, None);
        self.members
            .range((Bound::Included(from), Bound::Unbounded))
            .next()
            .and_then(|(found, owner)| owner.as_ref().filter(|_| *found == key))
    }

    /// Returns the frontends with conflicting claims.
    pub fn conflicts(&self) -> Vec<Conflict> {
        let mut conflicts: Vec<Conflict> = Vec::new();
        let mut last: Option<(Frontend, &Arc<PortKey>)> = None;
        for ((frontend, claim), _) in &self.claims {
            let Some((_, owner)) = claim else { continue };
            match last {
                Some((known, winner)) if known == *frontend => match conflicts.last_mut() {
                    Some(conflict) if conflict.frontend == known => {
                        conflict.losers.push(Arc::clone(owner));
                    }
                    _ => conflicts.push(Conflict {
                        frontend: known,
                        winner: Arc::clone(winner),
                        losers: vec![Arc::clone(owner)],
                    }),
                },
                _ => last = Some((*frontend, owner)),
            }
        }
        conflicts
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
        self.picks.iter().filter(|(_, uses)| **uses == 0).map(|(pick, _)| *pick)
    }

    /// Removes a pick chain if it is unused.
    pub fn retire(&mut self, pick: PickId) {
        if self.picks.get(&pick) == Some(&0) {
            self.picks.remove(&pick);
        }
    }

    /// Returns the draining real servers, each with its end.
    pub fn draining(&self) -> impl Iterator<Item = (Draining, u32)> {
        self.drains.iter()
    }

    /// Removes a real server if it is draining.
    pub fn retire_real(&mut self, real: Draining) {
        self.drains.remove(real);
    }

    /// Removes draining real servers that a kernel does not hold, for example after a failed
    /// commit: they have no connections. The end of the others is not later than the one that the
    /// kernel holds.
    pub fn drain_as_held(&mut self, held: &ipvs::State) {
        self.drains.limit_to(held);
    }

    /// Returns the virtual server of a frontend, if IPVS serves it.
    pub fn server(&self, frontend: Frontend) -> Option<(VirtualServer, Server)> {
        let winner = self.winner(frontend)?;
        let scheduling = winner.target.ipvs?.scheduling;
        let server = VirtualServer::of(frontend)?;
        let draining = self
            .drains
            .of(server)
            .map(|(backend, until)| (backend, Some(RealServer::draining(until))));
        let active = winner.reals().map(|backend| (backend, Some(RealServer::ACTIVE)));
        let attributes = Attributes { scheduling, persistence: winner.target.affinity };
        let reals = draining.chain(active).collect();
        Some((server, Server { attributes: Some(attributes), reals }))
    }

    /// Returns all virtual servers, each with its owner.
    pub fn servers(&self) -> impl Iterator<Item = (VirtualServer, Server, &Arc<PortKey>)> {
        let is_used = self.settings.ipvs().is_some();
        let mut last = None;
        let frontends = self.claims.keys().filter(move |_| is_used);
        let frontends = frontends.filter(move |(it, _)| last.replace(*it) != Some(*it));
        frontends.filter_map(|(frontend, _)| {
            let owner = self.winner(*frontend)?.owner;
            let (server, held) = self.server(*frontend)?;
            Some((server, held, owner))
        })
    }

    /// Returns the addresses to bind to this node, each with its first claimant.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, &Arc<PortKey>)> {
        let vips = self.members.iter().filter_map(|(key, owner)| {
            if let Key::Vip(address) = key { Some((*address, owner.as_ref()?)) } else { None }
        });
        let mut last = None;
        vips.filter(move |(address, _)| last.replace(*address) != Some(*address))
    }

    /// Returns every element, sorted by key, with the Service port it belongs to.
    pub fn elements(&self) -> Vec<(Element, Option<Arc<PortKey>>)> {
        let mut elements = Vec::new();
        self.for_each_element(|element, owner| elements.push((element, owner.cloned())));
        elements.sort_unstable_by_key(|(element, _)| element.key);
        elements
    }

    /// Passes every element, with the Service port it belongs to, to `each`: first those that
    /// belong to no port, then the members of sets and the frontends, each sorted by key.
    pub fn for_each_element(&self, mut each: impl FnMut(Element, Option<&Arc<PortKey>>)) {
        for key in &self.node {
            each(Element::new(*key, Value::Present), None);
        }
        for (family, scope, view, pick) in self.picks.keys() {
            each(Element::new(Key::Pick(*family, *scope, *view, *pick), Value::Goto), None);
        }
        let mut last = None;
        for (key, owner) in &self.members {
            if last.replace(key) != Some(key) {
                each(Element::new(*key, Value::Present), owner.as_ref());
            }
        }
        let mut last = None;
        for ((frontend, claim), target) in &self.claims {
            let Some((rank, owner)) = claim else { continue };
            if last.replace(frontend) == Some(frontend) {
                continue;
            }
            let winner = Winner { rank: *rank, owner, target };
            for element in frontend_elements(*frontend, &winner) {
                each(element, Some(owner));
            }
        }
    }

    /// Returns the state of a kernel that holds exactly this program.
    pub fn state(&self) -> State {
        let mut tables: BTreeMap<Family, Table> = Family::ALL
            .into_iter()
            .map(|family| {
                let chains = ChainId::CONSTANT.into_iter().map(|chain| (chain, true)).collect();
                let sets = SetId::ALL.into_iter().collect();
                (family, Table { sets, chains, ..Table::default() })
            })
            .collect();
        for (family, scope, view, pick) in self.picks.keys() {
            if let Some(table) = tables.get_mut(family) {
                table.chains.insert(ChainId::Pick(*scope, *view, *pick), true);
            }
        }
        for (element, _) in self.elements() {
            if let Some(table) = tables.get_mut(&element.key.family()) {
                table.elements.insert(element.key, (element.value, element.comment));
            }
        }
        let servers = self.servers().map(|(server, held, _)| (server, held)).collect();
        let bound = self.vips().map(|(address, _)| address).collect();
        State { tables, ipvs: ipvs::State { servers, bound } }
    }

    /// Returns the frontends whose claims differ from another program's. Parts that both share are
    /// not visited.
    pub fn changed_frontends(&self, other: &Self) -> BTreeSet<Frontend> {
        self.diff_claims(other)
    }

    pub(super) fn diff_draining(&self, wanted: &Self) -> BTreeSet<Frontend> {
        self.drains.diff(&wanted.drains).into_iter().map(VirtualServer::frontend).collect()
    }

    pub(super) fn diff_claims<'a>(&'a self, wanted: &'a Self) -> BTreeSet<Frontend> {
        self.claims.diff(&wanted.claims).map(|item| changed_key(&item).0).collect()
    }

    pub(super) fn diff_members<'a>(&'a self, wanted: &'a Self) -> BTreeSet<Key> {
        self.members
            .diff(&wanted.members)
            .map(|item| match item {
                im::ordset::DiffItem::Add(key) | im::ordset::DiffItem::Remove(key) => key.0,
            })
            .collect()
    }

    pub(super) fn picks(&self) -> &OrdMap<PickId, usize> {
        &self.picks
    }

    pub(super) fn node(&self) -> &OrdSet<Key> {
        &self.node
    }

    /// Returns the addresses that node ports answer on; `None` if every address of the node does.
    pub fn node_port_ips(&self, family: Family) -> Option<Vec<IpAddr>> {
        if self.node.contains(&Key::NodeAddressType(family)) {
            return None;
        }
        let ips = self.node.iter().filter(|key| key.family() == family);
        Some(
            ips.filter_map(|key| if let Key::NodeIp(ip) = key { Some(*ip) } else { None })
                .collect(),
        )
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
                    return lower(keep::with_endpoints(route, held), Some(held), seed);
                }
                let old = before.and_then(|fragment| {
                    let ports = fragment.iter().filter(|old| old.family == route.family);
                    // If a port was renamed, it is recognised by its frontends.
                    let renamed = || ports.clone().find(|old| *old.frontends == *route.frontends);
                    let same = ports.clone().find(|old| old.port == route.port);
                    same.or_else(renamed)
                });
                lower(route, old, seed)
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
                let key = (*frontend, Some((*rank, Arc::clone(&port.port))));
                self.claim(*frontend, |claims| {
                    claims.remove(&key);
                });
            }
            for key in &port.members {
                self.members.remove(&(*key, Some(Arc::clone(&port.port))));
            }
        }
        for port in new {
            for (frontend, rank) in &port.frontends {
                let key = (*frontend, Some((*rank, Arc::clone(&port.port))));
                self.claim(*frontend, |claims| {
                    claims.insert(key, Arc::clone(port.target(*rank)));
                });
            }
            for key in &port.members {
                self.members.insert((*key, Some(Arc::clone(&port.port))));
            }
        }
    }

    /// Notes the current real servers of the ports' frontends, if IPVS is used.
    fn note_served<'a>(&self, ports: impl Iterator<Item = &'a PortFragment>, served: &mut Served) {
        if self.settings.ipvs().is_none() {
            return;
        }
        let servers = ports.flat_map(|port| port.frontends.iter());
        for server in servers.filter_map(|(frontend, _)| VirtualServer::of(*frontend)) {
            let reals = || self.winner(server.frontend()).iter().flat_map(Winner::reals).collect();
            served.entry(server).or_insert_with(reals);
        }
    }

    /// Starts to drain the real servers that virtual servers lost in a batch of changes. Only the
    /// final state of the batch matters: a frontend may be without an owner while it changes hands.
    fn drain_all(&mut self, served: Served) {
        for (server, before) in served {
            self.drain(server, before);
        }
    }

    /// Lets real servers that a virtual server no longer has drain. If the frontend is gone, they
    /// are removed at once.
    fn drain(&mut self, server: VirtualServer, gone: BTreeSet<Backend>) {
        let winner = self.winner(server.frontend());
        let balancing = winner.as_ref().and_then(|winner| winner.target.ipvs);
        let active: BTreeSet<Backend> = winner.iter().flat_map(Winner::reals).collect();
        let drain = balancing.map_or(0, |Balancing { drain, .. }| drain);
        self.drains.follow(server, &active, gone, drain);
    }

    /// Continues with real servers that a kernel holds and no Service wants any more: their time
    /// runs on if it has begun, and begins now if it has not. As in a running process, the current
    /// drain time limits it.
    fn take_over_reals(&mut self, seed: &ipvs::State) {
        for (server, held) in &seed.servers {
            self.drain(*server, held.reals.keys().copied().collect());
            self.drains.continue_from(*server, held);
        }
    }

    /// Changes the claims of a frontend, and updates the numbers of uses of pick codes.
    fn claim(
        &mut self,
        frontend: Frontend,
        change: impl FnOnce(&mut OrdMap<ClaimKey, Arc<Target>>),
    ) {
        let picks = |program: &Self| {
            program.winner(frontend).map_or([None; 2], |winner| winner.picks(frontend))
        };
        let before = picks(self);
        change(&mut self.claims);
        let after = picks(self);
        if before == after {
            return;
        }
        for pick in before.into_iter().flatten() {
            if let Some(uses) = self.picks.get_mut(&pick) {
                *uses = uses.saturating_sub(1);
            }
        }
        for pick in after.into_iter().flatten() {
            *self.picks.entry(pick).or_insert(0) += 1;
        }
    }

    /// Removes pick codes that a frontend had only between two changes of its claims: no kernel has
    /// their chains.
    fn forget_passing_picks(&mut self, known: &OrdMap<PickId, usize>) {
        if self.picks.ptr_eq(known) {
            return;
        }
        let passing: Vec<PickId> = known
            .diff(&self.picks)
            .filter_map(|item| match item {
                im::ordmap::DiffItem::Add(pick, 0) => Some(*pick),
                im::ordmap::DiffItem::Add(..)
                | im::ordmap::DiffItem::Update { .. }
                | im::ordmap::DiffItem::Remove(..) => None,
            })
            .collect();
        for pick in passing {
            self.picks.remove(&pick);
        }
    }

    fn update_node(&mut self, model: &Model) {
        let mut keys = OrdSet::new();
        for family in Family::ALL {
            keys.extend(Protocol::ALL.map(|protocol| Key::Protocol(family, protocol)));
            if self.settings.drop_invalid {
                keys.extend(Protocol::ALL.map(|protocol| Key::InvalidProtocol(family, protocol)));
            }
            let pods = self.pods(model, family);
            keys.extend(pods.map(|pods| match pods {
                Pods::At(net) => Key::PodSource(net),
                Pods::By(pattern) => Key::PodInterface(family, pattern),
            }));
            // Traffic to a cluster address is masqueraded unless its source is in these sets. They
            // hold the Pods or, if Pods cannot be recognised, every source.
            if !self.settings.masquerade_all {
                keys.insert(match pods {
                    Some(Pods::At(net)) => Key::UnmasqueradedSource(net),
                    Some(Pods::By(pattern)) => Key::UnmasqueradedInterface(family, pattern),
                    None => Key::UnmasqueradedSource(everything(family)),
                });
            }
            keys.extend(self.node_port_addresses(model, family));
        }
        let ranges = model.service_cidrs().flat_map(|entry| entry.object.cidrs.iter().copied());
        // Ranges of a set must not overlap, while those of ServiceCIDRs may.
        keys.extend(IpNet::aggregate(&ranges.collect()).into_iter().map(Key::ServiceCidr));
        self.node = keys;
        self.facts = NodeFacts::of(model, &self.settings);
    }

    /// Returns the recognised Pods.
    fn pods(&self, model: &Model, family: Family) -> Option<Pods> {
        let cidr = match &self.settings.detect_local {
            DetectLocal::ClusterCidr(cidrs) => first_of(family, cidrs),
            DetectLocal::NodeCidr => {
                let node = model.node(&self.settings.node_name);
                node.and_then(|node| first_of(family, &node.object.pod_cidrs))
            }
            DetectLocal::Interface(pattern) => return Some(Pods::By(*pattern)),
        };
        cidr.map(Pods::At)
    }

    /// Returns the keys of node port addresses. Loopback is left out, as in kube-proxy's nftables
    /// mode.
    fn node_port_addresses(&self, model: &Model, family: Family) -> Vec<Key> {
        match node_ports::addresses(model, &self.settings, family) {
            None => vec![Key::NodeAddressType(family)],
            Some(addresses) => {
                let usable = addresses.into_iter().filter(|address| !address.is_loopback());
                usable.map(Key::NodeIp).collect()
            }
        }
    }
}

/// Programs are equal if they want the same content, including slots.
impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && self.state() == other.state()
    }
}

fn changed_key<'a, K, V>(item: &im::ordmap::DiffItem<'a, 'a, K, V>) -> &'a K {
    match item {
        im::ordmap::DiffItem::Add(key, _) | im::ordmap::DiffItem::Remove(key, _) => key,
        im::ordmap::DiffItem::Update { new: (key, _), .. } => key,
    }
}

fn lower(route: Route, old: Option<&PortFragment>, seed: &State) -> PortFragment {
    let affinity = match route.affinity {
        Affinity::None => None,
        Affinity::ClientIp { timeout } => Some(timeout),
    };
    let is_local = |policy| policy == TrafficPolicy::Local;
    let uses_local = is_local(route.internal) || is_local(route.external);
    let has_external = route.frontends.iter().any(|(_, rank)| rank.is_external());
    let uses_cluster = has_external || !is_local(route.internal);
    let balancing = route.ipvs.as_ref().map(|ipvs| ipvs.balancing);
    // IPVS has its own records of clients.
    let affinity_here = affinity.filter(|_| balancing.is_none());
    let room = if affinity_here.is_some() { MAX_AFFINITY_BACKENDS } else { usize::MAX };
    let assign = |backends: &[Backend], view| -> Arc<[Slot]> {
        let backends = &backends[..backends.len().min(room)];
        let assign = |previous: &[Slot], had_affinity| {
            slots::assign(previous, backends, Ids::of(affinity_here.is_some(), had_affinity))
        };
        // A policy that was unused before starts from the slots of the other one: when a frontend
        // changes from one policy to the other, backends under both keep their slots.
        let before =
            old.and_then(|PortFragment { slots: Slots { cluster, local }, .. }| match view {
                View::Cluster => cluster.as_ref().or(local.as_ref()),
                View::Local => local.as_ref().or(cluster.as_ref()),
            });
        let had_affinity = old.is_some_and(|old| old.internal.affinity.is_some());
        match before {
            Some(before) => {
                let slots = assign(before, had_affinity);
                if *slots == **before { Arc::clone(before) } else { slots.into() }
            }
            None => {
                let (held, had_affinity) = seeded(&route, view, seed);
                assign(&held, had_affinity).into()
            }
        }
    };
    let slots = Slots {
        cluster: uses_cluster.then(|| assign(&route.cluster, View::Cluster)),
        local: uses_local.then(|| assign(&route.local, View::Local)),
    };
    let known = |target: Target, old: Option<&Arc<Target>>| match old {
        Some(old) if **old == target => Arc::clone(old),
        Some(_) | None => Arc::new(target),
    };
    let of = |policy: TrafficPolicy| match policy {
        TrafficPolicy::Cluster => (slots.cluster.clone().unwrap_or_default(), &route.cluster),
        TrafficPolicy::Local => (slots.local.clone().unwrap_or_default(), &route.local),
    };
    let serving = |serving: Option<Vec<Backend>>, old: Option<&Arc<Target>>| {
        let serving = serving?;
        let old = old.and_then(|old| old.serving.as_ref()).filter(|old| ***old == *serving);
        Some(old.map_or_else(|| serving.into(), Arc::clone))
    };
    let to_internal = serving(route.serving_internal, old.map(|old| &old.internal));
    let to_external = match serving(route.serving, old.map(|old| &old.external)) {
        same if same == to_internal => to_internal.clone(),
        other => other,
    };
    let target = |(slots, backends): (Arc<[Slot]>, &Vec<Backend>)| {
        let is_dropped = route.has_endpoints && slots.is_empty();
        let unserved = if is_dropped { Unserved::Drop } else { Unserved::Reject };
        let left_out = backends.len() - slots.len();
        let (ipvs, local, sources) = (balancing, None, None);
        let serving = to_internal.clone();
        Target { affinity, slots, unserved, local, sources, left_out, ipvs, serving }
    };
    let internal = known(target(of(route.internal)), old.map(|old| &old.internal));
    let external = if has_external {
        let sources = route.sources.as_deref().map(Arc::from);
        let local = slots.local.clone().filter(|_| is_local(route.external));
        let target = target(of(TrafficPolicy::Cluster));
        let mut target = Target { sources, serving: to_external, ..target };
        // If there are no endpoints, clients from outside are rejected like all others.
        target.local = local.filter(|_| route.has_endpoints);
        let old = old.map(|old| &old.external);
        if target == *internal { Arc::clone(&internal) } else { known(target, old) }
    } else {
        Arc::clone(&internal)
    };
    let hairpin = route.hairpin.into_iter().map(Key::Hairpin);
    let vips = route.ipvs.into_iter().flat_map(|ipvs| ipvs.vips).map(Key::Vip);
    let members = hairpin.chain([Key::ClusterIp(route.cluster_ip)]).chain(vips);
    let mut members: Box<[Key]> = members.collect();
    members.sort_unstable();
    PortFragment {
        port: match old {
            Some(old) if old.port == route.port => Arc::clone(&old.port),
            Some(_) | None => route.port,
        },
        family: route.family,
        frontends: route.frontends.into_boxed_slice(),
        members,
        internal,
        external,
        slots,
        depends_on_node: route.depends_on_node,
    }
}

/// Returns the slots that a kernel holds for a port under a policy, and whether it has session
/// affinity.
fn seeded(route: &Route, view: View, seed: &State) -> (Vec<Slot>, bool) {
    let places = route.frontends.iter().filter_map(|(frontend, rank)| {
        let policy = if rank.is_external() { route.external } else { route.internal };
        match (view, policy, rank.is_external()) {
            (View::Cluster, TrafficPolicy::Cluster, _)
            | (View::Cluster, TrafficPolicy::Local, true)
            | (View::Local, TrafficPolicy::Local, false) => Some((View::Cluster, *frontend)),
            (View::Local, TrafficPolicy::Local, true) => Some((View::Local, *frontend)),
            (View::Cluster, TrafficPolicy::Local, false)
            | (View::Local, TrafficPolicy::Cluster, _) => None,
        }
    });
    // The slots of a frontend that another Service port has are used only if there are no own ones.
    let comment = route.port.comment();
    let own = places.clone().filter(|(_, frontend)| seed.owner(*frontend) == Some(&comment));
    let mut held = own.chain(places).map(|(view, frontend)| {
        let pick = seed.pick(view, frontend);
        let has_affinity = pick.is_some_and(|pick| pick.affinity.is_some());
        (seed.slots(view, frontend), has_affinity)
    });
    held.find(|(slots, _)| !slots.is_empty()).unwrap_or_default()
}

/// The way in which Pods are recognised.
#[derive(Clone, Copy)]
enum Pods {
    /// By source address.
    At(IpNet),
    /// By the interface they arrive on.
    By(InterfacePattern),
}

/// Returns the elements of a frontend: in each view, sets in the order of `Key` and slots in their
/// order.
pub(super) fn frontend_elements(frontend: Frontend, winner: &Winner<'_>) -> Vec<Element> {
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
pub(super) fn head(frontend: Frontend, winner: &Winner<'_>) -> Element {
    let (key, value) = match winner.pick() {
        Some(pick) => (Key::Service(View::Cluster, frontend), Value::Pick(pick)),
        None => (Key::Reject(frontend), Value::Present),
    };
    Element { key, value, comment: Some(winner.owner.comment()) }
}

/// Returns the same element for clients from outside, if they have backends of their own.
pub(super) fn local_head(frontend: Frontend, winner: &Winner<'_>) -> Option<Element> {
    let pick = winner.local_pick()?;
    let (key, value) = (Key::Service(View::Local, frontend), Value::Pick(pick));
    Some(Element { key, value, comment: Some(winner.owner.comment()) })
}

/// Adds the elements that map slots to backends.
pub(super) fn slot_elements(
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
pub(super) fn slot_element(view: View, frontend: Frontend, slot: &Slot) -> Element {
    Element::new(Key::Endpoint(view, frontend, slot.id), Value::Backend(slot.backend))
}

/// Returns the elements that restrict the clients.
pub(super) fn firewall_elements(
    frontend: Frontend,
    winner: &Winner<'_>,
) -> impl Iterator<Item = Element> {
    let sources = winner.sources();
    let restricted = sources.map(|_| Key::Firewalled(frontend));
    let ranges = sources.unwrap_or_default().iter();
    let keys = restricted.into_iter().chain(ranges.map(move |it| Key::SourceRange(frontend, *it)));
    keys.map(|key| Element::new(key, Value::Present))
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::Ipv4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        Family::Ipv6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    }
}
