//! What Pods and containers of podman mean. The texts are shortened answers of podman 4.3.1.

use serde_json::{Value, json};

use crate::podman::list::{Described, ListedContainer, ListedPod};
use crate::podman::pod::World;
use crate::pods::Event;
use crate::pods::pod::Raw;

/// Returns a container of the list; `more` overrides what it has.
fn container(id: &str, more: Value) -> ListedContainer {
    let mut all = json!({
        "Command": ["/bin/busybox", "sleep", "1000"],
        "Exited": false,
        "ExitedAt": -62_135_596_800_i64,
        "ExitCode": 0,
        "Id": id,
        "IsInfra": false,
        "Labels": {"app": id},
        "Names": [id],
        "Networks": ["podman"],
        "Pod": "",
        "StartedAt": 1_796_033_168,
        "State": "running",
        "Status": "",
    });
    merge(&mut all, more);
    serde_json::from_value(all).unwrap()
}

fn described(more: Value) -> Described {
    let mut all = json!({
        "State": {"Status": "running", "Health": {"Status": "", "FailingStreak": 0, "Log": null}},
        "Config": {"Annotations": {"io.container.manager": "libpod"}},
        "NetworkSettings": {
            "IPAddress": "",
            "GlobalIPv6Address": "",
            "Networks": {"podman": {"IPAddress": "10.88.0.6", "GlobalIPv6Address": ""}},
        },
        "HostConfig": {"NetworkMode": "bridge"},
    });
    merge(&mut all, more);
    serde_json::from_value(all).unwrap()
}

fn merge(all: &mut Value, more: Value) {
    let Value::Object(more) = more else { panic!("{more}") };
    for (key, value) in more {
        all[key] = value;
    }
}

/// Returns the Pods as documents.
fn documents(world: &World) -> Vec<Value> {
    let all = world.events().unwrap();
    all.iter()
        .map(|event| {
            let Event::Pod(Raw::Json(document)) = event else { panic!("{event:?}") };
            serde_json::from_str(document.get()).unwrap()
        })
        .collect()
}

/// Returns the Pod of a single container.
fn of(container: ListedContainer, described: Described) -> Value {
    let id = container.id.clone();
    let world = World {
        containers: vec![container],
        described: [(id, described)].into(),
        ..World::default()
    };
    documents(&world).remove(0)
}

fn is_ready(document: &Value) -> bool {
    document["status"]["conditions"] == json!([{"type": "Ready", "status": "True"}])
}

#[test]
fn a_container_is_a_pod_with_its_labels_and_address() {
    let annotations = json!({"Annotations": {"rulec.io/weight": "3", "other": "x"}});
    let document = of(container("c1", json!({})), described(json!({ "Config": annotations })));
    let expected = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "c1",
            "namespace": "default",
            "uid": "c1",
            "labels": {"app": "c1"},
            "annotations": {"rulec.io/weight": "3"},
        },
        "spec": {"hostNetwork": false},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.88.0.6"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    assert_eq!(document, expected);
}

#[test]
fn a_container_is_ready_while_it_runs_and_its_health_check_does_not_fail() {
    let table = [
        ("running", "", true),
        ("running", "healthy", true),
        ("running", "starting", false),
        ("running", "unhealthy", false),
        ("paused", "", false),
        ("created", "", false),
        ("exited", "", false),
        ("exited", "healthy", false),
    ];
    for (state, health, expected) in table {
        let listed = container("c1", json!({ "State": state }));
        let check = json!({"State": {"Health": {"Status": health}}});
        let document = of(listed, described(check));
        assert_eq!(is_ready(&document), expected, "{state} {health}");
        // The list has the outcome, too.
        let listed = container("c1", json!({ "State": state, "Status": health }));
        assert_eq!(is_ready(&of(listed, described(json!({})))), expected, "{state} {health}");
    }
}

#[test]
fn a_container_that_stops_is_terminating() {
    let document = of(container("c1", json!({"State": "stopping"})), described(json!({})));
    assert!(document["metadata"]["deletionTimestamp"].is_string(), "{document}");
    assert!(is_ready(&document), "it still serves: {document}");
    let unhealthy = container("c1", json!({"State": "stopping", "Status": "unhealthy"}));
    assert!(!is_ready(&of(unhealthy, described(json!({})))));
    assert_eq!(document["status"]["podIPs"], json!([{"ip": "10.88.0.6"}]));
}

#[test]
fn a_container_that_does_not_run_has_no_address() {
    // podman may still tell of the address that it had.
    for state in ["exited", "stopped", "created", "configured"] {
        let document = of(container("c1", json!({ "State": state })), described(json!({})));
        assert_eq!(document["status"]["podIPs"], json!([]), "{state}");
        assert_eq!(document["status"]["phase"], "Pending", "{state}");
    }
}

#[test]
fn the_first_address_of_each_family_counts() {
    let network = |v4: &str, v6: &str| json!({"IPAddress": v4, "GlobalIPv6Address": v6});
    let mut settings = network("", "");
    settings["Networks"] =
        json!({"b": network("10.89.1.2", "fd00::2"), "a": network("10.89.0.2", "")});
    let addresses = |settings: &Value| {
        let it = described(json!({ "NetworkSettings": settings }));
        of(container("c1", json!({})), it)["status"]["podIPs"].clone()
    };
    assert_eq!(addresses(&settings), json!([{"ip": "10.89.0.2"}, {"ip": "fd00::2"}]));
    settings["IPAddress"] = json!("10.88.0.9");
    assert_eq!(addresses(&settings), json!([{"ip": "10.88.0.9"}, {"ip": "fd00::2"}]));
    assert_eq!(addresses(&Value::Null), json!([]));
}

#[test]
fn a_container_in_the_network_of_the_node_has_the_addresses_of_the_node() {
    let host = described(json!({"HostConfig": {"NetworkMode": "host"}}));
    let document = of(container("c1", json!({})), host);
    assert_eq!(document["spec"], json!({"hostNetwork": true}));
    assert_eq!(document["status"]["podIPs"], json!([]));
    assert!(is_ready(&document));
}

#[test]
fn the_containers_of_a_pod_are_one_pod() {
    let pod = json!({
        "Cgroup": "/libpod_parent",
        "Containers": [],
        "Id": "p1",
        "InfraId": "infra",
        "Name": "web",
        "Labels": {"app": "web", "io.kubernetes.pod.namespace": "shop"},
        "Status": "Running",
    });
    let member = |id: &str, more: Value| {
        let mut all = json!({"Pod": "p1"});
        merge(&mut all, more);
        container(id, all)
    };
    let world = |members: Vec<ListedContainer>| {
        let infra = member("infra", json!({"Labels": {"io.buildah.version": "1.28.2"}}));
        let containers: Vec<ListedContainer> = std::iter::once(infra).chain(members).collect();
        let described = containers.iter().map(|it| (it.id.clone(), described(json!({}))));
        let described = described.collect();
        let pods: Vec<ListedPod> = vec![serde_json::from_value(pod.clone()).unwrap()];
        World { pods, containers, described, ..World::default() }
    };
    let table = [
        (vec![], false),
        (vec![member("a", json!({}))], true),
        (vec![member("a", json!({})), member("b", json!({"Status": "unhealthy"}))], false),
        // One that has done its work, and one that has failed.
        (vec![member("a", json!({})), member("b", json!({"State": "exited"}))], true),
        (
            vec![member("a", json!({})), member("b", json!({"State": "exited", "ExitCode": 1}))],
            false,
        ),
        (vec![member("a", json!({})), member("b", json!({"State": "stopped"}))], true),
    ];
    for (members, expected) in table {
        let documents = documents(&world(members.clone()));
        let [document] = &documents[..] else { panic!("{documents:?}") };
        assert_eq!(document["metadata"]["name"], "web");
        assert_eq!(document["metadata"]["namespace"], "shop");
        assert_eq!(document["metadata"]["labels"]["app"], "web");
        assert_eq!(document["status"]["podIPs"], json!([{"ip": "10.88.0.6"}]));
        assert_eq!(is_ready(document), expected, "{members:?}");
    }
}

#[test]
fn containers_of_a_pod_without_a_network_are_pods_by_themselves() {
    let pod = json!({"Id": "p1", "InfraId": "", "Name": "web", "Labels": null});
    let world = World {
        pods: vec![serde_json::from_value(pod).unwrap()],
        containers: vec![container("c1", json!({"Pod": "p1"}))],
        described: [("c1".to_owned(), described(json!({})))].into(),
        ..World::default()
    };
    let documents = documents(&world);
    assert_eq!(documents.len(), 1);
    assert_eq!(documents[0]["metadata"]["name"], "c1");
}

#[test]
fn names_become_those_of_kubernetes_and_stay_different() {
    let id = |last: &str| format!("0123456789abcdef{last}");
    let named = |last: &str, name: &str| container(&id(last), json!({"Names": [name]}));
    let containers = vec![
        named("1", "Shop_web_1"),
        named("2", "shop-web-1"),
        named("3", "_web_"),
        container(&id("4"), json!({ "Names": null })),
    ];
    let documents = documents(&World { containers, ..World::default() });
    let names: Vec<_> =
        documents.iter().map(|it| it["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["shop-web-1", "shop-web-1-0123456789ab", "web", "0123456789ab"]);
}

#[test]
fn a_long_name_is_cut() {
    let long = "x".repeat(300);
    let document = of(container("c1", json!({ "Names": [long] })), described(json!({})));
    assert_eq!(document["metadata"]["name"], "x".repeat(240));
}

#[test]
fn pods_of_different_namespaces_may_have_one_name() {
    let label = "io.kubernetes.pod.namespace";
    let containers = ["one", "two"]
        .map(|of| container(of, json!({"Names": ["web"], "Labels": {label: of}})))
        .to_vec();
    let documents = documents(&World { containers, ..World::default() });
    let names: Vec<_> = documents.iter().map(|it| &it["metadata"]["name"]).collect();
    assert_eq!(names, ["web", "web"]);
}

#[test]
fn a_label_that_is_no_namespace_is_named_and_hurts_no_other() {
    let label = "io.kubernetes.pod.namespace";
    for wrong in ["my ns", "a/b", "", "Shop", "-a", "ä"] {
        let odd = container("odd", json!({"Labels": {label: wrong}}));
        let containers = vec![odd, container("web", json!({}))];
        let events = World { containers, ..World::default() }.events().unwrap();
        let [Event::Note(message), Event::Pod(Raw::Json(_))] = &events[..] else {
            panic!("{events:?}");
        };
        assert!(message.starts_with("odd: label io.kubernetes.pod.namespace: "), "{message}");
    }
}

#[test]
fn a_container_that_cannot_be_described_stays_as_it_was() {
    let failed = [("c1".to_owned(), "layer not known".to_owned())].into();
    let containers = vec![container("c1", json!({}))];
    let events = World { containers, failed, ..World::default() }.events().unwrap();
    let [Event::Pod(Raw::Unread { uid, name, message })] = &events[..] else {
        panic!("{events:?}");
    };
    assert_eq!((&**uid, name.to_string().as_str()), ("c1", "default/c1"));
    assert_eq!(message, "cannot be described: layer not known");
}
