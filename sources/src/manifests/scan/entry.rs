//! One file: its content now, and its last good content.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rulec_compiler::object::{Object, ObjectKey};

use super::ahead::Ahead;
use super::saved::SavedFile;
use super::{BLANK, EMPTY, MAX_UNREST};
use crate::decode::Decoded;
use crate::decode::intern::Interner;
use crate::manifests::file::{self, Content, LARGEST, Stamp};
use crate::manifests::text::{Format, decode};
use crate::manifests::writers::Writers;
use crate::problem::{Problem, Severity};

/// The state of a file. Its bytes are not kept, only their hash.
#[derive(Debug)]
pub(super) struct FileEntry {
    name: OsString,
    path: Arc<str>,
    format: Format,
    /// The stamp of the content that has this `hash`, if the file was read without trouble.
    stamp: Option<Stamp>,
    hash: Option<blake3::Hash>,
    objects: BTreeMap<ObjectKey, Object>,
    /// The problems of the content.
    faults: Vec<Problem>,
    /// Why the content could not be read.
    obstacle: Option<Problem>,
    link: bool,
    /// Whether it has ever been read completely, also by an earlier run.
    read: bool,
    /// The hash of the content that the objects come from.
    good: Option<blake3::Hash>,
    /// Whether the objects come from an earlier run and have not been delivered yet.
    left: bool,
    /// Whether a part of it could not be read for the first list, and has not been read since.
    unread: bool,
    /// Since when its last write has always been too recent to read it.
    restless: Option<SystemTime>,
    /// Whether nothing in it is of a kind that is read, and it does not say so in a comment.
    is_alien: bool,
}

/// What is wrong with a text that may be anything: values, or a server's own message.
const ALIEN: &str = "has no object of a kind that is read, and is no empty List";

/// The environment in which a file is read.
pub(super) struct Context<'a> {
    pub(super) interner: &'a mut Interner,
    /// When the look began.
    pub(super) now: SystemTime,
    /// How old the last write must be for the file to be read as it is, if that matters.
    pub(super) fresh: Option<Duration>,
    /// Whether no complete list has been delivered yet.
    pub(super) is_first: bool,
    /// What has been decoded ahead.
    pub(super) ahead: &'a mut Ahead,
    pub(super) writers: &'a Writers,
    /// Whether an error anywhere in the file, or a part that is left out, refuses all of it.
    pub(super) is_whole: bool,
}

/// The result of reading a file.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Whether there is a file at all.
    pub(super) exists: bool,
    /// Whether nothing has its name. What was read of it stays until a listing shows that the file
    /// is gone, and not its directory.
    pub(super) absent: bool,
    pub(super) gone: Vec<ObjectKey>,
    pub(super) new: Vec<ObjectKey>,
    pub(super) changed: Vec<ObjectKey>,
    pub(super) suppressed: u64,
    /// Whether the file may be being written to, and is not taken as it is yet.
    pub(super) unsettled: bool,
    /// Whether the file is known to be written to, and is not taken as it is before its writer is
    /// done.
    pub(super) written: bool,
}

impl News {
    /// Returns the result for a file that exists and has not changed.
    fn none() -> Self {
        Self { exists: true, ..Self::default() }
    }

    /// Returns the result for a file that is not taken as it is yet.
    fn waiting() -> Self {
        Self { unsettled: true, ..Self::none() }
    }
}

impl FileEntry {
    /// Creates the entry of a file that has not been read. `path` is its name for people.
    pub(super) fn new(name: &OsStr, path: Arc<str>) -> Self {
        Self {
            name: name.to_owned(),
            path,
            format: format_of(name),
            stamp: None,
            hash: None,
            objects: BTreeMap::new(),
            faults: Vec::new(),
            obstacle: None,
            link: false,
            read: false,
            good: None,
            left: false,
            unread: false,
            restless: None,
            is_alien: false,
        }
    }

    /// Creates the entry of a file that an earlier run has read.
    pub(super) fn left(saved: &SavedFile, path: Arc<str>) -> Self {
        let objects = saved.objects.iter().map(|object| (object.key(), object.clone())).collect();
        let good = blake3::Hash::from_hex(&saved.hash).ok();
        Self { objects, good, read: true, left: true, ..Self::new(OsStr::new(&saved.name), path) }
    }

    /// Returns its last good content for the next start. Files whose names are not valid UTF-8 are
    /// not saved.
    pub(super) fn saved(&self) -> Option<SavedFile> {
        let name = self.name.to_str()?.to_owned();
        let hash = self.good?.to_hex().to_string();
        Some(SavedFile { name, hash, objects: self.objects.values().cloned().collect() })
    }

    /// Returns its name, if that is valid UTF-8.
    pub(super) fn path_text(&self) -> Option<&str> {
        self.name.to_str()
    }

    /// Returns whether this is its last good content.
    pub(super) fn is_saved_as(&self, saved: Option<&SavedFile>) -> bool {
        match (saved, self.good) {
            (None, None) => true,
            (Some(saved), Some(good)) => {
                // Another version of the program may have decoded the same bytes differently.
                blake3::Hash::from_hex(&saved.hash).is_ok_and(|hash| hash == good)
                    && self.objects.values().eq(&saved.objects)
            }
            (None, Some(_)) | (Some(_), None) => false,
        }
    }

    /// Returns whether objects of it may be missing: it could not be read, and has no last good
    /// content.
    pub(super) fn is_unread(&self) -> bool {
        self.unread
    }

    /// Returns its path relative to the manifest directory; with its root if there are several.
    pub(super) fn path(&self) -> &Arc<str> {
        &self.path
    }

    pub(super) fn stamp(&self) -> Option<Stamp> {
        self.stamp
    }

    pub(super) fn is_link(&self) -> bool {
        self.link
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    pub(super) fn object(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key)
    }

    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> + Clone {
        self.obstacle.iter().chain(&self.faults)
    }

    /// Reads the file again.
    pub(super) fn load(&mut self, path: &Path, context: &mut Context<'_>) -> News {
        let link = std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
        self.link = link;
        self.obstacle = None;
        let content = file::read(path);
        if !matches!(content, Ok(Content::Bytes { .. })) {
            self.stamp = None;
            self.restless = None;
        }
        match content {
            Ok(Content::Bytes { bytes, before, after }) => {
                // `before` is the stamp to keep, so that a write during the read is noticed at the
                // next look; `after` is used for the age, since it includes that write.
                self.take(&bytes, before, after, context)
            }
            Ok(Content::Missing) if link => self.keep("a dangling symbolic link", context),
            Ok(Content::Missing) => News { absent: true, ..News::none() },
            Ok(Content::Directory) => News { exists: false, ..self.forget() },
            Ok(Content::Special) => {
                let reason = "not a regular file; pipes, sockets and devices are not read";
                let news = self.keep(reason, context);
                // No object is missing: such a file never had objects.
                self.unread = false;
                news
            }
            Ok(Content::TooLarge) => {
                self.keep(&format!("larger than {} MiB", LARGEST >> 20), context)
            }
            Err(error) => self.keep(&format!("cannot be read: {error}"), context),
        }
    }

    fn problem(&self, severity: Severity, message: &str) -> Problem {
        Problem::of_file(&self.path, severity, message)
    }

    /// Keeps the last good content.
    fn keep(&mut self, reason: &str, context: &Context<'_>) -> News {
        self.miss(context);
        let kept = if self.read { "; its last good content stays" } else { "" };
        self.obstacle = Some(self.problem(Severity::Error, &format!("{reason}{kept}")));
        News::none()
    }

    /// Delays taking the content as it is. Returns whether there is still time for that.
    fn wait(&mut self, now: SystemTime) -> bool {
        let since = *self.restless.get_or_insert(now);
        // A clock that was set back must not extend the wait.
        let is_early = now.duration_since(since).is_ok_and(|waited| waited < MAX_UNREST);
        if is_early {
            self.stamp = None;
        }
        is_early
    }

    /// Drops the content, since there is none any more.
    fn forget(&mut self) -> News {
        self.hash = None;
        self.good = None;
        self.faults.clear();
        let gone = std::mem::take(&mut self.objects).into_keys().collect();
        News { exists: true, gone, ..News::none() }
    }

    fn take(
        &mut self,
        bytes: &[u8],
        stamp: Stamp,
        latest: Stamp,
        context: &mut Context<'_>,
    ) -> News {
        // This is checked after reading: a writer that comes only now has not changed what was
        // read. Nothing of the content is used, not even what it adds: a list that is cut off is
        // still a valid list.
        if context.writers.has(&self.name) {
            self.stamp = None;
            return News { exists: true, written: true, ..News::none() };
        }
        let hash = blake3::hash(bytes);
        if self.hash == Some(hash) {
            self.stamp = Some(stamp);
            self.restless = None;
            return News::none();
        }
        let is_fresh = context.fresh.is_some_and(|fresh| latest.is_younger(fresh, context.now));
        if is_fresh && self.wait(context.now) {
            return News::waiting();
        }
        // A full disk or an editor that crashed leaves an empty file; a user who wants no objects
        // writes a comment.
        if bytes.is_empty() {
            // A new file that has never had a byte is probably being written to.
            let is_new = !self.read && !context.is_first;
            if is_new && latest.is_younger(EMPTY, context.now) {
                self.stamp = None;
                return News::waiting();
            }
            let is_young = context.fresh.is_some() && latest.is_younger(BLANK, context.now);
            if is_young && self.wait(context.now) {
                return News::waiting();
            }
            self.restless = None;
            self.stamp = Some(stamp);
            return self.keep("is empty (0 bytes)", context);
        }
        let mut decoded = context
            .ahead
            .take(&self.name, hash)
            .unwrap_or_else(|| decode(&self.path, bytes, self.format, context.interner));
        self.is_alien = !decoded.ours && !is_comment(bytes);
        let emptied = decoded.blank && !decoded.unreadable && !self.objects.is_empty();
        // The event about its writer may be under way for longer on a busy machine.
        let is_cut_off = decoded.unreadable && context.fresh.is_some();
        let is_suspect = emptied || is_cut_off;
        if is_suspect && latest.is_younger(BLANK, context.now) && self.wait(context.now) {
            return News::waiting();
        }
        self.restless = None;
        self.stamp = Some(stamp);
        if context.is_whole && !decoded.unreadable {
            self.demand_all(&mut decoded);
        }
        if decoded.unreadable {
            self.miss(context);
        }
        self.settle(decoded, hash, context.is_first)
    }

    /// Refuses content of which a part cannot be used.
    fn demand_all(&self, decoded: &mut Decoded) {
        if self.is_alien {
            decoded.problems.push(self.problem(Severity::Error, ALIEN));
        }
        // Only the first problems are kept, so that none of them may be an error.
        if decoded.lacking || self.is_alien {
            decoded.unreadable = true;
            let is_error = decoded.problems.iter().any(|it| it.severity == Severity::Error);
            let why = if is_error { "of an error" } else { "a part of it would be left out" };
            let kept = if self.read { "; its last good content stays" } else { "" };
            let message = format!("nothing of it is used, because {why}{kept}");
            decoded.problems.push(self.problem(Severity::Error, &message));
        }
    }

    /// Returns what is wrong if it is read for itself, and there is nothing in it that is read: as
    /// for what a URL answers.
    pub(super) fn emptiness(&self) -> Option<Problem> {
        let is_told = self.problems().any(|it| it.severity == Severity::Error);
        (self.is_alien && !is_told).then(|| self.problem(Severity::Error, ALIEN))
    }

    /// Takes content that has come whole, as that of a URL: no one writes to it any more.
    pub(super) fn receive(
        &mut self,
        bytes: &[u8],
        is_first: bool,
        interner: &mut Interner,
    ) -> News {
        let hash = blake3::hash(bytes);
        if self.hash == Some(hash) {
            return News::none();
        }
        // As in Kubernetes: a name says little about what a server answers.
        let is_json = bytes.trim_ascii_start().starts_with(b"{");
        let format = if is_json { Format::Json } else { Format::Yaml };
        let mut decoded = decode(&self.path, bytes, format, interner);
        // A server's own message, such as `{"error": "..."}` or a Status, is well-formed, too, and
        // so is `null`. Who wants no objects writes an empty List, or a comment.
        if !decoded.unreadable && !decoded.ours && !is_comment(bytes) {
            decoded.unreadable = true;
            // That a document has no kind is only a warning.
            if !decoded.problems.iter().any(|it| it.severity == Severity::Error) {
                decoded.problems.push(self.problem(Severity::Error, ALIEN));
            }
        }
        self.settle(decoded, hash, is_first)
    }

    /// Returns whether its content is no manifest, so that it has its last good content.
    pub(super) fn is_garbled(&self) -> bool {
        self.hash.is_some() && self.hash != self.good
    }

    /// Takes content as it is.
    fn settle(&mut self, decoded: Decoded, hash: blake3::Hash, is_first: bool) -> News {
        self.hash = Some(hash);
        if decoded.unreadable {
            self.faults = decoded.problems;
            return News::none();
        }
        self.good = Some(hash);
        self.replace(decoded, is_first)
    }

    /// Notes that a part of it could not be read.
    fn miss(&mut self, context: &Context<'_>) {
        self.unread |= context.is_first && !self.read;
    }

    /// Takes over the objects of a well-formed file, and keeps the old version of those that are
    /// invalid.
    fn replace(&mut self, decoded: Decoded, is_first: bool) -> News {
        let mut news = News::none();
        self.faults = decoded.problems;
        let mut old = std::mem::take(&mut self.objects);
        for object in decoded.objects {
            let key = object.key();
            if self.objects.insert(key.clone(), object).is_some() {
                let message = "defined more than once in this file; the last one is used";
                let object = Some(key.to_string());
                self.faults.push(Problem { object, ..self.problem(Severity::Warning, message) });
            }
        }
        for (key, object) in &mut self.objects {
            match old.remove(key) {
                None => news.new.push(key.clone()),
                Some(before) if before == *object => {
                    // The receiver shares the old copy, so keeping the new one wastes memory.
                    // Objects of an earlier run have not been delivered, and share nothing.
                    if !self.left {
                        *object = before;
                        news.suppressed += 1;
                    }
                }
                Some(_) => news.changed.push(key.clone()),
            }
        }
        for (key, object) in old {
            // An object whose name cannot be read may be any of those that are missing now.
            if decoded.nameless || decoded.broken.contains(&key) {
                self.objects.insert(key, object);
            } else {
                news.gone.push(key);
            }
        }
        let is_missing = |key| !self.objects.contains_key(key);
        let misses = (decoded.nameless && !self.read) || decoded.broken.iter().any(is_missing);
        self.unread = misses && (self.unread || is_first);
        self.read = true;
        self.left = false;
        news
    }
}

/// Returns the syntax of a file of this name.
pub(super) fn format_of(name: &OsStr) -> Format {
    let extension = Path::new(name).extension();
    let is_json = extension.is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    if is_json { Format::Json } else { Format::Yaml }
}

/// Returns whether a text says, in a comment, that it has nothing.
fn is_comment(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let is_nothing = |line: &str| matches!(line, "" | "---" | "...") || line.starts_with('#');
    text.contains('#') && lines.all(is_nothing)
}
