//! The server as seen by kube's client.

use std::pin::pin;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use rulec_apiserver::{ApiServer, Credential, Expiry, Resource, Restart, Verb};
use serde_json::json;

use crate::support::{self, Log, client, client_with, code, now, service, services, until};

#[tokio::test]
async fn a_watcher_lists_in_pages_and_then_watches() {
    let server = ApiServer::start();
    for name in ["a", "b", "c", "d", "e"] {
        server.apply(&service(name, "10.0.0.1"));
    }
    let mut log = Log::of(&server, watcher::Config::default().page_size(2)).await;
    assert_eq!(log.initial().await, ["a", "b", "c", "d", "e"]);
    assert_eq!(server.count(Verb::List, Resource::Services), 3, "pages");

    server.apply(&service("f", "10.0.0.2"));
    server.delete(Resource::Services, "shop", "a");
    assert_eq!([log.next().await, log.next().await], ["apply f", "delete a"]);
    assert_eq!(server.count(Verb::Watch, Resource::Services), 1);
}

#[tokio::test]
async fn a_streaming_list_ends_with_a_bookmark_and_continues() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    server.apply(&service("b", "10.0.0.2"));
    let mut log = Log::of(&server, watcher::Config::default().streaming_lists()).await;
    assert_eq!(log.initial().await, ["a", "b"]);
    server.apply(&service("b", "10.0.0.3"));
    assert_eq!(log.next().await, "apply b");
    assert_eq!(server.count(Verb::List, Resource::Services), 0);
    assert_eq!(server.open_watches(Resource::Services), 1);
}

#[tokio::test]
async fn a_server_without_streaming_lists_refuses_them_with_422() {
    let server = ApiServer::start();
    server.set_streaming_lists(false);
    let client = client(&server).await;
    let config = watcher::Config::default().streaming_lists();
    let mut events = pin!(watcher(services(client), config));
    let refused = now(events.next()).await.unwrap().unwrap_err();
    let watcher::Error::WatchStartFailed(kube::Error::Api(status)) = refused else {
        panic!("{refused}");
    };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert_eq!(status.details.unwrap().causes[0].field, "sendInitialEvents");
}

#[tokio::test]
async fn a_watch_from_a_compacted_version_makes_the_watcher_list_again() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let mut log = Log::of(&server, watcher::Config::default()).await;
    assert_eq!(log.initial().await, ["a"]);
    log.watching(&server).await;

    // While the client is disconnected, an object is deleted, and the version of that is compacted.
    server.down();
    server.delete(Resource::Services, "shop", "a");
    server.apply(&service("b", "10.0.0.2"));
    server.compact();
    server.up();
    assert_eq!(log.errors_until_initial().await, ["b"]);
    assert!(log.errors.iter().any(|error| error.contains("too old resource version")));
    assert_eq!(server.count(Verb::List, Resource::Services), 2);
}

#[tokio::test]
async fn expiry_is_an_event_or_a_status() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let old = server.version().to_string();
    server.advance(1);
    server.compact();
    let services = services(client(&server).await);

    let mut events = services.watch(&WatchParams::default(), &old).await.unwrap().boxed();
    let Ok(Some(WatchEvent::Error(status))) = now(events.try_next()).await else { panic!() };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    assert!(now(events.next()).await.is_none(), "the watch ends");

    server.set_expiry(Expiry::Status);
    let refused = services.watch(&WatchParams::default(), &old).await.map(|_| ());
    assert_eq!(code(refused), 410);
}

#[tokio::test]
async fn selectors_make_objects_appear_and_disappear() {
    const NAME: &str = "service.kubernetes.io/service-proxy-name";
    let server = ApiServer::start();
    let with_label = |name: &str, label: Option<&str>| {
        let mut object = service(name, "10.0.0.1");
        if let Some(label) = label {
            object["metadata"]["labels"] = json!({ NAME: label });
        }
        server.apply(&object);
    };
    with_label("ours", None);
    with_label("theirs", Some("other"));
    server.apply(&service("headless", "None"));
    let config =
        watcher::Config::default().labels(&format!("!{NAME}")).fields("spec.clusterIP!=None");
    let mut log = Log::of(&server, config).await;
    assert_eq!(log.initial().await, ["ours"]);
    with_label("ours", Some("other"));
    with_label("theirs", None);
    assert_eq!([log.next().await, log.next().await], ["delete ours", "apply theirs"]);
}

#[tokio::test]
async fn a_timeout_ends_a_watch_after_a_last_bookmark() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let services = services(client(&server).await);
    let from = server.version().to_string();
    let params = WatchParams::default().timeout(1);
    let mut events = services.watch(&params, &from).await.unwrap().boxed();
    server.advance(5);
    server.bookmark(Resource::Services);
    for _ in ["asked for", "at the end"] {
        let Ok(Some(WatchEvent::Bookmark(bookmark))) = now(events.try_next()).await else {
            panic!("no bookmark")
        };
        assert_eq!(bookmark.metadata.resource_version, server.version().to_string());
    }
    assert!(now(events.next()).await.is_none());
    until(|| server.open_watches(Resource::Services) == 0).await;
}

#[tokio::test]
async fn a_watch_from_version_zero_begins_with_all_objects() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let services = services(client(&server).await);
    let mut events = services.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    let Ok(Some(WatchEvent::Added(first))) = now(events.try_next()).await else { panic!() };
    assert_eq!(first.metadata.name.as_deref(), Some("a"));
    assert!(first.metadata.uid.is_some() && first.metadata.creation_timestamp.is_some());
    assert_eq!(first.metadata.managed_fields.unwrap()[0].operation.as_deref(), Some("Update"));
}

#[tokio::test]
async fn a_watcher_survives_restarts() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let mut log = Log::of(&server, watcher::Config::default()).await;
    assert_eq!(log.initial().await, ["a"]);
    log.watching(&server).await;

    server.restart(Restart::Kept);
    server.apply(&service("b", "10.0.0.1"));
    assert_eq!(log.change_after_errors().await, "apply b");
    assert_eq!(server.count(Verb::List, Resource::Services), 1, "the watch went on");

    server.restart(Restart::Emptied);
    assert!(log.errors_until_initial().await.is_empty());
}

#[tokio::test]
async fn every_kind_is_served() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    server.apply(&json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "namespace": "shop", "name": "a-1" },
        "endpoints": [{ "addresses": ["10.1.0.1"] }],
    }));
    server.apply(&json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
    }));
    server.apply(&json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": { "name": "kubernetes" }, "spec": { "cidrs": ["10.0.0.0/16"] },
    }));
    let client = client(&server).await;
    let params = ListParams::default();
    let slices = Api::<EndpointSlice>::namespaced(client.clone(), "shop");
    assert_eq!(slices.list(&params).await.unwrap().items[0].endpoints[0].addresses, ["10.1.0.1"]);
    assert!(
        Api::<EndpointSlice>::namespaced(client.clone(), "other")
            .list(&params)
            .await
            .unwrap()
            .items
            .is_empty()
    );
    let nodes = Api::<Node>::all(client.clone());
    assert_eq!(nodes.get("n1").await.unwrap().metadata.name.as_deref(), Some("n1"));
    assert!(nodes.get_opt("n2").await.unwrap().is_none());
    let cidrs = Api::<ServiceCIDR>::all(client.clone()).list(&params).await.unwrap();
    assert_eq!(
        cidrs.items[0].spec.as_ref().unwrap().cidrs.as_deref(),
        Some(&["10.0.0.0/16".to_owned()][..])
    );

    assert_eq!(client.apiserver_version().await.unwrap().minor, "33");
    let groups = client.list_api_groups().await.unwrap();
    assert_eq!(groups.groups.len(), 3);
    let own = client.list_api_group_resources("discovery.k8s.io/v1").await.unwrap();
    assert_eq!(own.resources[0].name, "endpointslices");
    assert_eq!(
        client.request_text(hyper::Request::get("/livez").body(Vec::new()).unwrap()).await.unwrap(),
        "ok"
    );
}

#[tokio::test]
async fn events_are_recorded() {
    let server = ApiServer::start();
    let client = client(&server).await;
    let events = Api::<Event>::namespaced(client.clone(), "shop");
    let event: Event = serde_json::from_value(json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": { "namespace": "shop", "name": "web.1" },
        "eventTime": "2025-01-01T00:00:00.000000Z", "type": "Warning",
        "reason": "Refused", "action": "Install", "note": "port taken",
    }))
    .unwrap();
    let written = events.create(&PostParams::default(), &event).await.unwrap();
    assert!(written.metadata.resource_version.is_some());
    let recorded = server.events();
    assert_eq!(recorded.len(), 1);
    assert_eq!((recorded[0].verb, recorded[0].namespace.as_str()), (Verb::Create, "shop"));
    assert_eq!(recorded[0].object["note"], "port taken");

    // A series is updated by a merge patch; a JSON patch would have to be applied to be understood.
    let series =
        json!({ "series": { "count": 2, "lastObservedTime": "2025-01-01T00:00:01.000000Z" } });
    let patch = Patch::Merge(&series);
    let patched = events.patch("web.1", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(patched.series.unwrap().count, 2);
    assert_eq!(server.events()[1].verb, Verb::Patch);
    let request = hyper::Request::patch("/apis/events.k8s.io/v1/namespaces/shop/events/web.1")
        .body(b"[]".to_vec())
        .unwrap();
    assert_eq!(code(client.request_text(request).await), 415);
    assert_eq!(code(events.delete("web.1", &kube::api::DeleteParams::default()).await), 405);
}

#[tokio::test]
async fn clients_are_authenticated_by_token_or_certificate() {
    let server = ApiServer::start();
    let list = async |credential: Credential| {
        let client = client_with(&server, &credential).await;
        client.apiserver_version().await.map(|_| ())?;
        services(client).list(&ListParams::default()).await.map(|_| ())
    };
    assert!(list(Credential::Token("token".to_owned())).await.is_ok());
    assert!(list(Credential::ClientCertificate("rulec".to_owned())).await.is_ok());
    assert_eq!(code(list(Credential::None).await), 403);
    assert_eq!(code(list(Credential::Token("other".to_owned())).await), 401);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "fresh").unwrap();
    assert_eq!(code(list(Credential::TokenFile(path.clone())).await), 401);
    server.set_tokens(["fresh"]);
    assert!(list(Credential::TokenFile(path)).await.is_ok());
    assert_eq!(code(list(Credential::Token("token".to_owned())).await), 401);
}

#[tokio::test]
async fn only_certificates_of_the_known_authority_are_trusted() {
    let server = ApiServer::start();
    let services = services(client(&server).await);
    server.rotate_certificate();
    server.drop_connections();
    assert!(services.list(&ListParams::default()).await.is_ok());
    let open = services.watch(&WatchParams::default(), "0").await;
    server.rotate_authority();
    let refused = services.list(&ListParams::default()).await.unwrap_err();
    assert!(format!("{refused:?}").contains("InvalidCertificate"), "{refused:?}");
    assert!(open.is_ok(), "connections of before stay");
    let informed = support::services(client(&server).await);
    assert!(informed.list(&ListParams::default()).await.is_ok());
}
