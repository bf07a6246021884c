//! A field of an object in a file, whether it is written or not.

use std::fmt;
use std::sync::Arc;

use rulec_sources::{Node, Place};

/// A field. If it is not written, its place is that of the object that lacks it.
#[derive(Clone, Debug)]
pub(super) struct Spot<'a> {
    path: &'a Arc<str>,
    place: Option<Place>,
    /// The value, if it is written and its place is known.
    node: Option<Node<'a>>,
    field: String,
}

impl<'a> Spot<'a> {
    /// Returns the root of an object.
    pub(super) fn root(path: &'a Arc<str>, node: Option<Node<'a>>) -> Self {
        Self { path, place: node.map(Node::place), node, field: String::new() }
    }

    pub(super) fn path(&self) -> &'a Arc<str> {
        self.path
    }

    pub(super) fn place(&self) -> Option<Place> {
        self.place
    }

    /// Returns the path of the field from the root of the object.
    pub(super) fn field(&self) -> &str {
        &self.field
    }

    /// Returns whether the value is written, and its place is known.
    pub(super) fn is_there(&self) -> bool {
        self.node.is_some()
    }

    /// Returns the value, if it is a text.
    pub(super) fn text(&self) -> Option<&'a str> {
        self.node?.text()
    }

    /// Returns a field of an object.
    pub(super) fn key(&self, key: &str) -> Self {
        let dot = if self.field.is_empty() { "" } else { "." };
        let node = self.node.and_then(|node| node.get(key));
        self.below(node, format!("{}{dot}{key}", self.field))
    }

    /// Returns a field by its keys, with dots in between.
    pub(super) fn keys(&self, keys: &str) -> Self {
        keys.split('.').fold(self.clone(), |spot, key| spot.key(key))
    }

    /// Returns the elements of a list.
    pub(super) fn elements(&self) -> Vec<Self> {
        let elements = self.node.into_iter().flat_map(Node::elements).enumerate();
        let element = |(index, node)| self.below(Some(node), format!("{}[{index}]", self.field));
        elements.map(element).collect()
    }

    /// Returns the entries of a map.
    pub(super) fn entries(&self) -> Vec<(&'a str, Self)> {
        let entries = self.node.into_iter().flat_map(Node::entries);
        entries.map(|(key, _)| (key, self.key(key))).collect()
    }

    fn below(&self, node: Option<Node<'a>>, field: String) -> Self {
        Self { place: node.map(Node::place).or(self.place), node, field, ..*self }
    }
}

/// Prints file and line.
impl fmt::Display for Spot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)?;
        self.place.map_or(Ok(()), |place| write!(f, ":{}", place.line))
    }
}
