//! A recording as JSON: docs/recording.md.

use jiff::Timestamp;
use rulec_compiler::Origin;
use rulec_compiler::object::Kind;
use rulec_sources::recording::{Entry, Header, LeftOut, RecordedChange, What, Whole, WholeReason};
use serde::Serialize;

use crate::observe::status::API_VERSION;

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    api_version: &'static str,
    kind: &'static str,
    node: String,
    program: String,
    masked: bool,
    sources: Vec<Origin>,
    items: Vec<Item>,
    left_out: Vec<Torn>,
}

/// An entry.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Item {
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Origin>,
    #[serde(skip_serializing_if = "Option::is_none")]
    complete: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unavailable: Option<bool>,
    /// Why there is a whole state.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<usize>,
    changes: Vec<Told>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kinds: Option<Vec<Kind>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<usize>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Torn {
    file: String,
    byte: u64,
    reason: String,
}

impl Document {
    pub(super) fn of(header: &Header, items: Vec<Item>, left_out: &[LeftOut]) -> Self {
        let torn = left_out.iter().map(|LeftOut { path, at, reason }| Torn {
            file: path.display().to_string(),
            byte: *at,
            reason: reason.clone(),
        });
        Self {
            api_version: API_VERSION,
            kind: "Recording",
            node: header.settings.node_name.to_string(),
            program: header.program.clone(),
            masked: header.masked,
            sources: header.sources.clone(),
            items,
            left_out: torn.collect(),
        }
    }
}

impl Item {
    pub(super) fn of(entry: &Entry) -> Self {
        let mut item = Self {
            time: entry.time,
            source: None,
            complete: None,
            unavailable: None,
            state: None,
            lost: None,
            objects: None,
            changes: Vec::new(),
        };
        match &entry.what {
            What::Whole(Whole { reason, sources }) => {
                item.state = Some(match reason {
                    WholeReason::Start => "start",
                    WholeReason::Full => "full",
                    WholeReason::Gap(_) => "gap",
                    WholeReason::Part => "part",
                });
                if let WholeReason::Gap(lost) = reason {
                    item.lost = Some(*lost);
                }
                item.objects = Some(sources.iter().map(|held| held.objects.len()).sum());
            }
            What::Update(recorded) => {
                item.source = Some(recorded.origin);
                item.complete = Some(recorded.said.complete);
                item.unavailable = Some(recorded.said.unavailable);
                item.changes = recorded.changes.iter().map(Told::of).collect();
            }
        }
        item
    }
}

impl Told {
    fn of(change: &RecordedChange) -> Self {
        let told = |action| Self { action, object: None, file: None, kinds: None, objects: None };
        match change {
            RecordedChange::Apply(sourced) => Self {
                object: Some(sourced.object.key().to_string()),
                file: Some(sourced.provenance.to_string()),
                ..told("apply")
            },
            RecordedChange::Remove(key) => Self { object: Some(key.to_string()), ..told("remove") },
            RecordedChange::Replace { kinds, objects } => {
                Self { kinds: Some(kinds.clone()), objects: Some(objects.len()), ..told("list") }
            }
        }
    }
}
