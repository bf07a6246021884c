//! Decodes documents into objects, for the API server and manifests alike.
//!
//! ```text
//!  bytes ─▶ Document ─▶ kind ─▶ service | slice | pod | node ─▶ Object
//!           (fields)      └ lists: each item                    or findings
//! ```
//!
//! `document` has the fields as they are written, and the other modules what they mean. A caller
//! reads the [`Document`] from its bytes and knows where it is from. Nothing here knows other
//! documents or earlier content: [`Decoded`] says what is broken, and the caller decides what to
//! keep instead.

pub(crate) mod address;
pub(crate) mod at;
mod check;
pub(crate) mod document;
mod endpoints;
pub(crate) mod field;
mod identity;
pub(crate) mod intern;
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

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use rulec_compiler::object::{Object, ObjectKey};

use crate::problem::{Problem, Severity};
use at::{At, PathStep};
use document::Document;
use intern::Interner;
pub(crate) use kind::decode_document;
use kind::decode_object;

/// The most problems that are kept of a file, so that a file of garbage does not fill the memory.
pub(crate) const MAX_PROBLEMS: usize = 100;

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
    pub(crate) fn new(interner: &'a mut Interner, is_admitted: bool) -> Self {
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
    pub(crate) steps: Vec<PathStep>,
    pub(crate) message: String,
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
