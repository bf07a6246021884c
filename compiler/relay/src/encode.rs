//! Objects as messages.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};

use bytes::Bytes;
use ipnet::IpNet;
use prost::Message;
use rulec_compiler::name::NodeName;
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::{
    Affinity, Endpoint, EndpointSlice, Hints, Node, Object, Service, ServiceCidr, ServicePort,
    ServiceType, SlicePort, TargetPort, TrafficPolicy,
};

use crate::wire::{self, state};

/// Returns the message of an object that is folded for a node.
pub(crate) fn encode(object: &Object, node: &NodeName) -> Vec<u8> {
    match object {
        Object::Service(it) => service(it).encode_to_vec(),
        Object::EndpointSlice(it) => slice(it, node).encode_to_vec(),
        Object::Node(it) => of_node(it).encode_to_vec(),
        Object::ServiceCidr(it) => service_cidr(it).encode_to_vec(),
        // These have no resources.
        Object::Pod(_) | Object::InterfaceAddresses(_) => Vec::new(),
    }
}

fn service(service: &Service) -> wire::Service {
    let is_local = |policy| policy == TrafficPolicy::Local;
    let families = Family::ALL.into_iter();
    wire::Service {
        kind: match service.kind {
            ServiceType::ClusterIP => 0,
            ServiceType::NodePort => 1,
            ServiceType::LoadBalancer => 2,
            ServiceType::ExternalName => 3,
        },
        cluster_ips: families.filter_map(|it| service.cluster_ips.of(it)).map(address).collect(),
        ports: service.ports.iter().map(service_port).collect(),
        external_ips: service.external_ips.iter().copied().map(address).collect(),
        load_balancer_vips: service.load_balancer_vips.iter().copied().map(address).collect(),
        source_ranges: service.source_ranges.iter().map(network).collect(),
        affinity: match service.affinity {
            Affinity::None => 0,
            Affinity::ClientIp { timeout } => timeout,
        },
        is_internal_local: is_local(service.internal_policy),
        is_external_local: is_local(service.external_policy),
        health_check_node_port: number(service.health_check_node_port),
        selector: service.selector.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect(),
        publish_not_ready: service.publish_not_ready,
        load_balancing: service.load_balancing.map_or_else(String::new, |it| it.to_string()),
        scheduler: service.ipvs.scheduler.map_or_else(String::new, |it| it.to_string()),
        scheduler_flags: service.ipvs.flags.map(|flags| flags.bits()),
        drain: service.ipvs.drain,
        max_connections: service.ipvs.max_connections.map_or(0, NonZeroU32::get),
    }
}

fn service_port(port: &ServicePort) -> wire::ServicePort {
    let (target, target_name) = match &port.target {
        TargetPort::Number(number) => (u32::from(number.get()), String::new()),
        TargetPort::Name(name) => (0, name.to_string()),
    };
    wire::ServicePort {
        name: port.name.to_string(),
        protocol: protocol(port.protocol),
        port: u32::from(port.port.get()),
        node_port: number(port.node_port),
        target,
        target_name,
    }
}

fn slice(slice: &EndpointSlice, node: &NodeName) -> wire::EndpointSlice {
    let mut different: Vec<&Hints> = Vec::new();
    let mut hints_of: Vec<u32> = Vec::new();
    for endpoint in &slice.endpoints {
        let number = endpoint.hints.as_deref().map_or(0, |hints| {
            let known = different.iter().position(|known| *known == hints);
            let place = known.unwrap_or_else(|| {
                different.push(hints);
                different.len() - 1
            });
            u32::try_from(place + 1).unwrap_or(0)
        });
        hints_of.push(number);
    }
    let mut states: Vec<u8> = slice.endpoints.iter().map(|it| state_of(it, node)).collect();
    if states.iter().all(|state| *state == 0) {
        states.clear();
    }
    if different.is_empty() {
        hints_of.clear();
    }
    wire::EndpointSlice {
        service: slice.service.name.to_string(),
        is_v6: slice.family == Family::Ipv6,
        ports: slice.ports.iter().map(slice_port).collect(),
        addresses: slice.endpoints.iter().flat_map(|it| octets(it.address)).collect(),
        states,
        hints: different.into_iter().map(|it| hints(it, node)).collect(),
        hints_of,
        weight: (!slice.weight.is_default()).then(|| slice.weight.get().into()),
    }
}

fn state_of(endpoint: &Endpoint, node: &NodeName) -> u8 {
    let place = match &endpoint.node {
        None => state::PLACELESS,
        Some(name) if name == node => state::HERE,
        Some(_) => 0,
    };
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    let conditions = endpoint.conditions;
    place
        | flag(!conditions.ready, state::NOT_READY)
        | flag(!conditions.serving, state::NOT_SERVING)
        | flag(conditions.terminating, state::TERMINATING)
}

fn hints(hints: &Hints, node: &NodeName) -> wire::Hints {
    let is_for_node = hints.nodes.contains(node);
    wire::Hints {
        zones: hints.zones.iter().map(ToString::to_string).collect(),
        nodes: match hints.nodes.is_empty() {
            true => 0,
            false if is_for_node => 2,
            false => 1,
        },
    }
}

fn slice_port(port: &SlicePort) -> wire::SlicePort {
    wire::SlicePort {
        name: port.name.to_string(),
        protocol: protocol(port.protocol),
        port: u32::from(port.port.get()),
    }
}

fn of_node(node: &Node) -> wire::Node {
    wire::Node {
        addresses: node.addresses.iter().copied().map(address).collect(),
        pod_cidrs: node.pod_cidrs.iter().map(network).collect(),
        zone: node.zone.as_ref().map_or_else(String::new, ToString::to_string),
        taints: node.taints.iter().map(|taint| taint.to_string()).collect(),
        is_deleting: node.deleting,
    }
}

fn service_cidr(cidr: &ServiceCidr) -> wire::ServiceCidr {
    wire::ServiceCidr { cidrs: cidr.cidrs.iter().map(network).collect() }
}

fn protocol(protocol: Protocol) -> u32 {
    if protocol == Protocol::Tcp { 0 } else { protocol.number().into() }
}

fn number(port: Option<NonZeroU16>) -> u32 {
    port.map_or(0, |port| port.get().into())
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn address(address: IpAddr) -> Bytes {
    octets(address).into()
}

fn network(network: &IpNet) -> Bytes {
    let mut bytes = octets(network.addr());
    bytes.push(network.prefix_len());
    bytes.into()
}
