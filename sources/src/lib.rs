//! The sources of `rulec`: Services and their endpoints come from the API server and from a
//! directory of manifests, Pods also from the kubelet or podman, the addresses of the node from the kernel.
//!
//! ```text
//!  inotify ────▶ manifests: watch ─▶ scan ─▶ text ─┐                    ┌▶ allocate ─┐
//!  API server ─▶ api: answer ─▶ watch ─▶ store ────┼▶ decode ─▶ Object ─┤            ├▶ Update
//!  kubelet ────▶ kubelet: stream, poll ─▶ pods ────┤                    └────────────┤
//!  podman ─────▶ podman: follow ─▶ pod ─▶ pods ────┘                                 │
//!  relay ──────▶ relay: session ─▶ store ─────────────────────▶ Object ──────────────┤
//!  rtnetlink ──▶ interfaces ──────────────────────────────────▶ Object
//! ```
//!
//! - Each source is a module: `manifests`, `api`, `relay`, `kubelet`, `podman` and `interfaces`. None knows
//!   another; `pods` is what the kubelet and podman have in common.
//! - `decode` makes objects of documents, for all that have objects.
//! - `allocate` gives out the addresses and node ports that manifests do not write.
//! - All share what they send (`update`, `problem`, `flaw`), why they end (`error`), how long they wait
//!   after a failure (`backoff`), and what is kept on disk for the next start (`state`, by
//!   `replace`).
//! - `recording` writes what all have sent to a file, and is a source that sends it again.
//!
//! Input is checked here, so that the compiler cannot fail: the objects that leave this crate are
//! valid, defaulted and normalised, and are sent only if their meaning changed. A source decides by
//! content; events only tell it when to look, so a lost event delays a change and loses nothing.
//! Input that cannot be used becomes a [`Problem`]; content that was good before stays in force.
#![forbid(unsafe_code)]

mod allocate;
mod api;
mod backoff;
mod decode;
mod error;
mod flaw;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod interfaces;
mod kubelet;
mod manifests;
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod measuring;
mod networks;
mod podman;
mod pods;
mod problem;
pub mod recording;
mod relay;
mod replace;
mod rtnetlink;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod state;
mod update;

#[cfg(test)]
mod tests;

pub use allocate::{AllocatedValue, Completion, PortRange, RangeError, Ranges, Recall};
pub use api::{
    ApiAccess, ApiOptions, ApiSource, ApiStatus, ApiTiming, ErrorKind, Note, Notes, ProxyVariables,
    TokenReview, TokenReviews, Variable,
};
pub use backoff::retry_pause;
pub use decode::address::{parse_ip, parse_range};
pub use decode::nearest;
pub use error::SourceError;
pub use flaw::{Flaw, FlawKind, Place};
pub use interfaces::{InterfaceSource, read_interfaces};
pub use kubelet::{KubeletAccess, KubeletSource, KubeletTiming, KubeletUrl};
pub use manifests::{
    CniCache, Manifest, ManifestHeader, ManifestOptions, ManifestRoots, ManifestSource,
    ManifestUrl, ManifestUrls, Manifests, Node, Nudge, Overlap, PassedOver, Reading, Reason,
    STACK_BYTES, Scan, Shared, Survey, Unread, read, read_all, read_sharing, read_text,
};
pub use networks::{UsedNetwork, used_networks};
pub use podman::{PodmanSource, PodmanTiming};
pub use problem::{Problem, Severity};
pub use relay::{
    RELAY_PORT, RelayAccess, RelayFallback, RelayOptions, RelayReports, RelaySource, RelayStatus,
    RelayTiming,
};
pub use replace::{is_replaceable, replace_file};
pub use state::{Pace, StateDir, StateError};
pub use update::{Positions, Trigger, Update};
