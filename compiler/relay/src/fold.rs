//! What of the objects a node needs.
//!
//! A rule of a node depends on whether an endpoint is on that node, on another one or on an unknown
//! one, and on whether hints name the node. The names of other nodes decide nothing, so they are
//! folded into one name, and all nodes without an endpoint in a slice get the same. Zones stay: a
//! manifest may say that the node is in another zone than the API server says.

use std::collections::BTreeSet;
use std::sync::Arc;

use rulec_compiler::name::NodeName;
use rulec_compiler::object::{Asks, ClusterIps, EndpointSlice, Hints, Object, Service};

/// The name that stands for all other nodes. No Node can have it.
pub const ELSEWHERE: &str = "(another node)";

/// Returns the name of no node: what is folded for it is the same for all nodes that an object does
/// not name.
pub(crate) fn nobody() -> NodeName {
    NodeName::from("")
}

/// Returns whether any rule of a node depends on an object: a Service without a cluster address is
/// not served, and of the Nodes, only the node's own matters. Pods and the addresses of interfaces
/// are known only to the node itself.
pub fn is_needed(object: &Object, node: &NodeName) -> bool {
    match object {
        Object::Service(service) => service.cluster_ips != ClusterIps::default(),
        Object::EndpointSlice(_) | Object::ServiceCidr(_) => true,
        Object::Node(it) => it.name == *node,
        Object::Pod(_) | Object::InterfaceAddresses(_) => false,
    }
}

/// Returns an object as a node needs it: a program that is compiled from it is the same.
pub fn fold(object: &Object, node: &NodeName) -> Object {
    match object {
        Object::Service(service) if !service.asks.is_empty() => {
            // Only who gives out addresses reads what is asked for.
            Object::Service(Arc::new(Service { asks: Asks::default(), ..Service::clone(service) }))
        }
        Object::EndpointSlice(slice) => Object::EndpointSlice(Arc::new(slice_for(slice, node))),
        Object::Service(_)
        | Object::Pod(_)
        | Object::Node(_)
        | Object::ServiceCidr(_)
        | Object::InterfaceAddresses(_) => object.clone(),
    }
}

fn slice_for(slice: &EndpointSlice, node: &NodeName) -> EndpointSlice {
    let elsewhere = NodeName::from(ELSEWHERE);
    let place = |name: &NodeName| if name == node { node.clone() } else { elsewhere.clone() };
    let mut slice = slice.clone();
    for endpoint in &mut slice.endpoints {
        endpoint.node = endpoint.node.as_ref().map(place);
        if let Some(hints) = endpoint.hints.as_mut().filter(|hints| !hints.nodes.is_empty()) {
            let nodes = [if hints.nodes.contains(node) { node } else { &elsewhere }.clone()];
            **hints = Hints { zones: hints.zones.clone(), nodes: nodes.into() };
        }
    }
    slice.endpoints.sort_unstable();
    slice.endpoints.dedup();
    slice
}

/// Returns the nodes that a slice names, sorted: those for which it is not the same as for all
/// others.
pub(crate) fn named(object: &Object) -> Box<[NodeName]> {
    let Object::EndpointSlice(slice) = object else { return Box::default() };
    let of_hints = slice.endpoints.iter().filter_map(|it| it.hints.as_deref());
    let of_hints = of_hints.flat_map(|hints| hints.nodes.iter());
    let places = slice.endpoints.iter().filter_map(|it| it.node.as_ref());
    let all: BTreeSet<&NodeName> = places.chain(of_hints).collect();
    all.into_iter().cloned().collect()
}
