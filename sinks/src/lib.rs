//! The destinations of deltas: the kernel's nf_tables and IPVS over netlink. Also the work that
//! rules alone cannot do, deleting unwanted conntrack flows; and the means to remove what another
//! program has left, tables (`nft::foreign`) and devices ([`delete_link`]). What is another
//! program's, the caller knows.
//!
//! A sink uses the types of `rulec-compiler` and knows nothing of sources, clocks or policies: the
//! engine decides when to commit, when to read back and how to handle a refusal.
#![deny(unsafe_code)]

pub mod conntrack;
#[expect(unsafe_code, reason = "the C libraries are called here, and only here")]
mod ffi;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod ipvs;
#[cfg(feature = "measuring")]
#[doc(hidden)]
pub mod measuring;
mod netlink;
pub mod nft;
mod owner;
mod rtnetlink;

pub use conntrack::Conntrack;
pub use ipvs::Ipvs;
pub use netlink::meter::Spent;
pub use nft::NftSink;
pub use rtnetlink::{
    Added, Bridge, Device, Lookup, Port, ROUTE_PROTOCOL, ServiceRoutes, Way, delete_link,
};
pub use rulec_engine::{DeltaBase, Outcome, Owner, Refusal, Sink, SinkError};
