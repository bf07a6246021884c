//! `rulec`, the daemon and the tool: the only place that knows sources, compiler and sinks.
//!
//! ```text
//!  sources ──Update──▶ ┌────────┐ ──Request──▶ ┌─────────┐
//!  watcher ──Tampering▶│ engine │              │ install │──▶ kernel
//!  the clock ─────────▶└────────┘ ◀───Reply─── └─────────┘
//!                       (no I/O)               (one thread)
//! ```
//!
//! `config` says what to do, `kernel` opens what is programmed, `setup` asks of the kernel what is asked once, `sources` starts the sources,
//! and `run` is the loop around the engine. Beside it, `forget` deletes flows that contradict the rules, `listeners` says
//! which processes listen where Services are served, `monitor` collects
//! what `health`, `metrics` and `serve` show, `notify` tells a service manager, and `reload` notices another
//! configuration. `diff` compares any two states, `explain` says what becomes of a packet in one (`side` is a state
//! as the command line names it); `cleanup` removes all traces.
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
