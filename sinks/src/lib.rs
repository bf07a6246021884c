//! Where deltas go: the kernel's nf_tables and IPVS over netlink, and a strict stand-in for tests.
//! Beside them, what rules alone do not do: unwanted flows of conntrack, and the kernel's settings;
//! and what another proxy has left on the node.
//!
//! A sink knows the words of `rulec-compiler` and nothing of sources, clocks or policies: when to
//! commit, when to read back and what to do about a refusal is the engine's affair.
#![deny(unsafe_code)]

pub mod conntrack;
pub mod fake;
pub mod ipvs;
pub mod kube_proxy;
mod netlink;
pub mod nft;
pub mod sink;
pub mod sysctl;

pub use conntrack::Conntrack;
pub use ipvs::Ipvs;
pub use nft::NftSink;
pub use sink::{Base, Outcome, Refusal, Sink, SinkError};
