//! Where in a document a check stands.

use std::fmt;

/// One step down from an object or a list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Key(Box<str>),
    Index(usize),
}

/// The path of a field, built on the stack: paths are needed at every field and printed for few.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    up: Option<&'a At<'a>>,
    step: Down<'a>,
}

#[derive(Clone, Copy)]
enum Down<'a> {
    Root,
    /// The root of an item: its own paths start here, but it lies deeper in the document.
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

    /// The root of an item of this list: what is printed of paths below starts there.
    pub(crate) fn item(&self, index: usize) -> At<'_> {
        At { up: Some(self), step: Down::Item(index) }
    }

    /// All steps from the root of the document.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = self.up.map_or_else(Vec::new, At::steps);
        match self.step {
            Down::Root => {}
            Down::Item(index) | Down::Index(index) => steps.push(Step::Index(index)),
            Down::Key(key) => steps.push(Step::Key(key.into())),
        }
        steps
    }

    /// Whether nothing would be printed.
    pub(crate) fn is_root(&self) -> bool {
        matches!(self.step, Down::Root | Down::Item(_))
    }
}

/// As in `spec.ports[0].port`; of items, without the way to the item.
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
