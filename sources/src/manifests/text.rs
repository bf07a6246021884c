//! Decodes the bytes of a file into objects, with the line of each problem.
//!
//! ```text
//!  bytes ─▶ yaml | json ─▶ Document ─▶ decode ─▶ Object
//!                                        └▶ findings ─▶ locate ─▶ problems
//! ```

mod json;
mod locate;
mod plain;
pub(crate) mod tree;
mod yaml;

use std::sync::Arc;

use rulec_compiler::plural::counted;

use crate::decode::at::PathStep;
use crate::decode::field::Field;
use crate::decode::intern::Interner;
use crate::decode::{Decoded, MAX_PROBLEMS, Sink, decode_document};
use crate::flaw::{Flaw, Place};
use crate::problem::{Problem, Severity};
pub(crate) use yaml::Parsed;

/// The stack of a thread that reads manifests. A document may be nested 64 deep, as those of custom
/// resources nearly are; finding the lines of its fields takes up to 50 KiB a level in a build that
/// is not optimised. The kernel gives out only what is used.
pub const STACK_BYTES: usize = 8 << 20;

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
    let Content { mut decoded, flaws, untold, .. } =
        read(bytes, format, interner, MAX_PROBLEMS, |_| ());
    decoded.problems = flaws.into_iter().map(|flaw| flaw.problem(path)).collect();
    if untold > 0 {
        // Among them may be any.
        let more = Problem::of_file(path, Severity::Warning, counted(untold, "more problem"));
        decoded.problems.push(Problem { skips: true, ..more });
    }
    decoded
}

/// The content of a file.
pub(crate) struct Content<T> {
    /// What it means, without its problems.
    pub(crate) decoded: Decoded,
    /// What is wrong with it, in the order of the file.
    pub(crate) flaws: Vec<Flaw>,
    /// The number of flaws that were not kept, because there were too many.
    pub(crate) untold: usize,
    /// What the caller has kept of each document.
    pub(crate) documents: Vec<T>,
    /// Where each object is: the index of the document, and the path in it.
    pub(crate) roots: Vec<(usize, Vec<PathStep>)>,
}

/// Reads the content of a file, with at most so many flaws. `keep` says what to keep of each
/// document.
pub(crate) fn read<T>(
    bytes: &[u8],
    format: Format,
    interner: &mut Interner,
    most: usize,
    keep: impl Fn(&Parsed<'_>) -> T,
) -> Content<T> {
    let mut decoded = Decoded::default();
    let (mut flaws, mut documents, mut roots) = (Vec::new(), Vec::new(), Vec::new());
    let text = match text_of(bytes) {
        Ok(text) => text,
        Err((line, message)) => {
            flaws.push(Flaw::of_syntax(Some(Place { line, column: None }), message));
            decoded.unreadable = true;
            return Content { decoded, flaws, untold: 0, documents, roots };
        }
    };
    let mut sink = Sink { most, ..Sink::new(interner, false) };
    for document in match format {
        Format::Yaml => yaml::documents(text),
        Format::Json => json::documents(text),
    } {
        match document {
            Ok(document) => {
                // A lone word or a list is the rest of a file that was cut off.
                decoded.unreadable |= matches!(document.field, Field::Wrong(_));
                documents.push(keep(&document));
                decode_document(document.field, &mut sink);
                let index = documents.len() - 1;
                roots.extend(sink.roots.drain(..).map(|steps| (index, steps)));
                let steps = sink.findings.iter().map(|finding| &*finding.steps);
                let places = locate::locate(document.text, document.line, steps);
                for (finding, place) in sink.findings.drain(..).zip(places) {
                    flaws.push(Flaw { place: Some(place), ..finding.flaw });
                }
            }
            Err(fault) => {
                decoded.unreadable = true;
                if sink.has_room() {
                    let place = fault.line.map(|line| Place { line, column: fault.column });
                    flaws.push(Flaw::of_syntax(place, fault.message));
                }
            }
        }
    }
    decoded.blank = !sink.kinds;
    decoded.ours = sink.ours;
    decoded.lacking = sink.lacking || sink.nameless || !sink.broken.is_empty();
    decoded.objects = sink.objects;
    decoded.broken = sink.broken;
    decoded.nameless = sink.nameless;
    Content { decoded, flaws, untold: sink.untold, documents, roots }
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
