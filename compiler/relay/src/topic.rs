//! The types of resources.

use std::fmt;

use rulec_compiler::name::{Name, NamespacedName, NodeName};
use rulec_compiler::object::{Kind, ObjectKey};

/// A type of resources. The number in its URL changes if a message changes its meaning, so that a
/// relay can serve nodes of two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Services.
    Services,
    /// EndpointSlices.
    Slices,
    /// The Node of the receiver.
    Nodes,
    /// ServiceCIDRs.
    ServiceCidrs,
}

impl Topic {
    /// All types, in the order in which their resources are sent.
    pub const ALL: [Self; 4] = [Self::Services, Self::Slices, Self::Nodes, Self::ServiceCidrs];

    /// Returns its place in arrays of all types.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the URL of the type.
    pub fn url(self) -> &'static str {
        match self {
            Self::Services => "type.googleapis.com/rulec.v1.Service",
            Self::Slices => "type.googleapis.com/rulec.v1.EndpointSlice",
            Self::Nodes => "type.googleapis.com/rulec.v1.Node",
            Self::ServiceCidrs => "type.googleapis.com/rulec.v1.ServiceCIDR",
        }
    }

    /// Returns the type with a URL.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.url() == url)
    }

    /// Returns the kind of the objects.
    pub fn kind(self) -> Kind {
        match self {
            Self::Services => Kind::Service,
            Self::Slices => Kind::EndpointSlice,
            Self::Nodes => Kind::Node,
            Self::ServiceCidrs => Kind::ServiceCidr,
        }
    }

    /// Returns the kind of the objects, as a list.
    pub fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Services => &[Kind::Service],
            Self::Slices => &[Kind::EndpointSlice],
            Self::Nodes => &[Kind::Node],
            Self::ServiceCidrs => &[Kind::ServiceCidr],
        }
    }

    /// Returns the type and the name of the resource of an object; `None` for Pods and the addresses
    /// of interfaces, which have none.
    pub fn of(key: &ObjectKey) -> Option<(Self, String)> {
        match key {
            ObjectKey::Service(name) => Some((Self::Services, name.to_string())),
            ObjectKey::EndpointSlice(name) => Some((Self::Slices, name.to_string())),
            ObjectKey::Node(name) => Some((Self::Nodes, name.to_string())),
            ObjectKey::ServiceCidr(name) => Some((Self::ServiceCidrs, name.to_string())),
            ObjectKey::Pod(_) | ObjectKey::InterfaceAddresses => None,
        }
    }

    /// Returns the object that a resource of this type and name is about, if it is a name.
    pub fn key(self, name: &str) -> Option<ObjectKey> {
        let namespaced = || {
            let (namespace, name) = name.split_once('/')?;
            let is_whole = is_name(namespace) && is_name(name);
            is_whole.then(|| NamespacedName::new(namespace, name))
        };
        match self {
            Self::Services => namespaced().map(ObjectKey::Service),
            Self::Slices => namespaced().map(ObjectKey::EndpointSlice),
            Self::Nodes => is_name(name).then(|| ObjectKey::Node(NodeName::from(name))),
            Self::ServiceCidrs => is_name(name).then(|| ObjectKey::ServiceCidr(Name::from(name))),
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "Service",
            Self::Slices => "EndpointSlice",
            Self::Nodes => "Node",
            Self::ServiceCidrs => "ServiceCIDR",
        })
    }
}

/// The API's limit for names, in bytes.
const LONGEST_NAME: usize = 253;

/// Returns whether a text can be a name. Names are printed and become comments in the kernel, so
/// they have no characters that could break out of a line or a quotation.
pub(crate) fn is_name(text: &str) -> bool {
    let is_odd = |c: char| !c.is_ascii_graphic() || "/:\"'`\\".contains(c);
    !text.is_empty() && text.len() <= LONGEST_NAME && !text.contains(is_odd)
}
