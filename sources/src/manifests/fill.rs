//! Gives addresses to Pods that have none, from what is found out about them elsewhere.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use im::OrdSet;
use rulec_compiler::name::{NamespacedName, NodeName};
use rulec_compiler::object::{Kind, Object, ObjectKey, Pod, PodAddresses};
use rulec_compiler::{Change, Sourced};

use crate::problem::Problem;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The addresses of each Pod, one of each family.
    pub(crate) addresses: BTreeMap<NamespacedName, Vec<IpAddr>>,
    pub(crate) problems: OrdSet<Problem>,
    /// How many files could not be read and have never been.
    pub(crate) unread: usize,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Fill {
    /// The end of the names of static Pods.
    suffix: String,
    found: Found,
    /// The Pods without addresses, as they were read.
    bare: BTreeMap<NamespacedName, Sourced>,
}

impl Fill {
    pub(crate) fn new(node: &NodeName, found: Found) -> Self {
        let suffix = format!("-{}", node.as_str().to_lowercase());
        Self { suffix, found, bare: BTreeMap::new() }
    }

    /// Returns what was found last.
    pub(crate) fn found(&self) -> &Found {
        &self.found
    }

    /// Returns changes with the addresses that are known.
    pub(crate) fn pass(&mut self, changes: Vec<Change>) -> Vec<Change> {
        let mut passed = Vec::with_capacity(changes.len());
        for change in changes {
            passed.push(match change {
                Change::Apply(sourced) => Change::Apply(self.take(sourced)),
                Change::Remove(key) => {
                    if let ObjectKey::Pod(name) = &key {
                        self.bare.remove(name);
                    }
                    Change::Remove(key)
                }
                Change::Replace { kinds, objects } => {
                    if kinds.contains(&Kind::Pod) {
                        self.bare.clear();
                    }
                    let objects = objects.into_iter().map(|object| self.take(object)).collect();
                    Change::Replace { kinds, objects }
                }
            });
        }
        passed
    }

    /// Takes what was found, and returns the Pods that have other addresses now.
    pub(crate) fn learn(&mut self, found: Found) -> Vec<Change> {
        let before: Vec<Vec<IpAddr>> = self.bare.keys().map(|pod| self.addresses(pod)).collect();
        self.found = found;
        let changed = |((name, sourced), before): ((&NamespacedName, &Sourced), &Vec<IpAddr>)| {
            let addresses = self.addresses(name);
            (addresses != *before).then(|| Change::Apply(with(sourced, addresses)))
        };
        self.bare.iter().zip(&before).filter_map(changed).collect()
    }

    pub(super) fn take(&mut self, sourced: Sourced) -> Sourced {
        let Object::Pod(pod) = &sourced.object else { return sourced };
        let key = pod.key.clone();
        if !matches!(&pod.addresses, PodAddresses::Own(addresses) if addresses.is_empty()) {
            self.bare.remove(&key);
            return sourced;
        }
        let filled = with(&sourced, self.addresses(&key));
        self.bare.insert(key, sourced);
        filled
    }

    /// Returns the addresses of a Pod: under its name, or under the one that the kubelet gives to a
    /// static Pod.
    fn addresses(&self, pod: &NamespacedName) -> Vec<IpAddr> {
        let known = &self.found.addresses;
        let name = format!("{}{}", pod.name, self.suffix);
        let of_kubelet = NamespacedName::new(pod.namespace.clone(), name.as_str());
        known.get(pod).or_else(|| known.get(&of_kubelet)).cloned().unwrap_or_default()
    }
}

fn with(sourced: &Sourced, addresses: Vec<IpAddr>) -> Sourced {
    let Object::Pod(pod) = &sourced.object else { return sourced.clone() };
    if addresses.is_empty() {
        return sourced.clone();
    }
    let pod = Pod { addresses: PodAddresses::Own(addresses), ..Pod::clone(pod) };
    Sourced { object: Object::Pod(Arc::new(pod)), provenance: sourced.provenance.clone() }
}

#[cfg(test)]
mod tests {
    use rulec_compiler::Provenance;

    use super::*;
    use crate::tests::yaml;

    fn pod(name: &str, more: &str) -> Sourced {
        let text = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n{more}");
        let object = yaml(&text).objects.remove(0);
        Sourced { object, provenance: Provenance("web.yaml".into()) }
    }

    fn found(pods: &[(&str, &str)]) -> Found {
        let of = |(name, address): &(&str, &str)| {
            (NamespacedName::new("default", *name), vec![address.parse().unwrap()])
        };
        let addresses: BTreeMap<_, _> = pods.iter().map(of).collect();
        Found { addresses, problems: OrdSet::new(), unread: 0 }
    }

    fn fill(pods: &[(&str, &str)]) -> Fill {
        Fill::new(&NodeName::from("Na"), found(pods))
    }

    /// Returns each Pod with its addresses.
    fn words(changes: &[Change]) -> Vec<String> {
        let of = |sourced: &Sourced| {
            let Object::Pod(pod) = &sourced.object else { panic!("{sourced:?}") };
            format!("{} {:?}", pod.key.name, pod.addresses)
        };
        let words = |change: &Change| match change {
            Change::Apply(sourced) => vec![of(sourced)],
            Change::Remove(key) => vec![format!("-{key}")],
            Change::Replace { objects, .. } => objects.iter().map(of).collect(),
        };
        changes.iter().flat_map(words).collect()
    }

    #[test]
    fn a_pod_is_found_by_its_name_or_that_of_the_kubelet() {
        let mut fill = fill(&[("a-na", "10.0.0.1"), ("b", "10.0.0.2"), ("b-na", "10.0.0.3")]);
        let pods = ["a", "b", "c"].map(|name| pod(name, "")).to_vec();
        assert_eq!(
            words(&fill.pass(vec![Change::everything(pods)])),
            ["a Own([10.0.0.1])", "b Own([10.0.0.2])", "c Own([])"]
        );
    }

    #[test]
    fn only_a_pod_without_addresses_gets_them() {
        let mut fill = fill(&[("a", "10.0.0.1"), ("b", "10.0.0.1")]);
        let written = pod("a", "status: {podIPs: [{ip: 10.0.0.9}]}");
        let host = pod("b", "spec: {hostNetwork: true}");
        let changes = vec![Change::Apply(written), Change::Apply(host)];
        assert_eq!(words(&fill.pass(changes)), ["a Own([10.0.0.9])", "b Node"]);
        assert!(fill.learn(found(&[("a", "10.0.0.2")])).is_empty());
    }

    #[test]
    fn what_is_learnt_changes_those_pods_only() {
        let mut fill = fill(&[("b", "10.0.0.2")]);
        fill.pass(vec![Change::everything(["a", "b", "c"].map(|name| pod(name, "")).to_vec())]);
        let more = found(&[("a-na", "10.0.0.1"), ("b", "10.0.0.2")]);
        assert_eq!(words(&fill.learn(more.clone())), ["a Own([10.0.0.1])"]);
        assert!(fill.learn(more.clone()).is_empty());
        // Its manifest goes, or gets an address.
        let key = pod("a", "").object.key();
        let written = pod("b", "status: {podIPs: [{ip: 10.0.0.9}]}");
        fill.pass(vec![Change::Remove(key), Change::Apply(written)]);
        assert!(fill.learn(found(&[])).is_empty());
        fill.pass(vec![Change::Apply(pod("b", ""))]);
        assert_eq!(words(&fill.learn(more)), ["b Own([10.0.0.2])"]);
        assert_eq!(words(&fill.learn(found(&[]))), ["b Own([])"]);
    }
}
