use super::{json, plain, problems, yaml};

fn keys(decoded: &crate::decode::Decoded) -> Vec<String> {
    decoded.objects.iter().map(|object| object.key().to_string()).collect()
}

#[test]
fn items_of_typed_lists_may_omit_their_kind() {
    let lists = [
        ("v1", "ServiceList", "Service", "{metadata: {name: a}, spec: {clusterIP: None}}"),
        ("v1", "PodList", "Pod", "{metadata: {name: a}}"),
        (
            "discovery.k8s.io/v1",
            "EndpointSliceList",
            "EndpointSlice",
            "{metadata: {name: a, labels: {kubernetes.io/service-name: x}}, addressType: IPv4}",
        ),
    ];
    for (version, list, kind, item) in lists {
        let bare = yaml(&format!("items: [{item}]\nkind: {list}\napiVersion: {version}\n"));
        assert_eq!(problems(&bare), [""; 0]);
        assert_eq!(keys(&bare), [format!("{kind} default/a")]);
    }
    let nodes = yaml("apiVersion: v1\nkind: NodeList\nitems: [{metadata: {name: na}}]\n");
    assert_eq!(keys(&nodes), ["Node na"]);
}

#[test]
fn a_list_may_hold_objects_of_any_kind() {
    let decoded = yaml(
        "
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: a}}
- {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: [1]}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: None, ports: [{port: 0}]}}
- {metadata: {name: c}}
- 7
- apiVersion: v1
  kind: List
  items: [{apiVersion: v1, kind: Node, metadata: {name: d}}]
",
    );
    assert_eq!(keys(&decoded), ["Pod default/a", "Node d"]);
    assert_eq!(
        problems(&decoded),
        [
            "web.yaml:7:95: Service default/b: spec.ports[0].port: 0 is not in 1..65535",
            "web.yaml:8:3: the document has no kind, ignored",
            "web.yaml:9:3: expected an object, found a number",
        ]
    );
    assert_eq!(decoded.broken.len(), 1);
}

#[test]
fn an_empty_list_is_valid() {
    for items in ["items: []", "items:", ""] {
        let decoded = yaml(&format!("apiVersion: v1\nkind: List\n{items}\n"));
        assert_eq!((decoded.objects.len(), decoded.problems.len()), (0, 0));
    }
    let decoded = yaml("apiVersion: v1\nkind: List\nitems: {}\n");
    assert_eq!(problems(&decoded), ["web.yaml:3:8: items: expected a list, found an object"]);
}

#[test]
fn other_kinds_are_ignored() {
    let kinds = [
        "apiVersion: v1\nkind: ConfigMap\ndata: {spec: 7}\nspec: [1]\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: 7\nspec: {selector: {matchLabels: {a: b}}}\n",
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: 7}\n",
        "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\n",
    ];
    for text in kinds {
        let decoded = yaml(text);
        assert_eq!(problems(&decoded), [""; 0], "of {text}");
        assert!(decoded.objects.is_empty() && !decoded.blank && !decoded.unreadable);
    }
}

/// It stands for manifests that are somewhere else, so that it is no other kind. It breaks none.
#[test]
fn a_recipe_of_kustomize_is_an_error() {
    for kind in ["Kustomization", "Component"] {
        let decoded = yaml(&format!("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: {kind}\n"));
        let message = format!(
            "web.yaml:2:7: kind: a {kind} is not applied: give the output of kustomize build"
        );
        assert_eq!(problems(&decoded), [message]);
        assert!(!decoded.nameless && !decoded.blank && !decoded.unreadable);
    }
}

#[test]
fn a_document_without_a_kind_or_version_is_reported() {
    let decoded = yaml("metadata: {name: a}\n");
    assert_eq!(problems(&decoded), ["web.yaml:1:1: the document has no kind, ignored"]);
    assert!(decoded.blank);
    let decoded = yaml("kind: Service\nmetadata: {name: a}\n");
    assert_eq!(problems(&decoded), ["web.yaml:1:1: apiVersion: missing for kind Service"]);
    let decoded = yaml("apiVersion: 1\nkind: Service\n");
    assert_eq!(
        problems(&decoded),
        ["web.yaml:1:13: apiVersion: expected a string, found a number"]
    );
    assert!(decoded.nameless);
}

#[test]
fn yaml_and_json_yield_the_same_object() {
    let text = r#"{"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.90.0.10", "ports": [{"port": 80}]}}"#;
    assert_eq!(json(text).objects, yaml(&plain("web", 80)).objects);
    assert_eq!(yaml(text).objects, json(text).objects);
}
