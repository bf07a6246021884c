//! Which objects have the endpoints of a Service port, and why an endpoint is not used.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use rulec_compiler::change::Provenance;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::model::Entry;
use rulec_compiler::net::{Backend, Family};
use rulec_compiler::object::{EndpointSlice, ObjectKey, Pod, TrafficPolicy};
use rulec_compiler::plural::counted;
use rulec_compiler::resolve::candidate::Mismatch;
use rulec_compiler::resolve::select::{Selection, Unused};
use rulec_compiler::resolve::{self, Candidate, Seen};

use super::objects::Objects;
use crate::tool::input::condition;

/// The endpoints of a Service port in a family, on one side. All is looked up once: a Service may
/// have thousands.
pub(super) struct Endpoints<'a> {
    objects: Objects<'a>,
    owner: &'a PortKey,
    candidates: BTreeMap<Backend, Candidate<'a>>,
    /// The object that each is from.
    sources: BTreeMap<Backend, Source<'a>>,
    /// The objects that have none for this port.
    others: BTreeMap<ObjectKey, (Source<'a>, Mismatch)>,
    /// What each traffic policy makes of them.
    cluster: Option<Selection<'a>>,
    local: Option<Selection<'a>>,
}

/// An object that may have endpoints.
struct Source<'a> {
    key: ObjectKey,
    provenance: &'a Provenance,
}

impl<'a> Endpoints<'a> {
    /// Looks up the endpoints; there are none if the Service port is not there.
    pub(super) fn of(objects: Objects<'a>, owner: &'a PortKey, family: Family) -> Self {
        let mut found = Self {
            objects,
            owner,
            candidates: BTreeMap::new(),
            sources: BTreeMap::new(),
            others: BTreeMap::new(),
            cluster: None,
            local: None,
        };
        let side = objects.side;
        let (Some(model), Some((service, port, _))) = (&side.model, side.port(owner)) else {
            return found;
        };
        found.candidates = resolve::candidates(model, &side.settings, service, port, family);
        let node = &side.settings.node_name;
        let zone = model.node(node).and_then(|node| node.object.zone.as_ref());
        found.cluster = Some(Selection::cluster(&found.candidates, node, zone));
        found.local = Some(Selection::local(&found.candidates));
        resolve::look(model, &side.settings, service, port, family, |seen| match seen {
            Seen::Endpoint(backend, candidate, slice) => {
                found.add(backend, candidate, || Source::slice(slice));
            }
            Seen::Pod(backend, candidate, pod) => {
                found.add(backend, candidate, || Source::pod(pod));
            }
            Seen::NoSlice(slice, why) => found.pass_over(Source::slice(slice), why),
            Seen::NoPod(pod, why) => found.pass_over(Source::pod(pod), why),
        });
        found
    }

    fn add(
        &mut self,
        backend: Backend,
        candidate: Candidate<'a>,
        source: impl FnOnce() -> Source<'a>,
    ) {
        // Several objects may have it in different states: the one that counts is meant.
        if self.candidates.get(&backend) == Some(&candidate) {
            self.sources.entry(backend).or_insert_with(source);
        }
    }

    fn pass_over(&mut self, source: Source<'a>, why: Mismatch) {
        self.others.insert(source.key.clone(), (source, why));
    }

    /// Returns the object that has an endpoint, and its condition.
    fn sighting(&self, backend: Backend) -> Option<String> {
        let Candidate { conditions, weight, .. } = self.candidates.get(&backend)?;
        let source = self.name(backend)?;
        Some(format!("{source}: {}", condition(*conditions, *weight)))
    }

    fn name(&self, backend: Backend) -> Option<String> {
        let source = self.sources.get(&backend)?;
        let object = self.object(source);
        Some(match source.is_pod() {
            true => format!("{object} selected by spec.selector"),
            false => format!("{object} endpoint {}", backend.address),
        })
    }

    fn object(&self, source: &Source<'_>) -> String {
        self.objects.named(&source.key, source.provenance)
    }

    /// Returns why an endpoint is not used, if there is one. `policy` is the field of the traffic
    /// policy that asks for endpoints of this node.
    fn unused(&self, backend: Backend, policy: Option<&str>) -> Option<String> {
        let candidate = self.candidates.get(&backend)?;
        let source = self.name(backend)?;
        let selection = if policy.is_some() { self.local } else { self.cluster };
        Some(match (selection?.unused(candidate), policy) {
            (Some(why @ (Unused::Elsewhere | Unused::NoNode)), Some(policy)) => {
                format!("{source}: {why}, and {policy} is Local")
            }
            (Some(why), _) => format!("{source}: {why}"),
            (None, _) => format!("{source}: {}", condition(candidate.conditions, candidate.weight)),
        })
    }

    /// Returns why there is no endpoint at an address and port any more, although the object that
    /// it was from is there.
    fn mismatch(&self, backend: Backend, source: &Source<'_>) -> Option<String> {
        if let Some((source, why)) = self.others.get(&source.key) {
            return Some(format!("{}: {}", self.object(source), mismatch(why)));
        }
        let first = Backend { port: NonZeroU16::MIN, ..backend };
        let (other, source) = self.sources.range(first..).next()?;
        if other.address != backend.address {
            return None;
        }
        let field = if source.is_pod() { "targetPort" } else { "its port" };
        Some(format!("{}: {field} is {}", self.name(*other)?, other.port))
    }

    /// Describes how many endpoints there are, and how many of them are usable.
    pub(super) fn summary(&self) -> String {
        let (name, key) = (&self.objects.side.name, &self.owner.service);
        if self.objects.side.model.is_none() {
            return format!("according to {name}");
        }
        let Some((service, named)) = self.objects.service(key) else {
            return format!("there is no Service {key} in {name}");
        };
        let all = self.candidates.len();
        if all == 0 {
            let why = match self.others.values().next() {
                Some((source, why)) => format!("{}: {}", self.object(source), mismatch(why)),
                None if service.selector.is_empty() => "no EndpointSlice names it".to_owned(),
                None => "spec.selector matches no Pod, and no EndpointSlice names it".to_owned(),
            };
            return format!("{named}: {why}");
        }
        let ready = self.candidates.values().filter(|candidate| candidate.is_ready());
        let here = ready.clone().filter(|candidate| candidate.is_local()).count();
        let text = format!("{named} has {} ready of {}", ready.count(), counted(all, "endpoint"));
        if [service.internal_policy, service.external_policy].contains(&TrafficPolicy::Local) {
            format!("{text}, {here} on this node")
        } else {
            text
        }
    }
}

impl<'a> Source<'a> {
    fn slice(Entry { object, provenance, .. }: &'a Entry<EndpointSlice>) -> Self {
        Self { key: ObjectKey::EndpointSlice(object.key.clone()), provenance }
    }

    fn pod(Entry { object, provenance, .. }: &'a Entry<Pod>) -> Self {
        Self { key: ObjectKey::Pod(object.key.clone()), provenance }
    }

    fn is_pod(&self) -> bool {
        matches!(self.key, ObjectKey::Pod(_))
    }
}

fn mismatch(why: &Mismatch) -> String {
    match why {
        Mismatch::SlicePort(name, protocol) if name.as_str().is_empty() => {
            format!("no port without a name and with protocol {protocol}")
        }
        Mismatch::SlicePort(name, protocol) => format!("no port {name}/{protocol}"),
        Mismatch::Mirror
        | Mismatch::ContainerPort(..)
        | Mismatch::NoAddress
        | Mismatch::NoNodeAddress => why.to_string(),
    }
}

/// The endpoints of a Service port in a family, on both sides.
pub(super) struct Backends<'a> {
    from: Endpoints<'a>,
    to: Endpoints<'a>,
}

impl<'a> Backends<'a> {
    pub(super) fn of(sides: [Objects<'a>; 2], owner: &'a PortKey, family: Family) -> Self {
        let [from, to] = sides.map(|side| Endpoints::of(side, owner, family));
        Self { from, to }
    }

    /// Returns the reason why a backend is added.
    pub(super) fn added(&self, backend: Backend) -> String {
        let sighting = self.to.sighting(backend);
        sighting.unwrap_or_else(|| format!("present in {}", self.to.objects.side.name))
    }

    /// Returns the reason why a backend is removed. `policy` is the field of the traffic policy
    /// that asks for endpoints of this node.
    pub(super) fn removed(&self, backend: Backend, policy: Option<&str>) -> String {
        let source = self.from.sources.get(&backend);
        self.to
            .unused(backend, policy)
            .or_else(|| self.to.mismatch(backend, source?))
            .or_else(|| Some(format!("was {}", self.from.sighting(backend)?)))
            .unwrap_or_else(|| {
                format!("no EndpointSlice or Pod in {} has it", self.to.objects.side.name)
            })
    }
}
