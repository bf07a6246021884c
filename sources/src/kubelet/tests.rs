//! Tests of the source: what it makes of events, and against kubelets in this process.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod follow;
mod http;
