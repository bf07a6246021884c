//! How new connections are spread over the backends of a frontend, as a state tells.

use std::collections::BTreeMap;

use rulec_compiler::Frontend;
use rulec_compiler::frontend::View;
use rulec_compiler::ipvs::VirtualServer;
use rulec_compiler::net::Backend;
use rulec_compiler::nft::Code;
use rulec_compiler::nft::group::Choice;
use rulec_compiler::nft::maglev::{Hash, Maglev};
use rulec_compiler::state::State;

/// How new connections are spread.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Balancing {
    /// How a backend is chosen, if our rules choose.
    pub(super) choice: Choice,
    /// The shares of backends, in slots of our rules or weights of IPVS.
    pub(super) shares: BTreeMap<Backend, u32>,
    /// The maximum number of connections to each real server of IPVS.
    pub(super) limit: Option<u32>,
}

impl Balancing {
    /// Returns that of a frontend, for one view of it.
    pub(super) fn of(state: &State, view: View, frontend: Frontend) -> Self {
        let mut found = Self::default();
        if let Some(group) = state.group(view, frontend) {
            found.choice = group.choice;
            for slot in group.slots.iter() {
                *found.shares.entry(slot.backend).or_default() += 1;
            }
        }
        let is_by_ipvs = state.code(frontend).is_some_and(Code::is_by_ipvs);
        let server = VirtualServer::of(frontend).filter(|_| is_by_ipvs);
        let server = server.and_then(|server| state.ipvs.servers.get(&server));
        let reals = server.into_iter().flat_map(|server| &server.reals);
        for (backend, real) in reals {
            // Without a weight, it only keeps the connections that it has.
            if let Some(real) = real.filter(|real| real.weight > 0) {
                found.shares.insert(*backend, real.weight);
                found.limit = real.threshold;
            }
        }
        found
    }

    /// Returns true if a backend that both have has another share.
    pub(super) fn weighs_otherwise(&self, other: &Self) -> bool {
        let both =
            || self.shares.iter().filter_map(|(it, share)| Some((share, other.shares.get(it)?)));
        match self.choice {
            // A backend that comes or goes changes the shares of all others.
            Choice::Maglev(_) if !self.shares.keys().eq(other.shares.keys()) => false,
            Choice::Maglev(_) => both().any(|(one, other)| one.abs_diff(*other) > ROUNDED),
            Choice::Random | Choice::RoundRobin => both().any(|(one, other)| one != other),
        }
    }

    /// Returns the share of a backend and the sum of all, unless all have the same.
    pub(super) fn share(&self, backend: Backend) -> Option<(u32, u32)> {
        let share = self.shares.get(&backend)?;
        let least = self.shares.values().min()?;
        let most = self.shares.values().max()?;
        let rounded = if let Choice::Maglev(_) = self.choice { ROUNDED } else { 0 };
        let all = self.shares.values().sum();
        // Members take turns, whatever their weights.
        let counts = self.choice != Choice::RoundRobin && most - least > rounded;
        counts.then_some((*share, all))
    }
}

/// In a table, backends of one weight may differ by one slot.
const ROUNDED: u32 = 1;

/// Returns the name of a way of load balancing; `None` for the default.
pub(super) fn name(choice: Choice) -> Option<&'static str> {
    match choice {
        Choice::Random => None,
        Choice::RoundRobin => Some("round-robin"),
        Choice::Maglev(Maglev { hash: Hash::Connection, .. }) => Some("maglev"),
        Choice::Maglev(Maglev { hash: Hash::Source, .. }) => Some("maglev-source"),
    }
}

/// Describes a way of load balancing; `None` for the default.
pub(super) fn description(choice: Choice) -> Option<String> {
    let how = match choice {
        Choice::Random => return None,
        Choice::RoundRobin => "endpoints take turns".to_owned(),
        Choice::Maglev(Maglev { hash, size }) => {
            let what = match hash {
                Hash::Connection => "address and port",
                Hash::Source => "address",
            };
            format!("by a hash of the client's {what}, in a table of {} slots", size.slots())
        }
    };
    Some(format!("load balancing {}: {how}", name(choice)?))
}
