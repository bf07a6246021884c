//! IPVS: virtual servers, real servers, and the addresses that let this node answer for them.
//!
//! In this mode the kernel's IPVS chooses the backend and translates addresses. Everything that
//! IPVS does not do (masquerading, policies, source ranges, refusing traffic to unserved addresses)
//! stays with our nf_tables table. Its `services` map then decides only how clients of a frontend
//! are treated, not about backends; it also tells which virtual servers are ours.
//!
//! - `delta`: the operations from one state of a virtual server to another;
//! - `draining`: real servers that keep their connections for a time;
//! - `state`: the content that a kernel holds, and the reference semantics of an operation;
//! - `text`: operations in the syntax of `ipvsadm --restore`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::frontend::Frontend;
use crate::net::{Backend, Family, Protocol};

pub mod delta;
pub mod draining;
pub mod state;
pub mod text;

pub use crate::scheduling::{Scheduler, SchedulerFlags, Scheduling};
pub use draining::Draining;
pub use state::{Server, State};

/// A frontend, as IPVS identifies it. Prints as `address:port/protocol`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VirtualServer {
    /// The address.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: NonZeroU16,
}

impl VirtualServer {
    /// Returns the virtual server of a frontend; `None` for a node port, which has one for each
    /// address of the node.
    pub fn of(frontend: Frontend) -> Option<Self> {
        match frontend {
            Frontend::Address { address, protocol, port } => Some(Self { address, protocol, port }),
            Frontend::NodePort { .. } => None,
        }
    }

    /// Returns the frontend that it serves.
    pub fn frontend(self) -> Frontend {
        let Self { address, protocol, port } = self;
        Frontend::Address { address, protocol, port }
    }

    /// Returns the family.
    pub fn family(self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", SocketAddr::new(self.address, self.port.get()), self.protocol)
    }
}

impl fmt::Debug for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The attributes of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// The scheduling among its real servers.
    pub scheduling: Scheduling,
    /// The time in seconds that a client stays with its real server (`ClientIP` affinity); `None`
    /// if each connection is scheduled independently.
    pub persistence: Option<u32>,
}

/// The attributes of a real server. Packets to it are always translated (`masquerading` in the
/// terms of `ipvsadm`): its answers pass through this node, and its port may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RealServer {
    /// Its share of new connections; a real server with weight 0 gets none.
    pub weight: u32,
    /// If it is draining, the time at which it is removed at the latest, in seconds of the
    /// monotonic clock (`CLOCK_MONOTONIC`). The kernel stores this as the upper threshold of
    /// connections, which has no effect while the weight is 0, so that a restart can read it back.
    /// The kernel takes at most 2³¹ - 1, which is 68 years (Debian's 6.1.0-56 refuses more).
    pub until: Option<u32>,
}

/// A real server that gets connections.
impl Default for RealServer {
    fn default() -> Self {
        Self::ACTIVE
    }
}

impl RealServer {
    /// A real server that gets connections.
    pub const ACTIVE: Self = Self { weight: 1, until: None };

    /// Returns a draining real server.
    pub fn draining(until: u32) -> Self {
        Self { weight: 0, until: Some(until) }
    }
}

/// One operation on IPVS, or on the addresses of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Add a virtual server, without real servers; it must not exist.
    AddServer(VirtualServer, Attributes),
    /// Change a virtual server; its connections and real servers stay.
    SetServer(VirtualServer, Attributes),
    /// Delete a virtual server with its real servers.
    DeleteServer(VirtualServer),
    /// Add a real server; it must not exist.
    AddReal(VirtualServer, Backend, RealServer),
    /// Change a real server; its connections stay.
    SetReal(VirtualServer, Backend, RealServer),
    /// Delete a real server; its connections end with their next packets.
    DeleteReal(VirtualServer, Backend),
    /// Bind an address to this node.
    Bind(IpAddr),
    /// Unbind an address from this node.
    Unbind(IpAddr),
}

/// The kind of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Adds something.
    Add,
    /// Changes something in place.
    Set,
    /// Deletes something.
    Delete,
}

impl Op {
    /// Returns the kind of the operation.
    pub fn verb(&self) -> Verb {
        match self {
            Self::AddServer(..) | Self::AddReal(..) | Self::Bind(_) => Verb::Add,
            Self::SetServer(..) | Self::SetReal(..) => Verb::Set,
            Self::DeleteServer(_) | Self::DeleteReal(..) | Self::Unbind(_) => Verb::Delete,
        }
    }

    /// Returns the kind of thing that the operation applies to.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::AddServer(..) | Self::SetServer(..) | Self::DeleteServer(_) => "virtual-servers",
            Self::AddReal(..) | Self::SetReal(..) | Self::DeleteReal(..) => "real-servers",
            Self::Bind(_) | Self::Unbind(_) => "addresses",
        }
    }

    /// Returns the virtual server it applies to; `None` if it applies to an address.
    pub fn server(&self) -> Option<VirtualServer> {
        match self {
            Self::AddServer(server, _)
            | Self::SetServer(server, _)
            | Self::DeleteServer(server)
            | Self::AddReal(server, ..)
            | Self::SetReal(server, ..)
            | Self::DeleteReal(server, _) => Some(*server),
            Self::Bind(_) | Self::Unbind(_) => None,
        }
    }

    /// Returns the family.
    pub fn family(&self) -> Family {
        match self {
            Self::Bind(address) | Self::Unbind(address) => Family::of(*address),
            Self::AddServer(server, _)
            | Self::SetServer(server, _)
            | Self::DeleteServer(server)
            | Self::AddReal(server, ..)
            | Self::SetReal(server, ..)
            | Self::DeleteReal(server, _) => server.family(),
        }
    }
}
