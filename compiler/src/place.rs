//! The places in the kernel that operations change.
//!
//! A kernel that is read while changes are committed shows some of them and not others. A
//! difference that was found then says something only about places that no change has touched.

use std::net::IpAddr;

use crate::ipvs::{self, VirtualServer};
use crate::net::{Backend, Family};
use crate::nft::chain::ChainId;
use crate::nft::element::Key;
use crate::nft::set::SetId;
use crate::op::Op;
use crate::{delta, nft};

/// What an operation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A table, with all that is in it.
    Table(Family),
    /// A set or map, without its elements.
    Set(Family, SetId),
    /// A chain, with its rules.
    Chain(Family, ChainId),
    /// An element of a set or map.
    Element(Key),
    /// A virtual server, without its real servers.
    Server(VirtualServer),
    /// A real server of a virtual server.
    Real(VirtualServer, Backend),
    /// An address of the node.
    Address(IpAddr),
}

impl Place {
    /// Returns the place that this is a part of and goes with, if there is one.
    pub fn whole(self) -> Option<Self> {
        if let Self::Real(server, _) = self { Some(Self::Server(server)) } else { None }
    }
}

impl Op {
    /// Returns the place that it changes.
    pub fn place(&self) -> Place {
        use ipvs::Op::{
            AddReal, AddServer, Bind, DeleteReal, DeleteServer, SetReal, SetServer, Unbind,
        };
        match self {
            Self::Nft(op) => match op {
                nft::Op::AddTable(family) | nft::Op::DeleteTable(family) => Place::Table(*family),
                nft::Op::AddSet(family, set) | nft::Op::DeleteSet(family, set) => {
                    Place::Set(*family, *set)
                }
                nft::Op::AddChain(family, chain)
                | nft::Op::FlushChain(family, chain)
                | nft::Op::FillChain(family, chain)
                | nft::Op::DeleteChain(family, chain) => Place::Chain(*family, *chain),
                nft::Op::Add(element) | nft::Op::Delete(element) => Place::Element(element.key),
            },
            Self::Ipvs(op) => match op {
                AddServer(server, _) | SetServer(server, _) | DeleteServer(server) => {
                    Place::Server(*server)
                }
                AddReal(server, real, _) | SetReal(server, real, _) | DeleteReal(server, real) => {
                    Place::Real(*server, *real)
                }
                Bind(address) | Unbind(address) => Place::Address(*address),
            },
        }
    }
}

impl delta::Delta {
    /// Returns the places that it changes, possibly more than once.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.ops().map(Op::place)
    }
}
