//! A document as a tree with the position of each value.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::yaml::limits;
use crate::decode::at::PathStep;
use crate::flaw::Place;

/// A value of a document.
#[derive(Debug)]
pub(crate) enum Tree {
    Map(Vec<(Box<str>, Spanned<Tree>)>),
    List(Vec<Spanned<Tree>>),
    Text(Box<str>),
    /// Null, a number, or true or false.
    Other,
}

impl Tree {
    /// Returns the value one step down.
    pub(crate) fn below(&self, step: &PathStep) -> Option<&Spanned<Tree>> {
        match (self, step) {
            (Self::Map(entries), PathStep::Key(key)) => {
                entries.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            (Self::List(elements), PathStep::Index(index)) => elements.get(*index),
            (Self::Map(_) | Self::List(_) | Self::Text(_) | Self::Other, _) => None,
        }
    }
}

/// Reads a document, if it can be read as YAML.
pub(crate) fn read(text: &str) -> Option<Spanned<Tree>> {
    serde_saphyr::from_str_with_options(text, limits()).ok()
}

/// Returns the place of a value in a file, of a document that starts in line `first`.
pub(crate) fn place(tree: &Spanned<Tree>, first: u64) -> Place {
    let location = tree.referenced;
    Place {
        line: first + location.line().saturating_sub(1),
        column: (location.column() > 0).then(|| location.column()),
    }
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
        Ok(Tree::Other)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Other)
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.into()))
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
