//! Network namespaces, servers and clients to test what packets do under rulec's rules.
//!
//! ```text
//! pod(0) ──┬─ node ─┐               ┌─ client
//! pod(1) ──┘        ├─ lan (bridge) ┤
//! remote_pod(0) ─ nb┤               └─ client2
//! far_pods() ──── nc┘
//! ```
//!
//! A [`World`] is a node with pods, two other nodes with pods, and two clients from outside, each
//! with its own network namespace, with IPv4 and IPv6. A [`Server`] in a pod answers every peer
//! with its name and the peer's address; [`ask`] makes one flow and returns that answer, or how the
//! flow failed. A [`Web`] is a web server with faults.
//!
//! The crate does not depend on rulec: a test loads rules into `world.node` by any means.
//! Invariant: everything that a test started ends when its values are dropped, even after a panic.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this crate is for tests only: a harness that cannot work fails the test"
)]

mod brief;
mod client;
mod connection;
mod icmp;
mod namespace;
mod patience;
mod protocol;
mod segment;
mod server;
mod unbroken;
mod web;
mod world;

pub use brief::{Brief, brief};
pub use client::{Answer, Failure, Options, ask, ask_many, ask_many_with};
pub use connection::{Connection, flow, flow_with};
pub use icmp::{Refusals, ping_is_refused};
pub use namespace::{Namespace, require_root};
pub use patience::patience;
pub use protocol::{Family, Protocol, sctp_supported};
pub use segment::send_invalid_segment;
pub use server::{LongServer, Server};
pub use unbroken::unbroken;
pub use web::{Reply, Web};
pub use world::{Hosts, Pod, World, WorldSpec, address};
