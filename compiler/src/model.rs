//! The model: every object that the sources have reported, as a persistent snapshot.
//!
//! A clone costs one pointer, so that the engine can keep what the kernel acknowledged beside what
//! the sources currently say. Every relation from one object to many is indexed (`index`), so that
//! the cost of a change depends only on what it touches (`dirty`).
//!
//! Several sources may have an object of the same kind and name. The first in the order of `Origin`
//! takes precedence; the objects of the others are kept in `overridden`, and one of them takes its
//! place when it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use im::OrdMap;

use crate::change::{Change, Origin, Sourced};
use crate::name::{NamespacedName, NodeName};
use crate::object::{
    EndpointSlice, InterfaceAddresses, Kind, Node, Object, ObjectKey, Pod, PodAddresses, Service,
    ServiceCidr,
};

mod dirty;
mod index;
mod objects;

use index::{Entries, Indices};
use objects::{AnyObjects, Objects, Replaced};

pub use dirty::Dirty;
pub use objects::{Differing, Entry};

/// All objects, with their indices. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Model {
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
    pods: Objects<Pod>,
    nodes: Objects<Node>,
    service_cidrs: Objects<ServiceCidr>,
    interface_addresses: Objects<InterfaceAddresses>,
    /// Objects of a source that another source takes precedence over.
    overridden: OrdMap<(ObjectKey, Origin), Sourced>,
    indices: Indices,
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
        self.services.iter()
    }

    /// Returns the EndpointSlices of a Service, in order of their names.
    pub fn slices_of(
        &self,
        service: &NamespacedName,
    ) -> impl Iterator<Item = &Entry<EndpointSlice>> {
        let namespace = service.namespace.clone();
        self.indices.slices_of(service).filter_map(move |name| {
            self.slices.get(&NamespacedName { namespace: namespace.clone(), name: name.clone() })
        })
    }

    /// Returns the EndpointSlices of a Service, each with whether it is used. Slices that mirror
    /// Endpoints are used only if there are no others and the Service has no selector, as the API
    /// server would mirror them.
    pub fn marked_slices_of<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a Entry<EndpointSlice>, bool)> {
        let mut all = self.slices_of(&service.key);
        let mirrors = service.selector.is_empty() && all.all(|slice| slice.object.is_mirror());
        self.slices_of(&service.key).map(move |slice| (slice, mirrors || !slice.object.is_mirror()))
    }

    /// Returns the EndpointSlices of a Service that are used.
    pub fn counting_slices_of<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = &'a Entry<EndpointSlice>> {
        self.marked_slices_of(service).filter(|(_, counts)| *counts).map(|(slice, _)| slice)
    }

    /// Returns the Pods that a Service selects, in order of their names.
    pub fn pods_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Entry<Pod>> {
        let namespace = &service.key.namespace;
        let first = service.selector.iter().next().into_iter();
        let names =
            first.flat_map(move |(label, value)| self.indices.pods_with(namespace, label, value));
        names
            .filter_map(move |name| {
                let (namespace, name) = (namespace.clone(), name.clone());
                self.pods.get(&NamespacedName { namespace, name })
            })
            .filter(move |pod| selects(service, &pod.object))
    }

    /// Returns a Node.
    pub fn node(&self, name: &NodeName) -> Option<&Entry<Node>> {
        self.nodes.get(name)
    }

    /// Returns the first Node by name, other than this one, that has an address.
    pub fn other_node_at(&self, address: IpAddr, self_name: &NodeName) -> Option<&NodeName> {
        self.indices.nodes_at(address).find(|name| *name != self_name)
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
        self.nodes.iter()
    }

    /// Returns all EndpointSlices, in order of their names.
    pub fn slices(&self) -> impl Iterator<Item = &Entry<EndpointSlice>> {
        self.slices.iter()
    }

    /// Returns all Pods, in order of their names.
    pub fn pods(&self) -> impl Iterator<Item = &Entry<Pod>> {
        self.pods.iter()
    }

    /// Returns the ServiceCIDRs, in order of their names.
    pub fn service_cidrs(&self) -> impl Iterator<Item = &Entry<ServiceCidr>> {
        self.service_cidrs.iter()
    }

    /// Returns the addresses of this node's interfaces, if a source reports them.
    pub fn interface_addresses(&self) -> Option<&Entry<InterfaceAddresses>> {
        self.interface_addresses.get(&())
    }

    /// Returns every object that is not overridden with its origin, in order of kind and name.
    pub fn objects_by_origin(&self) -> impl Iterator<Item = (Origin, Sourced)> {
        Kind::ALL.into_iter().map(|kind| self.table(kind)).flat_map(|table| table.sourced())
    }

    /// Returns every object that is not overridden, in order of kind and name.
    pub fn objects(&self) -> impl Iterator<Item = Sourced> {
        self.objects_by_origin().map(|(_, sourced)| sourced)
    }

    /// Returns the overridden objects, each with its own origin.
    pub fn overridden(&self) -> impl Iterator<Item = (&Sourced, Origin)> {
        self.overridden.iter().map(|((_, origin), sourced)| (sourced, *origin))
    }

    /// Returns the objects that differ in meaning from those of another model, without overridden
    /// ones, in order of kind and name. Parts that both share are not visited.
    pub fn differing(&self, other: &Self) -> Vec<Differing> {
        let mut found = Vec::new();
        self.services.differing(&other.services, &mut found);
        self.slices.differing(&other.slices, &mut found);
        self.pods.differing(&other.pods, &mut found);
        self.nodes.differing(&other.nodes, &mut found);
        self.service_cidrs.differing(&other.service_cidrs, &mut found);
        self.interface_addresses.differing(&other.interface_addresses, &mut found);
        found
    }

    /// Returns the part of the model that decides about some Services: with their EndpointSlices and
    /// Pods, and what all Services depend on. Of the Nodes, these are the one of this name and those
    /// of Pods in the host's network; or all, without a name, for addresses that may belong to one.
    pub fn part(&self, services: &BTreeSet<NamespacedName>, node: Option<&NodeName>) -> Self {
        let mut part = Self::default();
        let mut add = |(origin, sourced)| {
            part.apply(origin, Change::Apply(sourced));
        };
        let mut nodes: BTreeSet<&NodeName> = node.into_iter().collect();
        for entry in services.iter().filter_map(|key| self.services.get(key)) {
            let service = &entry.object;
            for pod in self.pods_of(service) {
                let is_of_host = pod.object.addresses == PodAddresses::Node;
                nodes.extend(pod.object.node.iter().filter(|_| is_of_host));
                add(objects::sourced(pod));
            }
            self.slices_of(&service.key).map(objects::sourced).for_each(&mut add);
            add(objects::sourced(entry));
        }
        match node {
            Some(_) => {
                let held = nodes.into_iter().filter_map(|name| self.nodes.get(name));
                held.map(objects::sourced).for_each(&mut add);
            }
            None => self.nodes.iter().map(objects::sourced).for_each(&mut add),
        }
        self.service_cidrs.iter().map(objects::sourced).for_each(&mut add);
        self.interface_addresses.iter().map(objects::sourced).for_each(&mut add);
        part
    }

    /// Returns the number of objects of a kind, without overridden ones.
    pub fn count(&self, kind: Kind) -> usize {
        self.table(kind).len()
    }

    /// Returns the number of objects of a kind by origin, without overridden ones.
    pub fn origins(&self, kind: Kind) -> BTreeMap<Origin, usize> {
        self.table(kind).origins()
    }

    fn table(&self, kind: Kind) -> &dyn AnyObjects {
        match kind {
            Kind::Service => &self.services,
            Kind::EndpointSlice => &self.slices,
            Kind::Pod => &self.pods,
            Kind::Node => &self.nodes,
            Kind::ServiceCidr => &self.service_cidrs,
            Kind::InterfaceAddresses => &self.interface_addresses,
        }
    }

    /// Adds an object of a source. If other sources have it too, the order of `Origin` decides.
    fn put(&mut self, origin: Origin, sourced: Sourced, dirty: &mut Dirty) {
        let key = sourced.object.key();
        match self.table(key.kind()).origin(&key) {
            Some(holder) if holder < origin => {
                // Report this once, and not at each change of an overridden object.
                if self.overridden.insert((key.clone(), origin), sourced).is_none() {
                    dirty.overridden.insert((key.clone(), holder, origin));
                }
                self.refill(holder, &key, dirty);
            }
            Some(holder) if holder > origin => {
                dirty.overridden.insert((key.clone(), origin, holder));
                if let Some((holder, old)) = self.table(key.kind()).find(&key) {
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
        let holder = self.table(key.kind()).origin(key);
        if holder != Some(origin) {
            self.overridden.remove(&(key.clone(), origin));
            match holder {
                Some(holder) => self.refill(holder, key, dirty),
                None => dirty.unchanged += 1,
            }
            return;
        }
        let first = (key.clone(), Origin::ALL[0]);
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

    /// Gives a Pod the names of its ports again, after a change of what it overrides.
    fn refill(&mut self, holder: Origin, key: &ObjectKey, dirty: &mut Dirty) {
        let found = self.table(key.kind()).find(key).filter(|_| holder == Origin::Podman);
        match found {
            Some((_, sourced)) => self.insert(holder, sourced, dirty),
            None => dirty.unchanged += 1,
        }
    }

    /// Returns a Pod of podman with the names of its ports. podman does not know them, but the
    /// manifest that the Pod was made of does.
    fn with_named_ports(&self, pod: &Arc<Pod>) -> Object {
        let key = ObjectKey::Pod(pod.key.clone());
        let first = (key.clone(), Origin::ALL[0]);
        let waiting = self.overridden.range(first..).next().filter(|((of, _), _)| *of == key);
        let manifest = waiting.map(|(_, sourced)| &sourced.object);
        let ports =
            if let Some(Object::Pod(known)) = manifest { known.ports.clone() } else { Vec::new() };
        let is_same = pod.ports == ports;
        Object::Pod(if is_same { pod.clone() } else { Arc::new(Pod { ports, ..Pod::clone(pod) }) })
    }

    fn insert(&mut self, origin: Origin, sourced: Sourced, dirty: &mut Dirty) {
        let Sourced { object, provenance: from } = sourced;
        let object = match &object {
            Object::Pod(pod) if origin == Origin::Podman => self.with_named_ports(pod),
            Object::Pod(_)
            | Object::Service(_)
            | Object::EndpointSlice(_)
            | Object::Node(_)
            | Object::ServiceCidr(_)
            | Object::InterfaceAddresses(_) => object,
        };
        let kind = object.key().kind();
        let has_changed = match object {
            Object::Service(object) => {
                let change = self.services.insert(origin, object, from);
                change.map(|change| self.service_changed(&change, dirty))
            }
            Object::EndpointSlice(object) => {
                let change = self.slices.insert(origin, object, from);
                change.map(|change| self.slice_changed(&change, dirty))
            }
            Object::Pod(object) => {
                let change = self.pods.insert(origin, object, from);
                change.map(|change| self.pod_changed(&change, dirty))
            }
            Object::Node(object) => {
                let change = self.nodes.insert(origin, object, from);
                change.map(|change| self.node_changed(&change, dirty))
            }
            Object::ServiceCidr(object) => {
                let change = self.service_cidrs.insert(origin, object, from);
                change.map(|_| dirty.surroundings = true)
            }
            Object::InterfaceAddresses(object) => {
                let change = self.interface_addresses.insert(origin, object, from);
                change.map(|_| dirty.surroundings = true)
            }
        };
        dirty.count(kind, has_changed.is_some());
    }

    fn remove(&mut self, key: &ObjectKey, dirty: &mut Dirty) {
        let has_changed = match key {
            ObjectKey::Service(name) => {
                let change = self.services.remove(name);
                change.map(|change| self.service_changed(&change, dirty))
            }
            ObjectKey::EndpointSlice(name) => {
                let change = self.slices.remove(name);
                change.map(|change| self.slice_changed(&change, dirty))
            }
            ObjectKey::Pod(name) => {
                let change = self.pods.remove(name);
                change.map(|change| self.pod_changed(&change, dirty))
            }
            ObjectKey::Node(name) => {
                let change = self.nodes.remove(name);
                change.map(|change| self.node_changed(&change, dirty))
            }
            ObjectKey::ServiceCidr(name) => {
                self.service_cidrs.remove(name).map(|_| dirty.surroundings = true)
            }
            ObjectKey::InterfaceAddresses => {
                self.interface_addresses.remove(&()).map(|_| dirty.surroundings = true)
            }
        };
        dirty.count(key.kind(), has_changed.is_some());
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
        let counting = kinds.iter().flat_map(|kind| self.table(*kind).sourced());
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

    fn service_changed(&mut self, change: &Replaced<Service>, dirty: &mut Dirty) {
        let Replaced { old, new } = change;
        for (service, entries) in [(old, Entries::Removed), (new, Entries::Added)] {
            let Some(service) = service else { continue };
            self.indices.service(service, entries);
            dirty.services.insert(service.key.clone());
        }
    }

    /// If the label of the slice names another Service now, the endpoints move with it.
    fn slice_changed(&mut self, change: &Replaced<EndpointSlice>, dirty: &mut Dirty) {
        let Replaced { old, new } = change;
        let is_moved = old.as_ref().map(|it| &it.service) != new.as_ref().map(|it| &it.service);
        for (slice, entries) in [(old, Entries::Removed), (new, Entries::Added)] {
            let Some(slice) = slice else { continue };
            if is_moved {
                self.indices.slice(slice, entries);
            }
            dirty.services.insert(slice.service.clone());
        }
    }

    fn pod_changed(&mut self, change: &Replaced<Pod>, dirty: &mut Dirty) {
        let Replaced { old, new } = change;
        for (pod, entries) in [(old, Entries::Removed), (new, Entries::Added)] {
            let Some(pod) = pod else { continue };
            self.indices.pod(pod, entries);
            self.touch_selecting(pod, dirty);
        }
    }

    /// Marks the Node, the Services that claim an address which it has gained or lost, and those
    /// whose Pods use its addresses.
    fn node_changed(&mut self, change: &Replaced<Node>, dirty: &mut Dirty) {
        let Replaced { old, new } = change;
        let Some(name) = new.as_ref().or(old.as_ref()).map(|node| &node.name) else { return };
        dirty.nodes.insert(name.clone());
        let addresses = |node: &Option<_>| -> BTreeSet<IpAddr> {
            node.iter().flat_map(|node: &std::sync::Arc<Node>| node.addresses.clone()).collect()
        };
        let (before, now) = (addresses(old), addresses(new));
        let lost = before.difference(&now).map(|it| (*it, Entries::Removed));
        let got = now.difference(&before).map(|it| (*it, Entries::Added));
        for (address, entries) in lost.chain(got) {
            self.indices.node(address, name, entries);
            dirty.services.extend(self.indices.claiming(address).cloned());
        }
        // Pods from a manifest that names no node belong to the node of this process, whose name
        // the model does not know. They are touched by every node, which is one node in practice.
        for node in [None, Some(name)] {
            for key in self.indices.host_pods_of(node) {
                if let Some(pod) = self.pods.get(key) {
                    self.touch_selecting(&pod.object, dirty);
                }
            }
        }
    }

    /// Marks the Services that select the Pod.
    fn touch_selecting(&self, pod: &Pod, dirty: &mut Dirty) {
        let selecting = self.indices.candidates(pod).filter(|key| {
            self.services.get(key).is_some_and(|service| selects(&service.object, pod))
        });
        dirty.services.extend(selecting);
    }
}

/// Two models are equal if they hold the same objects. The provenance is compared; the indices
/// follow from the objects.
impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        let is_same = |kind| self.table(kind).sourced().eq(other.table(kind).sourced());
        Kind::ALL.into_iter().all(is_same) && self.overridden == other.overridden
    }
}

fn selects(service: &Service, pod: &Pod) -> bool {
    !service.selector.is_empty()
        && service.selector.iter().all(|(label, value)| pod.labels.get(label) == Some(value))
}
