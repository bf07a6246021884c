use std::net::IpAddr;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::{Family, Protocol};
use rulec_compiler::object::{
    Affinity, ClusterIps, FamilyPolicy, Object, ServiceType, TargetPort, TrafficPolicy,
};

use super::{problems, service, yaml};

fn with_spec(spec: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {spec}\n")
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Returns the one problem of a Service with that spec; the Service is refused.
fn error(spec: &str) -> String {
    let decoded = yaml(&with_spec(spec));
    assert_eq!(decoded.objects, [], "of {spec}");
    assert_eq!(decoded.broken.len(), 1, "of {spec}");
    let all = problems(&decoded);
    assert_eq!(all.len(), 1, "{all:?}");
    all.into_iter().next().unwrap()
}

/// Returns the problems of a Service with that spec, which is used nevertheless.
fn warnings(spec: &str) -> Vec<String> {
    let decoded = yaml(&with_spec(spec));
    assert_eq!(decoded.objects.len(), 1, "{:?}", problems(&decoded));
    problems(&decoded)
}

#[test]
fn omitted_fields_get_the_api_defaults() {
    let web = service(&with_spec("{clusterIP: 10.90.0.10, ports: [{port: 80}]}"));
    assert_eq!(web.key, NamespacedName::new("default", "web"));
    assert_eq!(web.kind, ServiceType::ClusterIP);
    assert_eq!(web.ports[0].protocol, Protocol::Tcp);
    assert_eq!(web.ports[0].name.as_str(), "");
    assert_eq!(web.ports[0].target, TargetPort::Number(80.try_into().unwrap()));
    assert_eq!(web.ports[0].node_port, None);
    assert_eq!(web.affinity, Affinity::None);
    assert_eq!(web.internal_policy, TrafficPolicy::Cluster);
    assert_eq!(web.external_policy, TrafficPolicy::Cluster);
    assert_eq!(web.health_check_node_port, None);
    assert!(!web.publish_not_ready);
    assert!(web.selector.is_empty() && web.external_ips.is_empty() && web.source_ranges.is_empty());
}

#[test]
fn null_zero_and_empty_equal_omitted() {
    let bare = service(&with_spec("{clusterIP: 10.90.0.10, ports: [{port: 80}]}"));
    let full = service(&with_spec(
        "{clusterIP: 10.90.0.10, type: '', sessionAffinity: null, healthCheckNodePort: 0, \
          internalTrafficPolicy: , selector: ~, externalIPs: null, \
          ports: [{port: 80, name: '', protocol: '', nodePort: 0, targetPort: 0}]}",
    ));
    assert_eq!(bare, full);
}

#[test]
fn all_fields_are_read() {
    let web = service(
        "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, labels: {a: b}, annotations: {x: y}}
spec:
  type: LoadBalancer
  clusterIP: 10.90.0.10
  clusterIPs: [10.90.0.10, 'fd90::10']
  ipFamilies: [IPv4, IPv6]
  ports:
  - {name: https, port: 443, targetPort: tls, nodePort: 30443}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
  externalIPs: [198.51.100.30, 198.51.100.30, 198.51.100.4]
  loadBalancerSourceRanges: [' 203.0.113.77/24 ', 10.0.0.0/8]
  sessionAffinity: ClientIP
  sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}
  internalTrafficPolicy: Local
  externalTrafficPolicy: Local
  healthCheckNodePort: 32000
  selector: {app: web, y: 'no'}
  publishNotReadyAddresses: true
status:
  loadBalancer:
    ingress:
    - {ip: 198.51.100.21, ipMode: VIP}
    - {ip: 198.51.100.20}
    - {ip: 198.51.100.22, ipMode: Proxy}
    - {hostname: lb.example.com}
",
    );
    assert_eq!(web.key.to_string(), "shop/web");
    assert_eq!(web.kind, ServiceType::LoadBalancer);
    assert_eq!(web.cluster_ips.of(Family::Ipv4), Some("10.90.0.10".parse().unwrap()));
    assert_eq!(web.cluster_ips.of(Family::Ipv6), Some("fd90::10".parse().unwrap()));
    let names: Vec<_> = web.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["dns", "https"]);
    assert_eq!(web.ports[0].protocol, Protocol::Udp);
    assert_eq!(web.ports[0].target, TargetPort::Number(5353.try_into().unwrap()));
    assert_eq!(web.ports[1].target, TargetPort::Name("tls".into()));
    assert_eq!(web.ports[1].node_port, Some(30443.try_into().unwrap()));
    assert_eq!(web.external_ips, ips(&["198.51.100.4", "198.51.100.30"]));
    assert_eq!(web.load_balancer_vips, ips(&["198.51.100.20", "198.51.100.21"]));
    let ranges: Vec<_> = web.source_ranges.iter().map(ToString::to_string).collect();
    assert_eq!(ranges, ["10.0.0.0/8", "203.0.113.0/24"]);
    assert_eq!(web.affinity, Affinity::ClientIp { timeout: 60 });
    assert_eq!(web.internal_policy, TrafficPolicy::Local);
    assert_eq!(web.external_policy, TrafficPolicy::Local);
    assert_eq!(web.health_check_node_port, Some(32000.try_into().unwrap()));
    assert_eq!(web.selector.len(), 2);
    assert!(web.publish_not_ready);
}

#[test]
fn leading_zeros_are_decimal_everywhere() {
    let odd = service(
        "
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIP: 10.90.000.010
  externalIPs: ['198.051.100.030']
  loadBalancerSourceRanges: ['203.0.113.000/025']
  ports: [{port: 80}]
status: {loadBalancer: {ingress: [{ip: 198.51.100.020}]}}
",
    );
    assert_eq!(odd.cluster_ips.v4, Some("10.90.0.10".parse().unwrap()));
    assert_eq!(odd.external_ips, ips(&["198.51.100.30"]));
    assert_eq!(odd.load_balancer_vips, ips(&["198.51.100.20"]));
    assert_eq!(odd.source_ranges, ["203.0.113.0/25".parse().unwrap()]);
}

#[test]
fn the_cluster_address_of_a_family_is_found_by_position() {
    let cases = [
        ("ipFamilies: [IPv6, IPv4], clusterIPs: ['fd90::10', 10.90.0.10]", true, true),
        ("ipFamilies: [IPv4], clusterIPs: [10.90.0.10, 'fd90::10']", true, false),
        ("ipFamilies: [IPv4, IPv6], clusterIPs: [10.90.0.10]", true, false),
        ("ipFamilies: [IPv4], clusterIP: 10.90.0.10", true, false),
        ("clusterIP: 'fd90::10'", false, true),
        ("clusterIP: 10.90.0.10, clusterIPs: [10.90.0.10, 'fd90::10']", true, true),
        ("clusterIPs: ['fd90::10']", false, true),
        ("clusterIP: '::ffff:10.90.0.10'", true, false),
    ];
    for (spec, v4, v6) in cases {
        let web = service(&with_spec(&format!("{{{spec}, ports: [{{port: 80}}]}}")));
        let want = ClusterIps {
            v4: v4.then(|| "10.90.0.10".parse().unwrap()),
            v6: v6.then(|| "fd90::10".parse().unwrap()),
        };
        assert_eq!(web.cluster_ips, want, "of {spec}");
    }
}

#[test]
fn headless_and_external_services_have_no_cluster_address() {
    let specs = [
        "{clusterIP: None}",
        "{clusterIPs: [None]}",
        "{clusterIP: None, ports: [{port: 80}]}",
        "{type: ExternalName, externalName: example.com}",
    ];
    for spec in specs {
        let web = service(&with_spec(spec));
        assert_eq!(web.cluster_ips, ClusterIps::default(), "of {spec}");
    }
}

#[test]
fn what_is_not_written_is_asked_for() {
    use FamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
    let asks = |spec: &str| {
        let web = service(&with_spec(&format!("{{{spec}, ports: [{{port: 80}}]}}")));
        let families = web.asks.cluster_ips.as_ref().map(|asked| (asked.policy, asked.first));
        (families, web.asks.node_ports, web.asks.health_check)
    };
    let (v4, v6) = (Some(Family::Ipv4), Some(Family::Ipv6));
    assert_eq!(asks("clusterIP: ''"), (Some((SingleStack, None)), false, false));
    assert_eq!(asks("clusterIP: 10.90.0.10"), (None, false, false));
    assert_eq!(asks("clusterIP: None"), (None, false, false));
    assert_eq!(asks("clusterIPs: [None]"), (None, false, false));
    assert_eq!(asks("type: ExternalName, externalName: a.example"), (None, false, false));
    assert_eq!(asks("ipFamilies: [IPv6]"), (Some((SingleStack, v6)), false, false));
    assert_eq!(asks("ipFamilies: [IPv6, IPv4]"), (Some((PreferDualStack, v6)), false, false));
    let require = "ipFamilyPolicy: RequireDualStack, clusterIP: 10.90.0.10";
    assert_eq!(asks(require), (Some((RequireDualStack, None)), false, false));
    let both = "ipFamilies: [IPv4, IPv6], clusterIPs: [10.90.0.10, 'fd90::a']";
    assert_eq!(asks(both), (None, false, false));
    let single = "ipFamilies: [IPv4, IPv6], ipFamilyPolicy: SingleStack";
    assert_eq!(asks(single), (Some((SingleStack, v4)), false, false));
    assert_eq!(asks("type: NodePort, clusterIP: 10.90.0.10"), (None, true, false));
    let balancer = "type: LoadBalancer, clusterIP: 10.90.0.10";
    assert_eq!(asks(balancer), (None, true, false));
    let without = format!("{balancer}, allocateLoadBalancerNodePorts: false");
    assert_eq!(asks(&without), (None, false, false));
    let local = format!("{balancer}, externalTrafficPolicy: Local");
    assert_eq!(asks(&local), (None, true, true));
    let checked = format!("{local}, healthCheckNodePort: 32000");
    assert_eq!(asks(&checked), (None, true, false));
}

#[test]
fn a_service_that_needs_an_address_needs_a_port() {
    let all = problems(&yaml(&with_spec("{selector: {app: web}}")));
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("spec.ports: missing: a Service with a cluster address"), "{all:?}");
    let wrong = problems(&yaml(&with_spec("{ipFamilyPolicy: Both, ports: [{port: 80}]}")));
    assert!(wrong[0].contains("spec.ipFamilyPolicy: \"Both\" is not one of"), "{wrong:?}");
}

#[test]
fn a_service_of_another_proxy_is_ignored() {
    for value in ["foo", "''", "~"] {
        let decoded = yaml(&format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: web\n  labels:\n    \
             service.kubernetes.io/service-proxy-name: {value}\nspec: {{ports: [{{port: 0}}]}}\n"
        ));
        assert_eq!((decoded.objects.len(), decoded.problems.len()), (0, 0), "of {value}");
        assert!(decoded.broken.is_empty() && !decoded.blank);
    }
}

#[test]
fn invalid_external_ips_are_skipped_with_a_warning() {
    let all = warnings(
        "{clusterIP: 10.90.0.10, ports: [{port: 80}], \
          externalIPs: [198.51.100.30, '2001:db8:5::30', '', ' ', bogus]}",
    );
    let message = "web.yaml:4:";
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all.iter().all(|problem| problem.starts_with(message)), "{all:?}");
    assert!(all[0].ends_with("spec.externalIPs[4]: \"bogus\" is not an IP address; it is skipped"));
}

#[test]
fn loopback_and_link_local_addresses_are_skipped_with_a_warning() {
    let cases = [
        ("127.0.0.1", "127.0.0.1 is a loopback address"),
        ("::1", "::1 is a loopback address"),
        ("'::ffff:127.0.0.1'", "127.0.0.1 is a loopback address"),
        ("0.0.0.0", "0.0.0.0 is unspecified"),
        ("'::'", ":: is unspecified"),
        ("169.254.1.1", "169.254.1.1 is a link-local address"),
        ("fe80::1", "fe80::1 is a link-local address"),
        ("239.1.1.1", "239.1.1.1 is a multicast address"),
        ("ff02::1", "ff02::1 is a multicast address"),
        ("255.255.255.255", "255.255.255.255 is the broadcast address"),
    ];
    for (address, message) in cases {
        let decoded = yaml(&format!(
            "{}status: {{loadBalancer: {{ingress: [{{ip: {address}}}, {{ip: 198.51.100.2}}]}}}}\n",
            with_spec(&format!(
                "{{type: LoadBalancer, clusterIP: 1.2.3.4, ports: [{{port: 1}}], externalIPs: [{address}, 198.51.100.1]}}"
            )),
        ));
        let all = problems(&decoded);
        assert_eq!(all.len(), 2, "{all:?}");
        let skipped =
            |field: &str| format!("Service default/web: {field}: {message}; it is skipped");
        assert!(all[0].ends_with(&skipped("spec.externalIPs[0]")), "{all:?}");
        assert!(all[1].ends_with(&skipped("status.loadBalancer.ingress[0].ip")), "{all:?}");
        let Object::Service(web) = &decoded.objects[0] else { panic!("{decoded:?}") };
        assert_eq!(web.external_ips, ips(&["198.51.100.1"]));
        assert_eq!(web.load_balancer_vips, ips(&["198.51.100.2"]));
    }
}

#[test]
fn a_node_port_may_serve_several_protocols() {
    let web = service(&with_spec(
        "{type: NodePort, clusterIP: 1.2.3.4, ports: [{port: 1, name: a, nodePort: 30000}, \
          {port: 1, name: b, nodePort: 30000, protocol: UDP}, {port: 2, name: c, nodePort: 0}, \
          {port: 3, name: d, nodePort: 0}]}",
    ));
    assert_eq!(web.ports.len(), 4);
}

#[test]
fn a_cluster_address_may_be_written_in_two_ways() {
    let web = service(&with_spec(
        "{clusterIP: 10.90.0.10, clusterIPs: [10.90.000.010], ports: [{port: 1}]}",
    ));
    assert_eq!(web.cluster_ips.v4, Some("10.90.0.10".parse().unwrap()));
}

#[test]
fn invalid_ingress_addresses_are_skipped_with_a_warning() {
    let decoded = yaml(
        "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
         spec: {type: LoadBalancer, clusterIP: 10.90.0.10, ports: [{port: 80}]}\n\
         status:\n  loadBalancer:\n    ingress:\n    - ip: nope\n    - ip: 1.2.3.4\n      ipMode: Odd\n",
    );
    let all = problems(&decoded);
    assert_eq!(
        all,
        [
            "web.yaml:8:11: Service default/web: status.loadBalancer.ingress[0].ip: \"nope\" is not an IP address; it is skipped",
            "web.yaml:10:15: Service default/web: status.loadBalancer.ingress[1].ipMode: \"Odd\" is not one of VIP, Proxy; it is skipped",
        ]
    );
    assert_eq!(decoded.objects.len(), 1);
}

#[test]
fn every_error_names_its_field() {
    let cases = [
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 70000}]}",
            "spec.ports[0].port: 70000 is not in 1..65535",
        ),
        ("{clusterIP: 1.2.3.4, ports: [{port: 0}]}", "spec.ports[0].port: 0 is not in 1..65535"),
        ("{clusterIP: 1.2.3.4, ports: [{port: -1}]}", "spec.ports[0].port: -1 is not in 1..65535"),
        ("{clusterIP: 1.2.3.4, ports: [{name: a}]}", "spec.ports[0].port: missing"),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: '80'}]}",
            "spec.ports[0].port: expected a number, found a string",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 80.5}]}",
            "spec.ports[0].port: expected a number, found a fraction",
        ),
        ("{clusterIP: 1.2.3.4, ports: {port: 80}}", "spec.ports: expected a list, found an object"),
        ("{clusterIP: 1.2.3.4, ports: [80]}", "spec.ports[0]: expected an object, found a number"),
        ("{clusterIP: 1.2.3.4}", "spec.ports: missing: a Service with a cluster address needs one"),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, name: a}, {port: 2, name: a}]}",
            "spec.ports[1].name: another port is named \"a\" as well",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, name: a}, {port: 1, name: b}]}",
            "spec.ports[1].port: another port is 1/TCP as well",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, name: a}, {port: 2}]}",
            "spec.ports[1].name: missing: each of several ports needs a name",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, name: A_b}]}",
            "spec.ports[0].name: \"A_b\" is not the name of a port",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, protocol: tcp}]}",
            "spec.ports[0].protocol: \"tcp\" is not one of TCP, UDP, SCTP",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, nodePort: 65536}]}",
            "spec.ports[0].nodePort: 65536 is not in 1..65535",
        ),
        (
            "{type: NodePort, clusterIP: 1.2.3.4, ports: [{port: 1, name: a, nodePort: 30000}, {port: 2, name: b, nodePort: 30000}]}",
            "spec.ports[1].nodePort: another port has 30000/TCP as well",
        ),
        (
            "{clusterIP: 1.2.3.4, clusterIPs: [1.2.3.5], ports: [{port: 1}]}",
            "spec.clusterIPs[0]: 1.2.3.5 differs from spec.clusterIP, which is 1.2.3.4",
        ),
        (
            "{clusterIP: 1.2.3.4, clusterIPs: ['fd90::10', 1.2.3.4], ports: [{port: 1}]}",
            "spec.clusterIPs[0]: fd90::10 differs from spec.clusterIP, which is 1.2.3.4",
        ),
        (
            "{clusterIP: None, clusterIPs: [1.2.3.4], ports: [{port: 1}]}",
            "spec.clusterIPs[0]: 1.2.3.4 differs from spec.clusterIP, which is None",
        ),
        (
            "{clusterIP: 1.2.3.4, clusterIPs: [None], ports: [{port: 1}]}",
            "spec.clusterIPs[0]: None differs from spec.clusterIP, which is 1.2.3.4",
        ),
        (
            "{clusterIP: 127.0.0.1, ports: [{port: 1}]}",
            "spec.clusterIP: 127.0.0.1 is a loopback address",
        ),
        (
            "{clusterIPs: [1.2.3.4, 'fe80::1'], ports: [{port: 1}]}",
            "spec.clusterIPs[1]: fe80::1 is a link-local address",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, targetPort: 65536}]}",
            "spec.ports[0].targetPort: 65536 is not in 1..65535",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, targetPort: '80'}]}",
            "spec.ports[0].targetPort: \"80\" is not the name of a port",
        ),
        (
            "{clusterIP: 1.2.3.4, ports: [{port: 1, targetPort: [80]}]}",
            "spec.ports[0].targetPort: expected a number or a string, found a list",
        ),
        (
            "{clusterIP: 1.2.3, ports: [{port: 1}]}",
            "spec.clusterIP: \"1.2.3\" is not an IP address",
        ),
        (
            "{clusterIP: 1.2.3.4, clusterIPs: [1.2.3.4, x], ports: [{port: 1}]}",
            "spec.clusterIPs[1]: \"x\" is not an IP address",
        ),
        (
            "{ipFamilies: [IPv5], clusterIP: 1.2.3.4, ports: [{port: 1}]}",
            "spec.ipFamilies[0]: \"IPv5\" is not one of IPv4, IPv6",
        ),
        (
            "{ipFamilies: [IPv6], clusterIP: 1.2.3.4, ports: [{port: 1}]}",
            "spec.ipFamilies[0]: the cluster address 1.2.3.4 is not IPv6",
        ),
        (
            "{type: Clusterip, clusterIP: None}",
            "spec.type: \"Clusterip\" is not one of ClusterIP, NodePort, LoadBalancer, ExternalName",
        ),
        (
            "{sessionAffinity: clientip, clusterIP: None}",
            "spec.sessionAffinity: \"clientip\" is not one of None, ClientIP",
        ),
        (
            "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}, clusterIP: None}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 0 is not in 1..86400",
        ),
        (
            "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, clusterIP: None}",
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds: 86401 is not in 1..86400",
        ),
        (
            "{internalTrafficPolicy: local, clusterIP: None}",
            "spec.internalTrafficPolicy: \"local\" is not one of Cluster, Local",
        ),
        (
            "{type: NodePort, externalTrafficPolicy: Node, clusterIP: 1.2.3.4, ports: [{port: 1}]}",
            "spec.externalTrafficPolicy: \"Node\" is not one of Cluster, Local",
        ),
        (
            "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 99999, clusterIP: 1.2.3.4, ports: [{port: 1}]}",
            "spec.healthCheckNodePort: 99999 is not in 1..65535",
        ),
        (
            "{selector: {app: 1}, clusterIP: None}",
            "spec.selector.app: expected a string, found a number",
        ),
        (
            "{publishNotReadyAddresses: 'yes', clusterIP: None}",
            "spec.publishNotReadyAddresses: expected true or false, found a string",
        ),
        ("[]", "spec: expected an object, found a list"),
    ];
    for (spec, message) in cases {
        let problem = error(spec);
        assert!(problem.contains(message), "{problem}\ndoes not contain\n{message}");
        assert!(problem.starts_with("web.yaml:4:"), "{problem}");
        assert!(problem.contains(": Service default/web: "), "{problem}");
    }
}

#[test]
fn several_errors_are_reported_at_once() {
    let decoded = yaml(&with_spec("{type: X, clusterIP: z, ports: [{port: 0}]}"));
    assert_eq!(decoded.problems.len(), 3, "{:?}", problems(&decoded));
}

#[test]
fn affinity_without_a_timeout_gets_the_api_default() {
    let web = service(&with_spec("{clusterIP: None, sessionAffinity: ClientIP}"));
    assert_eq!(web.affinity, Affinity::ClientIp { timeout: 10_800 });
    let off = "{clusterIP: None, sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}}";
    assert_eq!(service(&with_spec(off)).affinity, Affinity::None);
}

#[test]
fn order_does_not_matter() {
    let a = service(&with_spec(
        "{clusterIP: 1.2.3.4, externalIPs: [9.9.9.9, 8.8.8.8], selector: {a: b, c: d}, \
          ports: [{name: a, port: 1}, {name: b, port: 2}]}",
    ));
    let b = service(&with_spec(
        "{ports: [{port: 2, name: b}, {port: 1, name: a}], selector: {c: d, a: b}, \
          externalIPs: [8.8.8.8, 9.9.9.9, 8.8.8.8], clusterIP: 1.2.3.4}",
    ));
    assert_eq!(a, b);
}

#[test]
fn invalid_names_are_refused() {
    let long = "a".repeat(254);
    let cases = [
        ("{}", "metadata.name: missing"),
        ("{name: ''}", "metadata.name: missing"),
        ("{name: 7}", "metadata.name: expected a string, found a number"),
        ("{name: a/b}", "metadata.name: \"a/b\" is not a name"),
        ("{name: 'a b'}", "metadata.name: \"a b\" is not a name"),
        ("{name: \"a\\nb\"}", "metadata.name: \"a\\nb\" is not a name"),
        ("{name: 'a\"b'}", "metadata.name: \"a\\\"b\" is not a name"),
        ("{name: a, namespace: 'x y'}", "metadata.namespace: \"x y\" is not a name"),
        (&format!("{{name: {long}}}"), "metadata.name: longer than 253 bytes"),
    ];
    for (metadata, message) in cases {
        for (version, kind) in
            [("v1", "Service"), ("v1", "Pod"), ("discovery.k8s.io/v1", "EndpointSlice")]
        {
            let text = format!("apiVersion: {version}\nkind: {kind}\nmetadata: {metadata}\n");
            let decoded = yaml(&text);
            let all = problems(&decoded);
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].contains(message), "{all:?}");
            assert!(decoded.objects.is_empty() && decoded.nameless);
        }
    }
}
