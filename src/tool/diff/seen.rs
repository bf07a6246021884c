//! What a state makes of one frontend.

use std::collections::BTreeSet;

use ipnet::IpNet;
use rulec_compiler::frontend::{PortKey, View};
use rulec_compiler::ipvs::{Attributes, VirtualServer};
use rulec_compiler::net::Backend;
use rulec_compiler::nft::element::Value;
use rulec_compiler::nft::group::Choice;
use rulec_compiler::nft::maglev::Maglev;
use rulec_compiler::nft::{Clients, Code, Key};
use rulec_compiler::scheduling::Scheduling;
use rulec_compiler::state::Held;
use rulec_compiler::{Frontend, State};

use super::fields::{self, Difference, LOAD_BALANCING, MAX_CONNECTIONS, SCHEDULER};
use crate::tool::balancing::{self, Balancing};

/// What happens to connections to a frontend, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// There is no backend.
    Refused,
    /// There are backends, but none that the policy allows.
    Dropped,
    /// Likewise, for clients from outside.
    DroppedFromOutside,
    Served,
}

/// The properties of a frontend in a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) owner: Option<PortKey>,
    /// `None` if connections are rejected.
    code: Option<Code>,
    /// The timeout of session affinity, if our rules choose the backend.
    affinity: Option<u32>,
    pub(super) backends: BTreeSet<Backend>,
    /// The backends for clients from outside, if those are handled separately.
    pub(super) local: Option<BTreeSet<Backend>>,
    /// The clients that may connect; `None` for all.
    pub(super) sources: Option<BTreeSet<IpNet>>,
    /// The attributes of its virtual server, if IPVS chooses the backend.
    attributes: Option<Attributes>,
    /// How new connections are spread over the backends.
    balancing: Balancing,
}

impl Seen {
    pub(super) fn of(state: &State, frontend: Frontend) -> Option<Self> {
        let table = state.tables.get(&frontend.family())?;
        let sources = state.sources(frontend).map(BTreeSet::from_iter);
        if let Some(held) = table.elements.get(&Key::Reject(frontend)) {
            let owner = held.owner.as_deref().cloned();
            return Some(Self { owner, sources, ..Self::default() });
        }
        let Held { value, owner, .. } = table.elements.get(&Key::Service(frontend))?;
        let code = if let Value::Code(code) = value { Some(*code) } else { None };
        let server = VirtualServer::of(frontend);
        let server = server.and_then(|server| state.ipvs.servers.get(&server));
        let server = server.filter(|_| code.is_some_and(Code::is_by_ipvs));
        let backends = |view| -> BTreeSet<Backend> {
            // The clients of both views have the same real servers, as far as they are allowed to
            // connect.
            let is_let_in = view == View::Cluster || state.code_for(view, frontend).is_some();
            match server {
                Some(server) => server.active().filter(|_| is_let_in).collect(),
                None => {
                    let group = state.group(view, frontend).unwrap_or_default();
                    group.slots.iter().map(|slot| slot.backend).collect()
                }
            }
        };
        let is_split = code.is_some_and(|code| code.clients == Clients::Split);
        let group = state.group(View::Cluster, frontend).unwrap_or_default();
        Some(Self {
            owner: owner.as_deref().cloned(),
            code,
            affinity: group.affinity.map(|class| class.affinity.timeout),
            backends: backends(View::Cluster),
            local: is_split.then(|| backends(View::Local)),
            sources,
            attributes: server.and_then(|server| server.attributes),
            balancing: Balancing::of(state, View::Cluster, frontend),
        })
    }

    /// Returns what happens to connections.
    pub(super) fn fate(&self) -> Fate {
        match self.code {
            None => Fate::Refused,
            Some(code) if code.is_dropped() => Fate::Dropped,
            Some(_) if self.backends.is_empty() => Fate::Refused,
            Some(_) if self.local.as_ref().is_some_and(BTreeSet::is_empty) => {
                Fate::DroppedFromOutside
            }
            Some(_) => Fate::Served,
        }
    }

    /// Returns the fields of a Service that make a difference in how clients are handled, except
    /// which clients are.
    pub(super) fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        if let (Some(old), Some(new)) = (self.code, other.code) {
            // If everything is dropped, nothing else is known about how clients are handled.
            if !old.is_dropped() && !new.is_dropped() {
                if self.affinity != other.affinity {
                    found.push(affinity(self.affinity, other.affinity));
                }
                if old.clients != new.clients {
                    let [from, to] = [old, new].map(policy);
                    found.push(Difference::new("spec.externalTrafficPolicy", from, to));
                }
            }
        }
        if let (Some(old), Some(new)) = (self.attributes, other.attributes) {
            if old.persistence != new.persistence {
                found.push(affinity(old.persistence, new.persistence));
            }
            if old.scheduling != new.scheduling {
                let [from, to] = [old, new].map(|it| scheduling(it.scheduling));
                found.push(Difference::new(&or_the_settings(SCHEDULER), from, to));
            }
        }
        if !self.backends.is_empty() && !other.backends.is_empty() {
            let (old, new) = (&self.balancing, &other.balancing);
            if old.choice != new.choice {
                let [from, to] = [old, new].map(|it| choice(it.choice));
                found.push(Difference::new(&or_the_settings(LOAD_BALANCING), from, to));
            } else if old.weighs_otherwise(new) {
                let [from, to] = [(old, new), (new, old)].map(|(it, other)| shares(it, other));
                found.push(Difference::new(WEIGHT, from, to));
            }
            if old.limit != new.limit {
                let [from, to] = [old, new].map(|it| fields::optional(it.limit));
                found.push(Difference::new(MAX_CONNECTIONS, from, to));
            }
        }
        found
    }
}

const WEIGHT: &str = "metadata.annotations[rulec.io/weight] of Pods or EndpointSlices";

/// How many backends with other weights are named.
const NAMED: usize = 3;

fn affinity(from: Option<u32>, to: Option<u32>) -> Difference {
    Difference::new("spec.sessionAffinity", fields::timeout(from), fields::timeout(to))
}

fn policy(code: Code) -> &'static str {
    if code.clients == Clients::Split { "Local" } else { "Cluster" }
}

fn or_the_settings(annotation: &str) -> String {
    format!("{annotation} or the settings")
}

fn scheduling(Scheduling { scheduler, flags }: Scheduling) -> String {
    let flags = flags.to_string();
    if flags.is_empty() { scheduler.to_string() } else { format!("{scheduler} with {flags}") }
}

fn choice(choice: Choice) -> String {
    let name = balancing::name(choice).unwrap_or("random");
    match choice {
        Choice::Maglev(Maglev { size, .. }) => format!("{name} with {} slots", size.slots()),
        Choice::Random | Choice::RoundRobin => name.to_owned(),
    }
}

/// Describes the shares of backends that have others on the other side.
fn shares(of: &Balancing, other: &Balancing) -> String {
    let all: u32 = of.shares.values().sum();
    let differs = |(backend, share): &(&Backend, &u32)| {
        other.shares.get(*backend).is_some_and(|other| other != *share)
    };
    let mut found = of.shares.iter().filter(differs);
    let named = found.by_ref().take(NAMED);
    let named = named.map(|(backend, share)| format!("{share} of {all} for {backend}"));
    let text = named.collect::<Vec<_>>().join(", ");
    match found.count() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}
