//! Every fault, as seen by kube's client.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::runtime::watcher;
use rulec_apiserver::{ApiServer, Cut, Fault, Injection, Resource, Restart, Scope, Verb};

use crate::raw;
use crate::support::{Log, client, code, now, service, services, until};

const SERVICES: Resource = Resource::Services;

async fn list(services: &Api<Service>) -> kube::Result<(Vec<String>, String)> {
    let list = services.list(&ListParams::default()).await?;
    let names = list.items.iter().filter_map(|item| item.metadata.name.clone()).collect();
    Ok((names, list.metadata.resource_version.unwrap_or_default()))
}

/// Returns whether the future is still pending after a time in which it could have been answered.
async fn waits<T>(future: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(300), future).await.is_err()
}

#[tokio::test]
async fn a_cut_watch_is_resumed_without_loss() {
    for how in [Cut::Close, Cut::Reset] {
        let server = ApiServer::start();
        server.apply(&service("a", "10.0.0.1"));
        let mut log = Log::of(&server, watcher::Config::default()).await;
        assert_eq!(log.initial().await, ["a"]);
        log.watching(&server).await;

        // A cut in the middle of an event.
        let scope = Scope::resource(SERVICES).verb(Verb::Watch);
        server.fault_times(1, scope, Fault::CutAfter { bytes: 50, how });
        server.apply(&service("b", "10.0.0.2"));
        assert_eq!(log.change_after_errors().await, "apply b", "{how:?}");
        assert_eq!(server.count(Verb::Watch, SERVICES), 2);
        assert_eq!(server.count(Verb::List, SERVICES), 1);

        // A cut while nothing is being sent.
        server.fault_times(1, scope, Fault::CutAfter { bytes: 0, how });
        until(|| server.count(Verb::Watch, SERVICES) == 3).await;
    }
}

#[tokio::test]
async fn a_cut_comes_after_the_exact_number_of_bytes() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let lists = "/api/v1/services";
    let whole = raw::get(&server, lists).await;
    assert!(whole.complete && whole.head.contains("chunked"), "{}", whole.head);
    let watches = "/api/v1/services?watch=1&resourceVersion=0&timeoutSeconds=1";
    let event = raw::get(&server, watches).await;
    assert!(event.complete && event.body.ends_with(b"}\n"));

    for how in [Cut::Close, Cut::Reset] {
        for (path, whole) in [(lists, &whole), (watches, &event)] {
            for bytes in [0, 1, 100, whole.body.len()] {
                server.fault_times(1, Scope::all(), Fault::CutAfter { bytes, how });
                let cut = raw::get(&server, path).await;
                assert_eq!(cut.body, whole.body[..bytes], "{how:?}");
                assert!(!cut.complete);
            }
            // A cut one byte after the end does nothing.
            let longer = Fault::CutAfter { bytes: whole.body.len() + 1, how };
            let fault = server.fault(Scope::all(), longer);
            assert!(raw::get(&server, path).await.complete);
            server.lift(fault);
        }
    }
}

#[tokio::test]
async fn a_server_that_is_down_refuses_and_returns_on_the_same_port() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let services = services(client(&server).await);
    assert!(list(&services).await.is_ok());
    server.down();
    let refused = format!("{:?}", list(&services).await.unwrap_err());
    assert!(refused.contains("ConnectionRefused"), "{refused}");
    server.up();
    assert_eq!(list(&services).await.unwrap().0, ["a"]);

    server.restart(Restart::Fresh);
    assert_eq!(list(&services).await.unwrap(), (vec![], "1".to_owned()));
}

#[tokio::test]
async fn silence_can_begin_before_tls_before_or_within_the_answer() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    let services = services(client(&server).await);

    server.set_deaf(true);
    assert!(waits(list(&services)).await);
    server.set_deaf(false);
    assert!(list(&services).await.is_ok());

    let fault = server.fault(Scope::resource(SERVICES), Fault::NoAnswer);
    assert!(waits(list(&services)).await);
    server.lift(fault);
    assert!(list(&services).await.is_ok());

    let fault = server.fault(Scope::resource(SERVICES), Fault::Stall);
    assert!(waits(list(&services)).await);
    let stalled = tokio::spawn({
        let services = services.clone();
        async move { list(&services).await.map(|(names, _)| names) }
    });
    until(|| server.count(Verb::List, SERVICES) >= 5).await;
    server.lift(fault);
    assert_eq!(now(stalled).await.unwrap().unwrap(), ["a"]);

    let delay = Duration::from_millis(200);
    server.fault_times(1, Scope::all(), Fault::Delay(delay));
    let begun = std::time::Instant::now();
    assert!(list(&services).await.is_ok());
    assert!(begun.elapsed() >= delay);
}

#[tokio::test]
async fn a_stalled_watch_resumes_and_a_frozen_one_does_not() {
    let server = ApiServer::start();
    let mut log = Log::of(&server, watcher::Config::default()).await;
    assert!(log.initial().await.is_empty());
    log.watching(&server).await;

    let stall = server.fault(Scope::resource(SERVICES), Fault::Stall);
    server.apply(&service("a", "10.0.0.1"));
    assert!(waits(log.next()).await);
    server.lift(stall);
    assert_eq!(log.next().await, "apply a");

    assert_eq!(server.freeze(Scope::resource(SERVICES)), 1);
    server.apply(&service("b", "10.0.0.1"));
    assert!(waits(log.next()).await);
    let mut other = Log::of(&server, watcher::Config::default()).await;
    assert_eq!(other.initial().await, ["a", "b"], "new connections work");
    // The frozen watch stays open.
    until(|| server.open_watches(SERVICES) == 2).await;
    assert_eq!(server.count(Verb::Watch, SERVICES), 2);
}

#[tokio::test]
async fn requests_can_fail_with_a_status() {
    let server = ApiServer::start();
    let services = services(client(&server).await);
    for wanted in [401, 403, 429, 500, 503] {
        server.fault_times(1, Scope::all(), Fault::status(wanted));
        assert_eq!(code(list(&services).await), wanted);
        assert_eq!(code(list(&services).await), 0);
    }
    let scope = Scope::resource(SERVICES).verb(Verb::Watch);
    server.fault_times(1, scope, Fault::Status { code: 429, retry_after: Some(3) });
    let refused = services.watch(&WatchParams::default(), "0").await.map(|_| ()).unwrap_err();
    let kube::Error::Api(status) = refused else { panic!("{refused:?}") };
    assert_eq!(status.details.unwrap().retry_after_seconds, 3);

    server.fault(Scope::resource(SERVICES), Fault::NotServed);
    assert_eq!(code(list(&services).await), 404);
}

#[tokio::test]
async fn garbage_in_a_watch_reaches_the_client() {
    let server = ApiServer::start();
    let services = services(client(&server).await);
    let from = server.version().to_string();
    let mut events = services.watch(&WatchParams::default(), &from).await.unwrap().boxed();

    for (injection, expected) in [
        (Injection::InvalidJson, "SerdeError"),
        (Injection::Bytes(b"\0\x01rubbish\n".to_vec()), "SerdeError"),
        // To k8s-openapi, an object without metadata is one without a name.
        (Injection::NoMetadata, "Added event"),
        // kube's client parses JSON that is not an event as a `Status`, here an empty one.
        (Injection::WrongKind, "Api(Status { status: None, code: 0"),
        (Injection::UnknownType, "Api(Status { status: None, code: 0"),
    ] {
        assert_eq!(server.inject(SERVICES, injection.clone()), 1);
        let seen = format!("{:?}", now(events.next()).await);
        assert!(seen.contains(expected), "{injection:?}: {seen}");
    }
    for code in [410, 500] {
        server.inject(SERVICES, Injection::Error(code));
        let Some(Ok(WatchEvent::Error(status))) = now(events.next()).await else { panic!() };
        assert_eq!(status.code, code);
    }
    // kube's client gives up a stream that is not UTF-8.
    server.inject(SERVICES, Injection::Bytes(b"\xff\xfe\n".to_vec()));
    let seen = format!("{:?}", now(events.next()).await);
    assert!(seen.contains("ReadEvents"), "{seen}");

    let mut events = services.watch(&WatchParams::default(), &from).await.unwrap().boxed();
    server.inject(SERVICES, Injection::End);
    assert!(now(events.next()).await.is_none());
}

#[tokio::test]
async fn events_can_be_duplicated() {
    let server = ApiServer::start();
    let mut log = Log::of(&server, watcher::Config::default()).await;
    log.initial().await;
    log.watching(&server).await;
    server.fault_times(1, Scope::all(), Fault::Duplicates);
    server.apply(&service("a", "10.0.0.1"));
    server.apply(&service("b", "10.0.0.1"));
    assert_eq!(
        [log.next().await, log.next().await, log.next().await],
        ["apply a", "apply a", "apply b"]
    );
    server.inject(SERVICES, Injection::Repeat);
    assert_eq!(log.next().await, "apply b");
}

#[tokio::test]
async fn a_new_watch_may_begin_with_an_error() {
    let server = ApiServer::start();
    server.apply(&service("a", "10.0.0.1"));
    server.fault_times(1, Scope::all(), Fault::WatchBegins(Injection::Error(410)));
    let mut log = Log::of(&server, watcher::Config::default()).await;
    assert_eq!(log.initial().await, ["a"]);
    assert!(log.error().await.contains("410"));
    assert_eq!(log.initial().await, ["a"]);
}

#[tokio::test]
async fn lists_can_be_outdated_or_garbled() {
    let server = ApiServer::start();
    let services = services(client(&server).await);
    let then = server.apply(&service("a", "10.0.0.1"));
    server.apply(&service("b", "10.0.0.1"));
    let (names, now) = list(&services).await.unwrap();
    assert_eq!((names, now), (vec!["a".to_owned(), "b".to_owned()], server.version().to_string()));
    server.fault_times(1, Scope::resource(SERVICES), Fault::AsOf(then));
    assert_eq!(list(&services).await.unwrap(), (vec!["a".to_owned()], then.to_string()));

    server.fault_times(1, Scope::all(), Fault::ListBody(b"{\"kind\":\"ServiceList\"".to_vec()));
    assert!(matches!(list(&services).await.unwrap_err(), kube::Error::SerdeError(_)));
}

#[tokio::test]
async fn a_watch_as_of_an_earlier_version_catches_up() {
    let server = ApiServer::start();
    let then = server.apply(&service("a", "10.0.0.1"));
    server.apply(&service("b", "10.0.0.1"));
    server.fault(Scope::resource(SERVICES), Fault::AsOf(then));
    let services = services(client(&server).await);
    let params = WatchParams::default().initial_events();
    let mut events = services.watch(&params, "0").await.unwrap().boxed();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match now(events.try_next()).await.unwrap().unwrap() {
            WatchEvent::Added(object) => object.metadata.name.unwrap(),
            WatchEvent::Bookmark(bookmark) => bookmark.metadata.resource_version,
            other @ (WatchEvent::Modified(_) | WatchEvent::Deleted(_) | WatchEvent::Error(_)) => {
                panic!("{other:?}")
            }
        });
    }
    assert_eq!(seen, ["a".to_owned(), then.to_string(), "b".to_owned()]);
}
