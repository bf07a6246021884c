//! Tests of the API source against servers: one in this process that can produce all the faults of
//! servers, and a real one if its programs are named (`rulec_apiserver::Assets`).
//!
//! The tests do not assert how long anything takes: limits only turn a hang into a failure. That an
//! event does not happen is shown by a later event that happens without it.
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
#[path = "api/reviews.rs"]
mod reviews;
#[path = "api/state.rs"]
mod state;
#[path = "api/world.rs"]
mod world;
