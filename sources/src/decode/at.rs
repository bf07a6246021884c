//! The place of a check in a document.

use std::fmt;

/// One step down, into an object or a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PathStep {
    Key(Box<str>),
    Index(usize),
}

/// The path of a field. It is built on the stack, since a path is needed for every field and
/// printed for few.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    up: Option<&'a At<'a>>,
    step: Down<'a>,
}

#[derive(Clone, Copy)]
enum Down<'a> {
    Root,
    /// The root of an item of a list. Its paths are printed from here, although it lies deeper in
    /// the document.
    Item(usize),
    Key(&'a str),
    Index(usize),
}

impl At<'_> {
    pub(crate) const ROOT: At<'static> = At { up: None, step: Down::Root };

    pub(crate) fn key<'b>(&'b self, key: &'b str) -> At<'b> {
        At { up: Some(self), step: Down::Key(key) }
    }

    pub(crate) fn index(&self, index: usize) -> At<'_> {
        At { up: Some(self), step: Down::Index(index) }
    }

    /// Returns the root of an item of this list: the printed paths of its fields start there.
    pub(crate) fn item(&self, index: usize) -> At<'_> {
        At { up: Some(self), step: Down::Item(index) }
    }

    /// Returns all steps from the root of the document.
    pub(crate) fn steps(&self) -> Vec<PathStep> {
        let mut steps = self.up.map_or_else(Vec::new, At::steps);
        match self.step {
            Down::Root => {}
            Down::Item(index) | Down::Index(index) => steps.push(PathStep::Index(index)),
            Down::Key(key) => steps.push(PathStep::Key(key.into())),
        }
        steps
    }

    /// Returns whether the printed path is empty.
    pub(crate) fn is_root(&self) -> bool {
        matches!(self.step, Down::Root | Down::Item(_))
    }
}

/// Prints a path as in `spec.ports[0].port`; for items of a list, without the path to the item.
impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(up) = self.up.filter(|_| !self.is_root()) {
            up.fmt(f)?;
            if matches!(self.step, Down::Key(_)) && !up.is_root() {
                f.write_str(".")?;
            }
        }
        match self.step {
            Down::Root | Down::Item(_) => Ok(()),
            Down::Key(key) => f.write_str(key),
            Down::Index(index) => write!(f, "[{index}]"),
        }
    }
}
