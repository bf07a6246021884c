//! The daemon: the loop around the engine, and the threads beside it.
//!
//! - `run` is the loop, and `sources` starts the sources.
//! - `sink_thread` commits, `conntrack_thread` deletes flows that contradict the rules, `listeners`
//!   reports processes that listen where a Service is served, `hosts_thread` writes the `names` of
//!   Services to a file, `reload` notices a changed configuration, and `systemd` reports to a
//!   service manager. `routes_thread` keeps the routes to Services, and `traffic_thread` hears of
//!   counters of connections that go. `record_thread` records what the sources send.
//! - `commits`, `problems` and `remarks` log what is committed and what is wrong with objects, and
//!   `node_look` what is wrong with the node itself.

pub mod commits;
pub mod conntrack_thread;
pub mod hosts_thread;
pub mod listeners;
mod names;
mod node_look;
pub mod problems;
pub mod record_thread;
pub mod reload;
mod remarks;
pub mod routes_thread;
pub mod run;
pub mod sink_thread;
pub mod sources;
pub mod systemd;
pub mod traffic_thread;
