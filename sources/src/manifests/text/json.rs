//! JSON texts: one document, or several in a row as `kubectl` prints them, optionally with a line
//! `---` between them.

use super::yaml::{Documents, MARK, Parsed, YamlError, is_idle, line_of, split};
use crate::decode::document::Document;
use crate::decode::field::Field;

/// Returns the documents of a JSON file. A string in JSON cannot contain a line break, so a line
/// `---` is always a marker.
pub(crate) fn documents(text: &str) -> Documents<'_> {
    Box::new(split(text).flat_map(|(line, piece)| stream(piece, line)))
}

/// Returns the documents between two markers. Parsing cannot go on after a fault, so a fault comes
/// last.
fn stream(piece: &str, first: u64) -> impl Iterator<Item = Result<Parsed<'_>, YamlError>> {
    let (text, mut line) = content(piece, first);
    let first = line;
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Field<Box<Document>>>();
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let before = stream.byte_offset();
        let next = stream.next()?;
        let piece = text.get(before..stream.byte_offset()).unwrap_or_default();
        let start = line;
        line += line_of(piece.as_bytes()) - 1;
        Some(match next {
            Ok(field) => Ok(Parsed { text: piece, line: start, field }),
            Err(error) => {
                failed = true;
                Err(fault(&error, first))
            }
        })
    })
}

/// Returns the text between the markers, and the line in which it begins.
fn content(piece: &str, first: u64) -> (&str, u64) {
    let is_marker = |line: &&str| is_idle(line) && !line.trim().is_empty();
    let before = piece.split_inclusive('\n').take_while(is_marker);
    let (lines, bytes) =
        before.fold((0, 0), |(lines, bytes), line| (lines + 1, bytes + line.len()));
    let rest = piece.get(bytes..).unwrap_or_default();
    let rest = rest.strip_prefix(MARK).unwrap_or(rest);
    let end = rest.trim_end();
    (end.strip_suffix("\n...").unwrap_or(rest), first + lines)
}

fn fault(error: &serde_json::Error, first: u64) -> YamlError {
    let text = error.to_string();
    // The position is printed in front of the message, in the same way for JSON and YAML, and only
    // once.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let message = text.strip_suffix(&place).unwrap_or(&text);
    YamlError {
        line: Some(first + (error.line() as u64).saturating_sub(1)),
        column: Some(error.column() as u64),
        message: format!("not JSON: {message}"),
    }
}
