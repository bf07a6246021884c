//! The destinations of deltas: the kernel's nf_tables and IPVS over netlink, and a strict stand-in
//! for tests. Also the work that rules alone cannot do: deleting unwanted conntrack flows, and
//! removing the remains of another proxy.
//!
//! A sink uses the types of `rulec-compiler` and knows nothing of sources, clocks or policies: the
//! engine decides when to commit, when to read back and how to handle a refusal.
#![deny(unsafe_code)]

pub mod conntrack;
#[expect(unsafe_code, reason = "the C libraries are called here, and only here")]
mod ffi;
pub mod ipvs;
pub mod kube_proxy;
mod netlink;
pub mod nft;
mod owner;
mod rtnetlink;

pub use conntrack::Conntrack;
pub use ipvs::Ipvs;
pub use nft::NftSink;
pub use rulec_engine::{DeltaBase, Outcome, Owner, Refusal, Sink, SinkError};
