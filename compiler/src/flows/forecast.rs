//! What becomes of the flows that exist, if a kernel's rules become those of a program.
//!
//! A daemon decides about flows after a change, by `Suspects` and `Rules`. The forecast asks the
//! same two before it. The program of which the kernel holds the rules is reconstructed from them.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::rules::{answering, node_port_addresses};
use super::{Flow, FlowKind, Rules, Suspects, node_addresses};
use crate::frontend::{Frontend, PortKey};
use crate::net::{Family, Protocol};
use crate::nft::element::Key;
use crate::program::{Program, Winner};
use crate::state::State;

/// A change of rules, for questions about flows.
#[derive(Clone, Debug)]
pub struct Forecast {
    before: Rules,
    after: Rules,
    suspects: Suspects,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on as it is.
    Stays,
    /// It goes on to an endpoint that its frontend does not lead to any more, until the endpoint
    /// ends it.
    Lingers,
    /// It is deleted. The next packet begins another flow, by the new rules.
    Deleted,
}

/// A flow to a frontend, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    /// The frontend that it was sent to, as it is before the change or, if it is new, after it.
    pub frontend: Frontend,
    /// The Service port that has the frontend, likewise.
    pub owner: &'a Arc<PortKey>,
    /// What becomes of the flow.
    pub fate: Fate,
    /// True if it depends on the client where a new flow goes.
    pub depends_on_client: bool,
}

impl Forecast {
    /// Returns the forecast for a daemon that makes a kernel's content that of a program, on a node
    /// with these addresses. It has kept the content up to date so far; without any content, it
    /// starts with the change.
    pub fn new(found: &State, wanted: &Program, own: &[IpAddr]) -> Self {
        let applied = Program::held_in(found, Arc::clone(wanted.settings()));
        let keys = || found.tables.values().flat_map(|table| table.elements.keys());
        let localhost = found.tables.iter().filter(|(_, table)| table.serves_localhost());
        let localhost: Vec<Family> = localhost.map(|(family, _)| *family).collect();
        let addresses = answering(keys(), &localhost, own.iter().copied());
        let suspects = if found.tables.is_empty() {
            Suspects::everywhere(found, wanted, |_| false)
        } else {
            // A program has its keys in their own order.
            let keys: BTreeSet<&Key> = node_addresses(keys()).collect();
            let mut suspects = Suspects::of_change(&applied, keys.into_iter(), wanted);
            // UDP flows may go on to an endpoint that gets no new ones, of which the kernel does
            // not know. A flow to such an endpoint shows that it was one, or else the daemon would
            // have deleted the flow.
            let is_udp = |frontend: &Frontend| frontend.protocol() == Protocol::Udp;
            let udp = wanted.frontends().filter(is_udp);
            suspects.udp.frontends.extend(udp.filter(|it| applied.winner(*it).is_some()));
            suspects
        };
        let rules = |program: &Program, addresses| Rules::new(program, addresses, BTreeSet::new());
        let after = node_port_addresses(wanted, own.iter().copied());
        Self { before: rules(&applied, addresses), after: rules(wanted, after), suspects }
    }

    /// Returns what becomes of a flow; `None` if it is to no frontend, neither before nor after. A
    /// connection that was answered is of no kind.
    pub fn judge(&self, flow: &Flow, kind: Option<FlowKind>) -> Option<Judged<'_>> {
        let after = self.after.winner(flow);
        let named = self.before.winner(flow).or_else(|| after.clone());
        let (frontend, owner) = named.map(|(frontend, winner)| (frontend, winner.owner))?;
        let is_deleted = kind.is_some_and(|kind| self.after.rule_out(flow, self.suspects.of(kind)));
        let goes_on = |(_, winner): &(_, Winner<'_>)| winner.lets_go_on(flow);
        let fate = if is_deleted {
            Fate::Deleted
        } else if !flow.is_translated() || after.as_ref().is_some_and(goes_on) {
            Fate::Stays
        } else {
            Fate::Lingers
        };
        let depends_on_client =
            after.is_some_and(|(_, winner)| winner.sources().is_some() || winner.local().is_some());
        Some(Judged { frontend, owner, fate, depends_on_client })
    }
}
