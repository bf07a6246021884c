//! Which objects name the backends of a Service port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use rulec_compiler::frontend::PortKey;
use rulec_compiler::load_balancing::Weight;
use rulec_compiler::model::Entry;
use rulec_compiler::net::Backend;
use rulec_compiler::object::{Conditions, Endpoint, EndpointSlice, Pod, ServicePort};
use rulec_compiler::resolve::host;

use super::Side;

/// The objects that name the backends of a Service port. They are looked up once for all backends:
/// a Service may have thousands.
#[derive(Default)]
pub(crate) struct Sightings<'a> {
    endpoints: BTreeMap<Backend, (&'a Entry<EndpointSlice>, &'a Endpoint)>,
    pods: BTreeMap<IpAddr, &'a Entry<Pod>>,
}

impl Side {
    /// Returns the objects that name the backends of a Service port.
    pub(crate) fn sightings(&self, owner: &PortKey) -> Sightings<'_> {
        let mut found = Sightings::default();
        let owner = &self.meant(owner);
        let (Some(model), Some((service, port, _))) = (&self.model, self.port(owner)) else {
            return found;
        };
        // If several name one, the first one counts.
        for slice in model.slices_of(&owner.service) {
            found.add_slice(slice, port);
        }
        for pod in model.pods_of(service) {
            for address in host::addresses_of(model, &self.settings, &pod.object) {
                found.pods.entry(address).or_insert(pod);
            }
        }
        found
    }

    /// Returns which object names a backend, and its condition.
    pub(crate) fn sighting(&self, owner: &PortKey, backend: Backend) -> Option<String> {
        self.sightings(owner).of(backend)
    }
}

impl<'a> Sightings<'a> {
    fn add_slice(&mut self, slice: &'a Entry<EndpointSlice>, port: &ServicePort) {
        let ports = slice.object.ports.iter();
        let numbers = ports.filter(|it| it.name == port.name && it.protocol == port.protocol);
        for number in numbers.map(|it| it.port) {
            for endpoint in &slice.object.endpoints {
                let backend = Backend { address: endpoint.address, port: number };
                self.endpoints.entry(backend).or_insert((slice, endpoint));
            }
        }
    }

    /// Returns which object names a backend, and its condition.
    pub(crate) fn of(&self, backend: Backend) -> Option<String> {
        if let Some((slice, endpoint)) = self.endpoints.get(&backend) {
            return Some(format!(
                "EndpointSlice {} ({}) endpoint {}: {}",
                slice.object.key,
                slice.provenance,
                endpoint.address,
                condition(endpoint.conditions, slice.object.weight)
            ));
        }
        let pod = self.pods.get(&backend.address)?;
        Some(format!(
            "Pod {} ({}) selected by spec.selector: {}",
            pod.object.key,
            pod.provenance,
            condition(pod.object.conditions, pod.object.weight)
        ))
    }
}

pub(crate) fn condition(conditions: Conditions, weight: Weight) -> &'static str {
    match conditions {
        Conditions { ready: true, .. } if weight.is_none() => {
            "ready, but its weight is 0 (annotation rulec.io/weight)"
        }
        Conditions { ready: true, .. } => "ready",
        Conditions { serving: true, terminating: true, .. } => "serving, but terminating",
        Conditions { terminating: true, .. } => "terminating",
        Conditions { .. } => "not ready",
    }
}
