//! What is wrong with a text, for tools that sort it and point at it.

use std::sync::Arc;

use crate::problem::{Problem, Severity};

/// What is wrong in general.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlawKind {
    /// It is not a text, not YAML or not JSON.
    Syntax,
    /// It has no kind, or one that does not exist, or a version that is not read.
    Kind,
    /// There is no such field.
    UnknownField,
    /// An object of this type does not have the field.
    SurplusField,
    /// A field is missing.
    MissingField,
    /// A field does not have a value that it can have.
    Value,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The line, from 1.
    pub line: u64,
    /// The column, from 1, in characters.
    pub column: Option<u64>,
}

/// One thing that is wrong with a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where it is, if that is known.
    pub place: Option<Place>,
    /// What is wrong in general.
    pub kind: FlawKind,
    /// How bad it is.
    pub severity: Severity,
    /// Kind and name of the object, once they are known.
    pub object: Option<Arc<str>>,
    /// The path of the field, from the root of the object; empty if it is not about one.
    pub field: String,
    /// What is wrong, in particular.
    pub message: String,
    /// Whether something that is written is left out because of it, while the rest is used.
    pub skips: bool,
}

impl Flaw {
    /// Returns a text that cannot be read.
    pub(crate) fn of_syntax(place: Option<Place>, message: impl Into<String>) -> Self {
        let (kind, severity) = (FlawKind::Syntax, Severity::Error);
        let (field, message) = (String::new(), message.into());
        Self { place, kind, severity, object: None, field, message, skips: false }
    }

    /// Returns it as a problem of a file.
    pub(crate) fn problem(self, path: &Arc<str>) -> Problem {
        let Self { place, kind: _, severity, object, field, message, skips } = self;
        Problem {
            path: path.clone(),
            line: place.map(|place| place.line),
            column: place.and_then(|place| place.column),
            severity,
            object: object.as_deref().map(Into::into),
            message: if field.is_empty() { message } else { format!("{field}: {message}") },
            skips,
        }
    }
}
