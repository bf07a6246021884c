//! The effect of the `Local` policies of a Service on this node: the result of the health check for
//! load balancers, and the ports that silently drop traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;

use super::{Candidate, candidates, is_external};
use crate::model::Model;
use crate::name::NamespacedName;
use crate::net::Family;
use crate::object::{Service, ServiceType, TrafficPolicy};
use crate::settings::Settings;

/// A Service with a `Local` policy, on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalView {
    /// `spec.healthCheckNodePort`, if load balancers are to query it: the Service is of type
    /// LoadBalancer, and its external policy is `Local`.
    pub health_check: Option<NonZeroU16>,
    /// Each family in which the Service has a cluster address.
    pub families: BTreeMap<Family, LocalFamily>,
}

/// The view in one family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalFamily {
    /// The number of distinct addresses of endpoints, of any port, that are ready and on this node.
    /// Terminating endpoints are not counted, although they serve the traffic that still arrives:
    /// load balancers shall send new connections elsewhere (KEP-1669).
    pub ready: usize,
    /// The number of ports whose internal policy is `Local` and that have endpoints, but none here.
    pub dropped_internal: usize,
    /// The same for the external policy.
    pub dropped_external: usize,
}

/// Returns the view of a Service; `None` if neither policy is `Local`, or if it is not served.
pub fn local_view(
    model: &Model,
    settings: &Settings,
    service: &NamespacedName,
) -> Option<LocalView> {
    let service = &*model.service(service)?.object;
    let internal = service.internal_policy == TrafficPolicy::Local;
    let external = service.external_policy == TrafficPolicy::Local && is_external(service);
    if !(internal || external) || service.ports.is_empty() {
        return None;
    }
    let families: BTreeMap<Family, LocalFamily> = Family::ALL
        .into_iter()
        .filter(|family| service.cluster_ips.of(*family).is_some())
        .map(|family| (family, of_family(model, settings, service, family, internal, external)))
        .collect();
    if families.is_empty() {
        return None;
    }
    let is_balanced = external && service.kind == ServiceType::LoadBalancer;
    let health_check = service.health_check_node_port.filter(|_| is_balanced);
    Some(LocalView { health_check, families })
}

fn of_family(
    model: &Model,
    settings: &Settings,
    service: &Service,
    family: Family,
    internal: bool,
    external: bool,
) -> LocalFamily {
    let mut ready: BTreeSet<IpAddr> = BTreeSet::new();
    let mut dropped = 0;
    for port in &service.ports {
        let candidates = candidates(model, settings, service, port, family);
        let is_local_and_ready =
            |candidate: &Candidate<'_>| candidate.is_local() && candidate.is_ready();
        let here = candidates.iter().filter(|(_, candidate)| is_local_and_ready(candidate));
        ready.extend(here.map(|(backend, _)| backend.address));
        let mut usable = candidates.values().filter(|it| it.is_usable()).peekable();
        let has_any = usable.peek().is_some();
        dropped += usize::from(has_any && !usable.any(Candidate::is_local));
    }
    LocalFamily {
        ready: ready.len(),
        dropped_internal: if internal { dropped } else { 0 },
        dropped_external: if external { dropped } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{Change, Origin, Provenance, Sourced};
    use crate::load_balancing::Weight;
    use crate::name::NodeName;
    use crate::net::Protocol;
    use crate::object::{
        ClusterIps, Conditions, Endpoint, EndpointSlice, Object, ServicePort, SlicePort, TargetPort,
    };

    const TERMINATING: Conditions = Conditions { ready: false, serving: true, terminating: true };
    const UNREADY: Conditions = Conditions { ready: false, serving: false, terminating: false };

    fn port(number: u16) -> NonZeroU16 {
        NonZeroU16::new(number).unwrap()
    }

    fn balanced() -> Service {
        let service_port = |name: &str, number| ServicePort {
            name: name.into(),
            protocol: Protocol::Tcp,
            port: port(number),
            node_port: None,
            target: TargetPort::Number(port(number)),
        };
        Service {
            kind: ServiceType::LoadBalancer,
            cluster_ips: ClusterIps { v4: Some([10, 96, 0, 1].into()), v6: None },
            ports: vec![service_port("http", 80), service_port("https", 443)],
            external_policy: TrafficPolicy::Local,
            health_check_node_port: Some(port(31_000)),
            ..Service::new(NamespacedName::new("default", "web"))
        }
    }

    /// Returns the view of a Service with these endpoints: last byte of the address, node,
    /// conditions.
    fn view(service: Service, endpoints: &[(u8, &str, Conditions)]) -> Option<LocalView> {
        let key = service.key.clone();
        let slice_port =
            |name: &str| SlicePort { name: name.into(), protocol: Protocol::Tcp, port: port(8080) };
        let slice = EndpointSlice {
            key: NamespacedName::new("default", "web-a"),
            service: key.clone(),
            family: Family::Ipv4,
            ports: vec![slice_port("http"), slice_port("https")],
            endpoints: endpoints
                .iter()
                .map(|(last, node, conditions)| Endpoint {
                    conditions: *conditions,
                    node: Some(NodeName::from(*node)),
                    ..Endpoint::ready([10, 244, 0, *last].into())
                })
                .collect(),
            weight: Weight::default(),
        };
        let mut model = Model::default();
        for object in [Object::Service(Arc::new(service)), Object::EndpointSlice(Arc::new(slice))] {
            let sourced = Sourced { object, provenance: Provenance("test".into()) };
            model.apply(Origin::Manifests, Change::Apply(sourced));
        }
        local_view(&model, &Settings::new(NodeName::from("here")), &key)
    }

    fn v4(view: Option<LocalView>) -> LocalFamily {
        view.unwrap().families[&Family::Ipv4]
    }

    #[test]
    fn an_address_counts_once_for_all_ports() {
        let ready = Conditions::READY;
        let found = view(balanced(), &[(1, "here", ready), (2, "there", ready)]);
        assert_eq!(found.as_ref().unwrap().health_check, Some(port(31_000)));
        assert_eq!(v4(found), LocalFamily { ready: 1, ..LocalFamily::default() });
        assert_eq!(v4(view(balanced(), &[(1, "here", ready), (2, "here", ready)])).ready, 2);
    }

    #[test]
    fn terminating_endpoints_serve_but_do_not_count() {
        let found = v4(view(balanced(), &[(1, "here", TERMINATING)]));
        assert_eq!(found, LocalFamily::default());
    }

    #[test]
    fn traffic_is_dropped_only_if_all_endpoints_are_remote() {
        let elsewhere = v4(view(balanced(), &[(1, "there", Conditions::READY)]));
        assert_eq!(elsewhere, LocalFamily { dropped_external: 2, ..LocalFamily::default() });
        assert_eq!(v4(view(balanced(), &[])), LocalFamily::default());
        assert_eq!(v4(view(balanced(), &[(1, "there", UNREADY)])), LocalFamily::default());
        let ready = Conditions::READY;
        let unready_here = v4(view(balanced(), &[(1, "there", ready), (2, "here", UNREADY)]));
        assert_eq!(unready_here.dropped_external, 2);
        let internal = Service { internal_policy: TrafficPolicy::Local, ..balanced() };
        let both = v4(view(internal, &[(1, "there", ready)]));
        assert_eq!((both.dropped_internal, both.dropped_external), (2, 2));
    }

    #[test]
    fn families_are_counted_separately() {
        let v6 = Some([0xfd00, 0, 0, 0, 0, 0, 0, 1].into());
        let dual = ClusterIps { v6, ..balanced().cluster_ips };
        let dual = Service { cluster_ips: dual, ..balanced() };
        let found = view(dual, &[(1, "here", Conditions::READY)]).unwrap();
        let ready = found.families.iter().map(|(family, counted)| (*family, counted.ready));
        assert_eq!(ready.collect::<Vec<_>>(), [(Family::Ipv4, 1), (Family::Ipv6, 0)]);
    }

    #[test]
    fn a_ready_terminating_endpoint_counts() {
        let published = Conditions { terminating: true, ..Conditions::READY };
        assert_eq!(v4(view(balanced(), &[(1, "here", published)])).ready, 1);
    }

    #[test]
    fn a_local_terminating_endpoint_precedes_a_remote_ready_one() {
        let both = [(1, "here", TERMINATING), (2, "there", Conditions::READY)];
        assert_eq!(v4(view(balanced(), &both)), LocalFamily::default());
    }

    #[test]
    fn services_without_a_local_policy_have_no_local_view() {
        let cluster = Service { external_policy: TrafficPolicy::Cluster, ..balanced() };
        assert_eq!(view(cluster, &[]), None);
        let inside = Service { kind: ServiceType::ClusterIP, ..balanced() };
        assert_eq!(view(inside, &[]), None);
        let headless = Service { cluster_ips: ClusterIps::default(), ..balanced() };
        assert_eq!(view(headless, &[]), None);
    }

    #[test]
    fn only_load_balancers_have_a_health_check() {
        let node_port = Service { kind: ServiceType::NodePort, ..balanced() };
        let found = view(node_port, &[(1, "here", Conditions::READY)]).unwrap();
        assert_eq!(found.health_check, None);
        let internal = Service {
            external_policy: TrafficPolicy::Cluster,
            internal_policy: TrafficPolicy::Local,
            ..balanced()
        };
        assert_eq!(view(internal, &[]).unwrap().health_check, None);
    }
}
