//! A change of the daemon's history, in the words of a difference.
//!
//! It compares the states before and after like any other two, but only the parts of them that belong
//! to Services that differ: the cost is that of the change, not that of the cluster.

use std::collections::BTreeSet;
use std::sync::Arc;

use rulec_compiler::model::Differing;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::{Object, ObjectKey};
use rulec_compiler::{Delta, Model};
use serde_json::Value;

use super::causes;
use super::change;
use super::comparison::Comparison;
use super::refused;
use super::report::{Report, ServiceReport};
use super::words::{effect, sign, subject};
use crate::history::change::{Change, ServiceChange, Told};
use crate::history::entry::{Around, Entry, Point};
use crate::tool::input::Side;

/// How many causes, Services, and changes of each are named.
const CAUSES: usize = 50;
const SERVICES: usize = 100;
const CHANGES: usize = 50;

/// How many frontends of one change are named.
const FRONTENDS: usize = 20;

/// What the states are called in reasons.
const BEFORE: &str = "the state before";
const AFTER: &str = "the sources";

/// Returns what a change means.
pub(crate) fn tell(entry: &Entry) -> Change {
    let mut change = entry.untold();
    match &entry.around {
        Some(Around { before: Some(before), after, .. }) => compare(&mut change, before, after),
        Some(Around { before: None, after, settings_before }) => {
            let settings = serde_json::to_value(&**after.program.settings()).ok();
            if let (Some(before), Some(settings)) = (settings_before, &settings) {
                change.causes.extend(causes::of_settings(before, settings));
            }
            change.settings = settings;
        }
        None => {}
    }
    change
}

fn compare(change: &mut Change, before: &Point, after: &Point) {
    let differing = before.model.differing(&after.model);
    let delta = Delta::between(&before.program, &after.program);
    let mut services = before.program.differing_services(&after.program);
    services.extend(delta.groups.iter().map(|group| group.service.clone()));
    services.extend(differing.iter().filter_map(|it| match &it.key {
        ObjectKey::Service(key) => Some(key.clone()),
        ObjectKey::EndpointSlice(_)
        | ObjectKey::Pod(_)
        | ObjectKey::Node(_)
        | ObjectKey::ServiceCidr(_)
        | ObjectKey::InterfaceAddresses => None,
    }));
    let side = |name, point: &Point| {
        let settings = point.program.settings();
        let node = settings.ipvs().is_none().then_some(&settings.node_name);
        let model = point.model.part(&services, node);
        Side::of_objects(name, Some(model), Arc::clone(settings))
    };
    let states = [before, after].map(|point| point.program.state_of(&services));
    let refused = [before, after].map(|it| refused::of_services(&it.program, &services));
    let sides = [side(BEFORE, before), side(AFTER, after)];
    let comparison = Comparison::of_states(sides, states, refused, delta);
    let models = [&before.model, &after.model];
    (change.services, change.more_services) = of_services(&comparison, &differing, models);
    change.causes = differing.iter().take(CAUSES).map(causes::of).collect();
    change.more_causes = differing.len() - change.causes.len();
}

/// Returns the Services that have changed, and how many are not named.
fn of_services(
    comparison: &Comparison,
    differing: &[Differing],
    models: [&Model; 2],
) -> (Vec<ServiceChange>, usize) {
    let report = Report::of(comparison, Vec::new());
    let named = report.services.iter().take(SERVICES);
    let named: Vec<_> = named.map(|it| of_service(it, differing, models)).collect();
    let more = report.services.len() - named.len();
    (named, more)
}

fn of_service(
    report: &ServiceReport<'_>,
    differing: &[Differing],
    models: [&Model; 2],
) -> ServiceChange {
    let ServiceReport { service, presence, changes, .. } = report;
    let named = changes.iter().take(CHANGES);
    let changes_told: Vec<Told> = named.map(|change| told(change, service)).collect();
    ServiceChange {
        namespace: service.namespace.to_string(),
        name: service.name.to_string(),
        presence: *presence,
        causes: concerned(service, differing, models),
        more_changes: changes.len() - changes_told.len(),
        changes: changes_told,
    }
}

/// Returns the objects whose change concerns a Service. If none does by itself, such as when another
/// Service takes a frontend over, all of them may.
fn concerned(
    service: &NamespacedName,
    differing: &[Differing],
    models: [&Model; 2],
) -> Vec<String> {
    let selected: BTreeSet<&NamespacedName> = models
        .into_iter()
        .filter_map(|model| Some(model.pods_of(&model.service(service)?.object)))
        .flatten()
        .map(|entry| &entry.object.key)
        .collect();
    let is_of = |object: &Object| match object {
        Object::Service(it) => it.key == *service,
        Object::EndpointSlice(slice) => slice.service == *service,
        Object::Pod(pod) => selected.contains(&pod.key),
        Object::Node(_) | Object::ServiceCidr(_) | Object::InterfaceAddresses(_) => false,
    };
    let named = |it: &Differing| it.key.to_string();
    // Those that are not named as causes cannot be looked up.
    let all = differing.iter().take(CAUSES);
    let own = all.clone().filter(|it| {
        [&it.old, &it.new].into_iter().flatten().any(|(_, sourced)| is_of(&sourced.object))
    });
    let own: Vec<String> = own.map(named).collect();
    if own.is_empty() { all.map(named).collect() } else { own }
}

fn told(change: &change::Change, service: &NamespacedName) -> Told {
    let mut fields = match serde_json::to_value(change) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    // It is a field of its own.
    fields.remove("reason");
    if let Some(Value::Array(frontends)) = fields.get_mut("frontends") {
        frontends.truncate(FRONTENDS);
    }
    let kind = &change.kind;
    Told {
        sign: sign(kind, service),
        subject: subject_of(change),
        effect: effect(kind, service),
        dangerous: kind.what.is_dangerous(),
        reason: change.reason.clone(),
        fields,
    }
}

/// Returns what a change is about, with the first of many frontends.
fn subject_of(change: &change::Change) -> String {
    match change.frontends.len().checked_sub(FRONTENDS).filter(|more| *more > 0) {
        None => subject(change),
        Some(more) => {
            let frontends = change.frontends.iter().take(FRONTENDS).cloned().collect();
            let (kind, reason) = (change.kind.clone(), change.reason.clone());
            format!("{} and {more} more", subject(&change::Change { kind, frontends, reason }))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rulec_compiler::change::Origin;
    use rulec_compiler::settings::{IpvsSettings, ProxyMode};
    use rulec_compiler::{Change as Update, Dirty, Program, Settings, State};

    use super::*;

    /// Two Services of which the second takes a frontend over, loses endpoints and comes and goes.
    const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: NAME, namespace: default}
spec: {clusterIP: ADDRESS, SPEC ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: NAME-1, namespace: default, labels: {kubernetes.io/service-name: NAME}}
addressType: IPv4
ports: [{port: 8080, protocol: TCP}]
endpoints: [ENDPOINTS]
";

    fn service(name: &str, address: &str, spec: &str, endpoints: &[&str]) -> String {
        let endpoints = endpoints.iter().map(|it| format!("{{addresses: [{it}], nodeName: nb}}"));
        let endpoints = endpoints.collect::<Vec<_>>().join(", ");
        let text = SERVICE.replace("NAME", name).replace("ADDRESS", address);
        text.replace("SPEC", spec).replace("ENDPOINTS", &endpoints)
    }

    fn objects(yaml: &str) -> Update {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("all.yaml");
        fs::write(&path, format!("# Objects, if any.\n{yaml}")).unwrap();
        Update::everything(rulec_sources::read(&path).unwrap().objects)
    }

    /// Returns what a comparison of everything tells.
    fn of_all(before: &Point, after: &Point) -> Vec<ServiceChange> {
        let side = |name, point: &Point| {
            let settings = Arc::clone(point.program.settings());
            Side::of_objects(name, Some(point.model.clone()), settings)
        };
        let comparison = Comparison::of_states(
            [side(BEFORE, before), side(AFTER, after)],
            [before, after].map(|point| point.program.state()),
            [before, after].map(|point| refused::of(&point.program)),
            Delta::between(&before.program, &after.program),
        );
        let differing = before.model.differing(&after.model);
        of_services(&comparison, &differing, [&before.model, &after.model]).0
    }

    #[test]
    fn a_part_is_told_as_all_of_it_in_both_modes() {
        let web = |spec, endpoints: &[&str]| service("web", "10.96.0.10", spec, endpoints);
        let other = |spec| service("other", "10.96.0.11", spec, &["10.88.1.1"]);
        let outside = "externalIPs: [192.0.2.1],";
        let local = "type: NodePort, externalTrafficPolicy: Local, externalIPs: [192.0.2.1],";
        let steps = [
            web("", &["10.88.0.6", "10.88.0.7"]) + &other(""),
            web("", &["10.88.0.7"]) + &other(""),
            web(outside, &["10.88.0.7"]) + &other(""),
            web(outside, &["10.88.0.7"]) + &other(outside),
            web(local, &["10.88.0.7"]) + &other(outside),
            other(outside),
            web("sessionAffinity: ClientIP,", &[]) + &other(outside),
            String::new(),
        ];
        let ipvs = ProxyMode::Ipvs(IpvsSettings::default());
        for proxy_mode in [Settings::new("na".into()).proxy_mode, ipvs] {
            let settings = Settings { proxy_mode, ..Settings::new("na".into()) };
            let mut model = Model::default();
            let mut program = Program::compile(&model, Arc::new(settings), &State::default());
            for (number, step) in steps.iter().enumerate() {
                let before = Point { program: program.clone(), model: model.clone() };
                let mut dirty = Dirty::default();
                dirty.merge(model.apply(Origin::Manifests, objects(step)));
                program.update(&model, &dirty);
                let after = Point { program: program.clone(), model: model.clone() };
                let expected = of_all(&before, &after);
                let mut change = tell(&Entry::for_test(before, after));
                assert_eq!(change.services, expected, "step {number}");
                assert!(!expected.is_empty(), "step {number}");
                let whole = serde_json::to_value(&change).unwrap();
                change = serde_json::from_value(whole.clone()).unwrap();
                assert_eq!(serde_json::to_value(&change).unwrap(), whole, "it round trips");
            }
        }
    }
}
