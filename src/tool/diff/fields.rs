//! The fields in which a Service differs between two sides, whether or not a kernel notices.

use std::collections::BTreeSet;
use std::fmt;

use ipnet::IpNet;
use rulec_compiler::name::PortName;
use rulec_compiler::object::{
    Affinity, IpvsOptions, Service, ServicePort, ServiceType, TargetPort, TrafficPolicy,
};
use serde::Serialize;

/// A field with its values before and after.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Difference {
    pub(super) field: String,
    pub(super) from: String,
    pub(super) to: String,
}

impl Difference {
    pub(super) fn new(field: &str, from: impl ToString, to: impl ToString) -> Self {
        Self { field: field.to_owned(), from: from.to_string(), to: to.to_string() }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, from, to } = self;
        write!(f, "{field}: {to} instead of {from}")
    }
}

/// What a field of a Service decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Where it is reached.
    Frontends,
    /// Which endpoints there are, and which of them a client gets.
    Endpoints,
    /// Who may connect.
    Clients,
    /// Where the daemon answers health checks. No kernel has it.
    HealthCheck,
}

/// Returns the fields in which two versions of a Service differ.
pub(super) fn differences(old: &Service, new: &Service) -> Vec<(Part, Difference)> {
    let mut found = different(fields(old), fields(new));
    let names = old.ports.iter().chain(&new.ports).map(|port| &port.name);
    for name in names.collect::<BTreeSet<_>>() {
        let [old, new] = [old, new].map(|it| it.ports.iter().find(|port| port.name == *name));
        if let (Some(old), Some(new)) = (old, new) {
            let of_port = different(fields_of_port(old), fields_of_port(new)).into_iter();
            found.extend(of_port.map(|(part, it)| {
                (part, Difference { field: format!("{}{}", field_of_port(name), it.field), ..it })
            }));
        } else {
            let [from, to] = [old, new].map(|port| port.map_or_else(none, whole));
            found.push((Part::Frontends, Difference { field: field_of_port(name), from, to }));
        }
    }
    found
}

type Field = (Part, &'static str, String);

fn different<const N: usize>(old: [Field; N], new: [Field; N]) -> Vec<(Part, Difference)> {
    let both = old.into_iter().zip(new).filter(|((.., old), (.., new))| old != new);
    both.map(|((part, field, from), (.., to))| (part, Difference::new(field, from, to))).collect()
}

/// Returns the fields with their values. A new field does not compile before it has a place here.
fn fields(service: &Service) -> [Field; 15] {
    let Service {
        key: _,
        kind,
        cluster_ips,
        ports: _,
        external_ips,
        load_balancer_vips,
        source_ranges,
        affinity,
        internal_policy,
        external_policy,
        health_check_node_port,
        selector,
        publish_not_ready,
        load_balancing,
        ipvs: IpvsOptions { scheduler, flags, drain, max_connections },
        // What could not be given out is told as a problem.
        asks: _,
    } = service;
    let cluster_ips =
        [cluster_ips.v4.map(|it| it.to_string()), cluster_ips.v6.map(|it| it.to_string())];
    let selector = selector.iter().map(|(key, value)| format!("{key}={value}"));
    [
        (Part::Frontends, "spec.type", type_name(*kind).to_owned()),
        (Part::Frontends, "spec.clusterIPs", list(cluster_ips.into_iter().flatten())),
        (Part::Frontends, "status.loadBalancer.ingress", list(load_balancer_vips)),
        (Part::Frontends, "spec.externalIPs", list(external_ips)),
        (Part::Clients, "spec.loadBalancerSourceRanges", ranges(source_ranges)),
        (Part::Endpoints, "spec.sessionAffinity", affinity_text(*affinity)),
        (Part::Endpoints, "spec.internalTrafficPolicy", policy(*internal_policy).to_owned()),
        (Part::Endpoints, "spec.externalTrafficPolicy", policy(*external_policy).to_owned()),
        (Part::HealthCheck, "spec.healthCheckNodePort", optional(*health_check_node_port)),
        (Part::Endpoints, "spec.selector", list(selector)),
        (Part::Endpoints, "spec.publishNotReadyAddresses", publish_not_ready.to_string()),
        (Part::Endpoints, LOAD_BALANCING, optional(*load_balancing)),
        (Part::Endpoints, SCHEDULER, scheduling(*scheduler, *flags)),
        (Part::Endpoints, "metadata.annotations[rulec.io/ipvs-drain-seconds]", optional(*drain)),
        (Part::Endpoints, MAX_CONNECTIONS, optional(*max_connections)),
    ]
}

/// Returns those of a port, without the part of the path that leads there.
fn fields_of_port(port: &ServicePort) -> [Field; 3] {
    let ServicePort { name: _, protocol, port: number, node_port, target } = port;
    [
        (Part::Frontends, ".port", format!("{number}/{protocol}")),
        (Part::Frontends, ".nodePort", optional(*node_port)),
        (Part::Endpoints, ".targetPort", target_port(target)),
    ]
}

pub(super) const LOAD_BALANCING: &str = "metadata.annotations[rulec.io/load-balancing]";
pub(super) const SCHEDULER: &str = "metadata.annotations[rulec.io/ipvs-scheduler]";
pub(super) const MAX_CONNECTIONS: &str = "metadata.annotations[rulec.io/max-connections]";

fn field_of_port(name: &PortName) -> String {
    // Only a single port may have no name.
    if name.as_str().is_empty() {
        "spec.ports[0]".to_owned()
    } else {
        format!("spec.ports[{name}]")
    }
}

fn whole(port: &ServicePort) -> String {
    format!("{}/{} to {}", port.port, port.protocol, target_port(&port.target))
}

fn target_port(target: &TargetPort) -> String {
    match target {
        TargetPort::Number(number) => number.to_string(),
        TargetPort::Name(name) => name.to_string(),
    }
}

fn type_name(kind: ServiceType) -> &'static str {
    match kind {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::ExternalName => "ExternalName",
    }
}

fn policy(policy: TrafficPolicy) -> &'static str {
    match policy {
        TrafficPolicy::Cluster => "Cluster",
        TrafficPolicy::Local => "Local",
    }
}

fn affinity_text(affinity: Affinity) -> String {
    match affinity {
        Affinity::None => timeout(None),
        Affinity::ClientIp { timeout: seconds } => timeout(Some(seconds)),
    }
}

/// Describes a session affinity.
pub(super) fn timeout(seconds: Option<u32>) -> String {
    seconds.map_or_else(|| "None".to_owned(), |seconds| format!("ClientIP for {seconds} s"))
}

fn scheduling(scheduler: Option<impl ToString>, flags: Option<impl ToString>) -> String {
    match (scheduler, flags) {
        (scheduler, None) => optional(scheduler),
        (scheduler, Some(flags)) => {
            format!("{} with flags {:?}", optional(scheduler), flags.to_string())
        }
    }
}

fn ranges(networks: &[IpNet]) -> String {
    if networks.is_empty() { "all".to_owned() } else { list(networks) }
}

/// Joins values.
pub(super) fn list(all: impl IntoIterator<Item = impl ToString>) -> String {
    let text = all.into_iter().map(|it| it.to_string()).collect::<Vec<_>>().join(", ");
    if text.is_empty() { none() } else { text }
}

/// Describes a value that need not be there.
pub(super) fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(none, |value| value.to_string())
}

fn none() -> String {
    "none".to_owned()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use rulec_compiler::name::NamespacedName;
    use rulec_compiler::net::Protocol;

    use super::*;

    fn port(name: &str, number: u16) -> ServicePort {
        let number = NonZeroU16::new(number).unwrap();
        ServicePort {
            name: name.into(),
            protocol: Protocol::Tcp,
            port: number,
            node_port: None,
            target: TargetPort::Name("main".into()),
        }
    }

    #[test]
    fn a_difference_names_the_field_and_both_values() {
        let web = Service::new(NamespacedName::new("default", "web"));
        let mut old = Service { ports: vec![port("a", 80), port("b", 81)], ..web.clone() };
        old.selector = [("app".into(), "web".into())].into();
        let mut new = Service { ports: vec![port("b", 81), port("c", 82)], ..web };
        new.ports[0].node_port = NonZeroU16::new(30080);
        new.affinity = Affinity::ClientIp { timeout: 60 };
        new.source_ranges = vec!["10.0.0.0/8".parse().unwrap()];
        new.health_check_node_port = NonZeroU16::new(31000);
        let told = differences(&old, &new);
        let told: Vec<String> = told.into_iter().map(|(_, it)| it.to_string()).collect();
        let expected = [
            "spec.loadBalancerSourceRanges: 10.0.0.0/8 instead of all",
            "spec.sessionAffinity: ClientIP for 60 s instead of None",
            "spec.healthCheckNodePort: 31000 instead of none",
            "spec.selector: none instead of app=web",
            "spec.ports[a]: none instead of 80/TCP to main",
            "spec.ports[b].nodePort: 30080 instead of none",
            "spec.ports[c]: 82/TCP to main instead of none",
        ];
        assert_eq!(told, expected);
        assert!(differences(&new, &new.clone()).is_empty());
    }
}
