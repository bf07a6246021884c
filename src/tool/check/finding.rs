//! One thing that was found, and where.

use std::fmt;
use std::sync::Arc;

use rulec_sources::Place;
use serde::Serialize;

use super::spot::Spot;
use crate::cli::Rule;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Severity {
    /// The object is not used, or not as it is written.
    Error,
    /// A part is ignored, or is probably not meant as written.
    Warning,
    /// It may be as it should be. It does not change the exit status.
    Note,
}

impl Severity {
    pub(super) const ALL: [Self; 3] = [Self::Error, Self::Warning, Self::Note];
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

impl From<rulec_sources::Severity> for Severity {
    fn from(severity: rulec_sources::Severity) -> Self {
        match severity {
            rulec_sources::Severity::Error => Self::Error,
            rulec_sources::Severity::Warning => Self::Warning,
        }
    }
}

/// One thing that was found. The order is by place, so that a list reads like the files.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Finding {
    pub(super) path: Arc<str>,
    pub(super) place: Option<Place>,
    pub(super) severity: Severity,
    pub(super) rule: Rule,
    /// Kind and name of the object, if it is about one.
    pub(super) object: Option<String>,
    /// The path of the field, from the root of the object; empty if it is not about one.
    pub(super) field: String,
    pub(super) message: String,
}

impl Finding {
    /// Returns a finding about a path as a whole.
    pub(super) fn of_path(
        path: &Arc<str>,
        severity: Severity,
        rule: Rule,
        message: impl Into<String>,
    ) -> Self {
        let (path, message) = (path.clone(), message.into());
        Self { path, place: None, severity, rule, object: None, field: String::new(), message }
    }

    /// Returns a finding about a field of an object.
    pub(super) fn at(
        spot: &Spot<'_>,
        object: String,
        severity: Severity,
        rule: Rule,
        message: impl Into<String>,
    ) -> Self {
        Self {
            path: spot.path().clone(),
            place: spot.place(),
            severity,
            rule,
            object: Some(object),
            field: spot.field().to_owned(),
            message: message.into(),
        }
    }

    /// Returns field and message as one text.
    pub(super) fn said(&self) -> String {
        match self.field.as_str() {
            "" => self.message.clone(),
            field => format!("{field}: {}", self.message),
        }
    }
}
