//! Decodes the bytes of a file into objects, with the line of each problem.
//!
//! ```text
//!  bytes ─▶ yaml | json ─▶ Document ─▶ decode ─▶ Object
//!                                        └▶ findings ─▶ locate ─▶ problems
//! ```

mod json;
mod locate;
mod yaml;

use std::sync::Arc;

use rulec_compiler::plural::counted;

use crate::decode::field::Field;
use crate::decode::intern::Interner;
use crate::decode::{Decoded, MAX_PROBLEMS, Sink, decode_document};
use crate::problem::{Problem, Severity};

/// The syntax of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Yaml,
    Json,
}

/// Decodes the content of a file.
pub(crate) fn decode(
    path: &Arc<str>,
    bytes: &[u8],
    format: Format,
    interner: &mut Interner,
) -> Decoded {
    let text = match text_of(bytes) {
        Ok(text) => text,
        Err((line, message)) => {
            let mut problem = Problem::of_file(path, Severity::Error, message);
            problem.line = Some(line);
            return Decoded { problems: vec![problem], unreadable: true, ..Decoded::default() };
        }
    };
    let documents = match format {
        Format::Yaml => yaml::documents(text),
        Format::Json => json::documents(text),
    };
    let mut decoded = Decoded::default();
    let mut sink = Sink::new(interner, false);
    for document in documents {
        match document {
            Ok(document) => {
                let told = sink.findings.len();
                // A lone word or a list is the rest of a file that was cut off.
                decoded.unreadable |= matches!(document.field, Field::Wrong(_));
                decode_document(document.field, &mut sink);
                let places = sink.findings[told..].iter().map(|finding| &*finding.steps);
                let places = locate::locate(document.text, document.line, places);
                for (finding, place) in sink.findings[told..].iter().zip(places) {
                    decoded.problems.push(Problem {
                        path: path.clone(),
                        line: Some(place.line),
                        column: place.column,
                        severity: finding.severity,
                        object: finding.object.as_deref().map(Into::into),
                        message: finding.message.clone(),
                    });
                }
            }
            Err(fault) => {
                decoded.unreadable = true;
                if decoded.problems.len() < MAX_PROBLEMS {
                    decoded.problems.push(Problem {
                        path: path.clone(),
                        line: fault.line,
                        column: fault.column,
                        severity: Severity::Error,
                        object: None,
                        message: fault.message,
                    });
                }
            }
        }
    }
    if sink.untold > 0 {
        let message = counted(sink.untold, "more problem");
        decoded.problems.push(Problem::of_file(path, Severity::Warning, message));
    }
    decoded.blank = !sink.kinds;
    decoded.objects = sink.objects;
    decoded.broken = sink.broken;
    decoded.nameless = sink.nameless;
    decoded
}

/// Returns the text of a file without its byte order mark, or the line and the reason why it is not
/// a text.
fn text_of(bytes: &[u8]) -> Result<&str, (u64, &'static str)> {
    let line_at = |offset: usize| yaml::line_of(bytes.get(..offset).unwrap_or(bytes));
    let text = std::str::from_utf8(bytes)
        .map_err(|error| (line_at(error.valid_up_to()), "the file is not valid UTF-8"))?;
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        return Err((line_at(offset), "the file contains a NUL byte: it is not a text"));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}
