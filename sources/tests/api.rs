//! The API source against servers: one in this process with all the faults that servers have, and a real
//! one when it is named (`rulec_apiserver::Assets`).
//!
//! Nothing here asserts how long anything takes: limits only turn a hang into a failure. What must not
//! happen is shown by something later that has happened without it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "api/access.rs"]
mod access;
#[path = "api/broken.rs"]
mod broken;
#[path = "api/changes.rs"]
mod changes;
#[path = "api/lists.rs"]
mod lists;
#[path = "api/objects.rs"]
mod objects;
#[path = "api/plugin.rs"]
mod plugin;
#[path = "api/proxy.rs"]
mod proxy;
#[path = "api/state.rs"]
mod state;
#[path = "api/world.rs"]
mod world;
