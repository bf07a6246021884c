//! Reviews of tokens (`authentication.k8s.io/v1`): the server says whose a token is.
//!
//! They share the client of the source, so they work whenever that reaches the server, and new
//! credentials are used for both. A review is not repeated here: whoever shows the token comes
//! again.

use std::collections::BTreeMap;
use std::rc::Rc;

use kube::api::PostParams;
use kube::core::Request;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::debug;

use super::access::Access;
use super::answer::send;
use super::fault::Fault;
use crate::error::{chain, printable};

/// How many questions may wait.
const WAITING: usize = 64;

/// What a user has that is made for a Pod: the name of its node, since Kubernetes 1.32.
const NODE: &str = "authentication.kubernetes.io/node-name";

const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// What the server says of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenReview {
    /// Whether it accepts the token.
    pub is_authenticated: bool,
    /// Why not, if it says so.
    pub error: String,
    /// The audiences asked for that the token is for.
    pub audiences: Vec<String>,
    /// Whose it is.
    pub user: String,
    /// The node of the Pod that it was made for.
    pub node: Option<String>,
}

/// Asks for reviews, while the source runs.
#[derive(Clone, Debug)]
pub struct TokenReviews(mpsc::Sender<Question>);

/// A token, and who waits for its review.
#[derive(Debug)]
pub(super) struct Question {
    token: String,
    audience: String,
    answer: oneshot::Sender<Result<TokenReview, String>>,
}

impl TokenReviews {
    pub(super) fn new() -> (Self, mpsc::Receiver<Question>) {
        let (sender, questions) = mpsc::channel(WAITING);
        (Self(sender), questions)
    }

    /// Asks what a token is, for an audience. Dropping this ends the question.
    ///
    /// # Errors
    ///
    /// Why there is no answer.
    pub async fn review(&self, token: String, audience: String) -> Result<TokenReview, String> {
        const ENDED: &str = "the API server is not followed";
        let (answer, answered) = oneshot::channel();
        let question = Question { token, audience, answer };
        self.0.send(question).await.map_err(|_| ENDED.to_owned())?;
        answered.await.map_err(|_| ENDED.to_owned())?
    }
}

/// Answers questions until nobody can ask any more.
pub(super) async fn answer(access: Rc<Access>, mut questions: mpsc::Receiver<Question>) {
    let mut asking = JoinSet::new();
    loop {
        tokio::select! {
            question = questions.recv() => {
                let Some(question) = question else { break };
                asking.spawn_local(reply(access.clone(), question));
            }
            Some(_) = asking.join_next() => {}
        }
    }
    while asking.join_next().await.is_some() {}
}

async fn reply(access: Rc<Access>, question: Question) {
    let Question { token, audience, mut answer } = question;
    let review = tokio::select! {
        review = review(&access, token, audience) => review,
        // Nobody waits any more.
        () = answer.closed() => return,
    };
    let review = review.map_err(|fault| {
        debug!(%fault, "a token is not reviewed");
        printable(&fault.to_string())
    });
    let _ = answer.send(review);
}

async fn review(access: &Access, token: String, audience: String) -> Result<TokenReview, Fault> {
    let (client, generation) = access.client().await?;
    let question = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": { "token": token, "audiences": [audience] },
    });
    let request = Request::new(PATH).create(&PostParams::default(), question.to_string().into());
    let request = request.map_err(|error| Fault::Config(chain(&error)))?;
    let asked = async {
        let answer = send(access, &client, request).await?;
        answer.text(access.options.timing.answer).await
    };
    let text = asked.await.inspect_err(|fault| {
        if fault.is_about_access() {
            access.doubt(generation, fault);
        }
    })?;
    // The parser's message may quote the answer, which has the token.
    let answer: Answer =
        serde_json::from_slice(&text).map_err(|_| Fault::garbled("not a TokenReview"))?;
    let Said { authenticated, error, audiences, user } = answer.status;
    let node = user.extra.get(NODE).and_then(|values| values.first()).cloned();
    Ok(TokenReview { is_authenticated: authenticated, error, audiences, user: user.username, node })
}

#[derive(Deserialize)]
struct Answer {
    status: Said,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Said {
    authenticated: bool,
    error: String,
    audiences: Vec<String>,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct User {
    username: String,
    extra: BTreeMap<String, Vec<String>>,
}
