//! The Pods that there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::{ObjectKey, Pod};

use super::told::ToldPod;
use crate::problem::{Problem, Severity};

/// The Pods by UID.
#[derive(Debug, Default)]
pub(super) struct Live(pub(super) BTreeMap<Box<str>, Instance>);

/// One Pod.
#[derive(Debug)]
pub(super) struct Instance {
    /// The name that it is told under.
    pub(super) key: NamespacedName,
    /// The name that its runner has for it.
    pub(super) name: NamespacedName,
    /// Its last good state, if there has been one.
    pub(super) pod: Option<Arc<Pod>>,
    /// Whether its runner has not looked at it yet.
    pub(super) is_new: bool,
    pub(super) problems: Vec<Problem>,
    /// Its place in the order in which Pods arrived.
    pub(super) arrival: u64,
}

impl Live {
    /// Returns the names that Pods are told under.
    pub(super) fn keys(&self) -> impl Iterator<Item = &NamespacedName> {
        self.0.values().map(|instance| &instance.key)
    }

    /// Returns the Pod with this UID, or else one with this name.
    pub(super) fn find(&self, uid: &str, name: &NamespacedName) -> Option<&Instance> {
        let of_name = || self.0.values().find(|instance| instance.name == *name);
        self.0.get(uid).or_else(of_name)
    }

    /// Returns the one of a name that counts. While a Pod takes the place of another, there
    /// may be both.
    pub(super) fn best(&self, key: &NamespacedName) -> Option<ToldPod> {
        let instances = self.0.iter().filter(|(_, instance)| instance.key == *key);
        let good = instances
            .filter_map(|(uid, instance)| Some((uid, instance.pod.as_ref()?, instance.arrival)));
        let best = good.max_by_key(|(_, pod, arrival)| {
            (pod.conditions.ready, pod.conditions.serving, *arrival)
        });
        best.map(|(uid, pod, _)| ToldPod { uid: uid.clone(), pod: pod.clone() })
    }

    /// Returns whether it is not known any more how a Pod is that was known before.
    pub(super) fn has_forgotten(&self, before: &Self) -> bool {
        let is_known = |uid: &str| before.0.get(uid).is_some_and(|before| !before.is_new);
        self.0.iter().any(|(uid, instance)| instance.is_new && is_known(uid))
    }

    /// Returns the number of Pods without a good state.
    pub(super) fn unread(&self) -> usize {
        self.0.values().filter(|instance| instance.pod.is_none()).count()
    }

    /// Returns what is wrong with Pods.
    pub(super) fn problems(&self, runner: &str, place: &Arc<str>) -> impl Iterator<Item = Problem> {
        let mut names: BTreeMap<&NamespacedName, &NamespacedName> = BTreeMap::new();
        let mut twice = Vec::new();
        for Instance { key, name, .. } in self.0.values() {
            let first = *names.entry(key).or_insert(name);
            if first != name {
                let message = format!(
                    "{runner} has {first} and {name}, one of which has the name of the node \
                     appended; only one of both is used"
                );
                let object = Some(ObjectKey::Pod(key.clone()).to_string());
                let problem = Problem::of_file(place, Severity::Error, message);
                twice.push(Problem { object, ..problem });
            }
        }
        self.0.values().flat_map(|instance| &instance.problems).cloned().chain(twice)
    }
}
