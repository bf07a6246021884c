//! A Service port in one family: its frontends, and its endpoints with the reasons why some are not
//! used. The reasons are those of the decision itself.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU16;

use rulec_compiler::Model;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::model::Entry;
use rulec_compiler::net::{Backend, Family, Protocol};
use rulec_compiler::object::{Conditions, EndpointSlice, Pod, Service, ServicePort, TrafficPolicy};
use rulec_compiler::resolve::select::Selection;
use rulec_compiler::resolve::{Candidate, Route, Seen, candidates, look};
use serde::Serialize;

use super::frontend::{From, FrontendView};
use super::known::Known;

/// A Service port in one family.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PortView {
    #[serde(skip)]
    pub(super) key: PortKey,
    pub(super) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) port: Option<NonZeroU16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node_port: Option<NonZeroU16>,
    pub(super) family: Family,
    pub(super) frontends: Vec<FrontendView>,
    pub(super) endpoints: Vec<EndpointView>,
}

/// An endpoint of a Service port.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointView {
    /// Its address and port; only the address if it has no port, and empty if it has neither.
    pub(super) endpoint: String,
    /// The object that names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) object: Option<String>,
    /// Where the object was read from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) node: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) conditions: Option<Conditions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) weight: Option<u8>,
    /// Whether it gets new connections, under any policy.
    pub(super) used: bool,
    /// New connections to it, if they are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) connections: Option<u64>,
    /// The flows that conntrack has to it, if they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) flows: Option<u64>,
    /// Why it is not used.
    pub(super) unused: Vec<Reason>,
}

/// The reason why an endpoint is not used.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Reason {
    /// The policy under which it is not used; missing if it is not used at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) policy: Option<TrafficPolicy>,
    pub(super) reason: String,
}

/// The backends that the kernel has under each policy.
#[derive(Default)]
struct Held {
    cluster: BTreeSet<Backend>,
    local: BTreeSet<Backend>,
}

impl Held {
    fn of(frontends: &[FrontendView]) -> Self {
        let mut held = Self::default();
        for frontend in frontends {
            for path in &frontend.paths {
                let is_local = match path.clients {
                    From::All => frontend.policy == Some(TrafficPolicy::Local),
                    From::Inside => false,
                    From::Outside => true,
                };
                let under = if is_local { &mut held.local } else { &mut held.cluster };
                under.extend(path.backends.iter().map(|backend| backend.endpoint));
            }
        }
        held
    }

    fn under(&self, policy: TrafficPolicy) -> &BTreeSet<Backend> {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    fn all(&self) -> impl Iterator<Item = Backend> {
        self.cluster.union(&self.local).copied()
    }
}

impl PortView {
    /// Describes a port of a Service that is known.
    pub(super) fn of(
        known: &Known,
        model: &Model,
        service: &Service,
        port: &ServicePort,
        route: &Route,
    ) -> Self {
        let frontends: Vec<FrontendView> = route
            .frontends
            .iter()
            .map(|(frontend, rank)| {
                let policy = if rank.is_external() { route.external } else { route.internal };
                FrontendView::of(&known.state, &route.port, *frontend, Some((*rank, policy)))
            })
            .collect();
        Self {
            key: PortKey::clone(&route.port),
            name: port.name.to_string(),
            protocol: Some(port.protocol),
            port: Some(port.port),
            node_port: port.node_port,
            family: route.family,
            endpoints: endpoints(known, model, service, port, route, &frontends),
            frontends,
        }
    }

    /// Describes a port of which only the kernel's content is known.
    pub(super) fn held(key: &PortKey, family: Family, frontends: Vec<FrontendView>) -> Self {
        Self {
            key: key.clone(),
            name: key.port.to_string(),
            protocol: frontends.first().map(|it| it.frontend.protocol()),
            port: None,
            node_port: None,
            family,
            endpoints: Held::of(&frontends).all().map(EndpointView::held).collect(),
            frontends,
        }
    }
}

impl EndpointView {
    fn at(endpoint: String) -> Self {
        Self { endpoint, ..Self::default() }
    }

    /// An endpoint that the kernel has, and no object that is known.
    fn held(backend: Backend) -> Self {
        Self { used: true, ..Self::at(backend.to_string()) }
    }

    fn of_slice(self, entry: &Entry<EndpointSlice>) -> Self {
        let object = Some(format!("EndpointSlice {}", entry.object.key));
        Self { object, from: Some(entry.provenance.to_string()), ..self }
    }

    fn of_pod(self, entry: &Entry<Pod>) -> Self {
        let object = Some(format!("Pod {}", entry.object.key));
        Self { object, from: Some(entry.provenance.to_string()), ..self }
    }

    fn without(self, reason: String) -> Self {
        Self { unused: vec![Reason { policy: None, reason }], ..self }
    }
}

/// What decides whether an endpoint is used: the policies, and what the kernel has.
struct Judge<'a> {
    held: Held,
    selections: Vec<(TrafficPolicy, Selection<'a>)>,
    /// Why the kernel lacks an endpoint that should be used.
    lacking: String,
}

impl Judge<'_> {
    /// Adds to an endpoint whether it is used, and why not.
    fn judge(
        &self,
        backend: Backend,
        candidate: &Candidate<'_>,
        view: EndpointView,
    ) -> EndpointView {
        let is_held = |policy| self.held.under(policy).contains(&backend);
        let lacking = self.selections.iter().filter(|(policy, _)| !is_held(*policy));
        let mut unused: Vec<Reason> = lacking
            .map(|(policy, selection)| {
                let reason = selection.unused(candidate).map(|unused| unused.to_string());
                let reason = reason.unwrap_or_else(|| self.lacking.clone());
                Reason { policy: Some(*policy), reason }
            })
            .collect();
        let used = unused.len() < self.selections.len();
        let first = unused.first().map(|it| it.reason.clone()).unwrap_or_default();
        if !used && unused.iter().all(|it| it.reason == first) {
            unused.truncate(1);
            unused.iter_mut().for_each(|reason| reason.policy = None);
        }
        let conditions = Some(candidate.conditions);
        let weight = (!candidate.weight.is_default()).then(|| candidate.weight.get());
        EndpointView { used, unused, conditions, weight, ..view }
    }
}

fn endpoints(
    known: &Known,
    model: &Model,
    service: &Service,
    port: &ServicePort,
    route: &Route,
    frontends: &[FrontendView],
) -> Vec<EndpointView> {
    let settings = &known.side.settings;
    let found = candidates(model, settings, service, port, route.family);
    let zone = model.node(&settings.node_name).and_then(|node| node.object.zone.as_ref());
    let select = |policy| match policy {
        TrafficPolicy::Cluster => Selection::cluster(&found, &settings.node_name, zone),
        TrafficPolicy::Local => Selection::local(&found),
    };
    let judge = Judge {
        held: Held::of(frontends),
        selections: route.policies().map(|policy| (policy, select(policy))).collect(),
        lacking: lacking(known, service, frontends),
    };
    let mut views: BTreeMap<Backend, EndpointView> = BTreeMap::new();
    let mut others: Vec<EndpointView> = Vec::new();
    look(model, settings, service, port, route.family, |seen| match seen {
        Seen::Endpoint(backend, candidate, entry) if found.get(&backend) == Some(&candidate) => {
            views.entry(backend).or_insert_with(|| {
                let named = entry.object.endpoints.iter().find(|it| it.address == backend.address);
                let node = named.and_then(|it| Some(it.node.as_ref()?.to_string()));
                let view = EndpointView { node, ..EndpointView::at(backend.to_string()) };
                judge.judge(backend, &candidate, view.of_slice(entry))
            });
        }
        Seen::Pod(backend, candidate, entry) if found.get(&backend) == Some(&candidate) => {
            views.entry(backend).or_insert_with(|| {
                let node = entry.object.node.as_ref().unwrap_or(&settings.node_name).to_string();
                let view = EndpointView::at(backend.to_string());
                let view = EndpointView { node: Some(node), ..view };
                judge.judge(backend, &candidate, view.of_pod(entry))
            });
        }
        // Another entry for the same endpoint counts.
        Seen::Endpoint(..) | Seen::Pod(..) => {}
        Seen::NoSlice(entry, why) => others.extend(entry.object.endpoints.iter().map(|endpoint| {
            let view = EndpointView::at(endpoint.address.to_string());
            let node = endpoint.node.as_ref().map(ToString::to_string);
            EndpointView { node, ..view.of_slice(entry).without(why.to_string()) }
        })),
        Seen::NoPod(entry, why) => {
            others.push(EndpointView::default().of_pod(entry).without(why.to_string()));
        }
    });
    // The kernel may be behind, or keep what no source names.
    for backend in judge.held.all().filter(|backend| !found.contains_key(backend)) {
        views.insert(backend, EndpointView::held(backend));
    }
    views.into_values().chain(others).collect()
}

/// Returns why the kernel lacks an endpoint that should be used.
fn lacking(known: &Known, service: &Service, frontends: &[FrontendView]) -> String {
    if let Some(refused) = known.refused(&service.key) {
        return format!("the kernel refuses the Service: {}", refused.error);
    }
    let takers: BTreeSet<&String> =
        frontends.iter().filter_map(|it| it.taken_by.as_ref()).collect();
    if frontends.iter().all(|it| it.taken_by.is_some()) && !takers.is_empty() {
        let takers: Vec<&str> = takers.into_iter().map(String::as_str).collect();
        return format!("each frontend is of another Service: {}", takers.join(", "));
    }
    "the kernel does not have it: not yet, or there is no room for more endpoints".to_owned()
}
