//! What a relay and its nodes say to each other, without the connections between them.
//!
//! ```text
//!  Model ─▶ Catalogue ──offers for a node──▶ response ═══▶ decode ─▶ Object
//!           (snapshot)   (fold, encode)      (discovery)
//! ```
//!
//! The protocol is the incremental variant of Envoy's aggregated discovery service (delta ADS). Its
//! resources are our own (`wire`): the objects of the API, reduced to what decides about programs,
//! and without what only other nodes need (`fold`). The version of a resource is a hash of its
//! content, so that a node can continue with another relay than before.
//!
//! Like the compiler, this crate does no I/O and reads no clock.
#![forbid(unsafe_code)]

mod catalogue;
mod decode;
pub mod discovery;
mod encode;
mod fold;
mod offer;
mod position;
mod topic;
mod wire;

pub use catalogue::{Catalogue, News};
pub use decode::{Invalid, decode};
pub use fold::{ELSEWHERE, fold, is_needed};
pub use offer::{Known, Offer, Response, Version};
pub use position::{Position, Standing};
pub use topic::Topic;
