//! Objects that are defined more than once, whatever their kind.

use std::collections::BTreeMap;

use super::documents::Document;
use super::finding::{Finding, Severity};
use crate::cli::Rule;

pub(super) fn findings(documents: &[Document<'_>]) -> Vec<Finding> {
    let mut all: BTreeMap<_, Vec<&Document<'_>>> = BTreeMap::new();
    for document in documents {
        if let Some(name) = document.name() {
            let key = (document.group, document.kind, document.namespace(), name);
            all.entry(key).or_default().push(document);
        }
    }
    all.values().filter_map(|definitions| finding(definitions)).collect()
}

fn finding(definitions: &[&Document<'_>]) -> Option<Finding> {
    let (last, others) = definitions.split_last()?;
    if others.is_empty() {
        return None;
    }
    let places: Vec<_> = others.iter().map(|other| other.spot.to_string()).collect();
    let message = format!("also defined in {}; the last definition counts", places.join(", "));
    let (severity, rule) = (Severity::Error, Rule::DuplicateObject);
    Some(Finding::at(&last.spot, last.to_string(), severity, rule, message))
}
