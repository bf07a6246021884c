//! Messages as objects, checked like any other input: the compiler takes only valid objects.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ipnet::IpNet;
use prost::Message;
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{Name, NamespacedName, NodeName, PortName, Zone};
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::{
    Affinity, Asks, ClusterIps, Conditions, Endpoint, EndpointSlice, Hints, IpvsOptions, Node,
    Object, ObjectKey, Service, ServiceCidr, ServicePort, ServiceType, SlicePort, TargetPort,
    TrafficPolicy,
};
use rulec_compiler::scheduling::SchedulerFlags;
use rulec_compiler::settings::IpvsSettings;

use crate::fold::ELSEWHERE;
use crate::topic::{Topic, is_name};
use crate::wire::{self, state};

/// Why a resource cannot be used. Prints as `Service default/web: ports[0].port: 0 is not in
/// 1..65535`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Invalid {
    /// The type of the resource.
    pub topic: Topic,
    /// Its name, as sent.
    pub name: String,
    /// The field, if it is about one.
    pub field: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { topic, name, field, reason } = self;
        write!(f, "{topic} {}: ", name.escape_default())?;
        if !field.is_empty() {
            write!(f, "{field}: ")?;
        }
        f.write_str(reason)
    }
}

/// A field and what is wrong with it.
type Flaw = (String, String);

type Read<T> = Result<T, Flaw>;

/// The longest names of ports, and the longest session affinity, as in the API.
const LONGEST_PORT_NAME: usize = 63;
const LONGEST_TEXT: usize = 512;
const LONGEST_AFFINITY: u32 = 86_400;

/// The most zones of a hint; the API allows 8. Each endpoint has a copy of its hints, so that few
/// bytes could ask for much memory otherwise.
const MOST_ZONES: usize = 64;

/// Reads a resource that was made for a node.
///
/// # Errors
///
/// If it is not valid: the first reason.
pub fn decode(topic: Topic, name: &str, value: &[u8], node: &NodeName) -> Result<Object, Invalid> {
    read(topic, name, value, node).map_err(|(field, reason)| Invalid {
        topic,
        name: name.to_owned(),
        field,
        reason,
    })
}

fn read(topic: Topic, name: &str, value: &[u8], node: &NodeName) -> Read<Object> {
    let Some(key) = topic.key(name) else { return flaw("", "this is not the name of an object") };
    match key {
        ObjectKey::Service(key) => Ok(Object::Service(Arc::new(service(key, message(value)?)?))),
        ObjectKey::EndpointSlice(key) => {
            Ok(Object::EndpointSlice(Arc::new(slice(key, message(value)?, node)?)))
        }
        ObjectKey::Node(name) => Ok(Object::Node(Arc::new(of_node(name, message(value)?)?))),
        ObjectKey::ServiceCidr(name) => {
            let wire::ServiceCidr { cidrs } = message(value)?;
            let cidrs = networks("cidrs", &cidrs)?;
            Ok(Object::ServiceCidr(Arc::new(ServiceCidr { name, cidrs })))
        }
        ObjectKey::Pod(_) | ObjectKey::InterfaceAddresses => {
            flaw("", "there are no resources of this kind")
        }
    }
}

fn message<M: Message + Default>(value: &[u8]) -> Read<M> {
    M::decode(value).map_err(|error| (String::new(), error.to_string()))
}

fn flaw<T>(field: impl Into<String>, reason: impl Into<String>) -> Read<T> {
    Err((field.into(), reason.into()))
}

fn service(key: NamespacedName, message: wire::Service) -> Read<Service> {
    let wire::Service {
        kind,
        cluster_ips,
        ports,
        external_ips,
        load_balancer_vips,
        source_ranges,
        affinity,
        is_internal_local,
        is_external_local,
        health_check_node_port,
        selector,
        publish_not_ready,
        load_balancing,
        scheduler,
        scheduler_flags,
        drain,
        max_connections,
    } = message;
    let policy = |is_local| if is_local { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let parsed =
        |field: &str, text: &str| (!text.is_empty()).then(|| (field.to_owned(), text.to_owned()));
    let load_balancing = match parsed("load_balancing", &load_balancing) {
        Some((field, text)) => Some(text.parse().map_err(|reason| (field, reason))?),
        None => None,
    };
    let scheduler = match parsed("scheduler", &scheduler) {
        Some((field, text)) => Some(text.parse().map_err(|reason| (field, reason))?),
        None => None,
    };
    if let Some(drain) = drain.filter(|drain| *drain > IpvsSettings::LONGEST_DRAIN) {
        return flaw("drain", format!("{drain} is more than {}", IpvsSettings::LONGEST_DRAIN));
    }
    if scheduler_flags.is_some_and(|bits| bits & !SchedulerFlags::MASK != 0) {
        return flaw("scheduler_flags", "these are no flags of a scheduler");
    }
    Ok(Service {
        key,
        kind: match kind {
            0 => ServiceType::ClusterIP,
            1 => ServiceType::NodePort,
            2 => ServiceType::LoadBalancer,
            3 => ServiceType::ExternalName,
            other => return flaw("kind", format!("{other} is no type of Services")),
        },
        cluster_ips: of_families(&cluster_ips)?,
        ports: service_ports(ports)?,
        external_ips: addresses("external_ips", &external_ips)?,
        load_balancer_vips: addresses("load_balancer_vips", &load_balancer_vips)?,
        source_ranges: networks("source_ranges", &source_ranges)?,
        affinity: match affinity {
            0 => Affinity::None,
            timeout if timeout <= LONGEST_AFFINITY => Affinity::ClientIp { timeout },
            _ => return flaw("affinity", format!("{affinity} is more than {LONGEST_AFFINITY}")),
        },
        internal_policy: policy(is_internal_local),
        external_policy: policy(is_external_local),
        health_check_node_port: optional_port("health_check_node_port", health_check_node_port)?,
        selector: selector
            .iter()
            .map(|(key, value)| {
                let (key, value) = (printable("selector", key)?, printable("selector", value)?);
                Ok((key.into(), value.into()))
            })
            .collect::<Read<_>>()?,
        publish_not_ready,
        load_balancing,
        ipvs: IpvsOptions {
            scheduler,
            flags: scheduler_flags.map(SchedulerFlags::from_bits),
            drain,
            max_connections: NonZeroU32::new(max_connections),
        },
        asks: Asks::default(),
    })
}

fn of_families(all: &[impl AsRef<[u8]>]) -> Read<ClusterIps> {
    let mut found = ClusterIps::default();
    for (index, bytes) in all.iter().enumerate() {
        let field = format!("cluster_ips[{index}]");
        let is_twice = match address(&field, bytes.as_ref())? {
            IpAddr::V4(address) => found.v4.replace(address).is_some(),
            IpAddr::V6(address) => found.v6.replace(address).is_some(),
        };
        if is_twice {
            return flaw(field, "a second address of its family");
        }
    }
    Ok(found)
}

fn service_ports(messages: Vec<wire::ServicePort>) -> Read<Vec<ServicePort>> {
    let mut ports: Vec<ServicePort> = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        let at = |field: &str| format!("ports[{index}].{field}");
        let port = ServicePort {
            name: port_name(&at("name"), &message.name)?,
            protocol: protocol(&at("protocol"), message.protocol)?,
            port: port(&at("port"), message.port)?,
            node_port: optional_port(&at("node_port"), message.node_port)?,
            target: match optional_port(&at("target"), message.target)? {
                Some(number) => TargetPort::Number(number),
                None => TargetPort::Name(port_name(&at("target_name"), &message.target_name)?),
            },
        };
        let is_same = |other: &&ServicePort| {
            other.name == port.name || (other.protocol, other.port) == (port.protocol, port.port)
        };
        if ports.iter().any(|other| is_same(&other)) {
            return flaw(format!("ports[{index}]"), "another port has its name or its number");
        }
        ports.push(port);
    }
    Ok(ports)
}

fn slice(
    key: NamespacedName,
    message: wire::EndpointSlice,
    node: &NodeName,
) -> Read<EndpointSlice> {
    let wire::EndpointSlice { service, is_v6, ports, addresses, states, hints, hints_of, weight } =
        message;
    if !is_name(&service) {
        return flaw("service", format!("{service:?} is not a name"));
    }
    let family = if is_v6 { Family::Ipv6 } else { Family::Ipv4 };
    let length = if is_v6 { 16 } else { 4 };
    if !addresses.len().is_multiple_of(length) {
        return flaw("addresses", format!("{} bytes are no addresses", addresses.len()));
    }
    let count = addresses.len() / length;
    for (field, found) in [("states", states.len()), ("hints_of", hints_of.len())] {
        if found != 0 && found != count {
            return flaw(field, format!("{found} for {count} addresses"));
        }
    }
    let elsewhere = NodeName::from(ELSEWHERE);
    let hints: Vec<Hints> = hints
        .into_iter()
        .enumerate()
        .map(|(index, it)| hints_from(index, it, node, &elsewhere))
        .collect::<Read<_>>()?;
    let mut endpoints = Vec::with_capacity(count);
    for (index, bytes) in addresses.chunks_exact(length).enumerate() {
        let state = states.get(index).copied().unwrap_or(0);
        if state & !state::ALL != 0
            || state & (state::HERE | state::PLACELESS) == state::HERE | state::PLACELESS
        {
            return flaw(format!("states[{index}]"), format!("{state} is no state"));
        }
        let hint = match hints_of.get(index).copied().unwrap_or(0) {
            0 => None,
            number => {
                let place = usize::try_from(number - 1).unwrap_or(usize::MAX);
                let Some(hints) = hints.get(place) else {
                    return flaw(
                        format!("hints_of[{index}]"),
                        format!("there are no {number} hints"),
                    );
                };
                Some(Box::new(hints.clone()))
            }
        };
        let is = |flag| state & flag != 0;
        endpoints.push(Endpoint {
            address: address(&format!("addresses[{index}]"), bytes)?,
            conditions: Conditions {
                ready: !is(state::NOT_READY),
                serving: !is(state::NOT_SERVING),
                terminating: is(state::TERMINATING),
            },
            node: match (is(state::PLACELESS), is(state::HERE)) {
                (true, _) => None,
                (false, true) => Some(node.clone()),
                (false, false) => Some(elsewhere.clone()),
            },
            hints: hint,
        });
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    let ports: BTreeSet<SlicePort> = ports
        .into_iter()
        .enumerate()
        .map(|(index, message)| {
            let at = |field: &str| format!("ports[{index}].{field}");
            Ok(SlicePort {
                // It only has to be that of a Service port.
                name: PortName::from(printable(&at("name"), &message.name)?),
                protocol: protocol(&at("protocol"), message.protocol)?,
                port: port(&at("port"), message.port)?,
            })
        })
        .collect::<Read<_>>()?;
    let weight = match weight {
        None => Weight::default(),
        Some(number) => {
            let number = u8::try_from(number).unwrap_or(u8::MAX);
            Weight::try_from(number).map_err(|reason| ("weight".to_owned(), reason))?
        }
    };
    let service = NamespacedName { namespace: key.namespace.clone(), name: Name::from(&*service) };
    let ports = ports.into_iter().collect();
    Ok(EndpointSlice { key, service, family, ports, endpoints, weight })
}

fn hints_from(
    index: usize,
    message: wire::Hints,
    node: &NodeName,
    elsewhere: &NodeName,
) -> Read<Hints> {
    let mut zones = message.zones;
    zones.sort_unstable();
    zones.dedup();
    if zones.len() > MOST_ZONES {
        let found = zones.len();
        return flaw(format!("hints[{index}].zones"), format!("{found}, more than {MOST_ZONES}"));
    }
    if let Some(zone) = zones.iter().find(|zone| !is_name(zone)) {
        return flaw(format!("hints[{index}].zones"), format!("{zone:?} is not a name"));
    }
    let nodes: Box<[NodeName]> = match message.nodes {
        0 => Box::default(),
        1 => [elsewhere.clone()].into(),
        2 => [node.clone()].into(),
        other => return flaw(format!("hints[{index}].nodes"), format!("{other} has no meaning")),
    };
    if zones.is_empty() && nodes.is_empty() {
        return flaw(format!("hints[{index}]"), "they name neither a zone nor a node");
    }
    Ok(Hints { zones: zones.iter().map(|zone| Zone::from(zone.as_str())).collect(), nodes })
}

fn of_node(name: NodeName, message: wire::Node) -> Read<Node> {
    let wire::Node { addresses, pod_cidrs, zone, mut taints, is_deleting } = message;
    let odd =
        taints.iter().chain([&zone]).find(|text| text.contains(|c: char| !c.is_ascii_graphic()));
    if let Some(odd) = odd {
        return flaw("", format!("{odd:?} is neither a zone nor a taint"));
    }
    taints.sort_unstable();
    taints.dedup();
    let in_order =
        |(index, bytes): (usize, &bytes::Bytes)| any_address(&format!("addresses[{index}]"), bytes);
    let cidr =
        |(index, bytes): (usize, &bytes::Bytes)| network(&format!("pod_cidrs[{index}]"), bytes);
    Ok(Node {
        name,
        addresses: addresses.iter().enumerate().map(in_order).collect::<Read<_>>()?,
        pod_cidrs: pod_cidrs.iter().enumerate().map(cidr).collect::<Read<_>>()?,
        zone: (!zone.is_empty()).then(|| Zone::from(zone.as_str())),
        taints: taints.into_iter().map(Arc::from).collect(),
        deleting: is_deleting,
    })
}

fn any_address(field: &str, bytes: &[u8]) -> Read<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or(v6).or_else(|_| flaw(field, format!("{} bytes are no address", bytes.len())))
}

/// Returns an address of a Service or an endpoint. The API refuses the same ones: nobody may take
/// over a node's own loopback or link-local addresses, nor send connections to them.
fn address(field: &str, bytes: &[u8]) -> Read<IpAddr> {
    let address = any_address(field, bytes)?;
    let is_of_link = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => {
            address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
        }
    };
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || is_of_link {
        return flaw(field, format!("{address} cannot be the address of a Service or an endpoint"));
    }
    Ok(address)
}

fn addresses(field: &str, all: &[bytes::Bytes]) -> Read<Vec<IpAddr>> {
    let one = |(index, bytes): (usize, &bytes::Bytes)| address(&format!("{field}[{index}]"), bytes);
    let found: BTreeSet<IpAddr> = all.iter().enumerate().map(one).collect::<Read<_>>()?;
    Ok(found.into_iter().collect())
}

fn network(field: &str, bytes: &[u8]) -> Read<IpNet> {
    let Some((length, octets)) = bytes.split_last() else { return flaw(field, "it is empty") };
    let address = any_address(field, octets)?;
    let network = IpNet::new(address, *length);
    network.or_else(|_| flaw(field, format!("{length} is not the length of a prefix")))
}

fn networks(field: &str, all: &[bytes::Bytes]) -> Read<Vec<IpNet>> {
    let one = |(index, bytes): (usize, &bytes::Bytes)| {
        network(&format!("{field}[{index}]"), bytes).map(|network| network.trunc())
    };
    let found: BTreeSet<IpNet> = all.iter().enumerate().map(one).collect::<Read<_>>()?;
    Ok(found.into_iter().collect())
}

/// Returns a text that cannot break out of a line or a quotation.
fn printable<'a>(field: &str, text: &'a str) -> Read<&'a str> {
    if text.bytes().all(|byte| byte.is_ascii_graphic()) && text.len() <= LONGEST_TEXT {
        return Ok(text);
    }
    flaw(field, format!("{text:?} is too long, or not printable"))
}

fn port_name(field: &str, name: &str) -> Read<PortName> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > LONGEST_PORT_NAME || !name.bytes().all(fits) {
        return flaw(field, format!("{name:?} is not the name of a port"));
    }
    Ok(PortName::from(name))
}

fn protocol(field: &str, number: u32) -> Read<Protocol> {
    if number == 0 {
        return Ok(Protocol::Tcp);
    }
    let found = u8::try_from(number).ok().and_then(Protocol::from_number);
    found.map_or_else(|| flaw(field, format!("{number} is not the number of a protocol")), Ok)
}

fn optional_port(field: &str, number: u32) -> Read<Option<NonZeroU16>> {
    let number = u16::try_from(number)
        .map_err(|_| (field.to_owned(), format!("{number} is not in 1..65535")))?;
    Ok(NonZeroU16::new(number))
}

fn port(field: &str, number: u32) -> Read<NonZeroU16> {
    let port = optional_port(field, number)?;
    port.map_or_else(|| flaw(field, "0 is not in 1..65535"), Ok)
}
