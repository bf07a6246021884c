//! The relations from one object to many, as ordered sets that are scanned by prefix.

use std::net::IpAddr;
use std::ops::Bound;

use im::OrdSet;

use crate::name::{LabelKey, LabelValue, Name, Namespace, NamespacedName, NodeName};
use crate::object::{EndpointSlice, Pod, PodAddresses, Service};

/// All indices. They follow from the objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Indices {
    /// A Service → its EndpointSlices, whose namespace is the Service's.
    slices: OrdSet<(NamespacedName, Name)>,
    /// A label → the Pods that have it.
    pods: OrdSet<Labelled>,
    /// A label → the Services whose selector begins with it.
    selectors: OrdSet<Labelled>,
    /// A Node → the Pods that use its addresses; `None` stands for the node of this process.
    host_pods: OrdSet<(Option<NodeName>, NamespacedName)>,
    /// An address → the Nodes that have it.
    nodes: OrdSet<(IpAddr, NodeName)>,
    /// An address → the Services that name it as an external IP or load-balancer address. Cluster
    /// addresses are left out: most Services have only those.
    claims: OrdSet<(IpAddr, NamespacedName)>,
}

/// A namespace, a label, and an object in that namespace.
type Labelled = (Namespace, LabelKey, LabelValue, Name);

/// A change of an index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entries {
    Added,
    Removed,
}

impl Entries {
    fn change<T: Ord + Clone>(self, index: &mut OrdSet<T>, entry: T) {
        match self {
            Self::Added => index.insert(entry),
            Self::Removed => index.remove(&entry),
        };
    }
}

impl Indices {
    /// Adds or removes the entries of a Service.
    pub(super) fn service(&mut self, service: &Service, entries: Entries) {
        for address in service.external_ips.iter().chain(&service.load_balancer_vips) {
            entries.change(&mut self.claims, (*address, service.key.clone()));
        }
        if let Some((label, value)) = service.selector.iter().next() {
            entries.change(&mut self.selectors, labelled(&service.key, label, value));
        }
    }

    /// Adds or removes the entry of an EndpointSlice.
    pub(super) fn slice(&mut self, slice: &EndpointSlice, entries: Entries) {
        let entry = (slice.service.clone(), slice.key.name.clone());
        entries.change(&mut self.slices, entry);
    }

    /// Adds or removes the entries of a Pod.
    pub(super) fn pod(&mut self, pod: &Pod, entries: Entries) {
        for (label, value) in &pod.labels {
            entries.change(&mut self.pods, labelled(&pod.key, label, value));
        }
        if pod.addresses == PodAddresses::Node {
            entries.change(&mut self.host_pods, (pod.node.clone(), pod.key.clone()));
        }
    }

    /// Adds or removes the entry of an address of a Node.
    pub(super) fn node(&mut self, address: IpAddr, name: &NodeName, entries: Entries) {
        entries.change(&mut self.nodes, (address, name.clone()));
    }

    /// Returns the EndpointSlices of a Service.
    pub(super) fn slices_of(&self, service: &NamespacedName) -> impl Iterator<Item = &Name> {
        let from = (service.clone(), Name::from(""));
        let all = self.slices.range((Bound::Included(from), Bound::Unbounded));
        all.take_while(move |(owner, _)| owner == service).map(|(_, name)| name)
    }

    /// Returns the Pods with a label.
    pub(super) fn pods_with<'a>(
        &'a self,
        namespace: &'a Namespace,
        label: &'a LabelKey,
        value: &'a LabelValue,
    ) -> impl Iterator<Item = &'a Name> {
        names_with(&self.pods, namespace, label, value)
    }

    /// Returns the Services whose selector begins with one of a Pod's labels.
    pub(super) fn candidates<'a>(
        &'a self,
        pod: &'a Pod,
    ) -> impl Iterator<Item = NamespacedName> + 'a {
        let namespace = &pod.key.namespace;
        let names = pod
            .labels
            .iter()
            .flat_map(move |(label, value)| names_with(&self.selectors, namespace, label, value));
        names.map(|name| NamespacedName { namespace: namespace.clone(), name: name.clone() })
    }

    /// Returns the Pods that use the addresses of a Node.
    pub(super) fn host_pods_of(
        &self,
        node: Option<&NodeName>,
    ) -> impl Iterator<Item = &NamespacedName> {
        let from = (node.cloned(), NamespacedName::new("", ""));
        let all = self.host_pods.range((Bound::Included(from), Bound::Unbounded));
        all.take_while(move |(owner, _)| owner.as_ref() == node).map(|(_, pod)| pod)
    }

    /// Returns the Nodes that have an address.
    pub(super) fn nodes_at(&self, address: IpAddr) -> impl Iterator<Item = &NodeName> {
        let from = (address, NodeName::from(""));
        let all = self.nodes.range((Bound::Included(from), Bound::Unbounded));
        all.take_while(move |(found, _)| *found == address).map(|(_, name)| name)
    }

    /// Returns the Services that name an address as an external IP or load-balancer address.
    pub(super) fn claiming(&self, address: IpAddr) -> impl Iterator<Item = &NamespacedName> {
        let from = (address, NamespacedName::new("", ""));
        let all = self.claims.range((Bound::Included(from), Bound::Unbounded));
        all.take_while(move |(claimed, _)| *claimed == address).map(|(_, service)| service)
    }
}

fn labelled(key: &NamespacedName, label: &LabelKey, value: &LabelValue) -> Labelled {
    (key.namespace.clone(), label.clone(), value.clone(), key.name.clone())
}

fn names_with<'a>(
    index: &'a OrdSet<Labelled>,
    namespace: &'a Namespace,
    label: &'a LabelKey,
    value: &'a LabelValue,
) -> impl Iterator<Item = &'a Name> {
    let from = (namespace.clone(), label.clone(), value.clone(), Name::from(""));
    let all = index.range((Bound::Included(from), Bound::Unbounded));
    all.take_while(move |(a, b, c, _)| (a, b, c) == (namespace, label, value))
        .map(|(_, _, _, name)| name)
}
