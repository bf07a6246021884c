//! What can be wrong with a node, in words.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use rulec_compiler::net::Family;
use rulec_sinks::nft::forward::DroppingChain;

/// Something that keeps connections to Services from working.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// The node has no route to a network of Services.
    NoRoute {
        /// The network.
        network: IpNet,
    },
    /// Packets that endpoints send to others are not forwarded.
    NoForwarding {
        /// The family.
        family: Family,
        /// The device that leads to endpoints, if it alone does not forward.
        device: Option<String>,
    },
    /// A chain of others drops what none of its rules accepts.
    Dropping(DroppingChain),
    /// iptables' legacy back end has a table with a chain FORWARD, which cannot be read.
    Unread {
        /// The family.
        family: Family,
    },
    /// Packets between two ports of a bridge do not pass the rules.
    Bridged {
        /// The family.
        family: Family,
        /// The bridge.
        bridge: String,
        /// Whether the kernel has the module that bridges need for it.
        is_loaded: bool,
    },
    /// A bridge sends no packet back to the port that it came in by.
    NoHairpin {
        /// The bridge.
        bridge: String,
        /// Its ports.
        ports: Vec<String>,
    },
    /// Packets of a client are dropped, because its route leads elsewhere.
    ReversePath {
        /// The client.
        client: IpAddr,
        /// The device that they arrive on.
        device: String,
        /// The device that its route leads to.
        route: String,
    },
}

impl Finding {
    /// Returns the command that mends it, with what there is to say about it.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoRoute { network } => {
                format!("run rulec with --service-route, or `ip route add {network} dev lo`")
            }
            Self::NoForwarding { family: Family::Ipv4, device: None } => {
                "`sysctl -w net.ipv4.ip_forward=1`".to_owned()
            }
            // The kernel deletes routes of router advertisements, unless it is told to keep them.
            Self::NoForwarding { family: Family::Ipv6, device: None } => {
                "first `sysctl -w net/ipv6/conf/DEVICE/accept_ra=2` for each DEVICE with a route \
                 from a router advertisement, then `sysctl -w net.ipv6.conf.all.forwarding=1`"
                    .to_owned()
            }
            Self::NoForwarding { family, device: Some(device) } => {
                format!("`sysctl -w net/{}/conf/{device}/forwarding=1`", version(*family))
            }
            // Behind all other rules, which may forbid something; before only if the last one drops.
            Self::Dropping(DroppingChain { family, table, name, by_policy, .. })
                if name == "FORWARD" && table == "filter" && *family != "inet" =>
            {
                let tool = if *family == "ip6" { "ip6tables" } else { "iptables" };
                let place = if *by_policy { "-A" } else { "-I" };
                format!("`{tool}-nft {place} FORWARD {TRANSLATED}`")
            }
            Self::Dropping(DroppingChain { family, table, name, by_policy, .. }) => {
                let place = if *by_policy { "add" } else { "insert" };
                format!("`nft {place} rule {family} {table} {name} ct status dnat accept`")
            }
            Self::Unread { family } => {
                format!("`{}-legacy -A FORWARD {TRANSLATED}`", tables(*family))
            }
            // By itself, the module concerns every bridge and family.
            Self::Bridged { family, bridge, is_loaded } => {
                let load = if *is_loaded { "" } else { LOAD };
                let family = tables(*family);
                format!("`{load}ip link set {bridge} type bridge nf_call_{family} 1`")
            }
            Self::NoHairpin { ports, .. } => match ports.as_slice() {
                [port] => format!("`ip link set {port} type bridge_slave hairpin on`"),
                ports => format!(
                    "`for port in {}; do ip link set $port type bridge_slave hairpin on; done`",
                    ports.join(" ")
                ),
            },
            Self::ReversePath { device, .. } => {
                format!("`sysctl -w net/ipv4/conf/{device}/rp_filter=2`")
            }
        }
    }

    /// Returns true if it is only possible, since it cannot be looked at.
    pub fn is_hint(&self) -> bool {
        matches!(self, Self::Unread { .. })
    }
}

/// Loads the module for bridges without a change for those that there are.
const LOAD: &str = "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=0 \
                    net.bridge.bridge-nf-call-ip6tables=0 net.bridge.bridge-nf-call-arptables=0; ";

/// The options of iptables for all packets of translated flows.
const TRANSLATED: &str = "-m conntrack --ctstate DNAT -j ACCEPT";

impl Finding {
    /// Returns what is wrong, without the command that mends it.
    pub fn fault(&self) -> String {
        match self {
            Self::NoRoute { network } => format!(
                "this node has no route to {network}: its own connections to Services there fail \
                 before any rule sees them"
            ),
            Self::NoForwarding { family, device } => {
                let from = device.as_ref().map(|device| format!(" from {device}"));
                let from = from.unwrap_or_default();
                format!(
                    "this node does not forward {family}{from}: only its own connections reach Pods \
                     and other machines"
                )
            }
            Self::Dropping(DroppingChain { family, table, name, by_policy, .. }) => {
                let by = if *by_policy { "policy" } else { "last rule" };
                format!(
                    "chain {family} {table} {name} drops what none of its rules accepts ({by}): \
                     connections to Services through this node may fail"
                )
            }
            Self::Unread { family } => format!(
                "chain FORWARD of {0}-legacy cannot be read: if it drops (`{0}-legacy -S FORWARD`), \
                 connections to Services through this node fail",
                tables(*family)
            ),
            Self::Bridged { family, bridge, .. } => format!(
                "bridge {bridge} does not show {family} between its ports to netfilter: Pods on it do \
                 not reach each other through cluster addresses"
            ),
            Self::NoHairpin { bridge, .. } => format!(
                "bridge {bridge} sends nothing back to the port that it came from: Pods on it do \
                 not reach themselves through a Service"
            ),
            Self::ReversePath { client, device, route } => format!(
                "rp_filter drops packets of {client} that arrive on {device}, since the route to it \
                 leads to {route}"
            ),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.fault(), self.remedy())
    }
}

/// Returns the family in the names of sysctls.
pub(super) fn version(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ipv4",
        Family::Ipv6 => "ipv6",
    }
}

/// Returns the name of the family's iptables.
pub(super) fn tables(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}
