use std::collections::VecDeque;
use std::sync::Arc;

use tonic::Code;

use super::verdicts::{AWAY, BAD, GOOD};
use super::*;

const AUDIENCE: &str = "rulec-relay";

/// Gives these answers, one after the other.
#[derive(Clone, Debug, Default)]
struct Script(Arc<Mutex<VecDeque<Result<Review, String>>>>);

impl Reviewer for Script {
    fn review(&self, _: String, audience: String) -> Reviewing {
        assert_eq!(audience, AUDIENCE);
        let answer = self.0.lock().expect("no test has failed").pop_front();
        Box::pin(async move { answer.expect("the script has an answer") })
    }
}

impl Script {
    fn say(&self, answer: Result<Review, String>) {
        self.0.lock().expect("no test has failed").push_back(answer);
    }

    fn tokens(&self) -> Tokens {
        let account = NamespacedName::new("kube-system", "rulec");
        Tokens::new(self.clone(), AUDIENCE.to_owned(), &[account])
    }
}

fn good() -> Review {
    Review {
        is_authenticated: true,
        error: String::new(),
        audiences: vec![AUDIENCE.to_owned()],
        user: "system:serviceaccount:kube-system:rulec".to_owned(),
        node: Some("a".to_owned()),
    }
}

async fn check(tokens: &Tokens, token: &str, now: Instant) -> Result<String, (Code, String)> {
    let checked = tokens.check_at(token, || now).await;
    checked
        .map(|node| node.to_string())
        .map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn only_a_token_of_a_pod_of_an_account_for_the_audience_is_accepted() {
    let refusals = [
        (
            Review { is_authenticated: false, error: "it has\nexpired".to_owned(), ..good() },
            "the API server does not accept the token: it has expired",
        ),
        (Review::default(), "the API server does not accept the token"),
        (
            Review { audiences: vec!["https://kubernetes.default.svc".to_owned()], ..good() },
            "the token is not for the audience rulec-relay",
        ),
        (
            Review { audiences: Vec::new(), ..good() },
            "the token is not for the audience rulec-relay",
        ),
        (
            Review { user: "system:serviceaccount:default:rulec".to_owned(), ..good() },
            "the token is that of system:serviceaccount:default:rulec, who may not connect",
        ),
        (
            Review { node: None, ..good() },
            "the token names no node: it must be that of a Pod, and the API server that of \
             Kubernetes 1.32 or newer",
        ),
    ];
    let script = Script::default();
    let (tokens, now) = (script.tokens(), Instant::now());
    for (number, (review, reason)) in refusals.into_iter().enumerate() {
        script.say(Ok(review));
        let checked = check(&tokens, &number.to_string(), now).await;
        assert_eq!(checked, Err((Code::Unauthenticated, reason.to_owned())));
    }
    script.say(Ok(good()));
    assert_eq!(check(&tokens, "good", now).await, Ok("a".to_owned()));
    assert_eq!((tokens.accepted(), tokens.refused(), tokens.unavailable()), (1, 6, 0));
    // Nobody is asked about what cannot be a token.
    for token in ["", &"x".repeat(LONGEST + 1)] {
        let checked = check(&tokens, token, now).await;
        assert_eq!(checked.map_err(|(code, _)| code), Err(Code::Unauthenticated));
    }
}

#[tokio::test]
async fn a_token_that_was_revoked_is_accepted_for_a_minute_at_most() {
    let script = Script::default();
    let (tokens, start) = (script.tokens(), Instant::now());
    script.say(Ok(good()));
    assert_eq!(check(&tokens, "token", start).await, Ok("a".to_owned()));
    let before = start + GOOD - Duration::from_secs(1);
    assert_eq!(check(&tokens, "token", before).await, Ok("a".to_owned()), "nobody is asked");
    script.say(Ok(Review::default()));
    let refused = check(&tokens, "token", start + GOOD).await;
    assert_eq!(refused.map_err(|(code, _)| code), Err(Code::Unauthenticated));
    // The refusal is remembered, for a shorter time.
    let refused = check(&tokens, "token", start + GOOD).await;
    assert_eq!(refused.map_err(|(code, _)| code), Err(Code::Unauthenticated));
    script.say(Ok(good()));
    assert_eq!(check(&tokens, "token", start + GOOD + BAD).await, Ok("a".to_owned()));
}

#[tokio::test]
async fn without_the_api_server_a_token_counts_that_was_good_a_moment_ago() {
    let script = Script::default();
    let (tokens, start) = (script.tokens(), Instant::now());
    let unavailable = "the API server cannot be asked about the token".to_owned();
    let away = || script.say(Err("10.0.0.1: connection refused".to_owned()));
    away();
    let refused = check(&tokens, "token", start).await;
    assert_eq!(refused, Err((Code::Unavailable, unavailable.clone())));
    script.say(Ok(good()));
    assert_eq!(check(&tokens, "token", start).await, Ok("a".to_owned()));
    let late = start + AWAY - Duration::from_secs(1);
    away();
    assert_eq!(check(&tokens, "token", late).await, Ok("a".to_owned()));
    away();
    let other = check(&tokens, "another", late).await;
    assert_eq!(other, Err((Code::Unavailable, unavailable.clone())));
    // That it was accepted meanwhile does not count as a review.
    away();
    assert_eq!(check(&tokens, "token", start + AWAY).await, Err((Code::Unavailable, unavailable)));
    assert_eq!(tokens.unavailable(), 4);
}
