//! Nobody keeps a relay from serving others.

use std::sync::Arc;
use std::time::Duration;

use rulec_relay_server::{Bounds, Security};
use rulec_sources::RelayAccess;
use tokio::io::AsyncReadExt;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raw::{self, Raw};
use crate::{Certificates, Client, PATIENCE, Server, anywhere, node, service, world};

#[tokio::test]
async fn a_node_has_one_stream_and_the_newest_counts() {
    let mut server = Server::start(Security::None, anywhere());
    server.publish(&world());
    let mut older = Raw::connect(server.address, None).await;
    older.ask(&raw::first("a")).await;
    assert!(older.read().await > 0);
    let mut other = Raw::connect(server.address, None).await;
    other.ask(&raw::first("b")).await;
    assert!(other.read().await > 0);
    let mut newer = Raw::connect(server.address, None).await;
    newer.ask(&raw::first("a")).await;
    assert!(newer.read().await > 0);
    let (code, message) = older.end().await;
    assert_eq!((code, message.as_str()), (10, "a newer stream of this node has taken its place"));
    assert_eq!(server.relay.stats().replaced(), 1);
    server.wait("two follow", |relay| relay.stats().nodes() == 2).await;
    server.wait("its connection has ended", |relay| relay.connections() == 2).await;
}

#[tokio::test]
async fn a_node_that_neither_reads_nor_answers_is_let_go() {
    let bounds = Bounds { answer: Duration::from_millis(300), ..Bounds::default() };
    let mut server = Server::start_with(Security::None, anywhere(), bounds);
    let many = (0..4_000).map(|number| service(&format!("web-{number}"), 1));
    server.publish(&many.collect::<Vec<_>>());
    let mut mute = Raw::connect(server.address, None).await;
    mute.ask(&raw::first("mute")).await;
    let (code, message) = mute.end().await;
    assert_eq!(code, 4, "{message}");
    assert!(message.starts_with("a response was not "), "{message}");
    assert_eq!(server.relay.stats().overdue(), 1);
    // It has no room for what it is sent.
    let deaf = Raw::connect(server.address, Some(1_024)).await;
    deaf.ask(&raw::first("deaf")).await;
    server.wait("its stream has ended", |relay| relay.stats().overdue() == 2).await;
    server.wait("its connection has ended", |relay| relay.connections() == 0).await;
    server.wait("nobody follows", |relay| relay.stats().nodes() == 0).await;
}

#[tokio::test]
async fn a_node_that_says_nothing_keeps_nobody_from_beginning() {
    let bounds = Bounds { beginners: 1, request: PATIENCE, ..Bounds::default() };
    let mut server = Server::start_with(Security::None, anywhere(), bounds);
    server.publish(&world());
    let silent = Raw::connect(server.address, None).await;
    let access = RelayAccess {
        url: format!("http://{}", server.address).parse().unwrap(),
        certificate_authority: None,
        client_certificate: None,
        client_key: None,
        token: None,
    };
    let mut client = Client::start(access, "a", None);
    client.until("it is complete", Client::is_complete).await;
    assert_eq!(client.problems(), Vec::<String>::new());
    drop(silent);
}

#[tokio::test]
async fn a_request_is_refused_that_is_longer_than_all_names() {
    let mut server = Server::start(Security::None, anywhere());
    server.publish(&world());
    let mut client = Raw::connect(server.address, None).await;
    // The flag and the length: nothing of the message is needed.
    client.send(&[0, 3, 0, 0, 0]).await;
    let (code, message) = client.end().await;
    assert_eq!(code, 8, "{message}");
    assert!(message.starts_with("a request of 50331648 bytes, of which "), "{message}");

    // Later requests are short, also those of a node that has begun.
    let mut client = Raw::connect(server.address, None).await;
    client.ask(&raw::first("a")).await;
    client.read().await;
    for topic in rulec_relay::Topic::ALL {
        client.ask(&raw::subscription(topic)).await;
    }
    client.ask(&raw::answer(1)).await;
    client.until_position().await;
    client.send(&[0, 0, 2, 0, 0]).await;
    let (code, message) = client.end().await;
    assert_eq!((code, message.as_str()), (8, "a request of 131072 bytes, of which 0 may be sent"));
}

#[tokio::test]
async fn there_is_an_end_to_connections_and_to_their_silence() {
    let certificates = Certificates::new();
    let grace = Duration::from_millis(50);
    let bounds =
        Bounds { connections: 5, strangers: 2, grace, proof: PATIENCE, ..Bounds::default() };
    let mut server = Server::start_with(certificates.security(), anywhere(), bounds);
    server.publish(&world());
    let mut client = Client::start(certificates.access("a", server.address), "a", None);
    client.until("it is complete", Client::is_complete).await;
    // Whoever connects and says nothing pushes out the like, and no node.
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(tokio::net::TcpStream::connect(server.address).await.unwrap());
    }
    server.wait("most were closed", |relay| relay.stats().crowded_out() >= 8).await;
    server.wait("two are left", |relay| relay.connections() == 3).await;
    let mut other = Client::start(certificates.access("b", server.address), "b", None);
    other.until("it is complete", Client::is_complete).await;
    assert_eq!(client.problems(), Vec::<String>::new());
    assert_eq!(server.relay.stats().streams(), 2);
    drop(silent);
}

#[tokio::test]
async fn a_connection_without_a_call_ends_and_a_call_without_a_request() {
    let bounds = Bounds { proof: Duration::from_millis(100), ..Bounds::default() };
    let mut server = Server::start_with(Security::None, anywhere(), bounds);
    server.publish(&world());
    let mut socket = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut all = Vec::new();
    let ended = timeout(PATIENCE, socket.read_to_end(&mut all)).await;
    assert!(ended.is_ok(), "it was closed");
    server.wait("it has gone", |relay| relay.connections() == 0).await;

    let bounds = Bounds { request: Duration::from_millis(100), ..Bounds::default() };
    let mut server = Server::start_with(Security::None, anywhere(), bounds);
    server.publish(&world());
    let mut client = Raw::connect(server.address, None).await;
    let (code, message) = client.end().await;
    assert_eq!((code, message.as_str()), (4, "no request has come in time"));
    server.wait("it has gone", |relay| relay.connections() == 0).await;
}

/// Starts nodes that know nothing, all at once, and returns when all have everything.
async fn all_at_once(certificates: &Certificates, server: &mut Server, nodes: usize) {
    let names: Vec<_> = (0..nodes).map(|number| format!("node-{number}")).collect();
    // Without its own object, a node waits for that before it is complete.
    let objects = names.iter().map(|name| node(name));
    server.publish(&world().into_iter().chain(objects).collect::<Vec<_>>());
    let access = |name: String| (certificates.access(&name, server.address), name);
    let all: Vec<_> = names.into_iter().map(access).collect();
    let end = Arc::new(Barrier::new(nodes));
    let mut tasks = JoinSet::new();
    for (access, name) in all {
        let end = end.clone();
        tasks.spawn(async move {
            let mut client = Client::start(access, &name, None);
            client.until("it is complete", Client::is_complete).await;
            // It goes on taking updates, as a node does.
            client.during(end.wait()).await;
        });
    }
    let served = timeout(PATIENCE, tasks.join_all()).await;
    assert_eq!(served.expect("all are served").len(), nodes);
}

#[tokio::test]
async fn nodes_that_come_at_once_do_not_push_out_each_other() {
    let certificates = Certificates::new();
    let bounds = Bounds { strangers: 8, grace: PATIENCE, proof: PATIENCE, ..Bounds::default() };
    let mut server = Server::start_with(certificates.security(), anywhere(), bounds);
    all_at_once(&certificates, &mut server, 64).await;
    assert_eq!(server.relay.stats().crowded_out(), 0);
}

#[tokio::test]
async fn nodes_that_come_at_once_are_served_among_those_that_say_nothing() {
    let certificates = Certificates::new();
    let grace = Duration::from_millis(500);
    let bounds = Bounds { strangers: 8, grace, proof: PATIENCE, ..Bounds::default() };
    let mut server = Server::start_with(certificates.security(), anywhere(), bounds);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(tokio::net::TcpStream::connect(server.address).await.unwrap());
    }
    all_at_once(&certificates, &mut server, 64).await;
    assert!(server.relay.stats().crowded_out() >= 32, "{:?}", server.relay.stats());
    drop(silent);
}
