//! What a change means for a flow.

use rulec_compiler::oracle::Verdict;
use rulec_sinks::conntrack::Live;
use serde::Serialize;

/// What becomes of a flow, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Outlook {
    /// It is deleted, and its next packets are refused.
    Refused,
    /// It is deleted, and its next packets are dropped.
    Dropped,
    /// It is deleted, and its next packets are not translated any more.
    Untranslated,
    /// It is deleted, and its next packet goes to another backend.
    Moves,
    /// It goes on to an endpoint that gets no new flows, as long as the endpoint lives.
    Lingers,
    /// It was not translated. It is deleted, and its next packet goes to a backend.
    Served,
    /// It goes on as it is.
    Stays,
}

/// The same in fewer classes, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Class {
    Breaks,
    Moves,
    Lingers,
    Served,
    Stays,
}

impl Outlook {
    /// Returns what it means that a flow is deleted, if the verdict on its next packet is this.
    pub(super) fn of(live: &Live, next: Verdict) -> Self {
        match (next, live.flow.is_translated()) {
            (Verdict::Backend(_), true) => Self::Moves,
            (Verdict::Backend(_), false) => Self::Served,
            (Verdict::Reject, _) => Self::Refused,
            (Verdict::Drop, _) => Self::Dropped,
            (Verdict::Pass, true) => Self::Untranslated,
            // The next packet makes the same flow again.
            (Verdict::Pass, false) => Self::Stays,
        }
    }

    pub(super) fn class(self) -> Class {
        match self {
            Self::Refused | Self::Dropped | Self::Untranslated => Class::Breaks,
            Self::Moves => Class::Moves,
            Self::Lingers => Class::Lingers,
            Self::Served => Class::Served,
            Self::Stays => Class::Stays,
        }
    }

    /// Returns why a flow breaks, as programs read it.
    pub(super) fn next(self) -> Option<&'static str> {
        match self {
            Self::Refused => Some("refused"),
            Self::Dropped => Some("dropped"),
            Self::Untranslated => Some("untranslated"),
            Self::Moves | Self::Lingers | Self::Served | Self::Stays => None,
        }
    }

    /// Returns it for people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Refused => "deleted, and the next packet is refused",
            Self::Dropped => "deleted, and the next packet is dropped",
            Self::Untranslated => "deleted, and the next packet is not translated any more",
            Self::Moves => "deleted, and the next packet goes to another backend",
            Self::Lingers => "stays until its end, though the backend is no longer used",
            Self::Served => "deleted, and the next packet goes to a backend",
            Self::Stays => "stays",
        }
    }
}
