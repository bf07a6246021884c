//! Events of the API (`events.k8s.io/v1`): problems with a Service on this node, for users who look
//! at the Service and not at the node's log.
//!
//! Writing them blocks no caller: notes are queued, and those that do not fit are only in the log.
//! A note that repeats within minutes is counted in its existing Event, as the API recommends.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use rulec_compiler::name::NamespacedName;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::access::Access;
use super::answer::send;
use super::fault::Fault;
use crate::backoff::Backoff;
use crate::error::{chain, printable};

/// How many notes may wait to be written.
const WAITING: usize = 64;

/// How many Events are remembered, so that repeated notes are counted.
const KNOWN: usize = 256;

/// How long repeated notes are added to an Event, as in client-go.
const SERIES: Duration = Duration::from_secs(360);

/// How many attempts are made to write one.
const ATTEMPTS: u32 = 10;

/// The reporting controller in our Events.
const CONTROLLER: &str = "rulec";

/// A problem with a Service on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The Service.
    pub service: NamespacedName,
    /// The reason for programs, such as `FailedToStartServiceHealthcheck`.
    pub reason: &'static str,
    /// The action that was tried, in a word.
    pub action: &'static str,
    /// The message for people, which follows the name of the node.
    pub text: String,
}

/// The queue of notes.
#[derive(Clone, Debug)]
pub struct Notes(mpsc::Sender<Note>);

impl Notes {
    pub(super) fn new() -> (Self, mpsc::Receiver<Note>) {
        let (sender, notes) = mpsc::channel(WAITING);
        (Self(sender), notes)
    }

    /// Queues a note, if there is room.
    pub fn leave(&self, note: Note) {
        if let Err(error) = self.0.try_send(note) {
            debug!(%error, "note dropped, no Event is written");
        }
    }
}

/// An Event that was written.
struct Written {
    name: String,
    count: u32,
    last: Instant,
}

/// Writes notes until all senders are gone.
pub(super) async fn write(access: Rc<Access>, mut notes: mpsc::Receiver<Note>) {
    let mut written: BTreeMap<(NamespacedName, &'static str), Written> = BTreeMap::new();
    while let Some(note) = notes.recv().await {
        written.retain(|_, event| event.last.elapsed() < SERIES);
        let key = (note.service.clone(), note.reason);
        let count = written.get(&key).map_or(1, |event| event.count.saturating_add(1));
        let known = written.get(&key).map(|event| event.name.clone());
        match persist(&access, &note, known.as_deref(), count).await {
            Ok(event) => {
                if known.is_some() || written.len() < KNOWN {
                    written.insert(key, event);
                }
            }
            Err(fault) => {
                written.remove(&key);
                warn!(service = %note.service, reason = note.reason, %fault, "cannot write Event");
            }
        }
    }
}

/// Writes a note, with retries after failures that may pass. Returns its Event.
async fn persist(
    access: &Access,
    note: &Note,
    mut known: Option<&str>,
    mut count: u32,
) -> Result<Written, Fault> {
    let timing = access.options.timing;
    let mut backoff = Backoff::new(timing.first_retry, timing.longest_retry);
    let now = Timestamp::now();
    let mut attempts = 1;
    loop {
        let (client, generation) = access.client().await?;
        let fault = match once(access, &client, note, known, count, now).await {
            Ok(name) => return Ok(Written { name, count, last: Instant::now() }),
            Err(fault) => fault,
        };
        if fault.is_about_access() {
            access.doubt(generation, &fault);
        }
        if fault.code() == Some(404) && known.take().is_some() {
            // The Event has been deleted meanwhile.
            count = 1;
            continue;
        }
        let may_pass = match fault.code() {
            Some(code) => matches!(code, 401 | 429 | 500..),
            None => true,
        };
        if attempts == ATTEMPTS || !may_pass {
            return Err(fault);
        }
        attempts += 1;
        sleep(backoff.wait().max(fault.retry_after().unwrap_or_default())).await;
    }
}

async fn once(
    access: &Access,
    client: &Client,
    note: &Note,
    known: Option<&str>,
    count: u32,
    now: Timestamp,
) -> Result<String, Fault> {
    let namespace = &note.service.namespace;
    let path = Request::new(format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"));
    let (name, request) = match known {
        Some(name) => {
            let series = json!({ "count": count, "lastObservedTime": format!("{now:.6}") });
            let patch = Patch::Merge(json!({ "series": series }));
            (name.to_owned(), path.patch(name, &PatchParams::default(), &patch))
        }
        None => {
            let name = name_of(note, now);
            let event = event(note, &name, access.options.node_name.as_str(), now);
            let text = event.to_string().into_bytes();
            (name, path.create(&PostParams::default(), text))
        }
    };
    let request = request.map_err(|error| Fault::Config(chain(&error)))?;
    let answer = send(access, client, request).await?;
    answer.drain(access.options.timing.answer).await?;
    Ok(name)
}

/// Returns a unique name: that of the Service, shortened if necessary, and the time.
fn name_of(note: &Note, now: Timestamp) -> String {
    let name: String = note.service.name.as_str().chars().take(200).collect();
    format!("{name}.{:x}", now.as_nanosecond())
}

fn event(note: &Note, name: &str, node: &str, now: Timestamp) -> Value {
    let Note { service, reason, action, text } = note;
    let (namespace, service) = (service.namespace.as_str(), service.name.as_str());
    let instance: String = format!("{CONTROLLER}-{node}").chars().take(128).collect();
    json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": { "name": name, "namespace": namespace },
        "eventTime": format!("{now:.6}"),
        "reportingController": CONTROLLER,
        "reportingInstance": instance,
        "action": action,
        "reason": reason,
        "regarding": {
            "apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": service,
        },
        "note": printable(&format!("node {node} {text}")),
        "type": "Warning",
    })
}
