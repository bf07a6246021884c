//! Parses the texts of the protocol: pages of lists, and events of watches.
//!
//! Objects are cut out of the text and parsed one by one, so that an invalid one does not affect
//! the others.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::refusal_of;
use super::fault::Fault;
use crate::decode::document::Document;
use crate::decode::field::Field;
use crate::error::printable;

/// The annotation of the bookmark that ends the list of a streaming list (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// The longest item, and the longest rest of a list without its items. etcd takes objects of up to
/// 1.5 MiB, so real ones are shorter.
const LONGEST_ITEM: usize = 64 << 20;

/// An object, or why it cannot be read.
pub(crate) type Item = Result<Box<Document>, String>;

/// Reads a list, or a page of it, as it arrives: a list from the server's cache comes as one text,
/// which is a hundred megabytes for a large cluster.
///
/// The items are cut out of the text and parsed one by one; the rest of the text is short, and
/// parsed at the end.
#[derive(Debug, Default)]
pub(super) struct ListReader {
    /// The text without the items.
    frame: Vec<u8>,
    /// The bytes of an item that is not complete yet.
    item: Vec<u8>,
    /// The number of open objects and arrays.
    depth: usize,
    in_text: bool,
    /// Whether the next byte is escaped, so that it belongs to the string whatever it is.
    escaped: bool,
    in_items: bool,
    /// Whether a comma came last between items.
    after_comma: bool,
}

/// An event of a watch.
#[derive(Debug)]
pub(super) enum Heard {
    /// An object is new or different.
    Apply(Box<Document>, String),
    /// An object is gone.
    Delete(Box<Document>, String),
    /// All changes up to a resource version have been sent.
    Bookmark {
        version: String,
        /// Whether it ends the list of a streaming list.
        end: bool,
    },
}

#[derive(Deserialize)]
struct ListText<'a> {
    #[serde(borrow)]
    metadata: ListMetadata<'a>,
    /// The items have been cut out.
    #[serde(default, rename = "items")]
    _items: Option<[(); 0]>,
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

impl ListReader {
    /// Reads bytes, and adds the items that they complete.
    pub(super) fn read(&mut self, text: &[u8], items: &mut Vec<Item>) -> Result<(), Fault> {
        // Up to where the text has been stored.
        let mut from = 0;
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            if self.escaped {
                self.escaped = false;
                at += 1;
                continue;
            }
            if self.in_text {
                let rest = text.get(at..).unwrap_or_default();
                match rest.iter().position(|byte| matches!(byte, b'"' | b'\\')) {
                    Some(offset) => {
                        at += offset;
                        self.escaped = text.get(at) == Some(&b'\\');
                        self.in_text = self.escaped;
                        at += 1;
                    }
                    None => at = text.len(),
                }
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'{' | b'[' => {
                    self.depth += 1;
                    if *byte == b'[' && self.depth == 2 && !self.in_items {
                        self.frame.extend_from_slice(text.get(from..at).unwrap_or_default());
                        from = at;
                        if is_key_of_items(&self.frame) {
                            self.frame.push(b'[');
                            from = at + 1;
                            self.in_items = true;
                        }
                    }
                }
                b'}' | b']' => {
                    if self.in_items && self.depth == 2 {
                        let is_there = self.put(text.get(from..at).unwrap_or_default(), items)?;
                        if !is_there && self.after_comma {
                            return Err(Fault::garbled("not a list: no item after a comma"));
                        }
                        from = at;
                        self.in_items = false;
                        self.after_comma = false;
                    }
                    let Some(depth) = self.depth.checked_sub(1) else {
                        return Err(Fault::garbled("not a list: more brackets closed than opened"));
                    };
                    self.depth = depth;
                }
                b',' if self.in_items && self.depth == 2 => {
                    if !self.put(text.get(from..at).unwrap_or_default(), items)? {
                        return Err(Fault::garbled("not a list: no item before a comma"));
                    }
                    from = at + 1;
                    self.after_comma = true;
                }
                _ => {}
            }
            at += 1;
        }
        let rest = text.get(from..).unwrap_or_default();
        let kept = if self.in_items { &mut self.item } else { &mut self.frame };
        if kept.len() + rest.len() > LONGEST_ITEM {
            return Err(Fault::garbled(format!("longer than {} MiB", LONGEST_ITEM >> 20)));
        }
        kept.extend_from_slice(rest);
        Ok(())
    }

    /// Parses the item that ends with this text, if there is one.
    fn put(&mut self, text: &[u8], items: &mut Vec<Item>) -> Result<bool, Fault> {
        let whole = if self.item.is_empty() {
            text
        } else {
            self.item.extend_from_slice(text);
            &self.item
        };
        let whole = whole.trim_ascii();
        let is_there = !whole.is_empty();
        if is_there {
            let whole = std::str::from_utf8(whole)
                .map_err(|_| Fault::garbled("not a list: it is not UTF-8"))?;
            items.push(item(whole));
        }
        self.item.clear();
        Ok(is_there)
    }

    /// Returns the version to watch from after the last page, and the token of the next page, if
    /// there is one.
    pub(super) fn finish(self) -> Result<(String, Option<String>), Fault> {
        let list: ListText<'_> =
            serde_json::from_slice(&self.frame).map_err(|error| not_json("a list", &error))?;
        let token = list.metadata.continue_token.filter(|token| !token.is_empty());
        let version = list.metadata.resource_version.unwrap_or_default();
        if version.is_empty() && token.is_none() {
            return Err(Fault::garbled("a list without a resourceVersion"));
        }
        Ok((version.into_owned(), token.map(Cow::into_owned)))
    }
}

/// Returns whether a text ends with the key of a list's items.
fn is_key_of_items(text: &[u8]) -> bool {
    let key = text.trim_ascii_end().strip_suffix(b":").map(<[u8]>::trim_ascii_end);
    let before = key.and_then(|key| key.strip_suffix(b"\"items\""));
    before.is_some_and(|before| !before.ends_with(b"\\"))
}

/// Parses an event. An error event is returned as a fault.
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
        other => Err(Fault::garbled(format!("an unknown event type {:?}", printable(other)))),
    }
}

fn item(text: &str) -> Item {
    // The server has validated its objects, so unknown fields are not looked for.
    if text.starts_with('{') {
        return serde_json::from_str::<Document>(text).map(Box::new).map_err(unreadable);
    }
    match serde_json::from_str(text) {
        Ok(Field::Is(document)) => Ok(document),
        Ok(Field::Absent) => Err("an object that is null".to_owned()),
        Ok(Field::Wrong(found)) => Err(format!("expected an object, found {found}")),
        Err(error) => Err(unreadable(error)),
    }
}

fn unreadable(error: serde_json::Error) -> String {
    format!("an object that cannot be read: {error}")
}

/// Parses an object, and the resource version that the watch has reached with it.
fn versioned(raw: &RawValue) -> Result<(Box<Document>, String), Fault> {
    let document = item(raw.get()).map_err(Fault::Garbled)?;
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
