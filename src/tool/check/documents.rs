//! Objects of any kind, as the files have them: documents, and items of lists.

use std::fmt;
use std::sync::Arc;

use rulec_sources::{Node, Survey};

use super::spot::Spot;

/// The kinds of which it is known that they are in a namespace, whether or not it is written.
const NAMESPACED: [&str; 4] = ["Endpoints", "EndpointSlice", "Pod", "Service"];

/// A document, or an item of a list.
pub(super) struct Document<'a> {
    /// The group of its version; empty for the core of Kubernetes.
    pub(super) group: &'a str,
    pub(super) kind: &'a str,
    pub(super) spot: Spot<'a>,
}

/// What the items of a list need not state again.
#[derive(Clone, Copy, Default)]
struct Stated<'a> {
    version: Option<&'a str>,
    kind: Option<&'a str>,
}

impl<'a> Document<'a> {
    /// Returns all of them, in the order of the files.
    pub(super) fn all(survey: &'a Survey) -> Vec<Self> {
        let mut found = Vec::new();
        for manifest in &survey.manifests {
            for node in manifest.documents() {
                collect(&manifest.path, node, Stated::default(), &mut found);
            }
        }
        found
    }

    pub(super) fn name(&self) -> Option<&'a str> {
        self.spot.keys("metadata.name").text()
    }

    pub(super) fn namespace(&self) -> &'a str {
        self.written_namespace().unwrap_or("default")
    }

    fn written_namespace(&self) -> Option<&'a str> {
        self.spot.keys("metadata.namespace").text().filter(|namespace| !namespace.is_empty())
    }
}

fn collect<'a>(
    path: &'a Arc<str>,
    node: Node<'a>,
    stated: Stated<'a>,
    found: &mut Vec<Document<'a>>,
) {
    let text = |key| node.get(key).and_then(Node::text);
    let version = text("apiVersion").or(stated.version);
    let Some(kind) = text("kind").or(stated.kind) else { return };
    if let (Some(of), Some(items)) = (kind.strip_suffix("List"), node.get("items")) {
        let is_mixed = of.is_empty();
        let stated = if is_mixed { Stated::default() } else { Stated { version, kind: Some(of) } };
        items.elements().for_each(|item| collect(path, item, stated, found));
        return;
    }
    let group = version.and_then(|version| version.split_once('/')).map_or("", |(group, _)| group);
    found.push(Document { group, kind, spot: Spot::root(path, Some(node)) });
}

/// Prints kind and name, as in `Service default/web`.
impl fmt::Display for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, .. } = self;
        let name = self.name().unwrap_or_default();
        if self.written_namespace().is_some() || NAMESPACED.contains(kind) {
            write!(f, "{kind} {}/{name}", self.namespace())
        } else {
            write!(f, "{kind} {name}")
        }
    }
}
