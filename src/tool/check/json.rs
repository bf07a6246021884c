//! Findings as JSON. docs/check-json.md documents the format.

use std::io::{self, Write};

use serde::Serialize;

use super::Report;
use super::finding::Severity;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CheckDocument<'a> {
    api_version: &'static str,
    kind: &'static str,
    summary: Summary,
    findings: Vec<FindingDocument<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    files: usize,
    errors: usize,
    warnings: usize,
    notes: usize,
    complete: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FindingDocument<'a> {
    rule: String,
    severity: Severity,
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    object: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    field: &'a str,
    message: &'a str,
}

/// Prints to standard output.
pub(super) fn print(report: &Report) -> io::Result<()> {
    let document = CheckDocument {
        api_version: "rulec.io/v1alpha1",
        kind: "Check",
        summary: Summary {
            files: report.files,
            errors: report.count(Severity::Error),
            warnings: report.count(Severity::Warning),
            notes: report.count(Severity::Note),
            complete: !report.has_unread,
        },
        findings: report
            .findings
            .iter()
            .map(|finding| FindingDocument {
                rule: finding.rule.id(),
                severity: finding.severity,
                file: &finding.path,
                line: finding.place.map(|place| place.line),
                column: finding.place.and_then(|place| place.column),
                object: finding.object.as_deref(),
                field: &finding.field,
                message: &finding.message,
            })
            .collect(),
    };
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    out.flush()
}
