//! The result of decoding one document.

use rulec_compiler::object::{Object, ObjectKey};

use super::check::Check;

/// The result of reading an object.
pub(super) enum Reading {
    /// A valid object.
    Object(Object),
    /// Several objects that one document stands for.
    Objects(Vec<Object>),
    /// The object is invalid; its errors were reported.
    Broken(ObjectKey),
    /// The object is invalid and its name cannot be read; its errors were reported.
    Nameless,
    /// The object is not meant for us.
    Nothing,
}

/// Returns the outcome for an object that has been read: broken if the check found an error.
pub(super) fn finish(check: &Check<'_, '_>, object: Object) -> Reading {
    if check.failed() { Reading::Broken(object.key()) } else { Reading::Object(object) }
}
