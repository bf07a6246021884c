//! UDP flows that a change leaves behind.
//!
//! Rules decide a flow's first packet only. UDP has no connection that a reset could end, so a flow
//! goes on to where its first packet went, as long as its client sends. Which flows are stale follows
//! from what served before and what serves now; deleting them is the sink's part.
//!
//! A port that nobody serves keeps its flows, as in kube-proxy: they may find their endpoint again.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::delta::{Delta, Op};
use super::element::{Element, Key, Value};
use super::program::{PortFragment, Program};
use crate::ipvs;
use crate::net::{Backend, Protocol};
use crate::resolve::Frontend;

/// UDP flows that came by a frontend and are stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleFlows {
    /// What the clients sent to.
    pub frontend: Frontend,
    /// Which of its flows.
    pub which: Which,
}

/// Which flows of a frontend are stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those to these backends, sorted.
    To(Vec<Backend>),
    /// Those to anything but these backends, sorted: also those that were not translated, because they
    /// began before there was a backend.
    NotTo(Arc<[Backend]>),
}

/// The flows that become stale on the way from one program to another.
pub fn between(applied: &Program, wanted: &Program) -> Vec<StaleFlows> {
    let mut stale = Vec::new();
    for service in applied.diff_fragments(wanted) {
        let ports = |program: &Program| program.fragment(&service).cloned();
        let (old, new) = (ports(applied), ports(wanted));
        let old: &[PortFragment] = old.as_deref().unwrap_or_default();
        for port in new.as_deref().unwrap_or_default() {
            let Some(serving) = port.serving.as_ref().filter(|serving| !serving.is_empty()) else {
                continue;
            };
            let before = old.iter().find(|old| old.family == port.family && old.port == port.port);
            let served = before.and_then(|before| before.serving.as_deref()).unwrap_or_default();
            let gone: Vec<Backend> = served
                .iter()
                .filter(|backend| serving.binary_search(backend).is_err())
                .copied()
                .collect();
            for (frontend, _) in &port.frontends {
                let is_known = before.is_some_and(|before| {
                    before.frontends.iter().any(|(known, _)| known == frontend)
                });
                let which = if is_known && !served.is_empty() {
                    Which::To(gone.clone())
                } else {
                    Which::NotTo(Arc::clone(serving))
                };
                let is_mine = wanted.winner(*frontend).is_some_and(|it| *it.owner == port.port);
                if is_mine && which != Which::To(Vec::new()) {
                    stale.push(StaleFlows { frontend: *frontend, which });
                }
            }
        }
    }
    stale
}

/// The flows that are stale when a kernel that was found to hold something else is brought to a
/// program. What was served is known from the deleted elements alone.
pub fn of_repair(delta: &Delta, wanted: &Program) -> Vec<StaleFlows> {
    let mut gone: BTreeMap<Frontend, Option<Vec<Backend>>> = BTreeMap::new();
    for op in delta.ops() {
        if let Op::Ipvs(ipvs::Op::DeleteReal(server, backend)) = op {
            let gone = gone.entry(server.frontend()).or_insert_with(|| Some(Vec::new()));
            gone.iter_mut().for_each(|backends| backends.push(*backend));
        }
        let Op::Delete(Element { key, value, .. }) = op else { continue };
        match (key, value) {
            (Key::Endpoint(_, frontend, _), Value::Backend(backend)) => {
                if let Some(backends) = gone.entry(*frontend).or_insert_with(|| Some(Vec::new())) {
                    backends.push(*backend);
                }
            }
            (Key::Reject(frontend), _) => {
                gone.insert(*frontend, None);
            }
            _ => {}
        }
    }
    let serving = |frontend: Frontend| -> Option<Arc<[Backend]>> {
        let owner = wanted.winner(frontend)?.owner;
        let fragment = wanted.fragment(&owner.service)?;
        let of_owner =
            |port: &&PortFragment| port.port == *owner && port.family == frontend.family();
        let serving = fragment.iter().find(of_owner)?.serving.clone()?;
        (!serving.is_empty()).then_some(serving)
    };
    let is_udp = |frontend: &Frontend| frontend.protocol() == Protocol::Udp;
    gone.into_iter()
        .filter(|(frontend, _)| is_udp(frontend))
        .filter_map(|(frontend, gone)| {
            let serving = serving(frontend)?;
            let which = match gone {
                None => Which::NotTo(serving),
                Some(mut backends) => {
                    backends.retain(|backend| serving.binary_search(backend).is_err());
                    backends.sort_unstable();
                    Which::To(backends)
                }
            };
            (which != Which::To(Vec::new())).then_some(StaleFlows { frontend, which })
        })
        .collect()
}
