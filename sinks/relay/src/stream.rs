//! The stream of one node.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rulec_compiler::name::NodeName;
use rulec_relay::discovery::{DeltaRequest, POSITION};
use rulec_relay::{Catalogue, News, Position, Response, Standing, Topic};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;
use tracing::warn;

use crate::grpc::{Out, Requests};
use crate::intake::Allowance;
use crate::{Published, Relay};

/// The length at which a response is sent, and the next one begun. A resource is never cut.
const RESPONSE: usize = 32 << 10;

/// The most characters of a node's reason that are kept.
const LONGEST_REASON: usize = 500;

/// The time in which a node may send its first requests and read its first state.
pub(crate) struct Turn {
    _permit: OwnedSemaphorePermit,
    allowance: Allowance,
    ends: Instant,
}

impl Turn {
    pub(crate) fn new(permit: OwnedSemaphorePermit, allowance: Allowance, time: Duration) -> Self {
        Self { _permit: permit, allowance, ends: Instant::now() + time }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.allowance.end();
    }
}

/// Returns how much of the API server's changes the node has: nothing older may be sent.
fn floor(first: &DeltaRequest) -> Position {
    let text = first.node.as_ref().and_then(|node| node.text(POSITION));
    text.and_then(Standing::parse).unwrap_or_default().position
}

pub(crate) struct Stream {
    /// How much of the API server's changes the node has from before.
    floor: Position,
    /// Whether the node must learn that it has everything of a type, even if that is nothing new.
    owes: bool,
    /// What else the node was told of where this relay stands.
    told: Option<(bool, bool)>,
    relay: Relay,
    node: NodeName,
    state: watch::Receiver<Option<Arc<Published>>>,
    topics: [Subscription; Topic::ALL.len()],
    /// What is being sent.
    batch: Option<Batch>,
    /// The response whose answer is waited for before the next batch.
    awaited: Option<u64>,
    /// The last response that was answered, and the last that was sent.
    answered: u64,
    sent: u64,
    /// What the responses have that were not answered yet.
    unanswered: VecDeque<Sent>,
    /// When the node has last taken something.
    progress: Instant,
    /// Whether the node has said something of its kernel.
    is_told_of_kernel: bool,
    /// Held until the first state is sent.
    turn: Option<Turn>,
}

/// A response that was sent.
struct Sent {
    nonce: u64,
    topic: Topic,
    names: Vec<Arc<str>>,
}

/// What a node has of a type.
#[derive(Default)]
enum Subscription {
    #[default]
    None,
    /// These resources, from before.
    Known(BTreeMap<String, String>),
    /// The resources of this state.
    Sent(Catalogue),
}

/// The difference to a state, as far as it is not sent yet.
struct Batch {
    news: std::iter::Peekable<std::vec::IntoIter<News>>,
    published: Arc<Published>,
    /// Whether the node has everything afterwards.
    is_whole: bool,
}

impl Stream {
    pub(crate) fn new(relay: Relay, node: NodeName, turn: Turn) -> Self {
        Self {
            floor: Position::default(),
            owes: false,
            told: None,
            state: relay.state.subscribe(),
            topics: Default::default(),
            batch: None,
            awaited: None,
            answered: 0,
            sent: 0,
            unanswered: VecDeque::new(),
            progress: Instant::now(),
            is_told_of_kernel: false,
            turn: Some(turn),
            node,
            relay,
        }
    }

    /// Sends what the node lacks, until it has gone.
    ///
    /// # Errors
    ///
    /// If the node sends what cannot be used, or does not take what it is sent.
    pub(crate) async fn run(
        &mut self,
        first: DeltaRequest,
        mut requests: Requests,
        out: &Out,
    ) -> Result<(), Status> {
        self.floor = floor(&first);
        self.take(first)?;
        loop {
            if self.batch.is_none() && self.awaited.is_none() {
                self.batch = self.next_batch();
                self.progress = Instant::now();
            }
            let turn_over = until(self.turn.as_ref().map(|turn| turn.ends));
            let is_waiting = self.batch.is_some() || self.awaited.is_some();
            let deadline = self.progress + self.relay.bounds.answer;
            let overdue = until(is_waiting.then_some(deadline));
            tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request)?,
                    // The node has gone.
                    Ok(None) => return Ok(()),
                    Err(status) => return Err(status),
                },
                () = turn_over => self.turn = None,
                permit = out.reserve(), if self.batch.is_some() => match permit {
                    Ok(permit) => {
                        self.progress = Instant::now();
                        if let Some(response) = self.next_response() {
                            permit.send(Ok(response));
                        }
                    }
                    Err(_) => return Ok(()),
                },
                () = overdue => {
                    let what = if self.batch.is_some() { "read" } else { "answered" };
                    let message = format!("a response was not {what} in time");
                    return Err(Status::deadline_exceeded(message));
                }
                changed = self.state.changed(), if self.batch.is_none() && self.awaited.is_none() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Takes over a request: a subscription, or an answer.
    fn take(&mut self, request: DeltaRequest) -> Result<(), Status> {
        let Some(topic) = Topic::of_url(&request.type_url) else {
            let message = format!("there are no resources of type {:?}", request.type_url);
            return Err(Status::invalid_argument(message));
        };
        let is_all = |names: &[String]| names.iter().all(|name| name == "*");
        if !is_all(&request.subscribe) || !request.unsubscribe.is_empty() {
            return Err(Status::invalid_argument("only all resources of a type can be followed"));
        }
        if request.nonce.is_empty() {
            let subscription = &mut self.topics[topic.index()];
            if let (Subscription::None, None) = (&subscription, &request.error) {
                *subscription = Subscription::Known(request.initial_versions);
            } else {
                // What a node says without being asked: which Services its kernel refuses.
                self.is_told_of_kernel = true;
                let reason = request.error.map(|error| printable(&error.message));
                self.relay.stats.hear_of_kernel(&self.node, reason);
            }
            return Ok(());
        }
        let nonce =
            request.nonce.parse().ok().filter(|it| (self.answered + 1..=self.sent).contains(it));
        let Some(nonce) = nonce else {
            return Err(Status::invalid_argument("an answer to a response that was not sent"));
        };
        // A node whose kernel refuses something says so before it answers.
        if self.answered == 0 && !self.is_told_of_kernel {
            self.relay.stats.hear_of_kernel(&self.node, None);
        }
        self.answered = nonce;
        self.hear(nonce, topic, request.error.map(|error| error.message));
        if self.awaited.is_some_and(|awaited| nonce >= awaited) {
            self.awaited = None;
        }
        Ok(())
    }

    /// Notes what a node says of a response. An answer stands for those before it, too, whose
    /// resources were not refused.
    fn hear(&mut self, nonce: u64, topic: Topic, error: Option<String>) {
        let stats = &self.relay.stats;
        while self.unanswered.front().is_some_and(|sent| sent.nonce <= nonce) {
            let Some(sent) = self.unanswered.pop_front() else { return };
            match error.as_ref().filter(|_| sent.nonce == nonce && sent.topic == topic) {
                Some(message) => {
                    let reason = printable(message);
                    warn!(node = %self.node, "a node refuses resources: {reason}");
                    let reason = (message.as_str(), reason);
                    stats.refuse(&self.node, &topic.to_string(), reason, &sent.names);
                }
                None => stats.accept(&self.node, &sent.topic.to_string(), &sent.names),
            }
        }
    }

    /// Returns what the node lacks of the newest state, if that is anything.
    fn next_batch(&mut self) -> Option<Batch> {
        let published = self.state.borrow_and_update().clone()?;
        let mut news = Vec::new();
        let Standing { position, is_cut_off, has_manifests } = &published.standing;
        let words = Some((*is_cut_off, *has_manifests));
        let mut is_whole = true;
        for topic in Topic::ALL {
            let subscription = &mut self.topics[topic.index()];
            let catalogue = &published.catalogue;
            news.extend(match subscription {
                Subscription::None => {
                    is_whole = false;
                    continue;
                }
                Subscription::Known(_) | Subscription::Sent(_)
                    if published.unread[topic.index()] =>
                {
                    continue;
                }
                // What the node has is newer. It stays until this relay knows no less.
                Subscription::Known(_) if position.is_behind(&self.floor, topic) => continue,
                Subscription::Known(known) => {
                    self.owes = true;
                    catalogue.topic_beside(topic, known, &self.node)
                }
                Subscription::Sent(old) => catalogue.topic_since(topic, old, &self.node),
            });
            *subscription = Subscription::Sent(catalogue.clone());
        }
        let is_due = is_whole && (self.owes || self.told != words);
        if news.is_empty() && !is_due {
            return None;
        }
        if is_whole {
            self.owes = false;
            self.told = words;
        }
        Some(Batch { news: news.into_iter().peekable(), published, is_whole })
    }

    /// Returns the next response of the batch; the last one has the position.
    fn next_response(&mut self) -> Option<Bytes> {
        let batch = self.batch.as_mut()?;
        self.sent += 1;
        let topic = batch.news.peek().map_or(Topic::Services, |news| news.topic);
        let mut response = Response::new(topic, &self.sent.to_string());
        let mut names = Vec::new();
        while let Some(news) = batch.news.next_if(|news| news.topic == topic) {
            match &news.offer {
                Some(offer) => response.add(offer),
                None => response.remove(&news.name),
            }
            names.push(news.name);
            if response.length() >= RESPONSE {
                break;
            }
        }
        let is_last = batch.news.peek().is_none();
        let standing = (is_last && batch.is_whole).then(|| batch.published.standing.to_string());
        self.unanswered.push_back(Sent { nonce: self.sent, topic, names });
        let count = response.count;
        let bytes = response.finish(standing.as_deref());
        self.relay.stats.sent(count, bytes.len());
        if is_last {
            let is_whole = batch.is_whole;
            self.batch = None;
            self.awaited = Some(self.sent);
            self.relay.stats.finished();
            if is_whole {
                self.turn = None;
            }
        }
        Some(bytes)
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Shortens what a node says, and replaces its control characters.
fn printable(text: &str) -> String {
    let is_control = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(is_control).take(LONGEST_REASON).collect()
}
