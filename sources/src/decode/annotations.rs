//! Annotations. An invalid one never invalidates its object: it is ignored with a warning.

use super::at::At;
use super::check::Check;
use super::document::Annotations;
use super::field::{Field, Shape, Text};

/// Returns the annotations of an object; none if they are not a mapping.
pub(super) fn of<'a>(
    check: &mut Check<'_, '_>,
    field: &'a Field<Box<Annotations>>,
    at: &At<'_>,
) -> Option<&'a Annotations> {
    match field {
        Field::Is(annotations) => Some(annotations),
        Field::Absent => None,
        Field::Wrong(found) => {
            let expected = Box::<Annotations>::NAME;
            check.warn(at, format_args!("expected {expected}, found {found}; ignored"));
            None
        }
    }
}

/// Parses an annotation. An empty one is ignored.
pub(super) fn word<T>(
    check: &mut Check<'_, '_>,
    field: &Field<Text>,
    at: &At<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let is_empty = matches!(field, Field::Is(text) if text.is_empty());
    if is_empty { None } else { value(check, field, at, parse) }
}

/// Parses an annotation.
pub(super) fn value<T>(
    check: &mut Check<'_, '_>,
    field: &Field<Text>,
    at: &At<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let value = match field {
        Field::Absent => return None,
        Field::Is(text) => parse(text),
        Field::Wrong(found) => Err(format!("expected {}, found {found}", Text::NAME)),
    };
    value.map_err(|reason| check.warn(at, format_args!("{reason}; ignored"))).ok()
}
