//! Fields that limit which clients may connect, or which endpoints and addresses are used. If one
//! of them is invalid, the whole object is refused, so that its last good content stays.

use super::{problems, yaml};

/// A document, the field to put in place of `HERE`, and the expected message.
type Case = (&'static str, &'static str, &'static str);

const BALANCER: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  \
    {type: LoadBalancer, clusterIP: 1.2.3.4, ports: [{port: 1}], HERE}\n\
    status: {loadBalancer: {ingress: [{ip: 198.51.100.20}]}}\n";
const LABELLED: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web, labels: HERE}\n\
    spec: {clusterIP: 1.2.3.4, ports: [{port: 1}]}\n";
const STATUS: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\n\
    spec: {type: LoadBalancer, clusterIP: 1.2.3.4, ports: [{port: 1}]}\nstatus: HERE\n";
const SLICE: &str = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
    metadata: {name: web, labels: {kubernetes.io/service-name: web}}\naddressType: IPv4\n\
    endpoints: [{addresses: [10.0.0.1], HERE}]\n";
const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\n\
    status: {podIP: 10.0.0.1, HERE}\n";
const POD_METADATA: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, HERE}\n";
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: na}\nHERE\n";
const CIDR: &str = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: x}\n\
    spec: {HERE}\n";

const CASES: &[Case] = &[
    // The clients that may connect to a load balancer.
    (BALANCER, "loadBalancerSourceRanges: [203.0.113.7]", "write 203.0.113.7/32 for one address"),
    (BALANCER, "loadBalancerSourceRanges: ['fd00::7']", "write fd00::7/128 for one address"),
    (BALANCER, "loadBalancerSourceRanges: [203.0.113.0/33]", "\"203.0.113.0/33\" is not a range"),
    (BALANCER, "loadBalancerSourceRanges: ['203.0.113.0/255.255.255.0']", "write 203.0.113.0/24"),
    (
        BALANCER,
        "loadBalancerSourceRanges: ['203.0.113.0 /25']",
        "\"203.0.113.0 /25\" is not a range",
    ),
    (BALANCER, "loadBalancerSourceRanges: ['a/25 ']", "\"a/25\" is not a range"),
    (BALANCER, "loadBalancerSourceRanges: ['10.0.0.0/8,192.0.2.0/24']", "an entry of its own"),
    (BALANCER, "loadBalancerSourceRanges: ['10.0.0.0/8 192.0.2.7']", "an entry of its own"),
    (BALANCER, "loadBalancerSourceRanges: [10.0.0.0/8, bogus]", "[1]: \"bogus\" is not a range"),
    (BALANCER, "loadBalancerSourceRanges: ['']", "\"\" is not a range"),
    (BALANCER, "loadBalancerSourceRanges: [' ']", "\"\" is not a range"),
    (BALANCER, "loadBalancerSourceRanges: [~]", "\"\" is not a range"),
    (BALANCER, "loadBalancerSourceRanges: [10]", "expected a string, found a number"),
    (BALANCER, "loadBalancerSourceRanges: 10.0.0.0/8", "expected a list, found a string"),
    (BALANCER, "loadBalancerSourceRanges: {a: b}", "expected a list, found an object"),
    // The clients that reach only some endpoints, and which endpoints are selected.
    (BALANCER, "externalTrafficPolicy: local", "is not one of Cluster, Local"),
    (BALANCER, "externalTrafficPolicy: true", "expected a string, found true or false"),
    (BALANCER, "internalTrafficPolicy: local", "is not one of Cluster, Local"),
    (BALANCER, "selector: {app: web, tier: 1}", "expected a string, found a number"),
    (BALANCER, "selector: [app]", "expected a map, found a list"),
    (BALANCER, "publishNotReadyAddresses: nope", "expected true or false, found a string"),
    (
        LABELLED,
        "{service.kubernetes.io/service-proxy-name: 7}",
        "expected a string, found a number",
    ),
    (LABELLED, "[service.kubernetes.io/service-proxy-name]", "expected a map, found a list"),
    (STATUS, "{loadBalancer: [198.51.100.20]}", "expected an object, found a list"),
    // The endpoints and their conditions.
    (SLICE, "conditions: {ready: 'false'}", "expected true or false, found a string"),
    (SLICE, "conditions: {serving: 0}", "expected true or false, found a number"),
    (SLICE, "conditions: {terminating: 'yes'}", "expected true or false, found a string"),
    (SLICE, "conditions: [ready]", "expected an object, found a list"),
    (SLICE, "nodeName: [na]", "expected a string, found a list"),
    (SLICE, "hints: {forZones: [z1]}", "expected an object, found a string"),
    (POD, "conditions: [{type: Ready, status: false}]", "expected a string, found true or false"),
    (POD, "conditions: [{status: 'False'}]", "status.conditions[0].type: missing"),
    (POD, "conditions: {Ready: 'False'}", "expected a list, found an object"),
    (POD, "phase: succeeded", "is not one of Running, Pending, Unknown, Succeeded, Failed"),
    (POD_METADATA, "deletionTimestamp: 7", "expected a string, found a number"),
    (POD_METADATA, "labels: {app: 7}", "expected a string, found a number"),
    // The addresses of node ports, the addresses of Pods, and those that Services cannot have.
    (
        NODE,
        "status: {addresses: [{type: InternalIP, address: na.example}]}",
        "is not an IP address",
    ),
    (NODE, "status: {addresses: [{type: InternalIP, address: ' '}]}", "\"\" is not an IP address"),
    (NODE, "spec: {podCIDR: 10.0.0.1}", "write 10.0.0.1/32"),
    (NODE, "spec: {podCIDRs: [10.0.0.0/33]}", "\"10.0.0.0/33\" is not a range"),
    (
        NODE,
        "spec: {taints: [ToBeDeletedByClusterAutoscaler]}",
        "expected an object, found a string",
    ),
    (CIDR, "cidrs: ['']", "\"\" is not a range"),
];

#[test]
fn an_invalid_restricting_field_refuses_the_object() {
    for (text, field, message) in CASES {
        let decoded = yaml(&text.replace("HERE", field));
        let all = problems(&decoded);
        assert_eq!(all.len(), 1, "of {field}: {all:?}");
        assert!(all[0].contains(message), "of {field}: {all:?}");
        assert_eq!((decoded.objects.len(), decoded.broken.len()), (0, 1), "of {field}");
    }
}

#[test]
fn blanks_around_a_range_are_ignored() {
    let decoded = yaml(&BALANCER.replace("HERE", "loadBalancerSourceRanges: [' 203.0.113.0/25 ']"));
    assert_eq!(problems(&decoded), [""; 0]);
    assert_eq!(decoded.objects.len(), 1);
}

#[test]
fn a_family_without_a_source_range_is_reported() {
    let decoded = yaml(&BALANCER.replace("HERE", "loadBalancerSourceRanges: ['fd00::/64']"));
    let all = problems(&decoded);
    assert_eq!(decoded.objects.len(), 1);
    assert_eq!(all.len(), 1, "{all:?}");
    assert!(all[0].ends_with(
        "spec.loadBalancerSourceRanges: no range of IPv4, so all its clients may connect"
    ));
}
