//! Services that seem to differ because an object of theirs cannot be read on one side.
//!
//! The daemon keeps the last good version of such an object, so nobody removes it. It is told as
//! not compared, and must be no danger and no Service that comes or goes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use rulec_compiler::Model;
use rulec_compiler::change::Provenance;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::ObjectKey;
use rulec_sources::Problem;

use super::change::Change;
use super::comparison::Comparison;
use crate::tool::input::Side;

/// The Services of which a part was not compared.
pub(super) struct Unread(BTreeMap<NamespacedName, Part>);

/// What of a Service was not compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Endpoints,
    Whole,
}

impl Unread {
    pub(super) fn of(Comparison { from, to, owners: [before, after], .. }: &Comparison) -> Self {
        let mut found = Self(BTreeMap::new());
        found.add(from, before, to);
        found.add(to, after, from);
        found
    }

    /// Adds the Services that have an object on one side that could not be read on the other.
    /// `owners` are those that a kernel names.
    fn add(&mut self, there: &Side, owners: &BTreeSet<NamespacedName>, here: &Side) {
        let errors: Vec<&Problem> = here.errors().collect();
        let Some(model) = here.model.as_ref().filter(|_| !errors.is_empty()) else { return };
        for service in owners.iter().filter(|it| model.service(it).is_none()) {
            let name = ObjectKey::Service(service.clone()).to_string();
            // A kernel does not know which file a Service is from.
            if errors.iter().any(|error| error.object.as_ref() == Some(&name)) {
                self.0.insert(service.clone(), Part::Whole);
            }
        }
        let Some(there) = &there.model else { return };
        let is_lost = |key: &ObjectKey, place: &Provenance| {
            !has(model, key) && errors.iter().any(|error| is_about(error, here, key, place))
        };
        for entry in there.services() {
            let service = &entry.object;
            let key = &service.key;
            let slices = there
                .slices_of(key)
                .map(|it| (ObjectKey::EndpointSlice(it.object.key.clone()), &it.provenance));
            let pods = there
                .pods_of(service)
                .map(|it| (ObjectKey::Pod(it.object.key.clone()), &it.provenance));
            let part = if is_lost(&ObjectKey::Service(key.clone()), &entry.provenance) {
                Part::Whole
            } else if slices.chain(pods).any(|(key, place)| is_lost(&key, place)) {
                Part::Endpoints
            } else {
                continue;
            };
            let known = self.0.entry(key.clone()).or_insert(part);
            *known = part.max(*known);
        }
    }

    /// Returns whether a change of a Service may only seem to be one.
    pub(super) fn explains(&self, service: &NamespacedName, change: &Change) -> bool {
        let is_whole = |service| self.0.get(service) == Some(&Part::Whole);
        let moved = change.kind.moved.as_ref();
        match self.0.get(service) {
            Some(Part::Whole) => true,
            Some(Part::Endpoints) if change.kind.what.is_of_endpoints() => true,
            Some(Part::Endpoints) | None => {
                moved.is_some_and(|moved| is_whole(&moved.from) || is_whole(&moved.to))
            }
        }
    }
}

fn has(model: &Model, key: &ObjectKey) -> bool {
    match key {
        ObjectKey::Service(key) => model.service(key).is_some(),
        ObjectKey::EndpointSlice(key) => model.slice(key).is_some(),
        ObjectKey::Pod(key) => model.pod(key).is_some(),
        ObjectKey::Node(_) | ObjectKey::ServiceCidr(_) | ObjectKey::InterfaceAddresses => true,
    }
}

/// Returns whether an error may be about an object that has this place on the other side. An error
/// that names no object is one of a whole file.
fn is_about(error: &Problem, side: &Side, key: &ObjectKey, Provenance(place): &Provenance) -> bool {
    match &error.object {
        Some(object) => *object == key.to_string(),
        None => *error.path == *side.name || Path::new(&*error.path).ends_with(&**place),
    }
}
