//! What was told, and what of it stays while a runner finds its Pods again.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use rulec_compiler::name::NamespacedName;
use rulec_compiler::object::Pod;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

/// The Pods by the names that they are told under.
pub(super) type Told = BTreeMap<NamespacedName, ToldPod>;

/// A Pod that was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ToldPod {
    /// Which of those that have had the name it is.
    pub(super) uid: Box<str>,
    pub(super) pod: Arc<Pod>,
}

impl ToldPod {
    pub(super) fn is_ready(&self) -> bool {
        self.pod.conditions.ready
    }

    pub(super) fn is_terminating(&self) -> bool {
        self.pod.conditions.terminating
    }
}

/// The Pods that stay as they were told, because the kubelet has begun anew and may not know yet how
/// they are. Each of them was ready.
#[derive(Debug)]
pub(super) struct Hold {
    settle: Duration,
    pods: Told,
    /// When they are let go.
    until: Option<Instant>,
}

impl Hold {
    pub(super) fn new(settle: Duration) -> Self {
        Self { settle, pods: Told::new(), until: None }
    }

    /// Holds these Pods from now on, unless there is nothing to wait for.
    pub(super) fn begin(&mut self, pods: Told, now: Instant) {
        if self.settle.is_zero() {
            return;
        }
        self.pods = pods;
        self.until = Some(now + self.settle);
    }

    /// Holds on until [`begin`](Self::begin), however long that takes.
    pub(super) fn suspend(&mut self) {
        self.until = None;
    }

    /// Returns when the Pods are let go, if they are.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }

    pub(super) fn get(&self, key: &NamespacedName) -> Option<&ToldPod> {
        self.pods.get(key)
    }

    /// Replaces what is held of a Pod, if it is held. For a moment, a kubelet that has just begun
    /// takes a container for ready that it has not probed yet; so this is not the end of the wait.
    pub(super) fn renew(&mut self, key: &NamespacedName, found: &ToldPod) {
        if let Some(held) = self.pods.get_mut(key) {
            held.clone_from(found);
        }
    }

    /// Lets go of a Pod.
    pub(super) fn release(&mut self, key: &NamespacedName) {
        self.pods.remove(key);
    }

    /// Lets go of the Pod with this UID.
    pub(super) fn delete(&mut self, uid: &str) {
        self.pods.retain(|_, held| &*held.uid != uid);
    }

    /// Lets go of all; returns their names.
    pub(super) fn let_go(&mut self) -> impl Iterator<Item = NamespacedName> {
        self.until = None;
        mem::take(&mut self.pods).into_keys()
    }
}
