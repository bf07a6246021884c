//! The content of IPVS in a kernel, and the effect of each operation on it, as strict as the
//! kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Attributes, Op, RealServer, VirtualServer};
use crate::net::{Backend, Family};

/// The content of IPVS in a kernel: all virtual servers, whoever added them, and our addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The virtual servers of an address, protocol and port. Those of a firewall mark are never
    /// ours.
    #[serde(with = "listed")]
    pub servers: BTreeMap<VirtualServer, Server>,
    /// The addresses on our device, or those of our local routes.
    pub bound: BTreeSet<IpAddr>,
}

/// A virtual server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Its attributes; `None` if it has something that we never set: another scheduler, one-packet
    /// scheduling, a persistence engine.
    pub attributes: Option<Attributes>,
    /// Its real servers; `None` if one forwards in a way that we never set (not by translation).
    pub reals: BTreeMap<Backend, Option<RealServer>>,
}

impl Server {
    /// Returns the real servers that get connections.
    pub fn active(&self) -> impl Iterator<Item = Backend> {
        let takes = |real: &Option<RealServer>| real.is_none_or(|real| real.weight > 0);
        self.reals.iter().filter(move |(_, real)| takes(real)).map(|(backend, _)| *backend)
    }
}

impl State {
    /// Returns true if the state is empty.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.bound.is_empty()
    }

    /// Applies an operation.
    ///
    /// # Errors
    ///
    /// Returns the reason why a kernel would refuse it.
    pub fn apply(&mut self, op: &Op) -> Result<(), &'static str> {
        match op {
            Op::AddServer(server, attributes) => {
                let new = Server { attributes: Some(*attributes), reals: BTreeMap::new() };
                match self.servers.insert(*server, new) {
                    None => Ok(()),
                    Some(_) => Err("the virtual server already exists"),
                }
            }
            Op::SetServer(server, attributes) => {
                self.server(*server)?.attributes = Some(*attributes);
                Ok(())
            }
            Op::DeleteServer(server) => {
                self.servers.remove(server).map(|_| ()).ok_or("the virtual server does not exist")
            }
            Op::AddReal(server, backend, real) => {
                if Family::of(backend.address) != server.family() {
                    return Err("the real server is of another family");
                }
                match self.server(*server)?.reals.insert(*backend, Some(*real)) {
                    None => Ok(()),
                    Some(_) => Err("the real server already exists"),
                }
            }
            Op::SetReal(server, backend, real) => {
                let held = self.server(*server)?.reals.get_mut(backend);
                held.map(|held| *held = Some(*real)).ok_or("the real server does not exist")
            }
            Op::DeleteReal(server, backend) => {
                let held = self.server(*server)?.reals.remove(backend);
                held.map(|_| ()).ok_or("the real server does not exist")
            }
            Op::Bind(address) => {
                if self.bound.insert(*address) {
                    Ok(())
                } else {
                    Err("the address is already bound")
                }
            }
            Op::Unbind(address) => {
                if self.bound.remove(address) {
                    Ok(())
                } else {
                    Err("the address is not bound")
                }
            }
        }
    }

    fn server(&mut self, server: VirtualServer) -> Result<&mut Server, &'static str> {
        self.servers.get_mut(&server).ok_or("the virtual server does not exist")
    }
}

/// Serializes a map whose keys are not strings as a list of pairs.
mod listed {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{Server, VirtualServer};

    pub(super) fn serialize<S: Serializer>(
        servers: &BTreeMap<VirtualServer, Server>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        servers.iter().collect::<Vec<_>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<VirtualServer, Server>, D::Error> {
        Ok(Vec::<(VirtualServer, Server)>::deserialize(deserializer)?.into_iter().collect())
    }
}
