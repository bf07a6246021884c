//! Histories of a whole node, each made by one number, in virtual time.
//!
//! ```text
//!  seed ─▶ Plan ─▶ World: API server ─▶ source ─┐
//!                         directory ──▶ source ─┴▶ engine ─▶ kernel ─▶ Laws
//! ```
//!
//! The sources, the engine and the compiler are those of the daemon; so is the HTTP between source
//! and server. The server is that of `tests/apiserver`, and the kernel is the strict one that the
//! engine is tested with. Instead of the network, threads and the clock there are channels and
//! virtual time in one thread, so that a seed always makes the same history. A history goes through
//! hours in milliseconds.
//!
//! - `plan` is a history as data: what happens, and when. It can be shortened.
//! - `world` carries a plan out. `node` is a daemon in it, `cluster` the objects, `kernel` the kernel
//!   with its faults.
//! - `laws` says what must hold: at every step of every commit, and whenever the faults are over.
//! - `shrink` finds the shortest part of a plan that breaks the same law.
//!
//! What is not in it: the loop of the daemon around the engine (`node` has a short one), inotify,
//! the kubelet and podman, netlink itself, IPVS, and conntrack. `tests/it` has these on a kernel.
#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this crate is for tests only: a harness that cannot work fails the test"
)]

mod cluster;
mod dice;
mod kernel;
mod laws;
mod node;
mod plan;
mod shrink;
mod world;

pub use laws::Breach;
pub use plan::{Cluster, Disk, Files, Hindrance, Kernel, Plan, Server, Step, What};
pub use shrink::shrink;
pub use world::{Summary, run};
