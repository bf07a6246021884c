//! Existing flows that contradict the rules.
//!
//! Rules decide only about the first packet of a flow; all others follow it. UDP has no connection
//! that a reset could end, so as long as its client sends, a flow continues to the backend of its
//! first packet, or untranslated. A TCP or SCTP connection without an answer is similar: each new
//! attempt from the same port follows the first one. Connections that were answered are never
//! considered.
//!
//! The current rules, and not their history, decide if a flow may continue: `rules`. A change only
//! tells where to look: `Suspects`. The sink deletes the flows. `forecast` says of a change that is
//! only planned which flows it would delete.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use crate::frontend::Frontend;
use crate::name::NamespacedName;
use crate::net::{Backend, Family, Protocol};
use crate::nft::element::Key;
use crate::nft::slots::Slot;
use crate::program::{Program, Winner};
use crate::state::State;

mod forecast;
mod rules;

pub use forecast::{Fate, Forecast, Judged};
pub use rules::{Rules, node_port_addresses};

/// The maximum number of frontends that are tracked one by one; with more, every flow is examined.
/// This limits the memory that is used while flows cannot be deleted.
const MAX_FRONTENDS: usize = 65_536;

/// A flow of conntrack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// The protocol.
    pub protocol: Protocol,
    /// The address and port that the client sent to.
    pub destination: SocketAddr,
    /// The source of the answers: the backend, or the destination itself if nothing was translated.
    pub answers: SocketAddr,
}

impl Flow {
    /// Returns true if its destination was translated.
    pub fn is_translated(&self) -> bool {
        self.answers != self.destination
    }

    /// Returns the source of the answers, if it has a port.
    pub fn backend(&self) -> Option<Backend> {
        let port = NonZeroU16::new(self.answers.port())?;
        Some(Backend { address: self.answers.ip(), port })
    }
}

/// The kinds of flows that may be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKind {
    /// UDP flows.
    Udp,
    /// Unanswered attempts to connect over TCP or SCTP: `SYN_SENT`, `COOKIE_WAIT`.
    Unanswered,
}

/// Frontends whose flows may contradict the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Which {
    /// True for the flows of every frontend, and of every address that only Services can have.
    pub all: bool,
    /// The frontends whose flows may contradict the rules.
    pub frontends: BTreeSet<Frontend>,
    /// Frontends that no Service has any more: a translated flow to one of them was translated by
    /// us.
    pub gone: BTreeSet<Frontend>,
}

impl Which {
    /// Returns true if there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        !self.all && self.frontends.is_empty() && self.gone.is_empty()
    }

    /// Adds the frontends of another, and returns how many gone frontends were left out for lack of
    /// room.
    pub fn merge(&mut self, other: Self) -> usize {
        self.all |= other.all;
        self.frontends.extend(other.frontends);
        if self.all || self.frontends.len() > MAX_FRONTENDS {
            self.all = true;
            self.frontends.clear();
        }
        self.gone.extend(other.gone);
        let left_out = self.gone.len().saturating_sub(MAX_FRONTENDS);
        for _ in 0..left_out {
            self.gone.pop_last();
        }
        left_out
    }

    /// Returns true if flows of a family may be among them.
    pub fn concerns(&self, family: Family) -> bool {
        self.all || self.named().any(|frontend| frontend.family() == family)
    }

    /// Returns the frontends that are named.
    pub fn named(&self) -> impl Iterator<Item = Frontend> {
        self.frontends.iter().chain(&self.gone).copied()
    }

    fn names(&self, frontend: Frontend) -> bool {
        self.frontends.contains(&frontend) || self.gone.contains(&frontend)
    }
}

/// Hints at flows that may contradict the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suspects {
    /// UDP flows.
    pub udp: Which,
    /// Unanswered connections that were not translated: frontends that were added.
    pub came: Which,
    /// Unanswered connections that were translated: frontends that lost backends.
    pub lost: Which,
}

impl Suspects {
    /// Returns true if there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.came.is_empty() && self.lost.is_empty()
    }

    /// Adds other suspects, and returns how many gone frontends were left out for lack of room.
    pub fn merge(&mut self, other: Self) -> usize {
        self.udp.merge(other.udp) + self.came.merge(other.came) + self.lost.merge(other.lost)
    }

    /// Returns those to look at for flows of a kind.
    pub fn of(&self, kind: FlowKind) -> Pair<'_> {
        match kind {
            FlowKind::Udp => Pair { translated: &self.udp, untranslated: &self.udp },
            FlowKind::Unanswered => Pair { translated: &self.lost, untranslated: &self.came },
        }
    }

    /// Returns the flows that a change from one program to another may put in contradiction to the
    /// rules.
    pub fn between(applied: &Program, wanted: &Program) -> Self {
        Self::of_change(applied, node_addresses(applied.node()), wanted)
    }

    /// Likewise, from a program whose node ports answer at the addresses of these keys.
    fn of_change<'a>(
        applied: &Program,
        addresses: impl Iterator<Item = &'a Key>,
        wanted: &Program,
    ) -> Self {
        let mut suspects = Self::default();
        for frontend in applied.changed_frontends(wanted) {
            suspects.changed(frontend, applied.winner(frontend), wanted.winner(frontend));
        }
        // Where node ports did not answer before, all existing flows are untranslated.
        if addresses.ne(node_addresses(wanted.node())) {
            suspects.udp.all = true;
            suspects.came.all = true;
        }
        suspects
    }

    /// Returns everything, for when it is not known which rules there were when flows began.
    /// Frontends that were found in a kernel and that no Service wants are gone, except those of a
    /// Service that is held back, which still exist.
    pub fn everywhere(
        found: &State,
        wanted: &Program,
        is_held_back: impl Fn(&NamespacedName) -> bool,
    ) -> Self {
        let all = || Which { all: true, ..Which::default() };
        let mut suspects = Self { udp: all(), came: all(), lost: all() };
        for key in found.tables.values().flat_map(|table| table.elements.keys()) {
            let (Key::Service(frontend) | Key::Reject(frontend)) = *key else { continue };
            let owner = found.owner(frontend);
            if wanted.winner(frontend).is_none()
                && !owner.is_some_and(|owner| is_held_back(&owner.service))
            {
                suspects.gone(frontend);
            }
        }
        suspects
    }

    /// Adds only the gone frontends of other suspects.
    pub fn keep_gone(&mut self, other: &Self) -> usize {
        let gone = |which: &Which| Which { gone: which.gone.clone(), ..Which::default() };
        self.merge(Self { udp: gone(&other.udp), came: Which::default(), lost: gone(&other.lost) })
    }

    fn gone(&mut self, frontend: Frontend) {
        let which = match frontend.protocol() {
            Protocol::Udp => &mut self.udp,
            Protocol::Tcp | Protocol::Sctp => &mut self.lost,
        };
        which.gone.insert(frontend);
    }

    fn changed(&mut self, frontend: Frontend, old: Option<Winner<'_>>, new: Option<Winner<'_>>) {
        let Some(new) = new else { return self.gone(frontend) };
        match frontend.protocol() {
            Protocol::Udp => {
                let before = old.as_ref().map_or(&[][..], |old| old.serving());
                let now = new.serving();
                let stays = |backend: &Backend| now.binary_search(backend).is_ok();
                // Either no backend was serving before and one is now, or the frontend is new.
                let has_come = before.is_empty() && (old.is_none() || !now.is_empty());
                if has_come || !before.iter().all(stays) {
                    self.udp.frontends.insert(frontend);
                }
            }
            Protocol::Tcp | Protocol::Sctp => {
                let is_served = |winner: &Winner<'_>| !winner.target.group.slots.is_empty();
                let was_there = old.is_some();
                let Some(old) = old.filter(is_served) else {
                    if !was_there || is_served(&new) {
                        self.came.frontends.insert(frontend);
                    }
                    return;
                };
                let before = [&old.target.group].into_iter().chain(old.local());
                let before = before.map(|group| &group.slots);
                let now = [&new.target.group].into_iter().chain(new.local());
                let now = now.map(|group| &group.slots);
                let mut pairs = before.zip(now.clone().map(Some).chain([None; 2]));
                if pairs.any(|(before, now)| has_lost(before, now.map_or(&[], |now| now))) {
                    self.lost.frontends.insert(frontend);
                }
            }
        }
    }
}

/// The suspects among flows of one kind, by whether the flow is translated.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// For flows whose destination was translated.
    pub translated: &'a Which,
    /// For all others.
    pub untranslated: &'a Which,
}

/// Returns those of keys, in their order, that say where node ports answer.
fn node_addresses<'a>(keys: impl IntoIterator<Item = &'a Key>) -> impl Iterator<Item = &'a Key> {
    let is_one = |key: &&Key| matches!(key, Key::NodeIp(_) | Key::NodePortProtocol(..));
    keys.into_iter().filter(is_one)
}

/// Returns true if a backend is gone. Most stay in place, so the same place is checked first.
fn has_lost(before: &[Slot], now: &[Slot]) -> bool {
    (0..).zip(before).any(|(place, slot): (usize, _)| {
        let is_it = |other: &Slot| other.backend == slot.backend;
        !now.get(place).is_some_and(is_it) && !now.iter().any(is_it)
    })
}
