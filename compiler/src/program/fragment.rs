//! Fragments: the content that one Service puts into the kernel.

use std::sync::Arc;

use ipnet::IpNet;

use crate::frontend::{Frontend, PortKey};
use crate::net::{Backend, Family};
use crate::nft::element::Key;
use crate::nft::slots::Slot;
use crate::resolve::Rank;
use crate::scheduling::Balancing;

/// The content that a Service puts into the kernel.
pub type Fragment = [PortFragment];

/// The part of a fragment that belongs to one Service port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFragment {
    /// The Service port.
    pub port: Arc<PortKey>,
    /// The family.
    pub family: Family,
    /// The frontends it claims.
    pub frontends: Box<[(Frontend, Rank)]>,
    /// The members of sets it needs, sorted.
    pub members: Box<[Key]>,
    /// The target of its cluster address.
    pub internal: Arc<Target>,
    /// The target of its other frontends.
    pub external: Arc<Target>,
    /// The slots of the backends under each policy. Each has its own history, independent of the
    /// frontends that currently use it.
    pub(super) slots: Slots,
    /// True if a change of other facts of the node could change it.
    pub(super) depends_on_node: bool,
}

/// The slots of a port's backends under each policy; `None` if no frontend uses the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slots {
    pub(super) cluster: Option<Arc<[Slot]>>,
    pub(super) local: Option<Arc<[Slot]>>,
}

impl PortFragment {
    /// Returns the target of a frontend with this rank.
    pub fn target(&self, rank: Rank) -> &Arc<Target> {
        if rank.is_external() { &self.external } else { &self.internal }
    }
}

/// The destination of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The timeout in seconds, with session affinity.
    pub affinity: Option<u32>,
    /// The backends by slot.
    pub slots: Arc<[Slot]>,
    /// The treatment of connections if there is no backend.
    pub unserved: Unserved,
    /// Under external policy Local, the backends by slot for clients from outside; if there are
    /// none, their connections are dropped.
    pub local: Option<Arc<[Slot]>>,
    /// The networks that may connect to the VIPs of load balancers; `None` without a restriction.
    pub sources: Option<Arc<[IpNet]>>,
    /// The number of backends that are left out because session affinity has no room for them.
    pub left_out: usize,
    /// The balancing by IPVS, in IPVS mode.
    pub ipvs: Option<Balancing>,
    /// For UDP, the backends to which existing flows may continue, sorted.
    pub serving: Option<Arc<[Backend]>>,
}

/// The treatment of connections that no backend can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unserved {
    /// They are rejected: there is no endpoint anywhere.
    Reject,
    /// They are dropped silently: there are endpoints, but not here.
    Drop,
}

impl Target {
    /// Returns true if it has only backends that any client may reach, without affinity.
    pub(crate) fn is_plain(&self) -> bool {
        self.affinity.is_none() && self.local.is_none() && self.sources.is_none()
    }
}
