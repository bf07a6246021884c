//! What becomes of flows, as JSON. docs/diff-json.md documents it.

use rulec_compiler::net::{Backend, Protocol};
use serde::Serialize;

use super::found::{Counts, FlowGroup, Flows, ServiceFlows};
use super::outlook::{Class, Outlook};

/// The flows, as a part of the document of a difference.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::tool::diff) struct FlowsDocument<'a> {
    total: usize,
    #[serde(flatten)]
    counts: Counts,
    services: Vec<OfService<'a>>,
    listed: Vec<OneFlow<'a>>,
    not_listed: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfService<'a> {
    namespace: &'a str,
    name: &'a str,
    #[serde(flatten)]
    counts: Counts,
    backends: Vec<OfBackend<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OfBackend<'a> {
    backend: Option<Backend>,
    frontends: &'a [String],
    flows: usize,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OneFlow<'a> {
    namespace: &'a str,
    name: &'a str,
    protocol: Protocol,
    client: String,
    destination: String,
    backend: Option<Backend>,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize)]
struct Outcome {
    outcome: Class,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'static str>,
}

impl From<Outlook> for Outcome {
    fn from(outlook: Outlook) -> Self {
        Self { outcome: outlook.class(), next: outlook.next() }
    }
}

impl<'a> From<&'a Flows> for FlowsDocument<'a> {
    fn from(Flows { counts, services, listed }: &'a Flows) -> Self {
        let one = listed.iter().map(|(line, service)| OneFlow {
            namespace: service.namespace.as_str(),
            name: service.name.as_str(),
            protocol: line.protocol,
            client: line.client.to_string(),
            destination: line.destination.to_string(),
            backend: line.backend,
            outcome: line.outlook.into(),
        });
        Self {
            total: counts.total(),
            counts: *counts,
            services: services.iter().map(OfService::from).collect(),
            listed: one.collect(),
            not_listed: counts.total().saturating_sub(listed.len()),
        }
    }
}

impl<'a> From<&'a ServiceFlows> for OfService<'a> {
    fn from(ServiceFlows { service, counts, groups }: &'a ServiceFlows) -> Self {
        let group = |FlowGroup { outlook, backend, frontends, flows }: &'a FlowGroup| OfBackend {
            backend: *backend,
            frontends,
            flows: *flows,
            outcome: (*outlook).into(),
        };
        Self {
            namespace: service.namespace.as_str(),
            name: service.name.as_str(),
            counts: *counts,
            backends: groups.iter().map(group).collect(),
        }
    }
}
