//! What the operator decides, as far as it changes what is programmed.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::name::NodeName;
use crate::net::Family;

/// The settings a compilation depends on. They are constant while a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// The node that is programmed; an endpoint is local if it names this node.
    pub node_name: NodeName,
    /// The addresses of Pods (detect-local mode ClusterCIDR). As in kube-proxy, only the first of
    /// each family counts; without one, nobody is known to be local and traffic to cluster
    /// addresses keeps its source.
    pub cluster_cidrs: Vec<IpNet>,
    /// Masquerade all traffic to cluster addresses, also that of Pods.
    pub masquerade_all: bool,
    /// The bit of the packet mark that asks for masquerading, 0 to 31. Must be unused by others.
    pub masquerade_bit: MasqueradeBit,
}

impl Settings {
    /// The defaults, on the node of this name.
    pub fn new(node_name: NodeName) -> Self {
        Self {
            node_name,
            cluster_cidrs: Vec::new(),
            masquerade_all: false,
            masquerade_bit: MasqueradeBit::default(),
        }
    }

    /// The cluster CIDR of a family, if there is one.
    pub fn cluster_cidr(&self, family: Family) -> Option<IpNet> {
        self.cluster_cidrs.iter().copied().find(|cidr| Family::of(cidr.addr()) == family)
    }
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
