//! The chains of a table: their names and hooks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::code::{Affinity, Class, Draw};
use super::maglev::{Hash, Maglev, TableSize};
use super::set::Scope;
use super::size::Size;

/// A chain of a table. No name is a keyword of `nft`, which could not read it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChainId {
    /// Decides, for the first packet of a flow, whether it goes to a Service.
    Dispatch,
    /// The part of `dispatch` for addresses that node ports answer on.
    NodePorts,
    /// Decides about the clients of a frontend, and goes to the chain of its class.
    Serve,
    /// The part of `serve` for external frontends under policy Local.
    Split,
    /// The part of `split` for clients from outside.
    Outside,
    /// Drops packets to a frontend whose backends no client may reach.
    Dropped,
    /// Leaves packets to IPVS.
    Ipvs,
    /// Translates to the backend of a slot.
    Pick(Draw),
    /// The part of `pick` that draws a slot once, of a size of which some may be empty.
    Try(Size),
    /// Translates to the member whose turn is next.
    RoundRobin,
    /// The part of `round-robin` for a member that is chosen.
    Turn,
    /// Translates to the backend that the client had, or else to one of its group's choice.
    Affinity(Affinity),
    /// Chooses a member of a group by one of its slots.
    Choose,
    /// The part of `choose` for groups whose slots are drawn in one way.
    Slot(Draw),
    /// Translates to a member.
    Members,
    /// Drops packets from clients that a frontend does not allow.
    Firewall,
    /// Rejects packets to a frontend without endpoints.
    Unserved,
    /// The part of `unserved` for node ports.
    UnservedNodePorts,
    /// Rejects packets to an address that is bound only for IPVS, if no Service is there.
    Unknown,
    /// NAT of arriving packets.
    Prerouting,
    /// NAT of packets that this node sends.
    Output,
    /// Masquerading.
    Postrouting,
    /// The part of `postrouting` for translated packets.
    Translated,
    /// NAT of packets to node ports on `localhost`.
    LocalhostNew,
    /// Routes packets to node ports on `localhost`.
    LocalhostOutput,
    /// Routes answers to clients on `localhost`.
    LocalhostReply,
    /// Hands over answers to clients on `localhost`.
    LocalhostInput,
    /// Filter for packets to this node.
    FilterInput,
    /// Filter for forwarded packets.
    FilterForward,
    /// Filter for packets that this node sends.
    FilterOutput,
    /// The part of `filter-input` for packets that start a flow.
    NewInput,
    /// The part of `filter-forward` and `filter-output` for packets that start a flow.
    NewOutput,
}

impl ChainId {
    /// The chains that no class and no size has, in the order in which they are created.
    const SINGLE: [Self; 21] = [
        Self::Dispatch,
        Self::NodePorts,
        Self::Serve,
        Self::Split,
        Self::Outside,
        Self::Choose,
        Self::Turn,
        Self::Members,
        Self::Firewall,
        Self::Unserved,
        Self::UnservedNodePorts,
        Self::Unknown,
        Self::Translated,
        Self::NewInput,
        Self::NewOutput,
        Self::Prerouting,
        Self::Output,
        Self::Postrouting,
        Self::FilterInput,
        Self::FilterForward,
        Self::FilterOutput,
    ];

    /// The chains that are there only if node ports answer on `localhost`.
    pub const OF_LOCALHOST: [Self; 4] =
        [Self::LocalhostNew, Self::LocalhostOutput, Self::LocalhostReply, Self::LocalhostInput];

    /// Returns the chains that exist whatever Services there are, in the order in which they are
    /// created. Chains of classes come after those that they jump to.
    pub fn constant() -> impl Iterator<Item = Self> {
        let tries = Size::all().filter(|size| size.filled().is_some()).map(Self::Try);
        let by_class = Class::constant().filter_map(Self::of_class);
        tries.chain(by_class).chain(Draw::all().map(Self::Slot)).chain(Self::SINGLE)
    }

    /// Returns the chain of a class; `None` for affinity, whose class depends on the table.
    pub fn of_class(class: Class) -> Option<Self> {
        match class {
            Class::Dropped => Some(Self::Dropped),
            Class::Ipvs => Some(Self::Ipvs),
            Class::Random(size) => Some(Self::Pick(Draw::Random(size))),
            Class::Maglev(table) => Some(Self::Pick(Draw::Maglev(table))),
            Class::RoundRobin => Some(Self::RoundRobin),
            Class::Affinity(_) => None,
        }
    }

    /// Returns the chain with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let draw = |prefix: &str| draw_from_name(name.strip_prefix(prefix)?);
        let by_number = draw("pick-").map(Self::Pick).or_else(|| draw("slot-").map(Self::Slot));
        let by_number = by_number.or_else(|| match draw("try-")? {
            Draw::Random(size) => size.filled().map(|_| Self::Try(size)),
            Draw::Maglev(_) => None,
        });
        let by_number = by_number.or_else(|| Affinity::from_name(name).map(Self::Affinity));
        let mut single =
            Self::SINGLE.into_iter().chain([Self::Dropped, Self::Ipvs, Self::RoundRobin]);
        let mut of_localhost = Self::OF_LOCALHOST.into_iter();
        // A number has several spellings.
        let is_it = |chain: &Self| chain.to_string() == name;
        by_number.filter(is_it).or_else(|| single.find(is_it)).or_else(|| of_localhost.find(is_it))
    }

    /// Returns the session affinity that it is for, if it is.
    pub fn affinity(self) -> Option<Affinity> {
        if let Self::Affinity(affinity) = self { Some(affinity) } else { None }
    }

    /// Returns true if it is for node ports on `localhost`.
    pub fn is_of_localhost(self) -> bool {
        Self::OF_LOCALHOST.contains(&self)
    }

    /// Returns the kind of frontends that the chain decides about by itself, if it does. Other
    /// chains decide about the one that `dispatch` has found.
    pub fn scope(self) -> Option<Scope> {
        if matches!(self, Self::Firewall | Self::Unserved | Self::Unknown) {
            Some(Scope::Address)
        } else if self == Self::UnservedNodePorts {
            Some(Scope::NodePort)
        } else {
            None
        }
    }

    /// Returns the hook, if this is a base chain.
    pub fn hook(self) -> Option<Hook> {
        // The names and numbers are those of <linux/netfilter_ipv4.h>: conntrack −200, dstnat −100,
        // filter 0, srcnat 100.
        match self {
            Self::Prerouting => Some(Hook::new(HookType::Nat, HookPoint::Prerouting, -100)),
            Self::Output => Some(Hook::new(HookType::Nat, HookPoint::Output, -100)),
            Self::Postrouting => Some(Hook::new(HookType::Nat, HookPoint::Postrouting, 100)),
            Self::FilterInput => Some(Hook::new(HookType::Filter, HookPoint::Input, 0)),
            Self::FilterForward => Some(Hook::new(HookType::Filter, HookPoint::Forward, 0)),
            Self::FilterOutput => Some(Hook::new(HookType::Filter, HookPoint::Output, 0)),
            // Before `output`, which lets packets to `localhost` pass.
            Self::LocalhostNew => Some(Hook::new(HookType::Nat, HookPoint::Output, -101)),
            // After conntrack, which knows the flow, and before NAT, which routes anew.
            Self::LocalhostOutput => Some(Hook::new(HookType::Filter, HookPoint::Output, -150)),
            // After NAT, which has put the client's address there.
            Self::LocalhostReply => Some(Hook::new(HookType::Filter, HookPoint::Prerouting, -90)),
            // After NAT, which puts `localhost` there as the source.
            Self::LocalhostInput => Some(Hook::new(HookType::Filter, HookPoint::Input, 110)),
            Self::Dispatch
            | Self::NodePorts
            | Self::Serve
            | Self::Split
            | Self::Outside
            | Self::Dropped
            | Self::Ipvs
            | Self::Pick(_)
            | Self::Try(_)
            | Self::RoundRobin
            | Self::Turn
            | Self::Affinity(_)
            | Self::Choose
            | Self::Slot(_)
            | Self::Members
            | Self::Firewall
            | Self::Unserved
            | Self::UnservedNodePorts
            | Self::Unknown
            | Self::Translated
            | Self::NewInput
            | Self::NewOutput => None,
        }
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dispatch => f.write_str("dispatch"),
            Self::NodePorts => f.write_str("node-ports"),
            Self::Serve => f.write_str("serve"),
            Self::Split => f.write_str("split"),
            Self::Outside => f.write_str("outside"),
            Self::Dropped => f.write_str("dropped"),
            Self::Ipvs => f.write_str("ipvs"),
            Self::Pick(draw) => write!(f, "pick-{draw}"),
            Self::Try(size) => write!(f, "try-{}", size.slots()),
            Self::Affinity(affinity) => write!(f, "{affinity}"),
            Self::RoundRobin => f.write_str("round-robin"),
            Self::Turn => f.write_str("turn"),
            Self::Choose => f.write_str("choose"),
            Self::Slot(draw) => write!(f, "slot-{draw}"),
            Self::Members => f.write_str("members"),
            Self::Firewall => f.write_str("firewall"),
            Self::Unserved => f.write_str("unserved"),
            Self::UnservedNodePorts => f.write_str("unserved-nodeports"),
            Self::Unknown => f.write_str("unknown"),
            Self::Prerouting => f.write_str("prerouting"),
            Self::Output => f.write_str("output"),
            Self::Postrouting => f.write_str("postrouting"),
            Self::Translated => f.write_str("translated"),
            Self::NewInput => f.write_str("new-input"),
            Self::NewOutput => f.write_str("new-output"),
            Self::LocalhostNew => f.write_str("localhost-new"),
            Self::LocalhostOutput => f.write_str("localhost-output"),
            Self::LocalhostReply => f.write_str("localhost-reply"),
            Self::LocalhostInput => f.write_str("localhost-input"),
            Self::FilterInput => f.write_str("filter-input"),
            Self::FilterForward => f.write_str("filter-forward"),
            Self::FilterOutput => f.write_str("filter-output"),
        }
    }
}

/// Prints as in the name of a chain: `12`, `maglev-16381`, `maglev-source-16381`.
impl fmt::Display for Draw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Random(size) => write!(f, "{}", size.slots()),
            Self::Maglev(Maglev { hash: Hash::Connection, size }) => {
                write!(f, "maglev-{}", size.slots())
            }
            Self::Maglev(Maglev { hash: Hash::Source, size }) => {
                write!(f, "maglev-source-{}", size.slots())
            }
        }
    }
}

fn draw_from_name(name: &str) -> Option<Draw> {
    let Some(rest) = name.strip_prefix("maglev-") else {
        return Size::from_slots(name.parse().ok()?).map(Draw::Random);
    };
    let (hash, slots) = match rest.strip_prefix("source-") {
        Some(slots) => (Hash::Source, slots),
        None => (Hash::Connection, rest),
    };
    let size = TableSize::try_from(slots.parse::<u32>().ok()?).ok()?;
    Some(Draw::Maglev(Maglev { hash, size }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_found_by_their_names_and_by_no_other_spelling() {
        let affinity = ChainId::Affinity(Affinity { timeout: 60, map: 2 });
        for chain in ChainId::constant().chain([affinity]).chain(ChainId::OF_LOCALHOST) {
            assert_eq!(ChainId::from_name(&chain.to_string()), Some(chain));
        }
        // No size; another spelling.
        for name in [
            "pick-9",
            "pick-03",
            "pick-+3",
            "try-8",
            "try-maglev-251",
            "slot-0",
            "pick",
            "",
            "Serve",
            "pick-maglev",
            "pick-maglev-1000",
            "slot-maglev-source-0251",
        ] {
            assert_eq!(ChainId::from_name(name), None, "{name}");
        }
    }
}
