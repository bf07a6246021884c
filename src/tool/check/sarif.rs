//! Findings as SARIF 2.1.0, which code scanning shows beside the lines of a change.

use std::io::{self, Write};
use std::path::Path;

use clap::ValueEnum;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use serde_json::{Value, json};

use super::Report;
use super::finding::Finding;
use crate::cli::Rule;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";

/// What may not be in the path of a URI (RFC 3986).
const UNFIT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Prints to standard output.
pub(super) fn print(report: &Report) -> io::Result<()> {
    let here = std::env::current_dir().ok();
    let rule =
        |rule: &Rule| json!({ "id": rule.id(), "shortDescription": { "text": rule.summary() } });
    let document = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "rulec",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": Rule::value_variants().iter().map(rule).collect::<Vec<_>>(),
            } },
            "columnKind": "unicodeCodePoints",
            "invocations": [{ "executionSuccessful": !report.has_unread }],
            "results": report
                .findings
                .iter()
                .map(|finding| result(finding, here.as_deref()))
                .collect::<Vec<_>>(),
        }],
    });
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &document)?;
    writeln!(out)?;
    out.flush()
}

fn result(finding: &Finding, here: Option<&Path>) -> Value {
    let text = match &finding.object {
        Some(object) => format!("{object}: {}", finding.said()),
        None => finding.said(),
    };
    // What is about a file as a whole is shown at its first line.
    let (line, column) = finding.place.map_or((1, None), |place| (place.line, place.column));
    json!({
        "ruleId": finding.rule.id(),
        "level": finding.severity,
        "message": { "text": text },
        "locations": [{ "physicalLocation": {
            "artifactLocation": { "uri": uri(&finding.path, here) },
            "region": { "startLine": line, "startColumn": column.unwrap_or(1) },
        } }],
    })
}

/// Returns a path as a URI reference, relative to the current directory if it is below that.
fn uri(path: &str, here: Option<&Path>) -> String {
    let below = here.and_then(|here| Path::new(path).strip_prefix(here).ok());
    let short = below.map_or_else(|| path.into(), Path::to_string_lossy);
    let encoded = utf8_percent_encode(&short, UNFIT).to_string();
    if encoded.starts_with('/') { format!("file://{encoded}") } else { encoded }
}
