//! Takes objects as they are written, and returns them with everything that they need.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use im::OrdSet;
use jiff::Timestamp;
use rulec_compiler::frontend::PortKey;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;
use rulec_compiler::object::{
    AskedFamilies, Asks, ClusterIps, FamilyPolicy, Kind, Object, ObjectKey, Service,
};
use rulec_compiler::{Change, Sourced};

use super::ledger::{Grant, Ledger, Part, Value};
use super::ranges::{PortRange, Ranges};
use crate::problem::{Problem, Severity};

/// Gives out values. See the module's documentation.
#[derive(Debug)]
pub(super) struct Stage {
    /// `None` if nothing is given out.
    ranges: Option<Ranges>,
    ledger: Ledger,
    services: BTreeMap<NamespacedName, Entry>,
    /// The Services that need something for which there was no room.
    unserved: BTreeSet<NamespacedName>,
    problems: OrdSet<Problem>,
    /// Whether all Services have been read: only then those that are missing are gone.
    is_whole: bool,
    /// Whether the ledger differs from the one that was saved last.
    is_changed: bool,
}

/// A Service.
#[derive(Debug)]
struct Entry {
    /// As it was read.
    read: Sourced,
    /// As it was passed on.
    told: Option<Sourced>,
    written: BTreeSet<Value>,
    problems: Vec<Problem>,
}

/// What leaves the stage.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) changes: Vec<Change>,
    /// Whether a value was given out, so that the ledger must be saved before the changes are used.
    pub(super) has_given: bool,
    pub(super) moves: Vec<Move>,
}

/// A value that had to move.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) service: NamespacedName,
    from: Value,
    to: Option<Value>,
    why: Why,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Why {
    /// A Service writes the value.
    Written(NamespacedName),
    /// The range is another one than when it was given out.
    Range,
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, from, to, why } = self;
        match to {
            Some(to) => write!(f, "Service {service} moves from {from} to {to}: ")?,
            None => write!(f, "Service {service} loses {from}: ")?,
        }
        match why {
            Why::Written(by) => write!(f, "Service {by} writes {from}"),
            Why::Range => write!(f, "{from} is outside of the range now"),
        }
    }
}

impl Stage {
    pub(super) fn new(ranges: Option<Ranges>) -> Self {
        Self {
            ranges,
            ledger: Ledger::default(),
            services: BTreeMap::new(),
            unserved: BTreeSet::new(),
            problems: OrdSet::new(),
            is_whole: false,
            is_changed: false,
        }
    }

    /// Takes over what was given out before, except what is not free any more.
    pub(super) fn adopt(&mut self, grants: Vec<Grant>, now: Timestamp) {
        let all = grants.len();
        self.is_changed |= self.ledger.adopt(grants) < all;
        // Otherwise, that is done once all Services have been read.
        if self.is_whole {
            self.review(now);
        }
    }

    /// Takes over what Service ports have elsewhere, as far as it can have been given out.
    pub(super) fn recall(&mut self, held: Vec<(Arc<PortKey>, Value)>, now: Timestamp) {
        let Some(ranges) = &self.ranges else { return };
        let grant = |(owner, value): (Arc<PortKey>, Value)| {
            let part = match value {
                Value::ClusterIp(address) => Part::ClusterIp(Family::of(address)),
                Value::NodePort(_) => Part::NodePort(owner.port.clone()),
            };
            let is_ours = ranges.pool(&part).is_some_and(|pool| pool.contains(value));
            let service = owner.service.clone();
            (is_ours && !owner.is_shortened()).then_some(Grant {
                service,
                part,
                value,
                idle_since: None,
            })
        };
        self.adopt(held.into_iter().filter_map(grant).collect(), now);
        // None of it has been saved.
        self.is_changed = true;
    }

    /// Gives these values to nobody who does not have them, also if nobody asks for them any more.
    pub(super) fn reserve(&mut self, values: impl IntoIterator<Item = Value>) {
        self.ledger.reserve(values);
    }

    /// Returns everything that is given out, to be saved.
    pub(super) fn grants(&self) -> Vec<Grant> {
        self.ledger.grants()
    }

    /// Returns whether the ledger has changed since the last call of `saved`.
    pub(super) fn is_changed(&self) -> bool {
        self.is_changed
    }

    /// Notes that the ledger was saved.
    pub(super) fn saved(&mut self) {
        self.is_changed = false;
    }

    /// Returns all current problems.
    pub(super) fn problems(&self) -> &OrdSet<Problem> {
        &self.problems
    }

    /// Passes changes on. `is_whole` says whether all Services are known with them.
    pub(super) fn pass(&mut self, changes: Vec<Change>, is_whole: bool, now: Timestamp) -> Passed {
        let mut round = Round::default();
        // All that is written is known before anything is given out.
        for change in &changes {
            self.take(change, &mut round);
        }
        // Only a change of a Service makes room for others.
        if !round.affected.is_empty() {
            round.affected.append(&mut self.unserved);
        }
        let named = std::mem::take(&mut round.named);
        let mut others = Vec::new();
        // What is there already keeps what it has, whatever the order of names.
        let (held, new): (Vec<NamespacedName>, Vec<_>) =
            std::mem::take(&mut round.affected).into_iter().partition(|key| self.ledger.has(key));
        for key in held.into_iter().chain(new) {
            let is_news = self.serve(&key, &mut round, now);
            if is_news && !named.contains(&key) {
                others.extend(self.services.get(&key).and_then(|entry| entry.told.clone()));
            }
        }
        if is_whole && !std::mem::replace(&mut self.is_whole, true) {
            self.review(now);
        }
        let changes = changes.into_iter().map(|change| self.completed(change));
        let changes = changes.chain(others.into_iter().map(Change::Apply)).collect();
        self.is_changed |= round.has_given || !round.moves.is_empty();
        Passed { changes, has_given: round.has_given, moves: round.moves }
    }

    /// Takes back what was reserved for long enough.
    pub(super) fn expire(&mut self, now: Timestamp) {
        self.is_changed |= self.ledger.expire(now);
    }

    fn take(&mut self, change: &Change, round: &mut Round) {
        match change {
            Change::Apply(sourced) => self.read(sourced, round),
            Change::Remove(ObjectKey::Service(key)) => self.forget(key, round),
            Change::Remove(_) => {}
            Change::Replace { kinds, objects } => {
                if kinds.contains(&Kind::Service) {
                    let keys = objects.iter().map(|sourced| sourced.object.key());
                    let keys: BTreeSet<ObjectKey> = keys.collect();
                    let is_gone =
                        |key: &&NamespacedName| !keys.contains(&ObjectKey::Service((*key).clone()));
                    let gone: Vec<_> = self.services.keys().filter(is_gone).cloned().collect();
                    gone.iter().for_each(|key| self.forget(key, round));
                }
                objects.iter().for_each(|sourced| self.read(sourced, round));
            }
        }
    }

    fn read(&mut self, sourced: &Sourced, round: &mut Round) {
        let Object::Service(service) = &sourced.object else { return };
        let key = &service.key;
        let written = written(service);
        let mut old = self.services.remove(key);
        for value in old.iter().flat_map(|old| &old.written) {
            self.ledger.erase(*value, key);
        }
        for value in &written {
            if let Some((holder, part)) = self.ledger.write(*value, key) {
                self.is_changed = true;
                round.affected.insert(holder.clone());
                round.evicted.insert((holder, part), (*value, Why::Written(key.clone())));
            }
        }
        let told = old.as_mut().and_then(|old| old.told.take());
        let problems = old.map(|old| old.problems).unwrap_or_default();
        let entry = Entry { read: sourced.clone(), told, written, problems };
        self.services.insert(key.clone(), entry);
        round.named.insert(key.clone());
        round.affected.insert(key.clone());
    }

    fn forget(&mut self, key: &NamespacedName, round: &mut Round) {
        let Some(old) = self.services.remove(key) else { return };
        for value in &old.written {
            self.ledger.erase(*value, key);
        }
        for problem in &old.problems {
            self.problems.remove(problem);
        }
        round.affected.insert(key.clone());
    }

    /// Reserves what nobody asks for: neither a Service that was not read, nor one that needs it no
    /// longer.
    fn review(&mut self, now: Timestamp) {
        let holders: Vec<_> = self.ledger.services().cloned().collect();
        for key in holders {
            let parts = match self.services.get(&key).map(|entry| &entry.read.object) {
                Some(Object::Service(service)) => self.parts(service, &mut Faults::default()),
                Some(_) | None => Vec::new(),
            };
            self.is_changed |= self.ledger.use_only(&key, &parts, now);
        }
    }

    /// Gives a Service what it needs. Returns whether it is passed on differently than before.
    fn serve(&mut self, key: &NamespacedName, round: &mut Round, now: Timestamp) -> bool {
        let Some(mut entry) = self.services.remove(key) else {
            self.is_changed |= self.ledger.use_only(key, &[], now);
            return false;
        };
        let Object::Service(service) = &entry.read.object else { return false };
        let mut faults = Faults::default();
        let parts = self.parts(service, &mut faults);
        self.is_changed |= self.ledger.use_only(key, &parts, now);
        let object = if service.asks.is_empty() {
            entry.read.object.clone()
        } else {
            Object::Service(Arc::new(self.filled(service, &parts, round, &mut faults)))
        };
        let told = Sourced { object, provenance: entry.read.provenance.clone() };
        for problem in &entry.problems {
            self.problems.remove(problem);
        }
        entry.problems = faults.of(&entry.read);
        self.problems.extend(entry.problems.iter().cloned());
        let is_news = entry.told.as_ref() != Some(&told);
        entry.told = Some(told);
        self.services.insert(key.clone(), entry);
        is_news
    }

    /// Returns a Service with these parts, as far as there are values for them.
    fn filled(
        &mut self,
        service: &Service,
        parts: &[Part],
        round: &mut Round,
        faults: &mut Faults,
    ) -> Service {
        let mut filled = Service { asks: Asks::default(), ..service.clone() };
        for part in parts {
            match self.value(&service.key, part, round) {
                Ok(value) => fill(&mut filled, part, value),
                Err(reason) => {
                    self.unserved.insert(service.key.clone());
                    faults.error(format!("{}: missing, and {reason}; not served", field(part)));
                }
            }
        }
        // A Service for which there is no address must not be taken for a headless one.
        if filled.cluster_ips == ClusterIps::default() {
            filled.asks.cluster_ips.clone_from(&service.asks.cluster_ips);
        }
        filled
    }

    /// Returns the parts that a Service needs, as far as there are ranges for them.
    fn parts(&self, service: &Service, faults: &mut Faults) -> Vec<Part> {
        let asks = &service.asks;
        let ports = self
            .ranges
            .as_ref()
            .map_or(Some(PortRange::default()), |ranges| ranges.node_ports.clone());
        let written = service.ports.iter().filter_map(|port| port.node_port);
        if let Some(ports) = &ports
            && let Some(odd) = { written }.find(|port| !ports.contains(*port))
        {
            faults.warn(format!(
                "spec.ports: nodePort {odd} is outside {ports}, the range of node ports"
            ));
        }
        let mut parts = Vec::new();
        let Some(ranges) = &self.ranges else {
            if asks.cluster_ips.is_some() && service.cluster_ips == ClusterIps::default() {
                let reason = "only the API server gives out addresses";
                faults.warn(format!("spec.clusterIP: missing: {reason}; not served"));
            }
            warn_of_ports(asks, "only the API server gives out node ports", faults);
            return parts;
        };
        if let Some(asked) = &asks.cluster_ips {
            self.families(ranges, service, asked, &mut parts, faults);
        }
        if ranges.node_ports.is_some() {
            let open = service.ports.iter().filter(|port| port.node_port.is_none());
            let open = open.filter(|_| asks.node_ports);
            parts.extend(open.map(|port| Part::NodePort(port.name.clone())));
            parts.extend(asks.health_check.then_some(Part::HealthCheck));
        } else {
            warn_of_ports(asks, "--service-node-port-range is empty", faults);
        }
        parts
    }

    /// Adds the cluster addresses that a Service needs.
    fn families(
        &self,
        ranges: &Ranges,
        service: &Service,
        asked: &AskedFamilies,
        parts: &mut Vec<Part>,
        faults: &mut Faults,
    ) {
        let of_ranges = ranges.cluster_ips().first().map(|network| Family::of(network.addr()));
        let first = asked.first.or(of_ranges).unwrap_or(Family::Ipv4);
        let second = Family::ALL.into_iter().find(|family| *family != first);
        let second = second.filter(|_| asked.policy != FamilyPolicy::SingleStack);
        let open = |family: &Family| service.cluster_ips.of(*family).is_none();
        let (given, without): (Vec<Family>, Vec<Family>) = std::iter::once(first)
            .chain(second)
            .filter(open)
            .partition(|family| ranges.network(*family).is_some());
        let has_any = !given.is_empty() || service.cluster_ips != ClusterIps::default();
        let is_preference = asked.policy == FamilyPolicy::PreferDualStack && has_any;
        for family in without.into_iter().filter(|_| !is_preference) {
            let reason = format!("--service-cidr has no network of {family}");
            faults.error(format!("spec.clusterIP: missing, and {reason}; not served in {family}"));
        }
        parts.extend(given.into_iter().map(Part::ClusterIp));
    }

    /// Returns the value of a part: the one that it has, or a free one.
    fn value(
        &mut self,
        key: &NamespacedName,
        part: &Part,
        round: &mut Round,
    ) -> Result<Value, String> {
        let Some(ranges) = &self.ranges else { return Err("nothing is given out".to_owned()) };
        let Some(pool) = ranges.pool(part) else { return Err("there is no range".to_owned()) };
        let obstacle = ranges.obstacle(part);
        let mut moved = round.evicted.remove(&(key.clone(), part.clone()));
        if let Some(held) = self.ledger.value(key, part) {
            if pool.contains(held) {
                return Ok(held);
            }
            self.ledger.take_back(held);
            moved = Some((held, Why::Range));
        }
        let free = match obstacle {
            Some(_) => None,
            None => {
                let mut candidates = pool.candidates(key, part);
                let free = candidates.find(|value| self.ledger.is_free(*value));
                free.or_else(|| {
                    let idle = self.ledger.longest_idle(|value| pool.contains(value))?;
                    self.ledger.take_back(idle);
                    Some(idle)
                })
            }
        };
        if let Some((from, why)) = moved {
            round.moves.push(Move { service: key.clone(), from, to: free, why });
        }
        match (free, obstacle) {
            (Some(value), _) => {
                self.ledger.give(key, part, value);
                round.has_given = true;
                Ok(value)
            }
            (None, Some(obstacle)) => Err(obstacle.to_owned()),
            (None, None) => {
                let is_compared = self.ledger.has_reserved();
                let whose = if is_compared { " on one side or the other" } else { "" };
                Err(match part {
                    Part::ClusterIp(family) => match ranges.network(*family) {
                        Some(network) => format!("every address of {network} is in use{whose}"),
                        None => "there is no range".to_owned(),
                    },
                    Part::NodePort(_) | Part::HealthCheck => match &ranges.node_ports {
                        Some(ports) => format!("every port of {ports} is in use{whose}"),
                        None => "there is no range".to_owned(),
                    },
                })
            }
        }
    }

    /// Returns a change with complete Services.
    fn completed(&self, change: Change) -> Change {
        let complete = |sourced: Sourced| {
            let Object::Service(service) = &sourced.object else { return sourced };
            let entry = self.services.get(&service.key);
            entry.and_then(|entry| entry.told.clone()).unwrap_or(sourced)
        };
        match change {
            Change::Apply(sourced) => Change::Apply(complete(sourced)),
            Change::Replace { kinds, objects } => {
                Change::Replace { kinds, objects: objects.into_iter().map(complete).collect() }
            }
            Change::Remove(key) => Change::Remove(key),
        }
    }
}

/// What a call collects.
#[derive(Debug, Default)]
struct Round {
    /// The Services that the changes name, and that are there afterwards.
    named: BTreeSet<NamespacedName>,
    /// The Services to look at.
    affected: BTreeSet<NamespacedName>,
    evicted: BTreeMap<(NamespacedName, Part), (Value, Why)>,
    moves: Vec<Move>,
    has_given: bool,
}

/// The problems of a Service.
#[derive(Debug, Default)]
struct Faults(Vec<(Severity, String)>);

impl Faults {
    fn error(&mut self, message: String) {
        self.0.push((Severity::Error, message));
    }

    fn warn(&mut self, message: String) {
        self.0.push((Severity::Warning, message));
    }

    fn of(self, sourced: &Sourced) -> Vec<Problem> {
        let Sourced { object, provenance } = sourced;
        let object = object.key().to_string();
        let problem = |(severity, message): (Severity, String)| Problem {
            object: Some(object.clone()),
            ..Problem::of_file(&provenance.0, severity, message)
        };
        self.0.into_iter().map(problem).collect()
    }
}

/// Returns everything that a Service writes: what others must not get.
pub(super) fn written(service: &Service) -> BTreeSet<Value> {
    let cluster_ips = Family::ALL.into_iter().filter_map(|family| service.cluster_ips.of(family));
    let others = service.external_ips.iter().chain(&service.load_balancer_vips).copied();
    let addresses = cluster_ips.chain(others).map(|address: IpAddr| Value::ClusterIp(address));
    let ports = service.ports.iter().filter_map(|port| port.node_port);
    let ports = ports.chain(service.health_check_node_port).map(Value::NodePort);
    addresses.chain(ports).collect()
}

/// Sets a part of a Service.
pub(super) fn fill(service: &mut Service, part: &Part, value: Value) {
    match (part, value) {
        (Part::ClusterIp(_), Value::ClusterIp(IpAddr::V4(address))) => {
            service.cluster_ips.v4 = Some(address);
        }
        (Part::ClusterIp(_), Value::ClusterIp(IpAddr::V6(address))) => {
            service.cluster_ips.v6 = Some(address);
        }
        (Part::NodePort(name), Value::NodePort(number)) => {
            let mut ports = service.ports.iter_mut();
            if let Some(port) = ports.find(|port| port.name == *name) {
                port.node_port = Some(number);
            }
        }
        (Part::HealthCheck, Value::NodePort(number)) => {
            service.health_check_node_port = Some(number);
        }
        // A pool has values of its own kind only.
        (Part::ClusterIp(_), Value::NodePort(_))
        | (Part::NodePort(_) | Part::HealthCheck, Value::ClusterIp(_)) => {}
    }
}

/// Warns of ports that a Service needs, and that are not given out for this reason.
fn warn_of_ports(asks: &Asks, reason: &str, faults: &mut Faults) {
    if asks.node_ports {
        faults
            .warn(format!("spec.ports: nodePort missing: {reason}; no node port is opened for it"));
    }
    if asks.health_check {
        faults.warn(format!("{}: missing: {reason}; not answered", field(&Part::HealthCheck)));
    }
}

/// Returns the field of a part.
fn field(part: &Part) -> String {
    match part {
        Part::ClusterIp(_) => "spec.clusterIP".to_owned(),
        Part::NodePort(name) if name.as_str().is_empty() => "spec.ports: nodePort".to_owned(),
        Part::NodePort(name) => format!("spec.ports: nodePort of {name}"),
        Part::HealthCheck => "spec.healthCheckNodePort".to_owned(),
    }
}
