//! Problems with the input, for people to read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use im::OrdSet;
use serde::{Deserialize, Serialize};

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Severity {
    /// The object or the file is not used; its last good version stays in force, if there is one.
    Error,
    /// A part is ignored, or is probably not meant as written; the rest is used.
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

/// One problem, and its place.
///
/// Prints as `web.yaml:12:7: Service default/web: spec.ports[0].port: 70000 is not in 1..65535`,
/// without the parts that are not known. The order is by place, so that a list reads like the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Problem {
    /// The file, relative to the manifest directory; or the path of the directory itself.
    pub path: Arc<str>,
    /// The line, from 1.
    pub line: Option<u64>,
    /// The column, from 1, in characters.
    pub column: Option<u64>,
    /// How bad it is.
    pub severity: Severity,
    /// Kind and name of the object, once they are known.
    pub object: Option<String>,
    /// The message. It starts with the path of the field if it is about one.
    pub message: String,
    /// Whether something that is written is left out because of it, while the rest is used. To a
    /// comparison, it is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skips: bool,
}

impl Problem {
    /// Creates a problem of a file as a whole.
    pub(crate) fn of_file(path: &Arc<str>, severity: Severity, message: impl Into<String>) -> Self {
        let (path, message) = (path.clone(), message.into());
        Self { path, line: None, column: None, severity, object: None, message, skips: false }
    }
}

/// All current problems, updated part by part: an update costs time in proportion to the part, not
/// to the total.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    all: OrdSet<Problem>,
    /// The problems that several parts have, and how many more parts have each. Invariant: no count
    /// is 0.
    others: BTreeMap<Problem, usize>,
    told: OrdSet<Problem>,
}

impl Problems {
    /// Returns all of them, in order of place.
    pub(crate) fn all(&self) -> &OrdSet<Problem> {
        &self.all
    }

    /// Replaces the old problems of a part by its new ones.
    pub(crate) fn replace<'a>(
        &mut self,
        old: &[Problem],
        new: impl Iterator<Item = &'a Problem> + Clone,
    ) {
        if old.iter().eq(new.clone()) {
            return;
        }
        for problem in old {
            if let Some(others) = self.others.get_mut(problem) {
                *others -= 1;
                if *others == 0 {
                    self.others.remove(problem);
                }
            } else {
                self.all.remove(problem);
            }
        }
        for problem in new {
            if self.all.insert(problem.clone()).is_some() {
                *self.others.entry(problem.clone()).or_default() += 1;
            }
        }
    }

    /// Returns true if the problems differ from those at the last call.
    pub(crate) fn changed(&mut self) -> bool {
        let changed = self.told.diff(&self.all).next().is_some();
        self.told = self.all.clone();
        changed
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_kept_until_no_part_reports_it() {
        let [a, b] =
            ["a", "b"].map(|message| Problem::of_file(&"x.yaml".into(), Severity::Error, message));
        let mut problems = Problems::default();
        let all = |problems: &Problems| problems.all().iter().cloned().collect::<Vec<_>>();
        let none: [Problem; 0] = [];
        assert!(!problems.changed());
        problems.replace(&none, [&a, &a, &b].into_iter());
        assert!(problems.changed());
        problems.replace(&none, [&b].into_iter());
        assert!(!problems.changed(), "already reported");
        problems.replace(&[a.clone(), a.clone(), b.clone()], [&a].into_iter());
        assert_eq!((all(&problems), problems.changed()), (vec![a.clone(), b.clone()], false));
        problems.replace(std::slice::from_ref(&a), none.iter());
        assert_eq!((all(&problems), problems.changed()), (vec![b.clone()], true));
        problems.replace(std::slice::from_ref(&b), none.iter());
        assert_eq!((all(&problems), problems.changed()), (Vec::new(), true));
        assert!(problems.others.is_empty());
        // A problem that came and went between two calls is no change.
        problems.replace(&none, [&a].into_iter());
        problems.replace(std::slice::from_ref(&a), none.iter());
        assert!(!problems.changed());
    }

    #[test]
    fn a_problem_prints_its_known_fields() {
        let mut problem = Problem::of_file(&"web.yaml".into(), Severity::Error, "no");
        assert_eq!(problem.to_string(), "web.yaml: no");
        problem.line = Some(12);
        assert_eq!(problem.to_string(), "web.yaml:12: no");
        problem.column = Some(7);
        problem.object = Some("Service default/web".to_owned());
        problem.message = "spec.ports[0].port: 70000 is not in 1..65535".to_owned();
        assert_eq!(
            problem.to_string(),
            "web.yaml:12:7: Service default/web: spec.ports[0].port: 70000 is not in 1..65535"
        );
    }
}
