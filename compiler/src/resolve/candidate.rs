//! The endpoints of a Service port, whether they are used or not.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use crate::model::Model;
use crate::name::{NodeName, Zone};
use crate::net::{Backend, Family};
use crate::object::{Conditions, Hints, Service, ServicePort, SlicePort, TargetPort};
use crate::settings::Settings;

/// An endpoint of a Service port, for selection and for explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// What it may be used for.
    pub conditions: Conditions,
    /// Whether it is on this node.
    pub local: bool,
    /// For whom it is meant.
    pub hints: Option<&'a Hints>,
}

impl Candidate<'_> {
    /// Whether it may serve at all, if need be while it terminates (KEP-1669).
    pub fn is_usable(&self) -> bool {
        self.conditions.ready || (self.conditions.serving && self.conditions.terminating)
    }

    /// Whether it names this node as one it is meant for; `None` if it names no node.
    pub(super) fn is_for_node(&self, node: &NodeName) -> Option<bool> {
        let nodes = self.hints.map(|hints| &hints.nodes).filter(|nodes| !nodes.is_empty())?;
        Some(nodes.contains(node))
    }

    /// Whether it names the zone as one it is meant for; `None` if it names no zone.
    pub(super) fn is_for_zone(&self, zone: &Zone) -> Option<bool> {
        let zones = self.hints.map(|hints| &hints.zones).filter(|zones| !zones.is_empty())?;
        Some(zones.contains(zone))
    }
}

/// All endpoints of a Service port in a family: those of its EndpointSlices and those of the Pods
/// it selects. Of several with the same address and port, one that is not terminating counts before
/// one that is, then a ready one, whatever the order in which they were seen.
pub fn candidates<'a>(
    model: &'a Model,
    settings: &Settings,
    service: &'a Service,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<Backend, Candidate<'a>> {
    let mut found = BTreeMap::new();
    let mut add = |backend: Backend, candidate: Candidate<'a>| {
        found
            .entry(backend)
            .and_modify(|known: &mut Candidate<'a>| {
                if preference(&candidate) > preference(known) {
                    *known = candidate;
                }
            })
            .or_insert(candidate);
    };
    let is_local = |node: &NodeName| *node == settings.node_name;

    for slice in model.slices_of(&service.key) {
        let slice = &*slice.object;
        if slice.family != family {
            continue;
        }
        for slice_port in slice.ports.iter().filter(|slice_port| implements(slice_port, port)) {
            for endpoint in &slice.endpoints {
                let backend = Backend { address: endpoint.address, port: slice_port.port };
                let local = endpoint.node.as_ref().is_some_and(is_local);
                let hints = endpoint.hints.as_deref();
                add(backend, Candidate { conditions: endpoint.conditions, local, hints });
            }
        }
    }

    for pod in model.pods_of(service) {
        let pod = &*pod.object;
        let Some(target) = target(port, &pod.ports) else { continue };
        let mut conditions = pod.conditions;
        conditions.ready |= service.publish_not_ready;
        let local = pod.node.as_ref().is_none_or(is_local);
        for address in model.addresses_of(pod, &settings.node_name) {
            if Family::of(address) == family {
                let backend = Backend { address, port: target };
                add(backend, Candidate { conditions, local, hints: None });
            }
        }
    }
    found
}

fn preference<'a>(candidate: &Candidate<'a>) -> impl Ord + use<'a> {
    let Conditions { ready, serving, terminating } = candidate.conditions;
    (!terminating, ready, serving, candidate.local, candidate.hints)
}

fn implements(slice_port: &SlicePort, port: &ServicePort) -> bool {
    slice_port.name == port.name && slice_port.protocol == port.protocol
}

/// The port to connect to on a Pod: a named target port is looked up there.
fn target(port: &ServicePort, container_ports: &[SlicePort]) -> Option<NonZeroU16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => container_ports
            .iter()
            .find(|candidate| candidate.name == *name && candidate.protocol == port.protocol)
            .map(|candidate| candidate.port),
    }
}
