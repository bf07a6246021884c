//! How the source fares, for whoever wants to know at any time.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::resource::Resource;

/// What can go wrong with the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The kubeconfig, the files it names or those of the service account cannot be used.
    Config,
    /// No connection, a refused handshake, or a connection that broke.
    Connection,
    /// The server said nothing for too long.
    Silence,
    /// 401: the credentials are not accepted.
    Unauthorized,
    /// 403: the credentials do not permit it.
    Forbidden,
    /// 410: the server no longer knows what changed since; everything is listed anew.
    Expired,
    /// 429: the server has too much to do.
    Throttled,
    /// Another status than success.
    Status,
    /// An answer that is not what the protocol says.
    Garbled,
}

impl ErrorKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Config,
        Self::Connection,
        Self::Silence,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Expired,
        Self::Throttled,
        Self::Status,
        Self::Garbled,
    ];

    /// One word for it, as a metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Connection => "connection",
            Self::Silence => "silence",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Expired => "expired",
            Self::Throttled => "throttled",
            Self::Status => "status",
            Self::Garbled => "garbled",
        }
    }
}

/// Counters of a running source. They say nothing exact about one moment together: each is read on
/// its own.
#[derive(Debug)]
pub struct ApiStatus {
    start: Instant,
    /// Milliseconds from `start` to when the server was last heard of, plus one; zero is never.
    heard: AtomicU64,
    /// One bit for each resource that is being watched.
    watched: AtomicU8,
    received: AtomicU64,
    events: AtomicU64,
    lists: AtomicU64,
    errors: [AtomicU64; ErrorKind::ALL.len()],
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
        }
    }
}

impl ApiStatus {
    /// Whether Services and EndpointSlices are both being watched.
    pub fn is_connected(&self) -> bool {
        let watched = self.watched.load(Relaxed);
        Resource::ALL.iter().filter(|r| r.is_required()).all(|r| watched & r.bit() != 0)
    }

    /// What is followed, as metrics name it, and whether it is being watched.
    pub fn watches(&self) -> impl Iterator<Item = (&'static str, bool)> {
        let watched = self.watched.load(Relaxed);
        Resource::ALL.into_iter().map(move |it| (it.stated().1, watched & it.bit() != 0))
    }

    /// For how long nothing at all has come from the server; nothing if nothing ever has.
    pub fn silence(&self) -> Option<Duration> {
        let heard = self.heard.load(Relaxed).checked_sub(1)?;
        Some(self.start.elapsed().saturating_sub(Duration::from_millis(heard)))
    }

    /// The bytes of the server's answers, as they came: compressed, if they were.
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The number of watch events, bookmarks among them.
    pub fn events(&self) -> u64 {
        self.events.load(Relaxed)
    }

    /// The number of complete lists, the first ones among them.
    pub fn lists(&self) -> u64 {
        self.lists.load(Relaxed)
    }

    /// The number of failures of a kind.
    pub fn errors(&self, kind: ErrorKind) -> u64 {
        self.errors.get(kind as usize).map_or(0, |count| count.load(Relaxed))
    }

    /// Bytes came from the server.
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
