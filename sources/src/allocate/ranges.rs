//! What may be given out, and the order in which it is tried.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU16;
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;

use ipnet::IpNet;
use rulec_compiler::name::NamespacedName;
use rulec_compiler::net::Family;

use super::ledger::{Part, Value};

/// The ranges of cluster addresses and of node ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    cluster_ips: Vec<IpNet>,
    /// The node ports; `None` if none are given out.
    pub node_ports: Option<PortRange>,
    /// The networks of which nothing new is given out, and why.
    obstacles: BTreeMap<Family, String>,
}

/// A range of ports, as kube-apiserver's `--service-node-port-range` takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRange(RangeInclusive<u16>);

/// Why networks cannot be ranges of cluster addresses.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RangeError(String);

impl Ranges {
    /// The default network: a part of kubeadm's, so that it is known to be one of Services, and
    /// small, so that it rarely meets another network.
    pub const DEFAULT: &str = "10.96.0.0/16";

    /// Returns ranges that consist of these networks, of which the first decides the family of
    /// Services that name none.
    ///
    /// # Errors
    ///
    /// If there are two of one family, or one is too small, too large, or no unicast network.
    pub fn new(cluster_ips: Vec<IpNet>, node_ports: Option<PortRange>) -> Result<Self, RangeError> {
        for (index, network) in cluster_ips.iter().enumerate() {
            let family = Family::of(network.addr());
            let mut before = cluster_ips.iter().take(index);
            if before.any(|other| Family::of(other.addr()) == family) {
                return Err(RangeError(format!("{network} is a second network of {family}")));
            }
            let (shortest, longest) = match family {
                Family::Ipv4 => (8, 30),
                Family::Ipv6 => (64, 126),
            };
            if !(shortest..=longest).contains(&network.prefix_len()) {
                return Err(RangeError(format!(
                    "the prefix length of {network} is not in {shortest}..{longest}"
                )));
            }
            let first = network.network();
            if first.is_loopback() || first.is_multicast() || first.is_unspecified() {
                return Err(RangeError(format!("{network} has no addresses for Services")));
            }
        }
        Ok(Self { cluster_ips, node_ports, obstacles: BTreeMap::new() })
    }

    /// Returns the networks.
    pub fn cluster_ips(&self) -> &[IpNet] {
        &self.cluster_ips
    }

    /// Returns the networks of which something is given out.
    pub fn open_networks(&self) -> impl Iterator<Item = IpNet> {
        let is_open = |it: &&IpNet| !self.obstacles.contains_key(&Family::of(it.addr()));
        self.cluster_ips.iter().filter(is_open).copied()
    }

    /// Gives out nothing new of the network of a family, for this reason.
    pub fn block(&mut self, family: Family, reason: String) {
        self.obstacles.insert(family, reason);
    }

    /// Returns the network of a family.
    pub(super) fn network(&self, family: Family) -> Option<&IpNet> {
        self.cluster_ips.iter().find(|network| Family::of(network.addr()) == family)
    }

    /// Returns why nothing of a part's range is given out.
    pub(super) fn obstacle(&self, part: &Part) -> Option<&str> {
        let Part::ClusterIp(family) = part else { return None };
        self.obstacles.get(family).map(String::as_str)
    }

    /// Returns the values that a part can have.
    pub(super) fn pool(&self, part: &Part) -> Option<Pool> {
        match part {
            Part::ClusterIp(family) => self.network(*family).map(Pool::of_network),
            Part::NodePort(_) | Part::HealthCheck => self.node_ports.as_ref().map(Pool::of_ports),
        }
    }
}

impl PortRange {
    /// The default of kube-apiserver.
    pub const DEFAULT: &str = "30000-32767";

    /// Returns whether a port is in the range.
    pub(super) fn contains(&self, port: NonZeroU16) -> bool {
        self.0.contains(&port.get())
    }
}

impl Default for PortRange {
    fn default() -> Self {
        Self(30_000..=32_767)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.start(), self.0.end())
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || -> Option<Self> {
            // As kube-apiserver: `30000-32767`, `30000+2767` or a single port.
            let (first, last) = if let Some((first, last)) = text.split_once('-') {
                (first.parse::<u16>().ok()?, last.parse().ok()?)
            } else if let Some((first, more)) = text.split_once('+') {
                let first = first.parse::<u16>().ok()?;
                (first, first.checked_add(more.parse().ok()?)?)
            } else {
                let only = text.parse::<u16>().ok()?;
                (only, only)
            };
            (0 < first && first <= last).then_some(Self(first..=last))
        };
        read().ok_or_else(|| format!("{text:?} is not a range of ports such as {}", Self::DEFAULT))
    }
}

/// The values of a range. As in Kubernetes (`ServiceIPStaticSubrange` and its like for node ports),
/// a first part is left to those who write addresses, and used only when the rest is full.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// The number that is added to get the value.
    base: u128,
    kind: PoolKind,
    lower: Range<u128>,
    upper: Range<u128>,
}

#[derive(Clone, Copy, Debug)]
enum PoolKind {
    Ipv4,
    Ipv6,
    Port,
}

impl Pool {
    fn of_network(network: &IpNet) -> Self {
        let (base, kind, bits) = match network.network() {
            IpAddr::V4(address) => (u128::from(address.to_bits()), PoolKind::Ipv4, 32),
            IpAddr::V6(address) => (address.to_bits(), PoolKind::Ipv6, 128),
        };
        // The lengths of prefixes are limited, so that this fits.
        let size = 1_u128 << (bits - network.prefix_len());
        // The first address of a network is no host's, and in IPv4 the last one is broadcast.
        let end = if matches!(kind, PoolKind::Ipv4) { size - 1 } else { size };
        Self::new(base, kind, 1..end, static_part(size, 16, 256))
    }

    fn of_ports(range: &PortRange) -> Self {
        let first = u128::from(*range.0.start());
        let size = u128::from(*range.0.end()) - first + 1;
        Self::new(first, PoolKind::Port, 0..size, static_part(size, 32, 128))
    }

    fn new(base: u128, kind: PoolKind, all: Range<u128>, lower: u128) -> Self {
        let middle = (all.start + lower).min(all.end);
        Self { base, kind, lower: all.start..middle, upper: middle..all.end }
    }

    fn value(&self, index: u128) -> Option<Value> {
        let number = self.base + index;
        Some(match self.kind {
            PoolKind::Ipv4 => {
                Value::ClusterIp(Ipv4Addr::from_bits(u32::try_from(number).ok()?).into())
            }
            PoolKind::Ipv6 => Value::ClusterIp(Ipv6Addr::from_bits(number).into()),
            PoolKind::Port => Value::NodePort(NonZeroU16::new(u16::try_from(number).ok()?)?),
        })
    }

    /// Returns whether a value is in the range.
    pub(super) fn contains(&self, value: Value) -> bool {
        let number = match (value, self.kind) {
            (Value::ClusterIp(IpAddr::V4(address)), PoolKind::Ipv4) => {
                u128::from(address.to_bits())
            }
            (Value::ClusterIp(IpAddr::V6(address)), PoolKind::Ipv6) => address.to_bits(),
            (Value::NodePort(port), PoolKind::Port) => u128::from(port.get()),
            _ => return false,
        };
        let index = number.checked_sub(self.base);
        index.is_some_and(|index| self.lower.contains(&index) || self.upper.contains(&index))
    }

    /// Returns all values, in the order in which they are tried for a part of a Service.
    pub(super) fn candidates(
        &self,
        service: &NamespacedName,
        part: &Part,
    ) -> impl Iterator<Item = Value> + '_ {
        let hash = hash(service, part);
        [self.upper.clone(), self.lower.clone()]
            .into_iter()
            .filter(|band| !band.is_empty())
            .flat_map(move |band| {
                let length = band.end - band.start;
                (0..length).map(move |step| band.start + (hash % length + step) % length)
            })
            .filter_map(|index| self.value(index))
    }
}

/// Returns how many values at the beginning of a range are left to those who write them: one in
/// `step`, but at least 16 and at most `most`; none of a range that is too small.
fn static_part(size: u128, step: u128, most: u128) -> u128 {
    const LEAST: u128 = 16;
    if size <= LEAST { 0 } else { (size / step).clamp(LEAST, most) }
}

/// Returns the hash of a part. It must never change: without a state, it is what makes addresses
/// stay.
fn hash(service: &NamespacedName, part: &Part) -> u128 {
    let text = match part {
        Part::ClusterIp(_) => format!("{service}"),
        Part::NodePort(port) => format!("{service}:{port}"),
        Part::HealthCheck => format!("{service}#healthCheckNodePort"),
    };
    let hash = blake3::hash(text.as_bytes());
    let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
    u128::from_le_bytes(first)
}
