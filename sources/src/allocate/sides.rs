//! What Services write on any side of a comparison.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rulec_compiler::Sourced;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::object::{AskedFamilies, FamilyPolicy, Object, Service};

use super::ledger::{Part, Value};
use super::stage::{fill, written};

/// What Services write on any side. One that leaves a part open on another side has the same there:
/// the list of a cluster has all addresses, and the manifests that were applied have none.
#[derive(Debug, Default)]
pub(super) struct Sides {
    parts: BTreeMap<NamespacedName, BTreeMap<Part, Value>>,
}

/// Who writes a value on one side.
type Writers = BTreeMap<Value, BTreeSet<NamespacedName>>;

impl Sides {
    /// Notes what the Services of a side write. If several sides write a part, the first one
    /// counts.
    pub(super) fn note(&mut self, objects: &[Sourced]) {
        for service in services(objects) {
            let parts = self.parts.entry(service.key.clone()).or_default();
            for (part, value) in parts_of(service) {
                parts.entry(part).or_insert(value);
            }
        }
    }

    /// Fills in what the Services of a side leave open and write on another side.
    pub(super) fn fill(&self, objects: &mut [Sourced]) {
        let mut writers = Writers::new();
        for service in services(objects) {
            for value in written(service) {
                writers.entry(value).or_default().insert(service.key.clone());
            }
        }
        for sourced in objects {
            let Object::Service(service) = &sourced.object else { continue };
            if !service.asks.is_empty() {
                sourced.object = Object::Service(Arc::new(self.filled(service, &writers)));
            }
        }
    }

    /// Returns a Service with what it writes on another side, except what others write on its own:
    /// that is theirs now.
    fn filled(&self, service: &Service, writers: &Writers) -> Service {
        let mut filled = service.clone();
        let Some(known) = self.parts.get(&service.key) else { return filled };
        let is_free = |value: &Value| {
            writers.get(value).is_none_or(|all| all.iter().all(|key| *key == service.key))
        };
        let known = |part: &Part| known.get(part).copied().filter(is_free);
        if let Some(asked) = &service.asks.cluster_ips {
            for family in families(asked) {
                let part = Part::ClusterIp(family);
                let is_open = filled.cluster_ips.of(family).is_none() && !is_served(&filled, asked);
                if let Some(value) = known(&part).filter(|_| is_open) {
                    fill(&mut filled, &part, value);
                }
            }
            if is_served(&filled, asked) {
                filled.asks.cluster_ips = None;
            }
        }
        let open = service.ports.iter().filter(|port| port.node_port.is_none());
        for port in open.filter(|_| service.asks.node_ports) {
            let part = Part::NodePort(port.name.clone());
            if let Some(value) = known(&part) {
                fill(&mut filled, &part, value);
            }
        }
        filled.asks.node_ports &= filled.ports.iter().any(|port| port.node_port.is_none());
        if let Some(value) = known(&Part::HealthCheck).filter(|_| service.asks.health_check) {
            fill(&mut filled, &Part::HealthCheck, value);
            filled.asks.health_check = false;
        }
        filled
    }
}

/// Returns the Services of a side.
pub(super) fn services(objects: &[Sourced]) -> impl Iterator<Item = &Service> {
    objects.iter().filter_map(|sourced| {
        let Object::Service(service) = &sourced.object else { return None };
        Some(&**service)
    })
}

/// Returns the parts that a Service writes.
fn parts_of(service: &Service) -> impl Iterator<Item = (Part, Value)> {
    let address = |family| {
        let address = service.cluster_ips.of(family)?;
        Some((Part::ClusterIp(family), Value::ClusterIp(address)))
    };
    let ports = service.ports.iter().filter_map(|port| {
        Some((Part::NodePort(port.name.clone()), Value::NodePort(port.node_port?)))
    });
    let check = service.health_check_node_port.map(|it| (Part::HealthCheck, Value::NodePort(it)));
    Family::ALL.into_iter().filter_map(address).chain(ports).chain(check)
}

/// Returns the families in which a Service may have an address. Which one it has if it names none
/// depends on the cluster.
fn families(asked: &AskedFamilies) -> Vec<Family> {
    match (asked.policy, asked.first) {
        (FamilyPolicy::SingleStack, Some(first)) => vec![first],
        (FamilyPolicy::SingleStack, None)
        | (FamilyPolicy::PreferDualStack | FamilyPolicy::RequireDualStack, _) => {
            Family::ALL.to_vec()
        }
    }
}

/// Returns whether a Service has all addresses that it asks for.
fn is_served(service: &Service, asked: &AskedFamilies) -> bool {
    let mut all = Family::ALL.into_iter().map(|family| service.cluster_ips.of(family).is_some());
    match asked.policy {
        FamilyPolicy::SingleStack => all.any(|has| has),
        FamilyPolicy::PreferDualStack | FamilyPolicy::RequireDualStack => all.all(|has| has),
    }
}
