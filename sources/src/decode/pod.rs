//! Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use rulec_compiler::name::{Name, PortName};
use rulec_compiler::net::Family;
use rulec_compiler::object::{
    Conditions, HostName, Object, ObjectKey, Pod, PodAddresses, SlicePort,
};

use super::at::At;
use super::check::Check;
use super::document::{Container, Document, List, Metadata, Spec, Status};
use super::field::{Field, Text};
use super::identity::{is_label, namespaced, node_reference};
use super::outcome::{Reading, finish};
use super::unknown::{self, Fields};
use super::{Sink, annotations, balancing};

pub(super) fn decode(document: &Document, at: &At<'_>, sink: &mut Sink<'_>) -> Reading {
    let check = &mut Check::new(sink);
    let (no_metadata, no_spec, no_status) = <(Metadata, Spec, Status)>::default();
    let at_metadata = at.key("metadata");
    let metadata = check.get(&document.metadata, &at_metadata).map_or(&no_metadata, |m| m);
    let Some(key) = namespaced(check, metadata, &at_metadata) else { return Reading::Nameless };
    check.name(&ObjectKey::Pod(key.clone()));
    unknown::check(check, Fields::Pod, &document.unknown, at);
    let at_spec = at.key("spec");
    let spec = check.get(&document.spec, &at_spec).map_or(&no_spec, |spec| spec);
    let at_status = at.key("status");
    let status = check.get(&document.status, &at_status).map_or(&no_status, |status| status);
    let at_deletion = at_metadata.key("deletionTimestamp");
    let terminating = check.text(&metadata.deletion_timestamp, &at_deletion).is_some();
    let serving = is_ready(check, status, &at_status.key("conditions"));
    let at_annotations = at_metadata.key("annotations");
    let annotations = annotations::of(check, &metadata.annotations, &at_annotations);
    let weight = annotations.map(|of| balancing::weight(check, of, &at_annotations));
    let pod = Pod {
        key,
        labels: check.labels(&metadata.labels, &at_metadata.key("labels")),
        node: node_reference(check, &spec.node_name, &at_spec.key("nodeName")),
        addresses: addresses(check, spec, &at_spec, status, &at_status),
        ports: ports(check, spec, &at_spec),
        conditions: Conditions { ready: serving && !terminating, serving, terminating },
        host: host(check, spec, &at_spec),
        weight: weight.unwrap_or_default(),
    };
    finish(check, Object::Pod(Arc::new(pod)))
}

/// Reads the Ready condition. A manifest without one describes a Pod that is meant to be used.
fn is_ready(check: &mut Check<'_, '_>, status: &Status, at: &At<'_>) -> bool {
    let mut ready = true;
    for (index, condition) in check.list(&status.conditions, at).iter().enumerate() {
        let at = at.index(index);
        let Some(condition) = check.get(condition, &at) else { continue };
        let at_type = at.key("type");
        match check.text(&condition.r#type, &at_type) {
            Some("Ready") => {
                ready = check.text(&condition.status, &at.key("status")) == Some("True");
            }
            Some(_) => {}
            None => check.missing(&condition.r#type, &at_type),
        }
    }
    ready
}

fn addresses(
    check: &mut Check<'_, '_>,
    spec: &Spec,
    at_spec: &At<'_>,
    status: &Status,
    at: &At<'_>,
) -> PodAddresses {
    // The first address of each family is used, independently of the other family.
    let mut found: BTreeMap<Family, IpAddr> = BTreeMap::new();
    let mut any = false;
    let at_many = at.key("podIPs");
    for (index, entry) in check.list(&status.pod_ips, &at_many).iter().enumerate() {
        let at = at_many.index(index);
        let Some(entry) = check.get(entry, &at) else { continue };
        any = true;
        if let Some(address) = check.fit_ip(&entry.ip, &at.key("ip")) {
            found.entry(Family::of(address)).or_insert(address);
        }
    }
    let at_one = at.key("podIP");
    let one = check.fit_ip(&status.pod_ip, &at_one).filter(|_| !any);
    found.extend(one.map(|address| (Family::of(address), address)));

    let at_network = at_spec.key("hostNetwork");
    let host_network = check.get(&spec.host_network, &at_network).is_some_and(|host| *host);
    let phases = [("Pending", false), ("Unknown", false), ("Succeeded", true), ("Failed", true)];
    let is_done = check.choice(&status.phase, &at.key("phase"), ("Running", false), phases);
    // A Pod that is done keeps its addresses in its status, but another Pod may have them by now.
    if is_done {
        PodAddresses::Own(Vec::new())
    } else if found.is_empty() && host_network {
        PodAddresses::Node
    } else {
        PodAddresses::Own(found.into_values().collect())
    }
}

/// Reads the name in a headless Service. One part alone names nothing.
fn host(check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) -> Option<HostName> {
    let hostname = label(check, &spec.hostname, &at.key("hostname"));
    let subdomain = label(check, &spec.subdomain, &at.key("subdomain"));
    Some(HostName { hostname: hostname?, subdomain: subdomain? })
}

fn label(check: &mut Check<'_, '_>, field: &Field<Text>, at: &At<'_>) -> Option<Name> {
    let text = check.text(field, at).filter(|text| !text.is_empty())?;
    if is_label(text) {
        return Some(Name::new(check.share(text)));
    }
    let wanted = "at most 63 lower-case letters, digits and dashes inside";
    check.skip(at, format_args!("{text:?} is not a DNS label: {wanted}"));
    None
}

/// Collects the named ports. If two have the same name and protocol, that of the first container is
/// used.
fn ports(check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) -> Vec<SlicePort> {
    let mut found = BTreeMap::new();
    add_ports(check, &spec.containers, &at.key("containers"), false, &mut found);
    add_ports(check, &spec.init_containers, &at.key("initContainers"), true, &mut found);
    found.into_iter().map(|((name, protocol), port)| SlicePort { name, protocol, port }).collect()
}

/// Adds the ports of containers. Init containers serve only if they run beside the others: with
/// `restartPolicy` Always.
fn add_ports(
    check: &mut Check<'_, '_>,
    containers: &List<Container>,
    at: &At<'_>,
    only_sidecars: bool,
    found: &mut BTreeMap<(PortName, rulec_compiler::net::Protocol), std::num::NonZeroU16>,
) {
    for (index, container) in check.list(containers, at).iter().enumerate() {
        let at = at.index(index);
        let Some(container) = check.get(container, &at) else { continue };
        let restart = check.text(&container.restart_policy, &at.key("restartPolicy"));
        if only_sidecars && restart != Some("Always") {
            continue;
        }
        let at = at.key("ports");
        for (index, port) in check.list(&container.ports, &at).iter().enumerate() {
            let at = at.index(index);
            let Some(port) = check.get(port, &at) else { continue };
            let protocol = check.protocol(&port.protocol, &at.key("protocol"));
            let number = check.required_port(&port.container_port, &at.key("containerPort"));
            let name = check.text(&port.name, &at.key("name")).map(|name| check.share(name));
            if let (Some(name), Some(number)) = (name, number) {
                found.entry((PortName::new(name), protocol)).or_insert(number);
            }
        }
    }
}
