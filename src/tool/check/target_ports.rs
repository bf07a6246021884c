//! Named target ports that the selected Pods do not have.

use rulec_compiler::object::{Service, ServicePort, ServiceType, TargetPort};
use rulec_sources::nearest;

use super::finding::{Finding, Severity};
use super::objects::{Objects, port_spot};
use super::spot::Spot;
use super::workloads::{Workload, Workloads, listed};
use crate::cli::Rule;

pub(super) fn findings(objects: &Objects<'_>, workloads: &Workloads<'_>) -> Vec<Finding> {
    let services = objects.services().filter(|(it, _)| it.kind != ServiceType::ExternalName);
    let of_service = |(service, spot): (&Service, &Spot<'_>)| {
        let selected = workloads.selected_by(service);
        let of_port = |port| finding(service, port, spot, &selected);
        service.ports.iter().filter_map(of_port).collect::<Vec<_>>()
    };
    services.flat_map(of_service).collect()
}

fn finding(
    service: &Service,
    port: &ServicePort,
    spot: &Spot<'_>,
    selected: &[&Workload<'_>],
) -> Option<Finding> {
    let TargetPort::Name(name) = &port.target else { return None };
    let (name, protocol) = (name.as_str(), port.protocol.to_string());
    let has = |it: &&&Workload<'_>| it.ports.contains(&(name, protocol.as_str()));
    let lacking: Vec<_> = selected.iter().filter(|it| !has(it)).copied().collect();
    if lacking.is_empty() {
        return None;
    }
    let ports = || lacking.iter().flat_map(|it| &it.ports);
    let of_protocol = ports().filter(|(_, other)| *other == protocol);
    let names: Vec<&str> = of_protocol.map(|(name, _)| *name).collect();
    let hint = match (ports().find(|(other, _)| *other == name), nearest(name, &names)) {
        (Some((_, other)), _) => format!("; the one of this name is {other}"),
        (None, Some(meant)) => format!("; did you mean {meant}?"),
        (None, None) => String::new(),
    };
    let message = format!("no container port {name}/{protocol} in {}{hint}", listed(&lacking));
    let spot = port_spot(spot, port.name.as_str()).key("targetPort");
    let object = format!("Service {}", service.key);
    Some(Finding::at(&spot, object, Severity::Warning, Rule::UnknownTargetPort, message))
}
