//! What one Service port means on this node, before any kernel: its frontends and its backends.
//!
//! `candidate` gathers the endpoints of a port, `select` chooses those that serve, `sources` says who may
//! connect.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use ipnet::IpNet;

use crate::ipvs::Balancing;
use crate::model::Model;
use crate::name::{NamespacedName, NodeName, PortName, Zone};
use crate::net::{Backend, Family, Fnv, Protocol};
use crate::object::{Affinity, Service, ServicePort, ServiceType, TrafficPolicy};
use crate::settings::Settings;

pub mod candidate;
pub mod host;
mod ipvs;
pub mod local;
pub mod node_ports;
pub mod select;
mod sources;

pub use candidate::{Candidate, Place, candidates};

/// A Service port: the unit that is compiled. Prints as `namespace/name:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortKey {
    /// The Service.
    pub service: NamespacedName,
    /// The name of the port; may be empty.
    pub port: PortName,
}

impl PortKey {
    /// The most characters a comment can have: the `nft` tool refuses to read back a longer one.
    pub const MAX_COMMENT: usize = 128;

    /// The key as a comment: itself, or, if that is too long, with a shorter name of the Service
    /// that ends in a hash of the whole.
    pub fn comment(self: &Arc<Self>) -> Arc<Self> {
        let text = self.to_string();
        if text.len() <= Self::MAX_COMMENT {
            return Arc::clone(self);
        }
        let mut hash = Fnv::default();
        hash.write(text.as_bytes());
        let hash = format!("~{:016x}", hash.finish());
        let cut = |text: &str, room: usize| text[..text.floor_char_boundary(room)].to_owned();
        let namespace = cut(self.service.namespace.as_str(), 63);
        let port = cut(self.port.as_str(), 15);
        let room = Self::MAX_COMMENT - namespace.len() - port.len() - hash.len() - 2;
        let name = cut(self.service.name.as_str(), room) + &hash;
        Arc::new(Self {
            service: NamespacedName::new(namespace.as_str(), name.as_str()),
            port: PortName::from(port.as_str()),
        })
    }

    /// Whether it is a comment that stands for a longer key: no Service has such a name.
    pub fn is_shortened(&self) -> bool {
        self.service.name.as_str().contains('~')
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.port.as_str().is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl fmt::Debug for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a client connects to. Frontends are unique in the kernel: if two Service ports claim the
/// same one, the claim of the lower rank wins (see `Rank`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Frontend {
    /// An address, protocol and port.
    Address {
        /// The address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: NonZeroU16,
    },
    /// A port of the node's own addresses.
    NodePort {
        /// The family.
        family: Family,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: NonZeroU16,
    },
}

impl Frontend {
    /// The family it belongs to.
    pub fn family(self) -> Family {
        match self {
            Self::Address { address, .. } => Family::of(address),
            Self::NodePort { family, .. } => family,
        }
    }

    /// The protocol.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Address { protocol, .. } | Self::NodePort { protocol, .. } => protocol,
        }
    }
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, protocol, port } => {
                write!(f, "{}/{protocol}", std::net::SocketAddr::new(*address, port.get()))
            }
            Self::NodePort { family, protocol, port } => {
                write!(f, "nodePort {port}/{protocol} ({family})")
            }
        }
    }
}

impl fmt::Debug for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of frontend a claim is for, in order of precedence: the addresses the cluster
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
    /// The field of the Service that asks for such a frontend.
    pub fn field(self) -> &'static str {
        match self {
            Self::ClusterIp => "spec.clusterIPs",
            Self::LoadBalancerVip => "status.loadBalancer.ingress",
            Self::ExternalIp => "spec.externalIPs",
            Self::NodePort => "spec.ports[].nodePort",
        }
    }

    /// Whether traffic comes from outside the cluster's own addresses, so that the external
    /// traffic policy decides.
    pub fn is_external(self) -> bool {
        self != Self::ClusterIp
    }
}

/// A Service port in one family, resolved: nothing in it refers to other objects any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The Service port.
    pub port: Arc<PortKey>,
    /// The family.
    pub family: Family,
    /// What clients connect to; the first is the cluster address.
    pub frontends: Vec<(Frontend, Rank)>,
    /// Where IPVS chooses: how, and the addresses that must be this node's for IPVS to see what is sent
    /// to them.
    pub ipvs: Option<IpvsRoute>,
    /// The cluster address, all of whose other ports and protocols are rejected.
    pub cluster_ip: IpAddr,
    /// Session affinity.
    pub affinity: Affinity,
    /// The policy of the cluster address.
    pub internal: TrafficPolicy,
    /// The policy of the other frontends; under `Local`, it is for clients from outside only.
    pub external: TrafficPolicy,
    /// The backends under policy Cluster, sorted, no duplicates.
    pub cluster: Vec<Backend>,
    /// The backends under policy Local, likewise; empty if neither policy is Local.
    pub local: Vec<Backend>,
    /// Whether the cluster has any endpoint that could serve, wherever it is: if not, connections are
    /// rejected, whatever the policy.
    pub has_endpoints: bool,
    /// The addresses of those backends that are on this node, or may be: of a slice, an endpoint need not
    /// name its node. Sorted, no duplicates.
    pub hairpin: Vec<IpAddr>,
    /// Who may connect to the VIPs of load balancers, sorted, without overlaps; `None` for everybody.
    pub sources: Option<Vec<IpNet>>,
    /// Of a UDP port, every backend that is serving, whether it gets new flows or not: flows to others
    /// lead nowhere. Sorted, no duplicates.
    pub serving: Option<Vec<Backend>>,
    /// The same for the cluster address: under internal policy Local, those on this node.
    pub serving_internal: Option<Vec<Backend>>,
    /// Whether other facts of the node could change anything here.
    pub depends_on_node: bool,
}

/// What IPVS needs beyond frontends and backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpvsRoute {
    /// How its virtual servers choose.
    pub balancing: Balancing,
    /// The addresses to bind, sorted, no duplicates.
    pub vips: Vec<IpAddr>,
}

/// What a Service may depend on of the node it is resolved for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    zone: Option<Zone>,
    addresses: Vec<IpAddr>,
    /// Where Pods of its network are.
    host: Vec<IpAddr>,
    /// For IPVS: the addresses of the interfaces, and those that node ports answer on.
    interfaces: BTreeSet<IpAddr>,
    node_ports: Vec<IpAddr>,
}

impl NodeFacts {
    /// What is known of the node now.
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
    let has_external = frontends.iter().any(|(_, rank)| rank.is_external());
    let external = if has_external && is_external(service) {
        service.external_policy
    } else {
        // A policy for nobody asks for no endpoints.
        TrafficPolicy::Cluster
    };
    // Under the external policy Local, Pods and the node itself still have all endpoints.
    let uses_cluster = !is_local(internal) || has_external;
    let uses_local = is_local(internal) || is_local(external);
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
    // Which addresses node ports are at, and which others are this node's anyway.
    let uses_addresses = ipvs.is_some() && (has_external || port.node_port.is_some());
    Route {
        port: Arc::new(PortKey { service: service.key.clone(), port: port.name.clone() }),
        family,
        frontends,
        ipvs,
        cluster_ip,
        affinity: service.affinity,
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

/// The external IPs and load balancers' addresses of a Service that are not served here, because they are
/// those of another Node, which is named.
pub fn elsewhere<'a>(
    model: &'a Model,
    settings: &'a Settings,
    service: &'a Service,
) -> impl Iterator<Item = (IpAddr, &'a NodeName)> {
    let addresses = service.external_ips.iter().chain(&service.load_balancer_vips);
    addresses.filter_map(|address| Some((*address, ipvs::elsewhere(model, settings, *address)?)))
}

/// Whether the Service's type or fields let anything come from outside the cluster.
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
            // IPVS knows of addresses only.
            Some(addresses) => frontends.extend(addresses.iter().map(|address| {
                let frontend = Frontend::Address { address: *address, protocol, port: node_port };
                (frontend, Rank::NodePort)
            })),
        }
    }
    // A Service may name one address twice, as VIP and as external IP: the better rank counts.
    let mut seen = BTreeSet::new();
    frontends.retain(|(frontend, _)| seen.insert(*frontend));
    frontends
}
