//! The virtual servers that a program wants of IPVS, and those of their real servers that drain.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::Program;
use super::fragment::PortFragment;
use super::winner::Winner;
use crate::frontend::{Frontend, PortKey};
use crate::ipvs::{self, Attributes, Draining, RealServer, Server, VirtualServer};
use crate::net::Backend;
use crate::nft::element::Key;
use crate::scheduling::Balancing;

/// The real servers that virtual servers had before a batch of changes.
pub(super) type Served = BTreeMap<VirtualServer, BTreeSet<Backend>>;

impl Program {
    /// Sets the monotonic clock, in seconds. Real servers that begin to drain later begin at that
    /// time.
    pub fn set_clock(&mut self, now: u32) {
        self.drains.set_clock(now);
    }

    /// Returns the draining real servers, each with its end.
    pub fn draining(&self) -> impl Iterator<Item = (Draining, u32)> {
        self.drains.iter()
    }

    /// Removes a real server if it is draining.
    pub fn retire_real(&mut self, real: Draining) {
        self.drains.remove(real);
    }

    /// Removes draining real servers that a kernel does not hold, for example after a failed
    /// commit: they have no connections. The end of the others is not later than the one that the
    /// kernel holds.
    pub fn drain_as_held(&mut self, held: &ipvs::State) {
        self.drains.limit_to(held);
    }

    /// Returns the virtual server of a frontend, if IPVS serves it.
    pub fn server(&self, frontend: Frontend) -> Option<(VirtualServer, Server)> {
        let winner = self.winner(frontend)?;
        let scheduling = winner.target.ipvs?.scheduling;
        let server = VirtualServer::of(frontend)?;
        let draining = self
            .drains
            .of(server)
            .map(|(backend, until)| (backend, Some(RealServer::draining(until))));
        let Balancing { max_connections, .. } = winner.target.ipvs?;
        let active = winner.reals().map(|backend| {
            let weight = winner.target.weights.of(backend).get().into();
            let threshold = max_connections.map(NonZeroU32::get);
            (backend, Some(RealServer { weight, threshold }))
        });
        let attributes = Attributes { scheduling, persistence: winner.target.affinity };
        let reals = draining.chain(active).collect();
        Some((server, Server { attributes: Some(attributes), reals }))
    }

    /// Returns all virtual servers, each with its owner.
    pub fn servers(&self) -> impl Iterator<Item = (VirtualServer, Server, &Arc<PortKey>)> {
        let is_used = self.settings.ipvs().is_some();
        let winners = self.claims.winners().filter(move |_| is_used);
        winners.filter_map(|(frontend, winner)| {
            let (server, held) = self.server(frontend)?;
            Some((server, held, winner.owner))
        })
    }

    /// Returns the addresses to bind to this node, each with its owner.
    pub fn vips(&self) -> impl Iterator<Item = (IpAddr, &Arc<PortKey>)> {
        self.members.iter().filter_map(|(key, owner)| {
            if let Key::Vip(address) = key { Some((address, owner)) } else { None }
        })
    }

    /// Returns the frontends whose draining real servers differ from another program's. Parts that
    /// both share are not visited.
    pub(crate) fn changed_draining(&self, wanted: &Self) -> BTreeSet<Frontend> {
        self.drains.diff(&wanted.drains).into_iter().map(VirtualServer::frontend).collect()
    }

    /// Notes the current real servers of the ports' frontends, if IPVS is used.
    pub(super) fn note_served<'a>(
        &self,
        ports: impl Iterator<Item = &'a PortFragment>,
        served: &mut Served,
    ) {
        if self.settings.ipvs().is_none() {
            return;
        }
        let servers = ports.flat_map(|port| port.frontends.iter());
        for server in servers.filter_map(|(frontend, _)| VirtualServer::of(*frontend)) {
            let reals = || self.winner(server.frontend()).iter().flat_map(Winner::reals).collect();
            served.entry(server).or_insert_with(reals);
        }
    }

    /// Starts to drain the real servers that virtual servers lost in a batch of changes. Only the
    /// final state of the batch matters: a frontend may be without an owner while it changes hands.
    pub(super) fn drain_all(&mut self, served: Served) {
        for (server, before) in served {
            self.drain(server, before);
        }
    }

    /// Lets real servers that a virtual server no longer has drain. If the frontend is gone, they
    /// are removed at once.
    pub(super) fn drain(&mut self, server: VirtualServer, gone: BTreeSet<Backend>) {
        let winner = self.winner(server.frontend());
        let balancing = winner.as_ref().and_then(|winner| winner.target.ipvs);
        let active: BTreeSet<Backend> = winner.iter().flat_map(Winner::reals).collect();
        let drain = balancing.map_or(0, |Balancing { drain, .. }| drain);
        self.drains.follow(server, &active, gone, drain);
    }

    /// Continues with real servers that a kernel holds and no Service wants any more: their time
    /// runs on if it has begun, and begins now if it has not. As in a running process, the current
    /// drain time limits it.
    pub(super) fn take_over_reals(&mut self, seed: &ipvs::State) {
        for (server, held) in &seed.servers {
            self.drain(*server, held.reals.keys().copied().collect());
            self.drains.continue_from(*server, held);
        }
    }
}
