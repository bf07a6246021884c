//! The stream of one node.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rulec_compiler::name::NodeName;
use rulec_relay::discovery::{DeltaRequest, POSITION};
use rulec_relay::{Catalogue, News, Position, Response, Standing, Topic};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::peer::Peer;
use crate::{Published, Relay};

/// The length at which a response is sent, and the next one begun. A resource is never cut.
const RESPONSE: usize = 32 << 10;

/// How long a node may keep others from beginning.
const TURN: Duration = Duration::from_secs(30);

/// The most characters of a node's reason that are kept.
const LONGEST_REASON: usize = 500;

/// Sends a node what it needs until either end goes away.
pub(crate) async fn follow(
    requests: Streaming<DeltaRequest>,
    out: mpsc::Sender<Result<Bytes, Status>>,
    peer: Peer,
    relay: Relay,
) {
    let Ok(turn) = relay.syncing.clone().acquire_owned().await else { return };
    let mut requests = requests;
    // Whoever says nothing must not keep others from beginning.
    let first = match timeout(TURN, requests.message()).await {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None) | Err(_)) | Err(_) => return,
    };
    let node = match identify(&first, &peer) {
        Ok(node) => node,
        Err(status) => {
            relay.stats.turn_away();
            info!(?peer, "refused: {}", status.message());
            let _ = out.send(Err(status)).await;
            return;
        }
    };
    relay.stats.began();
    debug!(%node, "a node follows");
    let floor = floor(&first);
    let mut stream = Stream {
        floor,
        owes: false,
        told: None,
        state: relay.state.subscribe(),
        topics: Default::default(),
        batch: None,
        awaited: None,
        answered: 0,
        sent: 0,
        turn: Some(turn),
        turn_ends: Instant::now() + TURN,
        node,
        relay,
    };
    let outcome = match stream.take(first) {
        Ok(()) => stream.run(requests, &out).await,
        Err(status) => Err(status),
    };
    if let Err(status) = outcome {
        warn!(node = %stream.node, "refused: {}", status.message());
        let _ = out.send(Err(status)).await;
    }
    stream.relay.stats.ended(&stream.node);
    debug!(node = %stream.node, "a node has gone");
}

/// Returns the node that asks, if it is the one that the connection belongs to.
fn identify(first: &DeltaRequest, peer: &Peer) -> Result<NodeName, Status> {
    let id = first.node.as_ref().map_or("", |node| node.id.as_str());
    let is_name = id.bytes().all(|it| it.is_ascii_graphic() && it != b'/');
    if id.is_empty() || !is_name {
        return Err(Status::invalid_argument("node.id of the first request is not a name"));
    }
    match peer {
        Peer::Node(node) if node.as_str() != id => {
            let message = format!("node.id is {id}, and the certificate that of {node}");
            Err(Status::permission_denied(message))
        }
        Peer::Node(_) | Peer::Anybody => Ok(NodeName::from(id)),
    }
}

/// Returns how much of the API server's changes the node has: nothing older may be sent.
fn floor(first: &DeltaRequest) -> Position {
    let text = first.node.as_ref().and_then(|node| node.text(POSITION));
    text.and_then(Standing::parse).unwrap_or_default().position
}

struct Stream {
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
    /// Held until the first state is sent.
    turn: Option<OwnedSemaphorePermit>,
    turn_ends: Instant,
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
    async fn run(
        &mut self,
        mut requests: Streaming<DeltaRequest>,
        out: &mpsc::Sender<Result<Bytes, Status>>,
    ) -> Result<(), Status> {
        loop {
            if self.batch.is_none() && self.awaited.is_none() {
                self.batch = self.next_batch();
            }
            let turn_ends = self.turn.as_ref().map(|_| self.turn_ends);
            let turn_over = async move {
                match turn_ends {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => self.take(request)?,
                    // The node has gone, or what it sends cannot be read.
                    Ok(None) => return Ok(()),
                    Err(status) if status.code() == tonic::Code::InvalidArgument => {
                        return Err(status);
                    }
                    Err(_) => return Ok(()),
                },
                () = turn_over => self.turn = None,
                permit = out.reserve(), if self.batch.is_some() => match permit {
                    Ok(permit) => {
                        if let Some(response) = self.next_response() {
                            permit.send(Ok(response));
                        }
                    }
                    Err(_) => return Ok(()),
                },
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
                let reason = request.error.map(|error| printable(&error.message));
                self.relay.stats.told(&self.node, "kernel", reason);
            }
            return Ok(());
        }
        let nonce =
            request.nonce.parse().ok().filter(|it| (self.answered + 1..=self.sent).contains(it));
        let Some(nonce) = nonce else {
            return Err(Status::invalid_argument("an answer to a response that was not sent"));
        };
        self.answered = nonce;
        if let Some(error) = request.error {
            let reason = printable(&error.message);
            warn!(node = %self.node, "a node refuses resources: {reason}");
            self.relay.stats.told(&self.node, &topic.to_string(), Some(reason));
        } else {
            self.relay.stats.told(&self.node, &topic.to_string(), None);
        }
        if self.awaited.is_some_and(|awaited| nonce >= awaited) {
            self.awaited = None;
        }
        Ok(())
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
        while let Some(news) = batch.news.next_if(|news| news.topic == topic) {
            match &news.offer {
                Some(offer) => response.add(offer),
                None => response.remove(&news.name),
            }
            if response.length() >= RESPONSE {
                break;
            }
        }
        let is_last = batch.news.peek().is_none();
        let standing = (is_last && batch.is_whole).then(|| batch.published.standing.to_string());
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

/// Shortens what a node says, and replaces its control characters.
fn printable(text: &str) -> String {
    let is_control = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(is_control).take(LONGEST_REASON).collect()
}
