//! How a call begins and ends: who asks, and whether it is that node's turn.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use rulec_compiler::name::NodeName;
use rulec_relay::discovery::DeltaRequest;
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::{debug, info, warn};

use crate::Relay;
use crate::grpc::{Out, Requests};
use crate::intake::{Allowance, Intake};
use crate::peer::Peer;
use crate::stream::{Stream, Turn};

/// How long a node may take to read why its stream ends.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);

/// Sends a node what it needs until either end goes away. Then the connection has to end.
pub(crate) async fn attend(body: Incoming, out: Out, peer: Peer, relay: Relay, over: Arc<Notify>) {
    if let Err(status) = begin(body, &out, &peer, &relay).await {
        if status.code() == Code::DeadlineExceeded {
            relay.stats.wait_in_vain();
        }
        // A node that reads nothing must not keep its stream.
        let _ = timeout(FAREWELL, out.send(Err(status))).await;
    }
    drop(out);
    over.notify_one();
}

async fn begin(body: Incoming, out: &Out, peer: &Peer, relay: &Relay) -> Result<(), Status> {
    let bounds = relay.bounds;
    let mut body = body;
    // Whoever says nothing must not keep others from beginning, so the turn comes after the first
    // bytes; and the memory for the rest comes after the turn.
    let first = match timeout(bounds.request, body.frame()).await {
        Ok(Some(Ok(first))) => first,
        Ok(Some(Err(_)) | None) => return Ok(()),
        Err(_) => return Err(Status::deadline_exceeded("no request has come in time")),
    };
    let turn = tokio::select! {
        turn = relay.beginners.clone().acquire_owned() => turn,
        () = out.closed() => return Ok(()),
    };
    let Ok(permit) = turn else { return Ok(()) };
    let longest = relay.state.borrow().as_ref().map_or(0, |it| it.longest_request());
    let allowance = Allowance::new(longest);
    let turn = Turn::new(permit, allowance.clone(), bounds.turn);
    let intake = Intake::new(first, body, allowance);
    let mut requests = Requests::new(Body::new(intake), longest);
    let first = match timeout(bounds.turn, requests.message()).await {
        Ok(Ok(Some(first))) => first,
        Ok(Ok(None)) => return Ok(()),
        Ok(Err(status)) => return Err(status),
        Err(_) => return Err(Status::deadline_exceeded("the first request has not come in time")),
    };
    let node = identify(&first, peer).inspect_err(|status| {
        relay.stats.turn_away();
        info!(?peer, "refused: {}", status.message());
    })?;
    let (seat, is_replacing) = relay.seats.take(&node);
    if is_replacing {
        relay.stats.replace();
        debug!(%node, "a newer stream of the node takes the place of the last one");
    }
    relay.stats.began(&node);
    debug!(%node, "a node follows");
    let mut stream = Stream::new(relay.clone(), node.clone(), turn);
    let outcome = tokio::select! {
        biased;
        () = seat.taken() => {
            Err(Status::aborted("a newer stream of this node has taken its place"))
        }
        outcome = stream.run(first, requests, out) => outcome,
    };
    relay.stats.ended(&node, !seat.is_held());
    if let Err(status) = &outcome
        && status.code() != Code::Aborted
    {
        warn!(%node, "refused: {}", status.message());
    }
    debug!(%node, "a node has gone");
    outcome
}

/// Returns the node that asks, if it is the one that the connection belongs to.
fn identify(first: &DeltaRequest, peer: &Peer) -> Result<NodeName, Status> {
    let id = first.node.as_ref().map_or("", |node| node.id.as_str());
    let is_name = id.bytes().all(|it| it.is_ascii_graphic() && it != b'/');
    if id.is_empty() || !is_name {
        return Err(Status::invalid_argument("node.id of the first request is not a name"));
    }
    match peer {
        Peer::Node(node, proof) if node.as_str() != id => {
            let message = format!("node.id is {id}, and the {proof} that of {node}");
            Err(Status::permission_denied(message))
        }
        Peer::Node(..) | Peer::Anybody => Ok(NodeName::from(id)),
        Peer::Stranger => Err(Status::unauthenticated("nothing shows which node this is")),
    }
}
