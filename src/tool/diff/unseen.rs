//! What differs in Services although no operation says so: a kernel does not notice a field that
//! only matters to endpoints while there are none, nor a port for health checks, nor a Service that
//! is served at no frontend.

use std::collections::BTreeMap;
use std::sync::Arc;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::{ClusterIps, Service};
use rulec_compiler::resolve;

use super::change::{Change, Kind};
use super::comparison::Comparison;
use super::fields::{self, Difference, Part};
use super::objects::Objects;
use super::what::What;
use crate::tool::input::Side;

/// Adds what no other change tells, if the objects of both sides are known.
pub(super) fn add(comparison: &Comparison, changes: &mut BTreeMap<NamespacedName, Vec<Change>>) {
    let Comparison { from, to, .. } = comparison;
    let (Some(before), Some(after)) = (&from.model, &to.model) else { return };
    let (old_names, new_names) = (Objects::of(from), Objects::of(to));
    for new in after.services() {
        let key = &new.object.key;
        let Some(old) = before.service(key) else {
            let of_service = changes.entry(key.clone()).or_default();
            if of_service.is_empty() {
                of_service.extend(lone(What::ServiceAdded, new_names, key));
            }
            continue;
        };
        if Arc::ptr_eq(&old.object, &new.object) {
            continue;
        }
        let different = fields::differences(&old.object, &new.object);
        if different.is_empty() {
            continue;
        }
        let of_service = changes.entry(key.clone()).or_default();
        let told = of_service.len();
        for (part, difference) in different {
            if !of_service.iter().take(told).any(|change| names(change, part, &difference)) {
                let why = effect(part, told > 0, [from, to], key);
                of_service.extend(altered(new_names, key, difference, why));
            }
        }
    }
    for old in before.services() {
        let key = &old.object.key;
        if after.service(key).is_none() && !changes.contains_key(key) {
            let lone = lone(What::ServiceRemoved, old_names, key);
            changes.insert(key.clone(), lone.into_iter().collect());
        }
    }
    changes.retain(|_, of_service| !of_service.is_empty());
}

/// Returns whether a change names a field that differs.
fn names(change: &Change, part: Part, difference: &Difference) -> bool {
    let Kind { what, sources, fields, .. } = &change.kind;
    match part {
        // The frontends that come and go say it.
        Part::Frontends => what.is_of_claims(),
        Part::Clients if sources.is_some() => true,
        Part::Endpoints | Part::Clients | Part::HealthCheck => {
            fields.iter().any(|named| named.field.starts_with(&difference.field))
        }
    }
}

/// Returns what a field of a Service means that no other change names.
fn effect(
    part: Part,
    has_others: bool,
    sides: [&Side; 2],
    service: &NamespacedName,
) -> Option<&'static str> {
    match part {
        Part::HealthCheck => Some("where the daemon answers health checks"),
        Part::Endpoints if !sides.iter().any(|side| has_endpoints(side, service)) => {
            Some("no effect without endpoints")
        }
        Part::Frontends | Part::Endpoints | Part::Clients => {
            (!has_others).then_some("no effect in the kernel")
        }
    }
}

fn has_endpoints(side: &Side, service: &NamespacedName) -> bool {
    let routes = side.model.iter().flat_map(|it| resolve::resolve(it, &side.settings, service));
    routes.into_iter().any(|route| route.has_endpoints)
}

fn altered(
    names: Objects<'_>,
    key: &NamespacedName,
    difference: Difference,
    why: Option<&str>,
) -> Option<Change> {
    let (_, name) = names.service(key)?;
    let kind = Kind { fields: vec![difference], ..What::FieldChanged.into() };
    let reason = why.map_or_else(|| name.clone(), |why| format!("{name}: {why}"));
    Some(Change { kind, frontends: Vec::new(), reason })
}

/// Returns the change of a Service that comes or goes without a frontend.
fn lone(what: What, names: Objects<'_>, key: &NamespacedName) -> Option<Change> {
    let (Service { cluster_ips, .. }, name) = names.service(key)?;
    let why = match *cluster_ips == ClusterIps::default() {
        true => "has no cluster address, so nothing is served",
        false => "has no frontend of its own",
    };
    Some(Change { kind: what.into(), frontends: Vec::new(), reason: format!("{name} {why}") })
}
