//! Pods as bytes.

use super::Event;
use super::pod::{Raw, read};
use super::saved::Saved;
use crate::decode::intern::Interner;

/// Reads the Pod of an event.
pub(crate) fn event(event: Event) {
    match event {
        Event::Pod(raw) | Event::Deleted(raw) => pod(raw),
        Event::Listing | Event::Listed | Event::Note(_) | Event::Lost(_) => {}
    }
}

/// Reads a Pod.
pub(crate) fn pod(raw: Raw) {
    if let Ok(report) = read(raw, &"fuzz".into(), &mut Interner::default()) {
        assert!(report.pod.is_some() || !report.problems.is_empty(), "left out in silence");
    }
}

/// Reads the state of the last run.
pub(crate) fn saved(bytes: &[u8]) {
    let _ = crate::state::decode::<Saved>(bytes);
}
