//! Resource versions.

/// Returns whether a resource version is older than another. Versions are numbers (KEP-5504);
/// others cannot be compared, and do not count as older. A server that goes back has lost its
/// state, and we must discard ours.
pub(super) fn is_before(version: &str, other: &str) -> bool {
    match (version.parse::<u64>(), other.parse::<u64>()) {
        (Ok(version), Ok(other)) => version < other,
        _ => false,
    }
}
