//! The node beside the rules: what the daemon sets there, and what others have left.
//!
//! - `sysctl` sets what conntrack and IPVS need, at a start;
//! - `kube_proxy` finds and removes the remains of kube-proxy;
//! - `node` looks at what keeps connections to Services from working;
//! - `service_routes` removes the routes to Services.

pub mod kube_proxy;
pub mod node;
pub mod service_routes;
pub mod sysctl;
