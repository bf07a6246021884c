//! What documents mean, one file for each kind and each concern that kinds share.

mod address;
mod balancing;
mod endpoints;
mod intern;
mod ipvs;
mod lists;
mod node;
mod pod;
mod service;
mod service_cidr;
mod slice;
mod slips;
mod surplus;
mod widening;

use std::sync::Arc;

use rulec_compiler::object::{EndpointSlice, Node, Object, Pod, Service};

use super::Decoded;
use crate::tests::{json, plain, problems, yaml};

/// Returns the only object of a text without problems.
fn only(text: &str) -> Object {
    let decoded = yaml(text);
    assert_eq!(problems(&decoded), [""; 0], "of {text}");
    assert_eq!(decoded.objects.len(), 1, "of {text}");
    decoded.objects[0].clone()
}

fn service(text: &str) -> Arc<Service> {
    let object = only(text);
    let Object::Service(service) = object else { panic!("{object:?}") };
    service
}

fn slice(text: &str) -> Arc<EndpointSlice> {
    let object = only(text);
    let Object::EndpointSlice(slice) = object else { panic!("{object:?}") };
    slice
}

fn pod(text: &str) -> Arc<Pod> {
    let object = only(text);
    let Object::Pod(pod) = object else { panic!("{object:?}") };
    pod
}

fn node(text: &str) -> Arc<Node> {
    let object = only(text);
    let Object::Node(node) = object else { panic!("{object:?}") };
    node
}
