//! One operation on IPVS, or on the addresses of this node.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::server::{Attributes, RealServer, VirtualServer};
use crate::net::{Backend, Family};

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

/// The turn of an operation among all that take effect in one stage. No address is bound before its
/// virtual servers are complete, and none is deleted before its address is unbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Virtual servers get their real servers.
    Complete,
    /// Addresses are bound.
    Bind,
    /// Addresses are unbound.
    Unbind,
    /// Real servers and virtual servers are deleted.
    Delete,
}

impl Op {
    /// Returns the turn of the operation.
    pub fn turn(&self) -> Turn {
        match self {
            Self::AddServer(..) | Self::SetServer(..) | Self::AddReal(..) | Self::SetReal(..) => {
                Turn::Complete
            }
            Self::Bind(_) => Turn::Bind,
            Self::Unbind(_) => Turn::Unbind,
            Self::DeleteReal(..) | Self::DeleteServer(_) => Turn::Delete,
        }
    }

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
