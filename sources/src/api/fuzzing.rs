//! Answers of an API server as bytes.

use super::record::Saved;
use super::resource::Resource;
use super::wire::{Heard, Item, ListReader, event};
use crate::decode::decode_known;
use crate::decode::document::Document;
use crate::decode::intern::Interner;

/// Version and kind of what is followed.
const FOLLOWED: [(&str, &str); 5] = [
    ("v1", "Service"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("v1", "Node"),
    ("v1", "Pod"),
    ("networking.k8s.io/v1", "ServiceCIDR"),
];

/// Reads a list at once, and in pieces whose length is the first byte: the outcome is the same.
pub fn api_list(bytes: &[u8]) {
    let Some((piece, text)) = bytes.split_first() else { return };
    let (items, end) = list(std::iter::once(text));
    let (others, other_end) = list(text.chunks(usize::from(*piece) + 1));
    assert_eq!((items.len(), end), (others.len(), other_end), "the pieces matter");
    for (one, other) in items.iter().zip(&others) {
        assert_eq!(one.is_ok(), other.is_ok(), "the pieces matter");
    }
    items.into_iter().flatten().for_each(|document| object(&document));
}

/// Reads an event of a watch.
pub fn api_event(bytes: &[u8]) {
    match event(bytes) {
        Ok(Heard::Apply(document, version) | Heard::Delete(document, version)) => {
            assert!(!version.is_empty());
            object(&document);
        }
        Ok(Heard::Bookmark { .. }) => {}
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
}

/// Reads the state of the last run.
pub(crate) fn saved(bytes: &[u8]) {
    if let Some(mut saved) = crate::state::decode::<Saved>(bytes) {
        let _ = saved.take(Resource::Services);
    }
}

type End = Option<(String, Option<String>)>;

fn list<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Item>, End) {
    let (mut reader, mut items) = (ListReader::default(), Vec::new());
    for piece in pieces {
        if reader.read(piece, &mut items).is_err() {
            return (items, None);
        }
    }
    (items, reader.finish().ok())
}

fn object(document: &Document) {
    let mut interner = Interner::default();
    for stated in FOLLOWED {
        let found = decode_known(&"fuzz".into(), document, stated, &mut interner);
        let is_lacking = found.nameless || !found.broken.is_empty();
        assert!(!is_lacking || !found.problems.is_empty(), "something is left out in silence");
    }
}
