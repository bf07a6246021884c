//! Claims on frontends that another Service port has: nothing in a kernel tells of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::{Frontend, Program, State};

use crate::tool::input::Side;

/// The claims of Service ports that lose, each with the port that has the frontend.
pub(super) type Refused = BTreeMap<(Arc<PortKey>, Frontend), Arc<PortKey>>;

/// Returns those of a program.
pub(super) fn of(program: &Program) -> Refused {
    let all = program.conflicts().into_iter().flat_map(|conflict| {
        let winner = conflict.winner;
        let losers = conflict.losers.into_iter();
        losers.map(move |loser| ((loser, conflict.frontend), Arc::clone(&winner)))
    });
    all.collect()
}

/// Returns those of some Services in a program.
pub(super) fn of_services(program: &Program, services: &BTreeSet<NamespacedName>) -> Refused {
    let fragments = services.iter().filter_map(|service| program.fragment(service));
    let claims = fragments
        .flat_map(|fragment| fragment.iter())
        .flat_map(|port| port.frontends.iter().map(move |(frontend, _)| (&port.port, *frontend)));
    let lost = claims.filter_map(|(port, frontend)| {
        let winner = program.winner(frontend)?.owner;
        (winner != port).then(|| ((Arc::clone(port), frontend), Arc::clone(winner)))
    });
    lost.collect()
}

/// Returns those of a side with a state, if its objects are known, too.
pub(super) fn in_state(side: &Side, state: &State) -> anyhow::Result<Option<Refused>> {
    side.model.as_ref().map(|_| Ok(of(&side.compile(state)?))).transpose()
}
