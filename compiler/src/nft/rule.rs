//! The language of rules: statements over the fields of a packet.
//!
//! A rule is a list of statements; the sink encodes it for the kernel, `text` prints it for people,
//! and a test with the kernel shows that both mean the same.

use super::chain::ChainId;
use super::set::{Scope, SetId, View};

/// A field of a packet, as part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The interface it arrived on; an empty name for packets that this node sends.
    Iifname,
    /// The source address.
    Saddr,
    /// The destination address.
    Daddr,
    /// The transport protocol.
    Protocol,
    /// The transport protocol in the IP header, because nft 1.0.6 swaps the bytes of `Protocol` in
    /// keys of sets with ranges. In IPv6 the two differ if there are extension headers; conntrack
    /// has already removed the only common one, that of fragments.
    HeaderProtocol,
    /// The destination port.
    Dport,
    /// The scratch register.
    Priority,
    /// The destination address of the flow's first packet, before any translation.
    OriginalDaddr,
}

impl Field {
    /// Returns the fields of a packet that identify its frontend.
    pub(super) fn frontend(scope: Scope) -> Vec<Self> {
        match scope {
            Scope::Address => vec![Self::Daddr, Self::Protocol, Self::Dport],
            Scope::NodePort => vec![Self::Protocol, Self::Dport],
        }
    }

    /// Returns the fields that identify the frontend, and one more.
    pub(super) fn frontend_and(scope: Scope, field: Self) -> Vec<Self> {
        let mut fields = Self::frontend(scope);
        fields.push(field);
        fields
    }
}

/// A rule: statements that are evaluated from left to right until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(pub Vec<Statement>);

impl Rule {
    /// Returns the sets that the rule looks up.
    pub(crate) fn sets(&self) -> Vec<SetId> {
        let of = |statement: &Statement| match statement {
            Statement::Member { set, .. } | Statement::DaddrType(set) => Some(*set),
            Statement::SetPriority(Scratch::Map { map, .. }) | Statement::Dnat { map, .. } => {
                Some(*map)
            }
            Statement::GotoPick(scope, view) => Some(SetId::Picks(*scope, *view)),
            Statement::RecordAffinity { scope, view, .. }
            | Statement::ForgetAffinity(scope, view) => Some(SetId::Affinity(*scope, *view)),
            Statement::SetPriority(Scratch::Zero | Scratch::Random(_) | Scratch::ClientHash(_))
            | Statement::NotLoopback
            | Statement::SaddrIsLocal(_)
            | Statement::StateNew
            | Statement::StateInvalid
            | Statement::StatusDnat
            | Statement::MarkIsSet
            | Statement::SetMark
            | Statement::ClearMark
            | Statement::Masquerade
            | Statement::Reject
            | Statement::Drop
            | Statement::Jump(_)
            | Statement::Goto(_)
            | Statement::Return => None,
        };
        self.0.iter().filter_map(of).collect()
    }

    /// Returns the chains that the rule jumps or goes to.
    pub(crate) fn chains(&self) -> impl Iterator<Item = ChainId> {
        self.0.iter().filter_map(|statement| {
            if let Statement::Jump(chain) | Statement::Goto(chain) = statement {
                Some(*chain)
            } else {
                None
            }
        })
    }
}

/// A match or an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// The fields are, or are not, a member of the set.
    Member {
        /// The key.
        fields: Vec<Field>,
        /// The set.
        set: SetId,
        /// True if they must be a member.
        is_member: bool,
    },
    /// The destination is not a loopback address.
    NotLoopback,
    /// The route type of the destination is in the set.
    DaddrType(SetId),
    /// The source is, or is not, an address of this node.
    SaddrIsLocal(bool),
    /// The packet starts a flow.
    StateNew,
    /// The packet neither belongs to a flow nor starts one, according to conntrack.
    StateInvalid,
    /// The flow's destination is translated.
    StatusDnat,
    /// The packet's mark requests masquerading.
    MarkIsSet,
    /// Request masquerading.
    SetMark,
    /// Clear the request for masquerading.
    ClearMark,
    /// Set the scratch register.
    SetPriority(Scratch),
    /// Go to the chain that the map gives for the scratch register.
    GotoPick(Scope, View),
    /// Write the record (frontend, client) → scratch register, or renew the timeout of an existing
    /// one.
    RecordAffinity {
        /// The scope.
        scope: Scope,
        /// The view.
        view: View,
        /// The timeout in seconds.
        timeout: u32,
    },
    /// Delete the client's record.
    ForgetAffinity(Scope, View),
    /// Translate the destination to the value that the map gives for the fields; if there is none,
    /// the rule does not match.
    Dnat {
        /// The key.
        fields: Vec<Field>,
        /// The map.
        map: SetId,
    },
    /// Translate the source to the address of the outgoing interface, with random ports.
    Masquerade,
    /// Refuse with ICMP port unreachable, for every protocol.
    Reject,
    /// Drop the packet silently.
    Drop,
    /// Continue in a chain, then resume here.
    Jump(ChainId),
    /// Continue in a chain, and do not resume here.
    Goto(ChainId),
    /// Leave the chain.
    Return,
}

/// The source of a value for the scratch register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scratch {
    /// 0.
    Zero,
    /// The value that a map gives for the fields; if there is none, the rule does not match.
    Map {
        /// The key.
        fields: Vec<Field>,
        /// The map.
        map: SetId,
    },
    /// A random number below this one.
    Random(u32),
    /// A number below this one that depends only on the client's address. With session affinity, a
    /// client that uses another frontend of the same Service thus finds the same backend.
    ClientHash(u32),
}
