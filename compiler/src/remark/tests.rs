use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::*;
use crate::change::{Change, Provenance, Sourced};
use crate::load_balancing::Weight;
use crate::net::{Family, Protocol};
use crate::object::{Conditions, Endpoint, Node, Object, SlicePort};

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}

fn service(target: TargetPort) -> Object {
    let mut service = Service::new(NamespacedName::new("default", "web"));
    service.cluster_ips.v4 = Some([10, 96, 0, 1].into());
    service.selector = [("app".into(), "web".into())].into();
    service.ports = vec![ServicePort {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: number(80),
        node_port: None,
        target,
    }];
    Object::Service(Arc::new(service))
}

fn plain() -> Object {
    service(TargetPort::Number(number(8080)))
}

fn slice(service: &str, port: (&str, Protocol), node: Option<&str>) -> Object {
    Object::EndpointSlice(Arc::new(EndpointSlice {
        key: NamespacedName::new("default", "web-1"),
        service: NamespacedName::new("default", service),
        family: Family::Ipv4,
        ports: vec![SlicePort { name: port.0.into(), protocol: port.1, port: number(8080) }],
        endpoints: vec![Endpoint {
            node: node.map(NodeName::from),
            ..Endpoint::ready([10, 0, 0, 1].into())
        }],
        weight: Weight::default(),
    }))
}

fn pod(name: &str, addresses: PodAddresses) -> Object {
    Object::Pod(Arc::new(Pod {
        key: NamespacedName::new("default", name),
        labels: [("app".into(), "web".into())].into(),
        node: None,
        addresses,
        ports: vec![SlicePort { name: "web".into(), protocol: Protocol::Tcp, port: number(8080) }],
        conditions: Conditions::READY,
        host: None,
        weight: Weight::default(),
    }))
}

fn own(last: u8) -> PodAddresses {
    PodAddresses::Own(vec![IpAddr::from([10, 0, 0, last])])
}

fn node(name: &str) -> Object {
    Object::Node(Arc::new(Node {
        name: name.into(),
        addresses: vec![[192, 0, 2, 10].into()],
        pod_cidrs: Vec::new(),
        zone: None,
        taints: Vec::new(),
        deleting: false,
    }))
}

fn said_by(origin: Origin, objects: &[Object], node_name: &str) -> Vec<String> {
    let mut model = Model::default();
    for object in objects {
        let sourced = Sourced { object: object.clone(), provenance: Provenance("test".into()) };
        model.apply(origin, Change::Apply(sourced));
    }
    let settings = Settings::new(NodeName::from(node_name));
    all(&model, &settings).iter().map(ToString::to_string).collect()
}

fn said(objects: &[Object]) -> Vec<String> {
    said_by(Origin::Manifests, objects, "na")
}

#[test]
fn matching_objects_get_no_remark() {
    let all =
        [plain(), slice("web", ("http", Protocol::Tcp), Some("na")), pod("a", own(2)), node("na")];
    assert_eq!(said(&all), [""; 0]);
    assert_eq!(said(&[service(TargetPort::Name("web".into())), pod("a", own(2))]), [""; 0]);
}

#[test]
fn pods_without_an_address_are_reported() {
    let bare = PodAddresses::Own(Vec::new());
    let mut objects =
        vec![plain(), pod("a", own(2)), pod("b", bare.clone()), pod("c", bare.clone())];
    let expected = "Service default/web: selects Pods that it cannot reach: 2 of 3 have no address \
                    (status.podIPs): default/b, default/c";
    assert_eq!(said(&objects), [expected]);
    objects.extend((0..6).map(|number| pod(&format!("d{number}"), bare.clone())));
    let [said] = &said(&objects)[..] else { panic!("expected one remark") };
    assert!(said.contains("8 of 9") && said.ends_with("default/d2 and 3 more"), "{said}");
}

#[test]
fn a_pod_that_is_about_to_start_is_not_reported() {
    let Object::Pod(starting) = pod("b", PodAddresses::Own(Vec::new())) else { panic!("a Pod") };
    let conditions = Conditions { ready: false, serving: false, terminating: false };
    let starting = Object::Pod(Arc::new(Pod { conditions, ..Pod::clone(&starting) }));
    assert_eq!(said(&[plain(), pod("a", own(2)), starting]), [""; 0]);
}

#[test]
fn host_network_pods_on_an_unknown_node_are_reported() {
    let objects = [plain(), pod("a", PodAddresses::Node)];
    let expected = "Service default/web: selects Pods that it cannot reach: 1 of 1 use the host \
                    network, and no address of their node is known (from a Node object or \
                    --bind-address): default/a";
    assert_eq!(said(&objects), [expected]);
    assert_eq!(said(&[&objects[..], &[node("na")]].concat()), [""; 0]);
}

#[test]
fn pods_without_the_named_target_port_are_reported() {
    let found = said(&[service(TargetPort::Name("metrics".into())), pod("a", own(1))]);
    let expected = "Service default/web: selects Pods that it cannot reach: 1 of 1 have no container \
                    port metrics/TCP (targetPort): default/a";
    assert_eq!(found, [expected]);
}

#[test]
fn a_slice_without_a_matching_service_port_is_reported() {
    for (port, own) in
        [(("http", Protocol::Udp), "http/UDP"), (("", Protocol::Tcp), "(unnamed)/TCP")]
    {
        let found = said(&[plain(), slice("web", port, None)]);
        let expected = format!(
            "EndpointSlice default/web-1: its endpoints are not used: ports are matched by name and \
             protocol: Service default/web has http/TCP, but the slice has {own}"
        );
        assert_eq!(found, [expected]);
    }
}

#[test]
fn a_slice_without_a_service_is_reported_for_manifests_only() {
    let objects = [slice("wbe", ("http", Protocol::Tcp), None)];
    let expected = "EndpointSlice default/web-1: its endpoints are not used: there is no Service \
                    default/wbe";
    assert_eq!(said(&objects), [expected]);
    // The API server omits Services that are not ours to serve, but sends their slices.
    assert_eq!(said_by(Origin::Api, &objects, "na"), [""; 0]);
}

#[test]
fn an_unknown_node_name_is_reported_with_the_known_ones() {
    let objects = [node("na"), node("nb")];
    let found = said_by(Origin::Manifests, &objects, "na.example.com");
    let expected = format!(
        "Node na.example.com: there is no Node of this name (--node-name). Known nodes: na, nb. \
         {WITHOUT_NODE}"
    );
    assert_eq!(found, [expected]);
    assert_eq!(said(&objects), [""; 0]);
    let many: Vec<Object> = (0..8).map(|number| node(&format!("n{number}"))).collect();
    let [said] = &said_by(Origin::Manifests, &many, "other")[..] else { panic!("no remark") };
    assert!(said.contains("n0, n1, n2, n3, n4 and 3 more"), "{said}");
}

#[test]
fn without_node_objects_endpoints_provide_the_known_node_names() {
    let of = |node| [plain(), slice("web", ("http", Protocol::Tcp), Some(node))];
    for (ours, theirs) in [("na.example.com", "na"), ("na", "na.example.com")] {
        let [said] = &said_by(Origin::Manifests, &of(theirs), ours)[..] else {
            panic!("no remark for {ours}")
        };
        assert!(
            said.contains(&format!(
                "no Pod or endpoint is on a node of this name (--node-name). Known nodes: {theirs}."
            )),
            "{said}"
        );
    }
    // Endpoints on nodes with other names are no reason for a remark.
    assert_eq!(said_by(Origin::Manifests, &of("nb"), "na"), [""; 0]);
    assert_eq!(said_by(Origin::Manifests, &of("na-2"), "na"), [""; 0]);
}

#[test]
fn unused_mirrored_endpoints_are_reported() {
    let mirror = |service: &str| {
        let Object::EndpointSlice(slice) = slice(service, ("http", Protocol::Tcp), None) else {
            unreachable!()
        };
        let key = NamespacedName::new("default", "web@endpoints-0-ipv4");
        Object::EndpointSlice(Arc::new(EndpointSlice { key, ..(*slice).clone() }))
    };
    let Object::Service(selecting) = plain() else { unreachable!() };
    let plain = Service { selector: [].into(), ..(*selecting).clone() };
    let plain = Object::Service(Arc::new(plain));
    assert_eq!(said(&[plain.clone(), mirror("web")]), [""; 0]);
    let both = [plain, mirror("web"), slice("web", ("http", Protocol::Tcp), None)];
    let of = "EndpointSlice default/web@endpoints-0-ipv4: its endpoints are not used: ";
    let expected = "Service default/web has EndpointSlices of its own, which take precedence";
    assert_eq!(said(&both), [format!("{of}{expected}")]);
    let selected = [Object::Service(selecting), mirror("web")];
    let expected = "Endpoints are used only for Services without a selector, and Service \
                    default/web has one";
    assert_eq!(said(&selected), [format!("{of}{expected}")]);
}
