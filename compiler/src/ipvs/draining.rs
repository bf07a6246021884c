//! Draining: real servers that no Service wants any more keep their connections for a time.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::ops::Bound;

use im::OrdMap;

use super::{RealServer, Server, State, VirtualServer};
use crate::net::{Backend, Protocol};

/// A draining real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Draining {
    /// Its virtual server.
    pub server: VirtualServer,
    /// Its address and port.
    pub backend: Backend,
}

/// The draining real servers, each with its end. Times are in seconds of the monotonic clock.
#[derive(Clone, Debug, Default)]
pub(crate) struct Drains {
    ends: OrdMap<Draining, u32>,
    now: u32,
}

/// The start of a scan: IPv4 sorts before IPv6, and port 1 is the lowest.
const FIRST_BACKEND: Backend =
    Backend { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: NonZeroU16::MIN };

impl Drains {
    /// Starts without any, at a time.
    pub(crate) fn at(now: u32) -> Self {
        Self { ends: OrdMap::new(), now }
    }

    /// Sets the clock: real servers that begin to drain later begin at that time.
    pub(crate) fn set_clock(&mut self, now: u32) {
        self.now = now;
    }

    /// Returns all of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Draining, u32)> {
        self.ends.iter().map(|(real, until)| (*real, *until))
    }

    /// Returns those of a virtual server.
    pub(crate) fn of(&self, server: VirtualServer) -> impl Iterator<Item = (Backend, u32)> {
        let from = Draining { server, backend: FIRST_BACKEND };
        let range = self.ends.range((Bound::Included(from), Bound::Unbounded));
        range
            .take_while(move |(real, _)| real.server == server)
            .map(|(real, until)| (real.backend, *until))
    }

    /// Removes one.
    pub(crate) fn remove(&mut self, real: Draining) {
        self.ends.remove(&real);
    }

    /// Follows a change of a virtual server: `active` are its backends now, `gone` those that it
    /// had and may have lost, and `drain` is how long, in seconds, they keep their connections. UDP
    /// has no connections to keep: its flows find another backend. The end of those that already
    /// drain is limited by the current drain time; if that is 0, they are removed.
    pub(crate) fn follow(
        &mut self,
        server: VirtualServer,
        active: &BTreeSet<Backend>,
        mut gone: BTreeSet<Backend>,
        drain: u32,
    ) {
        let real = |backend| Draining { server, backend };
        let until = self.now.saturating_add(drain);
        let held: Vec<(Backend, u32)> = self.of(server).collect();
        for (backend, held) in held {
            gone.remove(&backend);
            if drain == 0 || active.contains(&backend) {
                self.ends.remove(&real(backend));
            } else if until < held {
                self.ends.insert(real(backend), until);
            }
        }
        if drain > 0 && server.protocol != Protocol::Udp {
            gone.retain(|backend| !active.contains(backend));
            self.ends.extend(gone.into_iter().map(|backend| (real(backend), until)));
        }
    }

    /// Continues where an earlier process was: the time of those whose time has begun runs on.
    pub(crate) fn continue_from(&mut self, server: VirtualServer, held: &Server) {
        for (backend, real) in &held.reals {
            let Some(until) = real.unwrap_or_default().until() else { continue };
            if let Some(end) = self.ends.get_mut(&Draining { server, backend: *backend }) {
                *end = until.min(*end);
            }
        }
    }

    /// Removes those that a kernel does not hold, for example after a failed commit: they have no
    /// connections. The end of the others is not later than the one that the kernel holds.
    pub(crate) fn limit_to(&mut self, held: &State) {
        let until = |real: &Draining, until: u32| {
            let real = held.servers.get(&real.server)?.reals.get(&real.backend)?;
            let held = real.and_then(RealServer::until);
            Some(until.min(held.unwrap_or(until)))
        };
        let all: Vec<(Draining, u32)> = self.iter().collect();
        for (real, asked) in all {
            match until(&real, asked) {
                Some(until) if until < asked => {
                    self.ends.insert(real, until);
                }
                Some(_) => {}
                None => {
                    self.ends.remove(&real);
                }
            }
        }
    }

    /// Returns the virtual servers whose draining real servers differ. Parts that both share are
    /// not visited.
    pub(crate) fn diff(&self, other: &Self) -> BTreeSet<VirtualServer> {
        let changed = self.ends.diff(&other.ends).map(|item| match item {
            im::ordmap::DiffItem::Add(real, _) | im::ordmap::DiffItem::Remove(real, _) => real,
            im::ordmap::DiffItem::Update { new: (real, _), .. } => real,
        });
        changed.map(|real| real.server).collect()
    }
}
