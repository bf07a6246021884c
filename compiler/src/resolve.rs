//! Resolves a Service port on this node, independently of any kernel: its frontends and its
//! backends.
//!
//! `candidate` gathers the endpoints of a port, `select` chooses those that serve, and `sources`
//! finds the networks that may connect.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use ipnet::IpNet;

use crate::frontend::{Frontend, PortKey};
use crate::load_balancing::{LoadBalancing, Weights};
use crate::model::Model;
use crate::name::{NamespacedName, NodeName, Zone};
use crate::net::{Backend, Family, Protocol};
use crate::nft::maglev::TableSize;
use crate::object::{Affinity, Service, ServicePort, ServiceType, TrafficPolicy};
use crate::scheduling::Balancing;
use crate::settings::Settings;

pub mod candidate;
pub mod host;
mod ipvs;
pub mod local;
pub mod node_ports;
pub mod select;
mod sources;

pub use candidate::{Candidate, Place, Seen, candidates, look};

/// The kind of frontend that a claim is for, in order of precedence: addresses that the cluster
/// allocates come before those that anybody can write into a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Rank {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancerVip,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `spec.ports[].nodePort`.
    NodePort,
}

impl Rank {
    /// Returns the field of the Service that asks for such a frontend.
    pub fn field(self) -> &'static str {
        match self {
            Self::ClusterIp => "spec.clusterIPs",
            Self::LoadBalancerVip => "status.loadBalancer.ingress",
            Self::ExternalIp => "spec.externalIPs",
            Self::NodePort => "spec.ports[].nodePort",
        }
    }

    /// Returns true if the external traffic policy applies to the frontend, because its traffic may
    /// come from outside the cluster.
    pub fn is_external(self) -> bool {
        self != Self::ClusterIp
    }
}

/// A Service port in one family, resolved: it no longer refers to other objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The Service port.
    pub port: Arc<PortKey>,
    /// The family.
    pub family: Family,
    /// The frontends; the first is the cluster address.
    pub frontends: Vec<(Frontend, Rank)>,
    /// In IPVS mode, the scheduling, and the addresses that must be local to this node so that IPVS
    /// sees the packets sent to them.
    pub ipvs: Option<IpvsRoute>,
    /// The cluster address. Traffic to any of its other ports and protocols is rejected.
    pub cluster_ip: IpAddr,
    /// Session affinity.
    pub affinity: Affinity,
    /// How our rules choose among the backends.
    pub load_balancing: LoadBalancing,
    /// The size of a table, for load balancing by Maglev.
    pub maglev_table_size: TableSize,
    /// The weights of the backends; `None` if a kernel tells only their shares.
    pub weights: Option<Weights>,
    /// The traffic policy of the cluster address.
    pub internal: TrafficPolicy,
    /// The traffic policy of the other frontends; `Local` applies only to clients from outside.
    pub external: TrafficPolicy,
    /// The backends under policy Cluster, sorted, no duplicates.
    pub cluster: Vec<Backend>,
    /// The backends under policy Local, likewise; empty if neither policy is Local.
    pub local: Vec<Backend>,
    /// True if any endpoint of the cluster could serve, wherever it is. If false, connections are
    /// rejected, whatever the policy.
    pub has_endpoints: bool,
    /// The addresses of the backends that are, or may be, on this node: an endpoint of a slice need
    /// not name its node. Sorted, no duplicates.
    pub hairpin: Vec<IpAddr>,
    /// The networks that may connect to the VIPs of load balancers, sorted, without overlaps;
    /// `None` if there is no restriction.
    pub sources: Option<Vec<IpNet>>,
    /// For a UDP port, every backend that is serving, whether or not it gets new flows: a flow to
    /// any other backend leads nowhere. Sorted, no duplicates.
    pub serving: Option<Vec<Backend>>,
    /// The same for the cluster address: under the internal policy Local, only the backends on this
    /// node.
    pub serving_internal: Option<Vec<Backend>>,
    /// True if a change of other facts of the node could change this route.
    pub depends_on_node: bool,
}

impl Route {
    /// Returns the policies by which its backends are chosen.
    pub fn policies(&self) -> impl Iterator<Item = TrafficPolicy> {
        let has_external = has_external(&self.frontends);
        let is_one =
            move |it: &TrafficPolicy| uses(*it, self.internal, self.external, has_external);
        [TrafficPolicy::Cluster, TrafficPolicy::Local].into_iter().filter(is_one)
    }
}

fn has_external(frontends: &[(Frontend, Rank)]) -> bool {
    frontends.iter().any(|(_, rank)| rank.is_external())
}

/// Returns whether a policy applies to any client of a port.
fn uses(
    policy: TrafficPolicy,
    internal: TrafficPolicy,
    external: TrafficPolicy,
    has_external: bool,
) -> bool {
    match policy {
        // Under the external policy Local, Pods and the node itself still reach all endpoints.
        TrafficPolicy::Cluster => internal != TrafficPolicy::Local || has_external,
        TrafficPolicy::Local => [internal, external].contains(&TrafficPolicy::Local),
    }
}

/// Additional data for IPVS, beyond frontends and backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsRoute {
    /// The balancing of the virtual servers.
    pub balancing: Balancing,
    /// The addresses to bind, sorted, no duplicates.
    pub vips: Vec<IpAddr>,
}

/// The facts of the node that a Service may depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    zone: Option<Zone>,
    addresses: Vec<IpAddr>,
    /// The addresses of Pods in the node's host network.
    host: Vec<IpAddr>,
    /// In IPVS mode: the addresses of the interfaces, and those that node ports answer on.
    interfaces: BTreeSet<IpAddr>,
    node_ports: Vec<IpAddr>,
}

impl NodeFacts {
    /// Returns the facts of the node that are known now.
    pub fn of(model: &Model, settings: &Settings) -> Self {
        let node = model.node(&settings.node_name).map(|node| &*node.object);
        let primary = |family| settings.primary_address(node, family);
        let is_ipvs = settings.ipvs().is_some();
        let node_ports = |family| ipvs::node_port_addresses(model, settings, family);
        Self {
            interfaces: if is_ipvs { ipvs::interfaces(model) } else { BTreeSet::new() },
            node_ports: Family::ALL.into_iter().filter(|_| is_ipvs).flat_map(node_ports).collect(),
            zone: node.and_then(|node| node.zone.clone()),
            addresses: Family::ALL.into_iter().filter_map(primary).collect(),
            host: Family::ALL
                .into_iter()
                .filter_map(|family| host::own_address(model, settings, family))
                .collect(),
        }
    }
}

/// Resolves every port of a Service in every family. A Service that does not exist, or that has no
/// cluster address of a family, has no routes there.
pub fn resolve(model: &Model, settings: &Settings, key: &NamespacedName) -> Vec<Route> {
    let Some(service) = model.service(key) else { return Vec::new() };
    let service = &*service.object;
    let mut routes = Vec::new();
    for family in Family::ALL {
        let Some(cluster_ip) = service.cluster_ips.of(family) else { continue };
        let sources = sources::sources(model, settings, service, family);
        for port in &service.ports {
            let route = resolve_port(model, settings, service, port, family, cluster_ip);
            let depends_on_node = route.depends_on_node || sources.is_some();
            routes.push(Route { sources: sources.clone(), depends_on_node, ..route });
        }
    }
    routes
}

fn resolve_port(
    model: &Model,
    settings: &Settings,
    service: &Service,
    port: &ServicePort,
    family: Family,
    cluster_ip: IpAddr,
) -> Route {
    let candidates = candidates(model, settings, service, port, family);
    let node_ports = settings.ipvs().filter(|_| port.node_port.is_some());
    let node_ports = node_ports.map(|_| ipvs::node_port_addresses(model, settings, family));
    let is_here = |address| ipvs::elsewhere(model, settings, address).is_none();
    let frontends = frontends(service, port, cluster_ip, node_ports.as_deref(), is_here);
    let internal = service.internal_policy;
    let is_local = |policy| policy == TrafficPolicy::Local;
    let has_external = has_external(&frontends);
    let external = if has_external && is_external(service) {
        service.external_policy
    } else {
        // The external policy applies to no traffic here, so it must not ask for local endpoints.
        TrafficPolicy::Cluster
    };
    let uses_cluster = uses(TrafficPolicy::Cluster, internal, external, has_external);
    let uses_local = uses(TrafficPolicy::Local, internal, external, has_external);
    let zone = model.node(&settings.node_name).and_then(|node| node.object.zone.as_ref());
    let node = &settings.node_name;
    let cluster = if uses_cluster { select::cluster(&candidates, node, zone) } else { Vec::new() };
    let local = if uses_local { select::local(&candidates) } else { Vec::new() };
    let may_be_here =
        |backend: &&Backend| candidates.get(*backend).is_some_and(Candidate::may_be_here);
    let here = cluster.iter().chain(&local).filter(may_be_here).map(|backend| backend.address);
    let here: BTreeSet<IpAddr> = here.collect();
    let ipvs = ipvs::route(model, settings, service, family, cluster_ip);
    let serving = (port.protocol == Protocol::Udp).then(|| select::serving(&candidates));
    let serving_internal = serving.as_ref().map(|serving| {
        let is_local_one =
            |backend: &Backend| candidates.get(backend).is_some_and(Candidate::is_local);
        let counts = |backend: &&Backend| !is_local(internal) || is_local_one(backend);
        serving.iter().filter(counts).copied().collect()
    });
    // The addresses of interfaces decide where node ports answer and which VIPs are bound.
    let uses_addresses = ipvs.is_some() && (has_external || port.node_port.is_some());
    Route {
        port: Arc::new(PortKey { service: service.key.clone(), port: port.name.clone() }),
        family,
        frontends,
        ipvs,
        cluster_ip,
        affinity: service.affinity,
        load_balancing: service.load_balancing.unwrap_or(settings.load_balancing),
        maglev_table_size: settings.maglev_table_size,
        weights: Some(
            candidates
                .iter()
                .filter(|(_, it)| it.is_usable())
                .map(|(backend, it)| (*backend, it.weight))
                .collect(),
        ),
        internal,
        external,
        cluster,
        local,
        has_endpoints: candidates.values().any(Candidate::is_usable),
        hairpin: here.into_iter().collect(),
        sources: None,
        serving,
        serving_internal,
        depends_on_node: uses_addresses
            || host::has_pods_here(model, settings, service)
            || uses_cluster && candidates.values().any(|it| it.hints.is_some()),
    }
}

/// Returns the external IPs and load-balancer addresses of a Service that are not served here
/// because another Node has them, each with the name of that Node.
pub fn elsewhere<'a>(
    model: &'a Model,
    settings: &'a Settings,
    service: &'a Service,
) -> impl Iterator<Item = (IpAddr, &'a NodeName)> {
    let addresses = service.external_ips.iter().chain(&service.load_balancer_vips);
    addresses.filter_map(|address| Some((*address, ipvs::elsewhere(model, settings, *address)?)))
}

/// Returns true if the type or fields of the Service allow traffic from outside the cluster.
fn is_external(service: &Service) -> bool {
    match service.kind {
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
        ServiceType::ClusterIP => !service.external_ips.is_empty(),
        ServiceType::ExternalName => false,
    }
}

fn frontends(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    node_ports: Option<&[IpAddr]>,
    is_here: impl Fn(IpAddr) -> bool,
) -> Vec<(Frontend, Rank)> {
    let family = Family::of(cluster_ip);
    let is_served = |address: &&IpAddr| Family::of(**address) == family && is_here(**address);
    let at =
        |address: IpAddr| Frontend::Address { address, protocol: port.protocol, port: port.port };
    let mut frontends: Vec<(Frontend, Rank)> = vec![(at(cluster_ip), Rank::ClusterIp)];
    let vips = service.load_balancer_vips.iter().filter(is_served);
    frontends.extend(vips.map(|vip| (at(*vip), Rank::LoadBalancerVip)));
    let external = service.external_ips.iter().filter(is_served);
    frontends.extend(external.map(|address| (at(*address), Rank::ExternalIp)));
    if let Some(node_port) = port.node_port {
        let protocol = port.protocol;
        match node_ports {
            None => {
                let frontend = Frontend::NodePort { family, protocol, port: node_port };
                frontends.push((frontend, Rank::NodePort));
            }
            // IPVS has no node ports, only addresses.
            Some(addresses) => frontends.extend(addresses.iter().map(|address| {
                let frontend = Frontend::Address { address: *address, protocol, port: node_port };
                (frontend, Rank::NodePort)
            })),
        }
    }
    // A Service may name an address both as VIP and as external IP: the higher precedence is kept.
    let mut seen = BTreeSet::new();
    frontends.retain(|(frontend, _)| seen.insert(*frontend));
    frontends
}
