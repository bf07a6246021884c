//! What sources read, as others write it.

use std::fmt::Write as _;

use crate::world::{cluster_ip, endpoint};

/// Returns a list of EndpointSlices as an API server sends it.
pub(crate) fn list(slices: usize, endpoints: usize) -> String {
    let items: Vec<String> = (0..slices).map(|number| slice(number, endpoints)).collect();
    format!(
        r#"{{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","metadata":{{"resourceVersion":"900"}},"items":[{}]}}"#,
        items.join(",")
    )
}

/// Returns an event of a watch of EndpointSlices.
pub(crate) fn event(number: usize, endpoints: usize) -> String {
    let object = slice(number, endpoints);
    let object =
        object.replacen('{', r#"{"kind":"EndpointSlice","apiVersion":"discovery.k8s.io/v1","#, 1);
    format!(r#"{{"type":"MODIFIED","object":{object}}}"#)
}

/// Returns an EndpointSlice with everything that the controller and the server add.
fn slice(number: usize, endpoints: usize) -> String {
    let endpoint = |index: usize| {
        let (address, node) = (endpoint(number, index), index % 5);
        format!(
            r#"{{"addresses":["{address}"],"conditions":{{"ready":true,"serving":true,"terminating":false}},"targetRef":{{"kind":"Pod","namespace":"default","name":"service-{number}-5d9c7b8f6-{index:05}","uid":"7c1a2f4e-0000-4000-8000-{number:06}{index:06}"}},"nodeName":"node-{node}","zone":"zone-{}"}}"#,
            node % 3
        )
    };
    let endpoints: Vec<String> = (0..endpoints).map(endpoint).collect();
    format!(
        r#"{{"metadata":{{"name":"service-{number}-x7k2p","generateName":"service-{number}-","namespace":"default","uid":"3f0c9f6e-0000-4000-8000-{number:012}","resourceVersion":"{}","generation":3,"creationTimestamp":"2026-01-01T00:00:00Z","labels":{{"app":"service-{number}","endpointslice.kubernetes.io/managed-by":"endpointslice-controller.k8s.io","kubernetes.io/service-name":"service-{number}"}},"annotations":{{"endpoints.kubernetes.io/last-change-trigger-time":"2026-01-01T00:00:00Z"}},"ownerReferences":[{{"apiVersion":"v1","kind":"Service","name":"service-{number}","uid":"5b2d8c1a-0000-4000-8000-{number:012}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"discovery.k8s.io/v1","time":"2026-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{{"f:addressType":{{}},"f:endpoints":{{}},"f:metadata":{{"f:labels":{{".":{{}},"f:kubernetes.io/service-name":{{}}}}}},"f:ports":{{}}}}}}]}},"addressType":"IPv4","endpoints":[{}],"ports":[{{"name":"http","protocol":"TCP","port":8080}}]}}"#,
        100 + number,
        endpoints.join(",")
    )
}

/// Returns Services and their EndpointSlices as a manifest. With an anchor, it needs all of YAML.
pub(crate) fn manifest(services: usize, endpoints: usize, is_anchored: bool) -> String {
    let mut text = String::new();
    let anchor = if is_anchored { " &port" } else { "" };
    for service in 0..services {
        let address = cluster_ip(service);
        write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: service-{service}\nspec:\n  \
             clusterIP: {address}\n  ports:\n  -{anchor} {{name: http, port: 80, targetPort: 8080}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  \
             name: service-{service}-a\n  labels:\n    kubernetes.io/service-name: service-{service}\n\
             addressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n"
        )
        .unwrap();
        for index in 0..endpoints {
            let address = endpoint(service, index);
            writeln!(
                text,
                "- addresses: [{address}]\n  nodeName: nb\n  conditions: {{ready: true}}"
            )
            .unwrap();
        }
    }
    text
}
