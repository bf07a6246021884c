//! What one Service port means on this node, before any kernel: its frontends and its backends.
//!
//! Follows kube-proxy's categories (KEP-1669 for terminating endpoints), independently per family.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::Model;
use crate::name::{NamespacedName, NodeName, PortName};
use crate::net::{Backend, Family, Fnv, Protocol};
use crate::object::{
    Affinity, Conditions, Service, ServicePort, SlicePort, TargetPort, TrafficPolicy,
};
use crate::settings::Settings;

pub mod local;
pub mod node_ports;

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
    /// The cluster address, all of whose other ports and protocols are rejected.
    pub cluster_ip: IpAddr,
    /// Session affinity.
    pub affinity: Affinity,
    /// The backends under policy Cluster, sorted, no duplicates.
    pub backends: Vec<Backend>,
    /// The addresses of those backends that are on this node, sorted, no duplicates.
    pub local: Vec<IpAddr>,
    /// Of a UDP port, every backend that is serving, whether it gets new flows or not: flows to others
    /// lead nowhere. Sorted, no duplicates.
    pub serving: Option<Vec<Backend>>,
}

/// An endpoint of a Service port, whether it is used or not, for selection and for explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it may be used for.
    pub conditions: Conditions,
    /// Whether it is on this node.
    pub local: bool,
}

/// Resolves every port of a Service in every family. A Service that does not exist, or that has no
/// cluster address of a family, has no routes there.
pub fn resolve(model: &Model, settings: &Settings, key: &NamespacedName) -> Vec<Route> {
    let Some(service) = model.service(key) else { return Vec::new() };
    let service = &*service.object;
    let mut routes = Vec::new();
    for family in Family::ALL {
        let Some(cluster_ip) = service.cluster_ips.of(family) else { continue };
        for port in &service.ports {
            let candidates = candidates(model, settings, service, port, family);
            let chosen = select(&candidates);
            let serving = (port.protocol == Protocol::Udp).then(|| {
                let serves = |candidate: &Candidate| {
                    candidate.conditions.serving || candidate.conditions.ready
                };
                let serving = candidates.iter().filter(|(_, candidate)| serves(candidate));
                serving.map(|(backend, _)| *backend).collect()
            });
            let mut local: Vec<IpAddr> = chosen
                .iter()
                .filter(|(_, candidate)| candidate.local)
                .map(|(backend, _)| backend.address)
                .collect();
            local.dedup();
            routes.push(Route {
                port: Arc::new(PortKey { service: service.key.clone(), port: port.name.clone() }),
                family,
                frontends: frontends(service, port, family, cluster_ip),
                cluster_ip,
                affinity: service.affinity,
                backends: chosen.into_iter().map(|(backend, _)| backend).collect(),
                local,
                serving,
            });
        }
    }
    routes
}

/// All endpoints of a Service port in a family: those of its EndpointSlices and those of the Pods
/// it selects. Of several with the same address and port, one that is not terminating counts before
/// one that is, then a ready one, whatever the order in which they were seen.
pub fn candidates(
    model: &Model,
    settings: &Settings,
    service: &Service,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<Backend, Candidate> {
    let mut found = BTreeMap::new();
    let mut add = |backend: Backend, candidate: Candidate| {
        found
            .entry(backend)
            .and_modify(|known: &mut Candidate| {
                if preference(&candidate) > preference(known) {
                    *known = candidate;
                }
            })
            .or_insert(candidate);
    };
    let is_local = |node: &NodeName| *node == settings.node_name;

    for slice in model.slices_of(&service.key) {
        let slice = &*slice.object;
        if slice.family != family {
            continue;
        }
        for slice_port in slice.ports.iter().filter(|slice_port| implements(slice_port, port)) {
            for endpoint in &slice.endpoints {
                let backend = Backend { address: endpoint.address, port: slice_port.port };
                let local = endpoint.node.as_ref().is_some_and(is_local);
                add(backend, Candidate { conditions: endpoint.conditions, local });
            }
        }
    }

    for pod in model.pods_of(service) {
        let pod = &*pod.object;
        let Some(target) = target(port, &pod.ports) else { continue };
        let mut conditions = pod.conditions;
        conditions.ready |= service.publish_not_ready;
        let local = pod.node.as_ref().is_none_or(is_local);
        for address in model.addresses_of(pod, &settings.node_name) {
            if Family::of(address) == family {
                add(Backend { address, port: target }, Candidate { conditions, local });
            }
        }
    }
    found
}

/// The endpoints that serve under policy Cluster: the ready ones, or else those that are
/// terminating but still serving.
fn select(candidates: &BTreeMap<Backend, Candidate>) -> Vec<(Backend, Candidate)> {
    let pick = |usable: fn(Conditions) -> bool| -> Vec<(Backend, Candidate)> {
        candidates
            .iter()
            .filter(|(_, candidate)| usable(candidate.conditions))
            .map(|(backend, candidate)| (*backend, *candidate))
            .collect()
    };
    let ready = pick(|conditions| conditions.ready);
    if ready.is_empty() {
        pick(|conditions| conditions.serving && conditions.terminating)
    } else {
        ready
    }
}

/// What a Service asks for that is not done yet, by field, with what is done instead.
pub fn unsupported(service: &Service) -> Vec<&'static str> {
    let mut found = Vec::new();
    if service.internal_policy == TrafficPolicy::Local {
        found.push("spec.internalTrafficPolicy: Local is not supported yet; served as Cluster");
    }
    if service.external_policy == TrafficPolicy::Local {
        found.push("spec.externalTrafficPolicy: Local is not supported yet; served as Cluster");
    }
    let restricted = Family::ALL.into_iter().any(|family| is_restricted(service, family));
    if restricted && !service.load_balancer_vips.is_empty() {
        found.push(
            "spec.loadBalancerSourceRanges is not supported yet; \
             the addresses of status.loadBalancer are not served",
        );
    }
    found
}

/// Whether the source ranges keep anybody of the family out: there are some, and none is everybody.
fn is_restricted(service: &Service, family: Family) -> bool {
    let mut ranges =
        service.source_ranges.iter().filter(|range| Family::of(range.addr()) == family).peekable();
    ranges.peek().is_some() && ranges.all(|range| range.prefix_len() > 0)
}

fn preference(candidate: &Candidate) -> (bool, bool, bool, bool) {
    let Conditions { ready, serving, terminating } = candidate.conditions;
    (!terminating, ready, serving, candidate.local)
}

fn implements(slice_port: &SlicePort, port: &ServicePort) -> bool {
    slice_port.name == port.name && slice_port.protocol == port.protocol
}

/// The port to connect to on a Pod: a named target port is looked up there.
fn target(port: &ServicePort, container_ports: &[SlicePort]) -> Option<NonZeroU16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => container_ports
            .iter()
            .find(|candidate| candidate.name == *name && candidate.protocol == port.protocol)
            .map(|candidate| candidate.port),
    }
}

fn frontends(
    service: &Service,
    port: &ServicePort,
    family: Family,
    cluster_ip: IpAddr,
) -> Vec<(Frontend, Rank)> {
    let of_family = |address: &&IpAddr| Family::of(**address) == family;
    let at =
        |address: IpAddr| Frontend::Address { address, protocol: port.protocol, port: port.port };
    let mut frontends: Vec<(Frontend, Rank)> = vec![(at(cluster_ip), Rank::ClusterIp)];
    // A VIP whose clients are restricted is not served to everybody while the restriction cannot be
    // enforced.
    let open = !is_restricted(service, family);
    let vips = service.load_balancer_vips.iter().filter(of_family).filter(|_| open);
    frontends.extend(vips.map(|vip| (at(*vip), Rank::LoadBalancerVip)));
    let external = service.external_ips.iter().filter(of_family);
    frontends.extend(external.map(|address| (at(*address), Rank::ExternalIp)));
    if let Some(node_port) = port.node_port {
        let frontend = Frontend::NodePort { family, protocol: port.protocol, port: node_port };
        frontends.push((frontend, Rank::NodePort));
    }
    // A Service may name one address twice, as VIP and as external IP: the better rank counts.
    let mut seen = std::collections::BTreeSet::new();
    frontends.retain(|(frontend, _)| seen.insert(*frontend));
    frontends
}
