//! Services.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::asks::Asks;
use crate::load_balancing::LoadBalancing;
use crate::name::{LabelKey, LabelValue, NamespacedName, PortName};
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
    /// How our rules choose among its backends, from its annotations; the settings supply it if the
    /// Service leaves it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,
    /// IPVS options from the annotations of the Service.
    #[serde(default)]
    pub ipvs: IpvsOptions,
    /// What is still to be given out. In a model, that is what could not be given.
    #[serde(default, skip_serializing_if = "Asks::is_empty")]
    pub asks: Asks,
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
    /// The maximum number of connections to each real server at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<NonZeroU32>,
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
        Scheduling::with_flags(chosen.scheduler, self.flags.unwrap_or(chosen.flags))
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
            load_balancing: None,
            ipvs: IpvsOptions::default(),
            asks: Asks::default(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_from_the_settings_apply_only_to_their_scheduler() {
        let settings = Scheduling { scheduler: Scheduler::Sh, flags: "sh-port".parse().unwrap() };
        let of = |scheduler, flags: Option<&str>| {
            let flags = flags.map(|flags| flags.parse().unwrap());
            let Scheduling { scheduler, flags } =
                IpvsOptions { scheduler, flags, ..IpvsOptions::default() }.scheduling(settings);
            format!("{scheduler} {flags}")
        };
        assert_eq!(of(None, None), "sh flag-1,flag-2");
        assert_eq!(of(None, Some("sh-fallback")), "sh flag-1");
        assert_eq!(of(None, Some("")), "sh flag-1");
        assert_eq!(of(Some(Scheduler::Sh), None), "sh flag-1,flag-2");
        assert_eq!(of(Some(Scheduler::Rr), None), "rr ");
        assert_eq!(of(Some(Scheduler::Mh), None), "mh flag-1,flag-2");
        assert_eq!(of(Some(Scheduler::Mh), Some("")), "mh flag-1");
    }
}
