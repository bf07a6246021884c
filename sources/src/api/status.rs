//! The status of the source, which can be read at any time.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::fault::{ErrorKind, Fault};
use super::resource::Resource;

/// Counters of a running source. Each is read on its own, so together they are no snapshot of one
/// moment.
#[derive(Debug)]
pub struct ApiStatus {
    start: Instant,
    /// Milliseconds from `start` to the last bytes from the server, plus one; zero means never.
    heard: AtomicU64,
    /// One bit for each resource that is being watched.
    watched: AtomicU8,
    received: AtomicU64,
    events: AtomicU64,
    lists: AtomicU64,
    errors: [AtomicU64; ErrorKind::ALL.len()],
    last_error: Mutex<Option<Failure>>,
}

/// A failed request.
#[derive(Debug)]
struct Failure {
    resource: Resource,
    time: Timestamp,
    what: Arc<str>,
}

impl Default for ApiStatus {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            heard: AtomicU64::default(),
            watched: AtomicU8::default(),
            received: AtomicU64::default(),
            events: AtomicU64::default(),
            lists: AtomicU64::default(),
            errors: Default::default(),
            last_error: Mutex::default(),
        }
    }
}

impl ApiStatus {
    /// Returns whether Services and EndpointSlices are both being watched.
    pub fn is_connected(&self) -> bool {
        Resource::ALL.into_iter().filter(|it| it.is_required()).all(|it| self.is_watched(it))
    }

    /// Returns the resources, as metrics name them, and whether each is being watched.
    pub fn watches(&self) -> impl Iterator<Item = (&'static str, bool)> {
        Resource::ALL.into_iter().map(|it| (it.stated().1, self.is_watched(it)))
    }

    fn is_watched(&self, resource: Resource) -> bool {
        self.watched.load(Relaxed) & resource.bit() != 0
    }

    /// Returns for how long nothing has come from the server; `None` if nothing has ever come.
    pub fn silence(&self) -> Option<Duration> {
        let heard = self.heard.load(Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// Returns the bytes of the server's answers as transferred, before decompression.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Returns the number of watch events, including bookmarks.
    pub fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// Returns the number of complete lists, including the first ones.
    pub fn lists(&self) -> u64 {
        self.lists.load(Relaxed)
    }

    /// Returns the number of failures of a kind.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.errors.get(kind as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// Returns the last failure that matters most, and its time, also if the server has answered
    /// since.
    pub fn last_error(&self) -> Option<(Timestamp, Arc<str>)> {
        let last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|it| (it.time, Arc::clone(&it.what)))
    }

    /// Notes what has failed. As long as a required resource is not watched, its failure is the one to
    /// know: that of an optional one does not take its place.
    pub(super) fn fail(&self, resource: Resource, fault: &Fault) {
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        let lasts = |it: &Failure| it.resource.is_required() && !self.is_watched(it.resource);
        if resource.is_required() || !last.as_ref().is_some_and(lasts) {
            let what = format!("{resource}: {fault}").into();
            *last = Some(Failure { resource, time: Timestamp::now(), what });
        }
    }

    /// Notes that bytes came from the server.
    pub(super) fn hear(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.fetch_max(millis + 1, Relaxed);
    }

    pub(super) fn receive(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn count_event(&self) {
        self.events.fetch_add(1, Relaxed);
    }

    pub(super) fn count_list(&self) {
        self.lists.fetch_add(1, Relaxed);
    }

    pub(super) fn count_error(&self, kind: ErrorKind) {
        if let Some(count) = self.errors.get(kind as usize) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Notes whether a resource is being watched.
    pub(super) fn watch(&self, resource: Resource, watched: bool) {
        if watched {
            self.watched.fetch_or(resource.bit(), Relaxed);
        } else {
            self.watched.fetch_and(!resource.bit(), Relaxed);
        }
    }
}
