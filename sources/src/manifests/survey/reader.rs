//! Reads what paths lead to.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf, absolute};
use std::sync::Arc;

use super::{Manifest, Outline, PassedOver, Reason, Survey, Unread};
use crate::decode::intern::Interner;
use crate::flaw::Flaw;
use crate::manifests::file::{self, LARGEST};
use crate::manifests::scan::listing::Listing;
use crate::manifests::text::{Content, Format, Parsed, read, tree};
use crate::problem::Severity;

/// The deepest directory in which manifests are looked for that are not read.
const DEEPEST: usize = 16;

/// What is said of a file that could be read, and in which there is nothing.
const HOLLOW: &str = "has no document: there is nothing in it but blank lines, comments or ---";

/// See the module's documentation.
pub(super) struct Reader<'a> {
    paths: &'a [PathBuf],
    /// The same, as absolute paths.
    full: BTreeSet<PathBuf>,
    survey: Survey,
    interner: Interner,
}

impl<'a> Reader<'a> {
    pub(super) fn new(paths: &'a [PathBuf]) -> Self {
        let full = paths.iter().map(|path| full(path)).collect();
        Self { paths, full, survey: Survey::default(), interner: Interner::default() }
    }

    pub(super) fn read(mut self) -> Survey {
        for path in self.paths {
            if path.as_os_str() == "-" {
                self.read_standard_input();
            } else if path.is_dir() {
                self.read_directory(path);
            } else if let Some(tool) = path.file_name().and_then(tool_of) {
                self.pass_over(path, Reason::Tool(tool));
            } else {
                self.read_file(path);
            }
        }
        self.survey
    }

    fn read_directory(&mut self, directory: &Path) {
        let listing = match Listing::of(directory) {
            Ok(listing) => listing,
            Err(error) => return self.miss(directory, format!("cannot be listed: {error}")),
        };
        let before = self.count();
        for name in listing.kustomizations.iter().chain(&listing.names) {
            let path = directory.join(name);
            match tool_of(name) {
                Some(tool) => self.pass_over(&path, Reason::Tool(tool)),
                None => self.read_file(&path),
            }
        }
        for (name, error) in &listing.astray {
            self.miss(&directory.join(name), format!("a link that cannot be followed: {error}"));
        }
        for name in &listing.directories {
            self.pass_over_directory(&directory.join(name));
        }
        if self.count() == before {
            self.pass_over(directory, Reason::Empty);
        }
        if let Some(message) = listing.what_is_left_out() {
            self.pass_over(directory, Reason::Names(message));
        }
    }

    fn read_file(&mut self, path: &Path) {
        let message = match file::read(path) {
            Ok(file::Content::Bytes { bytes, .. }) => {
                let extension = path.extension();
                let is_json = extension.is_some_and(|it| it.eq_ignore_ascii_case("json"));
                let format = if is_json { Format::Json } else { Format::Yaml };
                return self.take(name_of(path), &bytes, format);
            }
            Ok(file::Content::Missing) if path.is_symlink() => "a dangling symbolic link".into(),
            Ok(file::Content::Missing) => "there is no such file or directory".into(),
            Ok(file::Content::Directory) => "a directory now".into(),
            Ok(file::Content::Special) => {
                "not a regular file; pipes, sockets and devices are not read".into()
            }
            Ok(file::Content::TooLarge) => format!("larger than {} MiB", LARGEST >> 20),
            Err(error) => format!("cannot be read: {error}"),
        };
        self.miss(path, message);
    }

    fn read_standard_input(&mut self) {
        let path = Path::new("-");
        let mut bytes = Vec::new();
        match std::io::stdin().lock().take(LARGEST + 1).read_to_end(&mut bytes) {
            Err(error) => self.miss(path, format!("cannot be read: {error}")),
            Ok(_) if bytes.len() as u64 > LARGEST => {
                self.miss(path, format!("larger than {} MiB", LARGEST >> 20));
            }
            Ok(_) => {
                let first = bytes.iter().find(|byte| !byte.is_ascii_whitespace());
                let format = if first == Some(&b'{') { Format::Json } else { Format::Yaml };
                self.take("-".into(), &bytes, format);
            }
        }
    }

    fn take(&mut self, path: Arc<str>, bytes: &[u8], format: Format) {
        let outline = |document: &Parsed<'_>| Outline {
            tree: tree::read(document.text),
            first: document.line,
        };
        let Content { decoded, mut flaws, documents, roots, .. } =
            read(bytes, format, &mut self.interner, usize::MAX, outline);
        if bytes.is_empty() {
            flaws.push(Flaw::of_syntax(None, "is empty (0 bytes)"));
        } else if decoded.blank && flaws.is_empty() {
            // Whoever wants no objects writes a comment; whoever checks a file expects some.
            let severity = Severity::Warning;
            flaws.push(Flaw { severity, ..Flaw::of_syntax(None, HOLLOW) });
        }
        let is_whole = !decoded.unreadable && !bytes.is_empty();
        let objects = decoded.objects;
        self.survey.manifests.push(Manifest { path, objects, flaws, is_whole, documents, roots });
    }

    /// Counts everything that was found.
    fn count(&self) -> usize {
        let Survey { manifests, unread, passed_over } = &self.survey;
        manifests.len() + unread.len() + passed_over.len()
    }

    fn miss(&mut self, path: &Path, message: String) {
        self.survey.unread.push(Unread { path: name_of(path), message });
    }

    fn pass_over(&mut self, path: &Path, reason: Reason) {
        self.survey.passed_over.push(PassedOver { path: name_of(path), reason });
    }

    fn pass_over_directory(&mut self, path: &Path) {
        if let Some(first) = self.first_unread(path, DEEPEST) {
            self.pass_over(path, Reason::Directory(name_of(&first)));
        }
    }

    /// Looks for a manifest that is not read, in a directory and in those below it, without following
    /// links. A directory that cannot be listed has none: it would not be read either.
    fn first_unread(&self, directory: &Path, depth: usize) -> Option<PathBuf> {
        // A directory that was asked for speaks for those in it.
        if self.full.contains(&full(directory)) {
            return None;
        }
        let listing = Listing::of(directory).ok()?;
        let files = listing.kustomizations.iter().chain(&listing.names);
        let paths = files.map(|name| directory.join(name));
        let unread = { paths }.find(|path| !self.full.contains(&full(path)));
        let depth = depth.checked_sub(1);
        unread.or_else(|| {
            let mut below = listing.directories.iter().map(|name| directory.join(name));
            below.find_map(|directory| self.first_unread(&directory, depth?))
        })
    }
}

/// Returns a path by which two that are the same can be told.
fn full(path: &Path) -> PathBuf {
    absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns the path for people: without `./` in front.
fn name_of(path: &Path) -> Arc<str> {
    let short = path.strip_prefix(".").ok().filter(|rest| !rest.as_os_str().is_empty());
    short.unwrap_or(path).to_string_lossy().into()
}

/// Returns the tool that makes manifests from a file of this name.
fn tool_of(name: &OsStr) -> Option<&'static str> {
    match name.to_str()? {
        "kustomization.yaml" | "kustomization.yml" | "Kustomization" => Some("kustomize build"),
        "Chart.yaml" => Some("helm template"),
        _ => None,
    }
}
