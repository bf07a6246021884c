//! Unknown fields, which come from misspelt names.
//!
//! Services, EndpointSlices and Endpoints are small and all their fields are known, so each unknown
//! field is reported. Of Pods and Nodes only a few fields are read, so an unknown field is reported
//! only if its name is close to one of those.

use super::at::At;
use super::check::Check;
use super::document::{METADATA, Unknown};
use super::near::nearest;

/// The kinds whose unknown fields are reported.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fields {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
}

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
        (Fields::Pod, "spec") => {
            &["containers", "hostNetwork", "hostname", "initContainers", "nodeName", "subdomain"]
        }
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
                check.unknown(at, steps, message);
            }
            None if is_whole => {
                check.unknown(at, steps, "unknown field, ignored");
            }
            None => {}
        }
    }
}
