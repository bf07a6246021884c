//! The line in which a field is.
//!
//! Positions cost time and memory at every value and are needed for few, so documents are read
//! without them. Only a document with findings is read a second time, into a tree with positions.
//! JSON is read as YAML here, which works for nearly all JSON; if it does not, the first line is
//! reported.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::yaml::{is_idle, limits};
use crate::decode::at::PathStep;

/// The size beyond which a document's problems get its first line only: its tree would take too
/// much memory.
const MAX_TREE_BYTES: usize = 1 << 20;

/// A place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: u64,
    pub(crate) column: Option<u64>,
}

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
    let tree: Option<Spanned<Tree>> = (text.len() <= MAX_TREE_BYTES)
        .then(|| serde_saphyr::from_str_with_options(text, limits()).ok())
        .flatten();
    let start = Place { line: first + first_content(text), column: None };
    paths.map(|path| tree.as_ref().map_or(start, |tree| place(tree, path, first))).collect()
}

fn place(mut tree: &Spanned<Tree>, path: &[PathStep], first: u64) -> Place {
    for step in path {
        let below = match (&tree.value, step) {
            (Tree::Map(entries), PathStep::Key(key)) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            (Tree::List(elements), PathStep::Index(index)) => elements.get(*index),
            (Tree::Map(_) | Tree::List(_) | Tree::Leaf, _) => None,
        };
        match below {
            Some(below) => tree = below,
            None => break,
        }
    }
    let location = tree.referenced;
    Place {
        line: first + location.line().saturating_sub(1),
        column: (location.column() > 0).then(|| location.column()),
    }
}

/// Counts the lines before the first one that is neither blank, a comment nor a marker.
fn first_content(text: &str) -> u64 {
    let idle = text.lines().take_while(|line| is_idle(line) || line.starts_with('%')).count();
    if idle == text.lines().count() { 0 } else { idle as u64 }
}

/// The shape of a document, to follow the path of a field.
enum Tree {
    Map(Vec<(Box<str>, Spanned<Tree>)>),
    List(Vec<Spanned<Tree>>),
    Leaf,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = list.next_element()? {
            elements.push(element);
        }
        Ok(Tree::List(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<String, _>()? {
            entries.push((key.into_boxed_str(), value));
        }
        Ok(Tree::Map(entries))
    }
}
