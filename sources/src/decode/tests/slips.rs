//! Kinds, versions and fields with names close to those that are read.

use super::{problems, yaml};

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.90.0.1, ports: [{port: 80}]}
";

#[test]
fn a_misspelt_kind_removes_nothing() {
    for (kind, meant) in
        [("service", "Service"), ("Services", "Service"), ("Serivce", "Service"), ("pod", "Pod")]
    {
        let decoded = yaml(&SERVICE.replace("kind: Service", &format!("kind: {kind}")));
        let expected = format!("web.yaml:3:7: kind: unknown kind {kind:?}, did you mean {meant}?");
        assert_eq!(problems(&decoded), [expected]);
        assert!(decoded.nameless && decoded.objects.is_empty() && !decoded.blank);
    }
    // Kinds of other groups are ignored.
    for (version, kind) in [
        ("v1", "ConfigMap"),
        ("v1", "ServiceAccount"),
        ("apps/v1", "Deployment"),
        ("serving.knative.dev/v1", "Service"),
        ("example.com/v1", "Services"),
        ("multicluster.x-k8s.io/v1alpha1", "ServiceImport"),
    ] {
        let text = SERVICE.replace("kind: Service", &format!("kind: {kind}"));
        let decoded = yaml(&text.replace("apiVersion: v1", &format!("apiVersion: {version}")));
        assert_eq!(problems(&decoded), [""; 0], "{version} {kind}");
        assert!(!decoded.nameless);
    }
}

#[test]
fn a_wrong_api_version_is_an_error() {
    for version in ["v2", "V1", "core/v1", "apps/v1", "discovery.k8s.io/v1"] {
        let text = SERVICE.replace("apiVersion: v1", &format!("apiVersion: {version}"));
        let decoded = yaml(&text);
        let expected =
            format!("web.yaml:2:13: apiVersion: Service is not in {version:?}, but in v1");
        assert_eq!(problems(&decoded), [expected]);
        assert!(decoded.nameless && decoded.objects.is_empty());
    }
}

fn told(text: &str) -> Vec<String> {
    let decoded = yaml(text);
    assert_eq!(decoded.objects.len(), 1, "it is used: {text}");
    problems(&decoded)
}

#[test]
fn an_unknown_service_field_is_reported_with_a_suggestion() {
    for (from, to, expected) in [
        (
            "clusterIP: 10",
            "selectors: {a: b}, clusterIP: 10",
            "spec.selectors: unknown field, did you mean selector?",
        ),
        (
            "{name: web}",
            "{name: web, lables: {a: b}}",
            "metadata.lables: unknown field, did you mean labels?",
        ),
        (
            "{port: 80}",
            "{port: 80, nodeport: 30080}",
            "spec.ports[0].nodeport: unknown field, did you mean nodePort?",
        ),
        ("{port: 80}", "{port: 80, weight: 3}", "spec.ports[0].weight: unknown field, ignored"),
        ("spec:", "sepc: {}\nspec:", "sepc: unknown field, did you mean spec?"),
    ] {
        let found = told(&SERVICE.replace(from, to));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].contains("Service default/web: ") && found[0].ends_with(expected),
            "{found:?}"
        );
    }
    let list = "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: Service, metadata: {name: a}, \
                spec: {clusterIP: 10.90.0.1, port: 7, ports: [{port: 80}]}}]\n";
    let found = told(list);
    assert!(
        found[0].ends_with("Service default/a: spec.port: unknown field, did you mean ports?"),
        "{found:?}"
    );
}

#[test]
fn an_unknown_slice_field_is_reported() {
    let text = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.1], nodename: na, zone: z, targetRef: {kind: Pod}}]
";
    let found = told(text);
    let expected = "endpoints[0].nodename: unknown field, did you mean nodeName?";
    assert!(found.len() == 1 && found[0].ends_with(expected), "{found:?}");
}

/// All fields that the API has in these places, as `kubectl get -o yaml` prints them.
#[test]
fn known_api_fields_are_not_reported() {
    let service = "
apiVersion: v1
kind: Service
metadata: {name: web, uid: u, resourceVersion: '7', generation: 1, creationTimestamp: null, managedFields: [{manager: m}], finalizers: [f], ownerReferences: [{kind: A}]}
spec: {clusterIP: 10.90.0.1, clusterIPs: [10.90.0.1], ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], type: LoadBalancer, allocateLoadBalancerNodePorts: true, loadBalancerClass: a/b, trafficDistribution: PreferClose, ports: [{port: 80, appProtocol: http, targetPort: 8080}]}
status: {conditions: [{type: A}], loadBalancer: {ingress: [{ip: 198.51.100.1, ports: [{port: 80}]}]}}
";
    assert_eq!(told(service), [""; 0]);
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: a, generateName: a-}
spec: {nodeName: na, hostname: a, nodeSelector: {a: b}, volumes: [{name: v}], serviceAccountName: s, dnsPolicy: Default, priority: 0, containers: [{name: c, image: i, env: [{name: E}], ports: [{containerPort: 80, hostPort: 80}]}]}
status: {podIP: 10.0.0.1, hostIP: 192.0.2.1, hostIPs: [{ip: 192.0.2.1}], qosClass: BestEffort, startTime: null, containerStatuses: [{name: c}]}
";
    assert_eq!(told(pod), [""; 0]);
}

#[test]
fn misspelt_pod_fields_are_reported() {
    let pod = "
apiVersion: v1
kind: Pod
metadata: {name: a}
spec: {hostnetwork: true, containers: [{name: c, image: i}]}
status: {podIp: 10.0.0.1}
";
    let found = told(pod);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].ends_with("spec.hostnetwork: unknown field, did you mean hostNetwork?"),
        "{found:?}"
    );
    assert!(found[1].ends_with("status.podIp: unknown field, did you mean podIP?"), "{found:?}");
}
