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
use std::sync::Arc;

use ipnet::IpNet;

use super::Program;
use super::fragment::{Fragment, PortFragment, Slots, Target, Unserved};
use super::servers::Served;
use crate::frontend::{Frontend, PortKey};
use crate::ipvs::VirtualServer;
use crate::model::Model;
use crate::name::NamespacedName;
use crate::net::{Backend, Family, Protocol};
use crate::nft::element::Key;
use crate::nft::pick::{Clients, Pick};
use crate::nft::set::View;
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
                (!long.contains(&service)).then_some(Kept::Service(fragment))
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
        let known = self.picks.clone();
        for service in kept.keys() {
            let fragment = self.lower(model, service, &State::default());
            self.put(service, (!fragment.is_empty()).then_some(fragment), &mut served);
        }
        self.drain_all(served);
        self.picks.remove_passing(&known);
    }

    /// Returns the Services of which something is kept.
    pub fn kept(&self) -> impl Iterator<Item = &NamespacedName> {
        self.kept.keys()
    }

    fn lower_kept(&mut self, model: &Model) {
        let known = self.picks.clone();
        let kept: Vec<NamespacedName> = self.kept.keys().cloned().collect();
        for service in kept {
            self.note_named(model, &service);
            let fragment = self.lower(model, &service, &State::default());
            // Nothing has been served yet, so nothing can drain.
            self.put(&service, (!fragment.is_empty()).then_some(fragment), &mut Served::new());
        }
        self.picks.remove_passing(&known);
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
        let Slots { cluster, local } = &self.slots;
        cluster.iter().chain(local).any(|slots| !slots.is_empty())
    }
}

/// Returns the route with the endpoints that a kernel holds.
pub(super) fn with_endpoints(route: Route, held: &PortFragment) -> Route {
    let of = |view: &Option<Arc<[Slot]>>| -> Option<Vec<Backend>> {
        let backends: BTreeSet<Backend> = view.as_deref()?.iter().map(|it| it.backend).collect();
        Some(backends.into_iter().collect())
    };
    let Slots { cluster, local } = &held.slots;
    let cluster = of(cluster).filter(|backends| !backends.is_empty());
    let cluster = cluster.or_else(|| of(local)).unwrap_or_default();
    let local = of(local).unwrap_or_else(|| cluster.clone());
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
        let (Key::Service(_, frontend) | Key::Reject(frontend), Some(owner)) = (key, &held.owner)
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
        let slots = Slots {
            cluster: internal.as_ref().or(external.as_ref()).map(|it| Arc::clone(&it.slots)),
            local: external.as_ref().and_then(|target| target.local.clone()),
        };
        let either = internal.clone().or_else(|| external.clone());
        let either = either.unwrap_or_else(|| Arc::new(Target::nowhere()));
        let internal = internal.unwrap_or_else(|| Arc::clone(&either));
        let external = external.unwrap_or(either);
        let all = [&internal, &external].into_iter().flat_map(|target| {
            target.slots.iter().chain(target.local.iter().flat_map(|local| local.iter()))
        });
        let backends: BTreeSet<Backend> = all.map(|slot| slot.backend).collect();
        PortFragment {
            port,
            family,
            members: self.members(&frontends, &backends),
            frontends: frontends.into(),
            internal,
            external,
            slots,
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
        let clients = self.found.pick(View::Cluster, frontend).map(|pick| pick.clients);
        let is_internal = match clients {
            Some(Clients::Kept) => true,
            Some(Clients::Masqueraded | Clients::Split) => false,
            // No client is let in: a cluster address is recognised by its set.
            Some(Clients::Dropped) | None => {
                self.holds(Key::ClusterIp(address)) && !self.holds(Key::Firewalled(frontend))
            }
        };
        let is_vip = !is_restricted || self.holds(Key::Firewalled(frontend));
        match (is_internal, is_vip) {
            (true, _) => Rank::ClusterIp,
            (false, true) => Rank::LoadBalancerVip,
            (false, false) => Rank::ExternalIp,
        }
    }

    fn target(self, frontend: Frontend) -> Target {
        let pick = self.found.pick(View::Cluster, frontend);
        let is_split = pick.is_some_and(|pick| pick.clients == Clients::Split);
        let unserved = if pick == Some(Pick::DROP) { Unserved::Drop } else { Unserved::Reject };
        let target = Target { sources: self.sources(frontend), unserved, ..Target::nowhere() };
        let target = match pick {
            Some(pick) if pick.backends > 0 => {
                let slots = |view| -> Arc<[Slot]> { self.found.slots(view, frontend).into() };
                Target {
                    affinity: pick.affinity,
                    slots: slots(View::Cluster),
                    local: is_split.then(|| slots(View::Local)),
                    ..target
                }
            }
            // For IPVS, a frontend without backends still has a virtual server.
            Some(_) | None => self.by_ipvs(frontend, is_split, target),
        };
        // Flows to all kept backends may continue.
        let serving = (frontend.protocol() == Protocol::Udp).then(|| {
            let slots = target.slots.iter().chain(target.local.iter().flat_map(|it| it.iter()));
            let serving: BTreeSet<Backend> = slots.map(|slot| slot.backend).collect();
            serving.into_iter().collect()
        });
        Target { serving, ..target }
    }

    /// Reads the backends from IPVS, where a virtual server has one list for all clients.
    fn by_ipvs(self, frontend: Frontend, is_split: bool, target: Target) -> Target {
        let server = VirtualServer::of(frontend);
        let Some(server) = server.and_then(|server| self.found.ipvs.servers.get(&server)) else {
            return target;
        };
        let reals = (0..).zip(server.active());
        let slots: Arc<[Slot]> = reals.map(|(id, backend)| Slot { id, backend }).collect();
        let has_local = self.holds(Key::Service(View::Local, frontend));
        let local = if has_local { Arc::clone(&slots) } else { Arc::default() };
        let attributes = server.attributes;
        let scheduling = attributes.map(|attributes| attributes.scheduling).unwrap_or_default();
        Target {
            affinity: attributes.and_then(|attributes| attributes.persistence),
            slots,
            local: is_split.then_some(local),
            ipvs: self.ipvs.map(|ipvs| Balancing { scheduling, drain: ipvs.drain }),
            ..target
        }
    }

    fn sources(self, frontend: Frontend) -> Option<Arc<[IpNet]>> {
        let table = self.found.tables.get(&frontend.family())?;
        self.holds(Key::Firewalled(frontend)).then(|| {
            let keys = table.elements.keys();
            let range = |key: &Key| {
                if let Key::SourceRange(of, net) = key { Some((*of, *net)) } else { None }
            };
            keys.filter_map(range).filter(|(of, _)| *of == frontend).map(|(_, net)| net).collect()
        })
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
            slots: Arc::default(),
            unserved: Unserved::Reject,
            local: None,
            sources: None,
            left_out: 0,
            ipvs: None,
            serving: None,
        }
    }
}
