//! Notes the fields that are skipped while a document is read.

use serde_ignored::Path;

use crate::decode::at::PathStep;

/// The most unknown fields that are kept. A document of another kind may consist of unknown fields.
const MAX_UNKNOWN: usize = 4096;

/// A field that is not read, in a struct of which some fields are.
#[derive(Clone, Debug)]
pub(crate) struct Unknown {
    pub(crate) steps: Vec<PathStep>,
    /// The struct, without the indices of lists.
    pub(crate) place: &'static str,
    pub(crate) name: Box<str>,
}

impl Unknown {
    /// Returns a field of the document itself.
    pub(crate) fn at_root(name: &str) -> Self {
        Self { steps: vec![PathStep::Key(name.into())], place: "", name: name.into() }
    }

    /// If the field belongs to an item of a list, returns the index of the item and the field
    /// relative to it; otherwise returns the field as it is.
    pub(crate) fn of_item(mut self) -> Result<(usize, Self), Self> {
        match self.steps.as_slice() {
            [PathStep::Key(key), PathStep::Index(index), ..] if **key == *ITEMS => {
                let index = *index;
                self.steps.drain(..2);
                Ok((index, self))
            }
            _ => Err(self),
        }
    }
}

/// The field in which a list has its documents.
const ITEMS: &str = "items";

/// Notes a field that was skipped.
pub(crate) fn note(noted: &mut Vec<Unknown>, path: &Path<'_>) {
    let Path::Map { parent, key } = path else { return };
    if noted.len() >= MAX_UNKNOWN {
        return;
    }
    let Some(place) = place_of(parent) else { return };
    if !(place == "metadata" && METADATA.contains(&&**key)) {
        let mut steps = Vec::new();
        push_steps(path, &mut steps);
        noted.push(Unknown { steps, place, name: key.as_str().into() });
    }
}

fn push_steps(path: &Path<'_>, steps: &mut Vec<PathStep>) {
    match path {
        Path::Root => {}
        Path::Seq { parent, index } => {
            push_steps(parent, steps);
            steps.push(PathStep::Index(*index));
        }
        Path::Map { parent, key } => {
            push_steps(parent, steps);
            steps.push(PathStep::Key(key.as_str().into()));
        }
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => push_steps(parent, steps),
    }
}

/// Returns the path of a struct without the indices of lists, if it is one of [`PLACES`].
fn place_of(path: &Path<'_>) -> Option<&'static str> {
    match path {
        Path::Root => Some(""),
        Path::Seq { parent, .. }
        | Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => place_of(parent),
        Path::Map { parent, key } => {
            let above = place_of(parent)?;
            // Each item is a document like any other.
            if above.is_empty() && key == ITEMS {
                return Some("");
            }
            let is_below = |place: &&&str| {
                let rest = place.strip_prefix(above)?;
                let rest = if above.is_empty() { rest } else { rest.strip_prefix('.')? };
                (rest == key.as_str()).then_some(())
            };
            PLACES.iter().find(|place| is_below(place).is_some()).copied()
        }
    }
}

const PLACES: [&str; 17] = [
    "metadata",
    "spec",
    "spec.ports",
    "spec.sessionAffinityConfig",
    "spec.sessionAffinityConfig.clientIP",
    "spec.containers",
    "spec.containers.ports",
    "status",
    "status.loadBalancer",
    "status.loadBalancer.ingress",
    "endpoints",
    "endpoints.conditions",
    "endpoints.hints",
    "ports",
    "subsets",
    "subsets.addresses",
    "subsets.ports",
];

/// The fields of all metadata.
pub(crate) const METADATA: [&str; 16] = [
    "annotations",
    "clusterName",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
