//! What is said of a Pod.
//!
//! The kubelet appends its node's name to the name of a static Pod. Its manifest has the name
//! without it, so that is the Pod's name here: the Pod and its manifest are one object, of two
//! sources.

use std::sync::Arc;

use bytes::Bytes;
use rulec_compiler::name::{Name, NamespacedName};
use rulec_compiler::object::{Conditions, Object, ObjectKey, Pod};
use serde_json::value::RawValue;

use super::proto;
use crate::decode::document::{Annotations, Document};
use crate::decode::field::{Field, Text};
use crate::decode::intern::Interner;
use crate::decode::{Decoded, decode_known};
use crate::error::chain;
use crate::problem::{Problem, Severity};

/// A Pod as it was sent.
#[derive(Debug)]
pub(crate) enum Raw {
    /// From the kubelet's pods API.
    Protobuf(Bytes),
    /// From its `/pods`, or made of what podman says.
    Json(Box<RawValue>),
    /// It exists, but cannot be read at the moment.
    Unread {
        /// See [`Report::uid`].
        uid: Box<str>,
        /// See [`Report::name`].
        name: NamespacedName,
        /// Why.
        message: String,
    },
}

/// What is said of a Pod.
#[derive(Debug)]
pub(super) struct Report {
    /// Identifies the Pod: one that takes the place of another may have its name.
    pub(super) uid: Box<str>,
    /// Namespace and name, as its runner has them.
    pub(super) name: NamespacedName,
    /// The Pod; `None` if it cannot be used as it is.
    pub(super) pod: Option<Arc<Pod>>,
    /// Whether the kubelet has not looked at it yet, since the Pod or the kubelet has begun.
    pub(super) is_new: bool,
    pub(super) problems: Vec<Problem>,
}

/// Reads a Pod.
///
/// # Errors
///
/// If it cannot be told which Pod it is.
pub(super) fn read(raw: Raw, place: &Arc<str>, interner: &mut Interner) -> Result<Report, Problem> {
    let unreadable = |error: &(dyn std::error::Error + 'static)| {
        let message = format!("a Pod cannot be decoded: {}", chain(error));
        Problem::of_file(place, Severity::Error, message)
    };
    let (document, fault) = match raw {
        Raw::Protobuf(bytes) => proto::decode(bytes).map_err(|error| unreadable(&error))?,
        Raw::Unread { uid, name, message } => {
            let object = Some(ObjectKey::Pod(name.clone()).to_string());
            let problem = Problem::of_file(place, Severity::Error, message);
            let problems = vec![Problem { object, ..problem }];
            return Ok(Report { uid, name, pod: None, is_new: false, problems });
        }
        Raw::Json(text) => {
            let document: Document =
                serde_json::from_str(text.get()).map_err(|error| unreadable(&error))?;
            (document, None)
        }
    };
    let decoded = decode_known(place, &document, ("v1", "Pod"), interner);
    let Decoded { objects, broken, mut problems, .. } = decoded;
    let metadata = part(&document.metadata);
    let uid = metadata.and_then(|metadata| known(&metadata.uid));
    let pod = objects.into_iter().find_map(|object| match object {
        Object::Pod(pod) => Some(pod),
        Object::Service(_)
        | Object::EndpointSlice(_)
        | Object::Node(_)
        | Object::ServiceCidr(_)
        | Object::InterfaceAddresses(_) => None,
    });
    let named = broken.into_iter().find_map(|key| match key {
        ObjectKey::Pod(name) => Some(name),
        ObjectKey::Service(_)
        | ObjectKey::EndpointSlice(_)
        | ObjectKey::Node(_)
        | ObjectKey::ServiceCidr(_)
        | ObjectKey::InterfaceAddresses => None,
    });
    let name = pod.as_ref().map(|pod| pod.key.clone()).or(named);
    let Some(name) = name else {
        let nameless = || Problem::of_file(place, Severity::Error, "a Pod has no name");
        return Err(problems.pop().unwrap_or_else(nameless));
    };
    let uid = uid.map_or_else(|| name.to_string().into(), Into::into);
    let pod = pod.filter(|_| fault.is_none());
    let is_new = pod.is_some() && !states_readiness(&document);
    let pod = pod.map(|pod| Arc::new(ours(&pod, &document, is_new)));
    if let Some((field, error)) = fault {
        let message = format!("{field}: cannot be decoded: {}", chain(&error));
        let object = Some(ObjectKey::Pod(name.clone()).to_string());
        problems.push(Problem { object, ..Problem::of_file(place, Severity::Error, message) });
    }
    Ok(Report { uid, name, pod, is_new, problems })
}

/// Returns the Pod with the name of its manifest, as a Pod of this node, whatever name the kubelet
/// has for the node.
fn ours(pod: &Pod, document: &Document, is_new: bool) -> Pod {
    let metadata = part(&document.metadata);
    let annotations = metadata.and_then(|metadata| part(&metadata.annotations));
    let name = annotations.and_then(|annotations| name_in_manifest(pod, annotations));
    let mut ours = Pod { node: None, ..pod.clone() };
    if let Some(name) = name {
        ours.key.name = name;
    }
    // A manifest without a status is meant to be used, but the kubelet has not looked yet.
    if is_new {
        ours.conditions = Conditions { ready: false, serving: false, ..ours.conditions };
    }
    ours
}

fn states_readiness(document: &Document) -> bool {
    let conditions = part(&document.status).map(|status| &status.conditions);
    let Some(Field::Is(conditions)) = conditions else { return false };
    let mut conditions = conditions.iter().filter_map(part);
    conditions.any(|condition| known(&condition.r#type) == Some("Ready"))
}

/// Returns the name that a static Pod has in its manifest.
fn name_in_manifest(pod: &Pod, annotations: &Annotations) -> Option<Name> {
    known(&annotations.config_source).filter(|source| matches!(*source, "file" | "http"))?;
    let node = pod.node.as_ref()?.as_str().to_lowercase();
    let name = pod.key.name.as_str().strip_suffix(&node)?.strip_suffix('-')?;
    (!name.is_empty()).then(|| Name::from(name))
}

fn part<T>(field: &Field<Box<T>>) -> Option<&T> {
    match field {
        Field::Is(part) => Some(part),
        Field::Absent | Field::Wrong(_) => None,
    }
}

fn known(field: &Field<Text>) -> Option<&str> {
    match field {
        Field::Is(text) => Some(&**text).filter(|text| !text.is_empty()),
        Field::Absent | Field::Wrong(_) => None,
    }
}
