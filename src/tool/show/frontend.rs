//! A frontend, and where connections to it go.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use rulec_compiler::frontend::{PortKey, View};
use rulec_compiler::net::Backend;
use rulec_compiler::nft::code::Clients;
use rulec_compiler::nft::element::Key;
use rulec_compiler::object::TrafficPolicy;
use rulec_compiler::resolve::Rank;
use rulec_compiler::{Frontend, State};
use serde::Serialize;

use crate::tool::balancing::{self, Balancing};

/// Where a Service is reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FrontendView {
    #[serde(skip)]
    pub(super) frontend: Frontend,
    #[serde(skip)]
    pub(super) affinity: Option<u32>,
    #[serde(skip)]
    pub(super) load_balancing: Option<String>,
    #[serde(rename = "frontend")]
    pub(super) name: String,
    /// The field that asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<TrafficPolicy>,
    /// The Service port that has it, if that is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) taken_by: Option<String>,
    /// What happens to connections: one entry for all clients, or two if those from outside are
    /// treated apart. None if the kernel does not have it.
    pub(super) paths: Vec<PathView>,
}

/// What happens to connections of some clients.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PathView {
    pub(super) clients: From,
    pub(super) outcome: Outcome,
    pub(super) backends: Vec<BackendView>,
}

/// Where clients are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum From {
    /// Anywhere.
    All,
    /// Pods, and the node itself.
    Inside,
    /// Everyone else.
    Outside,
}

/// What happens to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Outcome {
    /// It goes to one of the backends.
    Backend,
    /// It is refused: there is no endpoint.
    Reject,
    /// It gets no answer: there are endpoints, but not here.
    Drop,
}

/// A backend with its share of new connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BackendView {
    pub(super) endpoint: Backend,
    /// Its share, and the sum of all.
    pub(super) share: [u32; 2],
}

impl FrontendView {
    /// Describes a frontend of a Service port as a kernel has it. `asked` is the field that asks for
    /// it and the policy, if they are known.
    pub(super) fn of(
        state: &State,
        port: &PortKey,
        frontend: Frontend,
        asked: Option<(Rank, TrafficPolicy)>,
    ) -> Self {
        let owner = state.owner(frontend).filter(|owner| {
            let own = Arc::new(port.clone());
            ***owner != *own.comment() && ***owner != *port
        });
        let paths = if owner.is_some() { Vec::new() } else { paths(state, frontend) };
        let group = state.group(View::Cluster, frontend);
        let affinity = group.as_ref().and_then(|group| Some(group.affinity?.affinity.timeout));
        let name = |choice| balancing::name(choice).unwrap_or("random").to_owned();
        Self {
            frontend,
            affinity,
            load_balancing: group.filter(|it| !it.slots.is_empty()).map(|it| name(it.choice)),
            name: frontend.to_string(),
            field: asked.map(|(rank, _)| rank.field()),
            policy: asked.map(|(_, policy)| policy),
            taken_by: owner.map(ToString::to_string),
            paths,
        }
    }

    /// Returns the address, if it is one.
    pub(super) fn address(&self) -> Option<IpAddr> {
        if let Frontend::Address { address, .. } = self.frontend { Some(address) } else { None }
    }

    /// Returns its port.
    pub(super) fn number(&self) -> NonZeroU16 {
        let (Frontend::Address { port, .. } | Frontend::NodePort { port, .. }) = self.frontend;
        port
    }

    /// Returns whether it is a node port.
    pub(super) fn is_node_port(&self) -> bool {
        matches!(self.frontend, Frontend::NodePort { .. })
            || self.field == Some(Rank::NodePort.field())
    }
}

fn paths(state: &State, frontend: Frontend) -> Vec<PathView> {
    let Some(code) = state.code(frontend) else {
        let table = state.tables.get(&frontend.family());
        let is_rejected =
            table.is_some_and(|table| table.elements.contains_key(&Key::Reject(frontend)));
        let rejected =
            PathView { clients: From::All, outcome: Outcome::Reject, backends: Vec::new() };
        return is_rejected.then_some(rejected).into_iter().collect();
    };
    let path = |clients, view| {
        let Balancing { shares, .. } = Balancing::of(state, view, frontend);
        let sum = shares.values().sum();
        let backends: Vec<BackendView> = shares
            .into_iter()
            .map(|(endpoint, share)| BackendView { endpoint, share: [share, sum] })
            .collect();
        let outcome = if backends.is_empty() { Outcome::Drop } else { Outcome::Backend };
        PathView { clients, outcome, backends }
    };
    let has_local = state.code_for(View::Local, frontend).is_some();
    match (code.clients == Clients::Split, has_local) {
        // IPVS has one list for all clients: the local endpoints, if there are any.
        (true, true) if code.is_by_ipvs() => vec![path(From::All, View::Cluster)],
        (true, true) => vec![path(From::Inside, View::Cluster), path(From::Outside, View::Local)],
        (true, false) => {
            let dropped =
                PathView { clients: From::Outside, outcome: Outcome::Drop, backends: Vec::new() };
            vec![path(From::Inside, View::Cluster), dropped]
        }
        (false, _) => vec![path(From::All, View::Cluster)],
    }
}
