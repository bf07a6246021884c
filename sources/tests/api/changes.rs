//! Which changes are sent, and which are not.

use std::collections::BTreeSet;
use std::time::Duration;

use rulec_apiserver::{Fault, Resource, Scope, Server, on_both_servers};
use rulec_compiler::name::NodeName;
use rulec_compiler::object::Object;
use rulec_sources::{ApiOptions, ApiTiming, ErrorKind, Severity};
use serde_json::json;

use crate::objects::{node, service, service_cidr, slice};
use crate::world::{Following, NODE, World};

on_both_servers!(async
    updates_without_effect_are_suppressed_and_counted,
    labels_for_another_proxy_remove_the_object,
    the_list_completes_without_a_missing_node,
    an_unknown_node_name_is_reported_at_once,
    a_node_that_comes_in_time_completes_the_list,
    the_list_completes_without_a_forbidden_node,
    forbidden_services_are_an_error_and_are_retried,
);

async fn updates_without_effect_are_suppressed_and_counted<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    world.server.apply(&slice("web-1", &["10.0.0.1", "10.0.0.2"]));
    let mut following = world.following().await;
    following.until(|known| known.len() == 3).await;
    let before = following.seen.len();

    let mut metadata = service("web", 80);
    metadata["metadata"]["annotations"] = json!({ "note": "x" });
    world.server.apply(&metadata);
    world.server.apply(&slice("web-1", &["10.0.0.2", "10.0.0.1"]));
    let mut status = node(NODE, "192.0.2.1");
    status["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
    world.server.apply(&status);
    world.probe(&mut following).await;
    while following.suppressed_since(before) < 3 {
        following.next().await;
    }
    assert_eq!(following.changes_since(before), [""; 0]);
    assert_eq!(following.suppressed_since(before), 3);

    world.server.apply(&service("web", 81));
    following.next().await;
    assert_eq!(following.changes_since(before), ["+ Service default/web"]);
}

#[tokio::test]
async fn duplicate_events_are_applied_once() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    let mut following = world.following().await;
    let before = following.seen.len();
    world.server.fault(Scope::all(), Fault::Duplicates);
    world.server.apply(&service("web", 81));
    world.server.apply(&service("web", 82));
    world.probe(&mut following).await;
    assert_eq!(following.changes_since(before), ["+ Service default/web", "+ Service default/web"]);
    assert_eq!(following.port("web"), Some(82));
}

async fn labels_for_another_proxy_remove_the_object<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    world.server.apply(&slice("web-1", &["10.0.0.1"]));
    let mut following = world.following().await;
    following.until(|known| known.len() == 3).await;
    let before = following.seen.len();

    let mut other = service("web", 80);
    other["metadata"]["labels"]["service.kubernetes.io/service-proxy-name"] = json!("other");
    world.server.apply(&other);
    following.until(|known| known.len() == 2).await;
    world.server.apply(&service("web", 80));
    following.until(|known| known.len() == 3).await;

    let mut headless = slice("web-1", &["10.0.0.1"]);
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = json!("");
    world.server.apply(&headless);
    following.until(|known| known.len() == 2).await;
    assert_eq!(
        following.changes_since(before),
        ["- Service default/web", "+ Service default/web", "- EndpointSlice default/web-1"]
    );
}

#[tokio::test]
async fn a_broken_object_keeps_its_last_good_version() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    let mut following = world.following().await;
    let mut broken = service("web", 81);
    broken["spec"]["ports"][0]["protocol"] = json!("DCCP");
    world.server.apply(&broken);
    following.problems_until(|problems| !problems.is_empty()).await;
    assert_eq!(
        following.problems(),
        ["API server: Service default/web: spec.ports[0].protocol: \
          \"DCCP\" is not one of TCP, UDP, SCTP"]
    );
    world.probe(&mut following).await;
    assert_eq!(following.port("web"), Some(80));
    world.server.apply(&service("web", 81));
    following.problems_until(<[String]>::is_empty).await;
    assert_eq!(following.port("web"), Some(81));

    // A source that starts now behaves the same, but has no last good version.
    world.server.apply(&broken);
    world.server.apply(&service("other", 80));
    let mut following = world.following().await;
    assert_eq!(following.services(), ["other"]);
    following.problems_until(|problems| problems.len() == 1).await;
}

async fn the_list_completes_without_a_missing_node<S: Server>() {
    let world = World::<S>::of(true);
    world.server.delete(Resource::Nodes, "", NODE);
    world.server.apply(&service("web", 80));
    let timing = ApiTiming { optional: Duration::from_millis(500), ..world.options().timing };
    let mut following = Following::with(ApiOptions { timing, ..world.options() });
    following.until(|known| known.len() == 1).await;
    following.complete().await;
    assert_eq!(following.names(), ["Service default/web"]);
    world.server.apply(&node(NODE, "192.0.2.7"));
    following.until(|known| known.len() == 2).await;
}

/// The name is wrong: that is reported at once, with the names of existing Nodes. The Node is
/// waited for only as long as a node needs to register itself.
async fn an_unknown_node_name_is_reported_at_once<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    let timing = ApiTiming {
        absent: Duration::from_millis(300),
        optional: Duration::from_secs(3600),
        ..world.options().timing
    };
    let node_name = NodeName::from("node-1.example.com");
    let mut following = Following::with(ApiOptions { timing, node_name, ..world.options() });
    following.problems_until(|problems| problems.len() == 1).await;
    let problem = following.problems()[0].clone();
    let expected =
        "there is no Node node-1.example.com (--node-name). Existing Nodes include: node-1.";
    assert!(problem.contains(expected), "{problem}");
    following.complete().await;
    // The problem ends when the Node exists.
    world.server.apply(&node("node-1.example.com", "192.0.2.7"));
    following.until(|known| known.contains_key("Node node-1.example.com")).await;
    following.problems_until(<[String]>::is_empty).await;
}

async fn a_node_that_comes_in_time_completes_the_list<S: Server>() {
    let world = World::<S>::of(true);
    world.server.delete(Resource::Nodes, "", NODE);
    let timing = ApiTiming { optional: Duration::from_secs(3600), ..world.options().timing };
    let mut following = Following::with(ApiOptions { timing, ..world.options() });
    world.probe(&mut following).await;
    assert!(following.seen.iter().all(|update| !update.complete));
    world.server.apply(&node(NODE, "192.0.2.7"));
    following.complete().await;
    let Object::Node(node) = &following.known["Node node-1"] else { panic!() };
    assert_eq!(node.addresses.len(), 1);
}

async fn the_list_completes_without_a_forbidden_node<S: Server>() {
    let world = World::<S>::of(true);
    world.server.forbid(Resource::Nodes);
    let timing = ApiTiming { optional: Duration::from_secs(3600), ..world.options().timing };
    let mut following = Following::with(ApiOptions { timing, ..world.options() });
    // As soon as with a 404, and long before the pauses get longer.
    following.complete().await;
    following.problems_until(|problems| problems.len() == 1).await;
    let problem = following.seen.last().unwrap().problems.get_min().unwrap().clone();
    assert_eq!(problem.severity, Severity::Warning);
    assert!(problem.message.starts_with("the Node: refused, continuing without: "), "{problem}");
    assert!(problem.message.contains("needs the verbs list and watch for nodes"), "{problem}");
    // It is reported once, however often it is retried.
    let refusals = following.status.errors(ErrorKind::Forbidden);
    world.until(|_| following.status.errors(ErrorKind::Forbidden) > refusals + 2).await;
    world.probe(&mut following).await;
    let said: BTreeSet<String> =
        following.seen.iter().flat_map(|u| &u.problems).map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    world.server.allow(Resource::Nodes);
    following.until(|known| known.contains_key("Node node-1")).await;
    following.problems_until(<[String]>::is_empty).await;
}

/// Only a list from the server shows that there is no Node; a 404 may come from something else.
#[tokio::test]
async fn a_brief_404_does_not_remove_the_node() {
    let world = World::new();
    let timing = ApiTiming { refused: Duration::from_secs(3600), ..world.options().timing };
    let mut following = Following::with(ApiOptions { timing, ..world.options() });
    following.listed().await;
    let before = following.seen.len();
    world.server.fault_times(3, Scope::resource(Resource::Nodes), Fault::status(404));
    world.server.drop_connections();
    following.problems_until(|problems| !problems.is_empty()).await;
    assert!(following.problems()[0].contains("404"), "{:?}", following.problems());
    following.problems_until(<[String]>::is_empty).await;
    assert_eq!(following.changes_since(before), [""; 0]);
    assert!(following.known.contains_key("Node node-1"));
}

#[tokio::test]
async fn a_start_waits_while_the_server_forbids_everything() {
    let world = World::new();
    // At first everything is forbidden, then everything is allowed.
    let refused = world.server.fault(Scope::all(), Fault::status(403));
    let timing = ApiTiming { optional: Duration::from_secs(3600), ..world.options().timing };
    let mut following = Following::with(ApiOptions { timing, ..world.options() });
    following.problems_until(|problems| problems.len() == 4).await;
    world.until(|_| following.status.errors(ErrorKind::Forbidden) >= 12).await;
    world.server.lift(refused);
    following.complete().await;
    assert!(following.known.contains_key("Node node-1"), "{:?}", following.names());
}

/// Servers know no roles yet when they begin to answer.
#[tokio::test]
async fn a_briefly_forbidden_node_is_retried_soon() {
    let world = World::new();
    let timing = ApiTiming { refused: Duration::from_secs(3600), ..world.options().timing };
    let mut following = Following::with(ApiOptions { timing, ..world.options() });
    following.listed().await;
    world.server.fault_times(3, Scope::resource(Resource::Nodes), Fault::status(403));
    world.server.drop_connections();
    world.until(|_| following.status.errors(ErrorKind::Forbidden) >= 3).await;
    world.server.apply(&node(NODE, "192.0.2.7"));
    following
        .until(|known| {
            let Some(Object::Node(node)) = known.get("Node node-1") else { return false };
            node.addresses.iter().any(|address| address.to_string() == "192.0.2.7")
        })
        .await;
    following.problems_until(<[String]>::is_empty).await;
}

/// The account was made for an older version of Kubernetes.
#[tokio::test]
async fn forbidden_service_cidrs_do_not_delay_the_start() {
    let world = World::new();
    world.server.forbid(Resource::ServiceCidrs);
    let hour = Duration::from_secs(3600);
    let timing = ApiTiming { optional: hour, refused: hour, ..ApiTiming::default() };
    let mut following = Following::with(ApiOptions { timing, ..world.options() });
    // If this waited for what is refused, it would be an hour.
    following.complete().await;
    let problems = following.problems();
    assert!(problems[0].contains("servicecidrs.networking.k8s.io"), "{problems:?}");
    assert!(following.known.contains_key("Node node-1"));
}

#[tokio::test]
async fn service_cidrs_are_read_once_the_server_has_them() {
    let world = World::new();
    world.server.apply(&service_cidr("more", "10.91.0.0/16"));
    let fault = world.server.fault(Scope::resource(Resource::ServiceCidrs), Fault::NotServed);
    let mut following = world.follow();
    following.complete().await;
    let changes = || ["[ServiceCidr] = ".to_owned()];
    while !following.changes_since(0).iter().any(|change| changes().contains(change)) {
        following.next().await;
    }
    assert_eq!(following.problems(), [""; 0]);
    world.server.lift(fault);
    following.until(|known| known.contains_key("ServiceCIDR more")).await;
}

async fn forbidden_services_are_an_error_and_are_retried<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    world.server.forbid(Resource::Services);
    let mut following = world.follow();
    // A server that does not support streaming lists reports that first.
    let is_refused = |problems: &[String]| matches!(problems, [it] if it.contains("403"));
    following.problems_until(is_refused).await;
    assert_eq!(
        following.seen.last().unwrap().problems.get_min().unwrap().severity,
        Severity::Error
    );
    assert!(following.seen.iter().all(|update| !update.complete));
    world.server.allow(Resource::Services);
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
    following.problems_until(<[String]>::is_empty).await;
}
