//! What the operator decides, as far as it changes what is programmed.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::interface::InterfacePattern;
use crate::ipvs::Scheduling;
use crate::name::NodeName;
use crate::net::Family;
use crate::object::Node;

/// The settings a compilation depends on. They are constant while a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The node that is programmed; an endpoint is local if it names this node.
    pub node_name: NodeName,
    /// The node's primary addresses, one of each family at the most. A family without one has that of
    /// its Node object.
    pub node_addresses: Vec<IpAddr>,
    /// Who is a Pod of this node, or of this cluster.
    pub detect_local: DetectLocal,
    /// Where node ports answer.
    pub node_port_addresses: NodePortAddresses,
    /// Masquerade all traffic to cluster addresses, also that of Pods.
    pub masquerade_all: bool,
    /// The bit of the packet mark that asks for masquerading, 0 to 31. Must be unused by others.
    pub masquerade_bit: MasqueradeBit,
    /// Do not forward packets that belong to no flow, of the protocols that Services can have.
    #[serde(default)]
    pub drop_invalid: bool,
    /// Who chooses backends.
    #[serde(default)]
    pub proxy_mode: ProxyMode,
}

/// Who chooses backends and translates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProxyMode {
    /// Our rules.
    #[default]
    Nftables,
    /// IPVS.
    Ipvs(IpvsSettings),
}

/// What is decided about IPVS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IpvsSettings {
    /// How a virtual server chooses, unless its Service says otherwise.
    pub scheduling: Scheduling,
    /// Networks whose virtual servers and addresses are left alone.
    pub exclude: Vec<IpNet>,
    /// For how many seconds, at the most, a real server that is not wanted any more keeps its
    /// connections, unless its Service says otherwise; 0 ends them at once.
    pub drain: u32,
}

impl IpvsSettings {
    /// Ten minutes: as long as most Pods may take to end, and long enough for a request that was begun.
    pub const DRAIN: u32 = 600;

    /// A year. Who means for ever is told that there is an end; and no deadline is beyond what the
    /// kernel can keep of it.
    pub const LONGEST_DRAIN: u32 = 31_536_000;
}

impl Default for IpvsSettings {
    fn default() -> Self {
        Self { scheduling: Scheduling::default(), exclude: Vec::new(), drain: Self::DRAIN }
    }
}

impl Settings {
    /// The defaults, on the node of this name.
    pub fn new(node_name: NodeName) -> Self {
        Self {
            node_name,
            node_addresses: Vec::new(),
            detect_local: DetectLocal::ClusterCidr(Vec::new()),
            node_port_addresses: NodePortAddresses::Primary,
            masquerade_all: false,
            masquerade_bit: MasqueradeBit::default(),
            drop_invalid: false,
            proxy_mode: ProxyMode::default(),
        }
    }

    /// What is decided about IPVS, if it is used.
    pub fn ipvs(&self) -> Option<&IpvsSettings> {
        match &self.proxy_mode {
            ProxyMode::Nftables => None,
            ProxyMode::Ipvs(ipvs) => Some(ipvs),
        }
    }

    /// The node's primary address of a family: the operator's word, or else that of its object.
    pub fn primary_address(&self, node: Option<&Node>, family: Family) -> Option<IpAddr> {
        let mut own = self.node_addresses.iter().copied();
        let own = own.find(|address| Family::of(*address) == family);
        own.or_else(|| node.and_then(|node| node.address(family)))
    }
}

/// How packets of Pods are told from others': kube-proxy's `detectLocalMode`. Where it cannot be told
/// for want of a network, nobody is known not to be a Pod, and traffic to cluster addresses keeps its
/// source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DetectLocal {
    /// By source, in these networks: the Pods of the whole cluster. The first of each family counts.
    ClusterCidr(Vec<IpNet>),
    /// By source, in the first of the Node's `spec.podCIDRs` of the family.
    NodeCidr,
    /// By the interface they come from: a bridge, or whatever names begin like that.
    Interface(InterfacePattern),
}

/// The addresses that node ports answer on: kube-proxy's `nodePortAddresses`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum NodePortAddresses {
    /// The primary address of each family. A family of which none is known answers on all.
    Primary,
    /// The addresses of the node's interfaces in these networks. A family that has no network here, or
    /// one of prefix length 0, answers on all.
    Cidrs(Vec<IpNet>),
}

impl NodePortAddresses {
    /// The networks of a family, or `None` for every address.
    pub fn cidrs(&self, family: Family) -> Option<Vec<IpNet>> {
        let Self::Cidrs(all) = self else { return None };
        let of_family = all.iter().filter(|cidr| Family::of(cidr.addr()) == family);
        let cidrs: Vec<IpNet> = of_family.copied().collect();
        let is_all = cidrs.is_empty() || cidrs.iter().any(|cidr| cidr.prefix_len() == 0);
        (!is_all).then_some(cidrs)
    }

    /// Whether it depends on the addresses of the node's interfaces.
    pub fn needs_interfaces(&self) -> bool {
        Family::ALL.into_iter().any(|family| self.cidrs(family).is_some())
    }
}

/// The first network of a family.
pub fn first_of(family: Family, cidrs: &[IpNet]) -> Option<IpNet> {
    cidrs.iter().find(|cidr| Family::of(cidr.addr()) == family).map(IpNet::trunc)
}

/// A bit of the packet mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u8", try_from = "u8")]
pub struct MasqueradeBit(u8);

impl MasqueradeBit {
    /// Bit 0 to 31; `None` beyond.
    pub fn new(bit: u8) -> Option<Self> {
        (bit < 32).then_some(Self(bit))
    }

    /// The mark with only this bit set.
    pub fn mark(self) -> u32 {
        1 << self.0
    }
}

impl Default for MasqueradeBit {
    /// 14, mark 0x4000, as in kube-proxy.
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
        Self::new(bit).ok_or_else(|| format!("{bit} is not a bit of a 32-bit mark"))
    }
}
