//! The operator's settings, as far as they change what is programmed.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::interface::InterfacePattern;
use crate::load_balancing::LoadBalancing;
use crate::name::NodeName;
use crate::net::Family;
use crate::nft::maglev::TableSize;
use crate::nft::traffic::Traffic;
use crate::object::Node;
use crate::scheduling::Scheduling;

/// The settings a compilation depends on. They are constant while a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The node that is programmed; an endpoint is local if it names this node.
    pub node_name: NodeName,
    /// The node's primary addresses, at most one of each family. For a family without one, the
    /// address of the Node object is used.
    pub node_addresses: Vec<IpAddr>,
    /// How traffic from local Pods (of this node, or of this cluster) is recognised.
    pub detect_local: DetectLocal,
    /// The addresses that node ports answer on.
    pub node_port_addresses: NodePortAddresses,
    /// Masquerade all traffic to cluster addresses, including that of Pods.
    pub masquerade_all: bool,
    /// The bit of the packet mark that requests masquerading, 0 to 31. Nothing else may use it.
    pub masquerade_bit: MasqueradeBit,
    /// Drop forwarded packets in conntrack state invalid, of the protocols that Services can have.
    #[serde(default)]
    pub drop_invalid: bool,
    /// The load balancing of our rules, unless a Service sets another.
    #[serde(default)]
    pub load_balancing: LoadBalancing,
    /// The size of the tables of Maglev.
    #[serde(default)]
    pub maglev_table_size: TableSize,
    /// The proxy mode.
    #[serde(default)]
    pub proxy_mode: ProxyMode,
    /// The new connections that are counted.
    #[serde(default)]
    pub traffic: Traffic,
}

/// The mechanism that chooses backends and translates addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyMode {
    /// The rules of our nftables table.
    #[default]
    Nftables,
    /// IPVS.
    Ipvs(IpvsSettings),
}

/// The settings of IPVS mode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpvsSettings {
    /// The scheduling of a virtual server, unless its Service sets another.
    pub scheduling: Scheduling,
    /// Networks whose virtual servers and addresses are left alone.
    pub exclude: Vec<IpNet>,
    /// The longest time, in seconds, that a real server which is no longer wanted keeps its
    /// connections, unless its Service sets another; 0 ends them at once.
    pub drain: u32,
}

impl IpvsSettings {
    /// Ten minutes: as long as most Pods may take to terminate, and long enough for a running
    /// request.
    pub const DRAIN: u32 = 600;

    /// A year. A request for an endless drain is refused, and every deadline stays within what the
    /// kernel can store.
    pub const LONGEST_DRAIN: u32 = 31_536_000;
}

impl Default for IpvsSettings {
    fn default() -> Self {
        Self { scheduling: Scheduling::default(), exclude: Vec::new(), drain: Self::DRAIN }
    }
}

impl Settings {
    /// Returns the default settings for the node with this name.
    pub fn new(node_name: NodeName) -> Self {
        Self {
            node_name,
            node_addresses: Vec::new(),
            detect_local: DetectLocal::ClusterCidr(Vec::new()),
            node_port_addresses: NodePortAddresses::Primary,
            masquerade_all: false,
            masquerade_bit: MasqueradeBit::default(),
            drop_invalid: false,
            load_balancing: LoadBalancing::default(),
            maglev_table_size: TableSize::default(),
            proxy_mode: ProxyMode::default(),
            traffic: Traffic::default(),
        }
    }

    /// Returns the settings of IPVS mode, or `None` in nftables mode.
    pub fn ipvs(&self) -> Option<&IpvsSettings> {
        match &self.proxy_mode {
            ProxyMode::Nftables => None,
            ProxyMode::Ipvs(ipvs) => Some(ipvs),
        }
    }

    /// Returns true if node ports answer on the loopback address of `localhost`. They do not in
    /// IPVS mode, which has virtual servers at addresses that are reached from elsewhere.
    pub fn serves_localhost(&self, family: Family) -> bool {
        self.ipvs().is_none() && self.node_port_addresses.has_localhost(family)
    }

    /// Returns the node's primary address of a family: the one from the settings, or else from the
    /// Node.
    pub fn primary_address(&self, node: Option<&Node>, family: Family) -> Option<IpAddr> {
        let mut own = self.node_addresses.iter().copied();
        let own = own.find(|address| Family::of(*address) == family);
        own.or_else(|| node.and_then(|node| node.address(family)))
    }
}

/// How packets of Pods are recognised: kube-proxy's `detectLocalMode`. If this needs a network that
/// is not known, all traffic counts as local, so that traffic to cluster addresses keeps its
/// source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DetectLocal {
    /// By source address, in these networks: the Pods of the whole cluster. The first of each
    /// family is used.
    ClusterCidr(Vec<IpNet>),
    /// By source address, in the first of the Node's `spec.podCIDRs` of the family.
    NodeCidr,
    /// By the interface they arrive on: a bridge, or all interfaces with a name prefix.
    Interface(InterfacePattern),
}

/// The addresses that node ports answer on: kube-proxy's `nodePortAddresses`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePortAddresses {
    /// The primary address of each family. A family without a known one answers on all addresses.
    Primary,
    /// The primary addresses, and those of the node's interfaces in these networks.
    PrimaryAnd(Vec<IpNet>),
    /// The addresses of the node's interfaces in these networks. A family without a network here,
    /// or with one of prefix length 0, answers on all addresses.
    Cidrs(Vec<IpNet>),
}

impl NodePortAddresses {
    /// Returns true if the primary addresses are selected by name.
    pub fn has_primary(&self) -> bool {
        matches!(self, Self::Primary | Self::PrimaryAnd(_))
    }

    /// Returns the networks of a family, or `None` if every address is selected, except perhaps
    /// `localhost`. There may be none beside the primary address.
    pub fn cidrs(&self, family: Family) -> Option<Vec<IpNet>> {
        let of_family = self.networks().iter().filter(|cidr| Family::of(cidr.addr()) == family);
        let cidrs: Vec<IpNet> = of_family.copied().collect();
        let is_empty = cidrs.is_empty() && !self.has_primary();
        let is_all = is_empty || cidrs.iter().any(|cidr| cidr.prefix_len() == 0);
        (!is_all).then_some(cidrs)
    }

    /// Returns true if connections of this node to the loopback address of `localhost` are served:
    /// if a network of loopback addresses has it. One that is wider does not mean it, as in
    /// kube-proxy (KEP-6032).
    pub fn has_localhost(&self, family: Family) -> bool {
        let address = family.localhost();
        let has = |cidr: &IpNet| cidr.network().is_loopback() && cidr.contains(&address);
        self.networks().iter().any(has)
    }

    /// Returns true if the selection depends on the addresses of the node's interfaces.
    pub fn needs_interfaces(&self) -> bool {
        let cidrs = Family::ALL.into_iter().filter_map(|family| self.cidrs(family));
        cidrs.flatten().any(|cidr| !cidr.network().is_loopback())
    }

    /// Returns them as they can be written in a configuration.
    pub fn words(&self) -> impl Iterator<Item = String> {
        let primary = self.has_primary().then(|| "primary".to_owned());
        primary.into_iter().chain(self.networks().iter().map(ToString::to_string))
    }

    fn networks(&self) -> &[IpNet] {
        match self {
            Self::Primary => &[],
            Self::PrimaryAnd(cidrs) | Self::Cidrs(cidrs) => cidrs,
        }
    }
}

/// Returns the first network of a family.
pub fn first_of(family: Family, cidrs: &[IpNet]) -> Option<IpNet> {
    cidrs.iter().find(|cidr| Family::of(cidr.addr()) == family).map(IpNet::trunc)
}

/// A bit of the packet mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct MasqueradeBit(u8);

impl MasqueradeBit {
    /// Returns the bit, which must be 0 to 31, or `None`.
    pub fn new(bit: u8) -> Option<Self> {
        (bit < 32).then_some(Self(bit))
    }

    /// Returns the mark with only this bit set.
    pub fn mark(self) -> u32 {
        1 << self.0
    }
}

impl Default for MasqueradeBit {
    /// Returns bit 14, mark 0x4000, as in kube-proxy.
    fn default() -> Self {
        Self(14)
    }
}

impl From<MasqueradeBit> for u8 {
    fn from(bit: MasqueradeBit) -> Self {
        bit.0
    }
}

impl TryFrom<u8> for MasqueradeBit {
    type Error = String;

    fn try_from(bit: u8) -> Result<Self, Self::Error> {
        Self::new(bit).ok_or_else(|| format!("{bit} is not a bit from 0 to 31"))
    }
}
