//! The transport protocol and the address family of a flow.

use std::fmt;

use socket2::{Domain, Socket, Type};

/// A transport protocol that servers and clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A connection, with one line read from it.
    Tcp,
    /// A datagram each way.
    Udp,
    /// A one-to-one association, with one line read from it; see [`sctp_supported`].
    Sctp,
}

impl Protocol {
    pub(crate) fn kind(self) -> Type {
        match self {
            Self::Tcp | Self::Sctp => Type::STREAM,
            Self::Udp => Type::DGRAM,
        }
    }

    pub(crate) fn number(self) -> socket2::Protocol {
        match self {
            Self::Tcp => socket2::Protocol::TCP,
            Self::Udp => socket2::Protocol::UDP,
            Self::Sctp => socket2::Protocol::SCTP,
        }
    }
}

impl fmt::Display for Protocol {
    /// Writes the name as nftables spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both families, for loops over them.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    /// Writes the name as nftables spells it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// Returns whether this kernel has SCTP; loads its module if there is one.
#[must_use]
pub fn sctp_supported() -> bool {
    Socket::new(Domain::IPV4, Protocol::Sctp.kind(), Some(Protocol::Sctp.number())).is_ok()
}
