//! The texts of the protocol: pages of lists, and events of watches.
//!
//! Objects are taken out as they are written and read one by one, so that one that cannot be read
//! takes no other with it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::refusal_of;
use super::fault::{Fault, printable};
use crate::field::Field;
use crate::manifest::Document;

/// The annotation of the bookmark that ends the list of a streaming list (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// An object, or why it cannot be read.
pub(crate) type Item = Result<Box<Document>, String>;

/// A list, or a page of it.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// What to watch from, after the last page.
    pub(super) version: String,
    /// Where the next page starts; nothing on the last.
    pub(super) continue_token: Option<String>,
}

/// An event of a watch.
#[derive(Debug)]
pub(super) enum Heard {
    /// An object is new or different.
    Apply(Box<Document>, String),
    /// An object is gone.
    Delete(Box<Document>, String),
    /// Everything up to a resource version has been said.
    Bookmark {
        version: String,
        /// Whether it ends the list of a streaming list.
        end: bool,
    },
}

#[derive(Deserialize)]
struct ListText<'a> {
    metadata: ListMetadata<'a>,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata<'a> {
    #[serde(borrow)]
    resource_version: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "continue")]
    continue_token: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct EventText<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct BookmarkText<'a> {
    #[serde(borrow)]
    metadata: BookmarkMetadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMetadata<'a> {
    #[serde(borrow)]
    resource_version: Cow<'a, str>,
    #[serde(borrow)]
    annotations: Option<BTreeMap<Cow<'a, str>, Cow<'a, str>>>,
}

/// Reads a page.
pub(super) fn page(text: &[u8]) -> Result<Page, Fault> {
    let list: ListText<'_> =
        serde_json::from_slice(text).map_err(|error| not_json("a list", &error))?;
    let token = list.metadata.continue_token.filter(|token| !token.is_empty());
    let version = list.metadata.resource_version.unwrap_or_default();
    if version.is_empty() && token.is_none() {
        return Err(Fault::garbled("a list without a resourceVersion"));
    }
    Ok(Page {
        items: list.items.unwrap_or_default().into_iter().map(item).collect(),
        version: version.into_owned(),
        continue_token: token.map(Cow::into_owned),
    })
}

/// Reads an event; one that is an error is returned as one.
pub(super) fn event(line: &[u8]) -> Result<Heard, Fault> {
    let event: EventText<'_> =
        serde_json::from_slice(line).map_err(|error| not_json("an event", &error))?;
    match &*event.kind {
        "ADDED" | "MODIFIED" => {
            versioned(event.object).map(|(d, version)| Heard::Apply(d, version))
        }
        "DELETED" => versioned(event.object).map(|(d, version)| Heard::Delete(d, version)),
        "BOOKMARK" => {
            let bookmark: BookmarkText<'_> = serde_json::from_str(event.object.get())
                .map_err(|error| not_json("a bookmark", &error))?;
            let BookmarkMetadata { resource_version, annotations } = bookmark.metadata;
            if resource_version.is_empty() {
                return Err(Fault::garbled("a bookmark without a resourceVersion"));
            }
            let annotations = annotations.unwrap_or_default();
            let end = annotations.get(INITIAL_EVENTS_END).is_some_and(|value| value == "true");
            Ok(Heard::Bookmark { version: resource_version.into_owned(), end })
        }
        "ERROR" => {
            let status: Status = serde_json::from_str(event.object.get())
                .map_err(|error| not_json("an error", &error))?;
            Err(refusal_of(status))
        }
        other => Err(Fault::garbled(format!("an event of type {:?}", printable(other)))),
    }
}

fn item(raw: &RawValue) -> Item {
    // What a server has checked needs no looking for slips.
    if raw.get().starts_with('{') {
        let read = serde_json::from_str::<Document>(raw.get());
        return read.map(Box::new).map_err(unreadable);
    }
    match serde_json::from_str(raw.get()) {
        Ok(Field::Is(document)) => Ok(document),
        Ok(Field::Absent) => Err("an object that is null".to_owned()),
        Ok(Field::Wrong(found)) => Err(format!("expected an object, found {found}")),
        Err(error) => Err(unreadable(error)),
    }
}

fn unreadable(error: serde_json::Error) -> String {
    format!("an object that cannot be read: {error}")
}

/// An object, and the resource version that the watch has reached with it.
fn versioned(raw: &RawValue) -> Result<(Box<Document>, String), Fault> {
    let document = item(raw).map_err(Fault::Garbled)?;
    let version = match &document.metadata {
        Field::Is(metadata) => match &metadata.resource_version {
            Field::Is(version) if !version.is_empty() => Some(version.to_string()),
            Field::Is(_) | Field::Absent | Field::Wrong(_) => None,
        },
        Field::Absent | Field::Wrong(_) => None,
    };
    let version = version.ok_or_else(|| Fault::garbled("an object without a resourceVersion"))?;
    Ok((document, version))
}

fn not_json(what: &str, error: &serde_json::Error) -> Fault {
    Fault::Garbled(format!("not {what}: {}", printable(&error.to_string())))
}
