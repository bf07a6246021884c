//! A directory of manifests, or a single one, as a source.
//!
//! ```text
//!  inotify ─▶ watch ─▶ scan ─▶ file ─▶ text ─▶ Decoded
//!  (a hint)   (when)   (what changed)  (yaml | json ─▶ decode)
//! ```
//!
//! - `watch` decides when to look and sends what was found. `signal` wakes it, and `writers` knows
//!   which files are still being written.
//! - `scan` compares files by hash and objects by meaning. It keeps the last good content of a file
//!   that is broken now. `file` reads one file without blocking on it.
//! - `text` decodes the bytes of a file, and finds the line of each problem.
//! - `once` reads everything once, for tools.

mod file;
mod once;
mod scan;
mod signal;
pub(crate) mod text;
mod watch;
mod writers;

#[cfg(test)]
mod tests;

pub use once::{Reading, read};
pub use scan::{Manifests, Scan};
pub use watch::{ManifestOptions, ManifestSource, Nudge};
