//! What tells of the objects of the API: the API server, or a relay in its place.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rulec_sources::{ApiStatus, RelayStatus};

/// The status of both, as far as they are configured. With a relay, the API server is followed only
/// while that is away.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// The API server.
    pub api: Option<Arc<ApiStatus>>,
    /// The relay.
    pub relay: Option<Arc<RelayStatus>>,
}

impl Followed {
    /// Returns the relay, if it is what is followed now.
    fn relay(&self) -> Option<&RelayStatus> {
        self.relay.as_deref().filter(|relay| !relay.is_replaced())
    }

    /// Returns whether nothing can be heard at the moment.
    pub fn is_away(&self) -> bool {
        match (self.relay(), &self.api) {
            (Some(relay), _) => !relay.is_connected(),
            (None, Some(api)) => !api.is_connected(),
            (None, None) => false,
        }
    }

    /// Returns for how long nothing has been heard; `None` if nothing ever was.
    pub fn silence(&self) -> Option<Duration> {
        match (self.relay(), &self.api) {
            // A connection to a relay that is silent is asked whether it is there.
            (Some(relay), _) if relay.is_connected() => Some(Duration::ZERO),
            (Some(relay), _) => relay.silence(),
            // A quiet cluster still sends bookmarks.
            (None, Some(api)) => api.silence(),
            (None, None) => Some(Duration::ZERO),
        }
    }

    /// Returns what has failed last, and when.
    pub fn last_error(&self) -> Option<(Timestamp, Arc<str>)> {
        match (self.relay(), &self.api) {
            (Some(relay), _) => relay.last_error(),
            (None, Some(api)) => api.last_error(),
            (None, None) => None,
        }
    }
}
