//! What the compiler and the allocation of addresses say of all objects together.

use std::collections::BTreeMap;

use rulec_compiler::remark::{self, About, Remark};
use rulec_compiler::{Model, Settings};
use rulec_sources::Problem;

use super::finding::{Finding, Severity};
use super::objects::{Objects, name_of};
use super::spot::Spot;
use crate::cli::Rule;

pub(super) fn findings(objects: &Objects<'_>, model: &Model, settings: &Settings) -> Vec<Finding> {
    let remarks = remark::all(model, settings);
    remarks.iter().filter_map(|remark| of_remark(objects, remark)).collect()
}

fn of_remark(objects: &Objects<'_>, Remark { object, message, about }: &Remark) -> Option<Finding> {
    let spot = objects.spot(object)?;
    let (spot, severity, rule) = match about {
        About::Slice => (spot.clone(), Severity::Warning, Rule::UnusedEndpoints),
        // Who runs the Pod knows its address; its manifest seldom does.
        About::Address => (spot.keys("spec.selector"), Severity::Note, Rule::PodWithoutAddress),
        About::Mode => {
            (spot.keys("metadata.annotations"), Severity::Warning, Rule::FieldWithoutEffect)
        }
        // `target_ports` looks at workloads, too. A check is of no node.
        About::TargetPort | About::NodeName => return None,
    };
    Some(Finding::at(&spot, name_of(object), severity, rule, &**message))
}

/// Returns what keeps Services from getting what they need.
pub(super) fn of_problems(objects: &Objects<'_>, problems: &[Problem]) -> Vec<Finding> {
    // A problem names its object for people.
    let named = objects.all().map(|it| (it.object.key().to_string(), &it.spot));
    let spots: BTreeMap<String, &Spot<'_>> =
        if problems.is_empty() { BTreeMap::new() } else { named.collect() };
    problems.iter().map(|problem| of_problem(&spots, problem)).collect()
}

fn of_problem(spots: &BTreeMap<String, &Spot<'_>>, problem: &Problem) -> Finding {
    let Problem { path, severity, object, message, .. } = problem;
    let object = object.as_deref().unwrap_or_default();
    // The message of a problem starts with the path of the field if it is about one.
    let (field, message) = message.split_once(": ").unwrap_or(("", message));
    let spot = spots.get(object).map_or_else(|| Spot::root(path, None), |spot| spot.keys(field));
    Finding::at(&spot, object.to_owned(), (*severity).into(), Rule::OutsideRange, message)
}
