//! The flows to Services: their numbers, and some of them one by one.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use rulec_compiler::flows::{Fate, FlowKind, Forecast, Judged};
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::{Backend, Protocol};
use rulec_compiler::{Flow, Frontend};
use rulec_sinks::conntrack::Live;
use serde::Serialize;

use super::next::Next;
use super::outlook::{Class, Outlook};

/// How many flows are remembered one by one, the worst first.
const LISTED: usize = 1_000;

/// What was found so far.
#[derive(Default)]
pub(super) struct Found {
    seen: HashSet<(Protocol, SocketAddr, SocketAddr)>,
    /// Those with the same destination, backend and kind: they are judged alike.
    alike: HashMap<(Flow, Option<FlowKind>), Alike>,
    listed: BTreeSet<Line>,
}

struct Alike {
    frontend: Frontend,
    owner: Arc<PortKey>,
    fate: Fate,
    depends_on_client: bool,
    /// Their numbers, by what becomes of them.
    flows: Vec<(Outlook, usize)>,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) outlook: Outlook,
    pub(super) protocol: Protocol,
    pub(super) client: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) backend: Option<Backend>,
    owner: Arc<PortKey>,
}

/// The flows to Services, and what becomes of them.
pub(in crate::tool::diff) struct Flows {
    pub(super) counts: Counts,
    /// By Service, the worst first.
    pub(super) services: Vec<ServiceFlows>,
    /// Some flows, the worst first, each with its Service.
    pub(super) listed: Vec<(Line, NamespacedName)>,
}

/// The flows to a Service.
pub(super) struct ServiceFlows {
    pub(super) service: NamespacedName,
    pub(super) counts: Counts,
    /// By what becomes of them, the worst first, and by backend.
    pub(super) groups: Vec<FlowGroup>,
}

/// Flows to one backend that share their fate.
pub(super) struct FlowGroup {
    pub(super) outlook: Outlook,
    /// `None` if they are not translated.
    pub(super) backend: Option<Backend>,
    pub(super) frontends: Vec<String>,
    pub(super) flows: usize,
}

/// Numbers of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Counts {
    pub(super) breaks: usize,
    pub(super) moves: usize,
    pub(super) lingers: usize,
    pub(super) served: usize,
    pub(super) stays: usize,
}

impl Counts {
    fn add(&mut self, class: Class, flows: usize) {
        let count = match class {
            Class::Breaks => &mut self.breaks,
            Class::Moves => &mut self.moves,
            Class::Lingers => &mut self.lingers,
            Class::Served => &mut self.served,
            Class::Stays => &mut self.stays,
        };
        *count += flows;
    }

    pub(super) fn total(self) -> usize {
        let Self { breaks, moves, lingers, served, stays } = self;
        breaks + moves + lingers + served + stays
    }

    /// Returns whether nothing happens to any flow.
    pub(super) fn all_stay(self) -> bool {
        self.stays == self.total()
    }
}

impl Found {
    /// Adds a flow, if it is one to a Service and was not listed before.
    pub(super) fn add(&mut self, live: &Live, forecast: &Forecast, next: &mut Next<'_>) {
        let alike = match self.alike.entry((live.flow, live.kind)) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => match forecast.judge(&live.flow, live.kind) {
                Some(judged) => place.insert(Alike::of(&judged)),
                None => return,
            },
        };
        let Flow { protocol, destination, .. } = live.flow;
        if !self.seen.insert((protocol, live.client, destination)) {
            return;
        }
        let outlook = match alike.fate {
            Fate::Stays => Outlook::Stays,
            Fate::Lingers => Outlook::Lingers,
            Fate::Deleted => Outlook::of(live, next.of(live, alike.depends_on_client)),
        };
        alike.count(outlook);
        let (client, owner) = (live.client, Arc::clone(&alike.owner));
        let backend = backend_of(&live.flow);
        self.list(Line { outlook, protocol, client, destination, backend, owner });
    }

    fn list(&mut self, line: Line) {
        if self.listed.len() < LISTED {
            self.listed.insert(line);
        } else if self.listed.last().is_some_and(|last| line < *last) {
            self.listed.insert(line);
            self.listed.pop_last();
        }
    }

    /// Returns them by Service.
    pub(super) fn finish(self, service_of: impl Fn(&PortKey) -> NamespacedName) -> Flows {
        type Groups = BTreeMap<(Outlook, Option<Backend>), (BTreeSet<Frontend>, usize)>;
        let mut services: BTreeMap<NamespacedName, Groups> = BTreeMap::new();
        for ((flow, _), Alike { frontend, owner, flows, .. }) in self.alike {
            let groups = services.entry(service_of(&owner)).or_default();
            for (outlook, number) in flows {
                let (frontends, sum) = groups.entry((outlook, backend_of(&flow))).or_default();
                frontends.insert(frontend);
                *sum += number;
            }
        }
        let mut all = Counts::default();
        let of_service = |(service, groups): (NamespacedName, Groups)| {
            let mut counts = Counts::default();
            let groups = groups.into_iter().map(|((outlook, backend), (frontends, flows))| {
                counts.add(outlook.class(), flows);
                all.add(outlook.class(), flows);
                let frontends = frontends.iter().map(ToString::to_string).collect();
                FlowGroup { outlook, backend, frontends, flows }
            });
            let groups = groups.collect();
            ServiceFlows { service, counts, groups }
        };
        let mut services: Vec<ServiceFlows> = services.into_iter().map(of_service).collect();
        // Those with the same numbers stay in the order of their names.
        services.sort_by_key(|it| Reverse(it.counts));
        let listed = self.listed.into_iter().map(|line| {
            let service = service_of(&line.owner);
            (line, service)
        });
        Flows { counts: all, services, listed: listed.collect() }
    }
}

impl Alike {
    fn of(judged: &Judged<'_>) -> Self {
        let Judged { frontend, owner, fate, depends_on_client } = *judged;
        Self { frontend, owner: Arc::clone(owner), fate, depends_on_client, flows: Vec::new() }
    }

    fn count(&mut self, outlook: Outlook) {
        match self.flows.iter_mut().find(|(known, _)| *known == outlook) {
            Some((_, number)) => *number += 1,
            None => self.flows.push((outlook, 1)),
        }
    }
}

/// Returns the backend of a flow that is translated.
fn backend_of(flow: &Flow) -> Option<Backend> {
    flow.backend().filter(|_| flow.is_translated())
}
