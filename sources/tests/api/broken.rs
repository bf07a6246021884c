//! Watches and connections that break.

use std::time::{Duration, Instant};

use rulec_apiserver::{Cut, Fault, Injection, Resource, Scope, Verb};
use rulec_sources::{ApiOptions, ApiTiming, ErrorKind};

use crate::objects::service;
use crate::world::{Following, World};

#[tokio::test]
async fn a_watch_cut_at_any_byte_loses_nothing() {
    let world = World::new();
    let mut following = world.following().await;
    let before = following.seen.len();
    let mut port = 1000;
    for how in [Cut::Close, Cut::Reset] {
        for bytes in (0..1400).step_by(29) {
            let scope = Scope::resource(Resource::Services).verb(Verb::Watch);
            let fault = world.server.fault_times(1, scope, Fault::CutAfter { bytes, how });
            port += 2;
            world.server.apply(&service("web", port));
            world.server.apply(&service("web", port + 1));
            while following.port("web") != Some(port + 1) {
                following.next().await;
            }
            fault.into_iter().for_each(|fault| world.server.lift(fault));
        }
    }
    assert_eq!(world.server.count(Verb::List, Resource::Services), 0);
    let lists = following.changes_since(before);
    assert!(lists.iter().all(|change| change == "+ Service default/web"), "{lists:?}");
    assert!(following.status.errors(ErrorKind::Connection) >= 1);
}

#[tokio::test]
async fn garbage_in_a_watch_only_reopens_it() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    let mut following = world.following().await;
    let before = following.seen.len();
    let line = |text: &[u8]| Injection::Bytes(text.to_vec());
    for garbage in [
        Injection::InvalidJson,
        Injection::NoMetadata,
        Injection::UnknownType,
        Injection::WrongKind,
        Injection::Repeat,
        Injection::End,
        Injection::Error(500),
        Injection::Error(410),
        line(b"\n"),
        line(b"\xff\xfe\x00\n"),
        line(b"{}\n"),
        line(b"no newline at all"),
        line(b"[\n"),
        line(format!("{}\n", "[".repeat(100_000)).as_bytes()),
    ] {
        world.until(|server| server.open_watches(Resource::Services) > 0).await;
        assert_eq!(world.server.inject(Resource::Services, garbage.clone()), 1, "{garbage:?}");
        world.probe(&mut following).await;
    }
    assert_eq!(following.changes_since(before), [""; 0]);
    assert!(following.status.errors(ErrorKind::Garbled) >= 6);
}

#[tokio::test]
async fn a_server_with_garbled_watches_is_still_listed() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    let scope = Scope::resource(Resource::Services);
    world.server.fault(scope, Fault::WatchBegins(Injection::InvalidJson));
    let mut following = world.follow();
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
    world.probe(&mut following).await;
}

#[tokio::test]
async fn error_responses_are_retried_until_they_end() {
    let world = World::new();
    let mut following = world.following().await;
    let before = following.seen.len();
    for (code, kind) in [
        (429, ErrorKind::Throttled),
        (500, ErrorKind::Status),
        (503, ErrorKind::Status),
        (504, ErrorKind::Status),
    ] {
        let errors = following.status.errors(kind);
        let fault = world.server.fault(Scope::all(), Fault::Status { code, retry_after: Some(0) });
        world.server.drop_connections();
        world.until(|_| following.status.errors(kind) > errors + 4).await;
        assert!(!following.status.is_connected());
        world.server.lift(fault);
        world.probe(&mut following).await;
    }
    assert_eq!(following.changes_since(before), [""; 0]);
    following.problems_until(<[String]>::is_empty).await;
}

#[tokio::test]
async fn retry_after_is_respected() {
    let world = World::new();
    let mut following = world.following().await;
    let watches = || world.server.count(Verb::Watch, Resource::Services);
    for code in [429, 503] {
        let wait = Duration::from_secs(2);
        let retry_after = Some(u32::try_from(wait.as_secs()).unwrap());
        let scope = Scope::resource(Resource::Services);
        let before = watches();
        // Measured before any request is refused.
        let broken = Instant::now();
        let fault = world.server.fault(scope, Fault::Status { code, retry_after });
        world.server.drop_connections();
        world.until(|_| watches() > before).await;
        let refused = watches();
        world.until(|_| watches() > refused).await;
        assert!(broken.elapsed() >= wait, "{code}: {:?}", broken.elapsed());
        world.server.lift(fault);
        world.probe(&mut following).await;
    }
}

/// Returns options with shorter time limits for silence.
fn impatient(world: &World) -> ApiOptions {
    let timing = ApiTiming {
        watch: Duration::from_secs(1),
        slack: Duration::from_millis(500),
        answer: Duration::from_millis(500),
        ..world.options().timing
    };
    ApiOptions { timing, ..world.options() }
}

#[tokio::test]
async fn an_unanswered_request_is_retried() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    let fault = world.server.fault(Scope::all(), Fault::NoAnswer);
    let mut following = Following::with(impatient(&world));
    following.problems_until(|problems| problems.iter().any(|p| p.contains("not answered"))).await;
    assert!(following.known.is_empty());
    world.server.lift(fault);
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
    following.problems_until(<[String]>::is_empty).await;
    assert!(following.status.errors(ErrorKind::Silence) >= 1);
}

#[tokio::test]
async fn stalled_lists_are_retried() {
    for streaming in [true, false] {
        let world = World::new();
        world.server.set_streaming_lists(streaming);
        world.server.apply(&service("web", 80));
        let fault = world.server.fault(Scope::resource(Resource::Services), Fault::Stall);
        let mut following = Following::with(impatient(&world));
        world.until(|_| following.status.errors(ErrorKind::Silence) >= 2).await;
        world.server.lift(fault);
        following.complete().await;
        assert_eq!(following.services(), ["web"]);
    }
}

#[tokio::test]
async fn a_frozen_watch_is_reopened() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    let mut following = Following::with(impatient(&world));
    following.complete().await;
    world.until(|server| server.open_watches(Resource::Services) > 0).await;
    assert!(world.server.freeze(Scope::resource(Resource::Services)) > 0);
    world.server.apply(&service("web", 81));
    while following.port("web") != Some(81) {
        following.next().await;
    }
    assert!(following.status.errors(ErrorKind::Silence) >= 1);
}

#[tokio::test]
async fn a_server_that_stopped_responding_is_reconnected() {
    let world = World::new();
    let mut following = Following::with(impatient(&world));
    following.listed().await;
    let before = following.seen.len();
    world.server.set_deaf(true);
    world.server.drop_connections();
    world.until(|_| following.status.errors(ErrorKind::Silence) >= 2).await;
    world.server.set_deaf(false);
    world.probe(&mut following).await;
    assert_eq!(following.changes_since(before), [""; 0]);
}

#[tokio::test]
async fn watches_that_end_normally_are_reopened_silently() {
    let world = World::new();
    let mut following = Following::with(impatient(&world));
    following.listed().await;
    let before = following.seen.len();
    world.until(|server| server.count(Verb::Watch, Resource::Services) >= 3).await;
    world.probe(&mut following).await;
    assert_eq!(following.changes_since(before), [""; 0]);
    assert_eq!(following.problems(), [""; 0]);
    assert_eq!(world.server.count(Verb::List, Resource::Services), 0);
}
