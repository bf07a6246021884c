//! Counts of what the nodes of a relay do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use rulec_compiler::name::NodeName;

/// Why a node does not use a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The type of the resource, and what the node says.
    pub reason: String,
}

/// Counts since the start, and what nodes say now.
#[derive(Debug, Default)]
pub struct Stats {
    nodes: AtomicU64,
    streams: AtomicU64,
    resources: AtomicU64,
    bytes: AtomicU64,
    batches: AtomicU64,
    rejections: AtomicU64,
    turned_away: AtomicU64,
    refusals: Mutex<BTreeMap<NodeName, BTreeMap<String, Refusal>>>,
}

impl Stats {
    /// Returns the number of nodes that follow now.
    pub fn nodes(&self) -> u64 {
        self.nodes.load(Relaxed)
    }

    /// Returns how often a node has begun to follow.
    pub fn streams(&self) -> u64 {
        self.streams.load(Relaxed)
    }

    /// Returns the number of resources sent, and of those that were said to be gone.
    pub fn resources(&self) -> u64 {
        self.resources.load(Relaxed)
    }

    /// Returns the number of bytes of responses, before TLS.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Returns how many batches of responses nodes were sent.
    pub fn batches(&self) -> u64 {
        self.batches.load(Relaxed)
    }

    /// Returns the number of responses that nodes have refused.
    pub fn rejections(&self) -> u64 {
        self.rejections.load(Relaxed)
    }

    /// Returns how many connections were refused because nothing proved who they are.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Relaxed)
    }

    /// Returns what nodes do not use now, by node and subject.
    pub fn refusals(&self) -> BTreeMap<NodeName, BTreeMap<String, Refusal>> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    pub(crate) fn began(&self) {
        self.nodes.fetch_add(1, Relaxed);
        self.streams.fetch_add(1, Relaxed);
    }

    pub(crate) fn ended(&self, node: &NodeName) {
        self.nodes.fetch_sub(1, Relaxed);
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    pub(crate) fn sent(&self, resources: usize, bytes: usize) {
        self.resources.fetch_add(resources as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn finished(&self) {
        self.batches.fetch_add(1, Relaxed);
    }

    /// Notes what a node says about a subject; `None` if it has nothing to say any more.
    pub(crate) fn told(&self, node: &NodeName, subject: &str, reason: Option<String>) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match reason {
            Some(reason) => {
                self.rejections.fetch_add(1, Relaxed);
                let of_node = refusals.entry(node.clone()).or_default();
                of_node.insert(subject.to_owned(), Refusal { reason });
            }
            None => {
                if let Some(of_node) = refusals.get_mut(node) {
                    of_node.remove(subject);
                    if of_node.is_empty() {
                        refusals.remove(node);
                    }
                }
            }
        }
    }
}
