//! The language of rules: statements over the fields of a packet.
//!
//! A rule is a list of statements; the sink encodes it for the kernel, `text` prints it for people,
//! and a test with the kernel shows that both mean the same.

use super::chain::ChainId;
use super::code::{Affinity, BUCKETS, Clients};
use super::length::Length;
use super::maglev::Hash;
use super::set::{Scope, SetId};

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
    /// The destination port.
    Dport,
    /// The scratch register.
    Priority,
    /// The group in the scratch register.
    Group,
    /// This length, if it is one of those in the scratch register.
    Length(Length),
    /// The source address without the bits after this length.
    Network(Length),
    /// A random number below this one.
    Random(u32),
    /// A hash of the client, below this number.
    Hash(Hash, u32),
    /// The source address of the flow's first packet, before any translation.
    OriginalSaddr,
    /// The destination address of the flow's first packet, before any translation.
    OriginalDaddr,
    /// The destination address of the answers, before any translation.
    ReplyDaddr,
}

impl Field {
    /// Returns the fields of a packet that identify its frontend.
    pub(super) fn frontend(scope: Scope) -> Vec<Self> {
        match scope {
            Scope::Address => vec![Self::Daddr, Self::Protocol, Self::Dport],
            Scope::NodePort => vec![Self::Protocol, Self::Dport],
        }
    }
}

/// A rule: statements that are evaluated from left to right until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(pub Vec<Statement>);

impl Rule {
    /// Returns the sets that the rule looks up.
    pub(crate) fn sets(&self) -> Vec<SetId> {
        let of = |statement: &Statement| match statement {
            Statement::Member { set, .. } | Statement::GotoByClass(set) => Some(*set),
            Statement::SetPriority(Scratch::Map { map, .. }) | Statement::Dnat { map, .. } => {
                Some(*map)
            }
            Statement::Record(record) | Statement::Forget(record) => Some(record.set()),
            Statement::SetPriority(Scratch::Zero | Scratch::AllClients)
            | Statement::ClientsAre(_)
            | Statement::LengthIsUsed(_)
            | Statement::IsLoopback(..)
            | Statement::IsLocalhost(_)
            | Statement::DaddrIsLocal
            | Statement::SaddrIsLocal(_)
            | Statement::StateNew
            | Statement::StateInvalid
            | Statement::StatusDnat
            | Statement::StatusSnat
            | Statement::MarkIsSet
            | Statement::SetMark
            | Statement::ClearMark
            | Statement::StandIn
            | Statement::SetDaddr(_)
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
    /// This address is, or is not, a loopback address.
    IsLoopback(Field, bool),
    /// This address is the loopback address of `localhost`.
    IsLocalhost(Field),
    /// The destination is an address of this node.
    DaddrIsLocal,
    /// The source is, or is not, an address of this node.
    SaddrIsLocal(bool),
    /// The packet starts a flow.
    StateNew,
    /// The packet neither belongs to a flow nor starts one, according to conntrack.
    StateInvalid,
    /// The flow's destination is translated.
    StatusDnat,
    /// The flow's source is translated.
    StatusSnat,
    /// The packet's mark requests masquerading.
    MarkIsSet,
    /// Request masquerading.
    SetMark,
    /// Clear the request for masquerading.
    ClearMark,
    /// Write the address that stands in for a loopback address as the source.
    StandIn,
    /// Write this address as the destination.
    SetDaddr(Field),
    /// Set the scratch register.
    SetPriority(Scratch),
    /// The code in the scratch register asks for this treatment of clients.
    ClientsAre(Clients),
    /// The scratch register has this length among the lengths of source ranges.
    LengthIsUsed(Length),
    /// Go to the chain that the map gives for the class in the scratch register.
    GotoByClass(SetId),
    /// Write a record of the scratch register, or renew the timeout of an existing one.
    Record(Record),
    /// Delete this record.
    Forget(Record),
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

/// A record that packets write: of a member, which the scratch register names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// That of a client.
    Affinity(Affinity),
    /// That of the last turn of a group.
    Turn,
}

impl Record {
    /// The time in seconds after which the turns of a group begin anew.
    const TURN: u32 = 3_600;

    /// Returns the map with the records.
    pub fn set(self) -> SetId {
        match self {
            Self::Affinity(affinity) => SetId::Affinity(affinity),
            Self::Turn => SetId::Turns,
        }
    }

    /// Returns the key of a packet's record. With session affinity, it is the group and a hash of
    /// the client's address: a client that uses another frontend of the Service has the same one.
    pub fn key(self) -> Vec<Field> {
        match self {
            Self::Affinity(_) => vec![Field::Group, Field::Hash(Hash::Source, BUCKETS)],
            Self::Turn => vec![Field::Group],
        }
    }

    /// Returns the time in seconds that it lasts.
    pub fn timeout(self) -> u32 {
        match self {
            Self::Affinity(affinity) => affinity.timeout,
            Self::Turn => Self::TURN,
        }
    }
}

/// The source of a value for the scratch register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scratch {
    /// 0.
    Zero,
    /// What it has, with clients that are treated like all others.
    AllClients,
    /// The value that a map gives for the fields; if there is none, the rule does not match.
    Map {
        /// The key.
        fields: Vec<Field>,
        /// The map.
        map: SetId,
    },
}
