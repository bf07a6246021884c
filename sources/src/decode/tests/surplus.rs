//! Fields that a type of Service does not have.

use rulec_compiler::object::{Object, TrafficPolicy};

use super::{problems, yaml};

const STATUS: &str = "status: {loadBalancer: {ingress: [{ip: 198.51.100.20}]}}\n";

fn text(spec: &str, status: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{{spec}}}\n{status}")
}

#[test]
fn fields_of_other_service_types_are_ignored_and_reported() {
    let address = "clusterIP: 1.2.3.4";
    let port = "ports: [{port: 1, nodePort: 30080}]";
    let plain = "ports: [{port: 1}]";
    let cases = [
        ("ClusterIP", format!("{address}, {port}"), "", "spec.ports[0].nodePort"),
        ("ClusterIP", format!("{address}, {plain}"), STATUS, "status.loadBalancer.ingress"),
        ("NodePort", format!("{address}, {port}"), STATUS, "status.loadBalancer.ingress"),
        ("ExternalName", plain.to_owned(), STATUS, "status.loadBalancer.ingress"),
        ("ExternalName", port.to_owned(), "", "spec.ports[0].nodePort"),
        ("ExternalName", address.to_owned(), "", "spec.clusterIP"),
        ("ExternalName", "clusterIPs: [1.2.3.4]".to_owned(), "", "spec.clusterIPs"),
        ("ExternalName", "externalIPs: [198.51.100.30]".to_owned(), "", "spec.externalIPs"),
    ];
    let of_external = ["ClusterIP", "ExternalName"]
        .map(|kind| (kind, "externalTrafficPolicy: Local", "spec.externalTrafficPolicy"));
    let of_balancer = [
        ("loadBalancerSourceRanges: [bogus]", "spec.loadBalancerSourceRanges"),
        ("loadBalancerClass: example.com/x", "spec.loadBalancerClass"),
        ("allocateLoadBalancerNodePorts: false", "spec.allocateLoadBalancerNodePorts"),
        ("healthCheckNodePort: 32000", "spec.healthCheckNodePort"),
    ];
    let of_balancer = ["ClusterIP", "NodePort", "ExternalName"]
        .into_iter()
        .flat_map(|kind| of_balancer.map(|(field, path)| (kind, field, path)));
    let more = of_external.into_iter().chain(of_balancer).map(|(kind, field, path)| {
        let usual = if kind == "ExternalName" { "" } else { "clusterIP: 1.2.3.4, " };
        (kind, format!("{usual}{plain}, {field}"), "", path)
    });
    for (kind, spec, status, path) in cases.into_iter().chain(more) {
        let decoded = yaml(&text(&format!("type: {kind}, {spec}"), status));
        let all = problems(&decoded);
        let message = format!("not a field of Services of type {kind}, ignored");
        assert_eq!(all.len(), 1, "of {kind} {spec}: {all:?}");
        assert!(all[0].ends_with(&format!("Service default/web: {path}: {message}")), "{all:?}");
        let Object::Service(web) = &decoded.objects[0] else { panic!("{decoded:?}") };
        assert!(web.load_balancer_vips.is_empty() && web.source_ranges.is_empty());
        assert_eq!(web.external_policy, TrafficPolicy::Cluster);
        assert_eq!(web.health_check_node_port, None);
        assert!(kind == "NodePort" || web.ports.iter().all(|port| port.node_port.is_none()));
        assert!(kind != "ExternalName" || web.external_ips.is_empty());
    }
}

#[test]
fn fields_of_the_service_type_are_not_reported() {
    let specs = [
        "type: NodePort, clusterIP: 1.2.3.4, ports: [{port: 1, nodePort: 30080}], \
         externalTrafficPolicy: Local",
        "type: ClusterIP, clusterIP: 1.2.3.4, ports: [{port: 1}], externalIPs: [198.51.100.30], \
         externalTrafficPolicy: Local",
        "type: LoadBalancer, clusterIP: 1.2.3.4, ports: [{port: 1, nodePort: 30080}], \
         externalTrafficPolicy: Local, healthCheckNodePort: 32000, loadBalancerClass: x, \
         allocateLoadBalancerNodePorts: true, loadBalancerSourceRanges: [10.0.0.0/8]",
        "clusterIP: 1.2.3.4, ports: [{port: 1, nodePort: 0}], healthCheckNodePort: 0, \
         externalTrafficPolicy: '', loadBalancerSourceRanges: [], loadBalancerClass: ~",
    ];
    for spec in specs {
        let decoded = yaml(&text(spec, "status: {loadBalancer: {}}\n"));
        assert_eq!(problems(&decoded), [""; 0], "of {spec}");
        assert_eq!(decoded.objects.len(), 1, "of {spec}");
    }
}

#[test]
fn a_health_check_needs_external_policy_local() {
    let decoded = yaml(&text(
        "type: LoadBalancer, clusterIP: 1.2.3.4, ports: [{port: 1}], healthCheckNodePort: 32000",
        "",
    ));
    let all = problems(&decoded);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].contains("spec.healthCheckNodePort: ignored"), "{all:?}");
    let Object::Service(web) = &decoded.objects[0] else { panic!("{decoded:?}") };
    assert_eq!(web.health_check_node_port, None);
}

#[test]
fn only_a_cluster_ip_service_can_be_headless() {
    for kind in ["NodePort", "LoadBalancer"] {
        let spec = format!("type: {kind}, clusterIP: None, ports: [{{port: 1, nodePort: 30080}}]");
        let all = problems(&yaml(&text(&spec, "")));
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].contains("spec.clusterIP: None is only for type ClusterIP"), "{all:?}");
    }
}
