//! What is wrong with the manifests of a side, with the places as the command line names them.

use std::path::Path;

use rulec_compiler::model::Entry;
use rulec_compiler::resolve;
use rulec_compiler::{Model, Settings};
use rulec_sources::{Problem, Severity};

/// Returns a problem with a path that leads there from the working directory.
pub(super) fn in_full(problem: Problem, paths: &[&str]) -> Problem {
    let [root] = paths else { return problem };
    let (root, place) = (Path::new(root), Path::new(&*problem.path));
    let path = if place == root || place.is_absolute() {
        return problem;
    } else if root.is_dir() {
        root.join(place)
    } else {
        root.to_owned()
    };
    Problem { path: path.to_string_lossy().into(), ..problem }
}

/// Returns what was wrong when a snapshot was made.
pub(super) fn of_snapshot(incomplete: &[Problem], path: &str) -> Vec<Problem> {
    let missing = |problem: &Problem| {
        let place = Problem { object: None, ..problem.clone() };
        Problem {
            path: path.into(),
            line: None,
            column: None,
            message: format!("it was saved incomplete: {place}"),
            ..problem.clone()
        }
    };
    incomplete.iter().map(missing).collect()
}

/// Returns the addresses of Services that IPVS cannot serve, since they belong to other nodes.
pub(super) fn not_bound<'a>(
    model: &'a Model,
    settings: &'a Settings,
) -> impl Iterator<Item = Problem> + 'a {
    model.services().flat_map(move |Entry { object: service, provenance, .. }| {
        let elsewhere = resolve::elsewhere(model, settings, service);
        elsewhere.into_iter().map(move |(address, node)| Problem {
            path: provenance.0.clone(),
            line: None,
            column: None,
            severity: Severity::Warning,
            object: Some(format!("Service {}", service.key)),
            message: format!(
                "{address}: not served at this address in IPVS mode: it belongs to Node {node}"
            ),
            skips: false,
        })
    })
}
