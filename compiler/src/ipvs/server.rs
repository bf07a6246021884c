//! Virtual servers and real servers, as IPVS identifies and configures them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::frontend::Frontend;
use crate::net::{Family, Protocol};
use crate::scheduling::Scheduling;

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
    /// The upper threshold of its connections, if there is one: it gets no new ones until their
    /// number has fallen to less than three quarters of it (`ip_vs_dest_update_overload`). The
    /// kernel takes at most 2³¹ - 1 (Debian's 6.1.0-56 refuses more).
    ///
    /// If it is draining, this is the time at which it is removed at the latest, in seconds of the
    /// monotonic clock (`CLOCK_MONOTONIC`): a threshold has no effect while the weight is 0, and a
    /// restart can read it back.
    pub threshold: Option<u32>,
}

/// A real server that gets connections.
impl Default for RealServer {
    fn default() -> Self {
        Self::ACTIVE
    }
}

impl RealServer {
    /// A real server that gets connections.
    pub const ACTIVE: Self = Self { weight: 1, threshold: None };

    /// Returns a draining real server.
    pub fn draining(until: u32) -> Self {
        Self { weight: 0, threshold: Some(until) }
    }

    /// Returns the time at which it is removed at the latest, if it is draining.
    pub fn until(self) -> Option<u32> {
        self.threshold.filter(|_| self.weight == 0)
    }
}
