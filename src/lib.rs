//! `rulec`, the daemon and the command-line tool: the only crate that knows sources, compiler,
//! engine and sinks.
//!
//! ```text
//!  sources ──Update──▶ ┌────────┐ ──Request──▶ ┌─────────────┐
//!  watcher ──Tampering▶│ engine │              │ sink thread │──▶ kernel
//!  the clock ─────────▶└────────┘ ◀───Reply─── └─────────────┘
//!                       (no I/O)                 (one thread)
//! ```
//!
//! - `cli` is the command line as typed, and `config` what it and a configuration file mean.
//! - `relay` serves other nodes with what the API server says.
//! - `daemon` runs the engine, `observe` shows what it does, and `tool` has the commands that only
//!   look. `cleanup` removes everything that rulec has put into the kernel.
//! - `kernel` opens what is programmed, and `setup` takes the steps before the daemon starts.
//!   `host` changes the node beside the rules: it sets sysctls, and removes what kube-proxy has
//!   left.
//! - `snapshot` is a state in a file. `clock`, `limits`, `newest` and `threads` are used everywhere.
#![forbid(unsafe_code)]

pub mod cleanup;
pub mod cli;
mod clock;
pub mod config;
pub mod daemon;
pub mod history;
pub mod host;
pub mod kernel;
pub mod limits;
pub mod newest;
pub mod observe;
pub mod relay;
pub mod setup;
pub mod snapshot;
pub mod threads;
pub mod tool;
