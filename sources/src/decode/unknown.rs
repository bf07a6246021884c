//! Unknown fields, which come from misspelt names.
//!
//! Services, EndpointSlices and Endpoints are small and all their fields are known, so each unknown
//! field is reported. Of Pods and Nodes only a few fields are read, so an unknown field is reported
//! only if its name is close to one of those.

use serde_ignored::Path;

use super::check::Check;
use super::near::nearest;
use super::{At, Step};

/// The most unknown fields that are kept. A document of another kind may consist of unknown fields.
const MOST: usize = 4096;

/// A field that is not read, in a struct of which some fields are.
#[derive(Clone, Debug)]
pub(crate) struct Unknown {
    steps: Vec<Step>,
    place: &'static str,
    name: Box<str>,
}

impl Unknown {
    /// If the field belongs to an item of a list, returns the index of the item and the field
    /// relative to it; otherwise returns the field as it is.
    pub(crate) fn of_item(mut self) -> Result<(usize, Self), Self> {
        match self.steps.as_slice() {
            [Step::Key(key), Step::Index(index), ..] if **key == *ITEMS => {
                let index = *index;
                self.steps.drain(..2);
                Ok((index, self))
            }
            _ => Err(self),
        }
    }
}

/// The field in which a list has its documents.
const ITEMS: &str = "items";

/// The kinds whose unknown fields are reported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
}

/// Notes a field that was skipped.
pub(crate) fn note(noted: &mut Vec<Unknown>, path: &Path<'_>) {
    let Path::Map { parent, key } = path else { return };
    if noted.len() >= MOST {
        return;
    }
    let Some(place) = place_of(parent) else { return };
    if !(place == "metadata" && METADATA.contains(&&**key)) {
        let mut steps = Vec::new();
        push_steps(path, &mut steps);
        noted.push(Unknown { steps, place, name: key.as_str().into() });
    }
}

fn push_steps(path: &Path<'_>, steps: &mut Vec<Step>) {
    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            push_steps(parent, steps);
            steps.push(Step::Index(*index));
        }
        Path::Map { parent, key } => {
            push_steps(parent, steps);
            steps.push(Step::Key(key.as_str().into()));
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => push_steps(parent, steps),
    }
}

/// Returns the path of a struct without the indices of lists, if it is one of [`PLACES`].
fn place_of(path: &Path<'_>) -> Option<&'static str> {
    match path {
        Path::Root => Some(""),
        Path::Seq { parent, .. }
        | Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => place_of(parent),
        Path::Map { parent, key } => {
            let above = place_of(parent)?;
            // Each item is a document like any other.
            if above.is_empty() && key == ITEMS {
                return Some("");
            }
            let is_below = |place: &&&str| {
                let rest = place.strip_prefix(above)?;
                let rest = if above.is_empty() { rest } else { rest.strip_prefix('.')? };
                (rest == key.as_str()).then_some(())
            };
            PLACES.iter().find(|place| is_below(place).is_some()).copied()
        }
    }
}

const PLACES: [&str; 17] = [
    "metadata",
    "spec",
    "spec.ports",
    "spec.sessionAffinityConfig",
    "spec.sessionAffinityConfig.clientIP",
    "spec.containers",
    "spec.containers.ports",
    "status",
    "status.loadBalancer",
    "status.loadBalancer.ingress",
    "endpoints",
    "endpoints.conditions",
    "endpoints.hints",
    "ports",
    "subsets",
    "subsets.addresses",
    "subsets.ports",
];

const METADATA: [&str; 16] = [
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// Returns the fields of a kind at a place: all of them, or those that are read.
fn fields(kind: Fields, place: &str) -> &'static [&'static str] {
    match (kind, place) {
        (_, "metadata") => &METADATA,
        (Fields::Service, "") => &["apiVersion", "kind", "metadata", "spec", "status"],
        (Fields::Service, "spec") => &[
            "allocateLoadBalancerNodePorts",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamily",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "ports",
            "publishNotReadyAddresses",
            "selector",
            "sessionAffinity",
            "sessionAffinityConfig",
            "topologyKeys",
            "trafficDistribution",
            "type",
        ],
        (Fields::Service, "spec.ports") => {
            &["appProtocol", "name", "nodePort", "port", "protocol", "targetPort"]
        }
        (Fields::Service, "spec.sessionAffinityConfig") => &["clientIP"],
        (Fields::Service, "spec.sessionAffinityConfig.clientIP") => &["timeoutSeconds"],
        (Fields::Service, "status") => &["conditions", "loadBalancer"],
        (Fields::Service, "status.loadBalancer") => &["ingress"],
        (Fields::Service, "status.loadBalancer.ingress") => &["hostname", "ip", "ipMode", "ports"],
        (Fields::EndpointSlice, "") => {
            &["addressType", "apiVersion", "endpoints", "kind", "metadata", "ports"]
        }
        (Fields::EndpointSlice, "endpoints") => &[
            "addresses",
            "conditions",
            "deprecatedTopology",
            "hints",
            "hostname",
            "nodeName",
            "targetRef",
            "zone",
        ],
        (Fields::EndpointSlice, "endpoints.conditions") => &["ready", "serving", "terminating"],
        (Fields::EndpointSlice, "endpoints.hints") => &["forNodes", "forZones"],
        (Fields::EndpointSlice, "ports") => &["appProtocol", "name", "port", "protocol"],
        (Fields::Endpoints, "") => &["apiVersion", "kind", "metadata", "subsets"],
        (Fields::Endpoints, "subsets") => &["addresses", "notReadyAddresses", "ports"],
        (Fields::Endpoints, "subsets.addresses") => &["hostname", "ip", "nodeName", "targetRef"],
        (Fields::Endpoints, "subsets.ports") => &["appProtocol", "name", "port", "protocol"],
        (Fields::Pod | Fields::Node, "") => &["metadata", "spec", "status"],
        (Fields::Pod, "spec") => &["containers", "hostNetwork", "initContainers", "nodeName"],
        (Fields::Pod, "spec.containers") => &["ports"],
        (Fields::Pod, "spec.containers.ports") => &["containerPort", "name", "protocol"],
        (Fields::Pod, "status") => &["conditions", "phase", "podIP", "podIPs"],
        (Fields::Node, "spec") => &["podCIDR", "podCIDRs", "taints"],
        (Fields::Node, "status") => &["addresses"],
        _ => &[],
    }
}

/// Reports the unknown fields of an object.
pub(super) fn check(check: &mut Check<'_, '_>, kind: Fields, unknown: &[Unknown], at: &At<'_>) {
    let is_whole = !matches!(kind, Fields::Pod | Fields::Node);
    for Unknown { steps, place, name } in unknown {
        let known = fields(kind, place);
        if known.is_empty() || known.contains(&&**name) {
            continue;
        }
        match nearest(name, known) {
            Some(meant) => {
                let message = format_args!("unknown field, did you mean {meant}?");
                check.warn_below(at, steps, message);
            }
            None if is_whole => {
                check.warn_below(at, steps, "unknown field, ignored");
            }
            None => {}
        }
    }
}
