//! Nodes.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rulec_compiler::name::Zone;
use rulec_compiler::object::{Node, Object, ObjectKey};

use super::Sink;
use super::address::parse_ip;
use super::at::At;
use super::check::Check;
use super::document::{Document, Metadata, Spec, Status};
use super::identity;
use super::outcome::{Reading, finish};
use super::unknown::{self, Fields};

const ZONE: &str = "topology.kubernetes.io/zone";

pub(super) fn decode(document: &Document, at: &At<'_>, sink: &mut Sink<'_>) -> Reading {
    let check = &mut Check::new(sink);
    let (no_metadata, no_spec, no_status) = <(Metadata, Spec, Status)>::default();
    let at_metadata = at.key("metadata");
    let metadata = check.get(&document.metadata, &at_metadata).map_or(&no_metadata, |m| m);
    let Some(name) = identity::node(check, metadata, &at_metadata) else {
        return Reading::Nameless;
    };
    check.name(&ObjectKey::Node(name.clone()));
    unknown::check(check, Fields::Node, &document.unknown, at);
    let at_spec = at.key("spec");
    let spec = check.get(&document.spec, &at_spec).map_or(&no_spec, |spec| spec);
    let at_status = at.key("status");
    let status = check.get(&document.status, &at_status).map_or(&no_status, |status| status);
    let zone = check.label(&metadata.labels, ZONE, &at_metadata.key("labels"));
    let zone = zone.filter(|zone| !zone.is_empty()).map(|zone| Zone::new(check.share(zone)));
    let at_deletion = at_metadata.key("deletionTimestamp");
    let node = Node {
        name,
        addresses: addresses(check, status, &at_status.key("addresses")),
        pod_cidrs: pod_cidrs(check, spec, &at_spec),
        zone,
        taints: taints(check, spec, &at_spec.key("taints")),
        deleting: check.text(&metadata.deletion_timestamp, &at_deletion).is_some(),
    };
    finish(check, Object::Node(Arc::new(node)))
}

/// Reads the addresses. Their order matters: the first is the primary one. An address that cannot
/// be read is an error: without it the next one would become primary, and node ports would answer
/// there.
fn addresses(check: &mut Check<'_, '_>, status: &Status, at: &At<'_>) -> Vec<IpAddr> {
    let mut internal = Vec::new();
    let mut external = Vec::new();
    for (index, entry) in check.list(&status.addresses, at).iter().enumerate() {
        let at = at.index(index);
        let Some(entry) = check.get(entry, &at) else { continue };
        let list = match check.text(&entry.r#type, &at.key("type")) {
            Some("InternalIP") => &mut internal,
            Some("ExternalIP") => &mut external,
            Some(_) | None => continue,
        };
        let at = at.key("address");
        let Some(text) = check.text(&entry.address, &at).map(str::trim) else { continue };
        match parse_ip(text) {
            Some(address) => list.push(address),
            None => check.error(&at, format_args!("{text:?} is not an IP address")),
        }
    }
    let mut seen = BTreeSet::new();
    internal.into_iter().chain(external).filter(|address| seen.insert(*address)).collect()
}

/// Reads the Pod CIDRs. Their order matters too: the first is the primary one.
fn pod_cidrs(check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) -> Vec<IpNet> {
    let at_many = at.key("podCIDRs");
    let mut ranges = Vec::new();
    let many = check.list(&spec.pod_cidrs, &at_many);
    for (index, field) in many.iter().enumerate() {
        ranges.extend(check.range(field, &at_many.index(index)));
    }
    let at_one = at.key("podCIDR");
    if many.is_empty() && check.text(&spec.pod_cidr, &at_one).is_some() {
        ranges.extend(check.range(&spec.pod_cidr, &at_one));
    }
    let mut seen = BTreeSet::new();
    ranges.retain(|range| seen.insert(*range));
    ranges
}

fn taints(check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) -> Vec<Arc<str>> {
    let mut keys = BTreeSet::new();
    for (index, taint) in check.list(&spec.taints, at).iter().enumerate() {
        let at = at.index(index);
        let Some(taint) = check.get(taint, &at) else { continue };
        if let Some(key) = check.text(&taint.key, &at.key("key")) {
            keys.insert(check.share(key));
        }
    }
    keys.into_iter().collect()
}
