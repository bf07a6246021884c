//! A kubelet for tests, in the test's own process.
//!
//! [`Kubelet`] is its pods API on a Unix socket, and [`HttpKubelet`] its HTTP server. Both run on
//! threads of their own, and end with the value. Messages are written byte by byte from the numbers
//! of Kubernetes' `.proto` files, and not by what the program under test reads them with.
#![allow(clippy::expect_used, reason = "a test that cannot go on fails")]

mod http_server;
mod pod;
mod pods_api;

pub use http_server::{Credentials, HttpKubelet};
pub use pod::Pod;
pub use pods_api::{Behaviour, Kubelet};
