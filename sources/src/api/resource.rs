//! The resources that are followed on the server.

use std::fmt;

use rulec_compiler::name::{Name, Namespace, NamespacedName, NodeName};
use rulec_compiler::object::{Kind, ObjectKey};
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use crate::decode::document::Document;
use crate::decode::field::{Field, Text};

/// A list that is followed. Objects that the selectors exclude are never sent; an object arrives as
/// deleted when it becomes excluded, and as added when it is no longer excluded. The selectors are
/// those of kube-proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Resource {
    Services,
    EndpointSlices,
    /// Only this node, unless all are followed.
    Nodes,
    ServiceCidrs,
}

impl Resource {
    pub(crate) const ALL: [Self; 4] =
        [Self::Services, Self::EndpointSlices, Self::Nodes, Self::ServiceCidrs];

    /// Returns the path below the URL of the server.
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

    pub(super) fn field_selector(self, node: Option<&NodeName>) -> Option<String> {
        match self {
            Self::Services => Some("spec.clusterIP!=None".to_owned()),
            Self::Nodes => node.map(|node| format!("metadata.name={node}")),
            Self::EndpointSlices | Self::ServiceCidrs => None,
        }
    }

    /// Returns the version and kind of its objects. Items of a list do not state them.
    pub(crate) fn stated(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("v1", "Service"),
            Self::EndpointSlices => ("discovery.k8s.io/v1", "EndpointSlice"),
            Self::Nodes => ("v1", "Node"),
            Self::ServiceCidrs => ("networking.k8s.io/v1", "ServiceCIDR"),
        }
    }

    /// Returns the kinds of which a complete list has all objects.
    pub(crate) fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Services => &[Kind::Service],
            Self::EndpointSlices => &[Kind::EndpointSlice],
            Self::Nodes => &[Kind::Node],
            Self::ServiceCidrs => &[Kind::ServiceCidr],
        }
    }

    /// Returns whether no Service can be served without it.
    pub(crate) fn is_required(self) -> bool {
        match self {
            Self::Services | Self::EndpointSlices => true,
            Self::Nodes | Self::ServiceCidrs => false,
        }
    }

    /// Returns the message about the permissions that it needs.
    pub(super) fn needed_rights(self) -> String {
        let verbs = "the account of rulec needs the verbs list and watch for";
        match self {
            Self::Services => format!("{verbs} services"),
            Self::EndpointSlices => format!("{verbs} endpointslices.discovery.k8s.io"),
            Self::Nodes => format!("{verbs} nodes"),
            Self::ServiceCidrs => format!("{verbs} servicecidrs.networking.k8s.io"),
        }
    }

    /// Returns whether a failure means that the server does not have the kind. All kinds except
    /// ServiceCIDRs, the newest one, exist in every server that can be used; for them, "not found"
    /// comes from something else, such as a proxy.
    pub(super) fn is_missing(self, fault: &Fault) -> bool {
        self == Self::ServiceCidrs && fault.code() == Some(404)
    }

    pub(super) fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Returns the key of a document from its name alone; `None` if the name is missing.
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
