//! What the types of Services require, and what has no effect on them.

use std::net::IpAddr;

use rulec_compiler::object::{Affinity, Service, ServiceType, TargetPort};

use super::finding::{Finding, Severity};
use super::names::is_subdomain;
use super::objects::{Objects, port_spot};
use super::spot::Spot;
use crate::cli::Rule;

pub(super) fn findings(objects: &Objects<'_>) -> Vec<Finding> {
    // Without positions, nothing is known of fields that the decoder does not read.
    let services = objects.services().filter(|(_, spot)| spot.is_there());
    let of_service = |(service, spot): (&Service, &Spot<'_>)| {
        let mut found = Found { object: format!("Service {}", service.key), findings: Vec::new() };
        match service.kind {
            ServiceType::ExternalName => found.look_at_external_name(service, spot),
            ServiceType::ClusterIP | ServiceType::NodePort | ServiceType::LoadBalancer => {
                found.look_at_addressed(service, spot);
            }
        }
        found.findings
    };
    services.flat_map(of_service).collect()
}

struct Found {
    object: String,
    findings: Vec<Finding>,
}

impl Found {
    fn tell(
        &mut self,
        spot: &Spot<'_>,
        severity: Severity,
        rule: Rule,
        message: impl Into<String>,
    ) {
        self.findings.push(Finding::at(spot, self.object.clone(), severity, rule, message));
    }

    fn look_at_external_name(&mut self, service: &Service, spot: &Spot<'_>) {
        let field = spot.keys("spec.externalName");
        let name = field.text().unwrap_or_default();
        if name.is_empty() {
            let message = "missing: a Service of type ExternalName needs one";
            self.tell(&field, Severity::Error, Rule::MissingField, message);
        } else if name.parse::<IpAddr>().is_ok() {
            let message = format!("{name} is an address: name servers do not resolve to it");
            self.tell(&field, Severity::Warning, Rule::InvalidValue, message);
        } else if !is_subdomain(name.strip_suffix('.').unwrap_or(name)) {
            let message = format!("{name:?} is not a DNS name");
            self.tell(&field, Severity::Error, Rule::InvalidValue, message);
        }
        if !service.selector.is_empty() {
            let message = "no effect: a Service of type ExternalName selects nothing";
            let selector = spot.keys("spec.selector");
            self.tell(&selector, Severity::Warning, Rule::FieldWithoutEffect, message);
        }
    }

    fn look_at_addressed(&mut self, service: &Service, spot: &Spot<'_>) {
        let field = spot.keys("spec.externalName");
        if field.is_there() {
            let message = format!("not a field of Services of type {:?}, ignored", service.kind);
            self.tell(&field, Severity::Warning, Rule::SurplusField, message);
        }
        let config = spot.keys("spec.sessionAffinityConfig");
        if config.is_there() && service.affinity == Affinity::None {
            let message = "not accepted by the API unless sessionAffinity is ClientIP";
            self.tell(&config, Severity::Error, Rule::SurplusField, message);
        }
        if is_headless(spot) {
            self.look_at_headless(service, spot);
        }
    }

    fn look_at_headless(&mut self, service: &Service, spot: &Spot<'_>) {
        let spec = spot.key("spec");
        let affinity = (service.affinity != Affinity::None).then_some("sessionAffinity");
        let external = (!service.external_ips.is_empty()).then_some("externalIPs");
        for key in affinity.into_iter().chain(external) {
            let message = "no effect: clients of a headless Service connect to the Pods themselves";
            self.tell(&spec.key(key), Severity::Warning, Rule::FieldWithoutEffect, message);
        }
        for port in &service.ports {
            let TargetPort::Number(target) = port.target else { continue };
            if target != port.port {
                let message = format!(
                    "{} is not translated to {target}: clients of a headless Service connect to \
                     the Pods themselves",
                    port.port
                );
                let field = port_spot(spot, port.name.as_str()).key("targetPort");
                self.tell(&field, Severity::Note, Rule::FieldWithoutEffect, message);
            }
        }
    }
}

/// Returns whether a Service is written as one without a cluster address.
fn is_headless(spot: &Spot<'_>) -> bool {
    let spec = spot.key("spec");
    let first = spec.key("clusterIPs").elements().into_iter().next();
    let written = spec.key("clusterIP").text().or_else(|| first.as_ref().and_then(Spot::text));
    written == Some("None")
}
