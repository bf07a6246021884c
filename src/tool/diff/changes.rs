//! The changes of one Service in terms of Services: frontends and backends.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use rulec_compiler::Frontend;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::ipvs::{Attributes, VirtualServer};
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Backend;
use rulec_compiler::nft::element::Value;
use rulec_compiler::nft::pick::Clients;
use rulec_compiler::nft::set::View;
use rulec_compiler::nft::{Key, Pick};
use rulec_compiler::state::{Held, Table};
use rulec_compiler::{Group, State};
use serde::Serialize;

use super::what::What;
use super::{Comparison, reason};

/// A change of a Service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FrontendChange {
    /// The kind of change.
    pub(super) what: What,
    /// The frontends that it concerns, as text.
    pub(super) frontends: Vec<String>,
    /// The backend, if it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<Backend>,
    /// The reason: the object and the field.
    pub(super) reason: String,
}

/// The properties of a frontend in a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    owner: Option<PortKey>,
    /// `None` if connections are rejected.
    pick: Option<Pick>,
    backends: BTreeSet<Backend>,
    /// The backends for clients from outside, if those are handled separately.
    local: Option<BTreeSet<Backend>>,
    /// The clients that may connect; `None` for all.
    sources: Option<BTreeSet<IpNet>>,
    /// The attributes of its virtual server, if IPVS chooses the backend.
    attributes: Option<Attributes>,
}

impl Seen {
    fn of(state: &State, frontend: Frontend) -> Option<Self> {
        let table = state.tables.get(&frontend.family())?;
        let is_firewalled = table.elements.contains_key(&Key::Firewalled(frontend));
        let sources = is_firewalled.then(|| sources(table, frontend));
        if let Some(held) = table.elements.get(&Key::Reject(frontend)) {
            let owner = held.owner.as_deref().cloned();
            return Some(Self { owner, sources, ..Self::default() });
        }
        let Held { value, owner } = table.elements.get(&Key::Service(View::Cluster, frontend))?;
        let pick = if let Value::Pick(pick) = value { Some(*pick) } else { None };
        let server = VirtualServer::of(frontend);
        let server = server.and_then(|server| state.ipvs.servers.get(&server));
        let server = server.filter(|_| pick.is_some_and(Pick::is_by_ipvs));
        let backends = |view| -> BTreeSet<Backend> {
            // The clients of both views have the same real servers, as far as they are allowed to
            // connect.
            let is_let_in = view == View::Cluster || state.pick(view, frontend).is_some();
            match server {
                Some(server) => server.active().filter(|_| is_let_in).collect(),
                None => state.slots(view, frontend).into_iter().map(|slot| slot.backend).collect(),
            }
        };
        let is_split = pick.is_some_and(|pick| pick.clients == Clients::Split);
        Some(Self {
            owner: owner.as_deref().cloned(),
            pick,
            backends: backends(View::Cluster),
            local: is_split.then(|| backends(View::Local)),
            sources,
            attributes: server.and_then(|server| server.attributes),
        })
    }

    /// Returns the fields of a Service that make a difference in how clients are handled.
    pub(super) fn differing_fields(&self, other: &Self) -> Vec<&'static str> {
        let mut fields = Vec::new();
        if let (Some(old), Some(new)) = (self.pick, other.pick) {
            // If everything is dropped, nothing else is known about how clients are handled.
            if old != Pick::DROP && new != Pick::DROP {
                if old.affinity != new.affinity {
                    fields.push("spec.sessionAffinity");
                }
                if old.clients != new.clients {
                    fields.push("spec.externalTrafficPolicy");
                }
            }
        }
        if let (Some(old), Some(new)) = (self.attributes, other.attributes) {
            if old.persistence != new.persistence {
                fields.push("spec.sessionAffinity");
            }
            if old.scheduling != new.scheduling {
                fields.push("metadata.annotations[rulec.io/ipvs-scheduler] or the settings");
            }
        }
        if self.sources != other.sources {
            fields.push("spec.loadBalancerSourceRanges");
        }
        fields
    }
}

fn sources(table: &Table, frontend: Frontend) -> BTreeSet<IpNet> {
    let from = Key::Firewalled(frontend);
    let keys = table.elements.range(from..).map(|(key, _)| *key);
    let ranges = keys
        .filter_map(|key| if let Key::SourceRange(of, net) = key { Some((of, net)) } else { None });
    ranges.filter(|(of, _)| *of == frontend).map(|(_, net)| net).collect()
}

/// Returns the changes of the Service of a group of operations.
pub(super) fn of(comparison: &Comparison, group: &Group) -> Vec<FrontendChange> {
    let service = &group.service;
    let mut frontends: BTreeSet<Frontend> = BTreeSet::new();
    for op in group.ops.iter() {
        if let Some(element) = op.element() {
            frontends.extend(element.key.frontend());
        }
        if let Some(op) = op.as_ipvs() {
            frontends.extend(op.server().map(VirtualServer::frontend));
        }
    }
    // A backend is often added or removed at all frontends of a port at once: it is listed once.
    let mut backends: BTreeMap<(What, Option<PortKey>, Backend), Vec<String>> = BTreeMap::new();
    let mut changes = Vec::new();
    for frontend in frontends {
        let old = Seen::of(&comparison.old, frontend);
        let new = Seen::of(&comparison.new, frontend);
        let fields = match (&old, &new) {
            (Some(old), Some(new)) => old.differing_fields(new),
            (Some(_) | None, Some(_) | None) => Vec::new(),
        };
        let what = what(old.as_ref(), new.as_ref(), &fields);
        if let Some(what) = what {
            changes.push(FrontendChange {
                what,
                frontends: vec![frontend.to_string()],
                backend: None,
                reason: reason::frontend(comparison, service, what, frontend, &fields),
            });
        }
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let owner = new.owner.clone().or_else(|| old.owner.clone());
        let none = BTreeSet::new();
        let views = [
            (frontend.to_string(), &old.backends, &new.backends),
            (
                format!("{frontend} from outside"),
                old.local.as_ref().unwrap_or(&none),
                new.local.as_ref().unwrap_or(&none),
            ),
        ];
        for (name, old, new) in views {
            for backend in new.difference(old) {
                let key = (What::BackendAdded, owner.clone(), *backend);
                backends.entry(key).or_default().push(name.clone());
            }
            if matches!(what, Some(What::FrontendRemoved | What::FrontendMoved)) {
                // They are removed with their frontend, whose reason applies: they may still be
                // ready.
                continue;
            }
            for backend in old.difference(new) {
                let key = (What::BackendRemoved, owner.clone(), *backend);
                backends.entry(key).or_default().push(name.clone());
            }
        }
    }
    changes.extend(backends.into_iter().map(|((what, owner, backend), frontends)| {
        FrontendChange {
            what,
            frontends,
            backend: Some(backend),
            reason: reason::backend(comparison, owner.as_ref(), what, backend),
        }
    }));
    if changes.is_empty() {
        changes.push(FrontendChange {
            what: What::Repaired,
            frontends: Vec::new(),
            backend: None,
            reason: reason::repair(comparison, service),
        });
    }
    changes
}

fn what(old: Option<&Seen>, new: Option<&Seen>, fields: &[&str]) -> Option<What> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(What::FrontendAdded),
        (Some(_), None) => Some(What::FrontendRemoved),
        (Some(old), Some(new)) => {
            if service(old) != service(new) {
                Some(What::FrontendMoved)
            } else if old.pick != new.pick && new.pick.is_none() {
                Some(What::FrontendRejected)
            } else if old.pick != new.pick && new.pick == Some(Pick::DROP) {
                Some(What::FrontendDropped)
            } else if old.backends.is_empty() && !new.backends.is_empty() {
                Some(What::FrontendServed)
            } else if !fields.is_empty() {
                Some(What::FrontendAltered)
            } else {
                None
            }
        }
    }
}

fn service(seen: &Seen) -> Option<&NamespacedName> {
    seen.owner.as_ref().map(|owner| &owner.service)
}
