//! What is wrong with the input, for people.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// The object or the file is not used as it is; what was last good stays in force, if anything.
    Error,
    /// A part is ignored, or something is probably not meant; the rest is used.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// One thing that is wrong, and where.
///
/// Prints as `web.yaml:12:7: Service default/web: spec.ports[0].port: 70000 is not in 1..65535`,
/// without the parts that are not known. The order is by place, so that a list reads like the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// The file, relative to the manifest directory; `.` is the directory itself.
    pub path: Arc<str>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The column, from 1, in characters.
    pub column: Option<u64>,
    /// Whether anything is lost by it.
    pub severity: Severity,
    /// Kind and name of the object, once they are known.
    pub object: Option<String>,
    /// What is wrong; starts with the path of the field if it is about one.
    pub message: String,
}

impl Problem {
    /// A problem of a file as a whole.
    pub(crate) fn of_file(path: &Arc<str>, severity: Severity, message: impl Into<String>) -> Self {
        let path = path.clone();
        Self { path, line: None, column: None, severity, object: None, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        f.write_str(": ")?;
        if let Some(object) = &self.object {
            write!(f, "{object}: ")?;
        }
        f.write_str(&self.message)
    }
}
