//! The daemon: the loop around the engine, and the threads beside it.
//!
//! - `run` is the loop, and `sources` starts the sources.
//! - `sink_thread` commits, `conntrack_thread` deletes flows that contradict the rules, `listeners`
//!   reports processes that listen where a Service is served, `reload` notices a changed
//!   configuration, and `systemd` reports to a service manager.
//! - `commits`, `problems` and `remarks` log what is committed and what is wrong with objects.

pub mod commits;
pub mod conntrack_thread;
pub mod listeners;
pub mod problems;
pub mod reload;
mod remarks;
pub mod run;
pub mod sink_thread;
pub mod sources;
pub mod systemd;
