//! What is read of the kernel's answers, as functions of bytes, for `tests/fuzz`: none may panic.
//!
//! The kernel is trusted. But a reader that trusts a length, or that a message of one kind is none
//! of another, fails with the first kernel that does something else.

pub use crate::conntrack::fuzzing::conntrack;
pub use crate::ipvs::fuzzing::ipvs;
pub use crate::nft::fuzzing::nftables;
pub use crate::rtnetlink::fuzzing::links_and_routes;
