//! Where `rulec` learns of Services: the API server, and a directory of manifests; and of its node: the
//! kernel.
//!
//! ```text
//!  inotify ─▶ watch ─▶ scan ─▶ file ─▶ decode ─▶ Object ─┐
//!  (a hint)   (when)   (what changed)  (what it means)   ├▶ Update { changes, problems }
//!  API server ─▶ api: follow ─▶ holdings ─▶ decode ──────┤
//!  rtnetlink ─▶ interfaces ─▶ Object ─────────────────────┘
//! ```
//!
//! Everything a compiler could trip over ends here: what leaves this crate is valid, defaulted, in
//! normal form, and said only when it is news. Bytes are the truth and events are only hints, so
//! that a lost event costs promptness and nothing else. Input that cannot be used becomes a
//! [`Problem`]; it takes nothing down with it that worked before.
#![forbid(unsafe_code)]

mod address;
mod api;
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
