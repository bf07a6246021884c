//! The reasons for changes: which object, which field, in which file.

use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::{Backend, Family};
use rulec_compiler::object::TrafficPolicy;
use rulec_compiler::plural::counted;
use rulec_compiler::resolve;

use super::what::What;
use super::{Comparison, Side};

/// Returns the reason for a change of a frontend.
pub(super) fn frontend(
    comparison: &Comparison,
    service: &NamespacedName,
    what: What,
    frontend: Frontend,
    fields: &[&str],
) -> String {
    let (from, to) = (&comparison.from, &comparison.to);
    match what {
        What::FrontendRemoved => match to.field_of(service, frontend) {
            // It is still claimed, so another change explains it.
            Some(field) => field,
            None => match from.field_of(service, frontend) {
                Some(field) => format!("no longer in {}: was {field}", to.name),
                None if exists(to, service) => {
                    format!("Service {service} in {} does not claim it", to.name)
                }
                None => format!("there is no Service {service} in {}", to.name),
            },
        },
        What::FrontendAdded | What::FrontendMoved => {
            to.field_of(service, frontend).unwrap_or_else(|| format!("present in {}", to.name))
        }
        What::FrontendServed
        | What::FrontendRejected
        | What::FrontendDropped
        | What::BackendAdded
        | What::BackendRemoved => endpoints(to, service),
        What::FrontendAltered => match to.service(service) {
            Some((_, provenance)) => {
                format!("Service {service} ({provenance}) {}", fields.join(", "))
            }
            None => format!("according to {}", to.name),
        },
        What::Repaired => repair(comparison, service),
    }
}

/// Returns the reason why a backend is added or removed.
pub(super) fn backend(
    comparison: &Comparison,
    owner: Option<&PortKey>,
    what: What,
    backend: Backend,
) -> String {
    let (from, to) = (&comparison.from, &comparison.to);
    let Some(owner) = owner else { return format!("according to {}", to.name) };
    match (what == What::BackendAdded, to.sighting(owner, backend)) {
        (true, Some(sighting)) => sighting,
        (true, None) => format!("present in {}", to.name),
        // Still present, but not used: its conditions are the reason.
        (false, Some(sighting)) => sighting,
        (false, None) => match from.sighting(owner, backend) {
            Some(sighting) => format!("no longer in {}: was {sighting}", to.name),
            None => format!("no EndpointSlice or Pod in {} has it", to.name),
        },
    }
}

/// Returns the reason why elements change although the Services have the same meaning.
pub(super) fn repair(comparison: &Comparison, service: &NamespacedName) -> String {
    format!(
        "the elements of Service {service} in {} differ from those of {}",
        comparison.from.name, comparison.to.name
    )
}

/// Returns how many endpoints a Service has, and how many of them are usable.
fn endpoints(side: &Side, key: &NamespacedName) -> String {
    let Some(model) = &side.model else { return format!("according to {}", side.name) };
    let Some((service, provenance)) = side.service(key) else {
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
            here += is_ready.filter(|candidate| candidate.is_local()).count();
        }
    }
    let is_local = |policy| policy == TrafficPolicy::Local;
    let all = counted(all, "endpoint");
    let text = format!("Service {key} ({provenance}) has {ready} ready of {all}");
    if is_local(service.internal_policy) || is_local(service.external_policy) {
        format!("{text}, {here} on this node")
    } else {
        text
    }
}

fn exists(side: &Side, key: &NamespacedName) -> bool {
    side.service(key).is_some()
}
