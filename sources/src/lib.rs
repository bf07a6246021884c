//! The sources of `rulec`: Services and their endpoints come from the API server and from a
//! directory of manifests, the addresses of the node from the kernel.
//!
//! ```text
//!  inotify ────▶ manifests: watch ─▶ scan ─▶ text ─┐
//!                                                  ├▶ decode ─▶ Object ─┐
//!  API server ─▶ api: answer ─▶ watch ─▶ store ────┘                    ├▶ Update
//!  rtnetlink ──▶ interfaces ──────────────────────────────────▶ Object ─┘  { changes, problems }
//! ```
//!
//! - Each source is a module: `manifests`, `api` and `interfaces`. None knows another.
//! - `decode` makes objects of documents, for manifests and the API server alike.
//! - All share what they send (`update`, `problem`), why they end (`error`), and what is kept on
//!   disk for the next start (`state`).
//!
//! Input is checked here, so that the compiler cannot fail: the objects that leave this crate are
//! valid, defaulted and normalised, and are sent only if their meaning changed. A source decides by
//! content; events only tell it when to look, so a lost event delays a change and loses nothing.
//! Input that cannot be used becomes a [`Problem`]; content that was good before stays in force.
#![forbid(unsafe_code)]

mod api;
mod decode;
mod error;
mod interfaces;
mod manifests;
mod problem;
mod state;
mod update;

#[cfg(test)]
mod tests;

pub use api::{
    ApiAccess, ApiOptions, ApiSource, ApiStatus, ApiTiming, ErrorKind, Note, Notes, ProxyVariables,
    Variable,
};
pub use decode::address::{parse_ip, parse_range};
pub use error::SourceError;
pub use interfaces::{InterfaceSource, read_interfaces};
pub use manifests::{ManifestOptions, ManifestSource, Manifests, Nudge, Reading, Scan, read};
pub use problem::{Problem, Severity};
pub use state::{Pace, StateDir, StateError};
pub use update::{Trigger, Update};
