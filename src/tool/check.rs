//! `rulec check`: what is wrong with manifests.
//!
//! ```text
//!  paths ─▶ Survey ─┬▶ objects ────────┬─▶ conflicts ─┐
//!           (files)  ├▶ documents       ├─▶ selectors ─┼─▶ findings ─▶ text | json | sarif
//!                    │    └▶ workloads ─┴─▶ names ...  │
//!                    └▶ flaws ─────────────────────────┘
//! ```
//!
//! - `read` takes what reading the files has found. `objects` are those that are served, with their
//!   places, and `documents` all that there are, also of other kinds; `duplicates` compares these.
//! - `names` and `types` are what the API's validation knows of one object, and the decoder does not.
//! - `selectors` and `target_ports` look for `workloads`: the Pods, and the templates of whatever
//!   makes Pods.
//! - `conflicts` and `remarks` take what the compiler says of all objects together.

mod conflicts;
mod documents;
mod duplicates;
mod finding;
mod json;
mod names;
mod objects;
mod read;
mod remarks;
mod sarif;
mod selectors;
mod spot;
mod target_ports;
mod text;
mod types;
mod workloads;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use rulec_compiler::name::NodeName;
use rulec_compiler::settings::{IpvsSettings, ProxyMode};
use rulec_compiler::{Change, Model, Origin, Settings};
use rulec_sources::{Completion, Overlap, Survey};

use crate::cli::{self, CheckArgs, CheckOutput, RangeArgs};
use crate::config;
use documents::Document;
use finding::{Finding, Severity};
use objects::Objects;
use workloads::Workloads;

/// What a check has found.
struct Report {
    /// The number of files that were read.
    files: usize,
    /// Whether something could not be read.
    has_unread: bool,
    /// In order of place.
    findings: BTreeSet<Finding>,
}

/// Checks and prints. The exit status says whether there is anything to mend, or whether something
/// could not be read.
///
/// # Errors
///
/// If the options are wrong, or the output cannot be written.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let report = Report::of(args)?;
    let printed = match args.output {
        CheckOutput::Text => text::print(&report),
        CheckOutput::Json => json::print(&report),
        CheckOutput::Sarif => sarif::print(&report),
    };
    match printed {
        // The reader has closed the pipe.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
        other => other.context("writing to standard output")?,
    }
    Ok(if report.has_unread {
        ExitCode::from(2)
    } else if report.findings.iter().all(|finding| finding.severity == Severity::Note) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    })
}

impl Report {
    fn of(args: &CheckArgs) -> anyhow::Result<Self> {
        let is_url = |path: &&PathBuf| {
            let path = path.to_string_lossy();
            path.starts_with("http://") || path.starts_with("https://")
        };
        if let Some(url) = args.paths.iter().find(is_url) {
            let advice = "pipe what it answers to `rulec check -`";
            anyhow::bail!("{}: only rulec run fetches manifests: {advice}", url.display());
        }
        if let Some(overlap) = Overlap::find(&args.paths) {
            anyhow::bail!("{overlap}");
        }
        let ranges = config::ranges(&ranges(&args.ranges))?;
        let survey = Survey::of(&args.paths);
        let objects = Objects::of(&survey);
        let documents = Document::all(&survey);
        let workloads = Workloads::of(&documents);

        let (given, not_given) = Completion::new(ranges, None).complete(objects.sourced());
        let mut model = Model::default();
        model.apply(Origin::Manifests, Change::everything(given));
        let settings = Arc::new(settings(args.proxy_mode));

        let mut findings = read::findings(&survey);
        findings.extend(duplicates::findings(&documents));
        findings.extend(remarks::of_problems(&objects, &not_given));
        findings.extend(names::findings(&objects));
        findings.extend(types::findings(&objects));
        findings.extend(conflicts::findings(&objects, &model, &settings));
        findings.extend(remarks::findings(&objects, &model, &settings));
        findings.extend(target_ports::findings(&objects, &workloads));
        // What a Service selects may be in what could not be read.
        let is_whole = survey.manifests.iter().all(|manifest| manifest.is_whole);
        if is_whole && survey.unread.is_empty() {
            findings.extend(selectors::findings(&objects, &model, &workloads));
        }
        findings.retain(|finding| !args.ignore.contains(&finding.rule));
        Ok(Self {
            files: survey.manifests.len(),
            has_unread: !survey.unread.is_empty(),
            findings: findings.into_iter().collect(),
        })
    }

    /// Counts the findings of a severity.
    fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// Returns what Services are given. Unless it is said, nothing is assumed about the families that a
/// cluster has.
fn ranges(args: &RangeArgs) -> RangeArgs {
    const BOTH: [&str; 2] = ["10.96.0.0/16", "fd00:10:96::/112"];
    let RangeArgs { service_cidr, service_node_port_range } = args;
    let service_cidr = match service_cidr.as_slice() {
        [] => BOTH.map(str::to_owned).to_vec(),
        given => given.to_vec(),
    };
    RangeArgs { service_cidr, service_node_port_range: service_node_port_range.clone() }
}

/// Returns the settings of a node, of which only the mode matters.
fn settings(mode: Option<cli::ProxyMode>) -> Settings {
    let proxy_mode = match mode {
        Some(cli::ProxyMode::Ipvs) => ProxyMode::Ipvs(IpvsSettings::default()),
        Some(cli::ProxyMode::Nftables | cli::ProxyMode::Iptables) | None => ProxyMode::Nftables,
    };
    Settings { proxy_mode, ..Settings::new(NodeName::from("")) }
}
