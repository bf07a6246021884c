//! Access to the server: addresses, certificates, tokens.

use std::env;
use std::process::Command;

use rulec_apiserver::{Credential, Resource, Server, on_both_servers};
use rulec_compiler::name::NodeName;
use rulec_sources::{ApiAccess, ApiOptions, ErrorKind};

use crate::objects::service;
use crate::world::{Following, NODE, World};

on_both_servers!(async
    a_replaced_token_is_read_again,
    a_client_certificate_is_accepted,
    the_source_waits_for_a_server_that_starts_later,
    master_overrides_the_address_of_the_kubeconfig,
    a_source_ends_when_its_receiver_is_dropped,
);

async fn a_replaced_token_is_read_again<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    let mut following = world.following().await;
    let before = following.seen.len();

    world.server.set_tokens(&["next"]);
    following.problems_until(|problems| problems.iter().any(|p| p.contains("401"))).await;
    assert!(following.status.errors(ErrorKind::Unauthorized) >= 1);
    assert_eq!(following.changes_since(before), [""; 0], "the last known state stays");

    world.write_token("next");
    world.probe(&mut following).await;
    following.problems_until(<[String]>::is_empty).await;
    assert_eq!(following.changes_since(before), [""; 0]);
}

#[tokio::test]
async fn a_briefly_missing_token_file_is_tolerated() {
    let world = World::new();
    let mut following = world.following().await;
    std::fs::remove_file(world.token()).unwrap();
    world.server.drop_connections();
    world.probe(&mut following).await;
    world.server.set_tokens(["next"]);
    world.server.drop_connections();
    world.until(|_| following.status.errors(ErrorKind::Unauthorized) >= 2).await;
    world.write_token("next");
    world.probe(&mut following).await;
}

#[tokio::test]
async fn a_new_authority_is_trusted_once_the_kubeconfig_has_it() {
    let world = World::new();
    let mut following = world.following().await;
    let before = following.seen.len();
    world.server.rotate_authority();
    world.server.drop_connections();
    following.problems_until(|problems| problems.iter().any(|p| p.contains("certificate"))).await;
    world.write_kubeconfig();
    world.probe(&mut following).await;
    following.problems_until(<[String]>::is_empty).await;
    assert_eq!(following.changes_since(before), [""; 0]);
}

#[tokio::test]
async fn a_new_certificate_of_the_same_authority_is_accepted() {
    let world = World::new();
    let mut following = world.following().await;
    world.server.rotate_certificate();
    world.server.drop_connections();
    world.probe(&mut following).await;
}

async fn a_client_certificate_is_accepted<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    // The user to which Kubernetes gives the role `system:node-proxier`.
    let certificate = Credential::ClientCertificate("system:kube-proxy".to_owned());
    world.server.write_kubeconfig(&world.kubeconfig(), &certificate);
    let following = world.following().await;
    assert_eq!(following.services(), ["web"]);
}

#[tokio::test]
async fn the_source_waits_for_a_missing_kubeconfig() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    std::fs::remove_file(world.kubeconfig()).unwrap();
    let mut following = world.follow();
    following.problems_until(|problems| problems.iter().any(|p| p.contains("kubeconfig"))).await;
    assert!(following.status.errors(ErrorKind::Config) >= 1);
    std::fs::write(world.kubeconfig(), "kind: Config\nusers: secret\n").unwrap();
    following.problems_until(|problems| problems.iter().any(|p| p.contains("line 2"))).await;
    assert!(
        following.problems().iter().all(|p| !p.contains("secret")),
        "{:?}",
        following.problems()
    );
    world.write_kubeconfig();
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
    following.problems_until(<[String]>::is_empty).await;
}

async fn the_source_waits_for_a_server_that_starts_later<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    world.server.down();
    let mut following = world.follow();
    following.problems_until(|problems| problems.iter().any(|p| p.contains("refused"))).await;
    assert!(following.seen.iter().all(|update| update.changes.is_empty() && !update.complete));
    assert!(!following.status.is_connected());
    world.server.up();
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
    following.problems_until(<[String]>::is_empty).await;
}

async fn master_overrides_the_address_of_the_kubeconfig<S: Server>() {
    let world = World::<S>::of(true);
    world.server.apply(&service("web", 80));
    let text = std::fs::read_to_string(world.kubeconfig()).unwrap();
    std::fs::write(world.kubeconfig(), text.replace(&world.server.url(), "https://192.0.2.9:1"))
        .unwrap();
    let mut options = world.options();
    options.access.master = Some(world.server.url());
    let mut following = Following::with(options);
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
}

#[tokio::test]
async fn an_invalid_master_url_is_reported() {
    for (master, reason) in [
        ("10.0.0.1:6443", "not a URL of http or https"),
        ("ftp://10.0.0.1", "not a URL of http or https"),
        ("https://[", "is not a URL"),
        ("", "is not a URL"),
    ] {
        let access = ApiAccess { kubeconfig: None, master: Some(master.to_owned()) };
        let mut following = Following::with(ApiOptions::new(access, NodeName::from(NODE)));
        following.problems_until(|problems| problems.iter().any(|p| p.contains(reason))).await;
    }
}

#[tokio::test]
async fn a_certificate_need_not_be_verified() {
    let world = World::new();
    world.server.apply(&service("web", 80));
    let text = std::fs::read_to_string(world.kubeconfig()).unwrap();
    let mut kubeconfig: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cluster = kubeconfig["clusters"][0]["cluster"].as_object_mut().unwrap();
    cluster.remove("certificate-authority-data").unwrap();
    cluster.insert("insecure-skip-tls-verify".to_owned(), true.into());
    std::fs::write(world.kubeconfig(), kubeconfig.to_string()).unwrap();
    let mut following = world.follow();
    following.complete().await;
    assert_eq!(following.services(), ["web"]);
}

#[tokio::test]
async fn a_server_without_certificate_is_asked() {
    let access = ApiAccess { kubeconfig: None, master: Some("http://127.0.0.1:1".to_owned()) };
    let mut following = Following::with(ApiOptions::new(access, NodeName::from(NODE)));
    following.problems_until(|problems| problems.iter().any(|p| p.contains("refused"))).await;
}

/// Runs tests in a process for which the system has no authorities.
#[test]
fn the_authorities_of_the_system_are_needed_only_to_verify_by_them() {
    let directory = tempfile::tempdir().unwrap();
    let tests = [
        "a_certificate_need_not_be_verified",
        "a_server_without_certificate_is_asked",
        "a_briefly_missing_token_file_is_tolerated",
    ];
    let tests = tests.map(|test| format!("access::{test}"));
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(&tests).arg("--exact").env("SSL_CERT_DIR", directory.path());
    let output = command.env_remove("SSL_CERT_FILE").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("3 passed"), "{text}");
}

async fn a_source_ends_when_its_receiver_is_dropped<S: Server>() {
    let world = World::<S>::of(true);
    let following = world.following().await;
    following.stop().await.unwrap();
    world.until(|server| server.open_watches(Resource::Services) == 0).await;
}
