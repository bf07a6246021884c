//! The chains of a table: their names and hooks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::pick::Pick;
use super::set::{Scope, View, by_view};

/// A chain of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChainId {
    /// Decides, for the first packet of a flow, whether it goes to a Service and to which backend.
    Dispatch,
    /// The part of `dispatch` for packets to an address of this node.
    NodePorts,
    /// The part of `dispatch` for clients from outside under policy Local.
    Outside(Scope),
    /// Translates to the backend whose slot or id is in the scratch register.
    Translate(Scope, View),
    /// Replaces the slot in the scratch register with the backend's id, for session affinity.
    BackendId(Scope, View),
    /// Drops packets from clients that a frontend does not allow.
    Firewall,
    /// Rejects packets to a frontend without endpoints.
    Unserved,
    /// The part of `unserved` for node ports.
    UnservedNodePorts,
    /// Rejects packets to an address that is bound only for IPVS, if no Service is there.
    Unknown,
    /// Filter for arriving packets, before NAT.
    FirewallPrerouting,
    /// Filter for packets that this node sends, before NAT.
    FirewallOutput,
    /// NAT of arriving packets.
    Prerouting,
    /// NAT of packets that this node sends.
    Output,
    /// Masquerading.
    Postrouting,
    /// Filter for packets to this node.
    FilterInput,
    /// Filter for forwarded packets.
    FilterForward,
    /// Filter for packets that this node sends.
    FilterOutput,
    /// Chooses a backend.
    Pick(Scope, View, Pick),
}

impl ChainId {
    /// The constant chains, in the order in which they are created.
    pub const CONSTANT: [Self; 24] = [
        Self::Translate(Scope::Address, View::Cluster),
        Self::Translate(Scope::Address, View::Local),
        Self::Translate(Scope::NodePort, View::Cluster),
        Self::Translate(Scope::NodePort, View::Local),
        Self::BackendId(Scope::Address, View::Cluster),
        Self::BackendId(Scope::Address, View::Local),
        Self::BackendId(Scope::NodePort, View::Cluster),
        Self::BackendId(Scope::NodePort, View::Local),
        Self::Dispatch,
        Self::NodePorts,
        Self::Outside(Scope::Address),
        Self::Outside(Scope::NodePort),
        Self::Firewall,
        Self::Unserved,
        Self::UnservedNodePorts,
        Self::Unknown,
        Self::FirewallPrerouting,
        Self::FirewallOutput,
        Self::Prerouting,
        Self::Output,
        Self::Postrouting,
        Self::FilterInput,
        Self::FilterForward,
        Self::FilterOutput,
    ];

    /// Returns the chain with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let constant = Self::CONSTANT.into_iter().find(|chain| chain.to_string() == name);
        constant.or_else(|| {
            let (view, stem) = match name.strip_prefix("local-") {
                Some(stem) => (View::Local, stem),
                None => (View::Cluster, name),
            };
            let (scope, stem) = match stem.strip_prefix("nodeport-") {
                Some(stem) => (Scope::NodePort, stem),
                None => (Scope::Address, stem),
            };
            Some(Self::Pick(scope, view, Pick::from_name(stem)?))
        })
    }

    /// Returns the scope of the frontends that the chain decides about, if it does.
    pub fn scope(self) -> Option<Scope> {
        match self {
            Self::Outside(scope)
            | Self::Translate(scope, _)
            | Self::BackendId(scope, _)
            | Self::Pick(scope, ..) => Some(scope),
            Self::Firewall | Self::Unserved | Self::Unknown => Some(Scope::Address),
            Self::NodePorts | Self::UnservedNodePorts => Some(Scope::NodePort),
            Self::Dispatch
            | Self::FirewallPrerouting
            | Self::FirewallOutput
            | Self::Prerouting
            | Self::Output
            | Self::Postrouting
            | Self::FilterInput
            | Self::FilterForward
            | Self::FilterOutput => None,
        }
    }

    /// Returns the hook, if this is a base chain.
    pub fn hook(self) -> Option<Hook> {
        // The names and numbers are those of <linux/netfilter_ipv4.h>: dstnat −100, filter 0,
        // srcnat 100.
        match self {
            // Before NAT, because source ranges apply to the original destination.
            Self::FirewallPrerouting => {
                Some(Hook::new(HookType::Filter, HookPoint::Prerouting, -110))
            }
            Self::FirewallOutput => Some(Hook::new(HookType::Filter, HookPoint::Output, -110)),
            Self::Prerouting => Some(Hook::new(HookType::Nat, HookPoint::Prerouting, -100)),
            Self::Output => Some(Hook::new(HookType::Nat, HookPoint::Output, -100)),
            Self::Postrouting => Some(Hook::new(HookType::Nat, HookPoint::Postrouting, 100)),
            Self::FilterInput => Some(Hook::new(HookType::Filter, HookPoint::Input, 0)),
            Self::FilterForward => Some(Hook::new(HookType::Filter, HookPoint::Forward, 0)),
            Self::FilterOutput => Some(Hook::new(HookType::Filter, HookPoint::Output, 0)),
            Self::Dispatch
            | Self::NodePorts
            | Self::Outside(_)
            | Self::Translate(..)
            | Self::BackendId(..)
            | Self::Firewall
            | Self::Unserved
            | Self::UnservedNodePorts
            | Self::Unknown
            | Self::Pick(..) => None,
        }
    }
}

/// Returns the beginning of the names of chains for a kind of frontends and a view.
const fn prefix(scope: Scope, view: View) -> &'static str {
    match scope {
        Scope::Address => by_view(view, "", "local-"),
        Scope::NodePort => by_view(view, "nodeport-", "local-nodeport-"),
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch => f.write_str("dispatch"),
            Self::NodePorts => f.write_str("nodeports"),
            Self::Outside(Scope::Address) => f.write_str("outside"),
            Self::Outside(Scope::NodePort) => f.write_str("outside-nodeports"),
            Self::Translate(scope, view) => write!(f, "{}translate", prefix(*scope, *view)),
            Self::BackendId(scope, view) => write!(f, "{}backend-id", prefix(*scope, *view)),
            Self::Firewall => f.write_str("firewall"),
            Self::Unserved => f.write_str("unserved"),
            Self::UnservedNodePorts => f.write_str("unserved-nodeports"),
            Self::Unknown => f.write_str("unknown"),
            Self::FirewallPrerouting => f.write_str("firewall-prerouting"),
            Self::FirewallOutput => f.write_str("firewall-output"),
            Self::Prerouting => f.write_str("prerouting"),
            Self::Output => f.write_str("output"),
            Self::Postrouting => f.write_str("postrouting"),
            Self::FilterInput => f.write_str("filter-input"),
            Self::FilterForward => f.write_str("filter-forward"),
            Self::FilterOutput => f.write_str("filter-output"),
            Self::Pick(scope, view, pick) => write!(f, "{}{pick}", prefix(*scope, *view)),
        }
    }
}

/// The attachment of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hook {
    /// The type, which limits the verdicts.
    pub kind: HookType,
    /// The point on a packet's path.
    pub point: HookPoint,
    /// The priority; lower runs first.
    pub priority: i32,
}

impl Hook {
    const fn new(kind: HookType, point: HookPoint, priority: i32) -> Self {
        Self { kind, point, priority }
    }
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookType {
    /// Accept, drop, reject.
    Filter,
    /// Translate; sees only the first packet of a flow.
    Nat,
}

/// A netfilter hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookPoint {
    /// Arriving, before routing.
    Prerouting,
    /// To this node.
    Input,
    /// Forwarded.
    Forward,
    /// Sent by this node.
    Output,
    /// Leaving this node.
    Postrouting,
}
