use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::Conditions;

use super::{problems, slice, yaml};

const HEAD: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
    metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}\n";

fn text(rest: &str) -> String {
    format!("{HEAD}addressType: IPv4\n{rest}\n")
}

#[test]
fn all_fields_are_read() {
    let web = slice(&text(
        "
ports:
- {name: http, port: 8080}
- {name: dns, port: 53, protocol: UDP, appProtocol: x}
endpoints:
- addresses: [10.50.2.5]
  conditions: {ready: false, serving: true, terminating: true}
  nodeName: nb
  zone: z1
  hints: {forZones: [{name: z2}, {name: z1}, {name: z2}], forNodes: [{name: nb}, {name: na}]}
- addresses: ['10.50.01.005', 10.50.1.6]
",
    ));
    assert_eq!(
        (web.key.to_string(), web.service.to_string()),
        ("shop/web-1".into(), "shop/web".into())
    );
    assert_eq!(web.family, Family::Ipv4);
    let ports: Vec<_> =
        web.ports.iter().map(|port| (port.name.as_str(), port.protocol, port.port.get())).collect();
    assert_eq!(ports, [("dns", Protocol::Udp, 53), ("http", Protocol::Tcp, 8080)]);
    assert_eq!(web.endpoints.len(), 2);
    assert_eq!(web.endpoints[0].address.to_string(), "10.50.1.5");
    assert_eq!(web.endpoints[0].conditions, Conditions::READY);
    assert_eq!(web.endpoints[0].node, None);
    let other = &web.endpoints[1];
    let conditions = Conditions { ready: false, serving: true, terminating: true };
    assert_eq!(other.conditions, conditions);
    assert_eq!(other.node.as_ref().map(|node| node.as_str()), Some("nb"));
    assert_eq!(*other.hints.as_ref().unwrap().zones, ["z1".into(), "z2".into()]);
    assert_eq!(*other.hints.as_ref().unwrap().nodes, ["na".into(), "nb".into()]);
}

#[test]
fn omitted_conditions_mean_ready_and_serving() {
    let cases = [
        ("{}", Conditions::READY),
        ("~", Conditions::READY),
        ("{ready: ~, serving: ~, terminating: ~}", Conditions::READY),
        ("{ready: false}", Conditions { ready: false, serving: true, terminating: false }),
        ("{serving: false}", Conditions { ready: true, serving: false, terminating: false }),
        ("{terminating: true}", Conditions { ready: true, serving: true, terminating: true }),
    ];
    for (conditions, want) in cases {
        let web = slice(&text(&format!(
            "endpoints: [{{addresses: [10.0.0.1], conditions: {conditions}}}]"
        )));
        assert_eq!(web.endpoints[0].conditions, want, "of {conditions}");
    }
}

#[test]
fn ports_without_a_number_are_skipped() {
    let web = slice(&text(
        "ports: [{name: '', port: 80}, {name: a, port: 0}, {name: b}, {name: c, port: ~}, {}]",
    ));
    assert_eq!(web.ports.len(), 1);
    assert_eq!(web.ports[0].name.as_str(), "");
}

#[test]
fn ports_without_a_name_have_an_empty_name() {
    let named = slice(&text("ports: [{name: '', port: 80}]"));
    for ports in ["[{port: 80}]", "[{name: ~, port: 80}]", "[{port: 80}, {name: '', port: 80}]"] {
        assert_eq!(slice(&text(&format!("ports: {ports}"))), named, "of {ports}");
    }
}

#[test]
fn invalid_endpoints_are_skipped_with_a_warning() {
    let cases = [
        ("10.0.0", "\"10.0.0\" is not an IP address"),
        ("example.com", "\"example.com\" is not an IP address"),
        ("fd00::1", "fd00::1 is not IPv4"),
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("0.0.0.0", "0.0.0.0 is unspecified"),
        ("169.254.1.1", "169.254.1.1 is a link-local address"),
        ("224.0.0.1", "224.0.0.1 is a link-local address"),
        ("239.1.1.1", "239.1.1.1 is a multicast address"),
        ("255.255.255.255", "255.255.255.255 is the broadcast address"),
    ];
    for (address, message) in cases {
        let decoded = yaml(&text(&format!(
            "endpoints: [{{addresses: ['{address}']}}, {{addresses: [10.0.0.1]}}]"
        )));
        let all = problems(&decoded);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(
            all[0].contains(&format!(
                "endpoints[0].addresses[0]: {message}; the endpoint is skipped"
            )),
            "{all:?}"
        );
        assert_eq!(decoded.objects.len(), 1);
    }
    for address in ["::1", "::", "fe80::1", "ff02::1", "10.0.0.1"] {
        let text = format!("{HEAD}addressType: IPv6\nendpoints: [{{addresses: ['{address}']}}]\n");
        assert_eq!(problems(&yaml(&text)).len(), 1, "of {address}");
    }
    let empty = slice(&text("endpoints: [{addresses: []}, {}, {addresses: ~}, {addresses: ['']}]"));
    assert_eq!(empty.endpoints, []);
}

#[test]
fn irrelevant_slices_are_ignored() {
    let head = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n";
    let headless = "metadata: {name: a, labels: {kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}}\n";
    let decoded = yaml(&format!("{head}{headless}"));
    assert_eq!((decoded.objects.len(), decoded.problems.len()), (0, 0));
    for labels in ["{}", "{kubernetes.io/service-name: ''}", "~"] {
        let decoded = yaml(&format!("{head}metadata: {{name: a, labels: {labels}}}\n"));
        let all = problems(&decoded);
        assert_eq!((decoded.objects.len(), all.len()), (0, 1), "{all:?}");
        assert!(all[0].contains(
            "EndpointSlice default/a: metadata.labels: label kubernetes.io/service-name is missing"
        ));
    }
    let decoded =
        yaml(&format!("{HEAD}addressType: FQDN\nendpoints: [{{addresses: [a.example]}}]\n"));
    assert_eq!((decoded.objects.len(), decoded.problems.len()), (0, 1));
    assert!(problems(&decoded)[0].contains("addressType: addresses of type FQDN"));
}

#[test]
fn every_error_names_its_field() {
    let cases = [
        (HEAD.to_owned(), "addressType: missing"),
        (
            format!("{HEAD}addressType: ipv4\n"),
            "addressType: \"ipv4\" is not one of IPv4, IPv6, FQDN",
        ),
        (text("ports: [{name: a, port: 65536}]"), "ports[0].port: 65536 is not in 1..65535"),
        (
            text("ports: [{name: a, port: 1, protocol: ICMP}]"),
            "ports[0].protocol: \"ICMP\" is not one of TCP, UDP, SCTP",
        ),
        (text("ports: [{name: 1, port: 1}]"), "ports[0].name: expected a string, found a number"),
        (text("endpoints: {}"), "endpoints: expected a list, found an object"),
        (
            text("endpoints: [{addresses: 10.0.0.1}]"),
            "endpoints[0].addresses: expected a list, found a string",
        ),
        (
            text("endpoints: [{addresses: [10.0.0.1], conditions: {ready: 1}}]"),
            "endpoints[0].conditions.ready: expected true or false, found a number",
        ),
        (
            text("endpoints: [{addresses: [10.0.0.1], nodeName: a b}]"),
            "endpoints[0].nodeName: \"a b\" is not a name",
        ),
        (
            text("endpoints: [{addresses: [10.0.0.1], hints: {forZones: [a]}}]"),
            "endpoints[0].hints.forZones[0]: expected an object, found a string",
        ),
    ];
    for (text, message) in cases {
        let decoded = yaml(&text);
        let all = problems(&decoded);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains(&format!("EndpointSlice shop/web-1: {message}")), "{all:?}");
        assert_eq!((decoded.objects.len(), decoded.broken.len()), (0, 1));
    }
}

#[test]
fn order_and_repetition_do_not_matter() {
    let a = slice(&text(
        "endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]\nports: [{name: a, port: 1}, {name: b, port: 2}]",
    ));
    let b = slice(&text(
        "ports: [{name: b, port: 2}, {name: a, port: 1}, {name: a, port: 1}]\nendpoints: [{addresses: [10.0.0.2]}, {addresses: [10.0.0.1]}, {addresses: [10.0.0.1]}]",
    ));
    assert_eq!(a, b);
}

#[test]
fn the_name_of_a_node_is_kept_as_written() {
    let web = slice(&text("endpoints: [{addresses: [10.0.0.1], nodeName: NA}]"));
    assert_eq!(web.endpoints[0].node.as_ref().map(|node| node.as_str()), Some("NA"));
}

#[test]
fn an_older_api_version_is_refused() {
    let decoded =
        yaml("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: a}\n");
    assert_eq!(decoded.objects, []);
    assert_eq!(
        problems(&decoded),
        [
            "web.yaml:1:13: apiVersion: discovery.k8s.io/v1beta1 of EndpointSlice is not read, only discovery.k8s.io/v1"
        ]
    );
}
