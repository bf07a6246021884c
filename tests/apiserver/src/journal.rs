//! A record of the requests of clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::resource::{Resource, Verb};

/// A request that arrived, however it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The verb.
    pub verb: Verb,
    /// The kind; `None` for `/version` and other paths that are not resources.
    pub resource: Option<Resource>,
    /// The path as sent.
    pub path: String,
    /// The query as sent, without the question mark; empty if there was none.
    pub query: String,
}

/// An Event that a client wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordedEvent {
    /// [`Verb::Create`] or [`Verb::Patch`].
    pub verb: Verb,
    /// The namespace in the path.
    pub namespace: String,
    /// The object, or the content of the patch.
    pub object: Value,
}

#[derive(Debug, Default)]
pub(crate) struct Journal {
    requests: Mutex<Vec<Request>>,
    events: Mutex<Vec<RecordedEvent>>,
    watches: Mutex<BTreeMap<Resource, usize>>,
    packed: Mutex<BTreeMap<Resource, usize>>,
}

impl Journal {
    pub(crate) fn request(&self, request: Request) {
        self.requests.lock().unwrap().push(request);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn event(&self, event: RecordedEvent) {
        self.events.lock().unwrap().push(event);
    }

    pub(crate) fn events(&self) -> Vec<RecordedEvent> {
        self.events.lock().unwrap().clone()
    }

    pub(crate) fn open_watches(&self, resource: Resource) -> usize {
        self.watches.lock().unwrap().get(&resource).copied().unwrap_or(0)
    }

    /// Counts a compressed answer.
    pub(crate) fn pack(&self, resource: Resource) {
        *self.packed.lock().unwrap().entry(resource).or_default() += 1;
    }

    pub(crate) fn packed(&self, resource: Resource) -> usize {
        self.packed.lock().unwrap().get(&resource).copied().unwrap_or(0)
    }

    /// Counts a watch as open for as long as the value lives.
    pub(crate) fn open_watch(self: &Arc<Self>, resource: Resource) -> OpenWatch {
        *self.watches.lock().unwrap().entry(resource).or_default() += 1;
        OpenWatch { journal: Arc::clone(self), resource }
    }
}

#[derive(Debug)]
pub(crate) struct OpenWatch {
    journal: Arc<Journal>,
    resource: Resource,
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        if let Some(open) = self.journal.watches.lock().unwrap().get_mut(&self.resource) {
            *open -= 1;
        }
    }
}
