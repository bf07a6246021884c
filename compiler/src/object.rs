//! The objects that decide what is programmed, reduced to the fields that matter.
//!
//! A source creates them from its input. Every object here is valid, defaulted and in normal form.
//! Two objects are equal exactly if they mean the same, whatever the order, metadata or spelling of
//! the originals; change detection relies on this equality.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::{LabelKey, LabelValue, Name, NamespacedName, NodeName, PortName, Zone};
use crate::net::{Family, Protocol};
use crate::scheduling::{Scheduler, SchedulerFlags, Scheduling};

/// A Service that a node serves.
///
/// Headless Services, ExternalName Services and Services without a cluster address are Services
/// with no `cluster_ips`: nothing is programmed for them (a Service is served in a family only if
/// it has a cluster address of that family).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: NamespacedName,
    /// `spec.type`, which decides whether `external_policy` applies.
    pub kind: ServiceType,
    /// The cluster address of each family.
    pub cluster_ips: ClusterIps,
    /// The ports; names are unique, and so are pairs of port and protocol.
    pub ports: Vec<ServicePort>,
    /// `spec.externalIPs`, sorted, no duplicates.
    pub external_ips: Vec<IpAddr>,
    /// The addresses of `status.loadBalancer.ingress` that this node must answer for (`ipMode`
    /// VIP), sorted, no duplicates.
    pub load_balancer_vips: Vec<IpAddr>,
    /// `spec.loadBalancerSourceRanges`, masked, sorted, no duplicates.
    pub source_ranges: Vec<IpNet>,
    /// `spec.sessionAffinity`.
    pub affinity: Affinity,
    /// `spec.internalTrafficPolicy`.
    pub internal_policy: TrafficPolicy,
    /// `spec.externalTrafficPolicy`, as written; see `kind` for whether it applies.
    pub external_policy: TrafficPolicy,
    /// `spec.healthCheckNodePort`.
    pub health_check_node_port: Option<NonZeroU16>,
    /// `spec.selector`; empty means that no Pod is selected. Used only to match Pods from
    /// manifests; EndpointSlices already carry the outcome of the selector.
    pub selector: BTreeMap<LabelKey, LabelValue>,
    /// `spec.publishNotReadyAddresses`, likewise used only for Pods from manifests.
    pub publish_not_ready: bool,
    /// IPVS options from the annotations of the Service.
    #[serde(default)]
    pub ipvs: IpvsOptions,
}

/// The IPVS options of one Service; the settings supply those that the Service leaves out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpvsOptions {
    /// The scheduler of its virtual servers.
    pub scheduler: Option<Scheduler>,
    /// The flags of the scheduler, also if the scheduler comes from the settings.
    pub flags: Option<SchedulerFlags>,
    /// The longest time, in seconds, that a draining real server keeps its connections.
    pub drain: Option<u32>,
}

impl IpvsOptions {
    /// Returns the scheduling of the Service's virtual servers. If the Service sets no flags, those
    /// of the settings apply if they are for the same scheduler, or else the default flags of the
    /// scheduler, because the same flag has another meaning for another scheduler.
    pub fn scheduling(self, settings: Scheduling) -> Scheduling {
        let chosen = match self.scheduler {
            Some(scheduler) if scheduler != settings.scheduler => Scheduling::new(scheduler),
            Some(_) | None => settings,
        };
        Scheduling { flags: self.flags.unwrap_or(chosen.flags), ..chosen }
    }
}

impl Service {
    /// Returns a Service with the API's defaults, without addresses or ports.
    pub fn new(key: NamespacedName) -> Self {
        Self {
            key,
            kind: ServiceType::ClusterIP,
            cluster_ips: ClusterIps::default(),
            ports: Vec::new(),
            external_ips: Vec::new(),
            load_balancer_vips: Vec::new(),
            source_ranges: Vec::new(),
            affinity: Affinity::None,
            internal_policy: TrafficPolicy::Cluster,
            external_policy: TrafficPolicy::Cluster,
            health_check_node_port: None,
            selector: BTreeMap::new(),
            publish_not_ready: false,
            ipvs: IpvsOptions::default(),
        }
    }
}

/// `spec.type` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Reached by its cluster address (and external IPs).
    ClusterIP,
    /// Also reached by a port on every node.
    NodePort,
    /// Also reached by the addresses of a load balancer.
    LoadBalancer,
    /// A DNS alias; there is nothing to serve.
    ExternalName,
}

/// The cluster addresses of a Service, at most one of each family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterIps {
    /// The IPv4 address.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address.
    pub v6: Option<Ipv6Addr>,
}

impl ClusterIps {
    /// Returns the address of one family.
    pub fn of(self, family: Family) -> Option<IpAddr> {
        match family {
            Family::Ipv4 => self.v4.map(IpAddr::V4),
            Family::Ipv6 => self.v6.map(IpAddr::V6),
        }
    }
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// The name. EndpointSlices refer to the port by name and protocol.
    pub name: PortName,
    /// The protocol.
    pub protocol: Protocol,
    /// The port clients connect to.
    pub port: NonZeroU16,
    /// The port on node addresses, if there is one.
    pub node_port: Option<NonZeroU16>,
    /// The port to connect to on a Pod. Used only to match Pods from manifests.
    pub target: TargetPort,
}

/// `targetPort` of a Service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// The same number on every Pod.
    Number(NonZeroU16),
    /// The container port with this name and the Service port's protocol, looked up in each Pod.
    Name(PortName),
}

/// Session affinity: `ClientIP` sends the connections of a client to the same endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Affinity {
    /// Each connection is assigned independently.
    None,
    /// Connections from one client address go to the same endpoint until the client has opened none
    /// for `timeout` seconds.
    ClientIp {
        /// Seconds, 1 to 86,400 (the API's range).
        timeout: u32,
    },
}

/// The endpoints that a class of traffic may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TrafficPolicy {
    /// All endpoints of the cluster.
    Cluster,
    /// The endpoints on this node.
    Local,
}

/// An EndpointSlice (discovery.k8s.io/v1) of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: NamespacedName,
    /// The Service it belongs to, in the same namespace (label `kubernetes.io/service-name`).
    pub service: NamespacedName,
    /// `addressType`; all addresses are of this family.
    pub family: Family,
    /// Ports by name and protocol, sorted; those without a name or number are left out.
    pub ports: Vec<SlicePort>,
    /// Endpoints, sorted by address; those without an address are left out.
    pub endpoints: Vec<Endpoint>,
}

impl EndpointSlice {
    /// The marker in the name of a slice that mirrors Endpoints; no object of the API can have it.
    const MIRROR: &str = "@endpoints-";

    /// Returns the name of the slice that mirrors a subset of Endpoints (v1) in a family.
    pub fn mirror_name(endpoints: &NamespacedName, subset: usize, family: Family) -> String {
        let family = match family {
            Family::Ipv4 => "ipv4",
            Family::Ipv6 => "ipv6",
        };
        format!("{}{}{subset}-{family}", endpoints.name, Self::MIRROR)
    }

    /// Returns true if the slice mirrors Endpoints. Such a slice is used only for a Service that
    /// has neither a selector nor a slice of its own.
    pub fn is_mirror(&self) -> bool {
        self.key.name.as_str().contains(Self::MIRROR)
    }
}

/// One port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the Service port it implements.
    pub name: PortName,
    /// The protocol, which must match the Service port's too.
    pub protocol: Protocol,
    /// The port on the endpoints.
    pub port: NonZeroU16,
}

/// One endpoint of an EndpointSlice. Only the first of its addresses is used (KEP-752).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// Its conditions, which decide what it may be used for.
    pub conditions: Conditions,
    /// The node it runs on, if known; decides whether it is local.
    pub node: Option<NodeName>,
    /// `hints`; `None` for most endpoints. Boxed because endpoints are by far the most numerous
    /// objects of a model, so that each byte of them matters.
    pub hints: Option<Box<Hints>>,
}

impl Endpoint {
    /// Returns an endpoint that is ready and names no node.
    pub fn ready(address: IpAddr) -> Self {
        Self { address, conditions: Conditions::READY, node: None, hints: None }
    }
}

/// The consumers that an endpoint is meant for, by topology.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hints {
    /// `forZones`, sorted.
    pub zones: Box<[Zone]>,
    /// `forNodes`, sorted.
    pub nodes: Box<[NodeName]>,
}

/// The conditions of an endpoint, defaulted: nil means ready, serving and not terminating.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Conditions {
    /// Ready for new connections.
    pub ready: bool,
    /// Passing its readiness probe, whether or not it is terminating.
    pub serving: bool,
    /// Being shut down.
    pub terminating: bool,
}

impl Conditions {
    /// The conditions of an endpoint that states none.
    pub const READY: Self = Self { ready: true, serving: true, terminating: false };
}

/// A Pod as a manifest source sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: NamespacedName,
    /// Labels, matched by the selectors of Services.
    pub labels: BTreeMap<LabelKey, LabelValue>,
    /// `spec.nodeName`; a manifest without one describes a Pod of this node.
    pub node: Option<NodeName>,
    /// The addresses it is reached at.
    pub addresses: PodAddresses,
    /// Named container ports, sorted, for named target ports.
    pub ports: Vec<SlicePort>,
    /// From `status` and `metadata.deletionTimestamp`; a manifest without a status is ready.
    pub conditions: Conditions,
}

/// The addresses a Pod is reached at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodAddresses {
    /// At `status.podIPs` (the first of each family is used). May be empty: then the Pod is
    /// unreachable.
    Own(Vec<IpAddr>),
    /// At the addresses of its node: the Pod has `hostNetwork` and no `status.podIPs`.
    Node,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The name.
    pub name: NodeName,
    /// InternalIP addresses in order, then ExternalIP addresses in order.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
    /// Label `topology.kubernetes.io/zone`, if not empty.
    pub zone: Option<Zone>,
    /// Keys of `spec.taints`, sorted.
    pub taints: Vec<Arc<str>>,
    /// Whether it has a `metadata.deletionTimestamp`.
    pub deleting: bool,
}

impl Node {
    /// Returns the node's primary address of a family: the first one.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| Family::of(*address) == family)
    }
}

/// A ServiceCIDR (networking.k8s.io/v1): a range that cluster addresses are taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCidr {
    /// The name.
    pub name: Name,
    /// `spec.cidrs`, masked, sorted, no duplicates.
    pub cidrs: Vec<IpNet>,
}

/// The addresses of this node's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddresses {
    /// All of them, sorted, no duplicates.
    pub addresses: Vec<IpAddr>,
    /// For each family, the source address that the kernel uses by default.
    #[serde(default)]
    pub primary: Vec<IpAddr>,
}

/// Any object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Node.
    Node(Arc<Node>),
    /// A ServiceCIDR.
    ServiceCidr(Arc<ServiceCidr>),
    /// The addresses of this node's interfaces; there is one such object.
    InterfaceAddresses(Arc<InterfaceAddresses>),
}

impl Object {
    /// Returns the identity of the object.
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Service(service) => ObjectKey::Service(service.key.clone()),
            Self::EndpointSlice(slice) => ObjectKey::EndpointSlice(slice.key.clone()),
            Self::Pod(pod) => ObjectKey::Pod(pod.key.clone()),
            Self::Node(node) => ObjectKey::Node(node.name.clone()),
            Self::ServiceCidr(cidr) => ObjectKey::ServiceCidr(cidr.name.clone()),
            Self::InterfaceAddresses(_) => ObjectKey::InterfaceAddresses,
        }
    }
}

/// Kind and name: the identity of an object. Content is never part of it, so that an edit is an
/// update and not a removal followed by an addition.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ObjectKey {
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice.
    EndpointSlice(NamespacedName),
    /// A Pod.
    Pod(NamespacedName),
    /// A Node.
    Node(NodeName),
    /// A ServiceCIDR.
    ServiceCidr(Name),
    /// The addresses of this node's interfaces.
    InterfaceAddresses,
}

impl ObjectKey {
    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Node(_) => Kind::Node,
            Self::ServiceCidr(_) => Kind::ServiceCidr,
            Self::InterfaceAddresses => Kind::InterfaceAddresses,
        }
    }
}

/// The kind of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A Service.
    Service,
    /// An EndpointSlice.
    EndpointSlice,
    /// A Pod.
    Pod,
    /// A Node.
    Node,
    /// A ServiceCIDR.
    ServiceCidr,
    /// The addresses of this node's interfaces.
    InterfaceAddresses,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 6] = [
        Self::Service,
        Self::EndpointSlice,
        Self::Pod,
        Self::Node,
        Self::ServiceCidr,
        Self::InterfaceAddresses,
    ];
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(key) => write!(f, "Service {key}"),
            Self::EndpointSlice(key) => write!(f, "EndpointSlice {key}"),
            Self::Pod(key) => write!(f, "Pod {key}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::ServiceCidr(name) => write!(f, "ServiceCIDR {name}"),
            Self::InterfaceAddresses => f.write_str("addresses of the interfaces"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_from_the_settings_apply_only_to_their_scheduler() {
        let settings = Scheduling { scheduler: Scheduler::Sh, flags: "sh-port".parse().unwrap() };
        let of = |scheduler, flags: Option<&str>| {
            let flags = flags.map(|flags| flags.parse().unwrap());
            let Scheduling { scheduler, flags } =
                IpvsOptions { scheduler, flags, drain: None }.scheduling(settings);
            format!("{scheduler} {flags}")
        };
        assert_eq!(of(None, None), "sh flag-2");
        assert_eq!(of(None, Some("sh-fallback")), "sh flag-1");
        assert_eq!(of(None, Some("")), "sh ");
        assert_eq!(of(Some(Scheduler::Sh), None), "sh flag-2");
        assert_eq!(of(Some(Scheduler::Rr), None), "rr ");
        assert_eq!(of(Some(Scheduler::Mh), None), "mh flag-2");
        assert_eq!(of(Some(Scheduler::Mh), Some("")), "mh ");
    }
}
