//! Checks the names in a recording. It may be from a stranger, and names get into terminals, labels of
//! metrics and files of hosts; the sources check them only where objects are read.

use rulec_compiler::change::{Provenance, Sourced};
use rulec_compiler::object::{HostName, Object, ObjectKey, TargetPort};

use crate::problem::Problem;

/// Checks an object.
pub(super) fn sourced(sourced: &mut Sourced) -> Result<(), String> {
    if let Some(path) = cleaned(&sourced.provenance.0) {
        sourced.provenance = Provenance(path.into());
    }
    key(&sourced.object.key())?;
    match &sourced.object {
        Object::Service(service) => service.ports.iter().try_for_each(|port| {
            port_name(port.name.as_str())?;
            match &port.target {
                TargetPort::Name(target) => name(target.as_str()),
                TargetPort::Number(_) => Ok(()),
            }
        }),
        Object::EndpointSlice(slice) => {
            slice.ports.iter().try_for_each(|port| port_name(port.name.as_str()))
        }
        Object::Pod(pod) => {
            pod.ports.iter().try_for_each(|port| port_name(port.name.as_str()))?;
            pod.host.iter().try_for_each(|HostName { hostname, subdomain }| {
                name(hostname.as_str())?;
                name(subdomain.as_str())
            })
        }
        Object::Node(_) | Object::ServiceCidr(_) | Object::InterfaceAddresses(_) => Ok(()),
    }
}

/// Checks the name of an object.
pub(super) fn key(key: &ObjectKey) -> Result<(), String> {
    match key {
        ObjectKey::Service(key) | ObjectKey::EndpointSlice(key) | ObjectKey::Pod(key) => {
            name(key.namespace.as_str())?;
            name(key.name.as_str())
        }
        ObjectKey::Node(node) => name(node.as_str()),
        ObjectKey::ServiceCidr(cidr) => name(cidr.as_str()),
        ObjectKey::InterfaceAddresses => Ok(()),
    }
}

/// A Service with one port need not name it.
fn port_name(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { name(text) }
}

fn name(text: &str) -> Result<(), String> {
    let is_name = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic());
    if is_name { Ok(()) } else { Err(format!("{text:?} is not a name")) }
}

/// Takes what steers a terminal out of texts that may be anything.
pub(super) fn clean(problem: &mut Problem) {
    if let Some(path) = cleaned(&problem.path) {
        problem.path = path.into();
    }
    for text in problem.object.iter_mut().chain([&mut problem.message]) {
        if let Some(clean) = cleaned(text) {
            *text = clean;
        }
    }
}

/// Returns a text without its control characters, if it has any.
fn cleaned(text: &str) -> Option<String> {
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.contains(odd).then(|| text.replace(odd, "\u{fffd}"))
}
