//! Services.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rulec_compiler::name::PortName;
use rulec_compiler::net::Family;
use rulec_compiler::object::{
    Affinity, ClusterIps, Object, ObjectKey, Service, ServicePort, ServiceType, TargetPort,
    TrafficPolicy,
};
use tracing::debug;

use super::address::{parse_ip, unfit};
use super::asks::{self, Written};
use super::at::At;
use super::check::Check;
use super::document::{Annotations, Document, List, Metadata, PortPart, Spec, Status};
use super::field::{Field, NumberOrText, Text};
use super::identity::namespaced;
use super::outcome::{Reading, finish};
use super::surplus::Has;
use super::unknown::{self, Fields};
use super::{Sink, annotations, balancing, ipvs};

/// The label of Services that another proxy serves, whatever its value.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The API's default and limit of `timeoutSeconds`.
const DEFAULT_TIMEOUT: u32 = 10_800;
const LONGEST_TIMEOUT: i64 = 86_400;

/// The API's limits for the names of a Service's ports and of container ports, in bytes.
const LONGEST_NAME: usize = 63;
const LONGEST_TARGET: usize = 15;

pub(super) fn decode(document: &Document, at: &At<'_>, sink: &mut Sink<'_>) -> Reading {
    let check = &mut Check::new(sink);
    let (no_metadata, no_spec, no_status) = <(Metadata, Spec, Status)>::default();
    let no_annotations = Annotations::default();
    let at_metadata = at.key("metadata");
    let metadata = check.get(&document.metadata, &at_metadata).map_or(&no_metadata, |m| m);
    let Some(key) = namespaced(check, metadata, &at_metadata) else { return Reading::Nameless };
    check.name(&ObjectKey::Service(key.clone()));
    unknown::check(check, Fields::Service, &document.unknown, at);
    let at_labels = at_metadata.key("labels");
    let is_others = check.label(&metadata.labels, OTHER_PROXY, &at_labels).is_some();
    if is_others && !check.failed() {
        debug!(service = %key, "skipped: another proxy serves it");
        return Reading::Nothing;
    }
    let at_spec = at.key("spec");
    let spec = check.get(&document.spec, &at_spec).map_or(&no_spec, |spec| spec);
    let at_status = at.key("status");
    let status = check.get(&document.status, &at_status).map_or(&no_status, |status| status);

    let kind = check.choice(
        &spec.r#type,
        &at_spec.key("type"),
        ("ClusterIP", ServiceType::ClusterIP),
        [
            ("NodePort", ServiceType::NodePort),
            ("LoadBalancer", ServiceType::LoadBalancer),
            ("ExternalName", ServiceType::ExternalName),
        ],
    );
    // If the type is invalid, the fields it supports are not known, so all count as supported.
    let has = Has::of(if check.failed() { ServiceType::LoadBalancer } else { kind });
    has.refuse_surplus(check, spec, &at_spec);
    let cluster_ips = match kind {
        ServiceType::ExternalName => ClusterIps::default(),
        ServiceType::ClusterIP | ServiceType::NodePort | ServiceType::LoadBalancer => {
            cluster_ips(check, spec, has, &at_spec)
        }
    };
    let ports = ports(check, &spec.ports, has, &at_spec.key("ports"));
    let policies = [("Local", TrafficPolicy::Local)];
    let cluster = ("Cluster", TrafficPolicy::Cluster);
    let at_internal = at_spec.key("internalTrafficPolicy");
    let internal_policy =
        check.choice(&spec.internal_traffic_policy, &at_internal, cluster, policies);
    let at_external = at_spec.key("externalTrafficPolicy");
    let external_policy =
        check.choice(&spec.external_traffic_policy, &at_external, cluster, policies);
    let at_check = at_spec.key("healthCheckNodePort");
    let health_check_node_port = check.optional_port(&spec.health_check_node_port, &at_check);
    let is_checked = has.balancer && external_policy == TrafficPolicy::Local;
    let written = Written {
        cluster_ips,
        ports: &ports,
        is_checked,
        has_health_check: health_check_node_port.is_some(),
    };
    let asks = asks::asks(check, spec, has, &written, &at_spec);
    let has_address = cluster_ips != ClusterIps::default() || asks.cluster_ips.is_some();
    if ports.is_empty() && has_address && !check.failed() {
        check.lacks(&at_spec.key("ports"), "missing: a Service with a cluster address needs one");
    }
    let external_ips = match kind {
        ServiceType::ExternalName => Vec::new(),
        ServiceType::ClusterIP | ServiceType::NodePort | ServiceType::LoadBalancer => {
            external_ips(check, spec, &at_spec)
        }
    };
    let load_balancer_vips = vips(check, status, has, &at_status);
    let source_ranges = source_ranges(check, spec, has, &load_balancer_vips, &at_spec);
    let at_annotations = at_metadata.key("annotations");
    let annotations = annotations::of(check, &metadata.annotations, &at_annotations);
    let annotations = annotations.unwrap_or(&no_annotations);
    let service = Service {
        key,
        kind,
        cluster_ips,
        ports,
        external_ips,
        load_balancer_vips,
        source_ranges,
        affinity: affinity(check, spec, &at_spec),
        internal_policy,
        external_policy: has.external_policy(spec, external_policy),
        health_check_node_port: health_check_node_port.filter(|_| is_checked),
        selector: check.labels(&spec.selector, &at_spec.key("selector")),
        publish_not_ready: check
            .get(&spec.publish_not_ready_addresses, &at_spec.key("publishNotReadyAddresses"))
            .copied()
            .unwrap_or(false),
        load_balancing: balancing::load_balancing(check, annotations, &at_annotations),
        ipvs: ipvs::options(check, annotations, &at_annotations),
        asks,
    };
    finish(check, Object::Service(Arc::new(service)))
}

/// Reads the cluster address of each family. With `ipFamilies`, the position determines the family;
/// without it, each address has its own.
fn cluster_ips(check: &mut Check<'_, '_>, spec: &Spec, has: Has, at: &At<'_>) -> ClusterIps {
    let at_one = at.key("clusterIP");
    let at_many = at.key("clusterIPs");
    let one = check.text(&spec.cluster_ip, &at_one);
    if matches!(spec.cluster_ip, Field::Wrong(_)) {
        return ClusterIps::default();
    }
    let many = check.list(&spec.cluster_ips, &at_many);
    let first = match many.first() {
        Some(first) => check.text(first, &at_many.index(0)),
        None => None,
    };
    if let (Some(one), Some(first)) = (one, first)
        && (one == "None") != (first == "None")
    {
        differs(check, &at_many.index(0), first, one);
        return ClusterIps::default();
    }
    if one.or(first) == Some("None") {
        if has.node_ports && !check.failed() {
            check.warn(&at_one, "None is only for type ClusterIP: the Service is not served");
        }
        return ClusterIps::default();
    }
    let mut addresses: Vec<Option<IpAddr>> = Vec::new();
    for (index, field) in many.iter().enumerate() {
        addresses.push(cluster_ip(check, field, &at_many.index(index)));
    }
    let one = cluster_ip(check, &spec.cluster_ip, &at_one);
    match (one, addresses.first()) {
        (_, None) => addresses.push(one),
        (Some(one), Some(Some(first))) if one != *first => {
            differs(check, &at_many.index(0), first, one);
        }
        (_, Some(_)) => {}
    }
    let at_families = at.key("ipFamilies");
    let mut found = ClusterIps::default();
    let families = check.list(&spec.ip_families, &at_families);
    if families.is_empty() {
        for address in addresses.iter().flatten() {
            keep_first(&mut found, *address);
        }
    }
    for (index, family) in families.iter().enumerate() {
        let at_family = at_families.index(index);
        let Some(word) = check.text(family, &at_family) else { continue };
        let family = match word {
            "IPv4" => Family::Ipv4,
            "IPv6" => Family::Ipv6,
            _ => {
                check.error(&at_family, format_args!("{word:?} is not one of IPv4, IPv6"));
                continue;
            }
        };
        match addresses.get(index).copied().flatten() {
            Some(address) if Family::of(address) == family => keep_first(&mut found, address),
            Some(address) => {
                let message = format_args!("the cluster address {address} is not {family}");
                check.error(&at_family, message);
            }
            None => {}
        }
    }
    if found == ClusterIps::default() && check.is_admitted() && !check.failed() {
        check.warn(&at_one, "missing: the API server has given out no address; not served");
    }
    found
}

/// Reports that two fields for the same thing differ, as the API does.
fn differs(check: &mut Check<'_, '_>, at: &At<'_>, found: impl Display, one: impl Display) {
    check.error(at, format_args!("{found} differs from spec.clusterIP, which is {one}"));
}

fn cluster_ip(check: &mut Check<'_, '_>, field: &Field<Text>, at: &At<'_>) -> Option<IpAddr> {
    let text = check.text(field, at)?;
    let Some(address) = parse_ip(text) else {
        check.error(at, format_args!("{text:?} is not an IP address"));
        return None;
    };
    if let Some(reason) = unfit(address) {
        check.error(at, format_args!("{address} is {reason}"));
        return None;
    }
    Some(address)
}

fn keep_first(found: &mut ClusterIps, address: IpAddr) {
    match address {
        IpAddr::V4(address) => found.v4.get_or_insert(address).is_unspecified(),
        IpAddr::V6(address) => found.v6.get_or_insert(address).is_unspecified(),
    };
}

fn ports(
    check: &mut Check<'_, '_>,
    list: &List<PortPart>,
    has: Has,
    at: &At<'_>,
) -> Vec<ServicePort> {
    let list = check.list(list, at);
    let mut names = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    let mut ports = Vec::with_capacity(list.len());
    let nothing = PortPart::default();
    for (index, part) in list.iter().enumerate() {
        let at = at.index(index);
        let part = match check.get(part, &at) {
            Some(part) => part,
            None if matches!(part, Field::Absent) => &nothing,
            None => continue,
        };
        let name = check.port_name(&part.name, &at.key("name"), LONGEST_NAME);
        if name.as_str().is_empty() && list.len() > 1 {
            check.lacks(&at.key("name"), "missing: each of several ports needs a name");
        } else if !names.insert(name.clone()) {
            check.error(&at.key("name"), format_args!("another port is named {name:?} as well"));
        }
        let protocol = check.protocol(&part.protocol, &at.key("protocol"));
        let at_node_port = at.key("nodePort");
        let mut node_port = check.optional_port(&part.node_port, &at_node_port);
        if !has.node_ports && node_port.take().is_some() {
            has.refuse(check, &at_node_port);
        }
        if let Some(node_port) = node_port
            && !node_ports.insert((node_port, protocol))
        {
            let message = format_args!("another port has {node_port}/{protocol} as well");
            check.error(&at_node_port, message);
        }
        let target = target(check, &part.target_port, &at.key("targetPort"));
        let Some(port) = check.required_port(&part.port, &at.key("port")) else { continue };
        if !numbers.insert((port, protocol)) {
            check.error(&at.key("port"), format_args!("another port is {port}/{protocol} as well"));
        }
        let target = target.unwrap_or(TargetPort::Number(port));
        ports.push(ServicePort { name, protocol, port, node_port, target });
    }
    ports.sort_by(|a, b| a.name.cmp(&b.name));
    ports
}

/// Returns the target port; `None` if it is the Service's own port.
fn target(
    check: &mut Check<'_, '_>,
    field: &Field<NumberOrText>,
    at: &At<'_>,
) -> Option<TargetPort> {
    match check.get(field, at)? {
        NumberOrText::Number(0) => None,
        NumberOrText::Number(number) => check.port(*number, at).map(TargetPort::Number),
        NumberOrText::Text(text) if text.is_empty() => None,
        NumberOrText::Text(text) => {
            if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
                check.check_port_name(text, at, LONGEST_TARGET);
            } else {
                let hint = "a name needs a letter, and a number no quotes";
                check.error(at, format_args!("{text:?} is not the name of a port: {hint}"));
            }
            Some(TargetPort::Name(PortName::new(check.share(text))))
        }
    }
}

fn external_ips(check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) -> Vec<IpAddr> {
    let at = at.key("externalIPs");
    let mut addresses = BTreeSet::new();
    for (index, field) in check.list(&spec.external_ips, &at).iter().enumerate() {
        addresses.extend(check.fit_ip(field, &at.index(index)));
    }
    addresses.into_iter().collect()
}

fn vips(check: &mut Check<'_, '_>, status: &Status, has: Has, at: &At<'_>) -> Vec<IpAddr> {
    let at = at.key("loadBalancer");
    let Some(balancer) = check.get(&status.load_balancer, &at) else { return Vec::new() };
    let at = at.key("ingress");
    let entries = check.list(&balancer.ingress, &at);
    if !has.balancer && !entries.is_empty() {
        has.refuse(check, &at);
        return Vec::new();
    }
    let mut addresses = BTreeSet::new();
    for (index, entry) in entries.iter().enumerate() {
        let at = at.index(index);
        let Some(entry) = check.get(entry, &at) else { continue };
        let at_mode = at.key("ipMode");
        match check.text(&entry.ip_mode, &at_mode) {
            None | Some("VIP") => addresses.extend(check.fit_ip(&entry.ip, &at.key("ip"))),
            Some("Proxy") => {}
            Some(mode) => {
                let message = format_args!("{mode:?} is not one of VIP, Proxy; it is skipped");
                check.skip(&at_mode, message);
            }
        }
    }
    addresses.into_iter().collect()
}

/// Returns the clients that may connect to the load balancer's addresses; an empty list means all.
/// So an entry that cannot be read is an error: if it were skipped, more clients might connect than
/// intended.
fn source_ranges(
    check: &mut Check<'_, '_>,
    spec: &Spec,
    has: Has,
    vips: &[IpAddr],
    at: &At<'_>,
) -> Vec<IpNet> {
    if !has.balancer {
        return Vec::new();
    }
    let at = at.key("loadBalancerSourceRanges");
    let ranges = check.ranges(&spec.load_balancer_source_ranges, &at);
    let is_named = |family| ranges.iter().any(|range| Family::of(range.addr()) == family);
    let is_open =
        |family: &Family| !is_named(*family) && vips.iter().any(|vip| Family::of(*vip) == *family);
    let is_usable = !ranges.is_empty() && !check.failed();
    for family in Family::ALL.into_iter().filter(is_open).filter(|_| is_usable) {
        check.warn(&at, format_args!("no range of {family}, so all its clients may connect"));
    }
    ranges
}

fn affinity(check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) -> Affinity {
    let others = [("ClientIP", true)];
    let at_affinity = at.key("sessionAffinity");
    if !check.choice(&spec.session_affinity, &at_affinity, ("None", false), others) {
        return Affinity::None;
    }
    let at = at.key("sessionAffinityConfig");
    let config = check.get(&spec.session_affinity_config, &at);
    let at = at.key("clientIP");
    let config = config.and_then(|config| check.get(&config.client_ip, &at));
    let at = at.key("timeoutSeconds");
    let seconds = config.and_then(|config| check.get(&config.timeout_seconds, &at).copied());
    let timeout = match seconds {
        None => DEFAULT_TIMEOUT,
        Some(seconds) => match u32::try_from(seconds) {
            Ok(timeout) if (1..=LONGEST_TIMEOUT).contains(&seconds) => timeout,
            _ => {
                check.error(&at, format_args!("{seconds} is not in 1..{LONGEST_TIMEOUT}"));
                DEFAULT_TIMEOUT
            }
        },
    };
    Affinity::ClientIp { timeout }
}
