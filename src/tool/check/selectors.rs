//! Selectors that match nothing, and what was probably meant.

use std::collections::BTreeMap;

use rulec_compiler::Model;
use rulec_compiler::object::{Service, ServiceType};
use rulec_sources::nearest;

use super::finding::{Finding, Severity};
use super::objects::Objects;
use super::spot::Spot;
use super::workloads::{Workload, Workloads};
use crate::cli::Rule;

pub(super) fn findings(
    objects: &Objects<'_>,
    model: &Model,
    workloads: &Workloads<'_>,
) -> Vec<Finding> {
    let selects = |service: &Service| {
        // Slices that are written by hand stand for whatever the selector would match.
        let has_slices = model.slices_of(&service.key).any(|slice| !slice.object.is_mirror());
        let is_used = service.kind != ServiceType::ExternalName && !has_slices;
        is_used && !service.selector.is_empty()
    };
    let services = objects.services().filter(|(service, _)| selects(service));
    let without = services.filter(|(service, _)| workloads.selected_by(service).is_empty());
    without.map(|(service, spot)| finding(service, spot, workloads)).collect()
}

fn finding(service: &Service, spot: &Spot<'_>, workloads: &Workloads<'_>) -> Finding {
    let selector = spot.keys("spec.selector");
    let what = "selects no Pod and no workload of these manifests";
    let (spot, message) = if let Some(Slip { key, meant, workload }) = slip(service, workloads) {
        let message = format!("{what}; did you mean {meant}, as in {workload}?");
        (selector.key(key), message)
    } else if let Some(other) = workloads.iter().find(|it| it.misses(service).next().is_none()) {
        (selector, format!("{what}; {other} has these labels, but is in another namespace"))
    } else {
        (selector, what.to_owned())
    };
    let object = format!("Service {}", service.key);
    Finding::at(&spot, object, Severity::Warning, Rule::SelectorMatchesNothing, message)
}

/// An entry of a selector that is probably misspelt.
struct Slip<'a> {
    key: &'a str,
    /// The label that was probably meant.
    meant: String,
    /// A workload that has it.
    workload: &'a Workload<'a>,
}

/// Looks among the workloads that lack a single entry of a selector for the closest label.
fn slip<'a>(service: &'a Service, workloads: &'a Workloads<'_>) -> Option<Slip<'a>> {
    let mut close: BTreeMap<(&str, &str), Vec<&Workload<'_>>> = BTreeMap::new();
    for workload in workloads.iter().filter(|it| it.is_beside(service)) {
        let mut misses = workload.misses(service);
        if let (Some(miss), None) = (misses.next(), misses.next()) {
            close.entry(miss).or_default().push(workload);
        }
    }
    close.into_iter().find_map(|((key, value), close)| {
        let labels = || close.iter().flat_map(|it| it.labels.iter().map(|label| (label, *it)));
        let of_key = labels().filter(|((other, _), _)| **other == key);
        let values: Vec<&str> = of_key.map(|((_, value), _)| *value).collect();
        let of_value = labels().filter(|((_, other), _)| **other == value);
        let keys: Vec<&str> = of_value.map(|((key, _), _)| *key).collect();
        let meant = nearest(value, &values).map(|value| (key, value));
        let meant = meant.or_else(|| Some((nearest(key, &keys)?, value)))?;
        let (_, workload) = labels().find(|((key, value), _)| (**key, **value) == meant)?;
        Some(Slip { key, meant: format!("{}: {}", meant.0, meant.1), workload })
    })
}
