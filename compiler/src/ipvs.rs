//! IPVS: virtual servers, real servers, and the addresses that let this node answer for them.
//!
//! In this mode the kernel's IPVS chooses the backend and translates. What IPVS does not know about
//! (masquerading, policies, source ranges, refusing what no Service serves) stays with our nf_tables
//! table, whose `services` map then says what becomes of the clients of a frontend and nothing of its
//! backends; it also tells which virtual servers are ours.
//!
//! - `scheduler`: how IPVS chooses;
//! - `delta`: the operations from one state of a virtual server to another;
//! - `state`: what a kernel holds, and the reference semantics of an operation;
//! - `text`: operations in the language of `ipvsadm --restore`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::net::{Backend, Family, Protocol};
use crate::resolve::Frontend;

pub mod delta;
pub mod scheduler;
pub mod state;
pub mod text;

pub use scheduler::{Scheduler, SchedulerFlags, Scheduling};
pub use state::{Server, State};

/// What clients connect to, as IPVS names it. Prints as `address:port/protocol`.
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
    /// The virtual server of a frontend; `None` of a node port, which has one for each address of the node.
    pub fn of(frontend: Frontend) -> Option<Self> {
        match frontend {
            Frontend::Address { address, protocol, port } => Some(Self { address, protocol, port }),
            Frontend::NodePort { .. } => None,
        }
    }

    /// The frontend it is for.
    pub fn frontend(self) -> Frontend {
        let Self { address, protocol, port } = self;
        Frontend::Address { address, protocol, port }
    }

    /// The family.
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

/// What a Service port decides about its virtual servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balancing {
    /// How they choose.
    pub scheduling: Scheduling,
    /// For how many seconds, at the most, real servers on their way out keep their connections.
    pub drain: u32,
}

/// What there is to decide about a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attributes {
    /// How it chooses among its real servers.
    pub scheduling: Scheduling,
    /// For how many seconds a client stays with its real server (`ClientIP` affinity); `None` if each
    /// connection is scheduled anew.
    pub persistence: Option<u32>,
}

/// What there is to decide about a real server. Packets to it are always translated (`masquerading` in
/// the terms of `ipvsadm`): it answers by way of this node, and on a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RealServer {
    /// Its share of new connections; 0 takes none.
    pub weight: u32,
    /// When it goes at the latest, in seconds of the monotonic clock (`CLOCK_MONOTONIC`), if it only keeps
    /// the connections it has. The kernel holds this as its upper threshold of connections, which
    /// decides nothing while the weight is 0: so a restart finds out. It takes no more than 2³¹ - 1, which
    /// is 68 years (Debian's 6.1.0-56 refuses more).
    pub until: Option<u32>,
}

/// One that takes connections.
impl Default for RealServer {
    fn default() -> Self {
        Self::ACTIVE
    }
}

impl RealServer {
    /// One that takes connections.
    pub const ACTIVE: Self = Self { weight: 1, until: None };

    /// One that is on its way out.
    pub fn draining(until: u32) -> Self {
        Self { weight: 0, until: Some(until) }
    }
}

/// One operation on IPVS, or on the addresses of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Add a virtual server, without real servers; it must not be there.
    AddServer(VirtualServer, Attributes),
    /// Change a virtual server; its connections and real servers stay.
    SetServer(VirtualServer, Attributes),
    /// Delete a virtual server with its real servers.
    DeleteServer(VirtualServer),
    /// Add a real server; it must not be there.
    AddReal(VirtualServer, Backend, RealServer),
    /// Change a real server; its connections stay.
    SetReal(VirtualServer, Backend, RealServer),
    /// Delete a real server; its connections end with their next packets.
    DeleteReal(VirtualServer, Backend),
    /// Make an address this node's.
    Bind(IpAddr),
    /// Take an address from this node.
    Unbind(IpAddr),
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Something comes.
    Add,
    /// Something changes in place.
    Set,
    /// Something goes.
    Delete,
}

impl Op {
    /// What it does.
    pub fn verb(&self) -> Verb {
        match self {
            Self::AddServer(..) | Self::AddReal(..) | Self::Bind(_) => Verb::Add,
            Self::SetServer(..) | Self::SetReal(..) => Verb::Set,
            Self::DeleteServer(_) | Self::DeleteReal(..) | Self::Unbind(_) => Verb::Delete,
        }
    }

    /// What it does it to.
    pub fn subject(&self) -> &'static str {
        match self {
            Self::AddServer(..) | Self::SetServer(..) | Self::DeleteServer(_) => "virtual-servers",
            Self::AddReal(..) | Self::SetReal(..) | Self::DeleteReal(..) => "real-servers",
            Self::Bind(_) | Self::Unbind(_) => "addresses",
        }
    }

    /// The virtual server it is about; `None` if it is about an address.
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

    /// The family.
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
