//! Manifests as a source: directories of them, single ones, and URLs.
//!
//! ```text
//!  inotify ─▶ watch ─▶ scan ─▶ file ─▶ text ─▶ Decoded
//!  (a hint)   (when)   (what changed)  (yaml | json ─▶ decode)
//! ```
//!
//! - `roots` watches several paths and URLs. Their updates meet at the `outlet`: `union` decides
//!   which of them defines an object, and what Services need is given out.
//! - `watch` decides when to look and sends what was found. `signal` wakes it, and `writers` knows
//!   which files are still being written.
//! - `scan` compares files by hash and objects by meaning. It keeps the last good content of a file
//!   that is broken now. `file` reads one file without blocking on it.
//! - `url` asks for the content of a URL, which `scan/page` compares like a file.
//! - `tell` makes updates of what was found.
//! - `cni` finds addresses of Pods whose manifests have none; `fill` gives these to them.
//! - `text` decodes the bytes of a file, and finds the line of each problem.
//! - `once` reads everything once, for tools. `survey` does so with the place of each value, and says
//!   what is not read; `node` is such a value. `overlap` finds paths that cannot be read together.

mod cni;
mod file;
mod fill;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod node;
mod once;
mod outlet;
mod overlap;
mod roots;
mod scan;
mod signal;
#[cfg(feature = "simulation")]
pub(crate) mod simulation;
mod survey;
mod tell;
pub(crate) mod text;
mod union;
mod url;
mod watch;
mod writers;

#[cfg(test)]
mod tests;

pub use cni::CniCache;
pub use node::Node;
pub use once::{Reading, read, read_all, read_sharing, read_text};
pub use overlap::Overlap;
pub use roots::{ManifestRoots, Nudge};
pub use scan::{Manifests, Scan, Shared};
pub use survey::{Manifest, PassedOver, Reason, Survey, Unread};
pub use text::STACK_BYTES;
pub use url::{ManifestHeader, ManifestUrl, ManifestUrls};
pub use watch::{ManifestOptions, ManifestSource};
