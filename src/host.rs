//! The node beside the rules: what is set or removed there once.
//!
//! - `sysctl` sets what conntrack and IPVS need, at a start.

pub mod sysctl;
