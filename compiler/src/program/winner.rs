//! The claim that takes precedence at a frontend, and what it means for packets.

use std::sync::Arc;

use ipnet::IpNet;

use super::fragment::{Target, Unserved};
use crate::frontend::PortKey;
use crate::net::Backend;
use crate::nft::code::{Class, Clients, Code};
use crate::nft::group::Group;
use crate::resolve::Rank;

/// The claim that takes precedence at a frontend.
#[derive(Clone, Debug)]
pub struct Winner<'a> {
    /// The rank of the claim.
    pub rank: Rank,
    /// The owner.
    pub owner: &'a Arc<PortKey>,
    /// The target.
    pub target: &'a Arc<Target>,
}

impl Winner<'_> {
    /// Returns the code; `None` if connections are rejected.
    pub fn code(&self) -> Option<Code> {
        let target = self.target;
        let clients = match (&target.local, self.rank.is_external()) {
            (_, false) => Clients::Internal,
            (None, true) => Clients::Masqueraded,
            (Some(_), true) => Clients::Split,
        };
        let special = |class| Some(Code { group: target.group.id?, clients, class });
        match (target.group.code(clients), target.unserved) {
            (Some(_), _) if target.ipvs.is_some() => special(Class::Ipvs),
            (Some(code), _) => Some(code),
            (None, Unserved::Drop) => special(Class::Dropped),
            (None, Unserved::Reject) => None,
        }
    }

    /// Returns the backends for clients from outside, if those are separate.
    pub fn local(&self) -> Option<&Group> {
        self.target.local.as_ref().filter(|_| self.rank.is_external())
    }

    /// Returns the real servers for IPVS, which has one list for all clients: under policy Local
    /// the local backends if there are any. If there are none, clients from outside do not reach
    /// IPVS.
    pub(super) fn reals(&self) -> impl Iterator<Item = Backend> {
        let local = self.local().filter(|local| !local.slots.is_empty());
        local.unwrap_or(&self.target.group).slots.iter().map(|slot| slot.backend)
    }

    /// Returns the networks that may connect, if clients are restricted.
    pub fn sources(&self) -> Option<&[IpNet]> {
        self.target.sources.as_deref().filter(|_| self.rank == Rank::LoadBalancerVip)
    }
}

impl PartialEq for Winner<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
            && self.owner == other.owner
            && (Arc::ptr_eq(self.target, other.target) || self.target == other.target)
    }
}
