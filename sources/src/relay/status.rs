//! The status of the source, which can be read at any time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use prost::Message;
use rulec_relay::discovery::DeltaResponse;

/// Counters of a running source. Each is read on its own, so together they are no snapshot of one
/// moment.
#[derive(Debug)]
pub struct RelayStatus {
    url: String,
    start: Instant,
    /// Milliseconds from `start` to the last response, plus one; zero means never.
    heard: AtomicU64,
    connected: AtomicBool,
    replaced: AtomicBool,
    connections: AtomicU64,
    received: AtomicU64,
    resources: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
    last_error: Mutex<Option<(Timestamp, Arc<str>)>>,
}

impl RelayStatus {
    pub(super) fn new(url: String) -> Self {
        Self {
            url,
            start: Instant::now(),
            heard: AtomicU64::default(),
            connected: AtomicBool::default(),
            replaced: AtomicBool::default(),
            connections: AtomicU64::default(),
            received: AtomicU64::default(),
            resources: AtomicU64::default(),
            refused: AtomicU64::default(),
            errors: AtomicU64::default(),
            last_error: Mutex::default(),
        }
    }

    /// Returns the address of the relay.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns whether the relay is being followed, has sent everything once, and hears the API server.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Returns whether the API server has taken its place.
    pub fn is_replaced(&self) -> bool {
        self.replaced.load(Relaxed)
    }

    /// Returns for how long no response has come; `None` if none has ever come.
    pub fn silence(&self) -> Option<Duration> {
        let heard = self.heard.load(Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// Returns the number of connections that were made.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// Returns the bytes of the responses.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// Returns the number of resources received, and of those that were said to be gone.
    pub fn resources(&self) -> u64 {
        self.resources.load(Relaxed)
    }

    /// Returns the number of resources that could not be used.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// Returns the number of failures.
    pub fn errors(&self) -> u64 {
        self.errors.load(Relaxed)
    }

    /// Returns the last failure and its time.
    pub fn last_error(&self) -> Option<(Timestamp, Arc<str>)> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn opened(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(super) fn connect(&self, is_connected: bool) {
        self.connected.store(is_connected, Relaxed);
    }

    pub(super) fn replace(&self, is_replaced: bool) {
        self.replaced.store(is_replaced, Relaxed);
    }

    pub(super) fn hear(&self, response: &DeltaResponse) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.heard.fetch_max(millis + 1, Relaxed);
        self.received.fetch_add(response.encoded_len() as u64, Relaxed);
        let count = response.resources.len() + response.removed.len();
        self.resources.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn refuse(&self, count: usize) {
        self.refused.fetch_add(count as u64, Relaxed);
    }

    pub(super) fn fail(&self, reason: &str) {
        self.errors.fetch_add(1, Relaxed);
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some((Timestamp::now(), reason.into()));
    }
}
