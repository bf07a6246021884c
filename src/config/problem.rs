//! Problems of a configuration: what is wrong or has no effect, and where.

use std::fmt;
use std::sync::Arc;

/// A setting that is wrong, or that has no effect.
///
/// Prints as `config.conf:12: conntrack.min: must not be negative`, or as `--conntrack-min: must
/// not be negative`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, by its given name, if the problem is in one.
    pub file: Option<Arc<str>>,
    /// The line of the file, from 1.
    pub line: Option<u64>,
    /// The path of the field, or the flag with its dashes; empty for the whole file.
    pub name: String,
    /// The problem.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            f.write_str(file)?;
            if let Some(line) = self.line {
                write!(f, ":{line}")?;
            }
            f.write_str(": ")?;
        }
        if !self.name.is_empty() {
            write!(f, "{}: ", self.name)?;
        }
        f.write_str(&self.message)
    }
}

/// All errors of a configuration, so that one round of corrections is enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<Problem>);

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl std::error::Error for Invalid {}
