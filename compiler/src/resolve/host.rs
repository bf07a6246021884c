//! Where Pods of the host's network are reached: at their node.

use std::net::IpAddr;

use crate::model::Model;
use crate::net::Family;
use crate::object::{Pod, PodAddresses, Service};
use crate::settings::Settings;

/// The addresses of a Pod, one of each family at the most: its own, or its node's.
pub fn addresses_of(model: &Model, settings: &Settings, pod: &Pod) -> Vec<IpAddr> {
    let first = |all: &[IpAddr], family| all.iter().copied().find(|it| Family::of(*it) == family);
    let of_family = |family| match &pod.addresses {
        PodAddresses::Own(addresses) => first(addresses, family),
        PodAddresses::Node if is_here(settings, pod) => own_address(model, settings, family),
        PodAddresses::Node => model.node(pod.node.as_ref()?)?.object.address(family),
    };
    Family::ALL.into_iter().filter_map(of_family).collect()
}

/// This node's address for the Pods in its network: that of its Node object, or else the operator's word,
/// or else, where there is no object that has any, the address the kernel itself would send from. A
/// kubelet's static Pods are there before anybody has written a Node.
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

/// Whether the endpoints of a Service depend on where its node is.
pub(super) fn has_pods_here(model: &Model, settings: &Settings, service: &Service) -> bool {
    let mut pods = model.pods_of(service).map(|entry| &*entry.object);
    pods.any(|pod| pod.addresses == PodAddresses::Node && is_here(settings, pod))
}

/// A manifest that names no node describes a Pod of this one.
fn is_here(settings: &Settings, pod: &Pod) -> bool {
    pod.node.as_ref().is_none_or(|node| *node == settings.node_name)
}
