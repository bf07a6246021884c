//! A value of a document, with its place.

use serde_saphyr::Spanned;

use super::text::tree::{self, Tree};
use crate::decode::at::PathStep;
use crate::flaw::Place;

/// A value of a document, as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    tree: &'a Spanned<Tree>,
    /// The line of the file in which the document starts.
    first: u64,
}

impl<'a> Node<'a> {
    /// Returns the root of a document that starts in line `first`.
    pub(super) fn root(tree: &'a Spanned<Tree>, first: u64) -> Self {
        Self { tree, first }
    }

    /// Returns the value at a path.
    pub(super) fn follow(self, steps: &[PathStep]) -> Option<Self> {
        let below = |node: Self, step| Some(Self { tree: node.tree.value.below(step)?, ..node });
        steps.iter().try_fold(self, below)
    }

    /// Returns where it is.
    pub fn place(self) -> Place {
        tree::place(self.tree, self.first)
    }

    /// Returns the text, if it is one.
    pub fn text(self) -> Option<&'a str> {
        if let Tree::Text(text) = &self.tree.value { Some(text) } else { None }
    }

    /// Returns the value of a field.
    pub fn get(self, key: &str) -> Option<Self> {
        self.entries().find(|(name, _)| *name == key).map(|(_, value)| value)
    }

    /// Returns the fields, in the order of the file.
    pub fn entries(self) -> impl Iterator<Item = (&'a str, Self)> {
        let entries: &[_] = if let Tree::Map(entries) = &self.tree.value { entries } else { &[] };
        entries.iter().map(move |(key, tree)| (&**key, Self { tree, ..self }))
    }

    /// Returns the elements of a list.
    pub fn elements(self) -> impl Iterator<Item = Self> {
        let elements: &[_] = if let Tree::List(all) = &self.tree.value { all } else { &[] };
        elements.iter().map(move |tree| Self { tree, ..self })
    }
}
