//! The kinds served, and their paths.

use serde_json::Value;

/// A kind of object that the server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// `discovery.k8s.io/v1`.
    EndpointSlices,
    /// `events.k8s.io/v1`: written by clients, never read.
    Events,
    /// `v1`; not namespaced.
    Nodes,
    /// `networking.k8s.io/v1`; not namespaced. Generally available since Kubernetes 1.33.
    ServiceCidrs,
    /// `v1`.
    Services,
}

impl Resource {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::EndpointSlices, Self::Events, Self::Nodes, Self::ServiceCidrs, Self::Services];

    /// Returns the name in a path, for example `endpointslices`.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::EndpointSlices => "endpointslices",
            Self::Events => "events",
            Self::Nodes => "nodes",
            Self::ServiceCidrs => "servicecidrs",
            Self::Services => "services",
        }
    }

    /// Returns the name in an object, for example `EndpointSlice`.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::EndpointSlices => "EndpointSlice",
            Self::Events => "Event",
            Self::Nodes => "Node",
            Self::ServiceCidrs => "ServiceCIDR",
            Self::Services => "Service",
        }
    }

    /// Returns the group, which is empty for the core kinds.
    #[must_use]
    pub fn group(self) -> &'static str {
        match self {
            Self::EndpointSlices => "discovery.k8s.io",
            Self::Events => "events.k8s.io",
            Self::ServiceCidrs => "networking.k8s.io",
            Self::Nodes | Self::Services => "",
        }
    }

    /// Returns group and version as in an object: `discovery.k8s.io/v1` or `v1`.
    #[must_use]
    pub fn api_version(self) -> String {
        match self.group() {
            "" => "v1".to_owned(),
            group => format!("{group}/v1"),
        }
    }

    /// Returns whether the kind is namespaced.
    #[must_use]
    pub fn namespaced(self) -> bool {
        match self {
            Self::EndpointSlices | Self::Events | Self::Services => true,
            Self::Nodes | Self::ServiceCidrs => false,
        }
    }

    /// Returns the verbs that the server supports for the kind.
    pub(crate) fn verbs(self) -> &'static [Verb] {
        match self {
            Self::Events => &[Verb::Create, Verb::Patch],
            Self::EndpointSlices | Self::Nodes | Self::ServiceCidrs | Self::Services => {
                &[Verb::Get, Verb::List, Verb::Watch]
            }
        }
    }

    /// Returns the kind that an object's `kind` and `apiVersion` name.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let text = |field: &str| object.get(field).and_then(Value::as_str);
        let (kind, version) = (text("kind")?, text("apiVersion")?);
        Self::ALL.into_iter().find(|known| known.kind() == kind && known.api_version() == version)
    }
}

/// A verb of role-based access control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// POST.
    Create,
    /// DELETE, which no kind here allows.
    Delete,
    /// GET of one object, or of a path that is not a resource.
    Get,
    /// GET of a collection.
    List,
    /// PATCH.
    Patch,
    /// PUT, which no kind here allows.
    Update,
    /// GET of a collection with `watch`.
    Watch,
}

impl Verb {
    /// Returns the verb as written in a role.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// The object of a path: a collection, or with a name one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) resource: Resource,
    pub(crate) namespace: Option<String>,
    pub(crate) name: Option<String>,
}

impl Target {
    /// Parses a path like `/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-1`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match *segments.as_slice() {
            ["api", "v1", ref rest @ ..] => ("", rest),
            ["apis", group, "v1", ref rest @ ..] => (group, rest),
            _ => return None,
        };
        let (namespace, plural, name) = match *rest {
            ["namespaces", namespace, plural] => (Some(namespace), plural, None),
            ["namespaces", namespace, plural, name] => (Some(namespace), plural, Some(name)),
            [plural] => (None, plural, None),
            [plural, name] => (None, plural, Some(name)),
            _ => return None,
        };
        let resource = Resource::ALL
            .into_iter()
            .find(|known| known.group() == group && known.plural() == plural)?;
        // The path of one object contains its namespace if and only if the kind is namespaced.
        let fits = match (resource.namespaced(), &namespace, &name) {
            (true, None, Some(_)) | (false, Some(_), _) => false,
            (true, _, _) | (false, None, _) => true,
        };
        fits.then(|| Self {
            resource,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(path: &str) -> Option<(Resource, Option<String>, Option<String>)> {
        Target::parse(path).map(|target| (target.resource, target.namespace, target.name))
    }

    #[test]
    fn paths_name_collections_and_objects() {
        let owned = |text: &str| Some(text.to_owned());
        assert_eq!(parsed("/api/v1/services"), Some((Resource::Services, None, None)));
        assert_eq!(
            parsed("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/web-1"),
            Some((Resource::EndpointSlices, owned("shop"), owned("web-1")))
        );
        assert_eq!(parsed("/api/v1/nodes/n1"), Some((Resource::Nodes, None, owned("n1"))));
    }

    #[test]
    fn other_paths_are_not_resolved() {
        for path in [
            "/api/v1/pods",
            "/api/v1/endpointslices",
            "/api/v1/services/web",
            "/api/v1/namespaces/shop/nodes",
            "/apis/discovery.k8s.io/v1beta1/endpointslices",
            "/version",
            "/",
        ] {
            assert_eq!(parsed(path), None, "{path}");
        }
    }
}
