//! The kinds of changes.

use serde::Serialize;

/// The kind of a change of a frontend or a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum What {
    /// The frontend is newly served.
    FrontendAdded,
    /// The frontend is no longer served.
    FrontendRemoved,
    /// The frontend moves from one Service to another.
    FrontendMoved,
    /// The frontend had no endpoints and has some now.
    FrontendServed,
    /// The frontend no longer has endpoints: connections are rejected.
    FrontendRejected,
    /// The frontend has endpoints, but none on this node, and its policy allows no others:
    /// connections are dropped silently.
    FrontendDropped,
    /// Clients are handled differently: session affinity, traffic policy, or allowed source ranges.
    FrontendAltered,
    /// The backend is newly used.
    BackendAdded,
    /// The backend is no longer used.
    BackendRemoved,
    /// Only the representation in the kernel changes: a repair, or moved slots.
    Repaired,
}

impl What {
    pub(super) fn sign(self) -> char {
        match self {
            Self::FrontendAdded | Self::BackendAdded => '+',
            Self::FrontendRemoved | Self::BackendRemoved => '-',
            Self::FrontendMoved
            | Self::FrontendServed
            | Self::FrontendRejected
            | Self::FrontendDropped
            | Self::FrontendAltered
            | Self::Repaired => '~',
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::FrontendAdded | Self::FrontendRemoved => "frontend",
            Self::FrontendMoved => "frontend moves to another Service",
            Self::FrontendServed => "frontend has endpoints now",
            Self::FrontendRejected => {
                "frontend has no endpoints any more, connections are rejected"
            }
            Self::FrontendDropped => {
                "frontend has no endpoint on this node any more, connections are dropped"
            }
            Self::FrontendAltered => "frontend is handled differently",
            Self::BackendAdded | Self::BackendRemoved => "backend",
            Self::Repaired => "elements",
        }
    }
}
