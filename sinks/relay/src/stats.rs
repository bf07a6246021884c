//! Counts of what the nodes of a relay do.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rulec_compiler::name::NodeName;

use crate::refusals::{Refusal, Refusals};

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
    crowded_out: AtomicU64,
    replaced: AtomicU64,
    overdue: AtomicU64,
    refusals: Mutex<Refusals>,
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

    /// Returns how many connections were closed because there were too many: in all, or of those
    /// that had not proved whose they are.
    pub fn crowded_out(&self) -> u64 {
        self.crowded_out.load(Relaxed)
    }

    /// Returns how many streams have ended because the same node began another.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Relaxed)
    }

    /// Returns how many streams have ended because the node did not read or answer in time.
    pub fn overdue(&self) -> u64 {
        self.overdue.load(Relaxed)
    }

    /// Returns what nodes do not use now, by node and subject.
    pub fn refusals(&self) -> BTreeMap<NodeName, BTreeMap<String, Refusal>> {
        self.held().all(Instant::now())
    }

    pub(crate) fn turn_away(&self) {
        self.turned_away.fetch_add(1, Relaxed);
    }

    pub(crate) fn crowd_out(&self) {
        self.crowded_out.fetch_add(1, Relaxed);
    }

    pub(crate) fn replace(&self) {
        self.replaced.fetch_add(1, Relaxed);
    }

    pub(crate) fn wait_in_vain(&self) {
        self.overdue.fetch_add(1, Relaxed);
    }

    pub(crate) fn began(&self, node: &NodeName) {
        self.nodes.fetch_add(1, Relaxed);
        self.streams.fetch_add(1, Relaxed);
        self.held().came(node);
    }

    /// Notes that a stream has ended, and whether its node has another one.
    pub(crate) fn ended(&self, node: &NodeName, has_another: bool) {
        self.nodes.fetch_sub(1, Relaxed);
        if !has_another {
            self.held().went(node, Instant::now());
        }
    }

    pub(crate) fn sent(&self, resources: usize, bytes: usize) {
        self.resources.fetch_add(resources as u64, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn finished(&self) {
        self.batches.fetch_add(1, Relaxed);
    }

    /// Notes that a node refuses a response with these resources, and why: as it says it, and as it
    /// is shown.
    pub(crate) fn refuse(
        &self,
        node: &NodeName,
        subject: &str,
        reason: (&str, String),
        sent: &[Arc<str>],
    ) {
        self.rejections.fetch_add(1, Relaxed);
        self.held().refuse(node, subject, reason, sent);
    }

    /// Notes that a node uses a response with these resources.
    pub(crate) fn accept(&self, node: &NodeName, subject: &str, sent: &[Arc<str>]) {
        self.held().accept(node, subject, sent);
    }

    /// Notes what a node says of its kernel; `None` if that refuses nothing.
    pub(crate) fn hear_of_kernel(&self, node: &NodeName, reason: Option<String>) {
        if reason.is_some() {
            self.rejections.fetch_add(1, Relaxed);
        }
        self.held().hear_of_kernel(node, reason);
    }

    fn held(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
