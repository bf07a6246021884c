//! The kind of a document, and whether it is one that we read.

use tracing::debug;

use super::at::At;
use super::check::Check;
use super::document::{Document, Item, List};
use super::field::Field;
use super::near::nearest;
use super::outcome::Reading;
use super::{Sink, endpoints, node, pod, service, service_cidr, slice};
use crate::problem::Severity;

const CORE: &str = "v1";
const DISCOVERY_GROUP: &str = "discovery.k8s.io/";
const DISCOVERY: &str = "discovery.k8s.io/v1";
const KUSTOMIZE_GROUP: &str = "kustomize.config.k8s.io/";
const OUR_GROUP: &str = "rulec.io/";
const NETWORKING: &str = "networking.k8s.io/v1";

/// The kind of a document.
#[derive(Clone, Copy)]
enum DocumentKind {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
    ServiceCidr,
    /// A list, with the version and kind that its items need not state again.
    List(Option<(&'static str, &'static str)>),
}

/// Decodes a document into the sink.
pub(crate) fn decode_document(field: Field<Box<Document>>, sink: &mut Sink<'_>) {
    match field {
        Field::Absent => {}
        Field::Wrong(found) => {
            let message = format_args!("expected an object with a kind, found {found}");
            Check::new(sink).odd_kind(Severity::Error, &At::ROOT, message);
        }
        Field::Is(document) => decode_object(&document, &At::ROOT, None, sink),
    }
}

/// Decodes an object into the sink. With `stated`, the object need not state version and kind
/// again.
pub(super) fn decode_object(
    document: &Document,
    at: &At<'_>,
    stated: Option<(&'static str, &'static str)>,
    sink: &mut Sink<'_>,
) {
    let mut check = Check::new(sink);
    let version = check.text(&document.api_version, &at.key("apiVersion"));
    let kind = check.text(&document.kind, &at.key("kind"));
    if check.failed() {
        sink.nameless = true;
        return;
    }
    let (version, kind) = match (kind, stated) {
        (None, Some(stated)) => (Some(version.unwrap_or(stated.0)), stated.1),
        (None, None) if document.is_recipe() => {
            let message = "a kustomization is not applied: give the output of kustomize build";
            check.odd_kind(Severity::Error, at, message);
            return;
        }
        (None, None) => {
            check.odd_kind(Severity::Warning, at, "the document has no kind, ignored");
            // It may have been an object of ours; among manifests, it is probably none.
            sink.lacking = true;
            return;
        }
        (Some(kind), _) => (version.or(stated.map(|stated| stated.0)), kind),
    };
    let kind = match kind_of(version, kind) {
        Ok(kind) => kind,
        Err(Refusal::Recipe) => {
            // It is of no kind that is read, so that it breaks none.
            let message =
                format_args!("a {kind} is not applied: give the output of kustomize build");
            check.error(&at.key("kind"), message);
            sink.kinds = true;
            return;
        }
        Err(Refusal::Snapshot) => {
            let message = "a snapshot is not read among manifests: name it alone";
            check.odd_kind(Severity::Error, &at.key("kind"), message);
            sink.kinds = true;
            return;
        }
        Err(Refusal::Foreign) => {
            debug!(kind, version, "skipped: not a kind that is used");
            sink.kinds = true;
            return;
        }
        Err(Refusal::NoVersion) => {
            let at = at.key("apiVersion");
            check.odd_kind(Severity::Error, &at, format_args!("missing for kind {kind}"));
            sink.nameless = true;
            return;
        }
        Err(Refusal::NotOurs(wanted)) => {
            let version = version.unwrap_or_default();
            let message = format_args!("{kind} is not in {version:?}, but in {wanted}");
            check.odd_kind(Severity::Error, &at.key("apiVersion"), message);
            sink.nameless = true;
            sink.kinds = true;
            return;
        }
        Err(Refusal::DocumentKind(meant)) => {
            let message = format_args!("unknown kind {kind:?}, did you mean {meant}?");
            check.odd_kind(Severity::Error, &at.key("kind"), message);
            sink.nameless = true;
            sink.kinds = true;
            return;
        }
        Err(Refusal::Version) => {
            let version = version.unwrap_or_default();
            let message = format_args!("{version} of {kind} is not read, only {DISCOVERY}");
            check.skip_version(&at.key("apiVersion"), message);
            sink.kinds = true;
            return;
        }
    };
    (sink.kinds, sink.ours) = (true, true);
    let outcome = match kind {
        DocumentKind::Service => service::decode(document, at, sink),
        DocumentKind::EndpointSlice => slice::decode(document, at, sink),
        DocumentKind::Endpoints => endpoints::decode(document, at, sink),
        DocumentKind::Pod => pod::decode(document, at, sink),
        DocumentKind::Node => node::decode(document, at, sink),
        DocumentKind::ServiceCidr => service_cidr::decode(document, at, sink),
        DocumentKind::List(stated) => return decode_items(&document.items, at, stated, sink),
    };
    match outcome {
        Reading::Object(object) => sink.add(object, at),
        Reading::Objects(objects) => objects.into_iter().for_each(|one| sink.add(one, at)),
        Reading::Broken(key) => {
            sink.broken.insert(key);
        }
        Reading::Nameless => sink.nameless = true,
        Reading::Nothing => {}
    }
}

fn decode_items(
    items: &List<Item>,
    at: &At<'_>,
    stated: Option<(&'static str, &'static str)>,
    sink: &mut Sink<'_>,
) {
    let at = at.key("items");
    for (index, item) in Check::new(sink).list(items, &at).iter().enumerate() {
        let at = at.item(index);
        if let Some(item) = Check::new(sink).get(item, &at) {
            decode_object(&item.0, &at, stated, sink);
        }
    }
}

enum Refusal {
    /// A kind that we do not read: a directory may hold whole applications.
    Foreign,
    /// It says how to make manifests of other files.
    Recipe,
    /// It holds objects in a form of our own.
    Snapshot,
    NoVersion,
    Version,
    /// This version does not have the kind, and no other is read; the field is the version that has
    /// it.
    NotOurs(&'static str),
    /// There is no such kind; the field is the kind that was probably meant.
    DocumentKind(&'static str),
}

/// The kinds that are read.
const KINDS: [&str; 12] = [
    "Service",
    "Pod",
    "Node",
    "EndpointSlice",
    "Endpoints",
    "ServiceCIDR",
    "List",
    "ServiceList",
    "PodList",
    "NodeList",
    "EndpointSliceList",
    "EndpointsList",
];

/// Returns whether a version belongs to a group outside of Kubernetes. Such groups have a domain of
/// their own.
fn is_others(version: &str) -> bool {
    let Some((group, _)) = version.split_once('/') else { return false };
    group.contains('.') && !group.ends_with(".k8s.io")
}

fn kind_of(version: Option<&str>, kind: &str) -> Result<DocumentKind, Refusal> {
    let (wanted, kind) = match kind {
        "Service" => (CORE, DocumentKind::Service),
        "Pod" => (CORE, DocumentKind::Pod),
        "Node" => (CORE, DocumentKind::Node),
        "EndpointSlice" => (DISCOVERY, DocumentKind::EndpointSlice),
        "Endpoints" => (CORE, DocumentKind::Endpoints),
        "ServiceCIDR" => (NETWORKING, DocumentKind::ServiceCidr),
        "List" => (CORE, DocumentKind::List(None)),
        "ServiceList" => (CORE, DocumentKind::List(Some((CORE, "Service")))),
        "EndpointsList" => (CORE, DocumentKind::List(Some((CORE, "Endpoints")))),
        "PodList" => (CORE, DocumentKind::List(Some((CORE, "Pod")))),
        "NodeList" => (CORE, DocumentKind::List(Some((CORE, "Node")))),
        "EndpointSliceList" => (DISCOVERY, DocumentKind::List(Some((DISCOVERY, "EndpointSlice")))),
        "ServiceCIDRList" => (NETWORKING, DocumentKind::List(Some((NETWORKING, "ServiceCIDR")))),
        "Kustomization" | "Component"
            if version.is_some_and(|it| it.starts_with(KUSTOMIZE_GROUP)) =>
        {
            return Err(Refusal::Recipe);
        }
        "Snapshot" if version.is_some_and(|it| it.starts_with(OUR_GROUP)) => {
            return Err(Refusal::Snapshot);
        }
        _ => {
            // A group outside of Kubernetes may have a kind of any name.
            let is_ours = version.is_none_or(|version| !is_others(version));
            let meant = nearest(kind, &KINDS).filter(|_| is_ours);
            return Err(meant.map_or(Refusal::Foreign, Refusal::DocumentKind));
        }
    };
    match version {
        None => Err(Refusal::NoVersion),
        Some(version) if version == wanted => Ok(kind),
        Some(version) if wanted == DISCOVERY && version.starts_with(DISCOVERY_GROUP) => {
            Err(Refusal::Version)
        }
        // Such groups have kinds of these names too, such as the Service of Knative.
        Some(version) if is_others(version) => Err(Refusal::Foreign),
        Some(_) => Err(Refusal::NotOurs(wanted)),
    }
}
