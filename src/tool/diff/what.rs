//! The kinds of changes.

use serde::Serialize;

/// The kind of a change of a frontend or a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum What {
    /// The frontend is newly served.
    FrontendAdded,
    /// The frontend is new and has no endpoints: connections are rejected.
    FrontendUnserved,
    /// The frontend is new, or had no endpoints, and has some now, but none on this node, and its
    /// policy allows no others: connections are dropped silently.
    FrontendUnservedHere,
    /// The Service asks for a frontend that another one has, and did not before.
    FrontendRefused,
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
    /// Clients may connect that could not.
    FrontendOpened,
    /// Clients may not connect any more, and no others may.
    FrontendRestricted,
    /// Clients are handled differently: session affinity, traffic policy or load balancing.
    FrontendAltered,
    /// The backend is newly used.
    BackendAdded,
    /// The backend is no longer used.
    BackendRemoved,
    /// A field of the Service has another value, which no other change names.
    FieldChanged,
    /// The Service is new, and served at no frontend.
    ServiceAdded,
    /// The Service is gone, and was served at no frontend.
    ServiceRemoved,
    /// Only the representation in the kernel changes: a repair, or moved slots.
    Repaired,
}

impl What {
    /// Returns whether connections may fail that did not, or reach what they should not.
    pub(super) fn is_dangerous(self) -> bool {
        match self {
            Self::FrontendRefused
            | Self::FrontendRemoved
            | Self::FrontendMoved
            | Self::FrontendRejected
            | Self::FrontendDropped
            | Self::FrontendOpened => true,
            Self::FrontendAdded
            | Self::FrontendUnserved
            | Self::FrontendUnservedHere
            | Self::FrontendServed
            | Self::FrontendRestricted
            | Self::FrontendAltered
            | Self::BackendAdded
            | Self::BackendRemoved
            | Self::FieldChanged
            | Self::ServiceAdded
            | Self::ServiceRemoved
            | Self::Repaired => false,
        }
    }

    /// Returns whether it says which frontends a Service asks for.
    pub(super) fn is_of_claims(self) -> bool {
        match self {
            Self::FrontendAdded
            | Self::FrontendRefused
            | Self::FrontendRemoved
            | Self::FrontendMoved => true,
            Self::FrontendUnserved
            | Self::FrontendUnservedHere
            | Self::FrontendServed
            | Self::FrontendRejected
            | Self::FrontendDropped
            | Self::FrontendOpened
            | Self::FrontendRestricted
            | Self::FrontendAltered
            | Self::BackendAdded
            | Self::BackendRemoved
            | Self::FieldChanged
            | Self::ServiceAdded
            | Self::ServiceRemoved
            | Self::Repaired => false,
        }
    }

    /// Returns whether it follows from endpoints that come or go.
    pub(super) fn is_of_endpoints(self) -> bool {
        match self {
            Self::FrontendUnserved
            | Self::FrontendUnservedHere
            | Self::FrontendServed
            | Self::FrontendRejected
            | Self::FrontendDropped
            | Self::BackendAdded
            | Self::BackendRemoved
            | Self::Repaired => true,
            Self::FrontendAdded
            | Self::FrontendRefused
            | Self::FrontendRemoved
            | Self::FrontendMoved
            | Self::FrontendOpened
            | Self::FrontendRestricted
            | Self::FrontendAltered
            | Self::FieldChanged
            | Self::ServiceAdded
            | Self::ServiceRemoved => false,
        }
    }
}
