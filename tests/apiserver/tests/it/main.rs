//! The server as seen by clients: kube's, and one that counts bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what should hold and does not fails the test"
)]

mod faults;
mod protocol;
mod raw;
mod support;
