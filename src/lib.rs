//! `rulec`, the daemon and the command-line tool: the only crate that knows sources, compiler and
//! sinks.
//!
//! ```text
//!  sources ──Update──▶ ┌────────┐ ──Request──▶ ┌─────────┐
//!  watcher ──Tampering▶│ engine │              │ install │──▶ kernel
//!  the clock ─────────▶└────────┘ ◀───Reply─── └─────────┘
//!                       (no I/O)               (one thread)
//! ```
//!
//! - `config` is the configuration, `kernel` opens what is programmed, `setup` makes the settings
//!   of the kernel that are made once, at the start, `sources` starts the sources, and `run` is the
//!   loop around the engine.
//! - Beside the loop, `forget` deletes flows that contradict the rules, `listeners` reports
//!   processes that listen where a Service is served, `monitor` collects what `health`, `metrics`
//!   and `serve` show, `notify` reports to a service manager, and `reload` notices a changed
//!   configuration.
//! - `diff` compares any two states, and `explain` follows a packet through one; `side` is a state
//!   as the command line names it. `cleanup` removes everything that rulec has put into the kernel.
#![forbid(unsafe_code)]

pub mod cleanup;
pub mod cli;
mod clock;
pub mod commits;
pub mod completions;
pub mod config;
pub mod diff;
pub mod engine;
pub mod explain;
pub mod forget;
pub mod health;
pub mod install;
pub mod kernel;
pub mod limits;
pub mod listeners;
pub mod metrics;
pub mod monitor;
pub mod notify;
pub mod problems;
pub mod reload;
mod remarks;
pub mod run;
pub mod serve;
pub mod setup;
mod side;
pub mod snapshot;
pub mod sources;
pub mod telemetry;
pub mod threads;
