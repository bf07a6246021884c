//! Endpoints (v1), converted as the API server mirrors them into EndpointSlices: one slice for each
//! subset and family.
//!
//! They are read only from manifests: an API server has already mirrored its own into slices. Only
//! the model knows whether a Service is one whose Endpoints are mirrored.

use std::collections::BTreeSet;
use std::sync::Arc;

use rulec_compiler::load_balancing::Weight;
use rulec_compiler::name::{Name, NamespacedName, PortName};
use rulec_compiler::net::Family;
use rulec_compiler::object::{Conditions, Endpoint, EndpointSlice, Object, SlicePort};
use tracing::debug;

use super::Sink;
use super::at::At;
use super::check::Check;
use super::document::{Document, EndpointAddress, List, Metadata, Subset};
use super::field::Field;
use super::identity::{namespaced, node_reference};
use super::outcome::Reading;
use super::unknown::{self, Fields};

/// With this label set to "true", they are not mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";

/// The most addresses of a subset that are mirrored: the default limit of the controller.
const MAX_ADDRESSES: usize = 1000;

pub(super) fn decode(document: &Document, at: &At<'_>, sink: &mut Sink<'_>) -> Reading {
    let check = &mut Check::new(sink);
    let no_metadata = Metadata::default();
    let at_metadata = at.key("metadata");
    let metadata = check.get(&document.metadata, &at_metadata).map_or(&no_metadata, |m| m);
    let Some(key) = namespaced(check, metadata, &at_metadata) else { return Reading::Nameless };
    check.name(&format_args!("Endpoints {key}"));
    unknown::check(check, Fields::Endpoints, &document.unknown, at);
    let skip = check.label(&metadata.labels, SKIP, &at_metadata.key("labels")) == Some("true");
    let is_lock = match &metadata.annotations {
        Field::Is(annotations) => !matches!(annotations.leader, Field::Absent),
        Field::Absent | Field::Wrong(_) => false,
    };
    if skip || is_lock {
        debug!(endpoints = %key, "skipped: not to be mirrored");
        return Reading::Nothing;
    }
    let mut slices = Vec::new();
    let at_subsets = at.key("subsets");
    for (index, subset) in check.list(&document.subsets, &at_subsets).iter().enumerate() {
        let at = at_subsets.index(index);
        let Some(subset) = check.get(subset, &at) else { continue };
        let (ports, endpoints) = read(check, subset, &at);
        for family in Family::ALL {
            let of_family = |it: &&Endpoint| Family::of(it.address) == family;
            let endpoints: Vec<Endpoint> = endpoints.iter().filter(of_family).cloned().collect();
            if endpoints.is_empty() {
                continue;
            }
            let name = Name::new(check.share(&EndpointSlice::mirror_name(&key, index, family)));
            let slice = NamespacedName { namespace: key.namespace.clone(), name };
            let ports = ports.clone();
            let slice = EndpointSlice {
                key: slice,
                service: key.clone(),
                family,
                ports,
                endpoints,
                weight: Weight::default(),
            };
            slices.push(Object::EndpointSlice(Arc::new(slice)));
        }
    }
    // The slices of invalid Endpoints are not known, so none of this file are removed.
    if check.failed() { Reading::Nameless } else { Reading::Objects(slices) }
}

fn read(
    check: &mut Check<'_, '_>,
    subset: &Subset,
    at: &At<'_>,
) -> (Vec<SlicePort>, Vec<Endpoint>) {
    let mut ports = BTreeSet::new();
    let at_ports = at.key("ports");
    for (index, part) in check.list(&subset.ports, &at_ports).iter().enumerate() {
        let at = at_ports.index(index);
        let Some(part) = check.get(part, &at) else { continue };
        let protocol = check.protocol(&part.protocol, &at.key("protocol"));
        let name = check.get(&part.name, &at.key("name")).map_or("", |name| &**name);
        let name = PortName::new(check.share(name));
        if let Some(port) = check.required_port(&part.port, &at.key("port")) {
            ports.insert(SlicePort { name, protocol, port });
        }
    }
    let mut endpoints = Vec::new();
    let not_ready = Conditions { ready: false, serving: false, terminating: false };
    let at_ready = at.key("addresses");
    addresses(check, &subset.addresses, Conditions::READY, &at_ready, &mut endpoints);
    let at_others = at.key("notReadyAddresses");
    addresses(check, &subset.not_ready_addresses, not_ready, &at_others, &mut endpoints);
    if let Some(left_out) = endpoints.len().checked_sub(MAX_ADDRESSES).filter(|it| *it > 0) {
        let message =
            format_args!("the first {MAX_ADDRESSES} addresses are used, {left_out} left out");
        check.warn(at, message);
        endpoints.truncate(MAX_ADDRESSES);
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    (ports.into_iter().collect(), endpoints)
}

fn addresses(
    check: &mut Check<'_, '_>,
    list: &List<EndpointAddress>,
    conditions: Conditions,
    at: &At<'_>,
    found: &mut Vec<Endpoint>,
) {
    for (index, part) in check.list(list, at).iter().enumerate() {
        let at = at.index(index);
        let Some(part) = check.get(part, &at) else { continue };
        let node = node_reference(check, &part.node_name, &at.key("nodeName"));
        if let Some(address) = check.fit_ip(&part.ip, &at.key("ip")) {
            found.push(Endpoint { address, conditions, node, hints: None });
        }
    }
}
