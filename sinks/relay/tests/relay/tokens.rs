//! Nodes that show tokens.

use std::collections::BTreeMap;
use std::sync::Arc;

use rulec_compiler::name::NamespacedName;
use rulec_relay_server::{Review, Reviewer, Reviewing, Security, Tokens};
use rulec_sources::RelayAccess;

use crate::{ALL_OF_A, Certificates, Client, Server, anywhere, world};

const AUDIENCE: &str = "rulec-relay";

/// Knows these tokens.
#[derive(Debug)]
struct Known(BTreeMap<String, Review>);

impl Reviewer for Known {
    fn review(&self, token: String, _: String) -> Reviewing {
        let review = self.0.get(&token).cloned().unwrap_or_default();
        Box::pin(async move { Ok(review) })
    }
}

fn of_node(node: &str) -> Review {
    Review {
        is_authenticated: true,
        error: String::new(),
        audiences: vec![AUDIENCE.to_owned()],
        user: "system:serviceaccount:kube-system:rulec".to_owned(),
        node: Some(node.to_owned()),
    }
}

/// Returns how a relay knows its nodes: by certificates, or by these tokens.
fn security(certificates: &Certificates, reviews: &[(&str, Review)]) -> Security {
    let known = reviews.iter().map(|(token, review)| ((*token).to_owned(), review.clone()));
    let account = NamespacedName::new("kube-system", "rulec");
    let tokens = Tokens::new(Known(known.collect()), AUDIENCE.to_owned(), &[account]);
    let Security::Tls(files, _) = certificates.security() else { unreachable!() };
    Security::Tls(files, Some(Arc::new(tokens)))
}

/// Returns how a node reaches the relay with a token, or with nothing.
fn access(certificates: &Certificates, server: &Server, token: Option<&str>) -> RelayAccess {
    let path = certificates.path("token");
    if let Some(token) = token {
        std::fs::write(&path, format!("{token}\n")).unwrap();
    }
    RelayAccess {
        client_certificate: None,
        client_key: None,
        token: token.map(|_| path),
        ..certificates.access("unused", server.address)
    }
}

#[tokio::test]
async fn a_token_shows_which_node_it_is() {
    let certificates = Certificates::new();
    let security = security(&certificates, &[("of-a", of_node("a"))]);
    let mut server = Server::start(security, anywhere());
    server.publish(&world());
    let mut client = Client::start(access(&certificates, &server, Some("of-a")), "a", None);
    client.until("it is complete", Client::is_complete).await;
    assert_eq!(client.names(), ALL_OF_A);
    // A certificate is as good as before.
    let mut other = Client::start(certificates.access("b", server.address), "b", None);
    other.until("it is complete", Client::is_complete).await;
    assert_eq!(server.relay.stats().turned_away(), 0);
}

#[tokio::test]
async fn whoever_shows_another_token_or_none_is_not_let_in() {
    let certificates = Certificates::new();
    let reviews = [
        ("of-b", of_node("b")),
        ("of-another-account", Review { user: "admin".to_owned(), ..of_node("a") }),
        ("for-another-audience", Review { audiences: vec!["api".to_owned()], ..of_node("a") }),
        ("without-a-node", Review { node: None, ..of_node("a") }),
    ];
    let mut server = Server::start(security(&certificates, &reviews), anywhere());
    server.publish(&world());
    let unauthenticated = |reason: &str| format!("16: {reason}");
    for (token, reason) in [
        (Some("of-b"), "7: node.id is a, and the token that of b".to_owned()),
        (
            Some("of-another-account"),
            unauthenticated("the token is that of admin, who may not connect"),
        ),
        (
            Some("for-another-audience"),
            unauthenticated("the token is not for the audience rulec-relay"),
        ),
        (
            Some("without-a-node"),
            unauthenticated(
                "the token names no node: it must be that of a Pod, and the API server that of \
                 Kubernetes 1.32 or newer",
            ),
        ),
        (Some("garbage"), unauthenticated("the API server does not accept the token")),
        (None, unauthenticated("there is neither a certificate nor a token")),
    ] {
        let before = server.relay.stats().turned_away();
        let mut client = Client::start(access(&certificates, &server, token), "a", None);
        client.until("there is a problem", |it| !it.problems().is_empty()).await;
        let problem = format!("relay: it answers with gRPC status {reason}");
        assert_eq!(client.problems(), [problem], "{token:?}");
        assert!(!client.is_complete() && server.relay.stats().turned_away() > before);
        client.stop().await;
    }
    assert_eq!(server.relay.stats().streams(), 0);
}
