//! Who has which address and port.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use jiff::Timestamp;
use rulec_compiler::name::{NamespacedName, PortName};
use rulec_compiler::net::Family;
use serde::{Deserialize, Serialize};

/// How long a value stays reserved for a Service that is gone, so that a file that is edited or
/// moved keeps its addresses.
pub(super) const RESERVED: Duration = Duration::from_secs(24 * 60 * 60);

/// A field of a Service that is given out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Part {
    /// The cluster address of a family.
    ClusterIp(Family),
    /// The node port of the port with this name.
    NodePort(PortName),
    /// `healthCheckNodePort`.
    HealthCheck,
}

/// A value that only one can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Value {
    /// An address.
    ClusterIp(IpAddr),
    /// A port of the node, whatever the protocol.
    NodePort(NonZeroU16),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterIp(address) => write!(f, "{address}"),
            Self::NodePort(port) => write!(f, "port {port}"),
        }
    }
}

/// A value that was given out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Grant {
    pub(super) service: NamespacedName,
    pub(super) part: Part,
    pub(super) value: Value,
    /// Since when nobody asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) idle_since: Option<Timestamp>,
}

/// All values that are given out or written. Invariants: `holders` is the inverse of `given`, and
/// no value that is written is given out.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    given: BTreeMap<NamespacedName, BTreeMap<Part, (Value, Option<Timestamp>)>>,
    holders: BTreeMap<Value, (NamespacedName, Part)>,
    /// The Services that write a value.
    written: BTreeMap<Value, BTreeSet<NamespacedName>>,
    /// What is given to nobody anew: another side of a comparison has it.
    reserved: BTreeSet<Value>,
}

impl Ledger {
    /// Takes over what was given out before, except what is not free any more. Returns how much was
    /// taken over.
    pub(super) fn adopt(&mut self, grants: Vec<Grant>) -> usize {
        let mut adopted = 0;
        for Grant { service, part, value, idle_since } in grants {
            if self.is_free(value) && self.value(&service, &part).is_none() {
                self.give(&service, &part, value);
                if let Some((_, idle)) =
                    self.given.get_mut(&service).and_then(|of| of.get_mut(&part))
                {
                    *idle = idle_since;
                }
                adopted += 1;
            }
        }
        adopted
    }

    /// Returns everything that is given out, in order.
    pub(super) fn grants(&self) -> Vec<Grant> {
        let parts = self.given.iter().flat_map(|(service, parts)| {
            parts.iter().map(move |(part, (value, idle_since))| Grant {
                service: service.clone(),
                part: part.clone(),
                value: *value,
                idle_since: *idle_since,
            })
        });
        parts.collect()
    }

    /// Returns what a part of a Service has.
    pub(super) fn value(&self, service: &NamespacedName, part: &Part) -> Option<Value> {
        Some(self.given.get(service)?.get(part)?.0)
    }

    /// Returns whether a Service has anything.
    pub(super) fn has(&self, service: &NamespacedName) -> bool {
        self.given.contains_key(service)
    }

    /// Returns whether nobody has the value.
    pub(super) fn is_free(&self, value: Value) -> bool {
        let is_used = self.holders.contains_key(&value) || self.written.contains_key(&value);
        !is_used && !self.reserved.contains(&value)
    }

    /// Returns whether there is another side of a comparison.
    pub(super) fn has_reserved(&self) -> bool {
        !self.reserved.is_empty()
    }

    /// Reserves values for those who have them.
    pub(super) fn reserve(&mut self, values: impl IntoIterator<Item = Value>) {
        self.reserved.extend(values);
    }

    /// Notes that a Service writes a value. Returns who has to give it up.
    pub(super) fn write(
        &mut self,
        value: Value,
        service: &NamespacedName,
    ) -> Option<(NamespacedName, Part)> {
        self.written.entry(value).or_default().insert(service.clone());
        self.take_back(value)
    }

    /// Notes that a Service no longer writes a value.
    pub(super) fn erase(&mut self, value: Value, service: &NamespacedName) {
        if let Some(writers) = self.written.get_mut(&value) {
            writers.remove(service);
            if writers.is_empty() {
                self.written.remove(&value);
            }
        }
    }

    /// Gives a free value to a part that has none.
    pub(super) fn give(&mut self, service: &NamespacedName, part: &Part, value: Value) {
        self.holders.insert(value, (service.clone(), part.clone()));
        self.given.entry(service.clone()).or_default().insert(part.clone(), (value, None));
    }

    /// Takes a value back. Returns who had it.
    pub(super) fn take_back(&mut self, value: Value) -> Option<(NamespacedName, Part)> {
        let (service, part) = self.holders.remove(&value)?;
        if let Some(parts) = self.given.get_mut(&service) {
            parts.remove(&part);
            if parts.is_empty() {
                self.given.remove(&service);
            }
        }
        Some((service, part))
    }

    /// Notes which parts of a Service are in use; the others are idle from now on. Returns whether
    /// that changes anything.
    pub(super) fn use_only(
        &mut self,
        service: &NamespacedName,
        parts: &[Part],
        now: Timestamp,
    ) -> bool {
        let mut changed = false;
        for (part, (_, idle_since)) in self.given.get_mut(service).into_iter().flatten() {
            let is_used = parts.contains(part);
            if is_used == idle_since.is_some() {
                *idle_since = (!is_used).then_some(now);
                changed = true;
            }
        }
        changed
    }

    /// Returns the Services that have something.
    pub(super) fn services(&self) -> impl Iterator<Item = &NamespacedName> {
        self.given.keys()
    }

    /// Takes back what has been idle for long enough. Returns whether there was any.
    pub(super) fn expire(&mut self, now: Timestamp) -> bool {
        let is_over = |since: &Timestamp| {
            Duration::try_from(now.duration_since(*since)).is_ok_and(|idle| idle >= RESERVED)
        };
        let parts = self.given.values().flat_map(BTreeMap::values);
        let over = parts.filter(|(_, since)| since.as_ref().is_some_and(is_over));
        let over: Vec<Value> = over.map(|(value, _)| *value).collect();
        over.iter().for_each(|value| drop(self.take_back(*value)));
        !over.is_empty()
    }

    /// Returns the value that has been idle for longest, among some.
    pub(super) fn longest_idle(&self, among: impl Fn(Value) -> bool) -> Option<Value> {
        let parts = self.given.values().flat_map(BTreeMap::values);
        let idle = parts.filter_map(|(value, since)| Some(((*since)?, *value)));
        let fits = |value: Value| among(value) && !self.reserved.contains(&value);
        idle.filter(|(_, value)| fits(*value)).min().map(|(_, value)| value)
    }
}
