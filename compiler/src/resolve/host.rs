//! The addresses of Pods in the host network: those of their node.

use std::net::IpAddr;

use crate::model::Model;
use crate::net::Family;
use crate::object::{Pod, PodAddresses, Service};
use crate::settings::Settings;

/// Returns the addresses of a Pod, at most one of each family: its own, or those of its node.
pub fn addresses_of(model: &Model, settings: &Settings, pod: &Pod) -> Vec<IpAddr> {
    let first = |all: &[IpAddr], family| all.iter().copied().find(|it| Family::of(*it) == family);
    let of_family = |family| match &pod.addresses {
        PodAddresses::Own(addresses) => first(addresses, family),
        PodAddresses::Node if is_here(settings, pod) => own_address(model, settings, family),
        PodAddresses::Node => model.node(pod.node.as_ref()?)?.object.address(family),
    };
    Family::ALL.into_iter().filter_map(of_family).collect()
}

/// Returns this node's address for Pods in its host network: that of its Node object, or else the
/// one in the settings, or else, if no Node object has any address, the kernel's default source
/// address. A kubelet starts its static Pods before a Node object is written.
pub(super) fn own_address(model: &Model, settings: &Settings, family: Family) -> Option<IpAddr> {
    let node = model.node(&settings.node_name).map(|node| &*node.object);
    let of_object = node.and_then(|node| node.address(family));
    let told = || settings.primary_address(None, family);
    let of_kernel = || {
        let is_known = node.is_some_and(|node| !node.addresses.is_empty());
        let held = model.interface_addresses().filter(|_| !is_known)?;
        held.object.primary.iter().copied().find(|address| Family::of(*address) == family)
    };
    of_object.or_else(told).or_else(of_kernel)
}

/// Returns true if the endpoints of a Service depend on the addresses of this node.
pub(super) fn has_pods_here(model: &Model, settings: &Settings, service: &Service) -> bool {
    let mut pods = model.pods_of(service).map(|entry| &*entry.object);
    pods.any(|pod| pod.addresses == PodAddresses::Node && is_here(settings, pod))
}

/// Returns true if the Pod is on this node. A manifest that names no node describes a Pod of this
/// one.
fn is_here(settings: &Settings, pod: &Pod) -> bool {
    pod.node.as_ref().is_none_or(|node| *node == settings.node_name)
}
