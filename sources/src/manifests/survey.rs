//! Manifests with the place of each value, for tools that point at what is wrong.
//!
//! The same files are read as by [`ManifestRoots`](crate::ManifestRoots), but each is read by
//! itself: what several of them define is there several times, and nothing is limited to the first
//! findings. What a user may expect to be read, and what is not, is named.

mod reader;

use std::path::PathBuf;
use std::sync::Arc;

use rulec_compiler::object::Object;
use serde_saphyr::Spanned;

use super::node::Node;
use super::text::tree::Tree;
use crate::decode::at::PathStep;
use crate::flaw::Flaw;
use reader::Reader;

/// Everything that paths lead to.
#[derive(Debug, Default)]
pub struct Survey {
    /// The files that were read, in the order in which they count: of several definitions of an
    /// object, the last one is used.
    pub manifests: Vec<Manifest>,
    /// What could not be read.
    pub unread: Vec<Unread>,
    /// What is not read on purpose, although a user may expect it.
    pub passed_over: Vec<PassedOver>,
}

impl Survey {
    /// Reads paths: directories, files, and `-` for the standard input.
    pub fn of(paths: &[PathBuf]) -> Self {
        Reader::new(paths).read()
    }
}

/// A file.
#[derive(Debug)]
pub struct Manifest {
    /// Its path, beginning with the one that was asked for.
    pub path: Arc<str>,
    /// The objects, in the order of the file.
    pub objects: Vec<Object>,
    /// What is wrong with it by itself.
    pub flaws: Vec<Flaw>,
    /// Whether every part of it could be read, so that no object is missing.
    pub is_whole: bool,
    documents: Vec<Outline>,
    /// Where each object is: the index of its document, and the path in it.
    roots: Vec<(usize, Vec<PathStep>)>,
}

/// A document with its positions, if it can be read with them: JSON is read as YAML here, which
/// works for nearly all JSON.
#[derive(Debug)]
struct Outline {
    tree: Option<Spanned<Tree>>,
    first: u64,
}

/// Something that could not be read.
#[derive(Debug)]
pub struct Unread {
    /// Its path.
    pub path: Arc<str>,
    /// Why.
    pub message: String,
}

/// Something that is not read on purpose.
#[derive(Debug)]
pub struct PassedOver {
    /// Its path.
    pub path: Arc<str>,
    /// Why.
    pub reason: Reason,
}

/// Why something is not read.
#[derive(Debug)]
pub enum Reason {
    /// It is a directory in a directory, and this manifest is in it.
    Directory(Arc<str>),
    /// It is a directory in which nothing can be read, and nothing else is named.
    Empty,
    /// Files in the directory do not have names of manifests. The message names a few.
    Names(String),
    /// It belongs to a tool that makes manifests: this one.
    Tool(&'static str),
}

impl Manifest {
    /// Returns the roots of the documents whose positions are known, in the order of the file.
    pub fn documents(&self) -> impl Iterator<Item = Node<'_>> {
        self.documents.iter().filter_map(Outline::root)
    }

    /// Returns each object with its root in the file, if that is known.
    pub fn located(&self) -> impl Iterator<Item = (&Object, Option<Node<'_>>)> {
        let root = |(document, steps): &(usize, Vec<PathStep>)| {
            self.documents.get(*document)?.root()?.follow(steps)
        };
        self.objects.iter().zip(self.roots.iter().map(root))
    }
}

impl Outline {
    fn root(&self) -> Option<Node<'_>> {
        Some(Node::root(self.tree.as_ref()?, self.first))
    }
}
