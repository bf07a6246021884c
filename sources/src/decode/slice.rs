//! EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rulec_compiler::name::{Name, NamespacedName, NodeName, PortName, Zone};
use rulec_compiler::net::Family;
use rulec_compiler::object::{
    self, Conditions, Endpoint, EndpointSlice, Object, ObjectKey, SlicePort,
};
use tracing::debug;

use super::address::{parse_ip, unfit};
use super::at::At;
use super::check::Check;
use super::document::{Document, EndpointConditions, EndpointPart, Hints, Metadata, Named};
use super::identity::{namespaced, node_reference};
use super::outcome::{Reading, finish};
use super::unknown::{self, Fields};
use super::{Sink, annotations, balancing};

/// The label of the slices of a headless Service, whatever its value.
const HEADLESS: &str = "service.kubernetes.io/headless";

/// The label that names the Service of a slice.
const SERVICE: &str = "kubernetes.io/service-name";

pub(super) fn decode(document: &Document, at: &At<'_>, sink: &mut Sink<'_>) -> Reading {
    let check = &mut Check::new(sink);
    let no_metadata = Metadata::default();
    let at_metadata = at.key("metadata");
    let metadata = check.get(&document.metadata, &at_metadata).map_or(&no_metadata, |m| m);
    let Some(key) = namespaced(check, metadata, &at_metadata) else { return Reading::Nameless };
    check.name(&ObjectKey::EndpointSlice(key.clone()));
    unknown::check(check, Fields::EndpointSlice, &document.unknown, at);
    let at_labels = at_metadata.key("labels");
    let is_headless = check.label(&metadata.labels, HEADLESS, &at_labels).is_some();
    if is_headless && !check.failed() {
        debug!(slice = %key, "skipped: it belongs to a headless Service");
        return Reading::Nothing;
    }
    let service = check.label(&metadata.labels, SERVICE, &at_labels).unwrap_or_default();
    if check.failed() {
        return Reading::Broken(ObjectKey::EndpointSlice(key));
    }
    if service.is_empty() {
        let message = format_args!("label {SERVICE} is missing, the slice is ignored");
        check.warn(&at_labels, message);
        return Reading::Nothing;
    }
    let service =
        NamespacedName { namespace: key.namespace.clone(), name: Name::new(check.share(service)) };
    let at_type = at.key("addressType");
    let family = match check.text(&document.address_type, &at_type) {
        Some("IPv4") => Family::Ipv4,
        Some("IPv6") => Family::Ipv6,
        Some("FQDN") => {
            check.warn(&at_type, "addresses of type FQDN are not served, the slice is ignored");
            return Reading::Nothing;
        }
        other => {
            match other {
                Some(other) => {
                    check.error(&at_type, format_args!("{other:?} is not one of IPv4, IPv6, FQDN"));
                }
                None => check.lacks(&at_type, "missing"),
            }
            return Reading::Broken(ObjectKey::EndpointSlice(key));
        }
    };
    let ports = ports(check, document, &at.key("ports"));
    let endpoints = endpoints(check, document, family, &at.key("endpoints"));
    let at_annotations = at_metadata.key("annotations");
    let annotations = annotations::of(check, &metadata.annotations, &at_annotations);
    let weight = annotations.map(|of| balancing::weight(check, of, &at_annotations));
    let weight = weight.unwrap_or_default();
    let slice = EndpointSlice { key, service, family, ports, endpoints, weight };
    finish(check, Object::EndpointSlice(Arc::new(slice)))
}

fn ports(check: &mut Check<'_, '_>, document: &Document, at: &At<'_>) -> Vec<SlicePort> {
    let mut ports = BTreeSet::new();
    for (index, part) in check.list(&document.ports, at).iter().enumerate() {
        let at = at.index(index);
        let Some(part) = check.get(part, &at) else { continue };
        let protocol = check.protocol(&part.protocol, &at.key("protocol"));
        let at_name = at.key("name");
        // The API server writes "" for a name that is left out.
        let name = check.get(&part.name, &at_name).map_or("", |name| &**name);
        let name = PortName::new(check.share(name));
        // A port without a number means any port, and no packet can be sent to that.
        if let Some(port) = check.optional_port(&part.port, &at.key("port")) {
            ports.insert(SlicePort { name, protocol, port });
        }
    }
    ports.into_iter().collect()
}

fn endpoints(
    check: &mut Check<'_, '_>,
    document: &Document,
    family: Family,
    at: &At<'_>,
) -> Vec<Endpoint> {
    let parts = check.list(&document.endpoints, at);
    let mut endpoints = Vec::with_capacity(parts.len());
    for (index, part) in parts.iter().enumerate() {
        let at = at.index(index);
        let Some(part) = check.get(part, &at) else { continue };
        let Some(address) = address(check, part, family, &at.key("addresses")) else { continue };
        let at_hints = at.key("hints");
        let no_hints = Hints::default();
        let hints = check.get(&part.hints, &at_hints).map_or(&no_hints, |hints| hints);
        let zones = hint_names(check, &hints.for_zones, &at_hints.key("forZones"));
        let nodes = hint_names(check, &hints.for_nodes, &at_hints.key("forNodes"));
        endpoints.push(Endpoint {
            address,
            conditions: conditions(check, part, &at.key("conditions")),
            node: node_reference(check, &part.node_name, &at.key("nodeName")),
            hints: hints_of(
                zones.into_iter().map(Zone::new).collect(),
                nodes.into_iter().map(NodeName::new).collect(),
            ),
        });
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    endpoints.shrink_to_fit();
    endpoints
}

fn hints_of(zones: Box<[Zone]>, nodes: Box<[NodeName]>) -> Option<Box<object::Hints>> {
    let some = !zones.is_empty() || !nodes.is_empty();
    some.then(|| Box::new(object::Hints { zones, nodes }))
}

/// Returns the first address, if it is valid for an endpoint. The other addresses are the same
/// endpoint.
fn address(
    check: &mut Check<'_, '_>,
    part: &EndpointPart,
    family: Family,
    at: &At<'_>,
) -> Option<IpAddr> {
    let first = check.list(&part.addresses, at).first()?;
    let at = at.index(0);
    let text = check.text(first, &at)?;
    let Some(address) = parse_ip(text) else {
        check.skip(&at, format_args!("{text:?} is not an IP address; the endpoint is skipped"));
        return None;
    };
    if Family::of(address) != family {
        check.skip(&at, format_args!("{address} is not {family}; the endpoint is skipped"));
        return None;
    }
    if let Some(reason) = unfit(address) {
        check.skip(&at, format_args!("{address} is {reason}; the endpoint is skipped"));
        return None;
    }
    Some(address)
}

/// Reads the conditions. Absent ones default to the best state, since old writers knew only some of
/// them.
fn conditions(check: &mut Check<'_, '_>, part: &EndpointPart, at: &At<'_>) -> Conditions {
    let nothing = EndpointConditions::default();
    let given = check.get(&part.conditions, at).map_or(&nothing, |given| given);
    Conditions {
        ready: check.get(&given.ready, &at.key("ready")).copied().unwrap_or(true),
        serving: check.get(&given.serving, &at.key("serving")).copied().unwrap_or(true),
        terminating: check.get(&given.terminating, &at.key("terminating")).is_some_and(|t| *t),
    }
}

fn hint_names(
    check: &mut Check<'_, '_>,
    hints: &super::document::List<Named>,
    at: &At<'_>,
) -> BTreeSet<Arc<str>> {
    let mut names = BTreeSet::new();
    for (index, hint) in check.list(hints, at).iter().enumerate() {
        let at = at.index(index);
        let Some(hint) = check.get(hint, &at) else { continue };
        if let Some(name) = check.text(&hint.name, &at.key("name")) {
            names.insert(check.share(name));
        }
    }
    names
}
