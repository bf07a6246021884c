//! Reviews of tokens.

use std::time::Duration;

use rulec_sources::{ApiSource, TokenReview};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::world::{PATIENCE, World};

#[tokio::test]
async fn the_server_says_whose_a_token_is() {
    let world = World::new();
    let status = json!({
        "authenticated": true,
        "user": {
            "username": "system:serviceaccount:kube-system:rulec",
            "uid": "7",
            "groups": ["system:serviceaccounts"],
            "extra": {"authentication.kubernetes.io/node-name": ["worker-1"]},
        },
        "audiences": ["rulec-relay"],
    });
    world.server.set_review("good", Some(status.clone()));
    let source = ApiSource::new(world.options());
    let reviews = source.reviews();
    let (out, mut updates) = mpsc::channel(64);
    let running = tokio::spawn(source.run(out));
    let following = tokio::spawn(async move { while updates.recv().await.is_some() {} });
    let ask = |token: &str| reviews.review(token.to_owned(), "rulec-relay".to_owned());
    let good = TokenReview {
        is_authenticated: true,
        error: String::new(),
        audiences: vec!["rulec-relay".to_owned()],
        user: "system:serviceaccount:kube-system:rulec".to_owned(),
        node: Some("worker-1".to_owned()),
    };
    assert_eq!(ask("good").await, Ok(good));
    let error = "invalid bearer token".to_owned();
    assert_eq!(ask("other").await, Ok(TokenReview { error, ..TokenReview::default() }));

    // Who may not ask, or reaches nobody, is told so, and may ask again.
    world.server.set_tokens(["next"]);
    let refused = ask("good").await.unwrap_err();
    assert!(refused.starts_with("the server answers 401: "), "{refused}");
    world.server.down();
    assert!(ask("good").await.is_err());
    world.server.up();
    world.write_token("next");
    let again = async {
        while ask("good").await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("it is answered again");
    following.abort();
    running.await.unwrap().unwrap();
    assert_eq!(ask("good").await, Err("the API server is not followed".to_owned()));
}
