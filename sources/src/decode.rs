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
mod annotations;
mod asks;
pub(crate) mod at;
pub(crate) mod balancing;
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

use crate::flaw::Flaw;
use crate::problem::{Problem, Severity};
use at::{At, PathStep};
use document::Document;
pub(crate) use identity::is_label;
use intern::Interner;
pub(crate) use kind::decode_document;
use kind::decode_object;
pub use near::nearest;

/// The most problems that are kept of a file, so that a file of garbage does not fill the memory.
pub(crate) const MAX_PROBLEMS: usize = 100;

/// The result of decoding a file.
#[derive(Clone, Debug, Default)]
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
    /// Whether any document is of a kind that is read, or a list.
    pub(crate) ours: bool,
    /// Whether anything that is written is left out: also because of a problem that is not kept.
    pub(crate) lacking: bool,
}

/// Collects the results of all documents of a file.
pub(crate) struct Sink<'a> {
    /// The most findings that are kept.
    pub(crate) most: usize,
    pub(crate) interner: &'a mut Interner,
    /// Whether the objects come from an API server, which has validated them and allocated unique
    /// values.
    pub(crate) is_admitted: bool,
    pub(crate) objects: Vec<Object>,
    /// The path of each object in its document: empty unless it is in a list.
    pub(crate) roots: Vec<Vec<PathStep>>,
    pub(crate) broken: BTreeSet<ObjectKey>,
    pub(crate) nameless: bool,
    pub(crate) findings: Vec<Finding>,
    /// The number of problems that were kept, also of those that were taken out since.
    pub(crate) told: usize,
    /// The number of problems that were not kept, because there were too many.
    pub(crate) untold: usize,
    /// Whether any document has a kind.
    pub(crate) kinds: bool,
    /// Whether any document is of a kind that is read, or a list.
    pub(crate) ours: bool,
    /// Whether anything that is written is left out: also because of a problem that is not kept.
    pub(crate) lacking: bool,
}

impl<'a> Sink<'a> {
    pub(crate) fn new(interner: &'a mut Interner, is_admitted: bool) -> Self {
        Self {
            most: MAX_PROBLEMS,
            interner,
            is_admitted,
            objects: Vec::new(),
            roots: Vec::new(),
            broken: BTreeSet::new(),
            nameless: false,
            findings: Vec::new(),
            told: 0,
            untold: 0,
            kinds: false,
            ours: false,
            lacking: false,
        }
    }

    pub(crate) fn tell(&mut self, finding: Finding) {
        self.lacking |= finding.flaw.skips || finding.flaw.severity == Severity::Error;
        if self.has_room() {
            self.findings.push(finding);
        }
    }

    /// Counts a problem, and returns whether it is kept.
    pub(crate) fn has_room(&mut self) -> bool {
        let has_room = self.told < self.most;
        *(if has_room { &mut self.told } else { &mut self.untold }) += 1;
        has_room
    }

    fn add(&mut self, object: Object, at: &At<'_>) {
        self.objects.push(object);
        self.roots.push(at.steps());
    }
}

/// A flaw of a document, before its place is known.
#[derive(Debug)]
pub(crate) struct Finding {
    /// The path of the field, from the root of the document.
    pub(crate) steps: Vec<PathStep>,
    pub(crate) flaw: Flaw,
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
    let problems = sink.findings.into_iter().map(|finding| finding.flaw.problem(place));
    Decoded {
        problems: problems.collect(),
        objects: sink.objects,
        broken: sink.broken,
        nameless: sink.nameless,
        unreadable: false,
        blank: !sink.kinds,
        ours: sink.ours,
        lacking: sink.lacking,
    }
}
