//! Follows the stream of Pods of the kubelet's pods API.

use std::path::Path;

use bytes::Bytes;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::KubeletTiming;
use super::fault::Fault;
use super::grpc::{Call, Channel, UNIMPLEMENTED};
use crate::pods::pod::Raw;
use crate::pods::{Event, EventType, Gone, WatchPodsEvent, say};

/// The versions of the API, newest first. All that are known have the same messages.
pub(super) const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

/// Follows the stream until it breaks.
///
/// # Errors
///
/// The reason, always. [`Gone`] if nobody listens any more.
pub(super) async fn follow(
    path: &Path,
    timing: &KubeletTiming,
    out: &mpsc::Sender<Event>,
) -> Result<Fault, Gone> {
    let opening = timeout(timing.answer, open(path)).await;
    let (mut channel, mut call) = match opening {
        Ok(Ok(opened)) => opened,
        Ok(Err(fault)) => return Ok(fault),
        Err(_) => return Ok(Fault::Silence(timing.answer)),
    };
    say(out, Event::Listing).await?;
    let mut is_listed = false;
    loop {
        let message = if is_listed {
            match quiet(&mut channel, &mut call, timing).await {
                Ok(message) => message,
                Err(fault) => return Ok(fault),
            }
        } else {
            match timeout(timing.answer, call.next()).await {
                Ok(Ok(message)) => message,
                Ok(Err(fault)) => return Ok(fault),
                Err(_) => return Ok(Fault::Silence(timing.answer)),
            }
        };
        let event = match event(message) {
            Ok(Some(event)) => event,
            Ok(None) => continue,
            Err(fault) => return Ok(fault),
        };
        is_listed |= matches!(event, Event::Listed);
        say(out, event).await?;
    }
}

/// Asks for the stream in the newest version that the kubelet has.
async fn open(path: &Path) -> Result<(Channel, Call), Fault> {
    let mut channel = Channel::open(path).await?;
    for version in VERSIONS {
        match channel.call(&format!("{version}.Pods/WatchPods")).await {
            Err(Fault::Status { code: UNIMPLEMENTED, .. }) => {}
            Ok(call) => return Ok((channel, call)),
            Err(fault) => return Err(fault),
        }
    }
    Err(Fault::Unimplemented(&VERSIONS))
}

/// Waits for a message, however long that takes. A kubelet that is silent is asked now and then
/// whether it is still there.
async fn quiet(
    channel: &mut Channel,
    call: &mut Call,
    timing: &KubeletTiming,
) -> Result<Bytes, Fault> {
    loop {
        match timeout(timing.ping, call.next()).await {
            Ok(message) => return message,
            Err(_) => channel.ping(timing.answer).await?,
        }
    }
}

/// Returns what a message says; nothing if it is of a type that only a later version knows.
pub(super) fn event(message: Bytes) -> Result<Option<Event>, Fault> {
    let WatchPodsEvent { r#type, pod } = WatchPodsEvent::decode(message)?;
    let pod = Raw::Protobuf(pod);
    match EventType::try_from(r#type) {
        Ok(EventType::Added | EventType::Modified) => Ok(Some(Event::Pod(pod))),
        Ok(EventType::Deleted) => Ok(Some(Event::Deleted(pod))),
        Ok(EventType::InitialSyncComplete) => Ok(Some(Event::Listed)),
        // Every message of the kubelet has a type.
        Ok(EventType::Unspecified) => Err(Fault::Untyped),
        Err(_) => {
            debug!(r#type, "skipped: an event of an unknown type");
            Ok(None)
        }
    }
}
