//! The pure core of `rulec`: the types that all crates share, the model, and the compiler.
//!
//! ```text
//!  Change ──▶ Model ──resolve──▶ Route ──lower──▶ Program ──diff──▶ Delta ──▶ (a sink)
//!            (snapshot)         (per Service     (snapshot of         │
//!                                port, family)    what is wanted)     ▼
//!                                                 State ◀── apply ── reference kernel
//! ```
//!
//! This crate does no I/O, never waits, does not read a clock or the environment, does not log, and
//! does not depend on the iteration order of a hash map: the same input always gives the same
//! output. `clippy.toml` beside this crate enforces it. Its operations cannot fail either, because
//! sources hand over only valid objects.
#![forbid(unsafe_code)]

pub mod change;
pub mod delta;
pub mod flows;
pub mod frontend;
pub mod interface;
pub mod ipvs;
pub mod load_balancing;
pub mod model;
pub mod name;
pub mod net;
pub mod nft;
pub mod object;
pub mod op;
pub mod oracle;
pub mod place;
pub mod plural;
pub mod program;
pub mod remark;
pub mod resolve;
pub mod scheduling;
pub mod settings;
pub mod state;

pub use change::{Change, Origin, Provenance, Sourced};
pub use delta::{Delta, Group};
pub use flows::{Flow, Suspects};
pub use frontend::{Frontend, PortKey};
pub use model::{Dirty, Model};
pub use op::{Op, Stage};
pub use place::Place;
pub use program::Program;
pub use remark::Remark;
pub use resolve::Route;
pub use settings::Settings;
pub use state::State;
