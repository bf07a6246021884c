//! The endpoints of a Service port, whether or not they are used.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;

use super::host;
use crate::load_balancing::Weight;
use crate::model::{Entry, Model};
use crate::name::{NodeName, PortName, Zone};
use crate::net::{Backend, Family, Protocol};
use crate::object::{
    Conditions, EndpointSlice, Hints, Pod, PodAddresses, Service, ServicePort, SlicePort,
    TargetPort,
};
use crate::settings::Settings;

/// An endpoint of a Service port, for selection and for explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Its conditions, which decide what it may be used for.
    pub conditions: Conditions,
    /// Its location, as seen from this node.
    pub place: Place,
    /// Its topology hints.
    pub hints: Option<&'a Hints>,
    /// Its weight; without any, it gets no new connections.
    pub weight: Weight,
}

/// The location of an endpoint, as seen from this node. If two entries for one endpoint are equal
/// otherwise, the later variant is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On another node.
    Elsewhere,
    /// It names no node, for example in an EndpointSlice that was written by hand. It does not
    /// serve under policy Local, but may still be on this node.
    Unknown,
    /// On this node.
    Here,
}

impl Candidate<'_> {
    /// Returns true if it is known to be on this node.
    pub fn is_local(&self) -> bool {
        self.place == Place::Here
    }

    /// Returns true if it may be on this node. Its packets may then pass through this node, so that
    /// it must be able to reach itself through its Service (hairpin).
    pub fn may_be_here(&self) -> bool {
        self.place != Place::Elsewhere
    }

    /// Returns true if it is ready for new connections.
    pub fn is_ready(&self) -> bool {
        self.conditions.ready && !self.weight.is_none()
    }

    /// Returns true if it terminates and still serves, so that it is used if no other is ready
    /// (KEP-1669).
    pub fn is_last_resort(&self) -> bool {
        self.conditions.serving && self.conditions.terminating && !self.weight.is_none()
    }

    /// Returns true if it may serve at all, if necessary while it terminates.
    pub fn is_usable(&self) -> bool {
        self.is_ready() || self.is_last_resort()
    }

    /// Returns true if it has a hint for this node; `None` if it has no hint for nodes.
    pub(super) fn is_for_node(&self, node: &NodeName) -> Option<bool> {
        let nodes = self.hints.map(|hints| &hints.nodes).filter(|nodes| !nodes.is_empty())?;
        Some(nodes.contains(node))
    }

    /// Returns true if it has a hint for the zone; `None` if it has no hint for zones.
    pub(super) fn is_for_zone(&self, zone: &Zone) -> Option<bool> {
        let zones = self.hints.map(|hints| &hints.zones).filter(|zones| !zones.is_empty())?;
        Some(zones.contains(zone))
    }
}

/// What was looked at for the endpoints of a Service port: an endpoint, or an object that has none
/// for it.
#[derive(Clone, Debug)]
pub enum Seen<'a> {
    /// An endpoint of a slice. Another entry for the same endpoint may count instead.
    Endpoint(Backend, Candidate<'a>, &'a Entry<EndpointSlice>),
    /// An endpoint that is an address of a Pod, likewise.
    Pod(Backend, Candidate<'a>, &'a Entry<Pod>),
    /// A slice of which no endpoint counts.
    NoSlice(&'a Entry<EndpointSlice>, Mismatch),
    /// A selected Pod that cannot be reached.
    NoPod(&'a Entry<Pod>, Mismatch),
}

/// The reason why an object has no endpoint for a Service port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mismatch {
    /// The slice has no port of this name and protocol.
    SlicePort(PortName, Protocol),
    /// The slice mirrors Endpoints, and the Service has a selector or slices of its own.
    Mirror,
    /// The Pod has no container port of this name and protocol.
    ContainerPort(PortName, Protocol),
    /// The Pod has no address.
    NoAddress,
    /// The Pod is in the host network of a node whose address is not known.
    NoNodeAddress,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |name: &PortName| match name.as_str() {
            "" => "(unnamed)".to_owned(),
            name => name.to_owned(),
        };
        match self {
            Self::SlicePort(name, protocol) => {
                write!(f, "its slice has no port {}/{protocol}", named(name))
            }
            Self::Mirror => {
                f.write_str("Endpoints are used only without a selector and without EndpointSlices")
            }
            Self::ContainerPort(name, protocol) => {
                write!(f, "no container port {}/{protocol} (targetPort)", named(name))
            }
            Self::NoAddress => f.write_str("no address (status.podIPs)"),
            Self::NoNodeAddress => f.write_str("host network, and its node has no known address"),
        }
    }
}

/// Returns all endpoints of a Service port in a family: those of its EndpointSlices and those of
/// the Pods that it selects. Of several with the same address and port, one that is not terminating
/// is preferred, then a ready one, whatever the order in which they were seen.
pub fn candidates<'a>(
    model: &'a Model,
    settings: &Settings,
    service: &'a Service,
    port: &ServicePort,
    family: Family,
) -> BTreeMap<Backend, Candidate<'a>> {
    let node = &settings.node_name;
    let mut found = BTreeMap::new();
    look(model, settings, service, port, family, |seen| {
        let (Seen::Endpoint(backend, candidate, _) | Seen::Pod(backend, candidate, _)) = seen
        else {
            return;
        };
        found
            .entry(backend)
            .and_modify(|known: &mut Candidate<'a>| {
                if preference(&candidate, node) > preference(known, node) {
                    *known = candidate;
                }
            })
            .or_insert(candidate);
    });
    found
}

/// Looks at everything that may have an endpoint for a Service port in a family.
pub fn look<'a>(
    model: &'a Model,
    settings: &Settings,
    service: &'a Service,
    port: &ServicePort,
    family: Family,
    mut see: impl FnMut(Seen<'a>),
) {
    let place = |node: &NodeName| {
        if *node == settings.node_name { Place::Here } else { Place::Elsewhere }
    };
    let mut of_slice = |entry: &'a Entry<EndpointSlice>, counts: bool| {
        let slice = &*entry.object;
        if slice.family != family {
            return;
        }
        if !counts {
            return see(Seen::NoSlice(entry, Mismatch::Mirror));
        }
        let mut is_one = false;
        for slice_port in slice.ports.iter().filter(|slice_port| implements(slice_port, port)) {
            is_one = true;
            for endpoint in &slice.endpoints {
                let backend = Backend { address: endpoint.address, port: slice_port.port };
                let place = endpoint.node.as_ref().map_or(Place::Unknown, place);
                let hints = endpoint.hints.as_deref();
                let (conditions, weight) = (endpoint.conditions, slice.weight);
                see(Seen::Endpoint(backend, Candidate { conditions, place, hints, weight }, entry));
            }
        }
        if !is_one {
            see(Seen::NoSlice(entry, Mismatch::SlicePort(port.name.clone(), port.protocol)));
        }
    };
    model.marked_slices_of(service).for_each(|(entry, counts)| of_slice(entry, counts));

    for entry in model.pods_of(service) {
        let pod = &*entry.object;
        let target = match target(port, &pod.ports) {
            Ok(target) => target,
            Err(mismatch) => {
                see(Seen::NoPod(entry, mismatch));
                continue;
            }
        };
        let mut conditions = pod.conditions;
        conditions.ready |= service.publish_not_ready;
        // A manifest that names no node describes a Pod of this one.
        let place = pod.node.as_ref().map_or(Place::Here, place);
        let addresses = host::addresses_of(model, settings, pod);
        if addresses.is_empty() {
            let is_host = pod.addresses == PodAddresses::Node;
            let why = if is_host { Mismatch::NoNodeAddress } else { Mismatch::NoAddress };
            see(Seen::NoPod(entry, why));
        }
        for address in addresses.into_iter().filter(|address| Family::of(*address) == family) {
            let backend = Backend { address, port: target };
            let candidate = Candidate { conditions, place, hints: None, weight: pod.weight };
            see(Seen::Pod(backend, candidate, entry));
        }
    }
}

/// Of the nodes in hints, only this one makes a difference, so that a copy of an object that names
/// no other node decides alike.
fn preference<'a>(candidate: &Candidate<'a>, node: &NodeName) -> impl Ord + use<'a> {
    let Conditions { ready, serving, terminating } = candidate.conditions;
    let Candidate { hints, place, weight, .. } = *candidate;
    let hints = hints.map(|hints| (&hints.zones, candidate.is_for_node(node)));
    (!terminating, ready, serving, candidate.is_local(), hints, place, weight)
}

fn implements(slice_port: &SlicePort, port: &ServicePort) -> bool {
    slice_port.name == port.name && slice_port.protocol == port.protocol
}

/// Returns the port to connect to on a Pod; a named target port is looked up among its ports.
fn target(port: &ServicePort, container_ports: &[SlicePort]) -> Result<NonZeroU16, Mismatch> {
    match &port.target {
        TargetPort::Number(number) => Ok(*number),
        TargetPort::Name(name) => container_ports
            .iter()
            .find(|candidate| candidate.name == *name && candidate.protocol == port.protocol)
            .map(|candidate| candidate.port)
            .ok_or_else(|| Mismatch::ContainerPort(name.clone(), port.protocol)),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Arc;

    use super::*;
    use crate::change::{Change, Origin, Provenance, Sourced};
    use crate::name::NamespacedName;
    use crate::object::{Endpoint, InterfaceAddresses, Node, Object};

    const TERMINATING: Conditions = Conditions { ready: false, serving: true, terminating: true };
    const NOT_READY: Conditions = Conditions { ready: false, serving: false, terminating: false };

    fn number(port: u16) -> NonZeroU16 {
        NonZeroU16::new(port).unwrap()
    }

    fn service() -> Service {
        let selector = [("app".into(), "web".into())].into();
        Service { selector, ..Service::new(NamespacedName::new("default", "web")) }
    }

    fn port(target: TargetPort) -> ServicePort {
        ServicePort {
            name: "http".into(),
            protocol: Protocol::Tcp,
            port: number(80),
            node_port: None,
            target,
        }
    }

    fn slice(name: &str, port: u16, endpoints: &[(u8, Option<&str>, Conditions)]) -> Object {
        let endpoint = |(last, node, conditions): &(u8, Option<&str>, Conditions)| Endpoint {
            conditions: *conditions,
            node: node.map(NodeName::from),
            ..Endpoint::ready(IpAddr::from([10, 0, 0, *last]))
        };
        Object::EndpointSlice(Arc::new(EndpointSlice {
            key: NamespacedName::new("default", name),
            service: NamespacedName::new("default", "web"),
            family: Family::Ipv4,
            ports: vec![slice_port("http", Protocol::Tcp, port)],
            endpoints: endpoints.iter().map(endpoint).collect(),
            weight: Weight::default(),
        }))
    }

    fn slice_port(name: &str, protocol: Protocol, port: u16) -> SlicePort {
        SlicePort { name: name.into(), protocol, port: number(port) }
    }

    /// Returns the endpoints: address and port, whether it is local, and conditions.
    fn found(objects: &[Object], service: &Service) -> Vec<(String, bool, Conditions)> {
        found_at(objects, service, TargetPort::Number(number(8080)))
    }

    fn found_at(
        objects: &[Object],
        service: &Service,
        target: TargetPort,
    ) -> Vec<(String, bool, Conditions)> {
        let mut model = Model::default();
        for object in objects {
            let sourced = Sourced { object: object.clone(), provenance: Provenance("test".into()) };
            model.apply(Origin::Manifests, Change::Apply(sourced));
        }
        let settings = Settings::new(NodeName::from("here"));
        let all = candidates(&model, &settings, service, &port(target), Family::Ipv4);
        let all = all.into_iter();
        all.map(|(backend, it)| (backend.to_string(), it.is_local(), it.conditions)).collect()
    }

    fn of(backend: &str, local: bool, conditions: Conditions) -> (String, bool, Conditions) {
        (backend.to_owned(), local, conditions)
    }

    #[test]
    fn an_endpoint_is_local_if_it_names_this_node_exactly() {
        let ready = Conditions::READY;
        let endpoints = [(1, Some("here"), ready), (2, Some("HERE"), ready), (3, None, ready)];
        let expected = [("10.0.0.1:80", true), ("10.0.0.2:80", false), ("10.0.0.3:80", false)];
        assert_eq!(
            found(&[slice("a", 80, &endpoints)], &service()),
            expected.map(|(backend, local)| of(backend, local, ready))
        );
    }

    #[test]
    fn a_port_is_matched_by_name_and_protocol() {
        let ready = [(1, None, Conditions::READY)];
        let with = |ports: Vec<SlicePort>| {
            let Object::EndpointSlice(slice) = slice("a", 80, &ready) else { unreachable!() };
            found(
                &[Object::EndpointSlice(Arc::new(EndpointSlice { ports, ..(*slice).clone() }))],
                &service(),
            )
        };
        assert_eq!(with(vec![slice_port("http", Protocol::Udp, 80)]), []);
        assert_eq!(with(vec![slice_port("web", Protocol::Tcp, 80)]), []);
        assert_eq!(with(vec![slice_port("", Protocol::Tcp, 80)]), []);
        // Two numbers with one name make two endpoints.
        let two =
            vec![slice_port("http", Protocol::Tcp, 80), slice_port("http", Protocol::Tcp, 81)];
        let ready = Conditions::READY;
        assert_eq!(with(two), ["10.0.0.1:80", "10.0.0.1:81"].map(|it| of(it, false, ready)));
    }

    #[test]
    fn the_best_copy_of_an_endpoint_counts_in_any_order() {
        let ready = Conditions::READY;
        let better = [
            // Not terminating comes before terminating, even if that is ready; then ready; then
            // local.
            ((None, NOT_READY), (None, TERMINATING)),
            ((None, NOT_READY), (None, Conditions { terminating: true, ..ready })),
            ((None, ready), (Some("here"), NOT_READY)),
            ((Some("here"), ready), (Some("there"), ready)),
        ];
        for ((node, conditions), (other_node, other)) in better {
            let expected = [of("10.0.0.1:80", node == Some("here"), conditions)];
            for names in [["a", "b"], ["b", "a"]] {
                let objects = [
                    slice(names[0], 80, &[(1, node, conditions)]),
                    slice(names[1], 80, &[(1, other_node, other)]),
                ];
                assert_eq!(found(&objects, &service()), expected);
            }
        }
        // Another port is another endpoint.
        let two = [slice("a", 80, &[(1, None, ready)]), slice("b", 81, &[(1, None, ready)])];
        assert_eq!(found(&two, &service()).len(), 2);
    }

    fn pod(name: &str, addresses: PodAddresses, conditions: Conditions) -> Pod {
        Pod {
            key: NamespacedName::new("default", name),
            labels: [("app".into(), "web".into()), ("more".into(), "labels".into())].into(),
            node: None,
            addresses,
            ports: vec![slice_port("web", Protocol::Tcp, 9090)],
            conditions,
            host: None,
            weight: Weight::default(),
        }
    }

    fn own(last: u8) -> PodAddresses {
        PodAddresses::Own(vec![IpAddr::from([10, 0, 0, last])])
    }

    #[test]
    fn pods_are_endpoints_by_selector() {
        let ready = Conditions::READY;
        let here = pod("a", own(1), ready);
        let there = Pod { node: Some("there".into()), ..pod("b", own(2), ready) };
        let other = Pod { labels: [].into(), ..pod("c", own(3), ready) };
        let pods = [here, there, other].map(|pod| Object::Pod(Arc::new(pod)));
        let expected = [("10.0.0.1:8080", true), ("10.0.0.2:8080", false)];
        assert_eq!(
            found(&pods, &service()),
            expected.map(|(backend, local)| of(backend, local, ready))
        );
        let unselective = Service { selector: [].into(), ..service() };
        assert_eq!(found(&pods, &unselective), []);
        // A named port is looked up in each Pod; a Pod without it is no endpoint.
        let found = |name: &str| found_at(&pods, &service(), TargetPort::Name(name.into()));
        assert_eq!(found("web")[0], of("10.0.0.1:9090", true, ready));
        assert_eq!(found("metrics"), []);
    }

    #[test]
    fn objects_without_an_endpoint_are_seen_with_the_reason() {
        let ready = Conditions::READY;
        let bare = pod("bare", PodAddresses::Own(Vec::new()), ready);
        let host = Pod { node: Some("there".into()), ..pod("host", PodAddresses::Node, ready) };
        let objects = [
            Object::Pod(Arc::new(bare)),
            Object::Pod(Arc::new(host)),
            slice("a@endpoints-0-ipv4", 80, &[(1, None, ready)]),
            slice("b", 80, &[(2, None, ready)]),
        ];
        let mut model = Model::default();
        for object in objects {
            let sourced = Sourced { object, provenance: Provenance("test".into()) };
            model.apply(Origin::Manifests, Change::Apply(sourced));
        }
        let settings = Settings::new(NodeName::from("here"));
        let seen = |port: &ServicePort| {
            let mut all = Vec::new();
            look(&model, &settings, &service(), port, Family::Ipv4, |seen| {
                all.push(match seen {
                    Seen::Endpoint(backend, ..) | Seen::Pod(backend, ..) => backend.to_string(),
                    Seen::NoSlice(entry, why) => format!("{}: {why}", entry.object.key),
                    Seen::NoPod(entry, why) => format!("{}: {why}", entry.object.key),
                });
            });
            all
        };
        let mirror = "default/a@endpoints-0-ipv4: Endpoints are used only without a selector and \
                      without EndpointSlices";
        assert_eq!(
            seen(&port(TargetPort::Number(number(8080)))),
            [
                mirror,
                "10.0.0.2:80",
                "default/bare: no address (status.podIPs)",
                "default/host: host network, and its node has no known address",
            ]
        );
        let other = ServicePort { name: "".into(), ..port(TargetPort::Name("main".into())) };
        assert_eq!(
            seen(&other)[1..],
            [
                "default/b: its slice has no port (unnamed)/TCP",
                "default/bare: no container port main/TCP (targetPort)",
                "default/host: no container port main/TCP (targetPort)",
            ]
        );
    }

    #[test]
    fn unready_pods_can_be_published() {
        let pods = [Object::Pod(Arc::new(pod("a", own(1), TERMINATING)))];
        assert_eq!(found(&pods, &service()), [of("10.0.0.1:8080", true, TERMINATING)]);
        let publishing = Service { publish_not_ready: true, ..service() };
        let published = Conditions { ready: true, ..TERMINATING };
        assert_eq!(found(&pods, &publishing), [of("10.0.0.1:8080", true, published)]);
        // The readiness in a slice was decided by the writer of the slice.
        let slice = [slice("a", 80, &[(1, None, NOT_READY)])];
        assert_eq!(found(&slice, &publishing), [of("10.0.0.1:80", false, NOT_READY)]);
    }

    #[test]
    fn host_network_pods_use_the_address_of_their_node() {
        let ready = Conditions::READY;
        let pods = [Object::Pod(Arc::new(pod("a", PodAddresses::Node, ready)))];
        assert_eq!(found(&pods, &service()), [], "the node is not known");
        let node = Object::Node(Arc::new(Node {
            name: "here".into(),
            addresses: vec![[192, 0, 2, 10].into(), [192, 0, 2, 11].into()],
            pod_cidrs: Vec::new(),
            zone: None,
            taints: Vec::new(),
            deleting: false,
        }));
        let all = [pods[0].clone(), node];
        assert_eq!(found(&all, &service()), [of("192.0.2.10:8080", true, ready)]);
    }

    #[test]
    fn host_network_pods_fall_back_to_the_configured_or_primary_address() {
        let host = |node: Option<&str>| {
            let pod = pod("a", PodAddresses::Node, Conditions::READY);
            Object::Pod(Arc::new(Pod { node: node.map(NodeName::from), ..pod }))
        };
        let interfaces = Object::InterfaceAddresses(Arc::new(InterfaceAddresses {
            addresses: vec![[10, 244, 0, 1].into(), [192, 0, 2, 12].into()],
            primary: vec![[192, 0, 2, 12].into()],
        }));
        let node = |addresses: &[[u8; 4]]| {
            Object::Node(Arc::new(Node {
                name: "here".into(),
                addresses: addresses.iter().map(|it| (*it).into()).collect(),
                pod_cidrs: Vec::new(),
                zone: None,
                taints: Vec::new(),
                deleting: false,
            }))
        };
        let addresses = |objects: &[Object], told: &[[u8; 4]]| -> Vec<String> {
            let mut model = Model::default();
            for object in objects {
                let provenance = Provenance("test".into());
                let sourced = Sourced { object: object.clone(), provenance };
                model.apply(Origin::Manifests, Change::Apply(sourced));
            }
            let mut settings = Settings::new(NodeName::from("here"));
            settings.node_addresses = told.iter().map(|it| (*it).into()).collect();
            let port = port(TargetPort::Number(number(8080)));
            let service = service();
            let all = candidates(&model, &settings, &service, &port, Family::Ipv4);
            all.into_keys().map(|backend| backend.address.to_string()).collect()
        };
        for of in [None, Some("here")] {
            assert_eq!(addresses(&[host(of), interfaces.clone()], &[]), ["192.0.2.12"]);
            let told = [192, 0, 2, 11];
            assert_eq!(addresses(&[host(of), interfaces.clone()], &[told]), ["192.0.2.11"]);
            let all = [host(of), interfaces.clone(), node(&[[192, 0, 2, 10]])];
            assert_eq!(addresses(&all, &[told]), ["192.0.2.10"], "its Node takes precedence");
            // A Node object without addresses is ignored.
            let all = [host(of), interfaces.clone(), node(&[])];
            assert_eq!(addresses(&all, &[]), ["192.0.2.12"]);
        }
        // For a Pod on another node, the addresses of this node do not apply.
        assert_eq!(addresses(&[host(Some("there")), interfaces], &[[192, 0, 2, 11]]), [""; 0]);
    }
}
