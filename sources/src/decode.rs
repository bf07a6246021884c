//! Decodes the bytes of a file into objects.
//!
//! ```text
//!  bytes ─▶ yaml | json ─▶ Document ─▶ kind ─▶ service | slice | pod | node ─▶ Object
//!                                        └ lists: each item                    or findings
//! ```
//!
//! This module does not know other files or earlier content: [`Decoded`] says what is broken, and
//! the scan decides what to keep instead.

mod check;
mod endpoints;
mod identity;
mod ipvs;
mod kind;
mod near;
mod node;
mod outcome;
mod pod;
mod service;
mod service_cidr;
mod slice;
mod surplus;
mod unknown;

use std::collections::BTreeSet;
use std::sync::Arc;

use rulec_compiler::object::{Object, ObjectKey};
use rulec_compiler::plural::counted;

use kind::{decode_document, decode_object};

use crate::at::{At, Step};
use crate::field::Field;
use crate::intern::Interner;
use crate::manifest::Document;
use crate::problem::{Problem, Severity};
use crate::{json, locate, yaml};

/// The most problems that are kept of a file, so that a file of garbage does not fill the memory.
const MAX_PROBLEMS: usize = 100;

/// The result of decoding a file.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// The objects, in the order of the file; of several with one key, the last one is used.
    pub(crate) objects: Vec<Object>,
    /// Objects that exist but cannot be used as they are written.
    pub(crate) broken: BTreeSet<ObjectKey>,
    /// Whether there is an invalid object whose name cannot be read.
    pub(crate) nameless: bool,
    /// The problems, in the order of the file.
    pub(crate) problems: Vec<Problem>,
    /// Whether the text is not valid YAML or JSON. Nothing else of it is used then.
    pub(crate) unreadable: bool,
    /// Whether no document has a kind: the file may be being rewritten.
    pub(crate) blank: bool,
}

/// The syntax of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Yaml,
    Json,
}

/// Collects the results of all documents of a file.
pub(crate) struct Sink<'a> {
    pub(crate) interner: &'a mut Interner,
    /// Whether the objects come from an API server, which has validated them and allocated unique
    /// values.
    pub(crate) is_admitted: bool,
    pub(crate) objects: Vec<Object>,
    pub(crate) broken: BTreeSet<ObjectKey>,
    pub(crate) nameless: bool,
    pub(crate) findings: Vec<Finding>,
    /// The number of findings that were not kept, because there were too many.
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
        if self.findings.len() < MAX_PROBLEMS {
            self.findings.push(finding);
        } else {
            self.untold += 1;
        }
    }
}

/// A problem in a document, before its line is known.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) severity: Severity,
    pub(crate) object: Option<Arc<str>>,
    /// The path of the field, from the root of the document.
    pub(crate) steps: Vec<Step>,
    pub(crate) message: String,
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

/// Decodes an object of an API server, which has no lines. `stated` gives version and kind of an
/// object that does not state them itself.
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
