//! Which objects there are, and where each is defined.

use std::collections::BTreeMap;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::{EndpointSlice, Object, ObjectKey, Service};
use rulec_compiler::{Provenance, Sourced};
use rulec_sources::Survey;

use super::spot::Spot;

/// The objects that are used, by kind and name: of several definitions the last one.
pub(super) struct Objects<'a>(BTreeMap<ObjectKey, Definition<'a>>);

/// An object as a file defines it.
pub(super) struct Definition<'a> {
    pub(super) object: &'a Object,
    pub(super) spot: Spot<'a>,
}

impl<'a> Objects<'a> {
    pub(super) fn of(survey: &'a Survey) -> Self {
        let all = survey.manifests.iter().flat_map(|manifest| {
            manifest.located().map(|(object, node)| {
                let spot = Spot::root(&manifest.path, node);
                (object.key(), Definition { object, spot })
            })
        });
        Self(all.collect())
    }

    /// Returns them as a source would.
    pub(super) fn sourced(&self) -> Vec<Sourced> {
        let sourced = |Definition { object, spot }: &Definition<'_>| Sourced {
            object: (*object).clone(),
            provenance: Provenance(spot.path().clone()),
        };
        self.all().map(sourced).collect()
    }

    /// Returns their definitions, by kind and name.
    pub(super) fn all(&self) -> impl Iterator<Item = &Definition<'a>> {
        self.0.values()
    }

    /// Returns the Services, by name.
    pub(super) fn services(&self) -> impl Iterator<Item = (&'a Service, &Spot<'a>)> {
        self.all().filter_map(|definition| match definition.object {
            Object::Service(service) => Some((&**service, &definition.spot)),
            Object::EndpointSlice(_)
            | Object::Pod(_)
            | Object::Node(_)
            | Object::ServiceCidr(_)
            | Object::InterfaceAddresses(_) => None,
        })
    }

    /// Returns where an object is defined.
    pub(super) fn spot(&self, key: &ObjectKey) -> Option<&Spot<'a>> {
        Some(&self.0.get(key)?.spot)
    }

    /// Returns where a Service is defined.
    pub(super) fn spot_of_service(&self, key: &NamespacedName) -> Option<&Spot<'a>> {
        self.spot(&ObjectKey::Service(key.clone()))
    }
}

/// Returns kind and name of an object as its file has them.
pub(super) fn name_of(key: &ObjectKey) -> String {
    if let ObjectKey::EndpointSlice(slice) = key
        && let Some(endpoints) = EndpointSlice::mirrored(&slice.name)
    {
        return format!("Endpoints {}/{endpoints}", slice.namespace);
    }
    key.to_string()
}

/// Returns the place of a port of a Service in its file.
pub(super) fn port_spot<'a>(service: &Spot<'a>, name: &str) -> Spot<'a> {
    let ports = service.keys("spec.ports");
    let is_it = |port: &Spot<'_>| port.key("name").text().unwrap_or_default() == name;
    ports.elements().into_iter().find(is_it).unwrap_or(ports)
}
