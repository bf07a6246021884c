//! Tests of what is made of events.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod anew;
mod pod;
mod store;
pub(crate) mod told;
