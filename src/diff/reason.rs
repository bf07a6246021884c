//! Why something changes: which object, which field, in which file.

use rulec_compiler::Frontend;
use rulec_compiler::change::Provenance;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::{Backend, Family};
use rulec_compiler::object::{Conditions, Service, ServicePort, TrafficPolicy};
use rulec_compiler::resolve::{self, PortKey};

use super::changes::What;
use super::{Comparison, Side};

/// Why something happens to a frontend of a Service.
pub(super) fn frontend(
    comparison: &Comparison,
    service: &NamespacedName,
    what: What,
    frontend: Frontend,
    fields: &[&str],
) -> String {
    let (from, to) = (&comparison.from, &comparison.to);
    match what {
        What::FrontendRemoved => match field_of(to, service, frontend) {
            // It is still asked for: another change explains it.
            Some(field) => field,
            None => match field_of(from, service, frontend) {
                Some(field) => format!("no longer in {}: was {field}", to.name),
                None if exists(to, service) => {
                    format!("Service {service} in {} does not ask for it", to.name)
                }
                None => format!("there is no Service {service} in {}", to.name),
            },
        },
        What::FrontendAdded | What::FrontendMoved => {
            field_of(to, service, frontend).unwrap_or_else(|| format!("it is in {}", to.name))
        }
        What::FrontendServed
        | What::FrontendRejected
        | What::FrontendDropped
        | What::BackendAdded
        | What::BackendRemoved => endpoints(to, service),
        What::FrontendAltered => match service_of(to, service) {
            Some((_, provenance)) => {
                format!("Service {service} ({provenance}) {}", fields.join(", "))
            }
            None => format!("it is so in {}", to.name),
        },
        What::Repaired => repair(comparison, service),
    }
}

/// Why a backend comes or goes.
pub(super) fn backend(
    comparison: &Comparison,
    owner: Option<&PortKey>,
    what: What,
    backend: Backend,
) -> String {
    let (from, to) = (&comparison.from, &comparison.to);
    let Some(owner) = owner else { return format!("it is so in {}", to.name) };
    match (what == What::BackendAdded, sighting(to, owner, backend)) {
        (true, Some(sighting)) => sighting,
        (true, None) => format!("it is in {}", to.name),
        // Named still, but not used: its conditions say why.
        (false, Some(sighting)) => sighting,
        (false, None) => match sighting(from, owner, backend) {
            Some(sighting) => format!("no longer in {}: was {sighting}", to.name),
            None => format!("no EndpointSlice or Pod in {} has it", to.name),
        },
    }
}

/// Why elements change although Services mean the same.
pub(super) fn repair(comparison: &Comparison, service: &NamespacedName) -> String {
    format!(
        "the elements of Service {service} in {} differ from those of {}",
        comparison.from.name, comparison.to.name
    )
}

/// Which object names a backend, and in which condition.
fn sighting(side: &Side, owner: &PortKey, backend: Backend) -> Option<String> {
    let model = side.model.as_ref()?;
    let (service, port, _) = port_of(side, owner)?;
    for slice in model.slices_of(&owner.service) {
        let implements = slice.object.ports.iter().any(|slice_port| {
            slice_port.name == port.name
                && slice_port.protocol == port.protocol
                && slice_port.port == backend.port
        });
        let endpoint =
            slice.object.endpoints.iter().find(|endpoint| endpoint.address == backend.address);
        if let Some(endpoint) = endpoint.filter(|_| implements) {
            return Some(format!(
                "EndpointSlice {} ({}) endpoint {}: {}",
                slice.object.key,
                slice.provenance,
                endpoint.address,
                condition(endpoint.conditions)
            ));
        }
    }
    for pod in model.pods_of(service) {
        let addresses = model.addresses_of(&pod.object, &side.settings.node_name);
        if addresses.contains(&backend.address) {
            return Some(format!(
                "Pod {} ({}) selected by spec.selector: {}",
                pod.object.key,
                pod.provenance,
                condition(pod.object.conditions)
            ));
        }
    }
    None
}

fn condition(conditions: Conditions) -> &'static str {
    match conditions {
        Conditions { ready: true, .. } => "ready",
        Conditions { serving: true, terminating: true, .. } => "serving, but terminating",
        Conditions { terminating: true, .. } => "terminating",
        Conditions { .. } => "not ready",
    }
}

/// How many endpoints a Service has, and how many can be used.
fn endpoints(side: &Side, key: &NamespacedName) -> String {
    let Some(model) = &side.model else { return format!("it is so in {}", side.name) };
    let Some((service, provenance)) = service_of(side, key) else {
        return format!("there is no Service {key} in {}", side.name);
    };
    let mut ready = 0;
    let mut here = 0;
    let mut all = 0;
    for family in Family::ALL {
        for port in &service.ports {
            let found = resolve::candidates(model, &side.settings, service, port, family);
            all += found.len();
            let is_ready = found.values().filter(|candidate| candidate.conditions.ready);
            ready += is_ready.clone().count();
            here += is_ready.filter(|candidate| candidate.local).count();
        }
    }
    let is_local = |policy| policy == TrafficPolicy::Local;
    let text = format!("Service {key} ({provenance}) has {ready} ready of {all} endpoints");
    if is_local(service.internal_policy) || is_local(service.external_policy) {
        format!("{text}, {here} on this node")
    } else {
        text
    }
}

/// The field of a Service that asks for a frontend.
fn field_of(side: &Side, key: &NamespacedName, frontend: Frontend) -> Option<String> {
    let model = side.model.as_ref()?;
    let (_, provenance) = service_of(side, key)?;
    resolve::resolve(model, &side.settings, key).into_iter().find_map(|route| {
        let (_, rank) = route.frontends.iter().find(|(asked, _)| *asked == frontend)?;
        Some(format!("Service {key} ({provenance}) {}", rank.field()))
    })
}

fn exists(side: &Side, key: &NamespacedName) -> bool {
    service_of(side, key).is_some()
}

fn service_of<'a>(side: &'a Side, key: &NamespacedName) -> Option<(&'a Service, &'a Provenance)> {
    let entry = side.model.as_ref()?.service(key)?;
    Some((&entry.object, &entry.provenance))
}

fn port_of<'a>(
    side: &'a Side,
    owner: &PortKey,
) -> Option<(&'a Service, &'a ServicePort, &'a Provenance)> {
    let (service, provenance) = service_of(side, &owner.service)?;
    let port = service.ports.iter().find(|port| port.name == owner.port)?;
    Some((service, port, provenance))
}
