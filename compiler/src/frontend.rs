//! The names of what is served: a Service port, and the frontends that clients connect to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::name::{NamespacedName, PortName};
use crate::net::{Family, Fnv, Protocol};

/// A Service port: the unit that is compiled. Prints as `namespace/name:port`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortKey {
    /// The Service.
    pub service: NamespacedName,
    /// The name of the port; may be empty.
    pub port: PortName,
}

impl PortKey {
    /// The maximum length of a comment: the `nft` tool refuses to read back a longer one.
    pub const MAX_COMMENT: usize = 128;

    /// Returns the key as a comment: the key itself or, if that is too long, a shortened one in
    /// which the name of the Service ends in a hash of the whole key.
    pub fn comment(self: &Arc<Self>) -> Arc<Self> {
        let text = self.to_string();
        if text.len() <= Self::MAX_COMMENT {
            return Arc::clone(self);
        }
        let mut hash = Fnv::default();
        hash.write(text.as_bytes());
        let hash = format!("~{:016x}", hash.finish());
        let cut = |text: &str, room: usize| text[..text.floor_char_boundary(room)].to_owned();
        let namespace = cut(self.service.namespace.as_str(), 63);
        let port = cut(self.port.as_str(), 15);
        let room = Self::MAX_COMMENT - namespace.len() - port.len() - hash.len() - 2;
        let name = cut(self.service.name.as_str(), room) + &hash;
        Arc::new(Self {
            service: NamespacedName::new(namespace.as_str(), name.as_str()),
            port: PortName::from(port.as_str()),
        })
    }

    /// Parses a comment, if it has our form: `namespace/name` or `namespace/name:port`.
    pub fn from_comment(comment: &str) -> Option<Self> {
        let (service, port) = comment.split_once(':').unwrap_or((comment, ""));
        let (namespace, name) = service.split_once('/')?;
        let is_whole = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
        is_whole.then(|| Self {
            service: NamespacedName::new(namespace, name),
            port: PortName::from(port),
        })
    }

    /// Returns true if this is a comment that stands for a longer key: no Service name contains
    /// `~`.
    pub fn is_shortened(&self) -> bool {
        self.service.name.as_str().contains('~')
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.service)?;
        if self.port.as_str().is_empty() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl fmt::Debug for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The address and port, or node port, that a client connects to. Frontends are unique in the
/// kernel: if two Service ports claim the same one, the claim of the lower rank wins (see `Rank`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Frontend {
    /// An address, protocol and port.
    Address {
        /// The address.
        address: IpAddr,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: NonZeroU16,
    },
    /// A port on the node's own addresses.
    NodePort {
        /// The family.
        family: Family,
        /// The protocol.
        protocol: Protocol,
        /// The port.
        port: NonZeroU16,
    },
}

impl Frontend {
    /// Returns the family it belongs to.
    pub fn family(self) -> Family {
        match self {
            Self::Address { address, .. } => Family::of(address),
            Self::NodePort { family, .. } => family,
        }
    }

    /// Returns the protocol.
    pub fn protocol(self) -> Protocol {
        match self {
            Self::Address { protocol, .. } | Self::NodePort { protocol, .. } => protocol,
        }
    }
}

/// The clients that a set of backends is for: under external policy Local, clients from outside
/// reach other backends than those in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum View {
    /// All clients or, if there is a local view too, only Pods and the node itself.
    Cluster,
    /// Clients from outside, if the external policy is Local.
    Local,
}

impl View {
    /// Both views.
    pub const ALL: [Self; 2] = [Self::Cluster, Self::Local];
}

impl fmt::Display for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, protocol, port } => {
                write!(f, "{}/{protocol}", SocketAddr::new(*address, port.get()))
            }
            Self::NodePort { family, protocol, port } => {
                write!(f, "nodePort {port}/{protocol} ({family})")
            }
        }
    }
}

impl fmt::Debug for Frontend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
