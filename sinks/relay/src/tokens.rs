//! Nodes that show a token of a service account, which the API server reviews.
//!
//! A token says nothing before the server has reviewed it: nobody here verifies its signature, so
//! its content is not looked at. What the server says is kept for a short time, so that nodes that
//! come back at once cost it little, and so that a token that it does not accept is not asked for
//! again and again. While it is away, a token that was good a moment ago still is.

mod verdicts;

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rulec_compiler::name::{NamespacedName, NodeName};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::Status;
use tracing::warn;
use verdicts::{Digest, Verdicts};

/// The longest token. Those of Kubernetes have about 1 KiB.
const LONGEST: usize = 12 << 10;

/// How many reviews are asked for at once.
const AT_ONCE: usize = 8;

/// How long a review may take, and the wait until it is asked for. A node waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(8);

/// What the API server says of a token (`TokenReview`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Review {
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

/// The answer to a question for a review; otherwise why there is none.
pub type Reviewing = Pin<Box<dyn Future<Output = Result<Review, String>> + Send>>;

/// Whoever asks the API server.
pub trait Reviewer: fmt::Debug + Send + Sync {
    /// Asks what a token is, for an audience.
    fn review(&self, token: String, audience: String) -> Reviewing;
}

/// Which tokens are accepted, and what is known of them.
#[derive(Debug)]
pub struct Tokens {
    reviewer: Box<dyn Reviewer>,
    audience: String,
    /// The names of the users that are accepted.
    users: BTreeSet<String>,
    verdicts: Mutex<Verdicts>,
    asking: Semaphore,
    accepted: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
}

impl Tokens {
    /// Accepts tokens for an audience, of these service accounts.
    pub fn new(
        reviewer: impl Reviewer + 'static,
        audience: String,
        accounts: &[NamespacedName],
    ) -> Self {
        let user = |account: &NamespacedName| {
            format!("system:serviceaccount:{}:{}", account.namespace, account.name)
        };
        Self {
            reviewer: Box::new(reviewer),
            audience,
            users: accounts.iter().map(user).collect(),
            verdicts: Mutex::default(),
            asking: Semaphore::new(AT_ONCE),
            accepted: AtomicU64::default(),
            refused: AtomicU64::default(),
            unavailable: AtomicU64::default(),
        }
    }

    /// Returns how many reviews have ended with a node that was let in.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Returns how many have ended with a token that is none of a node.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Returns how many have not ended.
    pub fn unavailable(&self) -> u64 {
        self.unavailable.load(Relaxed)
    }

    /// Returns the node that a token is of.
    pub(crate) async fn check(&self, token: &str) -> Result<NodeName, Status> {
        self.check_at(token, Instant::now).await
    }

    async fn check_at(&self, token: &str, now: impl Fn() -> Instant) -> Result<NodeName, Status> {
        if token.is_empty() || token.len() > LONGEST {
            return Err(Status::unauthenticated("what is shown is not a token"));
        }
        let digest = Digest::of(token);
        let known = |verdicts: &mut Verdicts| verdicts.fresh(&digest, now());
        if let Some(verdict) = self.verdicts(known) {
            return verdict.map_err(Status::unauthenticated);
        }
        let asking = async {
            let permit = self.asking.acquire().await.map_err(|error| error.to_string())?;
            // Somebody may have asked during the wait.
            if let Some(verdict) = self.verdicts(known) {
                return Ok(verdict);
            }
            let review = self.reviewer.review(token.to_owned(), self.audience.clone()).await?;
            drop(permit);
            let verdict = self.judge(review);
            let count = if verdict.is_ok() { &self.accepted } else { &self.refused };
            count.fetch_add(1, Relaxed);
            self.verdicts(|verdicts| verdicts.put(digest, verdict.clone(), now()));
            Ok(verdict)
        };
        let asked = timeout(PATIENCE, asking).await;
        let reason = match asked.unwrap_or_else(|_| Err("it does not answer in time".to_owned())) {
            Ok(verdict) => return verdict.map_err(Status::unauthenticated),
            Err(reason) => reason,
        };
        self.unavailable.fetch_add(1, Relaxed);
        warn!("a token is not reviewed: {reason}");
        match self.verdicts(|verdicts| verdicts.last_good(&digest, now())) {
            Some(node) => Ok(node),
            // What is wrong with the API server is not for whoever asks.
            None => Err(Status::unavailable("the API server cannot be asked about the token")),
        }
    }

    fn verdicts<T>(&self, what: impl FnOnce(&mut Verdicts) -> T) -> T {
        what(&mut self.verdicts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the node that a review is about, or why it is none.
    fn judge(&self, review: Review) -> Result<NodeName, String> {
        let Review { is_authenticated, error, audiences, user, node } = review;
        if !is_authenticated {
            let reason = printable(&error);
            let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
            return Err(format!("the API server does not accept the token{because}"));
        }
        // A server that knows nothing of audiences answers without any.
        if !audiences.contains(&self.audience) {
            return Err(format!("the token is not for the audience {}", self.audience));
        }
        if !self.users.contains(&user) {
            return Err(format!("the token is that of {}, who may not connect", printable(&user)));
        }
        let node = node.filter(|node| !node.is_empty()).ok_or(
            "the token names no node: it must be that of a Pod, and the API server that of \
             Kubernetes 1.32 or newer",
        )?;
        Ok(NodeName::from(node.as_str()))
    }
}

/// Shortens what others say, and replaces its control characters.
fn printable(text: &str) -> String {
    let is_control = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(is_control).take(200).collect()
}

#[cfg(test)]
mod tests;
