//! The node beside the rules: what the daemon sets there, and what others have left.
//!
//! - `sysctl` sets what conntrack and IPVS need, at a start;
//! - `kube_proxy` finds and removes the remains of kube-proxy.

pub mod kube_proxy;
pub mod sysctl;
