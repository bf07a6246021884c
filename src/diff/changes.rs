//! What changes for one Service, in the words of Services: frontends and backends.

use std::collections::{BTreeMap, BTreeSet};

use rulec_compiler::Frontend;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Backend;
use rulec_compiler::nft::element::Value;
use rulec_compiler::nft::{Group, Key, Pick, State};
use rulec_compiler::resolve::PortKey;
use serde::Serialize;

use super::{Comparison, reason};

/// One thing that changes for a Service.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Change {
    /// What happens.
    pub(super) what: What,
    /// The frontends it happens at, as text.
    pub(super) frontends: Vec<String>,
    /// The backend, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) backend: Option<Backend>,
    /// Why: the object and the field.
    pub(super) reason: String,
}

/// What happens to a frontend or a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum What {
    /// The frontend is served from now on.
    FrontendAdded,
    /// The frontend is not served any more.
    FrontendRemoved,
    /// The frontend goes from one Service to another.
    FrontendMoved,
    /// The frontend had no endpoints and has some now.
    FrontendServed,
    /// The frontend has no endpoints any more: connections are rejected.
    FrontendRejected,
    /// Session affinity or masquerading is another.
    FrontendAltered,
    /// The backend is used from now on.
    BackendAdded,
    /// The backend is not used any more.
    BackendRemoved,
    /// Only the kernel's representation changes: a repair, or slots that move.
    Repaired,
}

impl What {
    pub(super) fn sign(self) -> char {
        match self {
            Self::FrontendAdded | Self::BackendAdded => '+',
            Self::FrontendRemoved | Self::BackendRemoved => '-',
            Self::FrontendMoved
            | Self::FrontendServed
            | Self::FrontendRejected
            | Self::FrontendAltered
            | Self::Repaired => '~',
        }
    }

    pub(super) fn text(self) -> &'static str {
        match self {
            Self::FrontendAdded | Self::FrontendRemoved => "frontend",
            Self::FrontendMoved => "frontend goes to another Service",
            Self::FrontendServed => "frontend has endpoints now",
            Self::FrontendRejected => {
                "frontend has no endpoints any more, connections are rejected"
            }
            Self::FrontendAltered => "frontend is served another way",
            Self::BackendAdded | Self::BackendRemoved => "backend",
            Self::Repaired => "elements",
        }
    }
}

/// What a frontend leads to in a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct View {
    owner: Option<PortKey>,
    pick: Option<Pick>,
    backends: BTreeSet<Backend>,
}

impl View {
    fn of(state: &State, frontend: Frontend) -> Option<Self> {
        let table = state.tables.get(&frontend.family())?;
        if let Some((_, owner)) = table.elements.get(&Key::Reject(frontend)) {
            let owner = owner.as_deref().cloned();
            return Some(Self { owner, ..Self::default() });
        }
        let (value, owner) = table.elements.get(&Key::Service(frontend))?;
        let pick = if let Value::Pick(pick) = value { Some(*pick) } else { None };
        let backends = state.slots(frontend).into_iter().map(|slot| slot.backend).collect();
        Some(Self { owner: owner.as_deref().cloned(), pick, backends })
    }
}

/// What changes for the Service of a group of operations.
pub(super) fn of(comparison: &Comparison, group: &Group) -> Vec<Change> {
    let service = &group.service;
    let mut frontends: BTreeSet<Frontend> = BTreeSet::new();
    for op in &group.ops {
        if let rulec_compiler::nft::Op::Add(element) | rulec_compiler::nft::Op::Delete(element) = op
        {
            frontends.extend(element.key.frontend());
        }
    }
    // The same backend comes and goes at all frontends of a port at once: said once.
    let mut backends: BTreeMap<(What, Option<PortKey>, Backend), Vec<Frontend>> = BTreeMap::new();
    let mut changes = Vec::new();
    for frontend in frontends {
        let old = View::of(&comparison.old, frontend);
        let new = View::of(&comparison.new, frontend);
        let what = what(old.as_ref(), new.as_ref());
        if let Some(what) = what {
            changes.push(Change {
                what,
                frontends: vec![frontend.to_string()],
                backend: None,
                reason: reason::frontend(comparison, service, what, frontend),
            });
        }
        let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
        let owner = new.owner.clone().or_else(|| old.owner.clone());
        for backend in new.backends.difference(&old.backends) {
            let key = (What::BackendAdded, owner.clone(), *backend);
            backends.entry(key).or_default().push(frontend);
        }
        if matches!(what, Some(What::FrontendRemoved | What::FrontendMoved)) {
            // They leave with their frontend, and the reason is the frontend's: they may be ready.
            continue;
        }
        for backend in old.backends.difference(&new.backends) {
            let key = (What::BackendRemoved, owner.clone(), *backend);
            backends.entry(key).or_default().push(frontend);
        }
    }
    changes.extend(backends.into_iter().map(|((what, owner, backend), frontends)| Change {
        what,
        frontends: frontends.iter().map(ToString::to_string).collect(),
        backend: Some(backend),
        reason: reason::backend(comparison, owner.as_ref(), what, backend),
    }));
    if changes.is_empty() {
        changes.push(Change {
            what: What::Repaired,
            frontends: Vec::new(),
            backend: None,
            reason: reason::repair(comparison, service),
        });
    }
    changes
}

fn what(old: Option<&View>, new: Option<&View>) -> Option<What> {
    match (old, new) {
        (None, None) => None,
        (None, Some(_)) => Some(What::FrontendAdded),
        (Some(_), None) => Some(What::FrontendRemoved),
        (Some(old), Some(new)) => {
            let mode = |view: &View| view.pick.map(|pick| (pick.masquerade, pick.affinity));
            if service(old) != service(new) {
                Some(What::FrontendMoved)
            } else if old.pick.is_none() && new.pick.is_some() {
                Some(What::FrontendServed)
            } else if old.pick.is_some() && new.pick.is_none() {
                Some(What::FrontendRejected)
            } else if mode(old) != mode(new) {
                Some(What::FrontendAltered)
            } else {
                None
            }
        }
    }
}

fn service(view: &View) -> Option<&NamespacedName> {
    view.owner.as_ref().map(|owner| &owner.service)
}
