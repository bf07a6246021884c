//! The state that a run leaves, and how the next run uses it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use rulec_apiserver::{
    ApiServer, Expiry, Request, Resource, Restart, Server, Verb, on_both_servers,
};
use rulec_compiler::name::NodeName;
use rulec_sources::{ApiOptions, ApiTiming, StateDir};
use serde_json::json;
use tempfile::TempDir;

use crate::objects::{node, service, slice};
use crate::world::{Following, NODE, World};

on_both_servers!(async
    a_restart_inside_the_watch_window_lists_nothing,
    saved_state_replaces_an_unavailable_server,
    an_expired_version_leads_to_a_new_list,
);

/// Longer than any test takes, so that only the server's own objects are used.
const NEVER: Duration = Duration::from_secs(3600);

/// A state directory that several runs share, one after the other.
struct SharedDirectory(TempDir);

impl SharedDirectory {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn file(&self) -> PathBuf {
        self.path().join("api.state")
    }

    fn options<S: Server>(&self, world: &World<S>, grace: Duration) -> ApiOptions {
        let options = world.options();
        let timing = ApiTiming { grace, ..options.timing };
        ApiOptions { timing, state: Some(StateDir::new(self.path())), ..options }
    }

    /// Runs a source that saves the current objects of the server.
    async fn save_from<S: Server>(&self, world: &World<S>) {
        let options = self.options(world, NEVER);
        let state = options.state.clone().unwrap();
        let mut following = Following::with(options);
        following.listed().await;
        // The cluster is identified after the lists.
        world.probe(&mut following).await;
        following.stop().await.unwrap();
        assert!(state.finish(Duration::from_secs(60)));
        assert!(self.file().exists());
    }
}

/// Returns whether a request lists everything, as a list or a stream.
fn is_list(request: &Request) -> bool {
    let is_question = request.query.contains("metadata.name%3Dkubernetes");
    (request.verb == Verb::List && !is_question) || request.query.contains("sendInitialEvents")
}

fn lists<S: Server>(world: &World<S>) -> usize {
    world.server.requests().iter().filter(|request| is_list(request)).count()
}

fn is_stale(following: &Following) -> bool {
    following.seen.iter().any(|update| update.stale.is_some())
}

/// Returns a server with three Services and a slice.
fn world<S: Server>() -> World<S> {
    let world = World::<S>::of(true);
    for name in ["web", "old", "same"] {
        world.server.apply(&service(name, 80));
    }
    world.server.apply(&slice("web-1", &["10.0.0.1"]));
    world
}

async fn a_restart_inside_the_watch_window_lists_nothing<S: Server>() {
    let (world, directory) = (world::<S>(), SharedDirectory::new());
    directory.save_from(&world).await;
    // Changes between the runs are not missed.
    world.server.apply(&service("web", 81));
    world.server.apply(&service("new", 80));
    world.server.delete(Resource::Services, "default", "old");
    let before = lists(&world);
    assert!(before >= 4);
    let mut following = Following::with(directory.options(&world, NEVER));
    following.complete().await;
    following
        .until(|known| {
            known.contains_key("Service default/new") && !known.contains_key("Service default/old")
        })
        .await;
    assert_eq!(following.services(), ["new", "same", "web"]);
    assert_eq!(following.port("web"), Some(81));
    assert!(following.known.contains_key("EndpointSlice default/web-1"));
    world.probe(&mut following).await;
    assert_eq!(lists(&world), before, "{:?}", world.server.requests());
    assert_eq!(following.status.lists(), 0);
    assert!(!is_stale(&following));
    assert_eq!(following.problems(), [""; 0]);
}

async fn saved_state_replaces_an_unavailable_server<S: Server>() {
    let (world, directory) = (world::<S>(), SharedDirectory::new());
    directory.save_from(&world).await;
    let listed = lists(&world);
    world.server.down();
    let mut following = Following::with(directory.options(&world, Duration::from_millis(100)));
    following.complete().await;
    assert_eq!(following.services(), ["old", "same", "web"]);
    assert!(following.known.contains_key(&format!("Node {NODE}")));
    let at = following.seen.last().unwrap().stale.expect("it is marked as stale");
    let age = Timestamp::now().duration_since(at).as_secs();
    assert!((0..600).contains(&age), "{age} s");
    following.problems_until(|problems| !problems.is_empty()).await;
    assert!(following.seen.last().unwrap().stale.is_some(), "it stays stale with the next update");

    world.server.apply(&service("web", 81));
    world.server.delete(Resource::Services, "default", "old");
    let told = following.seen.len();
    world.server.up();
    while following.port("web") != Some(81) || following.services().contains(&"old") {
        following.next().await;
    }
    while following.seen.last().unwrap().stale.is_some() {
        following.next().await;
    }
    assert_eq!(
        following.changes_since(told),
        ["+ Service default/web", "- Service default/old"],
        "only the differences"
    );
    assert_eq!(lists(&world), listed);
}

async fn an_expired_version_leads_to_a_new_list<S: Server>() {
    let (world, directory) = (world::<S>(), SharedDirectory::new());
    directory.save_from(&world).await;
    world.server.delete(Resource::Services, "default", "old");
    world.server.apply(&service("web", 81));
    world.server.forget();
    let before = lists(&world);
    let mut following = Following::with(directory.options(&world, NEVER));
    following.complete().await;
    while following.port("web") != Some(81) || following.services().contains(&"old") {
        following.next().await;
    }
    assert!(lists(&world) > before);
    assert!(!is_stale(&following));
    world.probe(&mut following).await;
}

#[tokio::test]
async fn a_version_refused_by_a_status_leads_to_a_new_list() {
    let (world, directory) = (world::<ApiServer>(), SharedDirectory::new());
    directory.save_from(&world).await;
    world.server.set_expiry(Expiry::Status);
    world.server.delete(Resource::Services, "default", "old");
    world.server.forget();
    let mut following = Following::with(directory.options(&world, NEVER));
    following.complete().await;
    assert_eq!(following.services(), ["same", "web"], "nothing of the state is sent before");
}

/// If its version were not checked, the source would wait for such a server without noticing: its
/// watches begin, but bring nothing until it has reached our version.
#[tokio::test]
async fn a_server_restored_from_a_backup_is_listed_again_at_once() {
    let (world, directory) = (world::<ApiServer>(), SharedDirectory::new());
    for port in 100..200 {
        world.server.apply(&service("web", port));
    }
    directory.save_from(&world).await;
    world.server.restart(Restart::Fresh);
    world.server.apply(&node(NODE, "192.0.2.1"));
    // Beyond the version of the slices, but not as far as that of the Services.
    for port in 50..=90 {
        world.server.apply(&service("web", port));
    }
    let mut following = Following::with(directory.options(&world, NEVER));
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
    assert_eq!(following.port("web"), Some(90));
    assert!(!following.known.contains_key("EndpointSlice default/web-1"));
    assert!(!is_stale(&following));
    world.probe(&mut following).await;
}

#[tokio::test]
async fn another_cluster_at_the_same_address_is_listed_again() {
    let (world, directory) = (world::<ApiServer>(), SharedDirectory::new());
    let mut kubernetes = service("kubernetes", 443);
    world.server.apply(&kubernetes);
    directory.save_from(&world).await;
    // Its version is newer, so that it would accept a watch.
    world.server.restart(Restart::Fresh);
    world.server.apply(&node(NODE, "192.0.2.1"));
    for port in 100..300 {
        world.server.apply(&service("other", port));
    }
    kubernetes["metadata"]["labels"] = json!({ "component": "apiserver" });
    world.server.apply(&kubernetes);
    let mut following = Following::with(directory.options(&world, NEVER));
    following.complete().await;
    assert_eq!(following.services(), ["other"]);
    assert!(!is_stale(&following));
}

#[tokio::test]
async fn damaged_state_and_state_of_another_node_are_not_used() {
    let (world, directory) = (world::<ApiServer>(), SharedDirectory::new());
    directory.save_from(&world).await;
    world.server.down();
    let grace = Duration::from_millis(20);
    let unused = async |options: ApiOptions| {
        let mut following = Following::with(options);
        following.problems_until(|problems| problems.len() >= 2).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert!(!following.seen.iter().any(|update| update.complete || !update.changes.is_empty()));
    };
    let other = NodeName::from("node-2");
    unused(ApiOptions { node_name: other, ..directory.options(&world, grace) }).await;
    let whole = fs::read(directory.file()).unwrap();
    fs::write(directory.file(), &whole[..whole.len() / 2]).unwrap();
    unused(directory.options(&world, grace)).await;
    fs::write(directory.file(), "kind: Service\n").unwrap();
    unused(directory.options(&world, grace)).await;
    // Undamaged again, it stands in.
    fs::write(directory.file(), &whole).unwrap();
    let mut following = Following::with(directory.options(&world, grace));
    following.complete().await;
    assert_eq!(following.services(), ["old", "same", "web"]);
}

#[tokio::test]
async fn state_of_another_program_version_leads_to_a_new_list() {
    let (world, directory) = (world::<ApiServer>(), SharedDirectory::new());
    directory.save_from(&world).await;
    let whole = fs::read(directory.file()).unwrap();
    let text = zstd::decode_all(&whole[52..]).unwrap();
    let mut saved: serde_json::Value = serde_json::from_slice(&text).unwrap();
    saved["program"] = "0.0.1".into();
    let text = zstd::encode_all(saved.to_string().as_bytes(), 1).unwrap();
    let length = (text.len() as u64).to_le_bytes();
    let checksum = blake3::hash(&text);
    let file = [&whole[..12], &length, checksum.as_bytes(), &text].concat();
    fs::write(directory.file(), file).unwrap();
    let before = lists(&world);
    let mut following = Following::with(directory.options(&world, NEVER));
    following.complete().await;
    assert!(lists(&world) > before, "it may have ignored fields that this one reads");
    drop(following);
    world.server.down();
    let mut following = Following::with(directory.options(&world, Duration::from_millis(20)));
    following.complete().await;
    assert_eq!(following.services(), ["old", "same", "web"], "it still stands in");
}

#[tokio::test]
async fn problems_of_objects_are_reported_again_after_a_restart() {
    let (world, directory) = (world::<ApiServer>(), SharedDirectory::new());
    let options = directory.options(&world, NEVER);
    let state = options.state.clone().unwrap();
    let mut following = Following::with(options);
    following.listed().await;
    world.server.apply(&service("web", 0));
    following.problems_until(|problems| !problems.is_empty()).await;
    let problems = following.problems();
    world.probe(&mut following).await;
    following.stop().await.unwrap();
    assert!(state.finish(Duration::from_secs(60)));

    let before = lists(&world);
    let mut following = Following::with(directory.options(&world, NEVER));
    following.complete().await;
    following.problems_until(|problems| !problems.is_empty()).await;
    assert_eq!(following.problems(), problems);
    assert_eq!(following.port("web"), Some(80), "the last good version");
    assert_eq!(lists(&world), before);
}
