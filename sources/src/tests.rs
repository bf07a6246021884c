//! Tests of the behaviour that this crate guarantees.

mod decode_endpoints;
mod decode_ipvs;
mod decode_lists;
mod decode_node;
mod decode_pod;
mod decode_service;
mod decode_service_cidr;
mod decode_slice;
mod decode_surplus;
mod decode_widening;
mod hostile;
mod random;
mod scan;
mod slips;
mod texts;
mod watch;
mod writers;
mod yaml_1_1;

use std::path::Path;
use std::sync::Arc;

use rulec_compiler::object::{EndpointSlice, Node, Object, Pod, Service};

use crate::decode::{Decoded, Format, decode};
use crate::intern::Interner;

fn yaml(text: &str) -> Decoded {
    decode(&"web.yaml".into(), text.as_bytes(), Format::Yaml, &mut Interner::default())
}

fn json(text: &str) -> Decoded {
    decode(&"web.json".into(), text.as_bytes(), Format::Json, &mut Interner::default())
}

/// Returns the problems as they are printed.
fn problems(decoded: &Decoded) -> Vec<String> {
    decoded.problems.iter().map(ToString::to_string).collect()
}

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

/// Returns a Service `default/{name}` with an address and a port.
fn plain(name: &str, port: u16) -> String {
    // An unquoted `y` is a flag in YAML.
    let name = if name == "y" { "'y'" } else { name };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n\
         spec:\n  clusterIP: 10.90.0.10\n  ports:\n  - port: {port}\n"
    )
}

fn write(directory: &Path, name: &str, text: &str) {
    std::fs::write(directory.join(name), text).unwrap();
}
