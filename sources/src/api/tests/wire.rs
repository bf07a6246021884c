//! Tests of the texts of the protocol.

use serde_json::json;

use super::super::fault::Fault;
use super::super::wire::{Heard, Item, ListReader, event};
use super::{line, service};

fn fault(text: &str) -> String {
    match event(text.as_bytes()) {
        Err(fault) => fault.to_string(),
        Ok(heard) => panic!("{heard:?}"),
    }
}

struct Page {
    items: Vec<Item>,
    version: String,
    continue_token: Option<String>,
}

/// Reads a list that arrives in pieces of this length.
fn pieces(text: &[u8], length: usize) -> Result<Page, Fault> {
    let mut reader = ListReader::default();
    let mut items = Vec::new();
    for piece in text.chunks(length) {
        reader.read(piece, &mut items)?;
    }
    let (version, continue_token) = reader.finish()?;
    Ok(Page { items, version, continue_token })
}

fn page(text: &[u8]) -> Result<Page, Fault> {
    pieces(text, usize::MAX)
}

#[test]
fn a_list_is_read_from_pieces_of_any_size() {
    let mut odd = service("two", 2);
    odd["metadata"]["annotations"] =
        json!({ "a": "}],\"items\":[{", "b\\": "\\", "items": "[,]", "ü": "\u{1F600}\\\"" });
    for spaced in [false, true] {
        let list = json!({
            "kind": "ServiceList", "metadata": { "resourceVersion": "5", "items": [1, 2] },
            "items": [service("one", 1), odd, {}, [[]], "x,]"],
            "more": { "items": [3] }, "zzz": [4, [5]],
        });
        let text = if spaced { format!("{list:#}\n") } else { list.to_string() };
        for length in [1, 2, 3, 7, 100, 4096] {
            let page = pieces(text.as_bytes(), length).unwrap();
            let usable: Vec<bool> = page.items.iter().map(Result::is_ok).collect();
            assert_eq!(usable, [true, true, true, false, false], "{spaced} {length}");
            assert_eq!((&*page.version, page.continue_token), ("5", None));
        }
    }
}

#[test]
fn a_truncated_or_malformed_list_is_refused() {
    let list = json!({ "items": [service("one", 1)], "metadata": { "resourceVersion": "5" } });
    let text = list.to_string();
    for length in 0..text.len() {
        assert!(page(&text.as_bytes()[..length]).is_err(), "{length}");
    }
    for text in [
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":7}",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":{}}",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[],\"items\":[]}",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[{},]}",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[,{}]}",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[{}]}]",
        "[{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[]}]",
        "{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[]",
    ] {
        assert!(page(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn events_are_read_whatever_the_order_of_their_keys() {
    let web = service("web", 12);
    for (kind, gone) in [("ADDED", false), ("MODIFIED", false), ("DELETED", true)] {
        let forth = line(kind, &web);
        let back = format!("{{\"object\":{web},\"type\":\"{kind}\"}}");
        for text in [forth, back] {
            match event(text.as_bytes()).unwrap() {
                Heard::Apply(_, version) if !gone => assert_eq!(version, "12"),
                Heard::Delete(_, version) if gone => assert_eq!(version, "12"),
                other @ (Heard::Apply(..) | Heard::Delete(..) | Heard::Bookmark { .. }) => {
                    panic!("{kind}: {other:?}")
                }
            }
        }
    }
}

#[test]
fn a_bookmark_may_mark_the_end_of_a_list() {
    for (annotations, is_end) in [
        (json!(null), false),
        (json!({}), false),
        (json!({ "k8s.io/initial-events-end": "false" }), false),
        (json!({ "k8s.io/initial-events-end": "true" }), true),
    ] {
        let metadata = json!({ "resourceVersion": "9", "annotations": annotations });
        let object = json!({ "kind": "Service", "apiVersion": "v1", "metadata": metadata });
        let heard = event(line("BOOKMARK", &object).as_bytes()).unwrap();
        let Heard::Bookmark { version, end } = heard else { panic!("{heard:?}") };
        assert_eq!((&*version, end), ("9", is_end));
    }
}

#[test]
fn an_error_event_is_read_as_its_status() {
    let gone = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "too old resource version: 5 (8)", "reason": "Expired", "code": 410 });
    let Err(fault) = event(line("ERROR", &gone).as_bytes()) else { panic!() };
    assert!(fault.is_expired(), "{fault:?}");
    let busy = json!({ "kind": "Status", "code": 429, "message": "later",
        "details": { "retryAfterSeconds": 3 } });
    let Err(fault) = event(line("ERROR", &busy).as_bytes()) else { panic!() };
    assert_eq!(fault.retry_after(), Some(std::time::Duration::from_secs(3)));
}

#[test]
fn malformed_events_are_refused_with_a_reason() {
    for (text, reason) in [
        ("", "not an event"),
        ("\u{1}garbage", "not an event"),
        ("{\"type\":\"ADDED\"}", "missing field `object`"),
        ("{\"type\":\"ADDED\",\"object\":null}", "null"),
        ("{\"type\":\"ADDED\",\"object\":[]}", "expected an object, found a list"),
        ("{\"type\":\"ADDED\",\"object\":{\"kind\":\"Service\"}}", "without a resourceVersion"),
        ("{\"type\":\"MODIFIED\",\"object\":{\"metadata\":{\"resourceVersion\":7}}}", "without a"),
        ("{\"type\":\"BOOKMARK\",\"object\":{\"metadata\":{}}}", "not a bookmark"),
        ("{\"type\":\"ERROR\",\"object\":{\"code\":\"x\"}}", "not an error"),
        ("{\"type\":\"EXPLODED\\n\",\"object\":{}}", "an unknown event type \"EXPLODED \""),
    ] {
        let said = fault(text);
        assert!(said.contains(reason), "{text}: {said}");
    }
}

#[test]
fn a_truncated_event_is_refused() {
    let text = line("ADDED", &service("web", 12));
    for length in 0..text.len() {
        let cut = event(&text.as_bytes()[..length]);
        assert!(matches!(cut, Err(Fault::Garbled(_))), "{length}: {cut:?}");
    }
    assert!(event(text.as_bytes()).is_ok());
}

#[test]
fn an_unreadable_item_does_not_affect_others() {
    let deep = format!("{{\"items\":[{}{}]}}", "{\"items\":[".repeat(200), "]}".repeat(200));
    let text = format!(
        "{{\"kind\":\"ServiceList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"5\"}},\
         \"items\":[{},7,null,{deep},{}]}}",
        service("one", 1),
        service("two", 2),
    );
    let page = page(text.as_bytes()).unwrap();
    let usable: Vec<bool> = page.items.iter().map(Result::is_ok).collect();
    assert_eq!(usable, [true, false, false, false, true]);
    assert_eq!((&*page.version, page.continue_token), ("5", None));
}

#[test]
fn a_list_returns_its_continue_token() {
    let text = |metadata: serde_json::Value| {
        json!({ "kind": "ServiceList", "metadata": metadata, "items": null }).to_string()
    };
    let first =
        page(text(json!({ "resourceVersion": "5", "continue": "abc" })).as_bytes()).unwrap();
    assert_eq!(first.continue_token.as_deref(), Some("abc"));
    let last = page(text(json!({ "resourceVersion": "5", "continue": "" })).as_bytes()).unwrap();
    assert_eq!((last.continue_token, last.items.len()), (None, 0));
    let unversioned = page(text(json!({})).as_bytes()).err().unwrap().to_string();
    assert!(unversioned.contains("without a resourceVersion"), "{unversioned}");
    assert!(matches!(page(b"<html>"), Err(Fault::Garbled(_))));
}
