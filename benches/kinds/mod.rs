//! One change of one object, of every kind, as before and after; with the cluster of `world`.

#![allow(dead_code, reason = "not every bench needs all of it")]

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use rulec_compiler::change::{Change, Sourced};
use rulec_compiler::load_balancing::{LoadBalancing, Weight};
use rulec_compiler::name::NodeName;
use rulec_compiler::object::{
    Affinity, Conditions, EndpointSlice, Hints, Node, Object, Service, ServiceType, TrafficPolicy,
};

use crate::world::{plain_service, port, slice, sourced};

/// The endpoints of each Service: a slot is drawn among 12.
pub(crate) const ENDPOINTS: usize = 10;
/// This node, and its zone.
pub(crate) const NODE: &str = "na";
const ZONE: &str = "here";

/// Returns the Node of this machine.
pub(crate) fn node() -> Sourced {
    sourced(Object::Node(Arc::new(Node {
        name: NodeName::from(NODE),
        addresses: vec!["192.0.2.10".parse().unwrap()],
        pod_cidrs: Vec::new(),
        zone: Some(ZONE.into()),
        taints: Vec::new(),
        deleting: false,
    })))
}

pub(crate) fn endpoints(service: usize, endpoints: usize) -> Vec<Change> {
    vec![Change::Apply(slice(service, endpoints))]
}

/// The slice of a Service, changed.
pub(crate) fn slices(service: usize, change: impl FnOnce(&mut EndpointSlice)) -> Vec<Change> {
    let sourced = slice(service, ENDPOINTS);
    let Object::EndpointSlice(slice) = sourced.object else { panic!("it is a slice") };
    let mut changed = Arc::unwrap_or_clone(slice);
    change(&mut changed);
    vec![Change::Apply(self::sourced(Object::EndpointSlice(Arc::new(changed))))]
}

pub(crate) const UNREADY: Conditions =
    Conditions { ready: false, serving: false, terminating: false };

/// One endpoint is in a slice of its own, which has a weight.
pub(crate) fn weights(service: usize, weight: u8) -> Vec<Change> {
    let others = slices(service, |it| it.endpoints = it.endpoints.split_off(1));
    let Object::EndpointSlice(heavy) = slice(service, 1).object else { panic!("it is a slice") };
    let mut heavy = Arc::unwrap_or_clone(heavy);
    heavy.key.name = format!("service-{service}-heavy").as_str().into();
    heavy.weight = Weight::try_from(weight).unwrap();
    let heavy = Change::Apply(sourced(Object::EndpointSlice(Arc::new(heavy))));
    [others, vec![heavy]].concat()
}

pub(crate) fn by_table(service: Service) -> Service {
    Service { load_balancing: Some(LoadBalancing::Maglev), ..service }
}

pub(crate) fn in_turn(service: Service) -> Service {
    Service { load_balancing: Some(LoadBalancing::RoundRobin), ..service }
}

/// Half of the endpoints are for the zone of the node.
pub(crate) fn hinted(slice: &mut EndpointSlice) {
    hint(slice, 0);
}

/// The other half is.
pub(crate) fn hinted_elsewhere(slice: &mut EndpointSlice) {
    hint(slice, 1);
}

fn hint(slice: &mut EndpointSlice, odd: usize) {
    for (number, endpoint) in slice.endpoints.iter_mut().enumerate() {
        let zone = if number % 2 == odd { ZONE } else { "elsewhere" };
        endpoint.hints = Some(Box::new(Hints { zones: [zone.into()].into(), nodes: [].into() }));
    }
}

/// Some of the endpoints are on the node.
pub(crate) fn on_this_node(slice: &mut EndpointSlice) {
    for endpoint in slice.endpoints.iter_mut().take(2) {
        endpoint.node = Some(NodeName::from(NODE));
    }
}

pub(crate) fn internal(service: Service) -> Service {
    Service { internal_policy: TrafficPolicy::Local, ..service }
}

pub(crate) fn balanced(service: Service, number: usize, addresses: usize) -> Service {
    let balancers = (0..addresses).map(|it| external(number * 2 + it)).collect();
    Service { kind: ServiceType::LoadBalancer, load_balancer_vips: balancers, ..service }
}

pub(crate) fn put(service: usize, change: impl FnOnce(Service) -> Service) -> Vec<Change> {
    let changed = change(plain_service(service));
    vec![Change::Apply(sourced(Object::Service(Arc::new(changed))))]
}

pub(crate) fn plain(service: Service) -> Service {
    service
}

pub(crate) fn sticky(service: Service, timeout: u32) -> Service {
    Service { affinity: Affinity::ClientIp { timeout }, ..service }
}

pub(crate) fn exposed(mut service: Service, number: usize) -> Service {
    service.kind = ServiceType::NodePort;
    for it in &mut service.ports {
        it.node_port = Some(port(30_000 + u16::try_from(number % 2_700).unwrap()));
    }
    service
}

pub(crate) fn local(service: Service) -> Service {
    Service { external_policy: TrafficPolicy::Local, ..service }
}

fn external(number: usize) -> IpAddr {
    let number = u32::try_from(number).unwrap();
    IpAddr::from(Ipv4Addr::from(0xc612_0000 + number % 0x1_0000))
}

pub(crate) fn reachable(service: Service, number: usize) -> Service {
    Service { external_ips: vec![external(number)], ..service }
}

pub(crate) fn restricted(service: Service, number: usize, ranges: usize) -> Service {
    let all = ["192.0.2.0/24", "203.0.113.0/24"];
    Service {
        kind: ServiceType::LoadBalancer,
        load_balancer_vips: vec![external(number)],
        source_ranges: all.iter().take(ranges).map(|net| net.parse().unwrap()).collect(),
        ..service
    }
}

pub(crate) fn moved(mut service: Service, number: usize) -> Service {
    let number = u32::try_from(number).unwrap();
    service.cluster_ips.v4 = Some(Ipv4Addr::from(0x0afe_0000 + number % 0x1_0000));
    service
}
