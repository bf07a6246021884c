//! Gives out what the Services of manifests do not write: cluster addresses, node ports and ports
//! of health checks. An API server does the same for its Services.
//!
//! ```text
//!  union of ─Update─▶ Allocation ─▶ Stage ─(filled objects)─▶ Update ─▶ engine
//!  the roots              │           └ Ledger: who has what, what is written
//!                         └─▶ allocations.state, before the objects leave
//! ```
//!
//! - `ranges` says what may be given out, and in which order it is tried: by a hash of the name, so
//!   that the same Service has the same address on every node and without any state, unless the
//!   names of two lead to the same one.
//! - `ledger` holds who has which value. It never gives a value to two.
//! - `stage` takes objects and returns them complete. It has no files and no clock.
//! - `store` keeps the ledger on disk, if there is a directory for it. A value is written there
//!   before anyone uses it: after a crash, another Service whose hash leads to the same address must
//!   not get it first. If the disk fails, the Service is served nevertheless, with an error.
//! - `completion` does the same for tools, without writing; `sides` is what the sides of a comparison
//!   write.
//!
//! What a Service has moves for two reasons only: another one writes it, or the range is another
//! one. What nobody needs any more stays reserved for a day, or until nothing else is free.

mod completion;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod ledger;
mod ranges;
mod sides;
mod stage;
mod store;

#[cfg(test)]
mod tests;

pub use completion::Completion;
pub use ledger::Value as AllocatedValue;
pub use ranges::{PortRange, RangeError, Ranges};
pub(crate) use store::Allocation;
pub use store::Recall;
