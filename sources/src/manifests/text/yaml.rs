//! YAML texts of several documents, read as kubectl does: where YAML 1.1 and 1.2 differ, 1.1
//! applies.
//!
//! A text is split into documents before any is parsed, so that each has its own limits and a known
//! first line. YAML makes that safe: a line that starts with `---` or `...` ends a document even in
//! the middle of a quoted or block scalar.

use serde_saphyr::{
    Error, MessageFormatter, Options, UserMessageFormatter, alias_limits, budget, options,
};

use super::plain;
use crate::decode::document::Document;
use crate::decode::field::Field;

/// The byte order mark.
pub(crate) const MARK: char = '\u{feff}';

/// A document of a file.
#[derive(Debug)]
pub(crate) struct Parsed<'a> {
    /// The text it was read from.
    pub(crate) text: &'a str,
    /// The line of the file in which that text starts, from 1.
    pub(crate) line: u64,
    pub(crate) field: Field<Box<Document>>,
}

/// Why a text cannot be parsed.
#[derive(Debug)]
pub(crate) struct YamlError {
    pub(crate) line: Option<u64>,
    pub(crate) column: Option<u64>,
    pub(crate) message: String,
}

/// The documents of a file, parsed one by one as they are asked for.
pub(crate) type Documents<'a> = Box<dyn Iterator<Item = Result<Parsed<'a>, YamlError>> + 'a>;

/// Returns the documents of a YAML file.
pub(crate) fn documents(text: &str) -> Documents<'_> {
    let written = split(text).filter(|(_, text)| !text.lines().all(is_idle));
    Box::new(written.map(|(line, text)| parse(text, line)))
}

fn parse(text: &str, line: u64) -> Result<Parsed<'_>, YamlError> {
    let (text, line) = behind_mark(text, line);
    if let Some(field) = plain::read(text) {
        return Ok(Parsed { text, line, field });
    }
    match serde_saphyr::from_str_with_options(text, limits()) {
        Ok(field) => Ok(Parsed { text, line, field }),
        Err(error) => Err(fault(&error, line)),
    }
}

/// Skips the byte order mark that a document begins with, as when files from Windows are
/// concatenated. A marker or comments may stand before it.
fn behind_mark(text: &str, line: u64) -> (&str, u64) {
    let before = text
        .split_inclusive('\n')
        .take_while(|line| (is_idle(line) || is_marker(line, "---")) && !line.starts_with(MARK));
    let (lines, bytes) =
        before.fold((0, 0), |(lines, bytes), line| (lines + 1, bytes + line.len()));
    let rest = text.get(bytes..).and_then(|rest| rest.strip_prefix(MARK));
    rest.map_or((text, line), |rest| (rest, line + lines))
}

/// Returns the limits of a document. The size of files is limited already, but nesting costs stack
/// and aliases multiply. Both limits are far beyond what a manifest needs.
pub(crate) fn limits() -> Options {
    options! {
        budget: budget! {
            max_depth: 64,
            flow_nesting_limit: 64,
            max_events: 8_000_000,
            max_nodes: 4_000_000,
            max_aliases: 20_000,
            max_anchors: 20_000,
            // The replay limits below bound the cost; one anchor used often is legitimate.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: alias_limits! {
            max_total_replayed_events: 100_000,
            max_replay_stack_depth: 16,
        },
        // `yes` and `off` are flags, and `0120` is 80.
        strict_booleans: false,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

fn fault(error: &Error, first_line: u64) -> YamlError {
    let location = error.location();
    YamlError {
        line: Some(first_line + location.map_or(0, |location| location.line().saturating_sub(1))),
        column: location.map(|location| location.column()),
        message: format!("not YAML: {}", UserMessageFormatter.format_message(error)),
    }
}

/// Cuts a text before each `---` and after each `...`, and returns the pieces with the line in
/// which each starts.
pub(crate) fn split(text: &str) -> impl Iterator<Item = (u64, &str)> {
    let mut rest = text;
    let mut line = 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let first = line;
        let mut end = 0;
        // Directives stand before the marker of the document they are for.
        let mut prologue = true;
        for text in rest.split_inclusive('\n') {
            if is_marker(text, "---") && !prologue {
                break;
            }
            end += text.len();
            line += 1;
            if is_marker(text, "...") {
                break;
            }
            let text = text.strip_prefix(MARK).unwrap_or(text);
            prologue &= text.starts_with(['%', '#']) || text.trim().is_empty();
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some((first, piece))
    })
}

/// Returns whether a line has no content of a document.
pub(crate) fn is_idle(line: &str) -> bool {
    let line = line.strip_prefix(MARK).unwrap_or(line).trim();
    line.is_empty() || line.starts_with('#') || line == "---" || line == "..."
}

fn is_marker(line: &str, marker: &str) -> bool {
    let line = line.strip_prefix(MARK).unwrap_or(line);
    line.strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Returns the number of the line that follows these bytes, from 1.
pub(crate) fn line_of(before: &[u8]) -> u64 {
    1 + before.iter().filter(|byte| **byte == b'\n').count() as u64
}
