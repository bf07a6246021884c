//! What is asked of the server, and for what.

use std::fmt;

use rulec_compiler::name::{Name, Namespace, NamespacedName, NodeName};
use rulec_compiler::object::{Kind, ObjectKey};
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::field::{Field, Text};
use crate::manifest::Document;

/// A list that is followed. What the selectors leave out is never sent; an object that comes to be
/// left out arrives as deleted, one that no longer is as added. They are those of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Resource {
    Services,
    EndpointSlices,
    /// This node alone.
    Nodes,
    ServiceCidrs,
}

impl Resource {
    pub(crate) const ALL: [Self; 4] =
        [Self::Services, Self::EndpointSlices, Self::Nodes, Self::ServiceCidrs];

    /// Below the URL of the server.
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Services => "/api/v1/services",
            Self::EndpointSlices => "/apis/discovery.k8s.io/v1/endpointslices",
            Self::Nodes => "/api/v1/nodes",
            Self::ServiceCidrs => "/apis/networking.k8s.io/v1/servicecidrs",
        }
    }

    pub(super) fn label_selector(self) -> Option<&'static str> {
        match self {
            Self::Services => Some("!service.kubernetes.io/service-proxy-name"),
            Self::EndpointSlices => Some("!service.kubernetes.io/headless"),
            Self::Nodes | Self::ServiceCidrs => None,
        }
    }

    pub(super) fn field_selector(self, node: &NodeName) -> Option<String> {
        match self {
            Self::Services => Some("spec.clusterIP!=None".to_owned()),
            Self::Nodes => Some(format!("metadata.name={node}")),
            Self::EndpointSlices | Self::ServiceCidrs => None,
        }
    }

    /// Version and kind of its objects. Items of a list do not state them.
    pub(crate) fn stated(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("v1", "Service"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "EndpointSlice"),
            Self::Nodes => ("v1", "Node"),
            Self::ServiceCidrs => ("networking.k8s.io/v1", "ServiceCIDR"),
        }
    }

    /// What a complete list of it is complete of.
    pub(crate) fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Services => &[Kind::Service],
            Self::EndpointSlices => &[Kind::EndpointSlice],
            Self::Nodes => &[Kind::Node],
            Self::ServiceCidrs => &[Kind::ServiceCidr],
        }
    }

    /// Whether nothing can be served without it.
    pub(crate) fn is_required(self) -> bool {
        match self {
            Self::Services | Self::EndpointSlices => true,
            Self::Nodes | Self::ServiceCidrs => false,
        }
    }

    /// What it takes to see it.
    pub(super) fn needed_rights(self) -> String {
        let verbs = "the account of rulec needs the verbs list and watch for";
        match self {
            Self::Services => format!("{verbs} services"),
            Self::EndpointSlices => format!("{verbs} endpointslices.discovery.k8s.io"),
            Self::Nodes => format!("{verbs} nodes"),
            Self::ServiceCidrs => format!("{verbs} servicecidrs.networking.k8s.io"),
        }
    }

    /// Whether a failure says that the server does not have the kind. All but the youngest are in every
    /// server that can be asked; for them, "not found" is somebody else's word, a proxy's for one.
    pub(super) fn is_missing(self, fault: &Fault) -> bool {
        self == Self::ServiceCidrs && fault.code() == Some(404)
    }

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Which object a document is of, by its name alone; nothing if it does not say so.
    pub(crate) fn key(self, document: &Document) -> Option<ObjectKey> {
        let Field::Is(metadata) = &document.metadata else { return None };
        let name = text(&metadata.name)?;
        let namespaced = || {
            let namespace = Namespace::from(text(&metadata.namespace)?);
            Some(NamespacedName { namespace, name: Name::from(name) })
        };
        match self {
            Self::Services => namespaced().map(ObjectKey::Service),
            Self::EndpointSlices => namespaced().map(ObjectKey::EndpointSlice),
            Self::Nodes => Some(ObjectKey::Node(NodeName::from(name))),
            Self::ServiceCidrs => Some(ObjectKey::ServiceCidr(Name::from(name))),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Services => "Services",
            Self::EndpointSlices => "EndpointSlices",
            Self::Nodes => "the Node",
            Self::ServiceCidrs => "ServiceCIDRs",
        })
    }
}

fn text(field: &Field<Text>) -> Option<&str> {
    match field {
        Field::Is(text) if !text.is_empty() => Some(text),
        Field::Is(_) | Field::Absent | Field::Wrong(_) => None,
    }
}
