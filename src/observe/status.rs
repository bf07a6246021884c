//! How the daemon is, for people and their tools: what `rulec status` prints and the socket serves.
//! `diagnosis` makes it.

use std::time::Duration;

use jiff::Timestamp;
use rulec_compiler::Origin;
use serde::{Deserialize, Serialize};

/// The version of everything that the socket serves.
pub const API_VERSION: &str = "rulec.io/v1alpha1";

/// The state of the daemon at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// The time of this state.
    pub(crate) time: Timestamp,
    pub(crate) version: String,
    pub(crate) process: u32,
    pub(crate) started: Timestamp,
    pub(crate) node: String,
    pub(crate) mode: String,
    /// Whether nothing is wrong: `problems` is empty.
    pub(crate) healthy: bool,
    /// What is wrong, the most important first.
    pub(crate) problems: Vec<String>,
    /// What of this node is in the way of connections. This does not affect `healthy`: it is not up to
    /// rulec.
    pub(crate) node_findings: Vec<String>,
    pub(crate) kernel: KernelStatus,
    pub(crate) objects: Objects,
    pub(crate) sources: Vec<SourceState>,
}

/// What the kernel holds, compared with what the sources say.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// Whether it holds everything that the sources say.
    pub(crate) in_sync: bool,
    /// Since when it has been behind, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) behind_since: Option<Timestamp>,
    /// Changed objects that it has not acknowledged.
    pub(crate) waiting_services: usize,
    pub(crate) waiting_endpoints: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_commit: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_comparison: Option<Timestamp>,
    /// How often its content differed from what it should be, and was repaired.
    pub(crate) repairs: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<LastError>,
    pub(crate) refused: Vec<RefusedService>,
}

/// The last failure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LastError {
    pub(crate) time: Timestamp,
    pub(crate) message: String,
    /// Whether it has not worked since.
    pub(crate) lasts: bool,
}

/// A Service that the kernel has refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedService {
    pub(crate) service: String,
    pub(crate) error: String,
    pub(crate) attempts: u32,
}

/// How many objects count.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Objects {
    pub(crate) services: usize,
    pub(crate) endpoint_slices: usize,
    pub(crate) pods: usize,
    pub(crate) nodes: usize,
}

/// A source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceState {
    pub(crate) source: Origin,
    pub(crate) state: Condition,
    /// Since when it has been so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<Timestamp>,
    /// When the source was last heard from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_heard: Option<Timestamp>,
    /// The time of the state of an earlier run that stands in for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) as_of: Option<Timestamp>,
    pub(crate) services: usize,
    pub(crate) objects: usize,
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
    /// The first of them.
    pub(crate) problems: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<LastError>,
}

/// Whether a source can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Condition {
    /// It is followed.
    InSync,
    /// It has not delivered its first complete lists.
    Waiting,
    /// It is away; what it delivered stays.
    Unavailable,
    /// It has not answered yet; its state of an earlier run stands in for it.
    Stale,
    /// It was read once: there is no daemon that follows it.
    Read,
}

impl Condition {
    /// Returns it in words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::InSync => "in sync",
            Self::Waiting => "waiting",
            Self::Unavailable => "unavailable",
            Self::Stale => "stale",
            Self::Read => "read",
        }
    }
}

/// Returns a duration as people say it, in the largest unit of which there are two or more.
pub(crate) fn age(of: Duration) -> String {
    let seconds = of.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let of = |seconds| age(Duration::from_secs(seconds));
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(of);
        assert_eq!(ages, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }
}
