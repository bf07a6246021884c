//! Tests of the source: what Pods and containers mean, and against a podman in this process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod follow;
mod pod;
mod server;
