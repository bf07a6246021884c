//! What a kernel holds of IPVS, and what each operation does to it: as strict as the kernel is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Attributes, Op, RealServer, VirtualServer};
use crate::net::{Backend, Family};

/// What a kernel holds of IPVS: everybody's virtual servers, and our addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The virtual servers of an address, protocol and port. Those of a firewall mark are not ours.
    #[serde(with = "listed")]
    pub servers: BTreeMap<VirtualServer, Server>,
    /// The addresses that are on our device, or that our local routes are for.
    pub bound: BTreeSet<IpAddr>,
}

/// A virtual server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// What was decided about it; `None` if it is something that we never ask for: another scheduler,
    /// one-packet scheduling, a persistence engine.
    pub attributes: Option<Attributes>,
    /// Its real servers; `None` is one that we never ask for: not by translation.
    pub reals: BTreeMap<Backend, Option<RealServer>>,
}

impl Server {
    /// The real servers that take connections.
    pub fn active(&self) -> impl Iterator<Item = Backend> {
        let takes = |real: &Option<RealServer>| real.is_none_or(|real| real.weight > 0);
        self.reals.iter().filter(move |(_, real)| takes(real)).map(|(backend, _)| *backend)
    }
}

impl State {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.bound.is_empty()
    }

    /// Applies an operation.
    ///
    /// # Errors
    ///
    /// Why a kernel would refuse it.
    pub fn apply(&mut self, op: &Op) -> Result<(), &'static str> {
        match op {
            Op::AddServer(server, attributes) => {
                let new = Server { attributes: Some(*attributes), reals: BTreeMap::new() };
                match self.servers.insert(*server, new) {
                    None => Ok(()),
                    Some(_) => Err("the virtual server exists"),
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
                    Some(_) => Err("the real server exists"),
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
                    Err("the address is bound")
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

/// A map whose keys are no text, as a list of pairs.
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
