//! The pure core of `rulec`: the words all crates share, the model, and the compiler.
//!
//! ```text
//!  Change ──▶ Model ──resolve──▶ Route ──lower──▶ Program ──diff──▶ Delta ──▶ (a sink)
//!            (snapshot)         (per Service     (snapshot of         │
//!                                port, family)    what is wanted)     ▼
//!                                                 State ◀── apply ── reference kernel
//! ```
//!
//! Nothing in here does I/O, waits, reads a clock or the environment, logs, or depends on the order
//! of a hash map: the same input gives the same output, always. `clippy.toml` beside this crate
//! enforces it. Nothing in here fails either: objects are valid when they come in.
#![forbid(unsafe_code)]

pub mod change;
pub mod interface;
pub mod ipvs;
pub mod model;
pub mod name;
pub mod net;
pub mod nft;
pub mod object;
pub mod remark;
pub mod resolve;
pub mod settings;

pub use change::{Change, Origin, Provenance, Sourced};
pub use model::{Dirty, Model};
pub use remark::Remark;
pub use resolve::{Frontend, PortKey, Route};
pub use settings::Settings;
