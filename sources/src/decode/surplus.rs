//! Fields that a type of Service does not have.
//!
//! An API server does not accept them, and clears those that a change of the type leaves behind. In
//! a file they are remains of an edit: they are ignored with a warning.

use rulec_compiler::object::{ServiceType, TrafficPolicy};

use super::at::At;
use super::check::Check;
use super::document::Spec;
use super::field::{Field, Text};

/// The features of a type of Service.
#[derive(Clone, Copy)]
pub(super) struct Has {
    kind: ServiceType,
    /// Node ports.
    pub(super) node_ports: bool,
    /// A load balancer and its fields.
    pub(super) balancer: bool,
    /// Addresses that a node serves.
    pub(super) addresses: bool,
}

impl Has {
    pub(super) fn of(kind: ServiceType) -> Self {
        let (addresses, node_ports, balancer) = match kind {
            ServiceType::ExternalName => (false, false, false),
            ServiceType::ClusterIP => (true, false, false),
            ServiceType::NodePort => (true, true, false),
            ServiceType::LoadBalancer => (true, true, true),
        };
        Self { kind, node_ports, balancer, addresses }
    }

    /// Warns that a field is ignored.
    pub(super) fn refuse(self, check: &mut Check<'_, '_>, at: &At<'_>) {
        let name = match self.kind {
            ServiceType::ExternalName => "ExternalName",
            ServiceType::ClusterIP => "ClusterIP",
            ServiceType::NodePort => "NodePort",
            ServiceType::LoadBalancer => "LoadBalancer",
        };
        check.surplus(at, format_args!("not a field of Services of type {name}, ignored"));
    }

    /// Warns about the fields of `spec` that are ignored, except those of its ports.
    pub(super) fn refuse_surplus(self, check: &mut Check<'_, '_>, spec: &Spec, at: &At<'_>) {
        let Spec { external_traffic_policy, health_check_node_port, .. } = spec;
        let is_external = self.node_ports || self.addresses && has_elements(&spec.external_ips);
        let is_local = matches!(external_traffic_policy, Field::Is(policy) if **policy == *"Local");
        let is_checked = matches!(health_check_node_port, Field::Is(port) if *port != 0);
        let allocates = matches!(spec.allocate_load_balancer_node_ports, Field::Is(_));
        let fields = [
            ("clusterIP", self.addresses, has_text(&spec.cluster_ip)),
            ("clusterIPs", self.addresses, has_elements(&spec.cluster_ips)),
            ("externalIPs", self.addresses, has_elements(&spec.external_ips)),
            ("externalTrafficPolicy", is_external, has_text(external_traffic_policy)),
            ("healthCheckNodePort", self.balancer, is_checked),
            ("loadBalancerClass", self.balancer, has_text(&spec.load_balancer_class)),
            (
                "loadBalancerSourceRanges",
                self.balancer,
                has_elements(&spec.load_balancer_source_ranges),
            ),
            ("allocateLoadBalancerNodePorts", self.balancer, allocates),
        ];
        for (key, is_had, is_there) in fields {
            if is_there && !is_had {
                self.refuse(check, &at.key(key));
            }
        }
        if self.balancer && is_checked && !is_local {
            let at = at.key("healthCheckNodePort");
            check.surplus(&at, "ignored, used only with externalTrafficPolicy Local");
        }
    }

    /// Returns the external traffic policy, or Cluster if no client can come from outside.
    pub(super) fn external_policy(self, spec: &Spec, policy: TrafficPolicy) -> TrafficPolicy {
        let is_external = self.node_ports || self.addresses && has_elements(&spec.external_ips);
        if is_external { policy } else { TrafficPolicy::Cluster }
    }
}

fn has_text(field: &Field<Text>) -> bool {
    matches!(field, Field::Is(text) if !text.is_empty())
}

fn has_elements<T>(field: &Field<Vec<T>>) -> bool {
    matches!(field, Field::Is(elements) if !elements.is_empty())
}
