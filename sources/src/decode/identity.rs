//! Namespace and name, which identify an object.

use rulec_compiler::name::{Name, Namespace, NamespacedName, NodeName};

use super::at::At;
use super::check::Check;
use super::document::Metadata;
use super::field::{Field, Text};

/// The API's limit for names, in bytes.
const MAX_NAME_BYTES: usize = 253;

/// Returns namespace and name of an object; if they are not valid, reports an error and returns
/// `None`.
pub(super) fn namespaced(
    check: &mut Check<'_, '_>,
    metadata: &Metadata,
    at: &At<'_>,
) -> Option<NamespacedName> {
    let namespace = optional(check, &metadata.namespace, &at.key("namespace"));
    let name = required(check, &metadata.name, &at.key("name"));
    let namespace = Namespace::new(check.share(namespace?.unwrap_or("default")));
    let name = Name::new(check.share(name?));
    Some(NamespacedName { namespace, name })
}

/// Returns the name of an object without a namespace; if it is not valid, reports an error and
/// returns `None`.
pub(super) fn cluster_wide(
    check: &mut Check<'_, '_>,
    metadata: &Metadata,
    at: &At<'_>,
) -> Option<Name> {
    let name = required(check, &metadata.name, &at.key("name"))?;
    Some(Name::new(check.share(name)))
}

/// Returns the name of a Node; if it is not valid, reports an error and returns `None`.
pub(super) fn node(
    check: &mut Check<'_, '_>,
    metadata: &Metadata,
    at: &At<'_>,
) -> Option<NodeName> {
    let name = required(check, &metadata.name, &at.key("name"))?;
    Some(NodeName::new(check.share(name)))
}

/// Returns a reference to a node; `None` if it is absent or not valid.
pub(super) fn node_reference(
    check: &mut Check<'_, '_>,
    field: &Field<Text>,
    at: &At<'_>,
) -> Option<NodeName> {
    let name = optional(check, field, at)??;
    Some(NodeName::new(check.share(name)))
}

fn required<'f>(check: &mut Check<'_, '_>, field: &'f Field<Text>, at: &At<'_>) -> Option<&'f str> {
    let name = optional(check, field, at)?;
    if name.is_none() {
        check.lacks(at, "missing");
    }
    name
}

/// Returns a name that may be absent. The outer `None` means that an error was reported, the inner
/// one that the name is absent.
fn optional<'f>(
    check: &mut Check<'_, '_>,
    field: &'f Field<Text>,
    at: &At<'_>,
) -> Option<Option<&'f str>> {
    let name = match check.text(field, at) {
        None if matches!(field, Field::Wrong(_)) => return None,
        None => return Some(None),
        Some(name) => name,
    };
    // Names are printed, matched and used in metrics and logs, so characters that could break out
    // of a line or a quotation are refused. The API server enforces its own stricter rules.
    let odd = |c: char| !c.is_ascii_graphic() || "/:\"'`\\".contains(c);
    if name.len() > MAX_NAME_BYTES {
        check.error(at, format_args!("longer than {MAX_NAME_BYTES} bytes"));
        None
    } else if name.contains(odd) {
        check.error(at, format_args!("{name:?} is not a name"));
        None
    } else {
        Some(Some(name))
    }
}

/// Returns whether a text is a DNS label (RFC 1123), as the names of namespaces and hosts are.
pub(crate) fn is_label(text: &str) -> bool {
    let is_allowed = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-';
    let is_whole = !text.starts_with('-') && !text.ends_with('-');
    (1..=63).contains(&text.len()) && text.chars().all(is_allowed) && is_whole
}
