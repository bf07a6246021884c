//! Faults that stay active until they are lifted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use crate::resource::{Resource, Verb};
use crate::status::Status;

/// The requests that a fault affects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    resource: Option<Resource>,
    verb: Option<Verb>,
}

impl Scope {
    /// Every request, including paths that are not resources.
    #[must_use]
    pub fn all() -> Self {
        Self { resource: None, verb: None }
    }

    /// Requests for one kind.
    #[must_use]
    pub fn resource(resource: Resource) -> Self {
        Self { resource: Some(resource), verb: None }
    }

    /// Restricts the scope to requests with the verb.
    #[must_use]
    pub fn verb(self, verb: Verb) -> Self {
        Self { verb: Some(verb), ..self }
    }

    fn covers(self, verb: Verb, resource: Option<Resource>) -> bool {
        self.verb.is_none_or(|own| own == verb)
            && self.resource.is_none_or(|own| resource == Some(own))
    }
}

/// A fault of real servers, or of proxies in front of them.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// The server treats an earlier version as the current one, like a replica that lags: lists go
    /// back in time. If that version is compacted, lists and watches "from now" expire.
    AsOf(u64),
    /// A replica whose cache has seen no later version than this one. What is asked of etcd, without
    /// any version, is the newest all the same.
    Lagging(u64),
    /// The connections of lists and watches break once each has sent this many more bytes of its
    /// body.
    CutAfter {
        /// The bytes of the body, counted for each answer from when the fault began.
        bytes: usize,
        /// How the connection ends.
        how: Cut,
    },
    /// Answers are late by this duration.
    Delay(Duration),
    /// Watches send every change twice.
    Duplicates,
    /// Lists are answered with this body and status 200.
    ListBody(Vec<u8>),
    /// Requests are read and never answered.
    NoAnswer,
    /// The kind does not exist: 404, with a body that is not a `Status`.
    NotServed,
    /// Lists and watches, including open ones, send nothing until this is lifted, and then
    /// continue.
    Stall,
    /// Requests fail.
    Status {
        /// The status code, for example 401, 403, 429, 500 or 503.
        code: u16,
        /// The value of the header `Retry-After`, in seconds.
        retry_after: Option<u32>,
    },
    /// The first thing that each new watch sends.
    WatchBegins(Injection),
}

impl Fault {
    /// A status code without `Retry-After`.
    #[must_use]
    pub fn status(code: u16) -> Self {
        Self::Status { code, retry_after: None }
    }
}

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// FIN, without the last chunk of the body and without a close_notify of TLS.
    Close,
    /// RST.
    Reset,
}

/// Something inserted into a watch.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Injection {
    /// These bytes, unchanged: a line needs its own newline.
    Bytes(Vec<u8>),
    /// The watch ends as after its timeout.
    End,
    /// An ERROR event with a `Status` of this code; the watch then stays open.
    Error(u16),
    /// An event of any type with any object.
    Event {
        /// For example `ADDED`.
        kind: String,
        /// Any JSON value.
        object: Value,
    },
    /// A line that is not JSON.
    InvalidJson,
    /// An ADDED object without `metadata`.
    NoMetadata,
    /// The last event of the watch again; nothing if there was none.
    Repeat,
    /// An event of a type that does not exist.
    UnknownType,
    /// An ADDED object of another kind, a Secret.
    WrongKind,
}

impl Injection {
    /// Returns the bytes to send, if they do not depend on the watch.
    pub(crate) fn bytes(&self, resource: Resource) -> Option<Vec<u8>> {
        let (kind, version) = (resource.kind(), resource.api_version());
        let event = |kind: &str, object: Value| Some(line(kind, &object));
        match self {
            Self::Bytes(bytes) => Some(bytes.clone()),
            Self::End | Self::Repeat => None,
            Self::Error(code) => event("ERROR", Status::of_code(*code).to_json()),
            Self::Event { kind, object } => event(kind, object.clone()),
            Self::InvalidJson => Some(b"{\"type\":\"ADDED\",\"object\":{\"kind\":}\n".to_vec()),
            Self::NoMetadata => event("ADDED", json!({ "kind": kind, "apiVersion": version })),
            Self::UnknownType => event(
                "REPLACED",
                json!({
                    "kind": kind, "apiVersion": version,
                    "metadata": { "namespace": "default", "name": "x", "resourceVersion": "1" },
                }),
            ),
            Self::WrongKind => event(
                "ADDED",
                json!({
                    "kind": "Secret", "apiVersion": "v1",
                    "metadata": { "namespace": "default", "name": "x", "resourceVersion": "1" },
                    "data": { "password": "aHVudGVyMg==" },
                }),
            ),
        }
    }
}

/// Encodes a watch event as it is sent.
pub(crate) fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut bytes = json!({ "type": kind, "object": object }).to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Identifies a fault, so that it can be lifted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

#[derive(Debug)]
struct Active {
    id: FaultId,
    scope: Scope,
    fault: Fault,
    /// How many more times it may strike; `None` is without limit.
    left: Option<u32>,
}

/// An answer in progress, which can be frozen.
#[derive(Debug)]
struct Open {
    verb: Verb,
    resource: Resource,
    frozen: Weak<AtomicBool>,
}

#[derive(Debug, Default)]
struct State {
    active: Vec<Active>,
    open: Vec<Open>,
    last: u64,
}

/// All active faults. Answers in progress are woken when these change.
#[derive(Debug)]
pub(crate) struct Faults {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(()) }
    }

    pub(crate) fn add(&self, scope: Scope, fault: Fault, left: Option<u32>) -> FaultId {
        let id = {
            let mut state = self.state.lock().unwrap();
            state.last += 1;
            let id = FaultId(state.last);
            state.active.push(Active { id, scope, fault, left });
            id
        };
        self.changed.send_replace(());
        id
    }

    pub(crate) fn lift(&self, which: Option<FaultId>) {
        let keep = |fault: &Active| which.is_some_and(|id| id != fault.id);
        self.state.lock().unwrap().active.retain(keep);
        self.changed.send_replace(());
    }

    /// Lifts the faults that were added with exactly this scope and fault.
    pub(crate) fn lift_all_of(&self, scope: Scope, fault: &Fault) {
        let is_it = |active: &Active| active.scope == scope && active.fault == *fault;
        self.state.lock().unwrap().active.retain(|active| !is_it(active));
        self.changed.send_replace(());
    }

    /// Silences the answers in progress for ever, and returns their number.
    pub(crate) fn freeze(&self, scope: Scope) -> usize {
        let mut frozen = 0;
        for open in &self.state.lock().unwrap().open {
            if scope.covers(open.verb, Some(open.resource))
                && let Some(flag) = open.frozen.upgrade()
            {
                flag.store(true, Ordering::Release);
                frozen += 1;
            }
        }
        self.changed.send_replace(());
        frozen
    }

    /// Registers an answer; the returned flag is set when the answer is frozen.
    pub(crate) fn enter(&self, verb: Verb, resource: Resource) -> Arc<AtomicBool> {
        let flag = Arc::new(AtomicBool::new(false));
        let mut state = self.state.lock().unwrap();
        state.open.retain(|open| open.frozen.strong_count() > 0);
        state.open.push(Open { verb, resource, frozen: Arc::downgrade(&flag) });
        flag
    }

    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Finds the oldest fault that `pick` accepts, and counts that it struck.
    pub(crate) fn strike<T>(
        &self,
        verb: Verb,
        resource: Option<Resource>,
        pick: impl Fn(&Fault) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.state.lock().unwrap();
        let (index, picked) = state.active.iter().enumerate().find_map(|(index, active)| {
            active.scope.covers(verb, resource).then(|| Some((index, pick(&active.fault)?)))?
        })?;
        state.count(index);
        Some(picked)
    }

    /// Returns whether an answer must wait.
    pub(crate) fn stalls(&self, verb: Verb, resource: Resource) -> bool {
        let state = self.state.lock().unwrap();
        state
            .active
            .iter()
            .any(|active| active.fault == Fault::Stall && active.scope.covers(verb, Some(resource)))
    }

    /// Returns the cuts that apply to an answer: after how many bytes, and how.
    pub(crate) fn cuts(&self, verb: Verb, resource: Resource) -> Vec<(FaultId, usize, Cut)> {
        let state = self.state.lock().unwrap();
        let concerned =
            state.active.iter().filter(|fault| fault.scope.covers(verb, Some(resource)));
        concerned
            .filter_map(|active| {
                let Fault::CutAfter { bytes, how } = active.fault else { return None };
                Some((active.id, bytes, how))
            })
            .collect()
    }

    /// Counts that a fault struck.
    pub(crate) fn struck(&self, id: FaultId) {
        let mut state = self.state.lock().unwrap();
        if let Some(index) = state.active.iter().position(|active| active.id == id) {
            state.count(index);
        }
    }
}

impl State {
    fn count(&mut self, index: usize) {
        if let Some(left) = &mut self.active[index].left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.active.remove(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(faults: &Faults, verb: Verb, resource: Option<Resource>) -> Option<u16> {
        faults.strike(verb, resource, |fault| {
            if let Fault::Status { code, .. } = fault { Some(*code) } else { None }
        })
    }

    #[test]
    fn a_fault_applies_in_its_scope_a_limited_number_of_times() {
        let faults = Faults::new();
        faults.add(
            Scope::resource(Resource::Services).verb(Verb::List),
            Fault::status(500),
            Some(2),
        );
        assert_eq!(status(&faults, Verb::Watch, Some(Resource::Services)), None);
        assert_eq!(status(&faults, Verb::List, Some(Resource::Nodes)), None);
        assert_eq!(status(&faults, Verb::List, None), None);
        let list = || status(&faults, Verb::List, Some(Resource::Services));
        assert_eq!([list(), list(), list()], [Some(500), Some(500), None]);
    }

    #[test]
    fn lifting_a_fault_keeps_the_others() {
        let faults = Faults::new();
        let first = faults.add(Scope::all(), Fault::status(500), None);
        faults.add(Scope::all(), Fault::status(503), None);
        assert_eq!(status(&faults, Verb::Get, None), Some(500));
        faults.lift(Some(first));
        assert_eq!(status(&faults, Verb::Get, None), Some(503));
        faults.lift(None);
        assert_eq!(status(&faults, Verb::Get, None), None);
    }
}
