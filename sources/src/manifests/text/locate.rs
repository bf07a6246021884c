//! The line in which a field is.
//!
//! Positions cost time and memory at every value and are needed for few, so documents are read
//! without them. Only a document with findings is read a second time, into a tree with positions.
//! JSON is read as YAML here, which works for nearly all JSON; if it does not, the first line is
//! reported.

use serde_saphyr::Spanned;

use super::tree::{self, Tree};
use super::yaml::is_idle;
use crate::decode::at::PathStep;
use crate::flaw::Place;

/// The size beyond which a document's problems get its first line only: its tree would take too
/// much memory.
const MAX_TREE_BYTES: usize = 1 << 20;

/// Returns the places of some fields of a document that starts in line `first`. For a field that is
/// missing, the place is that of the object that lacks it.
pub(crate) fn locate<'a>(
    text: &str,
    first: u64,
    paths: impl ExactSizeIterator<Item = &'a [PathStep]>,
) -> Vec<Place> {
    if paths.len() == 0 {
        return Vec::new();
    }
    let tree = (text.len() <= MAX_TREE_BYTES).then(|| tree::read(text)).flatten();
    let start = Place { line: first + first_content(text), column: None };
    paths.map(|path| tree.as_ref().map_or(start, |tree| place(tree, path, first))).collect()
}

fn place(mut tree: &Spanned<Tree>, path: &[PathStep], first: u64) -> Place {
    for step in path {
        match tree.value.below(step) {
            Some(below) => tree = below,
            None => break,
        }
    }
    tree::place(tree, first)
}

/// Counts the lines before the first one that is neither blank, a comment nor a marker.
fn first_content(text: &str) -> u64 {
    let idle = text.lines().take_while(|line| is_idle(line) || line.starts_with('%')).count();
    if idle == text.lines().count() { 0 } else { idle as u64 }
}
