//! What a Service leaves to be given out.

use serde::{Deserialize, Serialize};

use crate::net::Family;

/// The cluster addresses and node ports that a Service needs and does not write.
///
/// An API server gives them out before anyone sees the Service. A source without one gives them out
/// itself, so nothing in the compiler reads this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Asks {
    /// The families in which it needs a cluster address; `None` if it needs none.
    pub cluster_ips: Option<AskedFamilies>,
    /// Whether its ports without a node port need one.
    pub node_ports: bool,
    /// Whether it needs a `healthCheckNodePort`.
    pub health_check: bool,
}

impl Asks {
    /// Returns whether it needs nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The families in which a Service is to have cluster addresses. Those that it writes count, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AskedFamilies {
    /// `spec.ipFamilyPolicy`.
    pub policy: FamilyPolicy,
    /// The first of `spec.ipFamilies`; `None` means the first of the ranges that there are.
    pub first: Option<Family>,
}

/// `spec.ipFamilyPolicy` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FamilyPolicy {
    /// One family.
    SingleStack,
    /// Both families, as far as there are ranges.
    PreferDualStack,
    /// Both families.
    RequireDualStack,
}
