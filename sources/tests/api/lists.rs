//! First lists, and lists after missed changes.

use std::time::Duration;

use rulec_apiserver::{
    Cut, Expiry, Fault, Injection, Request, Resource, Restart, Scope, Server, Verb, on_both_servers,
};
use rulec_compiler::object::Object;
use rulec_sources::{ApiAccess, ApiOptions, ApiTiming, ErrorKind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::objects::{node, service, service_cidr, slice};
use crate::world::{Following, NODE, World};

const ALL: [Resource; 4] =
    [Resource::Services, Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs];

on_both_servers!(async
    a_streaming_server_is_listed_by_its_watches,
    requests_use_the_selectors_of_kube_proxy,
    a_server_that_does_not_stream_is_listed_from_its_cache,
    changes_during_an_outage_are_one_replacement,
    an_unchanged_list_is_no_change,
    changes_during_a_server_restart_are_followed,
);

async fn a_streaming_server_is_listed_by_its_watches<S: Server>() {
    let world = World::<S>::of(true);
    if !world.server.streams() {
        // Such a server is tested by the next scenario but one.
        return;
    }
    world.server.apply(&service("web", 80));
    world.server.apply(&slice("web-1", &["10.0.0.1"]));
    world.server.apply(&service_cidr("more", "10.91.0.0/16"));
    world.server.apply(&node("node-2", "192.0.2.2"));
    let mut following = world.following().await;
    following.until(|known| known.len() == 4).await;
    assert_eq!(
        following.names(),
        ["EndpointSlice default/web-1", "Node node-1", "Service default/web", "ServiceCIDR more",]
    );
    assert!(following.status.is_connected());
    for resource in ALL {
        assert_eq!(world.server.count(Verb::List, resource), 0, "{resource:?}");
        assert_eq!(world.server.count(Verb::Watch, resource), 1, "{resource:?}");
    }
}

async fn requests_use_the_selectors_of_kube_proxy<S: Server>() {
    for streaming in [true, false] {
        let world = World::<S>::of(streaming);
        world.following().await;
        for request in world.server.requests() {
            let query = request.query.replace("%21", "!").replace("%3D", "=").replace("%2F", "/");
            let wanted: &[&str] = match request.resource {
                Some(Resource::Services) => &[
                    "labelSelector=!service.kubernetes.io/service-proxy-name",
                    "fieldSelector=spec.clusterIP!=None",
                ],
                Some(Resource::EndpointSlices) => {
                    &["labelSelector=!service.kubernetes.io/headless"]
                }
                Some(Resource::Nodes) => &["fieldSelector=metadata.name=node-1"],
                _ => &[],
            };
            for part in wanted {
                assert!(query.contains(part), "{query}");
            }
            // The server's cache, which is sent as a whole.
            let is_watch = request.verb == Verb::Watch;
            let part = if is_watch { "allowWatchBookmarks=true" } else { "resourceVersion=0" };
            assert!(query.contains(part), "{query}");
        }
    }
}

async fn a_server_that_does_not_stream_is_listed_from_its_cache<S: Server>() {
    let world = World::<S>::of(false);
    let services: Vec<Value> = (0..1201).map(|number| service(&format!("s{number}"), 80)).collect();
    world.server.apply_all(&services);
    let mut following = world.following().await;
    assert_eq!(following.services().len(), 1201);
    assert_eq!(world.server.count(Verb::List, Resource::Services), 1, "as a whole");
    // From now on it is known that the server does not stream.
    let refused = world.server.requests();
    let refused = refused.iter().filter(|r| r.query.contains("sendInitialEvents")).count();
    assert!(refused <= ALL.len(), "{refused}");
    world.server.down();
    world.server.apply(&service("more", 80));
    world.server.forget();
    world.server.up();
    world.probe(&mut following).await;
    let asked = world.server.requests();
    assert_eq!(asked.iter().filter(|r| r.query.contains("sendInitialEvents")).count(), refused);
    // The second list may not be older than the known version, and comes from the cache again.
    let is_list = |r: &&Request| (r.verb, r.resource) == (Verb::List, Some(Resource::Services));
    let lists: Vec<&str> = asked.iter().filter(is_list).map(|r| &*r.query).collect();
    let [first, second] = lists[..] else { panic!("{lists:?}") };
    assert!(first.contains("resourceVersion=0"), "{first}");
    assert!(second.contains("resourceVersionMatch=NotOlderThan"), "{second}");
    assert!(!second.contains("resourceVersion=0") && !second.contains("limit"), "{second}");
}

/// One of several servers may lag behind: its lists must not take the known state back in time.
#[tokio::test]
async fn an_older_list_does_not_replace_newer_state() {
    for streaming in [true, false] {
        let world = World::new();
        world.server.set_streaming_lists(streaming);
        let then = world.server.apply(&service("a", 80));
        let mut following = world.following().await;
        world.server.apply(&service("b", 80));
        following.until(|known| known.contains_key("Service default/b")).await;
        let before = following.seen.len();

        // The watch is refused once, and the first two lists are of an older version.
        let scope = Scope::resource(Resource::Services);
        world.server.down();
        world.server.apply(&service("c", 80));
        let gone = Fault::WatchBegins(Injection::Error(410));
        world.server.fault_times(1, scope.verb(Verb::Watch), gone);
        let verb = if streaming { Verb::Watch } else { Verb::List };
        let past = if streaming { 2 } else { 1 };
        world.server.fault_times(past, scope.verb(verb), Fault::AsOf(then));
        world.server.up();
        following.until(|known| known.contains_key("Service default/c")).await;
        let all = "[Service] = Service default/a, Service default/b, Service default/c";
        assert_eq!(following.changes_since(before), [all], "{streaming}");
    }
}

/// The server refuses the list because it has not reached the version; the newest is then
/// requested.
#[tokio::test]
async fn a_server_behind_our_version_is_asked_for_the_newest() {
    let world = World::new();
    world.server.set_streaming_lists(false);
    world.server.apply(&service("a", 80));
    let mut following = world.following().await;
    world.server.advance(1_000);
    world.probe(&mut following).await;
    let gone = Fault::WatchBegins(Injection::Error(410));
    world.server.fault_times(1, Scope::resource(Resource::Services).verb(Verb::Watch), gone);
    // Restored from a copy: its versions start again, and it does not know ours.
    world.server.restart(Restart::Fresh);
    world.server.apply(&node(NODE, "192.0.2.1"));
    world.server.apply(&service("b", 80));
    following.until(|known| known.contains_key("Service default/b")).await;
    assert_eq!(following.services(), ["b"]);
    let asked = world.server.requests();
    let newest =
        asked.iter().rfind(|r| (r.verb, r.resource) == (Verb::List, Some(Resource::Services)));
    let newest = &newest.unwrap().query;
    assert!(newest.contains("limit=500") && !newest.contains("resourceVersion"), "{newest}");
}

#[tokio::test]
async fn lists_are_compressed_unless_the_kubeconfig_forbids_it() {
    for forbidden in [false, true] {
        let world = World::new();
        world.server.set_streaming_lists(false);
        let services: Vec<Value> =
            (0..1_000).map(|number| service(&format!("s{number}"), 80)).collect();
        world.server.apply_all(&services);
        if forbidden {
            let text = std::fs::read_to_string(world.kubeconfig()).unwrap();
            let text = text.replace("\"server\":", "\"disable-compression\": true, \"server\":");
            std::fs::write(world.kubeconfig(), text).unwrap();
        }
        let following = world.following().await;
        assert_eq!(following.services().len(), 1_000);
        assert_eq!(world.server.packed(Resource::Services), usize::from(!forbidden));
        // Uncompressed, it has more than 300 KB.
        let received = following.status.received();
        assert_eq!(received < 150_000, !forbidden, "{received}");
    }
}

/// As Kubernetes sends it: an object that is changed or deleted while the cache is still being
/// read.
#[tokio::test]
async fn a_deletion_before_the_bookmark_of_a_streaming_list_is_applied() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = ApiAccess {
        kubeconfig: None,
        master: Some(format!("http://{}", listener.local_addr().unwrap())),
    };
    let mut following = Following::with(ApiOptions::new(access, NODE.into()));
    let server = tokio::spawn(async move {
        let mut requests = Vec::new();
        let mut open = Vec::new();
        while requests.len() < 4 {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let mut answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned();
            let mut say = |kind: &str, mut object: Value, version: u64| {
                object["metadata"]["resourceVersion"] = version.to_string().into();
                answer += &format!("{}\n", json!({ "type": kind, "object": object }));
            };
            if head.contains("/api/v1/services") {
                say("ADDED", service("a", 80), 3);
                say("ADDED", service("b", 80), 4);
                say("DELETED", service("a", 80), 8);
                say("MODIFIED", service("b", 81), 9);
                say("DELETED", service("never", 80), 10);
            } else if head.contains("/api/v1/nodes") {
                say("ADDED", node(NODE, "192.0.2.1"), 2);
            }
            let annotations = json!({ "k8s.io/initial-events-end": "true" });
            say("BOOKMARK", json!({ "metadata": { "annotations": annotations } }), 10);
            connection.write_all(answer.as_bytes()).await.unwrap();
            requests.push(head);
            open.push(connection);
        }
        (requests, open)
    });
    following.complete().await;
    assert_eq!(following.services(), ["b"]);
    assert_eq!(following.port("b"), Some(81));
    let (requests, _open) = server.await.unwrap();
    assert!(requests.iter().all(|head| head.contains("sendInitialEvents")), "{requests:?}");
    assert_eq!(following.problems(), [""; 0]);
}

#[tokio::test]
async fn a_server_without_streaming_lists_is_not_a_problem() {
    let world = World::new();
    world.server.set_streaming_lists(false);
    let mut following = world.following().await;
    world.probe(&mut following).await;
    assert!(following.seen.iter().all(|update| update.problems.is_empty()), "{:?}", following.seen);
}

async fn changes_during_an_outage_are_one_replacement<S: Server>() {
    for streaming in [true, false] {
        away(World::<S>::of(streaming)).await;
    }
}

#[tokio::test]
async fn changes_during_an_outage_are_one_replacement_after_a_status() {
    let world = World::new();
    world.server.set_expiry(Expiry::Status);
    away(world).await;
}

async fn away<S: Server>(world: World<S>) {
    for name in ["a", "b", "c"] {
        world.server.apply(&service(name, 80));
    }
    let mut following = world.following().await;
    let before = following.seen.len();
    let held = following.known["Service default/a"].clone();

    world.server.down();
    world.server.delete(Resource::Services, "default", "b");
    world.server.apply(&service("c", 81));
    world.server.apply(&service("d", 80));
    world.server.forget();
    world.server.up();
    following.until(|known| known.contains_key("Service default/d")).await;

    assert_eq!(following.services(), ["a", "c", "d"]);
    assert_eq!(following.port("c"), Some(81));
    assert_eq!(
        following.changes_since(before),
        ["[Service] = Service default/a, Service default/c, Service default/d"]
    );
    let (Object::Service(then), Object::Service(now)) =
        (held, following.known["Service default/a"].clone())
    else {
        panic!()
    };
    assert!(std::sync::Arc::ptr_eq(&then, &now), "what stays is shared");
    assert!(following.status.errors(ErrorKind::Expired) >= 1);
}

async fn an_unchanged_list_is_no_change<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("a", 80));
    world.server.apply(&slice("a-1", &["10.0.0.1"]));
    let mut following = world.following().await;
    following.until(|known| known.len() == 3).await;
    let (before, lists) = (following.seen.len(), following.status.lists());

    world.server.down();
    // The version advances by changes that do not concern this source.
    for number in 0..100 {
        world.server.apply(&node("node-2", &format!("192.0.2.{number}")));
    }
    world.server.forget();
    world.server.up();
    world.probe(&mut following).await;
    assert!(following.status.lists() > lists);
    assert_eq!(following.changes_since(before), [""; 0]);
}

#[tokio::test]
async fn a_truncated_list_is_retried() {
    for streaming in [true, false] {
        for how in [Cut::Close, Cut::Reset] {
            for bytes in [0, 1, 200, 700, 1400] {
                let world = World::new();
                world.server.set_streaming_lists(streaming);
                for name in ["a", "b", "c"] {
                    world.server.apply(&service(name, 80));
                }
                let scope = Scope::resource(Resource::Services);
                let verb = if streaming { Verb::Watch } else { Verb::List };
                world.server.fault_times(2, scope.verb(verb), Fault::CutAfter { bytes, how });
                let mut following = world.follow();
                following.complete().await;
                assert_eq!(following.services(), ["a", "b", "c"], "{streaming} {how:?} {bytes}");
                let changes = following.changes_since(0);
                let lists =
                    changes.iter().filter(|change| change.starts_with("[Service] =")).count();
                assert_eq!(lists, 1, "half a list was sent: {changes:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_malformed_list_removes_nothing() {
    let world = World::new();
    world.server.set_streaming_lists(false);
    world.server.apply(&service("a", 80));
    let mut following = world.following().await;
    let before = following.seen.len();
    for body in ["", "<html>", "{}", "[]", "null", "{\"metadata\":{},\"items\":[]}", "{\"items\":"]
    {
        let errors = following.status.errors(ErrorKind::Garbled);
        let scope = Scope::resource(Resource::Services).verb(Verb::List);
        let fault = world.server.fault(scope, Fault::ListBody(body.into()));
        world.server.down();
        world.server.advance(1);
        world.server.compact();
        world.server.up();
        world.until(|_| following.status.errors(ErrorKind::Garbled) > errors).await;
        world.server.lift(fault);
        world.probe(&mut following).await;
    }
    assert_eq!(following.changes_since(before), [""; 0]);
}

/// Kubernetes 1.34 and newer with an etcd before 3.4.31 or 3.5.13.
#[tokio::test]
async fn a_server_that_fails_to_stream_is_listed_in_pages() {
    let world = World::new();
    world.server.apply(&service("a", 80));
    let scope = Scope::resource(Resource::Services).verb(Verb::Watch);
    let error = Fault::WatchBegins(Injection::Error(500));
    world.server.fault_times(1, scope, error);
    let mut following = world.following().await;
    assert_eq!(following.services(), ["a"]);
    assert_eq!(world.server.count(Verb::List, Resource::Services), 1);
    world.probe(&mut following).await;
    // This is not a problem, since it happens at every normal start with such a server.
    assert!(following.seen.iter().all(|update| update.problems.is_empty()), "{:?}", following.seen);
}

#[tokio::test]
async fn an_expired_page_is_followed_by_a_complete_list() {
    let world = World::new();
    world.server.set_streaming_lists(false);
    for number in 0..501 {
        world.server.apply(&service(&format!("s{number}"), 80));
    }
    let scope = Scope::resource(Resource::Services).verb(Verb::List);
    // The list from the cache is refused, so that the newest is requested, in pages.
    world.server.fault_times(1, scope, Fault::status(410));
    // The first page is delayed, and the token of the next one has expired by then.
    let late = world.server.fault(scope, Fault::Delay(Duration::from_millis(300)));
    let mut following = world.follow();
    world.until(|server| server.count(Verb::List, Resource::Services) == 3).await;
    world.server.advance(1);
    world.server.compact();
    world.server.lift(late);
    following.complete().await;
    assert_eq!(following.services().len(), 501);
}

#[tokio::test]
async fn the_state_of_an_emptied_server_is_accepted() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.server.apply(&service(name, 80));
    }
    let mut following = world.following().await;
    world.server.restart(Restart::Emptied);
    world.server.apply(&node(NODE, "192.0.2.1"));
    world.server.apply(&service("d", 80));
    let only = ["Service default/d"];
    following
        .until(|known| known.keys().filter(|key| key.starts_with("Service default/")).eq(only))
        .await;
}

#[tokio::test]
async fn a_watch_with_an_older_version_is_followed_by_a_list() {
    let world = World::new();
    world.server.apply(&service("a", 80));
    let mut following = world.following().await;
    let (before, lists) = (following.seen.len(), following.status.lists());
    let object = json!({ "kind": "Service", "apiVersion": "v1",
        "metadata": { "resourceVersion": "1" } });
    let past = Injection::Event { kind: "BOOKMARK".to_owned(), object };
    world.server.inject(Resource::Services, past);
    world.until(|_| following.status.lists() > lists).await;
    world.probe(&mut following).await;
    assert_eq!(following.changes_since(before), [""; 0]);
}

/// After a restore from a copy, the server's version is older than ours, and its watches are silent
/// until it has reached ours.
#[tokio::test]
async fn an_unexpectedly_silent_watch_is_followed_by_a_list() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = ApiAccess {
        kubeconfig: None,
        master: Some(format!("http://{}", listener.local_addr().unwrap())),
    };
    let timing = ApiTiming {
        watch: Duration::from_secs(2),
        first_retry: Duration::from_millis(5),
        ..ApiTiming::default()
    };
    let options = ApiOptions { timing, ..ApiOptions::new(access, NODE.into()) };
    let mut following = Following::with(options);
    let server = async {
        let mut lists = 0;
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(connection.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let is_list = head.contains("sendInitialEvents");
            lists += usize::from(is_list && head.contains("/api/v1/services"));
            let mut answer = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned();
            if is_list {
                let metadata = json!({ "resourceVersion": "9",
                    "annotations": { "k8s.io/initial-events-end": "true" } });
                let end = json!({ "type": "BOOKMARK", "object": { "metadata": metadata } });
                answer += &format!("{end}\n");
            }
            tokio::spawn(async move {
                connection.write_all(answer.as_bytes()).await.unwrap();
                // As long as requested. There are no events.
                tokio::time::sleep(timing.watch).await;
            });
            if lists == 2 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), server).await.expect("no second list");
    assert!(following.next().await.problems.is_empty());
}

async fn changes_during_a_server_restart_are_followed<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("a", 80));
    world.server.apply(&service("b", 80));
    let mut following = world.following().await;
    let before = following.seen.len();
    world.server.down();
    world.server.apply(&service("a", 81));
    world.server.delete(Resource::Services, "default", "b");
    world.server.up();
    following.until(|known| known.len() == 2).await;
    assert_eq!(following.port("a"), Some(81));
    // The server still knew the changes since then.
    assert_eq!(following.changes_since(before), ["+ Service default/a", "- Service default/b"]);
}
