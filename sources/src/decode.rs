//! From bytes to objects: what a file says, whatever it says.
//!
//! ```text
//!  bytes ─▶ yaml | json ─▶ Document ─▶ kind ─▶ service | slice | pod | node ─▶ Object
//!                                        └ lists: each item                    or findings
//! ```
//!
//! Nothing here knows of other files or of earlier content: [`Decoded`] says what is broken, and
//! the scan decides what to keep instead.

mod at;
mod check;
mod endpoints;
mod identity;
mod ipvs;
mod kind;
mod near;
mod node;
mod pod;
mod service;
mod service_cidr;
mod slice;
mod surplus;
mod unknown;

use std::collections::BTreeSet;
use std::sync::Arc;

use rulec_compiler::object::{Object, ObjectKey};

pub(crate) use at::{At, Step};
use kind::{decode_document, decode_object};
pub(crate) use unknown::{Unknown, note};

use crate::field::Field;
use crate::intern::Interner;
use crate::manifest::Document;
use crate::problem::{Problem, Severity};
use crate::{json, locate, yaml};

/// More problems than anyone reads. A file of garbage must not fill the memory with complaints.
const MOST_PROBLEMS: usize = 100;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// The objects, in the order of the file; the last one of a key counts.
    pub(crate) objects: Vec<Object>,
    /// Objects that are there but cannot be used as they are.
    pub(crate) broken: BTreeSet<ObjectKey>,
    /// Whether there is an object that cannot be used and does not say which one it is.
    pub(crate) nameless: bool,
    /// In the order of the file.
    pub(crate) problems: Vec<Problem>,
    /// Whether the text as a whole is not YAML or JSON; then nothing else of it counts.
    pub(crate) unreadable: bool,
    /// Whether nothing in it says that it is an object: it may be a file that is being rewritten.
    pub(crate) blank: bool,
}

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Yaml,
    Json,
}

/// What a document made of itself, gathered over a file.
pub(crate) struct Sink<'a> {
    pub(crate) interner: &'a mut Interner,
    /// Whether an API server has checked what comes, and given out what is to be unique.
    pub(crate) is_admitted: bool,
    pub(crate) objects: Vec<Object>,
    pub(crate) broken: BTreeSet<ObjectKey>,
    pub(crate) nameless: bool,
    pub(crate) findings: Vec<Finding>,
    /// Findings that were not kept, because there were too many.
    pub(crate) untold: usize,
    /// Whether any document has a kind.
    pub(crate) kinds: bool,
}

impl<'a> Sink<'a> {
    fn new(interner: &'a mut Interner, is_admitted: bool) -> Self {
        Self {
            interner,
            is_admitted,
            objects: Vec::new(),
            broken: BTreeSet::new(),
            nameless: false,
            findings: Vec::new(),
            untold: 0,
            kinds: false,
        }
    }

    pub(crate) fn tell(&mut self, finding: Finding) {
        if self.findings.len() < MOST_PROBLEMS {
            self.findings.push(finding);
        } else {
            self.untold += 1;
        }
    }
}

/// Something wrong in a document, before it is known in which line.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) object: Option<Arc<str>>,
    /// From the root of the document.
    pub(crate) steps: Vec<Step>,
    pub(crate) message: String,
}

/// Reads the content of a file.
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
                // A lone word or a list is what is left of a file that was cut off.
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
                if decoded.problems.len() < MOST_PROBLEMS {
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
        let message = format!("{} more problems", sink.untold);
        decoded.problems.push(Problem::of_file(path, Severity::Warning, message));
    }
    decoded.blank = !sink.kinds;
    decoded.objects = sink.objects;
    decoded.broken = sink.broken;
    decoded.nameless = sink.nameless;
    decoded
}

/// Reads an object of an API server, which has no lines. Version and kind count where
/// the object does not state its own.
pub(crate) fn decode_known(
    place: &Arc<str>,
    document: &Document,
    stated: (&'static str, &'static str),
    interner: &mut Interner,
) -> Decoded {
    let mut sink = Sink::new(interner, true);
    decode_object(document, &At::ROOT, Some(stated), &mut sink);
    let problems = sink.findings.into_iter().map(|finding| Problem {
        path: place.clone(),
        line: None,
        column: None,
        severity: finding.severity,
        object: finding.object.as_deref().map(Into::into),
        message: finding.message,
    });
    Decoded {
        problems: problems.collect(),
        objects: sink.objects,
        broken: sink.broken,
        nameless: sink.nameless,
        unreadable: false,
        blank: !sink.kinds,
    }
}

/// The text of a file, without a byte order mark; else the line and the reason why it is none.
fn text_of(bytes: &[u8]) -> Result<&str, (u64, &'static str)> {
    let line_at = |offset: usize| line_of(bytes.get(..offset).unwrap_or(bytes));
    let text = std::str::from_utf8(bytes)
        .map_err(|error| (line_at(error.valid_up_to()), "the file is not valid UTF-8"))?;
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        return Err((line_at(offset), "the file holds a NUL byte: it is not a text"));
    }
    Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
}

/// The number of the line that follows these bytes, from 1.
pub(crate) fn line_of(before: &[u8]) -> u64 {
    1 + before.iter().filter(|byte| **byte == b'\n').count() as u64
}
