//! Names, labels and selectors that the API does not accept.

use rulec_compiler::object::{Object, ObjectKey};

use super::finding::{Finding, Severity};
use super::objects::{Definition, Objects, name_of};
use super::spot::Spot;
use crate::cli::Rule;

/// The API's limits, in bytes.
const LONGEST_LABEL: usize = 63;
const LONGEST_SUBDOMAIN: usize = 253;

pub(super) fn findings(objects: &Objects<'_>) -> Vec<Finding> {
    objects.all().flat_map(of_object).collect()
}

fn of_object(Definition { object, spot }: &Definition<'_>) -> Vec<Finding> {
    let key = object.key();
    let metadata = spot.key("metadata");
    let selector = matches!(object, Object::Service(_)).then(|| spot.keys("spec.selector"));
    let labels = std::iter::once(metadata.key("labels")).chain(selector);
    let faults = labels.flat_map(|labels| of_labels(&labels)).chain(of_names(object, &metadata));
    let finding = |(spot, message): (Spot<'_>, String)| {
        Finding::at(&spot, name_of(&key), Severity::Error, Rule::InvalidName, message)
    };
    faults.map(finding).collect()
}

/// Returns what is wrong with the names of an object.
fn of_names<'a>(object: &Object, metadata: &Spot<'a>) -> Vec<(Spot<'a>, String)> {
    let (name, namespace) = (metadata.key("name"), metadata.key("namespace"));
    let text = name.text().unwrap_or_default();
    // Names of Services are also names of hosts.
    let (is_valid, rule) = match object.key() {
        ObjectKey::Service(_) => (is_label(text), "a DNS label"),
        ObjectKey::EndpointSlice(_)
        | ObjectKey::Pod(_)
        | ObjectKey::Node(_)
        | ObjectKey::ServiceCidr(_)
        | ObjectKey::InterfaceAddresses => (is_subdomain(text), "a DNS name"),
    };
    let mut faults = Vec::new();
    if name.is_there() && !is_valid {
        faults.push((name, format!("{text:?} is not {rule}, as the API demands")));
    }
    if let Some(text) = namespace.text().filter(|text| !text.is_empty() && !is_label(text)) {
        faults.push((namespace, format!("{text:?} is not a DNS label, as the API demands")));
    }
    faults
}

/// Returns what is wrong with labels or a selector.
fn of_labels<'a>(labels: &Spot<'a>) -> Vec<(Spot<'a>, String)> {
    let mut faults = Vec::new();
    for (key, value) in labels.entries() {
        let (prefix, name) = key.split_once('/').map_or((None, key), |(a, b)| (Some(a), b));
        let is_key = is_word(name) && prefix.is_none_or(is_subdomain);
        let text = value.text().unwrap_or_default();
        if !is_key {
            faults.push((value, format!("{key:?} is not the key of a label")));
        } else if !text.is_empty() && !is_word(text) {
            faults.push((value, format!("{text:?} is not the value of a label")));
        }
    }
    faults
}

/// Returns whether a text is a DNS label (RFC 1123).
fn is_label(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    is_bounded(text, fits, |byte| fits(byte) || byte == b'-') && text.len() <= LONGEST_LABEL
}

/// Returns whether a text is a DNS subdomain (RFC 1123).
pub(super) fn is_subdomain(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_part = |part: &str| is_bounded(part, fits, |byte| fits(byte) || byte == b'-');
    text.len() <= LONGEST_SUBDOMAIN && text.split('.').all(is_part)
}

/// Returns whether a text is the name in a label's key, or its value.
fn is_word(text: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric();
    let inside = |byte| fits(byte) || matches!(byte, b'-' | b'_' | b'.');
    is_bounded(text, fits, inside) && text.len() <= LONGEST_LABEL
}

/// Returns whether a text is not empty, begins and ends with bytes of one class, and consists of
/// another.
fn is_bounded(text: &str, ends: impl Fn(u8) -> bool, inside: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    let [first, .., last] = bytes else { return bytes.first().is_some_and(|byte| ends(*byte)) };
    ends(*first) && ends(*last) && bytes.iter().all(|byte| inside(*byte))
}
