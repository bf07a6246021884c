//! Endpoints, and the slices they are converted to.

use std::net::IpAddr;

use rulec_compiler::object::{EndpointSlice, Object};

use super::{Decoded, problems, yaml};

fn slices(decoded: &Decoded) -> Vec<&EndpointSlice> {
    decoded
        .objects
        .iter()
        .filter_map(|object| match object {
            Object::EndpointSlice(slice) => Some(&**slice),
            Object::Service(_)
            | Object::Pod(_)
            | Object::Node(_)
            | Object::ServiceCidr(_)
            | Object::InterfaceAddresses(_) => None,
        })
        .collect()
}

const ENDPOINTS: &str = "
apiVersion: v1
kind: Endpoints
metadata: {name: web}
subsets:
- addresses:
  - {ip: 10.0.0.2, nodeName: na, hostname: b}
  - {ip: 10.0.0.1}
  - {ip: 'fd00::1'}
  notReadyAddresses: [{ip: 10.0.0.3}]
  ports: [{name: http, port: 8080}]
- addresses: [{ip: 10.0.0.9}]
  ports: [{name: dns, port: 53, protocol: UDP}]
";

#[test]
fn endpoints_become_a_slice_for_each_subset_and_family() {
    let decoded = yaml(ENDPOINTS);
    assert_eq!(problems(&decoded), [""; 0]);
    let found = slices(&decoded);
    let names: Vec<String> = found.iter().map(|slice| slice.key.to_string()).collect();
    let expected = ["web@endpoints-0-ipv4", "web@endpoints-0-ipv6", "web@endpoints-1-ipv4"];
    assert_eq!(names, expected.map(|name| format!("default/{name}")));
    assert!(found.iter().all(|it| it.is_mirror() && it.service.to_string() == "default/web"));
    let first: Vec<(IpAddr, bool, Option<&str>)> = found[0]
        .endpoints
        .iter()
        .map(|it| (it.address, it.conditions.ready, it.node.as_ref().map(|node| node.as_str())))
        .collect();
    let ip = |last: u8| IpAddr::from([10, 0, 0, last]);
    assert_eq!(first, [(ip(1), true, None), (ip(2), true, Some("na")), (ip(3), false, None)]);
    let port = &found[2].ports[0];
    assert_eq!((port.name.as_str(), port.port.get()), ("dns", 53));
}

#[test]
fn endpoints_excluded_from_mirroring_are_ignored() {
    for metadata in [
        "{name: web, labels: {endpointslice.kubernetes.io/skip-mirror: 'true'}}",
        "{name: web, annotations: {control-plane.alpha.kubernetes.io/leader: '{}'}}",
    ] {
        let decoded = yaml(&ENDPOINTS.replace("{name: web}", metadata));
        assert_eq!(problems(&decoded), [""; 0]);
        assert_eq!(decoded.objects, []);
    }
    let other = "{name: web, labels: {endpointslice.kubernetes.io/skip-mirror: 'false'}}";
    assert_eq!(yaml(&ENDPOINTS.replace("{name: web}", other)).objects.len(), 3);
}

#[test]
fn invalid_endpoints_remove_nothing() {
    let decoded = yaml(&ENDPOINTS.replace("port: 8080", "port: 0"));
    assert!(decoded.nameless && decoded.objects.is_empty());
    let found = problems(&decoded);
    assert!(found[0].contains("Endpoints default/web: subsets[0].ports[0].port"), "{found:?}");
}

#[test]
fn endpoints_beyond_a_thousand_are_skipped_with_a_warning() {
    let all: Vec<String> =
        (0..1002).map(|it| format!("{{ip: 10.1.{}.{}}}", it / 250, 1 + it % 250)).collect();
    let decoded = yaml(&format!(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {{name: web}}\nsubsets:\n- addresses: [{}]\n  ports: [{{port: 80}}]\n",
        all.join(", ")
    ));
    assert_eq!(slices(&decoded)[0].endpoints.len(), 1000);
    let found = problems(&decoded);
    assert!(found.len() == 1 && found[0].contains("addresses are used, 2 left out"), "{found:?}");
}
