//! Fragments: the content that one Service puts into the kernel.

use std::sync::Arc;

use ipnet::IpNet;

use crate::frontend::{Frontend, PortKey};
use crate::load_balancing::Weights;
use crate::net::{Backend, Family};
use crate::nft::element::Key;
use crate::nft::group::Group;
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
    /// The backends under each policy. Each group has its own history, independent of the frontends
    /// that currently use it.
    pub(crate) groups: Groups,
    /// True if a change of other facts of the node could change it.
    pub(super) depends_on_node: bool,
}

/// The groups of a port's backends under each policy; `None` if no frontend uses the policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    pub(super) cluster: Option<Group>,
    pub(super) local: Option<Group>,
}

impl Groups {
    /// Returns the groups.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.cluster.iter().chain(&self.local)
    }
}

impl PortFragment {
    /// Returns the target of a frontend with this rank.
    pub fn target(&self, rank: Rank) -> &Arc<Target> {
        if rank.is_external() { &self.external } else { &self.internal }
    }

    /// Returns the groups it has, whether or not a frontend leads to them now.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }
}

/// The destination of a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The timeout in seconds, with session affinity.
    pub affinity: Option<u32>,
    /// The backends.
    pub group: Group,
    /// The treatment of connections if there is no backend.
    pub unserved: Unserved,
    /// Under external policy Local, the backends for clients from outside; if there are none, their
    /// connections are dropped.
    pub local: Option<Group>,
    /// The networks that may connect to the VIPs of load balancers; `None` without a restriction.
    pub sources: Option<Arc<[IpNet]>>,
    /// The number of backends that are left out because there is no room for them.
    pub left_out: usize,
    /// The balancing by IPVS, in IPVS mode.
    pub ipvs: Option<Balancing>,
    /// The weights of the backends for IPVS. Our rules have slots for them.
    pub weights: Weights,
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
