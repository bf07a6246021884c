//! Kernel content that is kept although no source names it, while files are unread.
//!
//! A file that cannot be read at a start may define a Service that the kernel serves. So that
//! nothing is removed because of unread files, the kernel's content of a Service that no source
//! names becomes a fragment of the program again: it is claimed, compared and repaired like any
//! other, and the same rules of precedence apply. The same holds for the endpoints of a Service
//! that is named, if no source names any endpoint of it.
//!
//! A kernel does not hold everything that was specified for a Service, but everything that produces
//! its elements: reconstructing a fragment from a state and lowering it again changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::Program;
use super::fragment::{Fragment, Groups, PortFragment, Target, Unserved};
use super::lower::Seed;
use super::numbers::Numbers;
use super::servers::Served;
use crate::frontend::{Frontend, PortKey, View};
use crate::ipvs::VirtualServer;
use crate::load_balancing::{Weight, Weights};
use crate::model::Model;
use crate::name::NamespacedName;
use crate::net::{Backend, Family, Protocol};
use crate::nft::code::{Clients, Code};
use crate::nft::element::Key;
use crate::nft::group::Group;
use crate::nft::slots::Slot;
use crate::resolve::{Rank, Route};
use crate::scheduling::Balancing;
use crate::settings::IpvsSettings;
use crate::state::State;

/// The kept content of a Service.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    /// All of it: no source has named the Service so far.
    Service(Arc<Fragment>),
    /// Its endpoints, from this fragment: no source has named one so far.
    Endpoints(Arc<Fragment>),
}

impl Kept {
    fn fragment(&self) -> &Arc<Fragment> {
        match self {
            Self::Service(fragment) | Self::Endpoints(fragment) => fragment,
        }
    }
}

impl Program {
    /// Keeps the content of a kernel that the model does not name, until a source names it or it is
    /// let go. Call this right after a compilation of the model.
    pub fn keep(&mut self, model: &Model, found: &State) {
        let long = shortened(model);
        for (service, fragment) in raise(found, self.settings.ipvs()) {
            let kept = if model.service(&service).is_some() {
                let is_served = fragment.iter().any(PortFragment::has_backends);
                is_served.then_some(Kept::Endpoints(fragment))
            } else {
                // A Service with a long name has a shortened one in comments.
                let is_whole = !long.contains(&service);
                is_whole.then(|| Kept::Service(numbered(&fragment, &mut self.numbers)))
            };
            if let Some(kept) = kept {
                self.kept.insert(service, kept);
            }
        }
        self.lower_kept(model);
        self.take_over_reals(&found.ipvs);
    }

    /// Lets go of all kept content, because everything has been read.
    pub fn let_go(&mut self, model: &Model) {
        let kept = std::mem::take(&mut self.kept);
        let mut served = Served::new();
        let known = self.numbers.clone();
        for service in kept.keys() {
            let fragment = self.lower(model, service, &Seed::of(&State::default()));
            self.put(service, (!fragment.is_empty()).then_some(fragment), &mut served);
        }
        self.drain_all(served);
        self.numbers.remove_passing(&known);
    }

    /// Returns the Services of which something is kept.
    pub fn kept(&self) -> impl Iterator<Item = &NamespacedName> {
        self.kept.keys()
    }

    fn lower_kept(&mut self, model: &Model) {
        let known = self.numbers.clone();
        let kept: Vec<NamespacedName> = self.kept.keys().cloned().collect();
        for service in kept {
            self.note_named(model, &service);
            let fragment = self.lower(model, &service, &Seed::of(&State::default()));
            // Nothing has been served yet, so nothing can drain.
            self.put(&service, (!fragment.is_empty()).then_some(fragment), &mut Served::new());
        }
        self.numbers.remove_passing(&known);
    }

    /// Stops keeping what a source names: it is not kept again when the source removes it.
    pub(super) fn note_named(&mut self, model: &Model, service: &NamespacedName) {
        let Some(kept) = self.kept.get(service) else { return };
        let is_named = model.service(service).is_some();
        let has_endpoints = || {
            let routes = crate::resolve::resolve(model, &self.settings, service);
            routes.iter().any(|route| route.has_endpoints)
        };
        match kept {
            Kept::Service(_) if !is_named => {}
            Kept::Service(fragment) if !has_endpoints() => {
                self.kept.insert(service.clone(), Kept::Endpoints(Arc::clone(fragment)));
            }
            Kept::Endpoints(_) if is_named && !has_endpoints() => {}
            Kept::Service(_) | Kept::Endpoints(_) => {
                self.kept.remove(service);
            }
        }
    }

    /// Returns the kept fragment of a Service that no source names.
    pub(super) fn kept_whole(&self, service: &NamespacedName) -> Option<&Arc<Fragment>> {
        match self.kept.get(service)? {
            Kept::Service(fragment) => Some(fragment),
            Kept::Endpoints(_) => None,
        }
    }

    /// Returns the kept port whose endpoints a route without endpoints continues to use.
    pub(super) fn kept_endpoints(&self, route: &Route) -> Option<&PortFragment> {
        let kept = self.kept.get(&route.port.service).filter(|_| !route.has_endpoints)?;
        let comment = route.port.comment();
        let protocol = |ports: &[(Frontend, Rank)]| ports.first().map(|(it, _)| it.protocol());
        kept.fragment().iter().find(|port| {
            port.port == comment
                && port.family == route.family
                && protocol(&port.frontends) == protocol(&route.frontends)
                && port.has_backends()
        })
    }
}

impl PortFragment {
    fn has_backends(&self) -> bool {
        self.groups.iter().any(|group| !group.slots.is_empty())
    }
}

/// Returns the fragment of a kernel with groups of its own: if others have changed codes there, two
/// Services can name one group.
fn numbered(fragment: &Fragment, numbers: &mut Numbers) -> Arc<Fragment> {
    let own = |port: &PortFragment| {
        let mut port = port.clone();
        let PortFragment { groups, internal, external, family, .. } = &mut port;
        for group in [&mut groups.cluster, &mut groups.local].into_iter().flatten() {
            let Some(id) = group.id.filter(|id| !numbers.claim(*family, *id)) else { continue };
            group.id = numbers.take(*family);
            for target in [&mut *internal, &mut *external].map(Arc::make_mut) {
                let of_target = std::iter::once(&mut target.group).chain(&mut target.local);
                for it in of_target.filter(|it| it.id == Some(id)) {
                    it.id = group.id;
                }
            }
        }
        port
    };
    fragment.iter().map(own).collect()
}

/// Returns a kept port with the numbers that its groups have by now: those of the fragment that it
/// continues or, if no other port has them, those in the kernel.
pub(super) fn with_numbers(
    held: &PortFragment,
    old: Option<&PortFragment>,
    numbers: &mut Numbers,
) -> PortFragment {
    let mut groups = held.groups.clone();
    let own = old.map(|old| old.groups.clone()).unwrap_or_default();
    for (group, own) in [(&mut groups.cluster, own.cluster), (&mut groups.local, own.local)] {
        let Some(group) = group else {
            *group = own;
            continue;
        };
        let of_kernel = group.id.filter(|_| own.is_none());
        let of_kernel = of_kernel.filter(|id| numbers.claim(held.family, *id));
        group.id = own.and_then(|own| own.id).or(of_kernel);
    }
    PortFragment { groups, ..held.clone() }
}

/// Returns the route with the endpoints that a kernel holds.
pub(super) fn with_endpoints(route: Route, held: &PortFragment) -> Route {
    let of = |group: &Option<Group>| -> Option<Vec<Backend>> {
        let slots = group.as_ref()?.slots.iter();
        let backends: BTreeSet<Backend> = slots.map(|it| it.backend).collect();
        Some(backends.into_iter().collect())
    };
    let Groups { cluster, local } = &held.groups;
    let cluster = of(cluster).filter(|backends| !backends.is_empty());
    let cluster = cluster.or_else(|| of(local)).unwrap_or_default();
    let local = of(local).unwrap_or_else(|| cluster.clone());
    let weights = held.internal.ipvs.is_some().then(|| held.internal.weights.clone());
    let hairpin = held
        .members
        .iter()
        .filter_map(|key| if let Key::Hairpin(it) = key { Some(*it) } else { None });
    Route {
        hairpin: hairpin.collect(),
        serving: route.serving.map(|_| cluster.clone()),
        serving_internal: route.serving_internal.map(|_| cluster.clone()),
        cluster,
        local,
        has_endpoints: true,
        weights,
        ..route
    }
}

/// Returns the shortened names in comments of those Services of the model whose names are too long.
fn shortened(model: &Model) -> BTreeSet<NamespacedName> {
    let services = model.services().map(|entry| &*entry.object);
    let ports = services.flat_map(|service| service.ports.iter().map(move |port| (service, port)));
    let keys = ports.map(|(service, port)| {
        Arc::new(PortKey { service: service.key.clone(), port: port.name.clone() }).comment()
    });
    keys.filter(|key| key.is_shortened()).map(|key| key.service.clone()).collect()
}

/// Reconstructs the fragments of Services from a kernel's elements, as far as comments tell their
/// owners.
fn raise(found: &State, ipvs: Option<&IpvsSettings>) -> BTreeMap<NamespacedName, Arc<Fragment>> {
    let mut ports: BTreeMap<(Arc<PortKey>, Family), BTreeSet<Frontend>> = BTreeMap::new();
    for (key, held) in found.tables.values().flat_map(|table| &table.elements) {
        let (Key::Service(frontend) | Key::Reject(frontend), Some(owner)) = (key, &held.owner)
        else {
            continue;
        };
        let port = (Arc::clone(owner), frontend.family());
        ports.entry(port).or_default().insert(*frontend);
    }
    let mut fragments: BTreeMap<NamespacedName, Vec<PortFragment>> = BTreeMap::new();
    for ((port, family), frontends) in ports {
        let service = port.service.clone();
        let port = Kernel { found, ipvs }.port(port, family, &frontends);
        fragments.entry(service).or_default().push(port);
    }
    fragments.into_iter().map(|(service, ports)| (service, ports.into())).collect()
}

/// The content of a kernel, for queries about the elements of Services.
#[derive(Clone, Copy)]
struct Kernel<'a> {
    found: &'a State,
    ipvs: Option<&'a IpvsSettings>,
}

impl Kernel<'_> {
    fn port(
        self,
        port: Arc<PortKey>,
        family: Family,
        frontends: &BTreeSet<Frontend>,
    ) -> PortFragment {
        let is_restricted = frontends.iter().any(|it| self.holds(Key::Firewalled(*it)));
        let rank = |frontend: &Frontend| (*frontend, self.rank(*frontend, is_restricted));
        let frontends: Vec<(Frontend, Rank)> = frontends.iter().map(rank).collect();
        let target = |is_external: bool| {
            let mut of = frontends.iter().filter(|(_, rank)| rank.is_external() == is_external);
            // Only the VIPs of load balancers have source ranges.
            let restricted = of.clone().find(|(it, _)| self.holds(Key::Firewalled(*it)));
            restricted.or_else(|| of.next()).map(|(frontend, _)| Arc::new(self.target(*frontend)))
        };
        let (internal, external) = (target(false), target(true));
        let of = |target: &Option<Arc<Target>>| target.as_ref().map(|it| it.group.clone());
        let split = external.as_ref().and_then(|target| target.local.clone());
        let groups = match (of(&internal), of(&external)) {
            (Some(internal), Some(external)) => {
                // Under the internal policy Local, the cluster address has the local group.
                let own = (internal.id != external.id).then_some(internal);
                Groups { local: own.or(split), cluster: Some(external) }
            }
            (internal, external) => Groups { cluster: internal.or(external), local: split },
        };
        let either = internal.clone().or_else(|| external.clone());
        let either = either.unwrap_or_else(|| Arc::new(Target::nowhere()));
        let internal = internal.unwrap_or_else(|| Arc::clone(&either));
        let external = external.unwrap_or(either);
        let all = [&internal, &external].into_iter().flat_map(|target| {
            std::iter::once(&target.group).chain(&target.local).flat_map(|it| it.slots.iter())
        });
        let backends: BTreeSet<Backend> = all.map(|slot| slot.backend).collect();
        PortFragment {
            port,
            family,
            members: self.members(&frontends, &backends),
            frontends: frontends.into(),
            internal,
            external,
            groups,
            depends_on_node: false,
        }
    }

    fn holds(self, key: Key) -> bool {
        let table = self.found.tables.get(&key.family());
        table.is_some_and(|table| table.elements.contains_key(&key))
    }

    /// Returns the rank of a frontend. Elements of external frontends tell only whether clients are
    /// restricted, as they are for all VIPs of the port if for any. Without restrictions, every
    /// external frontend is treated as a VIP, so that as few others as possible can take it over.
    fn rank(self, frontend: Frontend, is_restricted: bool) -> Rank {
        let Frontend::Address { address, .. } = frontend else { return Rank::NodePort };
        let is_internal = match self.found.code(frontend) {
            Some(code) => code.clients == Clients::Internal,
            // No client is served: a cluster address is recognised by its set.
            None => self.holds(Key::ClusterIp(address)) && !self.holds(Key::Firewalled(frontend)),
        };
        let is_vip = !is_restricted || self.holds(Key::Firewalled(frontend));
        match (is_internal, is_vip) {
            (true, _) => Rank::ClusterIp,
            (false, true) => Rank::LoadBalancerVip,
            (false, false) => Rank::ExternalIp,
        }
    }

    fn target(self, frontend: Frontend) -> Target {
        let code = self.found.code(frontend);
        let is_split = code.is_some_and(|code| code.clients == Clients::Split);
        let unserved =
            if code.is_some_and(Code::is_dropped) { Unserved::Drop } else { Unserved::Reject };
        let group = self.found.group(View::Cluster, frontend).unwrap_or_default();
        let local = is_split.then(|| self.found.group(View::Local, frontend).unwrap_or_default());
        let affinity = group.affinity.map(|class| class.affinity.timeout);
        let sources = self.found.sources(frontend).map(Arc::from);
        let target = Target { affinity, group, local, sources, unserved, ..Target::nowhere() };
        let target = match code {
            Some(code) if !code.is_by_ipvs() && !code.is_dropped() => target,
            // For IPVS, a frontend without backends still has a virtual server.
            Some(_) | None => self.by_ipvs(frontend, target),
        };
        // Flows to all kept backends may continue.
        let serving = (frontend.protocol() == Protocol::Udp).then(|| {
            let groups = std::iter::once(&target.group).chain(&target.local);
            let slots = groups.flat_map(|group| group.slots.iter());
            let serving: BTreeSet<Backend> = slots.map(|slot| slot.backend).collect();
            serving.into_iter().collect()
        });
        Target { serving, ..target }
    }

    /// Reads the backends from IPVS, where a virtual server has one list for all clients.
    fn by_ipvs(self, frontend: Frontend, target: Target) -> Target {
        let server = VirtualServer::of(frontend);
        let Some(server) = server.and_then(|server| self.found.ipvs.servers.get(&server)) else {
            return target;
        };
        let reals = (0..).zip(server.active());
        let slots: Arc<[Slot]> = reals.map(|(id, backend)| Slot { id, backend }).collect();
        let has_local = target.local.as_ref().is_some_and(|local| local.id.is_some());
        let local_slots = if has_local { Arc::clone(&slots) } else { Arc::default() };
        let reals = || server.active().filter_map(|it| Some((it, (*server.reals.get(&it)?)?)));
        let weights = reals().filter_map(|(backend, real)| {
            Some((backend, Weight::try_from(u8::try_from(real.weight).ok()?).ok()?))
        });
        // If others have changed one, the rest tell nothing.
        let limits: BTreeSet<Option<u32>> = reals().map(|(_, real)| real.threshold).collect();
        let limit = if limits.len() == 1 { limits.first().copied().flatten() } else { None };
        let attributes = server.attributes;
        let scheduling = attributes.map(|attributes| attributes.scheduling).unwrap_or_default();
        Target {
            affinity: attributes.and_then(|attributes| attributes.persistence),
            group: Group { slots, ..target.group },
            local: target.local.map(|local| Group { slots: local_slots, ..local }),
            ipvs: self.ipvs.map(|ipvs| Balancing {
                scheduling,
                drain: ipvs.drain,
                max_connections: limit.and_then(NonZeroU32::new),
            }),
            weights: weights.collect(),
            ..target
        }
    }

    /// Returns the members of sets that exist because of the frontends and backends.
    fn members(self, frontends: &[(Frontend, Rank)], backends: &BTreeSet<Backend>) -> Box<[Key]> {
        let addresses: BTreeSet<(IpAddr, Rank)> = frontends
            .iter()
            .filter_map(|(frontend, rank)| match frontend {
                Frontend::Address { address, .. } => Some((*address, *rank)),
                Frontend::NodePort { .. } => None,
            })
            .collect();
        let hairpin = backends.iter().map(|backend| Key::Hairpin(backend.address));
        let cluster_ips = addresses.iter().filter(|(_, rank)| *rank == Rank::ClusterIp);
        let cluster_ips = cluster_ips.map(|(address, _)| Key::ClusterIp(*address));
        let vips = addresses.iter().map(|(address, _)| Key::Vip(*address));
        let members: BTreeSet<Key> =
            hairpin.chain(cluster_ips).chain(vips).filter(|key| self.holds(*key)).collect();
        members.into_iter().collect()
    }
}

impl Target {
    /// Returns a target without backends.
    fn nowhere() -> Self {
        Self {
            affinity: None,
            group: Group::default(),
            unserved: Unserved::Reject,
            local: None,
            sources: None,
            left_out: 0,
            ipvs: None,
            weights: Weights::default(),
            serving: None,
        }
    }
}
