//! The sources of `rulec`: Services and their endpoints come from the API server and from a
//! directory of manifests, the addresses of the node from the kernel.
//!
//! ```text
//!  inotify ─▶ watch ─▶ scan ─▶ file ─▶ decode ─▶ Object ─┐
//!  (a hint)   (when)   (what changed)  (what it means)   ├▶ Update { changes, problems }
//!  API server ─▶ api: follow ─▶ store ─▶ decode ──────┤
//!  rtnetlink ─▶ interfaces ─▶ Object ─────────────────────┘
//! ```
//!
//! Input is checked here, so that the compiler cannot fail: the objects that leave this crate are
//! valid, defaulted and normalised, and are sent only if their meaning changed. A source decides by
//! content; events only tell it when to look, so a lost event delays a change and loses nothing.
//! Input that cannot be used becomes a [`Problem`]; content that was good before stays in force.
#![forbid(unsafe_code)]

mod address;
mod api;
mod at;
mod decode;
mod error;
mod field;
mod file;
mod interfaces;
mod intern;
mod json;
mod locate;
mod manifest;
mod once;
mod problem;
mod scan;
mod signal;
mod state;
mod update;
mod watch;
mod writers;
mod yaml;

#[cfg(test)]
mod tests;

pub use address::{parse_ip, parse_range};
pub use api::{
    ApiAccess, ApiOptions, ApiSource, ApiStatus, ApiTiming, ErrorKind, Note, Notes, ProxyVariables,
    Variable,
};
pub use error::SourceError;
pub use interfaces::{InterfaceSource, read_interfaces};
pub use once::{Reading, read};
pub use problem::{Problem, Severity};
pub use scan::{Manifests, Scan};
pub use state::{Pace, StateDir, StateError};
pub use update::{Trigger, Update};
pub use watch::{ManifestOptions, ManifestSource, Nudge};
