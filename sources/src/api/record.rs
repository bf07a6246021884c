//! What is saved of the server.

use std::sync::Arc;

use jiff::Timestamp;
use rulec_compiler::name::{NodeName, PortName, Zone};
use rulec_compiler::object::{Object, ObjectKey};
use serde::{Deserialize, Serialize};

use super::faults::Faults;
use super::resource::Resource;
use crate::decode::intern::Interner;

/// Objects by key. A copy is cheap, so that they can be saved while changes go on.
pub(crate) type Objects = im::OrdMap<ObjectKey, Object>;

/// All objects of a server.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Saved {
    /// The version of the program that wrote it.
    pub(crate) program: String,
    /// The name of the server.
    pub(crate) server: String,
    /// The Node that was followed.
    pub(crate) node: String,
    /// The uid of the cluster, if it could be seen.
    pub(crate) cluster: Option<String>,
    /// When all of it was last known to be current.
    pub(crate) at: Timestamp,
    pub(crate) resources: Vec<SavedResource>,
}

/// All objects of one resource.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SavedResource {
    pub(crate) resource: Resource,
    /// The version to watch from; `None` if the resource has to be listed again.
    pub(crate) version: Option<String>,
    #[serde(with = "by_key")]
    pub(crate) objects: Objects,
    /// The problems of the objects: a watch does not bring these again.
    pub(crate) faults: Faults,
}

/// Serializes objects without their keys, which the objects contain.
pub(crate) mod by_key {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Interner, Object, Objects};

    pub(crate) fn serialize<S: Serializer>(objects: &Objects, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(objects.values())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Objects, D::Error> {
        let mut objects = Vec::<Object>::deserialize(from)?;
        let mut interner = Interner::default();
        objects.iter_mut().for_each(|object| super::share(object, &mut interner));
        Ok(objects.into_iter().map(|object| (object.key(), object)).collect())
    }
}

/// Replaces equal names of endpoints by one shared copy: the decoded text has a copy for each.
fn share(object: &mut Object, interner: &mut Interner) {
    let Object::EndpointSlice(slice) = object else { return };
    let Some(slice) = Arc::get_mut(slice) else { return };
    for port in &mut slice.ports {
        port.name = PortName::new(interner.get(port.name.as_str()));
    }
    for endpoint in &mut slice.endpoints {
        for node in endpoint.node.iter_mut() {
            *node = NodeName::new(interner.get(node.as_str()));
        }
        for zone in endpoint.hints.iter_mut().flat_map(|hints| &mut hints.zones) {
            *zone = Zone::new(interner.get(zone.as_str()));
        }
    }
}

impl Saved {
    /// Takes the objects of a resource.
    pub(super) fn take(&mut self, resource: Resource) -> Option<SavedResource> {
        let at = self.resources.iter().position(|saved| saved.resource == resource)?;
        Some(self.resources.swap_remove(at))
    }
}
