//! A change as a document: what the socket and the file have, and `-o json` prints. docs/watch.md
//! documents it.

use jiff::Timestamp;
use rulec_compiler::Origin;
use serde::{Deserialize, Serialize};

/// The version of the documents of the history.
pub const API_VERSION: &str = "rulec.io/v1alpha1";

/// The kind of a change among them.
pub const KIND: &str = "Change";

/// A change of what the kernel holds, or of objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// The version of the document.
    pub api_version: String,
    /// `Change`
    pub kind: String,
    /// Its number. With a state directory, a restart continues the numbers.
    pub id: u64,
    /// When the kernel acknowledged it.
    pub time: Timestamp,
    /// What happened.
    pub event: Event,
    /// What it has cost.
    pub cost: Cost,
    /// What has changed: the first of many.
    pub causes: Vec<Cause>,
    /// How many causes are not named.
    #[serde(default)]
    pub more_causes: usize,
    /// The Services that have changed: the first of many.
    pub services: Vec<ServiceChange>,
    /// How many are not named.
    #[serde(default)]
    pub more_services: usize,
    /// The Services of which the kernel has refused this change or an earlier one: the first of many.
    #[serde(default)]
    pub refused: Vec<Refused>,
    /// How many are not named.
    #[serde(default)]
    pub more_refused: usize,
    /// The Services that the kernel had refused, and holds now: the first of many.
    #[serde(default)]
    pub accepted: Vec<Accepted>,
    /// How many are not named.
    #[serde(default)]
    pub more_accepted: usize,
    /// The settings of the daemon, when it has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<serde_json::Value>,
}

impl Change {
    /// Returns whether no Service is concerned.
    pub fn concerns_no_service(&self) -> bool {
        let named = self.services.len() + self.refused.len() + self.accepted.len();
        named + self.more_services + self.more_refused + self.more_accepted == 0
    }
}

/// A Service of which the kernel has refused a change. What it had of it before stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What the kernel says.
    pub error: String,
}

/// A Service that the kernel had refused, and holds now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// The daemon has started. What changed while it did not run is not known.
    Started,
    /// Objects have changed.
    Changed,
    /// The kernel was read after a failure, and brought up to date.
    Reconciled,
    /// Somebody else had changed what the kernel holds.
    Repaired,
}

/// What a change has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// From the first update of a source to the acknowledgement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_microseconds: Option<u64>,
    /// The part of it from the begin of the compilation.
    pub commit_microseconds: u64,
    /// Operations in the kernel.
    pub operations: usize,
    /// Transactions that they took.
    pub transactions: usize,
    /// Bytes of netlink messages.
    pub bytes: usize,
}

/// Whether something comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Presence {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It was there before.
    Changed,
}

impl Presence {
    /// Returns what is said behind the name of something that comes or goes.
    pub fn note(self) -> &'static str {
        match self {
            Self::Added => ": added",
            Self::Removed => ": removed",
            Self::Changed => "",
        }
    }
}

/// An object that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cause {
    /// Its kind and name.
    pub object: String,
    /// Whether it comes or goes.
    pub presence: Presence,
    /// The source that has it, or had it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Origin>,
    /// Where it was read from: a file, or what else the source says.
    pub from: String,
    /// The fields that differ, of one that was there before: the first of many.
    pub fields: Vec<FieldChange>,
    /// How many are not named.
    #[serde(default)]
    pub more_fields: usize,
}

/// A field with its values before and after, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldChange {
    /// Its path.
    pub field: String,
    /// Its value before.
    pub from: String,
    /// Its value after.
    pub to: String,
}

/// What has changed of a Service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceChange {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it comes or goes.
    pub presence: Presence,
    /// The causes that concern it, by their object.
    pub causes: Vec<String>,
    /// What has changed: the first of many.
    pub changes: Vec<Told>,
    /// How many are not named.
    #[serde(default)]
    pub more_changes: usize,
}

impl ServiceChange {
    /// Returns the name as people write it.
    pub fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// One change of a Service, in the words of `rulec diff` and with the fields of its JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// `+` comes, `-` goes, `~` changes otherwise.
    pub sign: char,
    /// What it is about.
    pub subject: String,
    /// What it means for connections, unless the sign says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<String>,
    /// Whether connections may fail that did not.
    pub dangerous: bool,
    /// Why.
    pub reason: String,
    /// The other fields of a change in docs/diff-json.md.
    #[serde(flatten)]
    pub fields: serde_json::Map<String, serde_json::Value>,
}

/// The changes that are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangeList<T = Change> {
    /// The version of the document.
    pub api_version: String,
    /// `ChangeList`
    pub kind: String,
    /// The changes, the oldest first.
    pub items: Vec<T>,
    /// How many older ones are left out, because the document would be too large.
    #[serde(default)]
    pub more_items: usize,
}

/// A line of those who follow changes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Line {
    /// A change.
    Change(Box<Change>),
    /// The reader was so slow that changes are no longer kept.
    #[serde(rename_all = "camelCase")]
    Lost {
        /// How many.
        changes: u64,
    },
    /// Nothing has changed for a while.
    #[serde(rename_all = "camelCase")]
    Heartbeat {
        /// The number of the newest change.
        newest: u64,
        /// When the numbers began.
        since: Timestamp,
        /// The time.
        time: Timestamp,
    },
}
