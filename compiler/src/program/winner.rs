//! The claim that takes precedence at a frontend, and what it means for packets.

use std::sync::Arc;

use ipnet::IpNet;

use super::fragment::{Target, Unserved};
use super::picks::PickId;
use crate::frontend::{Frontend, PortKey};
use crate::net::Backend;
use crate::nft::pick::{Clients, Pick};
use crate::nft::set::{Scope, View};
use crate::nft::slots::Slot;
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
    /// Returns the pick; `None` if connections are rejected.
    pub fn pick(&self) -> Option<Pick> {
        let target = self.target;
        let clients = match (&target.local, self.rank.is_external()) {
            (_, false) => Clients::Kept,
            (None, true) => Clients::Masqueraded,
            (Some(_), true) => Clients::Split,
        };
        match (backends(&target.slots), target.unserved) {
            (Some(_), _) if target.ipvs.is_some() => Some(Pick::by_ipvs(clients)),
            (Some(backends), _) => Some(Pick { clients, affinity: target.affinity, backends }),
            (None, Unserved::Drop) => Some(Pick::DROP),
            (None, Unserved::Reject) => None,
        }
    }

    /// Returns the backends for clients from outside, if those are separate.
    pub fn local(&self) -> Option<&Arc<[Slot]>> {
        self.target.local.as_ref().filter(|_| self.rank.is_external())
    }

    /// Returns the timeout of session affinity and the backends by slot in a view, if our rules
    /// choose among them.
    pub(crate) fn slots(&self, view: View) -> Option<(Option<u32>, &Arc<[Slot]>)> {
        let slots = match view {
            View::Cluster => Some(&self.target.slots),
            View::Local => self.local(),
        };
        let slots = slots.filter(|_| self.target.ipvs.is_none())?;
        Some((self.target.affinity, slots))
    }

    /// Returns the real servers for IPVS, which has one list for all clients: under policy Local
    /// the local backends if there are any. If there are none, clients from outside do not reach
    /// IPVS.
    pub(super) fn reals(&self) -> impl Iterator<Item = Backend> {
        let local = self.local().filter(|local| !local.is_empty());
        local.unwrap_or(&self.target.slots).iter().map(|slot| slot.backend)
    }

    /// Returns the pick for clients from outside, if they have backends of their own.
    pub fn local_pick(&self) -> Option<Pick> {
        let backends = backends(self.local()?)?;
        if self.target.ipvs.is_some() {
            return Some(Pick::by_ipvs(Clients::Kept));
        }
        Some(Pick { clients: Clients::Kept, affinity: self.target.affinity, backends })
    }

    /// Returns the networks that may connect, if clients are restricted.
    pub fn sources(&self) -> Option<&[IpNet]> {
        self.target.sources.as_deref().filter(|_| self.rank == Rank::LoadBalancerVip)
    }

    /// Returns the pick chains that the frontend uses.
    pub(super) fn picks(&self, frontend: Frontend) -> [Option<PickId>; 2] {
        let id = |view, pick: Option<Pick>| {
            let (family, scope) = (frontend.family(), Scope::of(frontend));
            pick.map(|pick| PickId { family, scope, view, pick })
        };
        [id(View::Cluster, self.pick()), id(View::Local, self.local_pick())]
    }
}

fn backends(slots: &[Slot]) -> Option<u32> {
    u32::try_from(slots.len()).ok().filter(|n| *n > 0)
}

impl PartialEq for Winner<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.rank == other.rank
            && self.owner == other.owner
            && (Arc::ptr_eq(self.target, other.target) || self.target == other.target)
    }
}
