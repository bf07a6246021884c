//! Manifests as bytes.

use super::scan::saved::Saved;
use super::text::{self, Format, tree};

use crate::decode::intern::Interner;
use crate::decode::{Decoded, MAX_PROBLEMS};

/// The stack of the threads that read them.
pub const STACK_BYTES: usize = text::STACK_BYTES;

/// Reads a manifest as YAML.
pub fn yaml(bytes: &[u8]) {
    read(bytes, Format::Yaml);
}

/// Reads a manifest as JSON.
pub fn json(bytes: &[u8]) {
    read(bytes, Format::Json);
}

/// Reads a file of the cache of CNI.
pub fn cni_cache(bytes: &[u8]) {
    super::cni::read_record(bytes);
}

/// Reads the state of the last run.
pub(crate) fn saved(bytes: &[u8]) {
    let _ = crate::state::decode::<Saved>(bytes);
}

fn read(bytes: &[u8], format: Format) {
    let mut interner = Interner::default();
    let found = text::decode(&"fuzz".into(), bytes, format, &mut interner);
    let Decoded { objects, broken, nameless, problems, unreadable, .. } = &found;
    let is_lacking = *unreadable || *nameless || !broken.is_empty();
    assert!(!is_lacking || !problems.is_empty(), "something is left out in silence");
    assert!(problems.len() <= MAX_PROBLEMS + 1, "{} problems", problems.len());
    // `rulec check` tells all problems, and keeps each document as a tree.
    let whole = text::read(bytes, format, &mut interner, usize::MAX, |it| tree::read(it.text));
    assert_eq!(whole.decoded.objects.len(), objects.len());
    assert_eq!(whole.roots.len(), objects.len(), "an object without a place");
}
