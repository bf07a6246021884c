//! The model: every object that the sources have reported, as a persistent snapshot.
//!
//! A clone costs one pointer, so that the engine can keep what the kernel acknowledged beside what
//! the sources currently say. Every relation from one object to many is indexed here, as an ordered
//! set of tuples that is scanned by prefix, so that the cost of a change depends only on what it
//! touches:
//!
//! - an EndpointSlice → its Service: a field of the slice; a Service → its slices: `slices_of`;
//! - a Pod → the Services that select it: `selectors`, by one label pair of each selector;
//! - a Service → the Pods it selects: `labels`, by the same pair;
//! - a Node → the Pods that use its addresses: `host_pods`;
//! - an address → the Nodes that have it: `node_addresses`;
//! - an address → the Services that name it as an external IP or load-balancer address: `claims`.
//!
//! Several sources may have an object of the same kind and name. The first in the order of `Origin`
//! takes precedence; the objects of the others are kept in `overridden`, and one of them takes its
//! place when it goes.

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

/// An object and the place it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<T> {
    /// The object.
    pub object: Arc<T>,
    /// The source that has it.
    pub origin: Origin,
    /// The place it was read from.
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
    /// Objects of a source that another source takes precedence over.
    overridden: OrdMap<(ObjectKey, Origin), Sourced>,
    /// (Service, name of the slice); the namespace is the Service's.
    slices_of: OrdSet<(NamespacedName, Name)>,
    /// (namespace, label, Pod).
    labels: OrdSet<(Namespace, LabelKey, LabelValue, Name)>,
    /// (namespace, anchor label, Service): the anchor is the first pair of the selector.
    selectors: OrdSet<(Namespace, LabelKey, LabelValue, Name)>,
    /// Pods without addresses of their own, by node; `None` stands for the node of this process.
    host_pods: OrdSet<(Option<NodeName>, NamespacedName)>,
    /// (address, Node).
    node_addresses: OrdSet<(IpAddr, NodeName)>,
    /// (address, Service). Cluster addresses are left out: most Services have only those.
    claims: OrdSet<(IpAddr, NamespacedName)>,
}

/// The effect of a change of the model, for the compiler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Services whose own fields or endpoints may have changed, including Services that are gone.
    pub services: BTreeSet<NamespacedName>,
    /// Nodes whose facts have changed.
    pub nodes: BTreeSet<NodeName>,
    /// True if the addresses of interfaces or the ServiceCIDRs have changed.
    pub surroundings: bool,
    /// Objects that now exist in two sources: the origin that takes precedence, then the overridden
    /// one.
    pub overridden: BTreeSet<(ObjectKey, Origin, Origin)>,
    /// The number of objects that were applied or removed without effect.
    pub unchanged: usize,
    /// The number of objects of each kind that were added, removed, or changed in meaning.
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

    /// Returns true if nothing needs compiling.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && self.nodes.is_empty() && !self.surroundings
    }

    /// Adds what another change has touched.
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
    /// Applies one change of a source.
    pub fn apply(&mut self, origin: Origin, change: Change) -> Dirty {
        let mut dirty = Dirty::default();
        match change {
            Change::Apply(sourced) => self.put(origin, sourced, &mut dirty),
            Change::Remove(key) => self.take(origin, &key, &mut dirty),
            Change::Replace { kinds, objects } => self.replace(origin, kinds, objects, &mut dirty),
        }
        dirty
    }

    /// Returns a Service.
    pub fn service(&self, key: &NamespacedName) -> Option<&Entry<Service>> {
        self.services.get(key)
    }

    /// Returns all Services, in order.
    pub fn services(&self) -> impl Iterator<Item = &Entry<Service>> {
        self.services.values()
    }

    /// Returns the EndpointSlices of a Service, in order of their names.
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

    /// Returns the EndpointSlices of a Service that are used. Slices that mirror Endpoints are used
    /// only if there are no others and the Service has no selector, as the API server would mirror
    /// them.
    pub fn counting_slices_of<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Entry<EndpointSlice>> {
        let mut all = self.slices_of(&service.key);
        let mirrors = service.selector.is_empty() && all.all(|slice| slice.object.is_mirror());
        self.slices_of(&service.key).filter(move |slice| mirrors || !slice.object.is_mirror())
    }

    /// Returns the Pods that a Service selects, in order of their names.
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

    /// Returns a Node.
    pub fn node(&self, name: &NodeName) -> Option<&Entry<Node>> {
        self.nodes.get(name)
    }

    /// Returns the first Node by name, other than this one, that has an address.
    pub fn other_node_at(&self, address: IpAddr, self_name: &NodeName) -> Option<&NodeName> {
        let from = (address, NodeName::from(""));
        self.node_addresses
            .range((Bound::Included(from), Bound::Unbounded))
            .take_while(|(found, _)| *found == address)
            .map(|(_, name)| name)
            .find(|name| *name != self_name)
    }

    /// Returns an EndpointSlice.
    pub fn slice(&self, key: &NamespacedName) -> Option<&Entry<EndpointSlice>> {
        self.slices.get(key)
    }

    /// Returns a Pod.
    pub fn pod(&self, key: &NamespacedName) -> Option<&Entry<Pod>> {
        self.pods.get(key)
    }

    /// Returns all Nodes, in order of their names.
    pub fn nodes(&self) -> impl Iterator<Item = &Entry<Node>> {
        self.nodes.values()
    }

    /// Returns all EndpointSlices, in order of their names.
    pub fn slices(&self) -> impl Iterator<Item = &Entry<EndpointSlice>> {
        self.slices.values()
    }

    /// Returns all Pods, in order of their names.
    pub fn pods(&self) -> impl Iterator<Item = &Entry<Pod>> {
        self.pods.values()
    }

    /// Returns the ServiceCIDRs, in order of their names.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &Entry<ServiceCidr>> {
        self.service_cidrs.values()
    }

    /// Returns the addresses of this node's interfaces, if a source reports them.
    pub fn interface_addresses(&self) -> Option<&Entry<InterfaceAddresses>> {
        self.interface_addresses.as_ref()
    }

    /// Returns every object that is not overridden, in order of kind and name.
    pub fn objects(&self) -> impl Iterator<Item = Sourced> {
        Kind::ALL.into_iter().flat_map(|kind| self.of_kind(kind)).map(|(_, sourced)| sourced)
    }

    /// Returns the overridden objects, each with its own origin.
    pub fn overridden(&self) -> impl Iterator<Item = (&Sourced, Origin)> {
        self.overridden.iter().map(|((_, origin), sourced)| (sourced, *origin))
    }

    /// Returns the number of objects of a kind, without overridden ones.
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

    /// Returns the number of objects of a kind by origin, without overridden ones.
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

    /// Adds an object of a source. If other sources have it too, the order of `Origin` decides.
    fn put(&mut self, origin: Origin, sourced: Sourced, dirty: &mut Dirty) {
        let key = sourced.object.key();
        match self.origin_of(&key) {
            Some(holder) if holder < origin => {
                dirty.unchanged += 1;
                // Report this once, and not at each change of an overridden object.
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

    /// Removes an object of a source. If another source has one of the same name, that takes its
    /// place.
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
                    // The label now names another Service: the endpoints move with it.
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

    /// Updates the index of node addresses, and marks the Services that claim an address which the
    /// Node has gained or lost.
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

    /// Marks the node, and the Services whose Pods use its addresses.
    fn touch_node(&self, name: &NodeName, dirty: &mut Dirty) {
        dirty.nodes.insert(name.clone());
        // Pods from a manifest that names no node belong to the node of this process, whose name
        // the model does not know. They are touched by every node, which is one node in practice.
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

/// Two models are equal if they hold the same objects. The provenance is compared; the indices
/// follow from the objects.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        let all =
            |model: &Self| Kind::ALL.into_iter().flat_map(|kind| model.of_kind(kind)).collect();
        let (mine, others): (Vec<_>, Vec<_>) = (all(self), all(other));
        mine == others && self.overridden == other.overridden
    }
}

/// Adds or removes an index entry.
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
