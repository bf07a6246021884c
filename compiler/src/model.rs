//! The model: every object the sources have told of, as a persistent snapshot.
//!
//! A clone is a pointer, so that the engine can keep what the kernel acknowledged beside what the
//! sources say. Whatever fans out from one object to many is indexed here, by ordered sets of
//! tuples that are scanned by prefix; so a change costs what it touches:
//!
//! - an EndpointSlice → its Service: a field of the slice; a Service → its slices: `slices_of`;
//! - a Pod → the Services that select it: `selectors`, by one label pair of each selector;
//! - a Service → the Pods it selects: `labels`, by the same pair;
//! - a Node → the Pods that live at its addresses: `host_pods`;
//! - an address → the Nodes that have it: `node_addresses`;
//! - an address → the Services that name it as an external IP or a load balancer's: `claims`.
//!
//! Several sources may have an object of the same kind and name. The first in the order of `Origin` has
//! the say; the others' wait in `overridden`, and take its place when it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use im::{OrdMap, OrdSet};

use crate::change::{Change, Origin, Provenance, Sourced};
use crate::name::{LabelKey, LabelValue, Name, Namespace, NamespacedName, NodeName};
use crate::object::{
    EndpointSlice, InterfaceAddresses, Kind, Node, Object, ObjectKey, Pod, PodAddresses, Service,
    ServiceCidr,
};

/// An object and where it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The object.
    pub object: Arc<T>,
    /// The source that has it.
    pub origin: Origin,
    /// Where it was read.
    pub provenance: Provenance,
}

/// All objects, with their indices. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Model {
    services: OrdMap<NamespacedName, Entry<Service>>,
    slices: OrdMap<NamespacedName, Entry<EndpointSlice>>,
    pods: OrdMap<NamespacedName, Entry<Pod>>,
    nodes: OrdMap<NodeName, Entry<Node>>,
    service_cidrs: OrdMap<Name, Entry<ServiceCidr>>,
    interface_addresses: Option<Entry<InterfaceAddresses>>,
    /// What a source has and another source has the say about.
    overridden: OrdMap<(ObjectKey, Origin), Sourced>,
    /// (Service, name of the slice); the namespace is the Service's.
    slices_of: OrdSet<(NamespacedName, Name)>,
    /// (namespace, label, Pod).
    labels: OrdSet<(Namespace, LabelKey, LabelValue, Name)>,
    /// (namespace, anchor label, Service): the anchor is the first pair of the selector.
    selectors: OrdSet<(Namespace, LabelKey, LabelValue, Name)>,
    /// Pods without addresses of their own, by node; `None` is the node of the manifests.
    host_pods: OrdSet<(Option<NodeName>, NamespacedName)>,
    /// (address, Node).
    node_addresses: OrdSet<(IpAddr, NodeName)>,
    /// (address, Service). Not cluster addresses: most Services have nothing else.
    claims: OrdSet<(IpAddr, NamespacedName)>,
}

/// What a change of the model means for the compiler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose own fields or endpoints may have changed. Includes Services that are gone.
    pub services: BTreeSet<NamespacedName>,
    /// Nodes whose facts have changed.
    pub nodes: BTreeSet<NodeName>,
    /// Whether the addresses of interfaces or the ServiceCIDRs have changed.
    pub surroundings: bool,
    /// Objects that two sources have by now, with the one that has the say and the one that has not.
    pub overridden: BTreeSet<(ObjectKey, Origin, Origin)>,
    /// Objects that were applied or removed and changed nothing.
    pub unchanged: usize,
    /// How many objects of each kind have come, gone, or changed what they mean.
    pub changed: BTreeMap<Kind, usize>,
}

impl<T> Entry<T> {
    fn sourced(&self, kind: impl Fn(Arc<T>) -> Object) -> (Origin, Sourced) {
        let object = kind(Arc::clone(&self.object));
        (self.origin, Sourced { object, provenance: self.provenance.clone() })
    }
}

impl Dirty {
    fn note_changed(&mut self, kind: Kind) {
        *self.changed.entry(kind).or_default() += 1;
    }

    fn note_surroundings(&mut self, changed: bool) {
        self.surroundings |= changed;
        self.unchanged += usize::from(!changed);
    }

    /// Whether nothing needs compiling.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.nodes.is_empty() && !self.surroundings
    }

    /// Takes in what another change has touched.
    pub fn merge(&mut self, other: Self) {
        self.services.extend(other.services);
        self.nodes.extend(other.nodes);
        self.surroundings |= other.surroundings;
        self.overridden.extend(other.overridden);
        self.unchanged += other.unchanged;
        for (kind, count) in other.changed {
            *self.changed.entry(kind).or_default() += count;
        }
    }
}

impl Model {
    /// Takes in one change of a source.
    pub fn apply(&mut self, origin: Origin, change: Change) -> Dirty {
        let mut dirty = Dirty::default();
        match change {
            Change::Apply(sourced) => self.put(origin, sourced, &mut dirty),
            Change::Remove(key) => self.take(origin, &key, &mut dirty),
            Change::Replace { kinds, objects } => self.replace(origin, kinds, objects, &mut dirty),
        }
        dirty
    }

    /// A Service.
    pub fn service(&self, key: &NamespacedName) -> Option<&Entry<Service>> {
        self.services.get(key)
    }

    /// All Services, in order.
    pub fn services(&self) -> impl Iterator<Item = &Entry<Service>> {
        self.services.values()
    }

    /// The EndpointSlices of a Service, in order of their names.
    pub fn slices_of(
        &self,
        service: &NamespacedName,
    ) -> impl Iterator<Item = &Entry<EndpointSlice>> {
        let from = (service.clone(), Name::from(""));
        self.slices_of.range((Bound::Included(from), Bound::Unbounded)).map_while(
            move |(owner, name)| {
                let same = owner == service;
                same.then(|| NamespacedName {
                    namespace: owner.namespace.clone(),
                    name: name.clone(),
                })
                .and_then(|key| self.slices.get(&key))
            },
        )
    }

    /// Those of them that count: the ones that mirror Endpoints only if there are no others, and if the
    /// Service has no selector, as the API server would mirror them.
    pub fn counting_slices_of<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Entry<EndpointSlice>> {
        let mut all = self.slices_of(&service.key);
        let mirrors = service.selector.is_empty() && all.all(|slice| slice.object.is_mirror());
        self.slices_of(&service.key).filter(move |slice| mirrors || !slice.object.is_mirror())
    }

    /// The Pods that a Service selects, in order of their names.
    pub fn pods_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Entry<Pod>> {
        let namespace = &service.key.namespace;
        service.selector.iter().next().into_iter().flat_map(move |(label, value)| {
            names_with(&self.labels, namespace, label, value)
                .filter_map(move |name| {
                    self.pods
                        .get(&NamespacedName { namespace: namespace.clone(), name: name.clone() })
                })
                .filter(move |pod| selects(service, &pod.object))
        })
    }

    /// A Node.
    pub fn node(&self, name: &NodeName) -> Option<&Entry<Node>> {
        self.nodes.get(name)
    }

    /// A Node other than this one that has an address, the first by name.
    pub fn other_node_at(&self, address: IpAddr, self_name: &NodeName) -> Option<&NodeName> {
        let from = (address, NodeName::from(""));
        self.node_addresses
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(found, _)| *found == address)
            .map(|(_, name)| name)
            .find(|name| *name != self_name)
    }

    /// An EndpointSlice.
    pub fn slice(&self, key: &NamespacedName) -> Option<&Entry<EndpointSlice>> {
        self.slices.get(key)
    }

    /// A Pod.
    pub fn pod(&self, key: &NamespacedName) -> Option<&Entry<Pod>> {
        self.pods.get(key)
    }

    /// All Nodes, in order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Entry<Node>> {
        self.nodes.values()
    }

    /// All EndpointSlices, in order of their names.
    pub fn slices(&self) -> impl Iterator<Item = &Entry<EndpointSlice>> {
        self.slices.values()
    }

    /// All Pods, in order of their names.
    pub fn pods(&self) -> impl Iterator<Item = &Entry<Pod>> {
        self.pods.values()
    }

    /// The ServiceCIDRs, in order of their names.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &Entry<ServiceCidr>> {
        self.service_cidrs.values()
    }

    /// The addresses of this node's interfaces, if a source tells of them.
    pub fn interface_addresses(&self) -> Option<&Entry<InterfaceAddresses>> {
        self.interface_addresses.as_ref()
    }

    /// Every object that counts, in order of kind and name: the model as a list.
    pub fn objects(&self) -> impl Iterator<Item = Sourced> {
        Kind::ALL.into_iter().flat_map(|kind| self.of_kind(kind)).map(|(_, sourced)| sourced)
    }

    /// Objects that a source has and another source has the say about, with that source.
    pub fn overridden(&self) -> impl Iterator<Item = (&Sourced, Origin)> {
        self.overridden.iter().map(|((_, origin), sourced)| (sourced, *origin))
    }

    /// How many objects of a kind count.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Service => self.services.len(),
            Kind::EndpointSlice => self.slices.len(),
            Kind::Pod => self.pods.len(),
            Kind::Node => self.nodes.len(),
            Kind::ServiceCidr => self.service_cidrs.len(),
            Kind::InterfaceAddresses => usize::from(self.interface_addresses.is_some()),
        }
    }

    /// How many of the objects of a kind that count are from each source.
    pub fn origins(&self, kind: Kind) -> BTreeMap<Origin, usize> {
        let mut counts = BTreeMap::new();
        let mut add = |origin: Origin| *counts.entry(origin).or_default() += 1;
        match kind {
            Kind::Service => self.services.values().for_each(|entry| add(entry.origin)),
            Kind::EndpointSlice => self.slices.values().for_each(|entry| add(entry.origin)),
            Kind::Pod => self.pods.values().for_each(|entry| add(entry.origin)),
            Kind::Node => self.nodes.values().for_each(|entry| add(entry.origin)),
            Kind::ServiceCidr => self.service_cidrs.values().for_each(|entry| add(entry.origin)),
            Kind::InterfaceAddresses => {
                self.interface_addresses.iter().for_each(|entry| add(entry.origin));
            }
        }
        counts
    }

    fn of_kind(&self, kind: Kind) -> Box<dyn Iterator<Item = (Origin, Sourced)> + '_> {
        match kind {
            Kind::Service => {
                Box::new(self.services.values().map(|entry| entry.sourced(Object::Service)))
            }
            Kind::EndpointSlice => {
                Box::new(self.slices.values().map(|entry| entry.sourced(Object::EndpointSlice)))
            }
            Kind::Pod => Box::new(self.pods.values().map(|entry| entry.sourced(Object::Pod))),
            Kind::Node => Box::new(self.nodes.values().map(|entry| entry.sourced(Object::Node))),
            Kind::ServiceCidr => Box::new(
                self.service_cidrs.values().map(|entry| entry.sourced(Object::ServiceCidr)),
            ),
            Kind::InterfaceAddresses => Box::new(
                self.interface_addresses
                    .iter()
                    .map(|entry| entry.sourced(Object::InterfaceAddresses)),
            ),
        }
    }

    fn object(&self, key: &ObjectKey) -> Option<(Origin, Sourced)> {
        match key {
            ObjectKey::Service(key) => {
                self.services.get(key).map(|entry| entry.sourced(Object::Service))
            }
            ObjectKey::EndpointSlice(key) => {
                self.slices.get(key).map(|entry| entry.sourced(Object::EndpointSlice))
            }
            ObjectKey::Pod(key) => self.pods.get(key).map(|entry| entry.sourced(Object::Pod)),
            ObjectKey::Node(name) => self.nodes.get(name).map(|entry| entry.sourced(Object::Node)),
            ObjectKey::ServiceCidr(name) => {
                self.service_cidrs.get(name).map(|entry| entry.sourced(Object::ServiceCidr))
            }
            ObjectKey::InterfaceAddresses => self
                .interface_addresses
                .as_ref()
                .map(|entry| entry.sourced(Object::InterfaceAddresses)),
        }
    }

    fn origin_of(&self, key: &ObjectKey) -> Option<Origin> {
        match key {
            ObjectKey::Service(key) => self.services.get(key).map(|entry| entry.origin),
            ObjectKey::EndpointSlice(key) => self.slices.get(key).map(|entry| entry.origin),
            ObjectKey::Pod(key) => self.pods.get(key).map(|entry| entry.origin),
            ObjectKey::Node(name) => self.nodes.get(name).map(|entry| entry.origin),
            ObjectKey::ServiceCidr(name) => self.service_cidrs.get(name).map(|entry| entry.origin),
            ObjectKey::InterfaceAddresses => {
                self.interface_addresses.as_ref().map(|entry| entry.origin)
            }
        }
    }

    /// Puts in an object of a source. Whether it counts depends on what other sources have.
    fn put(&mut self, origin: Origin, sourced: Sourced, dirty: &mut Dirty) {
        let key = sourced.object.key();
        match self.origin_of(&key) {
            Some(holder) if holder < origin => {
                dirty.unchanged += 1;
                // Said once, and not at each change of what does not count.
                if self.overridden.insert((key.clone(), origin), sourced).is_none() {
                    dirty.overridden.insert((key, holder, origin));
                }
            }
            Some(holder) if holder > origin => {
                dirty.overridden.insert((key.clone(), origin, holder));
                if let Some((holder, old)) = self.object(&key) {
                    self.overridden.insert((key, holder), old);
                }
                self.insert(origin, sourced, dirty);
            }
            Some(_) | None => self.insert(origin, sourced, dirty),
        }
    }

    /// Takes out an object of a source. If another source has one of that name, that takes its place.
    fn take(&mut self, origin: Origin, key: &ObjectKey, dirty: &mut Dirty) {
        if self.origin_of(key) != Some(origin) {
            self.overridden.remove(&(key.clone(), origin));
            dirty.unchanged += 1;
            return;
        }
        let first = (key.clone(), Origin::Manifests);
        let next = self.overridden.range(first..).next().map(|(waiting, _)| waiting.clone());
        match next.filter(|(waiting, _)| waiting == key) {
            Some(waiting) => {
                if let Some(sourced) = self.overridden.remove(&waiting) {
                    self.insert(waiting.1, sourced, dirty);
                }
            }
            None => self.remove(key, dirty),
        }
    }

    fn insert(&mut self, origin: Origin, sourced: Sourced, dirty: &mut Dirty) {
        let kind = sourced.object.key().kind();
        let unchanged = dirty.unchanged;
        self.store(origin, sourced, dirty);
        if dirty.unchanged == unchanged {
            dirty.note_changed(kind);
        }
    }

    fn store(&mut self, origin: Origin, sourced: Sourced, dirty: &mut Dirty) {
        let Sourced { object, provenance } = sourced;
        match object {
            Object::Service(object) => {
                let entry = Entry { object: Arc::clone(&object), origin, provenance };
                let old = self.services.insert(object.key.clone(), entry);
                if old.as_ref().is_some_and(|old| *old.object == *object) {
                    dirty.unchanged += 1;
                    return;
                }
                if let Some(old) = old {
                    self.index_service(&old.object, Index::Take);
                }
                self.index_service(&object, Index::Put);
                dirty.services.insert(object.key.clone());
            }
            Object::EndpointSlice(object) => {
                let entry = Entry { object: Arc::clone(&object), origin, provenance };
                let old = self.slices.insert(object.key.clone(), entry);
                if old.as_ref().is_some_and(|old| *old.object == *object) {
                    dirty.unchanged += 1;
                    return;
                }
                if let Some(old) = old.filter(|old| old.object.service != object.service) {
                    // The label was re-pointed: the endpoints move with it.
                    self.slices_of.remove(&(old.object.service.clone(), object.key.name.clone()));
                    dirty.services.insert(old.object.service.clone());
                }
                self.slices_of.insert((object.service.clone(), object.key.name.clone()));
                dirty.services.insert(object.service.clone());
            }
            Object::Pod(object) => {
                let entry = Entry { object: Arc::clone(&object), origin, provenance };
                let old = self.pods.insert(object.key.clone(), entry);
                if old.as_ref().is_some_and(|old| *old.object == *object) {
                    dirty.unchanged += 1;
                    return;
                }
                if let Some(old) = old {
                    self.touch_selecting(&old.object, dirty);
                    self.index_pod(&old.object, Index::Take);
                }
                self.index_pod(&object, Index::Put);
                self.touch_selecting(&object, dirty);
            }
            Object::Node(object) => {
                let entry = Entry { object: Arc::clone(&object), origin, provenance };
                let old = self.nodes.insert(object.name.clone(), entry);
                if old.as_ref().is_some_and(|old| *old.object == *object) {
                    dirty.unchanged += 1;
                    return;
                }
                let before = old.as_ref().map_or(&[][..], |old| &old.object.addresses);
                self.move_node(&object.name, before, &object.addresses, dirty);
                self.touch_node(&object.name, dirty);
            }
            Object::ServiceCidr(object) => {
                let entry = Entry { object: Arc::clone(&object), origin, provenance };
                let old = self.service_cidrs.insert(object.name.clone(), entry);
                dirty.note_surroundings(old.is_none_or(|old| *old.object != *object));
            }
            Object::InterfaceAddresses(object) => {
                let entry = Entry { object: Arc::clone(&object), origin, provenance };
                let old = self.interface_addresses.replace(entry);
                dirty.note_surroundings(old.is_none_or(|old| *old.object != *object));
            }
        }
    }

    fn remove(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let removed = match key {
            ObjectKey::Service(key) => self.services.remove(key).map(|old| {
                self.index_service(&old.object, Index::Take);
                dirty.services.insert(key.clone());
            }),
            ObjectKey::EndpointSlice(key) => self.slices.remove(key).map(|old| {
                self.slices_of.remove(&(old.object.service.clone(), key.name.clone()));
                dirty.services.insert(old.object.service.clone());
            }),
            ObjectKey::Pod(key) => self.pods.remove(key).map(|old| {
                self.touch_selecting(&old.object, dirty);
                self.index_pod(&old.object, Index::Take);
            }),
            ObjectKey::Node(name) => self.nodes.remove(name).map(|old| {
                self.move_node(name, &old.object.addresses, &[], dirty);
                self.touch_node(name, dirty);
            }),
            ObjectKey::ServiceCidr(name) => {
                self.service_cidrs.remove(name).map(|_| dirty.surroundings = true)
            }
            ObjectKey::InterfaceAddresses => {
                self.interface_addresses.take().map(|_| dirty.surroundings = true)
            }
        };
        match removed {
            Some(()) => dirty.note_changed(key.kind()),
            None => dirty.unchanged += 1,
        }
    }

    fn replace(
        &mut self,
        origin: Origin,
        kinds: &[Kind],
        objects: Vec<Sourced>,
        dirty: &mut Dirty,
    ) {
        let kept: BTreeSet<ObjectKey> =
            objects.iter().map(|sourced| sourced.object.key()).collect();
        let counting = kinds.iter().flat_map(|kind| self.of_kind(*kind));
        let counting = counting.filter(|(holder, _)| *holder == origin);
        let waiting = self.overridden.keys().filter(|(key, _)| kinds.contains(&key.kind()));
        let waiting = waiting.filter(|(_, holder)| *holder == origin).map(|(key, _)| key.clone());
        let gone: Vec<ObjectKey> = counting
            .map(|(_, sourced)| sourced.object.key())
            .chain(waiting)
            .filter(|key| !kept.contains(key))
            .collect();
        for key in gone {
            self.take(origin, &key, dirty);
        }
        for sourced in objects {
            self.put(origin, sourced, dirty);
        }
    }

    fn index_service(&mut self, service: &Service, index: Index) {
        for address in service.external_ips.iter().chain(&service.load_balancer_vips) {
            index.change(&mut self.claims, (*address, service.key.clone()));
        }
        if let Some((label, value)) = service.selector.iter().next() {
            let key = (
                service.key.namespace.clone(),
                label.clone(),
                value.clone(),
                service.key.name.clone(),
            );
            index.change(&mut self.selectors, key);
        }
    }

    fn index_pod(&mut self, pod: &Pod, index: Index) {
        for (label, value) in &pod.labels {
            let key =
                (pod.key.namespace.clone(), label.clone(), value.clone(), pod.key.name.clone());
            index.change(&mut self.labels, key);
        }
        if pod.addresses == PodAddresses::Node {
            index.change(&mut self.host_pods, (pod.node.clone(), pod.key.clone()));
        }
    }

    /// Notes at which addresses a Node is now, and marks the Services that name one which it has got or
    /// lost.
    fn move_node(&mut self, name: &NodeName, before: &[IpAddr], now: &[IpAddr], dirty: &mut Dirty) {
        let lost = before.iter().filter(|address| !now.contains(address));
        let got = now.iter().filter(|address| !before.contains(address));
        let moved = lost.map(|it| (*it, Index::Take)).chain(got.map(|it| (*it, Index::Put)));
        for (address, index) in moved {
            index.change(&mut self.node_addresses, (address, name.clone()));
            let from = (address, NamespacedName::new("", ""));
            let claims = self.claims.range((Bound::Included(from), Bound::Unbounded));
            let claims = claims.take_while(|(claimed, _)| *claimed == address);
            dirty.services.extend(claims.map(|(_, service)| service.clone()));
        }
    }

    /// Marks the Services that select the Pod.
    fn touch_selecting(&self, pod: &Pod, dirty: &mut Dirty) {
        let namespace = &pod.key.namespace;
        for (label, value) in &pod.labels {
            for name in names_with(&self.selectors, namespace, label, value) {
                let key = NamespacedName { namespace: namespace.clone(), name: name.clone() };
                if self.services.get(&key).is_some_and(|service| selects(&service.object, pod)) {
                    dirty.services.insert(key);
                }
            }
        }
    }

    /// Marks the node, and the Services whose Pods live at its addresses.
    fn touch_node(&self, name: &NodeName, dirty: &mut Dirty) {
        dirty.nodes.insert(name.clone());
        // Pods of a manifest that names no node belong to the node of the process, whose name the
        // model does not know: they are touched by every node, which is one node in practice.
        for node in [None, Some(name)] {
            let from = (
                node.cloned(),
                NamespacedName { namespace: Namespace::from(""), name: Name::from("") },
            );
            let here = self
                .host_pods
                .range((Bound::Included(from), Bound::Unbounded))
                .take_while(|(owner, _)| owner.as_ref() == node);
            for (_, key) in here {
                if let Some(pod) = self.pods.get(key) {
                    self.touch_selecting(&pod.object, dirty);
                }
            }
        }
    }
}

/// Equal if they hold the same objects. The provenance counts, the indices follow from the objects.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        let all =
            |model: &Self| Kind::ALL.into_iter().flat_map(|kind| model.of_kind(kind)).collect();
        let (mine, others): (Vec<_>, Vec<_>) = (all(self), all(other));
        mine == others && self.overridden == other.overridden
    }
}

/// Whether an index entry is put in or taken out.
#[derive(Clone, Copy)]
enum Index {
    Put,
    Take,
}

impl Index {
    fn change<T: Ord + Clone>(self, set: &mut OrdSet<T>, key: T) {
        match self {
            Self::Put => {
                set.insert(key);
            }
            Self::Take => {
                set.remove(&key);
            }
        }
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    !service.selector.is_empty()
        && service.selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
}

fn names_with<'a>(
    set: &'a OrdSet<(Namespace, LabelKey, LabelValue, Name)>,
    namespace: &'a Namespace,
    label: &'a LabelKey,
    value: &'a LabelValue,
) -> impl Iterator<Item = &'a Name> {
    let from = (namespace.clone(), label.clone(), value.clone(), Name::from(""));
    set.range((Bound::Included(from), Bound::Unbounded))
        .take_while(move |(a, b, c, _)| (a, b, c) == (namespace, label, value))
        .map(|(_, _, _, name)| name)
}
