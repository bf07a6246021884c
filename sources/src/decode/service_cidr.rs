//! ServiceCIDRs.

use std::sync::Arc;

use rulec_compiler::object::{Object, ObjectKey, ServiceCidr};

use super::Sink;
use super::at::At;
use super::check::Check;
use super::document::{Document, Metadata, Spec};
use super::identity;
use super::outcome::{Reading, finish};

pub(super) fn decode(document: &Document, at: &At<'_>, sink: &mut Sink<'_>) -> Reading {
    let check = &mut Check::new(sink);
    let (no_metadata, no_spec) = <(Metadata, Spec)>::default();
    let at_metadata = at.key("metadata");
    let metadata = check.get(&document.metadata, &at_metadata).map_or(&no_metadata, |m| m);
    let Some(name) = identity::cluster_wide(check, metadata, &at_metadata) else {
        return Reading::Nameless;
    };
    check.name(&ObjectKey::ServiceCidr(name.clone()));
    let at_spec = at.key("spec");
    let spec = check.get(&document.spec, &at_spec).map_or(&no_spec, |spec| spec);
    let cidrs = check.ranges(&spec.cidrs, &at_spec.key("cidrs"));
    let cidr = ServiceCidr { name, cidrs };
    finish(check, Object::ServiceCidr(Arc::new(cidr)))
}
